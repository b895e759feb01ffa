"""Atomic writing of files and folders: a reader sees the old or the new one, never a part."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from .errors import FaultError, UserError


@contextmanager
def faults_named(action: str) -> Iterator[None]:
    """Turn an OSError into a FaultError that says what could not be done, and why.

    Raises:
        FaultError: no space, no permission, or any other fault of the file system.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise FaultError(f"cannot {action}{where}: {error.strerror or error}") from error


class Unwritten:
    """Write failures: noted, and reported after everything that was computed is shown."""

    def __init__(self) -> None:
        self._first: FaultError | None = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note a FaultError raised within the block."""
        try:
            yield
        except FaultError as error:
            self._first = self._first or error

    def tell(self, *faults: str) -> None:
        """Raise the first noted FaultError, if any, in one message with other faults.

        Raises:
            FaultError: something could not be written, or there are other faults.
        """
        written = [] if self._first is None else [str(self._first)]
        if faults or written:
            raise FaultError("; ".join([*faults, *written])) from self._first


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; at the end it replaces `path`, durably.

    Raises:
        OSError: the file system refused; the old file at `path` is untouched.
    """
    temporary = _beside(path)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def refuse_unwritable(path: Path) -> None:
    """Refuse, before the work, a path that could not be written afterwards; make its folder.

    Raises:
        FaultError: no file can be made there.
    """
    with faults_named(f"write '{path}'"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return


def refuse_file(option: str, folder: Path | None) -> None:
    """Refuse, before the work, a file where an option takes a folder.

    Raises:
        UserError: it is a file.
    """
    if folder is not None and os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{option} {folder} is a file: give a folder")


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        OSError: the file system refused; the old file at `path` is untouched.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_folder(path: Path, files: Mapping[str, bytes], *, replace: bool = True) -> None:
    """Write a folder of files atomically, replacing an existing one or refusing to.

    Names may be paths below the folder.

    Raises:
        OSError: the file system refused; an existing folder is untouched.
    """
    temporary, replaced = _beside(path), _beside(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
            _sync(temporary / name)
        for folder in {(temporary / name).parent for name in files} | {temporary}:
            _sync(folder)
        try:
            if replace and path.exists():
                os.rename(path, replaced)
            os.rename(temporary, path)
        except BaseException:  # Ctrl-C too
            if replaced.exists() and not path.exists():
                os.rename(replaced, path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def digest(paths: Iterable[Path]) -> str:
    """Return a hash of files: their names and contents.

    Raises:
        OSError: the file system refused.
    """
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(repr((path.name, own)).encode())
    return whole.hexdigest()


def cache_folder(name: str) -> Path:
    """Return the folder of a cache: below `$ALGOMATCH_CACHE`, or the user's cache folder."""
    root = os.environ.get("ALGOMATCH_CACHE") or platformdirs.user_cache_dir("algomatch")
    return Path(root) / name


def last_words(log: Path) -> str:
    """Return the last line of a process's log, and the log's path."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError as error:
        return f"no log ({error.strerror})"
    return f"{lines[-1] if lines else 'it wrote nothing'} ({log})"


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left in `folder`."""
    for path in folder.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.partial"  # `path` may be `.`


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
