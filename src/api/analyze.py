"""What `algomatch analyze` does: a checkpoint measured again, from its file alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from ..analysis.measurements import Measurement, differences
from ..analysis.measures.suite import measure
from ..infra.progress import Steps
from ..runs import checkpoints
from ..runs.loaded_run import Loaded, Openable, opened
from ..runs.places import find_checkpoint
from .preparation import context_of


@dataclass(frozen=True)
class Analysis:
    """A model measured again: its rows, and how they differ from the recorded ones.

    `differences` is None where there is no record to compare with.
    """

    run: Loaded
    rows: list[Measurement]
    differences: list[str] | None


def analyze(
    run: Openable, *, overrides: Sequence[str] = (), console: Console | None = None
) -> Analysis:
    """Measure a checkpoint from its file alone, and compare with the record beside it.

    Overrides, `analysis.key=value`, go with a path; with any there is no record to compare with.

    Example:
        analysis = algomatch.analyze("runs/RUN")

    Raises:
        UserError: there is no checkpoint.
        FaultError: the record beside it is damaged.
    """
    run = opened(run, overrides, "analyze")
    context = context_of(run.inputs, run.reference, run.shape, run.config)
    with Steps(console, "measuring", 1) as steps, steps.part(run.title):
        rows = [row.at(run.run, run.step or 0) for row in measure(run.bridge, context)]
    if run.path is None or run.step is None or _changes_numbers(run):
        return Analysis(run, rows, None)
    record = find_checkpoint(run.path).parent
    if not (record / checkpoints.ROWS).is_file():
        return Analysis(run, rows, None)
    recorded = [
        row
        for row in checkpoints.load_rows(record, run.checkpoint.rows_digest)
        if not row.measure.startswith("training/")
    ]
    return Analysis(run, rows, differences(recorded, rows))


def _changes_numbers(run: Loaded) -> bool:
    """Return whether overrides change what is measured: the device alone does not."""
    return any(not word.startswith("analysis.device=") for word in run.changed)
