"""Run folders found at paths, and runs with the curves of their headlines, read from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from ..analysis.measurements import Measurement
from ..analysis.measures.emergence import CONTROLS, Summary, summaries
from ..analysis.measures.suite import headlines
from ..config.schema import Config
from ..infra.errors import FaultError, UserError
from .control_record import failing
from .places import run_folders
from .run_folder import RunFolder

HIGHEST = "highest"  # prefix of a control's key: the highest model instead of the mean

Source = TypeVar("Source")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Run:
    """A run: the curves of its headlines by key and step, and their summaries.

    A control over several models has a second curve, for the highest of them. `failing` are the
    measures that fail the task's controls, with the reason; None if these were not run.
    """

    folder: RunFolder
    curves: Mapping[str, Mapping[int, Measurement]]
    summaries: Mapping[str, Summary]
    last_step: int
    finished: bool
    failing: Mapping[str, str] | None

    @property
    def config(self) -> Config:
        """The whole config of the run."""
        return self.folder.config

    @property
    def final(self) -> dict[str, Measurement]:
        """The headlines of the last checkpoint, by key."""
        last = self.last_step
        return {key: curve[last] for key, curve in self.curves.items() if last in curve}


def find_runs(paths: Iterable[Path], left_out: list[str] | None = None) -> list[RunFolder]:
    """Return the run folders at the paths; each path is a run folder or a folder of runs.

    If some runs cannot be opened, `left_out` gets a line with the reason for each.

    Raises:
        UserError: a path is neither, or a run is named twice; or no run can be opened, or one
            cannot and `left_out` is None: then the error is that of the first such run.
        FaultError: likewise, if the file system failed.
    """
    return _readable(RunFolder.open, run_folders(paths), left_out)


def _readable(
    read: Callable[[Source], Made], sources: Iterable[Source], left_out: list[str] | None
) -> list[Made]:
    """Read the sources; `left_out` gets a line for each that cannot be read."""
    readable, errors = list[Made](), list[UserError | FaultError]()
    for source in sources:
        try:
            readable.append(read(source))
        except (UserError, FaultError) as error:
            errors.append(error)
    if errors and (not readable or left_out is None):
        raise errors[0]
    if left_out is not None:
        left_out += [f"left out: {error}" for error in errors]
    return readable


def load_run(folder: RunFolder) -> Run:
    """Return a run with the headlines of all its checkpoints.

    Raises:
        UserError: the run has no checkpoint.
        FaultError: the measurements of a checkpoint are missing or damaged.
    """
    rows = [row for row in folder.measurements() if not row.measure.startswith("training/")]
    if not rows:
        raise UserError(f"'{folder.path}' has no checkpoint, so it has no measurements")
    curves: dict[str, dict[int, Measurement]] = defaultdict(dict)
    for step, at_step in groupby(rows, key=lambda row: row.step):
        for row in headlines(at_step):
            curves[row.key][step] = row
            if row.measure.endswith(CONTROLS):
                end = row.value if row.ci_high is None else row.ci_high
                highest = replace(row, value=end, ci_low=None, ci_high=None)
                curves[f"{HIGHEST}/{row.key}"][step] = highest
    last_step, finished = max(row.step for row in rows), folder.finished() is not None
    marks = failing(folder.inputs_digest)
    return Run(folder, dict(curves), summaries(rows), last_step, finished, marks)


def load_runs(folders: Iterable[RunFolder], left_out: list[str]) -> list[Run]:
    """Return the runs that can be read; `left_out` gets a line with the reason for each other one.

    Raises:
        UserError: no run can be read; the error is that of the first.
        FaultError: likewise, if the first is damaged.
    """
    return _readable(load_run, folders, left_out)
