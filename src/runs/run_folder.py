"""The run folder: everything a run leaves behind, complete at every moment.

config.yaml         the whole config, which determines the run
run.json            the run's ids, and a hash of the inputs and the program's values on them
program/            copies of the program's files, if it is the user's own (this code is run)
checkpoints/        one folder per kept step: weights and their measurements
resume.ckpt         training state to resume from (removed when the run is finished)
finished.json       how the run ended (exists once it has)
measurements.csv    all measurements in one table, collected from the checkpoints
figure.png          the run at a glance
damaged/            checkpoints that could not be repaired, if there were any
wandb/              files that Weights & Biases wrote
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..analysis.measurements import Measurement, from_csv, joined_csv, to_csv
from ..config.composition import from_mapping, read_yaml, to_yaml
from ..config.naming import run_name
from ..config.printed_commands import RunCommands
from ..config.schema import Config, TaskConfig
from ..data.program_copies import copied_files, in_copies
from ..infra.errors import BusyError, FaultError, UserError
from ..infra.files import faults_named, remove_leftovers, write_file, write_folder
from . import checkpoints
from .places import is_run, is_step_folder, refuse_existing

DAMAGED = "damaged"
INEXACT = "inexact_reference"  # in the id of a run whose reference is inexact


class RunFolder:
    """One run's folder, and the record in it."""

    def __init__(
        self,
        path: Path,
        config: Config,
        run: str,
        inputs_digest: str,
        exact: bool,
        wandb_id: str | None = None,
        wandb_project: tuple[str, str] | None = None,
    ):
        self.path, self.config, self.id = path, config, run
        self.inputs_digest, self.exact = inputs_digest, exact
        self.wandb_id = wandb_id or run  # differs from the run's id if a sweep's server chose it
        self.wandb_project = wandb_project  # entity and project, known once a server has the run

    @property
    def name(self) -> str:
        """Task, architecture and seed, and a mark if the reference was inexact."""
        return _name(self.config, self.exact)

    @property
    def task(self) -> TaskConfig:
        """The config's task; a program of the user's own is read from the folder's copies."""
        return in_copies(self.config.task, self.path, f"run '{self.path}'")

    @property
    def commands(self) -> RunCommands:
        """The run's commands, ready to be pasted."""
        source = f"run '{self.path}'"
        task = in_copies(self.config.task, self.path, source, even_the_same=True)
        return RunCommands(self.path, self.config, task)

    @classmethod
    def create(
        cls, config: Config, inputs_digest: str, exact: bool, wandb_id: str | None = None
    ) -> RunFolder:
        """Make the folder of a new run: `run_dir`, or a new name below `runs_dir`.

        The run's id, which every measurement carries, has a mark if the reference is not `exact`.
        W&B uses the same id, unless a sweep gave the run another, `wandb_id`.

        Raises:
            FolderExistsError: the folder exists.
            FaultError: it cannot be written.
        """
        name = _name(config, exact)
        run = f"{name}-{wandb_id or secrets.token_hex(4)}"
        about = cls(Path(), config, run, inputs_digest, exact, wandb_id)._about()
        texts = {"config.yaml": to_yaml(config), "run.json": about}
        files = {file: text.encode() for file, text in texts.items()}
        with faults_named("copy the program's files"):
            files |= copied_files(config.task).files
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
                    return cls(path, config, run, inputs_digest, exact, wandb_id)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of a run that was started before.

        Raises:
            UserError: `path` is not a run folder, or its config is damaged.
        """
        with faults_named("look for the run folder"):
            whole = is_run(path)
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
            wandb_id = str(about.get("wandb_id", run))
            project = about.get("wandb_project")
            where = None if project is None else (str(project[0]), str(project[1]))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"'{path / 'run.json'}' is damaged: {error}") from error
        return cls(path, config, run, inputs_digest, exact, wandb_id, where)

    def remember_project(self, entity: str, project: str) -> None:
        """Remember which W&B project has the run, so that it is resumed there.

        Raises:
            FaultError: it could not be written.
        """
        if self.wandb_project == (entity, project):
            return
        self.wandb_project = entity, project
        with faults_named("write run.json"):
            write_file(self.path / "run.json", self._about().encode())

    def _about(self) -> str:
        about = {"id": self.id, "inputs_digest": self.inputs_digest, "exact": self.exact}
        about |= {"wandb_id": self.wandb_id}
        if self.wandb_project is not None:
            about |= {"wandb_project": [*self.wandb_project]}
        return json.dumps(about) + "\n"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against all other processes.

        Raises:
            BusyError: another process is running this run.
        """
        with faults_named(f"lock the run folder '{self.path}'"):
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with faults_named(f"lock the run folder '{self.path}'"):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise BusyError(f"another process is working on '{self.path}'") from None
            for folder in (self.path, self.path / "checkpoints"):
                remove_leftovers(folder)
            yield
        finally:
            os.close(descriptor)

    @property
    def resume_path(self) -> Path:
        """The path of the training state."""
        return self.path / "resume.ckpt"

    @property
    def figure_path(self) -> Path:
        """The path of the run's figure."""
        return self.path / "figure.png"

    def finished(self) -> dict[str, Any] | None:
        """Return the run's end: last step, reason, what W&B lacks; None if it has not ended."""
        try:
            ended = json.loads((self.path / "finished.json").read_bytes())
            ending = {"step": int(ended["step"]), "reason": str(ended["reason"])}
            lacking = ended.get("not_uploaded")
            return ending if lacking is None else ending | {"not_uploaded": str(lacking)}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def finish(self, step: int, reason: str, not_uploaded: str | None = None) -> None:
        """Mark the run as ended, so that it is not resumed; note what W&B lacks.

        Raises:
            FaultError: the mark could not be written.
        """
        mark: dict[str, Any] = {"step": step, "reason": reason}
        mark |= {"not_uploaded": not_uploaded} if not_uploaded else {}
        with faults_named("mark the run as finished"):
            write_file(self.path / "finished.json", (json.dumps(mark) + "\n").encode())
            self.resume_path.unlink(missing_ok=True)

    def checkpoint_folders(self) -> list[Path]:
        """Return the kept checkpoints' folders in step order, without copies of them."""
        folders = (self.path / "checkpoints").glob("step-*")
        return sorted(folder for folder in folders if is_step_folder(folder))

    def save_checkpoint(self, weights: Any, step: int, rows: Sequence[Measurement]) -> Path:
        """Write a checkpoint with its measurements, and gather the table again.

        Raises:
            FaultError: it could not be written; earlier files are untouched.
        """
        folder = self.path / "checkpoints"
        path = checkpoints.save(
            folder, weights, self.config, self.id, step, rows, self.inputs_digest
        )
        with faults_named("write measurements.csv"):
            write_file(self.path / "measurements.csv", self._gathered())
        return path

    def repair(self, say: Callable[[str], None]) -> None:
        """Check and repair the record; return what was damaged.

        A checkpoint's measurements are restored from the gathered table if it still has exactly the
        same bytes, and the gathered table from the checkpoints. A checkpoint that cannot be
        repaired is set aside in `damaged/`; an unfinished run then starts again.

        Raises:
            FaultError: the file system failed, or a finished run lost a checkpoint.
        """
        lost = [f.name for f in self.checkpoint_folders() if not self._mended(f, say)]
        if lost and self.finished():
            raise FaultError(
                f"{', '.join(lost)} of the finished run '{self.path}' cannot be mended and was set "
                f"aside in '{self.path / DAMAGED}'; remove finished.json, then train the run "
                f"again, to the same end, by `{self.commands.resume}`"
            )
        if lost:
            say("the run starts again, to the same end")
            with faults_named("leave the training state out"):
                self.resume_path.unlink(missing_ok=True)
        gathered = self.path / "measurements.csv"
        with faults_named(f"mend '{gathered}'"):
            before = gathered.read_bytes() if gathered.exists() else b""
            if before != (now := self._gathered()) and self.checkpoint_folders():
                write_file(gathered, now)
                # A table that is only shorter is a killed run's, whose last rows were not gathered.
                if not lost and not now.startswith(before):
                    say(f"'{gathered}' was damaged: it was collected again from the checkpoints")

    def _mended(self, folder: Path, say: Callable[[str], None]) -> bool:
        """Return whether a checkpoint is whole or could be repaired; set it aside if not."""
        try:
            digest = checkpoints.load(folder).rows_digest
        except UserError as error:
            self._set_aside(folder, say, str(error))
            return False
        try:
            checkpoints.load_rows(folder, digest)
        except FaultError as error:
            table = self._from_gathered(folder)
            if hashlib.sha256(table).hexdigest() != digest:
                self._set_aside(folder, say, str(error))
                return False
            with faults_named(f"mend the measurements of '{folder}'"):
                write_file(folder / checkpoints.ROWS, table)
            say(f"{error}: they were restored from measurements.csv")
        return True

    def _from_gathered(self, folder: Path) -> bytes:
        """Return a checkpoint's measurements from the gathered table."""
        steps = [checkpoints.step_of(path) for path in self.checkpoint_folders()]
        step = checkpoints.step_of(folder)
        earlier = max((before for before in steps if before < step), default=-1)
        try:
            content = (self.path / "measurements.csv").read_bytes()
            rows = from_csv(content, str(self.path / "measurements.csv"))
        except (OSError, FaultError):
            return b""
        return to_csv(row for row in rows if earlier < row.step <= step)

    def _set_aside(self, folder: Path, say: Callable[[str], None], why: str) -> None:
        target = self.path / DAMAGED / folder.name
        with faults_named(f"set '{folder}' aside"):
            target.parent.mkdir(exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
        say(f"{why}: it was set aside in '{target.parent}'")

    def _gathered(self) -> bytes:
        """Return all checkpoints' measurements as one table."""
        return joined_csv((f / checkpoints.ROWS).read_bytes() for f in self.checkpoint_folders())

    def last_rows(self) -> list[Measurement]:
        """Return the measurements of the last checkpoint.

        Raises:
            UserError: no checkpoint is left.
        """
        rows = self.measurements()
        if not rows:
            raise UserError(f"'{self.path}' has no checkpoint, so it has no measurements")
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


def _name(config: Config, exact: bool) -> str:
    mark = "" if exact else f"-{INEXACT}"
    return f"{run_name(config)}{mark}"


def _unused(folder: Path, name: str) -> Path:
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    candidates = (folder / (stem if i == 1 else f"{stem}-{i}") for i in range(1, 10_000))
    return next(path for path in candidates if not path.exists())
