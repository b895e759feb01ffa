"""Where runs and checkpoints lie: found at the paths that are given, and not read.

Nothing heavy is imported for it, so a path that is wrong is answered at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from ..config.printed_commands import command
from ..config.schema import Config
from ..infra.errors import FolderExistsError, UserError
from ..infra.files import faults_named

CONFIG, ABOUT = "config.yaml", "run.json"  # what makes a folder a run's
WEIGHTS = "model.safetensors"
SCHEME = "wandb:"  # of an artifact: wandb:ENTITY/PROJECT/NAME:ALIAS


def is_artifact(place: str) -> bool:
    """Return whether a place is an artifact of W&B's, and not a path."""
    return place.startswith(SCHEME)


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's."""
    return all((folder / name).is_file() for name in (CONFIG, ABOUT))


def run_folders(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders at the paths; each path is a run folder or a folder of runs.

    Raises:
        UserError: a path is neither, or a run is named twice.
        FaultError: the file system failed.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        for folder in _run_folders(path):
            if folder.resolve() in folders:
                raise UserError(f"run folder '{folder}' is given twice: name every run once")
            folders[folder.resolve()] = folder
    return [*folders.values()]


def _run_folders(path: Path) -> list[Path]:
    with faults_named(f"look for runs in '{path}'"):
        if not path.exists():
            raise UserError(f"'{path}' does not exist{_similar(path)}")
        if is_run(path):
            return [path]
        inside = sorted(path.iterdir()) if path.is_dir() else []
        runs = [folder for folder in inside if not folder.name.startswith(".") and is_run(folder)]
    if not runs:
        raise UserError(f"'{path}' is not a run folder and does not directly contain one")
    return runs


def _similar(path: Path) -> str:
    """Return the question after a folder beside a path whose name is much the same."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    names = [
        folder.name for folder in beside if folder.is_dir() and not folder.name.startswith(".")
    ]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f": did you mean '{path.parent / near[0]}'?" if near else ""


def refuse_existing(config: Config) -> None:
    """Refuse to start a run in an existing folder.

    Raises:
        FolderExistsError: `run_dir` exists.
    """
    with faults_named("look for the run folder"):
        exists = bool(config.run_dir) and Path(str(config.run_dir)).exists()
    if exists:
        raise FolderExistsError(
            f"run folder '{config.run_dir}' exists: choose another run_dir, or continue it by "
            f"`{command('train', '--resume', Path(str(config.run_dir)))}`"
        )


def is_step_folder(folder: Path) -> bool:
    """Return whether a folder has a step's name, not that of somebody's copy.

    >>> [is_step_folder(Path(name)) for name in ("step-00000042", "step-00000042-old")]
    [True, False]
    """
    return re.fullmatch(r"step-[0-9]+", folder.name) is not None


def find_checkpoint(path: Path) -> Path:
    """Return the weights file that `path` means: itself, a step folder's, or a run's last one.

    Raises:
        UserError: there is none.
        FaultError: the file system failed.
    """
    with faults_named("look for the checkpoint"):
        if path.is_file():
            return path
        if (path / WEIGHTS).is_file():
            return path / WEIGHTS
        files = path.glob(f"checkpoints/step-*/{WEIGHTS}")
        in_run = sorted(file for file in files if is_step_folder(file.parent))
        if in_run:
            return in_run[-1]
        there = path.exists()
    what = f"'{path}' has no checkpoint" if there else f"checkpoint '{path}' does not exist"
    raise UserError(f"{what}: give a {WEIGHTS}, its folder, or a run folder")


def beside(path: Path) -> Path:
    """Return the folder for a checkpoint's results: its run's, or its own if it lies alone.

    Raises:
        UserError: there is no checkpoint.
        FaultError: the file system failed.
    """
    folder = find_checkpoint(path).parent
    return folder.parent.parent if folder.parent.name == "checkpoints" else folder
