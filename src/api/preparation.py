"""What a config or a checkpoint is measured with: inputs, the proven reference, its model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ..analysis.base import MeasurementContext
from ..analysis.controls.other_tasks import other_references
from ..analysis.measures.registered_measures import check_measures, measured
from ..config.devices import check_device
from ..config.schema import Config, TaskConfig
from ..data.inputs import InputSet, input_set
from ..data.tasks import make_task
from ..infra.errors import UserError
from ..models.bridges import make_bridge
from ..models.reference import build_reference
from ..models.shapes import learned_shape
from ..runs.checkpoints import Checkpoint


def prepare(config: Config, task: TaskConfig | None = None) -> MeasurementContext:
    """Return the inputs, the proven reference and the shape of the learned model.

    `task` is the config's, or where its files lie now.

    Raises:
        UserError: the task, its program or the measures are not valid.
    """
    check_measures(measured(config.analysis))
    check_device(config.analysis.device)
    torch.set_num_threads(config.threads)  # their number changes the last bits of every sum
    task = task or config.task
    inputs = input_set(make_task(task), task)
    reference = build_reference(inputs, task.allow_inexact)
    shape = learned_shape(config.model, inputs, config.seed)

    def others() -> list[TransformerBridge]:
        references = other_references(inputs, task, config.analysis.other_tasks)
        return [other.bridge for other in references]

    return MeasurementContext(inputs, reference, shape, config.analysis, others)


def bridge_of(
    checkpoint: Checkpoint, path: Path, inputs: InputSet, shape: TransformerBridgeConfig
) -> TransformerBridge:
    """Return a checkpoint's model, refused where the task or its shape is not what it was."""
    check_same(checkpoint.inputs_digest, inputs, f"checkpoint '{path}'")
    try:
        return make_bridge(shape, checkpoint.weights, checkpoint.config.analysis.device)
    except RuntimeError as error:
        raise UserError(
            f"checkpoint '{path}': its weights do not fit its own config: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def check_same(digest: str, inputs: InputSet, what: str) -> None:
    """Refuse to go on where the task is not what it was when the run was started."""
    if digest and digest != inputs.digest():
        raise UserError(
            f"{what}: the task '{inputs.task.name}' is not the one it was trained on (its program, "
            "inputs or tolerance changed since, or a library that draws them)"
        )
