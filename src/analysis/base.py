"""What stays the same over all checkpoints of a run: inputs, reference, controls, settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from jaxtyping import UInt8
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ..config.schema import AnalysisConfig
from ..data.inputs import InputSet
from ..models.reference import Reference
from ..models.shapes import random_inits
from .activations import Source, observe
from .statistics import bootstrap_counts

T = TypeVar("T")
Compare = Callable[[Source, "MeasurementContext"], Any]
CONTROLS = ("random_init", "other_task")


@dataclass
class MeasurementContext:
    """The inputs and yardsticks that a learned model of one shape is measured against.

    `others` gives the compiled programs of other tasks, as bridges, when they are asked for.
    """

    inputs: InputSet
    reference: Reference
    shape: TransformerBridgeConfig
    config: AnalysisConfig
    others: Callable[[], list[TransformerBridge]] = list
    _comparers: list[Compare] = field(default_factory=list, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)
    _compared: dict[tuple[str, Compare], list[Any]] = field(default_factory=dict, repr=False)

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """Return `compute()`, computed at the first checkpoint that asks for it."""
        if name not in self._kept:
            self._kept[name] = compute()
        value: T = self._kept[name]
        return value

    def observe(self, bridge: TransformerBridge) -> Source:
        """Return a model's activations on the inputs, in parts that suit the reference too."""
        return observe(bridge, self.inputs, self.config.batch_size, self.reference.bridge)

    @cached_property
    def reference_source(self) -> Source:
        """The reference's activations on the inputs."""
        return self.observe(self.reference.bridge)

    def random_sources(self) -> Iterator[Source]:
        """Yield the activations of the random-init controls, one at a time."""
        config = self.config
        for bridge in random_inits(self.shape, config.random_inits, config.seed, config.device):
            yield self.observe(bridge)

    def other_sources(self) -> Iterator[Source]:
        """Yield the activations of the compiled programs of other tasks, on these inputs."""
        for bridge in self.once("other tasks", self.others):
            yield self.observe(bridge)

    def will_compare(self, compare: Compare) -> None:
        """Note what controls are to be asked, so that each of them is run only once for all."""
        if compare not in self._comparers:
            self._comparers.append(compare)

    def compared(self, kind: str, compare: Callable[[Source, MeasurementContext], T]) -> list[T]:
        """Return what `compare` says of each control of a kind, measured once."""
        if (kind, compare) not in self._compared:
            asked = [
                comparer for comparer in self._comparers if (kind, comparer) not in self._compared
            ]
            self._compared |= {(kind, comparer): [] for comparer in {*asked, compare}}
            sources = self.random_sources() if kind == CONTROLS[0] else self.other_sources()
            for source in sources:
                for comparer in {*asked, compare}:
                    self._compared[kind, comparer].append(comparer(source, self))
        return self._compared[kind, compare]

    @property
    def bootstrap(self) -> UInt8[Tensor, "draws inputs"]:
        """Bootstrap resamples of the inputs, the same ones for every component."""
        return bootstrap_counts(len(self.inputs), self.config.bootstrap, self.config.seed)
