"""Tables: what a head attends to by what query and key are, fitted on some inputs.

A table has a score for each combination of what it goes by (positions, tokens, the length, a
variable of the program): the mean, over the training inputs, of how much more the head looks at
such a key than at BOS, on the scale of attention scores. Attention is the softmax of the scores
over the keys there are. A combination that no training input has gets the score of its positions.

Shapes: `inputs`, `query` and `key` positions of an encoded input, `head` heads of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ...data.inputs import InputSet
from .attention_patterns import allowed
from .position_features import Feature

LEAST = 1e-30  # attention below this counts as this, for it has a logarithm
MOST_VALUES = 64  # of a variable that a table may go by
POSITIONS = "positions"


@dataclass(frozen=True)
class TableKind:
    """A kind of table: what of the query and of the key it goes by, by features' names."""

    name: str
    query: tuple[str, ...]
    key: tuple[str, ...]


KINDS = (  # the simplest first; those by variables of the program come after the first two
    TableKind(POSITIONS, ("index",), ("index",)),
    TableKind("tokens", ("token",), ("token",)),
    TableKind("length, positions", ("length", "index"), ("index",)),
    TableKind("positions, token of key", ("index",), ("index", "token")),
    TableKind("positions, token of query", ("index", "token"), ("index",)),
    TableKind("length, positions, token of key", ("length", "index"), ("index", "token")),
    TableKind("length, positions, token of query", ("length", "index", "token"), ("index",)),
    TableKind("positions, tokens", ("index", "token"), ("index", "token")),
    TableKind("length, positions, tokens", ("length", "index", "token"), ("index", "token")),
)


def kinds(features: Sequence[Feature]) -> list[TableKind]:
    """Return the kinds of table there are for a program, the simplest first."""
    inner = [
        feature.name
        for feature in features[3:]
        if len(feature.values) <= MOST_VALUES and not feature.output
    ]
    own = [
        kind
        for name in inner
        for kind in (
            TableKind(f"{name} at query, position of key", (name,), ("index",)),
            TableKind(f"position of query, {name} at key", ("index",), (name,)),
            TableKind(f"{name} at query and key", (name,), (name,)),
        )
    ]
    return [*KINDS[:2], *own, *KINDS[2:]]


def scores_of(pattern: Float[Tensor, "inputs *head query key"]) -> Tensor:
    """Return attention as scores: its logarithm less that of the attention to BOS."""
    logs = pattern.clamp(min=LEAST).log()
    scores: Tensor = logs - logs[..., :1]
    return scores


class Tables:
    """Fits tables of every kind on the training inputs of a set."""

    def __init__(self, inputs: InputSet, features: Sequence[Feature], train: Bool[Tensor, " n"]):
        self._may = allowed(inputs)
        self._train = self._may & train[:, None, None]
        self._codes = {feature.name: feature.codes + 1 for feature in features}
        self._sizes = {feature.name: len(feature.values) + 1 for feature in features}
        self.kinds = kinds(features)
        self._positions = self._cells(self.kinds[0])

    def _cells(self, kind: TableKind) -> Int64[Tensor, " pairs"]:
        """Return the cell of each allowed pair of a query and a key."""
        cells = torch.zeros_like(self._may, dtype=torch.int64)
        for names, dim in ((kind.query, 2), (kind.key, 1)):
            for name in names:
                cells = cells * self._sizes[name] + self._codes[name].unsqueeze(dim)
        which: Tensor = torch.unique(cells[self._may], return_inverse=True)[1]
        return which

    def fitted(
        self, pattern: Float[Tensor, "inputs head query key"]
    ) -> Iterator[tuple[TableKind, int, Float[Tensor, "inputs head query key"]]]:
        """Yield each kind, how many numbers its table holds, and the heads' attention by it."""
        values = scores_of(pattern).movedim(1, -1)[self._may]
        train = self._train[self._may]
        coarse, _ = _means(self._positions, values, train)
        for kind in self.kinds:
            cells = self._positions if kind.name == POSITIONS else self._cells(kind)
            fine, seen = _means(cells, values, train)
            scores = torch.where(seen[cells, None], fine[cells], coarse[self._positions])
            whole = torch.full((*self._may.shape, scores.shape[-1]), -torch.inf)
            whole[self._may] = scores
            attention = whole.movedim(-1, 1).softmax(-1).nan_to_num(0.0)
            yield kind, int(seen.sum()), attention


def _means(
    cells: Int64[Tensor, " pairs"],
    values: Float[Tensor, "pairs head"],
    train: Bool[Tensor, " pairs"],
) -> tuple[Float[Tensor, "cells head"], Bool[Tensor, " cells"]]:
    """Return the mean of each cell over the training pairs, and which cells have any."""
    size = int(cells.max()) + 1
    counts = torch.bincount(cells[train], minlength=size)
    sums = torch.zeros(size, values.shape[1], dtype=torch.float64)
    sums.index_add_(0, cells[train], values[train].double())
    return (sums / counts[:, None].clamp(min=1)).float(), counts > 0
