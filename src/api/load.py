"""Opens what is to be analysed: a run's checkpoint, or a task's compiled program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config.schema import Config
from ..runs.loaded_run import LoadedReference, LoadedRun


def load(
    path: str | Path, overrides: Sequence[str] = (), *, device: str | None = None
) -> LoadedRun:
    """Open a run: its last checkpoint, or the checkpoint at `path`, with task, inputs and model.

    Overrides are `analysis.key=value`; `device` is analysis.device, the run's own unless given.

    Example:
        run = algomatch.load("runs/RUN", ["analysis.match_cases=200"])

    Raises:
        UserError: there is no checkpoint, its task's program is gone, an override is not one of the
            analysis, or the device is not there.
        FaultError: the file cannot be read.
    """
    return LoadedRun.open(path, overrides, device=device)


def load_reference(
    of: str | Path | Config, overrides: Sequence[str] = (), *, device: str | None = None
) -> LoadedReference:
    """Open a task's compiled program, to be analysed as a run is: the control with a known answer.

    `of` is a run whose task it is, or a config.

    Example:
        reference = algomatch.load_reference(algomatch.compose(["task=sort"]))

    Raises:
        UserError: there is no such run, an override is not one of the analysis, or the device is
            not there.
    """
    return LoadedReference.open(of, overrides, device=device)
