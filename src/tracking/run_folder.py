"""The run folder: everything a run leaves behind, complete at every moment.

config.yaml         the whole config, and with it the run
run.json            the run's id, and a hash of the inputs and the program's values on them
program.py          a copy of the program's file, where it is the user's own
checkpoints/        one folder a kept step: weights and the measurements taken of them
resume.ckpt         training state to go on from (gone when the run is finished)
finished.json       how the run ended (there when it has)
measurements.csv    all measurements in one table, gathered from the checkpoints
figure.png          the run at a glance
wandb/              what Weights & Biases wrote
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..analysis.measurements import Measurement, joined_csv
from ..config import Config, from_mapping, names_file, read_yaml, split_place, to_yaml
from ..errors import UserError
from ..files import faults_named, remove_leftovers, write_file, write_folder
from . import checkpoints

INEXACT = "inexact_reference"  # in the id of a run whose reference is not its program


class RunFolder:
    """One run's folder, and the record in it."""

    def __init__(self, path: Path, config: Config, run: str, inputs_digest: str, exact: bool):
        self.path, self.config, self.id = path, config, run
        self.inputs_digest, self.exact = inputs_digest, exact

    @property
    def name(self) -> str:
        """Task, architecture and seed; and whether the reference was inexact."""
        return _name(self.config, self.exact)

    @classmethod
    def create(cls, config: Config, inputs_digest: str, exact: bool) -> RunFolder:
        """Make the folder of a new run: `run_dir`, or a new name below `runs_dir`.

        The run's id, which every measurement carries, says so where the reference is not `exact`.

        Raises:
            UserError: the folder exists.
            FaultError: it cannot be written.
        """
        name = _name(config, exact)
        run = f"{name}-{secrets.token_hex(4)}"
        about = {"id": run, "inputs_digest": inputs_digest, "exact": exact}
        texts = {"config.yaml": to_yaml(config), "run.json": json.dumps(about) + "\n"}
        files = {file: text.encode() for file, text in texts.items()}
        if names_file(config.task.program or ""):
            with faults_named("copy the program's file"):
                files["program.py"] = split_place(str(config.task.program))[0].read_bytes()
        while True:  # another run may take the same new name in the same second
            refuse_existing(config)
            with faults_named(f"make the run folder '{config.run_dir or config.runs_dir}'"):
                path = Path(config.run_dir or _unused(Path(config.runs_dir), name))
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    write_folder(path, files, replace=False)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                else:
                    return cls(path, config, run, inputs_digest, exact)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of a run that was started before.

        Raises:
            UserError: `path` is no run folder, or its config is damaged.
        """
        with faults_named("look for the run folder"):
            whole = all((path / name).is_file() for name in ("config.yaml", "run.json"))
            exists = path.exists()
        if not whole:
            what = "is not a run folder (it has no config.yaml and run.json)"
            raise UserError(f"'{path}' {what if exists else 'does not exist'}")
        config = from_mapping(read_yaml(path / "config.yaml"), str(path / "config.yaml"))
        with faults_named(f"read '{path / 'run.json'}'"):
            text = (path / "run.json").read_bytes()
        try:
            about = json.loads(text)
            run, inputs_digest = str(about["id"]), str(about["inputs_digest"])
            exact = bool(about["exact"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"'{path / 'run.json'}' is damaged: {error}") from error
        return cls(path, config, run, inputs_digest, exact)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against every other process.

        Raises:
            UserError: another process is running this run.
        """
        with faults_named(f"lock the run folder '{self.path}'"):
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with faults_named(f"lock the run folder '{self.path}'"):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UserError(f"another process is working on '{self.path}'") from None
            for folder in (self.path, self.path / "checkpoints"):
                remove_leftovers(folder)
            yield
        finally:
            os.close(descriptor)

    @property
    def resume_path(self) -> Path:
        """Where the training state is kept."""
        return self.path / "resume.ckpt"

    @property
    def figure_path(self) -> Path:
        """Where the run's figure is kept."""
        return self.path / "figure.png"

    def finished(self) -> dict[str, Any] | None:
        """Return how the run ended: its last step and why; None where it has not."""
        try:
            ended = json.loads((self.path / "finished.json").read_text())
            return {"step": int(ended["step"]), "reason": str(ended["reason"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def finish(self, step: int, reason: str) -> None:
        """Mark the run as ended; it will not be resumed.

        Raises:
            FaultError: the mark could not be written.
        """
        with faults_named("mark the run as finished"):
            mark = json.dumps({"step": step, "reason": reason}) + "\n"
            write_file(self.path / "finished.json", mark.encode())
            self.resume_path.unlink(missing_ok=True)

    def checkpoint_folders(self) -> list[Path]:
        """Return the kept checkpoints' folders, first step first."""
        return sorted((self.path / "checkpoints").glob("step-*"))

    def save_checkpoint(self, weights: Any, step: int, rows: Sequence[Measurement]) -> Path:
        """Write a checkpoint with its measurements, and gather the table anew.

        Raises:
            FaultError: it could not be written; what was there is untouched.
        """
        folder = self.path / "checkpoints"
        path = checkpoints.save(
            folder, weights, self.config, self.id, step, rows, self.inputs_digest
        )
        with faults_named("write measurements.csv"):
            tables = ((f / checkpoints.ROWS).read_bytes() for f in self.checkpoint_folders())
            write_file(self.path / "measurements.csv", joined_csv(tables))
        return path

    def last_rows(self) -> list[Measurement]:
        """Return the measurements of the last checkpoint.

        Raises:
            UserError: no checkpoint is left.
        """
        rows = self.measurements()
        if not rows:
            raise UserError(f"'{self.path}' holds no checkpoint, and so no measurements")
        last = max(row.step for row in rows)
        return [row for row in rows if row.step == last]

    def measurements(self, up_to: int | None = None) -> list[Measurement]:
        """Return all measurements of the run, or those of checkpoints up to a step.

        Raises:
            FaultError: a checkpoint's measurements are missing or damaged.
        """
        last = None if up_to is None else checkpoints.step_folder(up_to)
        folders = [f for f in self.checkpoint_folders() if last is None or f.name <= last]
        return [row for folder in folders for row in checkpoints.load_rows(folder)]


def refuse_existing(config: Config) -> None:
    """Refuse to start a run in a folder that is there.

    Raises:
        UserError: `run_dir` exists.
    """
    with faults_named("look for the run folder"):
        exists = bool(config.run_dir) and Path(str(config.run_dir)).exists()
    if exists:
        raise UserError(
            f"run folder '{config.run_dir}' exists: choose another run_dir, or go on with it by "
            f"`algomatch train --resume {config.run_dir}`"
        )


def _name(config: Config, exact: bool) -> str:
    mark = "" if exact else f"-{INEXACT}"
    return f"{config.task.name}-{config.model.name}-seed{config.seed}{mark}"


def _unused(folder: Path, name: str) -> Path:
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    candidates = (folder / (stem if i == 1 else f"{stem}-{i}") for i in range(1, 10_000))
    return next(path for path in candidates if not path.exists())
