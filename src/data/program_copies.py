"""Copies of a user's own program: its files are copied into a folder and loaded from there.

The copies are in a folder `program`. The files that a task names keep their relative places; beside
each are the modules that it imports, by import name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..config.composition import from_mapping, names_file, read_yaml, split_place
from ..config.schema import TaskConfig
from ..infra.errors import UserError
from .user_functions import file_of, loaded

COPIES = "program"
ONE_COPY = "program.py"  # of earlier runs: the program's file alone


@dataclass(frozen=True)
class CopiedFiles:
    """The files of a task's own programs by their paths in the copies; imported files left out."""

    files: dict[str, bytes]
    left_out: tuple[Path, ...]


def is_own(task: TaskConfig) -> bool:
    """Return whether a task uses any file of the user's own."""
    return bool(_files(task))


def copied_files(task: TaskConfig) -> CopiedFiles:
    """Return the files that a task's own programs are in, and what these import from beside them.

    Raises:
        UserError: a file is gone, or raises when it is imported.
    """
    if not is_own(task):
        return CopiedFiles({}, ())
    files, left_out, root = dict[str, bytes](), dict[Path, None](), _root(task)
    for path in _files(task):
        brought, folder = loaded(path), path.parent.relative_to(root)
        files[f"{COPIES}/{folder / path.name}"] = brought.content
        for name, (file, content) in brought.imported().items():
            if file.suffix == ".py" and file.resolve().is_relative_to(root.resolve()):
                end = "/__init__.py" if file.name == "__init__.py" else ".py"
                files.setdefault(f"{COPIES}/{folder / (name.replace('.', '/') + end)}", content)
            else:
                left_out[file] = None
    return CopiedFiles(files, tuple(left_out))


def copies_in(home: Path) -> list[Path]:
    """Return the copies that a folder holds."""
    copy = home / ONE_COPY
    return [*sorted((home / COPIES).rglob("*.py")), *([copy] if copy.is_file() else [])]


def in_copies(
    task: TaskConfig, home: Path, source: str, *, even_the_same: bool = False
) -> TaskConfig:
    """Return a task whose own programs are read from the copies in a folder.

    `source` names the folder in errors. In a run's folder, the original files are used while they
    equal the copies; with `even_the_same` the copies are used even then. In any other folder, no
    file outside it is read.

    Raises:
        UserError: the folder holds no copies, and is not a run's.
    """
    if not is_own(task):
        return task
    if (home / COPIES).is_dir():
        root, copies = _root(task), Path(os.path.abspath(home / COPIES))
        if not even_the_same and _is_run_on(task, home) and _all_the_same(root, copies):
            return task  # beside the originals is the data that the program reads
        return _moved(task, lambda path: copies / path.relative_to(root))
    program, copy = _own_program(task), home / ONE_COPY
    if _is_run_on(task, home):
        if program is None or not copy.is_file() or _same(program, copy):
            return task
        return _moved(task, lambda path: Path(os.path.abspath(copy)) if path == program else path)
    if _files(task) == [program] and copy.is_file():
        return _moved(task, lambda path: Path(os.path.abspath(copy)))
    raise UserError(
        f"{source}: the task is a program of your own, and the program is not beside the "
        "checkpoint: give the checkpoint in its run folder, which holds the program"
    )


def _is_run_on(task: TaskConfig, home: Path) -> bool:
    """Return whether a folder is a run's folder whose config names the task's files.

    A folder with weights beside its config is an artifact, not a run.
    """
    if not all((home / name).is_file() for name in ("run.json", "config.yaml")):
        return False
    config = from_mapping(read_yaml(home / "config.yaml"), str(home / "config.yaml"))
    return _files(config.task) == _files(task) and not any(home.glob("*.safetensors"))


def same_programs(task: TaskConfig) -> str:
    """Return a text that is equal for all copies of a task, wherever they lie."""
    if not is_own(task):
        return repr(task)
    root, held = _root(task), hashlib.sha256()
    some = root.rglob("*.py") if root.name == COPIES else _files(task)
    for path in sorted(some):
        held.update(f"{path.relative_to(root)} {path.stat().st_size} ".encode())
        held.update(path.read_bytes())
    there = "" if root.name == COPIES else str(root)
    moved = _moved(task, lambda path: Path("/") / path.relative_to(root))
    return f"{moved!r} {there} {held.hexdigest()}"


def _own_program(task: TaskConfig) -> Path | None:
    return _whole(task.program, None) if names_file(task.program or "") else None


def _places(task: TaskConfig) -> Iterator[str]:
    """Yield the settings of a task that name a file: its programs and its input predicate."""
    for place in (task.program, task.restrict, *(task.alternatives or ())):
        if place is not None and names_file(place):
            yield place


def _files(task: TaskConfig) -> list[Path]:
    """Return the files that a task names, each once, as absolute paths."""
    own = task.program if names_file(task.program or "") else None
    paths = [_whole(place, None if place == own else own) for place in _places(task)]
    return list(dict.fromkeys(paths))


def _whole(place: str | None, beside: str | None) -> Path:
    return Path(os.path.abspath(file_of(place or "", beside)[0]))


def _root(task: TaskConfig) -> Path:
    """Return the folder that all of the files lie in or below."""
    return Path(os.path.commonpath([path.parent for path in _files(task)]))


def _moved(task: TaskConfig, to: Callable[[Path], Path]) -> TaskConfig:
    """Return a task with its files elsewhere; settings that name only a function stay."""
    own = task.program if names_file(task.program or "") else None

    def moved(place: str) -> str:
        if not names_file(place):
            return place
        path = _whole(place, None if place == own else own)
        return f"{to(path)}:{split_place(place)[1]}"

    return replace(
        task,
        program=task.program and moved(task.program),
        restrict=task.restrict and moved(task.restrict),
        alternatives=task.alternatives and [moved(place) for place in task.alternatives],
    )


def _all_the_same(root: Path, copies: Path) -> bool:
    """Return whether every copy equals the file that it was copied from."""
    return all(_same(root / copy.relative_to(copies), copy) for copy in copies.rglob("*.py"))


def _same(path: Path, copy: Path) -> bool:
    try:
        return path.read_bytes() == copy.read_bytes()
    except OSError:
        return False
