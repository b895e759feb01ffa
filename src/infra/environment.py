"""The environment variables that libraries see, and the folders of their caches."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# With these, schedulers and launchers number the processes of one training; Lightning reads trainer
# settings from PL_*. Training here is one process, and only its config counts.
_LAUNCHERS = (
    "SLURM_", "OMPI_", "PMI_", "PMIX_", "MPI_", "MV2_", "LSB_", "JSM_", "TORCHELASTIC_",
    "KUBERNETES_", "PL_",
)  # fmt: skip
_RANKS = (
    "RANK", "LOCAL_RANK", "GLOBAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE",
    "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
# Libraries' folders, by the variable that moves them; by default they are below the home folder.
_WRITTEN = {
    "XDG_CACHE_HOME": ".cache",
    "XDG_DATA_HOME": ".local/share",
    "MPLCONFIGDIR": ".config/matplotlib",
}

_NOT_SHOWN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


@contextmanager
def hidden(is_hidden: Callable[[str], bool]) -> Iterator[None]:
    """Hide variables of the environment within the context; variables set meanwhile stay."""
    taken = {name: os.environ.pop(name) for name in [*os.environ] if is_hidden(name)}
    try:
        yield
    finally:
        for name, value in taken.items():
            os.environ.setdefault(name, value)


def is_of_a_launcher(name: str) -> bool:
    """Return whether a variable numbers this process among several, or sets up a trainer."""
    return name in _RANKS or name.startswith(_LAUNCHERS)


def settle_warnings() -> None:
    """Restore Python's default warnings: `PYTHONWARNINGS` is not meant for this command."""
    if os.environ.pop("PYTHONWARNINGS", None):
        warnings.resetwarnings()
        for category in _NOT_SHOWN:
            warnings.simplefilter("ignore", category)


def settle_folders() -> None:
    """Move libraries' caches to a temporary folder if the home folder is not writable.

    Without `HOME`, the account's home folder is used. The settings apply to this process and its
    children.
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
    """Return the account's home folder, if it exists."""
    with suppress(KeyError):  # the process's user may have no account
        home = pwd.getpwuid(os.getuid()).pw_dir
        return home if Path(home).is_dir() else None
    return None


def _takes_files(folder: Path) -> bool:
    """Return whether a file can be made in a folder, which is created if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _temporary() -> Path:
    """Return this user's temporary folder of caches, which nobody else can write to.

    If a folder of that name belongs to someone else, it is a new folder each time.
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
