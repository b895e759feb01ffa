"""The selections of a program's selectors on an input set; equal selections are merged.

Shapes: `inputs` inputs, `query` and `key` positions of an encoded input (BOS, the list, padding).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .inputs import CHUNK, InputSet
from .interpreter import Column, Interpreter, Value
from .outputs import stable_text
from .rasp.text import selectors


@dataclass(frozen=True, eq=False)
class Selection:
    """The keys that equal selectors select at each query, with all their names and uses.

    Nothing is selected at BOS, at padding, and, by default, where the output is undefined.
    """

    names: tuple[str, ...]
    uses: frozenset[str]
    selected: Bool[Tensor, "inputs query key"]

    @property
    def name(self) -> str:
        """The first selector's name."""
        return self.names[0]

    @cached_property
    def key(self) -> bytes:
        """A key that is equal for selectors that select the same keys."""
        return np.packbits(self.selected.numpy()).tobytes()

    @cached_property
    def counted(self) -> Bool[Tensor, "inputs query"]:
        """The queries that select at least one key."""
        return self.selected.any(-1)

    def pattern(self, rows: slice) -> Float[Tensor, "inputs query key"]:
        """Return the attention pattern of a head that attends uniformly to the selected keys."""
        chosen = self.selected[rows].float()
        return chosen / chosen.sum(-1, keepdim=True).clamp(min=1)


def selections(inputs: InputSet, everywhere: bool = False) -> list[Selection]:
    """Return the selections of the program's selectors on the inputs, in program order.

    Queries are the positions with an output, or all list positions with `everywhere`. Selectors
    that select nothing at any of these are left out.
    """
    distinct: dict[bytes, Selection] = {}
    read = selectors(inputs.task.program)
    whole = selected(inputs, {name: selector for name, (selector, _) in read.items()})
    asked = (inputs.real if everywhere else inputs.defined)[:, :, None]
    for name, (_, uses) in read.items():
        selection = Selection((name,), uses, whole[name] & asked)
        if selection.key in distinct:
            same = distinct[selection.key]
            selection = replace(same, names=(*same.names, name), uses=same.uses | uses)
        if selection.counted.any():
            distinct[selection.key] = selection
    return list(distinct.values())


def selected(
    inputs: InputSet, read: Mapping[str, Any]
) -> dict[str, Bool[Tensor, "inputs query key"]]:
    """Return the keys that selectors of the inputs' program select, by selector name."""
    whole = {
        name: torch.zeros(*inputs.tokens.shape, inputs.tokens.shape[1]).bool() for name in read
    }
    for rows, length, interpreter in _interpreted(inputs):
        places = slice(1, length + 1)
        for name, selector in read.items():
            whole[name][rows, places, places] = torch.from_numpy(interpreter.selection(selector))
    return whole


def equal_values(inputs: InputSet, sop: Any) -> tuple[Value, ...]:
    """Return an s-op's values that are equal but differ in type, such as 1 and True; () if none."""
    alike: dict[Value, dict[str, Value]] = {}
    for _, _, interpreter in _interpreted(inputs):
        for value in interpreter.column(sop).values:
            alike.setdefault(value, {}).setdefault(stable_text(value), value)
    return next((tuple(each.values()) for each in alike.values() if len(each) > 1), ())


def _interpreted(inputs: InputSet) -> Iterator[tuple[Tensor, int, Any]]:
    """Yield, for each length, its rows, the length, and the program's interpreter on them."""
    vocabulary = tuple(sorted(inputs.token_ids, key=inputs.token_ids.__getitem__))
    for length in torch.unique(inputs.lengths).tolist():
        rows = torch.nonzero(inputs.lengths == length)[:, 0]
        for part in torch.split(rows, max(1, CHUNK // length**2)):
            tokens = inputs.tokens[part, 1 : length + 1].numpy()
            yield part, length, Interpreter(Column(tokens, vocabulary), inputs.task.causal)
