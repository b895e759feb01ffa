"""What of this process's environment libraries see, and where they may keep their caches."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# By these a scheduler or launcher tells several processes of one training apart, and Lightning
# takes its trainer's settings from PL_. A training here is one process, set up by its config.
_LAUNCHERS = (
    "SLURM_", "OMPI_", "PMI_", "PMIX_", "MPI_", "MV2_", "LSB_", "JSM_", "TORCHELASTIC_",
    "KUBERNETES_", "PL_",
)  # fmt: skip
_RANKS = (
    "RANK", "LOCAL_RANK", "GLOBAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE",
    "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
# Where a library writes, by the variable that moves it: below the home folder unless that is set.
_WRITTEN = {
    "XDG_CACHE_HOME": ".cache",
    "XDG_DATA_HOME": ".local/share",
    "MPLCONFIGDIR": ".config/matplotlib",
}

_NOT_SHOWN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


@contextmanager
def hidden(is_hidden: Callable[[str], bool]) -> Iterator[None]:
    """Take variables out of the environment for a while; what is set meanwhile stays."""
    taken = {name: os.environ.pop(name) for name in [*os.environ] if is_hidden(name)}
    try:
        yield
    finally:
        for name, value in taken.items():
            os.environ.setdefault(name, value)


def is_of_a_launcher(name: str) -> bool:
    """Return whether a variable says which of several processes this is, or sets up a trainer."""
    return name in _RANKS or name.startswith(_LAUNCHERS)


def settle_warnings() -> None:
    """Warn of what Python warns of by itself: `PYTHONWARNINGS` is not said to this command."""
    if os.environ.pop("PYTHONWARNINGS", None):
        warnings.resetwarnings()
        for category in _NOT_SHOWN:
            warnings.simplefilter("ignore", category)


def settle_folders() -> None:
    """Let libraries keep caches in a folder of temporary files where the home folder takes none.

    Without `HOME` the home folder is that of the account. This process and those that it starts
    have it so.
    """
    home = os.environ.get("HOME") or _account_home()
    if home is not None:
        os.environ["HOME"] = home
    for variable, below in _WRITTEN.items():
        given = os.environ.get(variable)
        folder = Path(given) if given else Path(home, below) if home else None
        if folder is None or not _takes_files(folder):
            os.environ[variable] = str(_temporary() / variable.lower())
    if home is None:
        os.environ["HOME"] = str(_temporary())


def _account_home() -> str | None:
    """Return the home folder that the account has, if it is there."""
    with suppress(KeyError):  # the process's user need not have an account
        home = pwd.getpwuid(os.getuid()).pw_dir
        return home if Path(home).is_dir() else None
    return None


def _takes_files(folder: Path) -> bool:
    """Return whether a folder, made if it is not there, takes a new file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _temporary() -> Path:
    """Return this user's folder of caches among the temporary files; nobody else may write there.

    A new one each time where a folder of that name is someone else's.
    """
    folder = Path(tempfile.gettempdir()) / f"algomatch-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="algomatch-"))
