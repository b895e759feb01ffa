"""What `algomatch analyze` does: a checkpoint measured again, from its file alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..analysis.measurements import Measurement, differences
from ..analysis.measures.suite import measure
from ..config.devices import on_device
from ..runs import checkpoints
from .preparation import bridge_of, prepare


@dataclass(frozen=True)
class Analysis:
    """A checkpoint measured again: its rows, and how they differ from the recorded ones.

    `differences` is None where the file lies alone, without a record to compare with.
    """

    checkpoint: checkpoints.Checkpoint
    rows: list[Measurement]
    differences: list[str] | None


def analyze(path: Path, device: str | None = None) -> Analysis:
    """Measure a checkpoint from its file alone, and compare with the record beside it.

    `device` is the config's unless given.

    Raises:
        UserError: `path` is no checkpoint.
        FaultError: the record beside it is damaged.
    """
    checkpoint = checkpoints.load(path)
    config = on_device(checkpoint.config, device)
    context = prepare(config, checkpoint.task)
    bridge = bridge_of(checkpoint, path, context.inputs, context.shape)
    rows = [row.at(checkpoint.run, checkpoint.step) for row in measure(bridge, context)]
    record = checkpoints.find(path).parent
    if not (record / checkpoints.ROWS).is_file():
        return Analysis(checkpoint, rows, None)
    recorded = [
        row
        for row in checkpoints.load_rows(record, checkpoint.rows_digest)
        if not row.measure.startswith("training/")
    ]
    return Analysis(checkpoint, rows, differences(recorded, rows))
