"""Sites of a bridge, and its activations on an input set: recorded once, or part by part.

Activations that fit into `WHOLE_BYTES` are recorded once and shared by all measures. A larger set
is streamed: the model runs on one part of the inputs at a time, and each measure accumulates sums.
Memory then does not grow with the set, and the values are the same.

Shapes: `inputs` inputs, `pos` positions (BOS, tokens, padding), `d_model` the residual's
width, `head` heads, `d_head` their width, `neuron` MLP neurons, `classes` output classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from ..data.inputs import InputSet
from .measurements import Measurement

WHOLE_BYTES = 96 * 2**20  # of activations that are recorded once and held
PART_BYTES = 24 * 2**20  # of one part of a streamed set; peak memory is a multiple of it
HELD_BYTES = 128 * 2**20  # of one cache of values derived from the reference's parts


@dataclass(frozen=True)
class Recording:
    """A model's logits and activations on inputs, by TransformerLens hook name."""

    bridge: TransformerBridge
    inputs: InputSet
    logits: Float[Tensor, "inputs pos classes"]
    activations: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.activations[name]

    def parts(self) -> Iterator[tuple[slice, Recording]]:
        """Yield the rows and the recording of each part: here the whole."""
        yield slice(0, len(self.inputs)), self

    def at(self, rows: slice | Int64[Tensor, " chosen"]) -> Recording:
        """Return the recording of some inputs."""
        if rows == slice(0, len(self.inputs)):
            return self
        chosen = _Rows(self.activations, rows)
        return Recording(self.bridge, self.inputs.at(rows), self.logits[rows], chosen)


class _Rows(Mapping[str, Tensor]):
    """Some rows of activations, sliced lazily."""

    def __init__(self, whole: Mapping[str, Tensor], rows: slice | Tensor):
        self._whole, self._rows = whole, rows
        self._taken: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._taken:
            self._taken[name] = self._whole[name][self._rows]
        return self._taken[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


@dataclass
class Streamed:
    """A model's activations on too many inputs to hold; recomputed at every request."""

    bridge: TransformerBridge
    inputs: InputSet
    part_size: int
    _last: tuple[slice, Recording] | None = field(default=None, repr=False)

    def parts(self) -> Iterator[tuple[slice, Recording]]:
        """Yield the rows and the recording of each part."""
        for start in range(0, len(self.inputs), self.part_size):
            rows = slice(start, min(start + self.part_size, len(self.inputs)))
            yield rows, self.at(rows)

    def at(self, rows: slice | Int64[Tensor, " chosen"]) -> Recording:
        """Return the recording of some inputs; the last slice is cached for other measures."""
        if self._last is not None and isinstance(rows, slice) and rows == self._last[0]:
            return self._last[1]
        recording = record(self.bridge, self.inputs.at(rows), self.part_size)
        if isinstance(rows, slice):
            self._last = rows, recording
        return recording


Source = Recording | Streamed


class PartCache:
    """A cache of values computed from each part of a source, up to a limit of memory."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._left = HELD_BYTES

    def of(self, rows: slice, make: Callable[[], Tensor]) -> Tensor:
        """Return the value of a part, from the cache if it is there."""
        key = rows.start, rows.stop
        if key in self._kept:
            return self._kept[key]
        made = make()
        if made.nbytes <= self._left:
            self._kept[key], self._left = made, self._left - made.nbytes
        return made


@runtime_checkable
class Statistic(Protocol):
    """A measure being taken: it receives each part of a source once, then yields its rows."""

    def add(self, part: Recording, rows: slice) -> None:
        """Add one part of the inputs."""

    def rows(self) -> Iterator[Measurement]:
        """Yield the measurements of all parts together."""


def taken(statistic: Statistic, source: Source) -> Iterator[Measurement]:
    """Yield a statistic's rows for a source, in a pass of its own."""
    for rows, part in source.parts():
        statistic.add(part, rows)
    yield from statistic.rows()


def has_mlp(bridge: TransformerBridge) -> bool:
    """Return whether the blocks have MLPs."""
    return not bridge.cfg.attn_only


def residual_sites(bridge: TransformerBridge) -> list[str]:
    """Return the residual-stream sites after each sublayer, in layer order."""
    kinds = ("hook_resid_mid", "hook_resid_post") if has_mlp(bridge) else ("hook_resid_post",)
    return [f"blocks.{layer}.{kind}" for layer in range(bridge.cfg.n_layers) for kind in kinds]


def written(bridge: TransformerBridge) -> Iterator[tuple[str, Bool[Tensor, " d_model"]]]:
    """Yield each residual site, and which dimensions its sublayer writes.

    A sublayer writes the dimensions where it has a non-zero weight. Those of the first site include
    the embedding's.
    """
    so_far = (bridge.W_E != 0).any(0) | (bridge.W_pos != 0).any(0)
    for site in residual_sites(bridge):
        block = bridge.blocks[int(site.split(".")[1])]
        if site.endswith("hook_resid_mid") or not has_mlp(bridge):
            weights, bias = block.attn.W_O.flatten(0, -2), block.attn.b_O
        else:
            weights, bias = block.mlp.W_out, block.mlp.b_out
        yield site, (so_far | (weights != 0).any(0) | (bias != 0)).cpu()
        so_far = torch.zeros_like(so_far)


def recorded_names(bridge: TransformerBridge) -> list[str]:
    """Return the hook names that a recording holds."""
    kinds = ["hook_resid_pre", "attn.hook_pattern", "attn.hook_z", "hook_attn_out"]
    kinds.append("hook_resid_post")
    if has_mlp(bridge):
        kinds += ["hook_resid_mid", "mlp.hook_pre", "hook_mlp_out"]
    return [f"blocks.{layer}.{kind}" for layer in range(bridge.cfg.n_layers) for kind in kinds]


def bytes_per_input(bridge: TransformerBridge, positions: int) -> int:
    """Return how many bytes of activations a recording holds for each input."""
    cfg = bridge.cfg
    widths = 3 * cfg.d_model + cfg.n_heads * (cfg.d_head + positions)
    if has_mlp(bridge):
        widths += 2 * cfg.d_model + (cfg.d_mlp or 0)
    return 4 * positions * int(cfg.n_layers * widths)


def observe(
    bridge: TransformerBridge,
    inputs: InputSet,
    batch_size: int,
    beside: TransformerBridge | None = None,
) -> Source:
    """Return a bridge's activations on an input set: recorded, or streamed if they are too large.

    The parts are small enough for the model `beside` too.
    """
    models, positions = (bridge, beside or bridge), inputs.tokens.shape[1]
    each = max(bytes_per_input(model, positions) for model in models)
    if len(inputs) * each <= WHOLE_BYTES:
        return record(bridge, inputs, batch_size)
    return Streamed(bridge, inputs, max(1, min(batch_size, PART_BYTES // each)))


@torch.inference_mode()
def record(bridge: TransformerBridge, inputs: InputSet, batch_size: int) -> Recording:
    """Run a bridge on an input set once, in batches, and keep what the measures need."""
    names = recorded_names(bridge)
    logits: list[Tensor] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, len(inputs), batch_size):
        rows = slice(start, start + batch_size)
        out, cache = bridge.run_with_cache(
            inputs.tokens[rows].to(bridge.cfg.device),
            attention_mask=inputs.key_mask[rows].to(bridge.cfg.device),
            names_filter=names,
        )
        logits.append(out.cpu())
        for name in names:
            kept[name].append(cache[name].cpu())
    activations = {name: _joined(parts) for name, parts in kept.items()}
    return Recording(bridge, inputs, _joined(logits), activations)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
