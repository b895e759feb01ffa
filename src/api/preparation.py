"""What a config or a checkpoint is measured with: inputs, the proven reference, its model."""

from __future__ import annotations

import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ..analysis.base import MeasurementContext
from ..analysis.controls.other_tasks import other_references
from ..analysis.measures.registered_measures import check_measures, measured
from ..config.devices import check_device
from ..config.schema import Config
from ..data.inputs import InputSet
from ..models.reference import Reference
from ..models.shapes import learned_shape
from ..runs.loaded_run import TaskInputs


def prepare(config: Config) -> MeasurementContext:
    """Return the inputs, the proven reference and the shape of the learned model.

    Raises:
        UserError: the task, its program or the measures are not valid.
    """
    check_measures(measured(config.analysis))
    check_device(config.analysis.device)
    shared = TaskInputs(config.task)
    shape = learned_shape(config.model, shared.inputs, config.seed)
    return context_of(shared.inputs, shared.reference, shape, config)


def context_of(
    inputs: InputSet, reference: Reference, shape: TransformerBridgeConfig, config: Config
) -> MeasurementContext:
    """Return what learned models of a shape are measured with.

    Raises:
        UserError: a measure is not known.
    """
    check_measures(measured(config.analysis))
    torch.set_num_threads(config.threads)  # their number changes the last bits of every sum

    def others() -> list[TransformerBridge]:
        references = other_references(inputs, config.task, config.analysis.other_tasks)
        return [other.bridge for other in references]

    return MeasurementContext(inputs, reference, shape, config.analysis, others)
