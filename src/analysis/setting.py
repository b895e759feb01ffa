"""What stays the same over all checkpoints of a run: inputs, reference, controls, settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from jaxtyping import Float64
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig

from ..config import AnalysisConfig
from ..data.inputs import InputSet
from ..models.reference import Reference
from . import controls
from .activations import Recording, record
from .statistics import bootstrap_counts

T = TypeVar("T")


@dataclass
class Setting:
    """The inputs and yardsticks that a learned model of one shape is measured against."""

    inputs: InputSet
    reference: Reference
    shape: TransformerBridgeConfig
    config: AnalysisConfig
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """Return `compute()`, computed at the first checkpoint that asks for it."""
        if name not in self._kept:
            self._kept[name] = compute()
        value: T = self._kept[name]
        return value

    @cached_property
    def reference_recording(self) -> Recording:
        """The reference's activations on the inputs."""
        return record(self.reference.bridge, self.inputs, self.config.batch_size)

    def random_recordings(self) -> list[Recording]:
        """Return the activations of the random-init controls."""
        bridges = controls.random_inits(
            self.shape, self.config.random_inits, self.config.seed, self.config.device
        )
        return [record(bridge, self.inputs, self.config.batch_size) for bridge in bridges]

    @property
    def bootstrap(self) -> Float64[Tensor, "draws inputs"]:
        """Bootstrap resamples of the inputs, the same ones for every component."""
        return bootstrap_counts(len(self.inputs), self.config.bootstrap, self.config.seed)
