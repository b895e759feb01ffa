"""The isolated environment of the tests.

Settings of the user, a scheduler or a shell do not affect the tests. Only the places of programs
and temporary files are kept, and pytest's own variables. Importing this module sets it up.
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
    """Give this process, and all that it starts, the tests' own environment."""
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
    if fonts.is_dir():  # searching for fonts takes seconds
        shutil.copytree(fonts, Path(home, ".cache", "matplotlib"))
    return home


make_own()
