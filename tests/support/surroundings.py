"""The environment that tests run in: their own, wherever they are run.

Nothing that a user, a scheduler or a shell has set says how a test goes; only where programs and
temporary files are is kept, and what pytest tells its own processes. It is made when this is
imported.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

KEPT = (
    "PATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED", "PYTHONUTF8", "TMPDIR", "TEMP", "TMP", "USER", "LOGNAME", "SHELL",
)  # fmt: skip
KEPT_OF_TOOLS = ("PYTEST_", "COV_", "PLAYWRIGHT_")
HOME = "PYTEST_ALGOMATCH_HOME"  # the tests' home folder, for pytest's other processes


def make_own() -> None:
    """Make the environment of this process, and of all that it starts, the tests' own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name.startswith(KEPT_OF_TOOLS)
    }
    home = kept.get(HOME) or _new_home()
    os.environ.clear()
    os.environ.update(kept)
    os.environ.update({HOME: home, "HOME": home, "LANG": "C.UTF-8"})
    # One thread a process: processes run side by side, and threads that wait for each other cost
    # tenfold.
    os.environ["OMP_NUM_THREADS"] = "1"


def _new_home() -> str:
    home = tempfile.mkdtemp(prefix="algomatch-tests-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    fonts = Path(os.environ.get("HOME", "/nowhere"), ".cache", "matplotlib")
    if fonts.is_dir():  # to look for fonts takes seconds
        shutil.copytree(fonts, Path(home, ".cache", "matplotlib"))
    return home


make_own()
