"""Attention patterns of a model, averaged by length and on single inputs, for display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from ...config.schema import AnalysisConfig
from ...data.inputs import InputSet
from ..activations import record
from .position_features import some_of

CHOSEN = 4  # the most inputs shown one by one
AT_MOST = 1024  # the most inputs in an average
PERCENT = 100
PATTERN = "blocks.{}.attn.hook_pattern"


@dataclass(frozen=True)
class Attention:
    """Attention of every head: averages over the inputs of each length, and some single inputs.

    A view has a `label`, an `axis` (the label of each position), and `heads`: for each head, its
    pattern (query, key) in percent.
    """

    heads: tuple[str, ...]
    views: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class AttentionPatterns:
    """The attention of a model and of its reference's active heads, or why there is none."""

    model: Attention | str
    reference: Attention | str


@torch.inference_mode()
def attention_of(
    bridge: TransformerBridge,
    inputs: InputSet,
    config: AnalysisConfig,
    heads: Sequence[tuple[int, int]] | None = None,
) -> Attention:
    """Return the attention patterns of all or some heads of a model, longest inputs first."""
    some = some_of(inputs, AT_MOST, config.seed)
    recording = record(bridge, some, config.batch_size)
    if heads is None:
        heads = list(product(range(bridge.cfg.n_layers), range(bridge.cfg.n_heads)))
    each = [recording[PATTERN.format(layer)][:, head] for layer, head in heads]
    patterns = torch.stack(each, dim=1)
    views = []
    for length in reversed(torch.unique(some.lengths).tolist()):
        of_length = some.lengths == length
        label = f"mean over {int(of_length.sum()):,} lists of length {length}"
        axis = ["BOS", *(str(place) for place in range(1, length + 1))]
        views.append(_view(label, axis, patterns[of_length].mean(0)))
    for row in _chosen(some):
        tokens = [str(token) for token in some.listed(row)]
        views.append(_view(f"the list {' '.join(tokens)}", ["BOS", *tokens], patterns[row]))
    return Attention(tuple(f"{layer}.{head}" for layer, head in heads), tuple(views))


def _view(label: str, axis: Sequence[str], patterns: Tensor) -> dict[str, Any]:
    size = len(axis)
    shares = (PERCENT * patterns[:, :size, :size]).round().int().tolist()
    return {"label": label, "axis": list(axis), "heads": shares}


def _chosen(inputs: InputSet) -> list[int]:
    """Return the rows of some inputs, two of each length from the longest on; deterministic."""
    lengths = torch.unique(inputs.lengths).tolist()
    rows: list[int] = []
    for length in reversed(lengths):
        there = (inputs.lengths == length).nonzero()[:, 0].tolist()
        for part in (0.37, 0.71):
            row = there[int(part * len(there))]
            if row not in rows and len(rows) < CHOSEN:
                rows.append(row)
    return rows
