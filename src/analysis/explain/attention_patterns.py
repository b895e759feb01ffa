"""The attention that a head may be explained by: a program's selectors, and generic ones.

A selector says which keys of the list a query selects. What attention that is depends on the rest:

- `ELSE_BOS`: the selected keys, each alike; BOS where nothing is selected. So do Tracr's heads
  that aggregate.
- `AND_BOS`: the selected keys and BOS, each alike. So do Tracr's heads that count, for the share
  of BOS tells the count.
- `ELSE_ALL`: the selected keys, each alike; everything where nothing is selected.

What BOS itself attends to is a row of its own (`BOS_ROWS`): Tracr's BOS selects nothing.

Shapes: `inputs`, `query` and `key` positions of an encoded input (BOS, the list, padding).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ...data.inputs import InputSet
from ...data.program_selectors import Selection, selections
from ..head_attention import uniform_attention

ELSE_BOS, AND_BOS, ELSE_ALL = "else BOS", "and BOS", "else everything"
FORMS = (ELSE_BOS, AND_BOS, ELSE_ALL)
ITSELF = "itself"


@dataclass(frozen=True)
class Grid:
    """What a generic selector may go by: positions from 1 on, tokens, lengths, broadcastable."""

    query: Int64[Tensor, "1 pos 1"]
    key: Int64[Tensor, "1 1 pos"]
    query_token: Int64[Tensor, "inputs pos 1"]
    key_token: Int64[Tensor, "inputs 1 pos"]
    length: Int64[Tensor, "inputs 1 1"]


GENERIC: Mapping[str, Callable[[Grid], Tensor]] = {
    "BOS": lambda g: g.key < 0,
    "everything": lambda g: g.key > 0,
    "self": lambda g: g.key == g.query,
    "previous": lambda g: g.key == g.query - 1,
    "next": lambda g: g.key == g.query + 1,
    "first": lambda g: g.key == 1,
    "last": lambda g: g.key == g.length,
    "mirror": lambda g: g.key == g.length + 1 - g.query,
    "earlier": lambda g: g.key < g.query,
    "up to here": lambda g: g.key <= g.query,
    "later": lambda g: g.key > g.query,
    "all others": lambda g: g.key != g.query,
    "same token": lambda g: g.key_token == g.query_token,
    "same token elsewhere": lambda g: (g.key_token == g.query_token) & (g.key != g.query),
    "earlier same token": lambda g: (g.key_token == g.query_token) & (g.key < g.query),
    "later same token": lambda g: (g.key_token == g.query_token) & (g.key > g.query),
    "another token": lambda g: g.key_token != g.query_token,
}
BOS_ROWS: Mapping[str, Callable[[Grid], Tensor]] = {  # of all keys, BOS too
    ITSELF: lambda g: g.key == 0,
    "everything": lambda g: g.key >= 0,
    "the list": lambda g: g.key > 0,
    "first": lambda g: g.key == 1,
    "last": lambda g: g.key == g.length,
}


@dataclass(frozen=True, eq=False)
class Selector:
    """Keys selected in one of the three forms, by all its names; BOS selects nothing here."""

    names: tuple[str, ...]
    form: str
    selected: Bool[Tensor, "inputs query key"]

    @property
    def name(self) -> str:
        """The first name, and the form."""
        if self.names[0] == "everything":
            return "everything" if self.form == AND_BOS else "the list"
        return self.names[0] if self.names[0] == "BOS" else f"{self.names[0]}, {self.form}"

    @cached_property
    def pattern(self) -> Float[Tensor, "inputs query key"]:
        """The attention of a head that selects just these keys, each alike."""
        chosen = self.selected.float()
        return chosen / chosen.sum(-1, keepdim=True).clamp(min=1)


def grid_of(inputs: InputSet) -> Grid:
    """Return what generic selectors may go by on an input set."""
    place = torch.arange(inputs.tokens.shape[1])
    return Grid(
        place[None, :, None],
        place[None, None, :],
        inputs.tokens[:, :, None],
        inputs.tokens[:, None, :],
        inputs.lengths[:, None, None],
    )


def allowed(inputs: InputSet) -> Bool[Tensor, "inputs query key"]:
    """Return the keys that a query may attend to; a query of the padding to none."""
    return (uniform_attention(inputs) > 0) & inputs.key_mask[:, :, None]


def of_programs(inputs: Iterable[tuple[str, InputSet]]) -> list[Selection]:
    """Return the selections of a task's programs by name, its own first.

    Those of the others are named with their program.
    """
    chosen: list[Selection] = []
    for number, (program, own) in enumerate(inputs):
        for selection in selections(own, everywhere=True):
            names = (
                selection.names
                if number == 0
                else [f"{name} ({program})" for name in selection.names]
            )
            chosen.append(Selection(tuple(names), selection.uses, selection.selected))
    return chosen


def selectors(inputs: InputSet, programs: Iterable[Selection] = ()) -> list[Selector]:
    """Return the programs' selectors and the generic ones, in each form, those that are one as one.

    The simplest name comes first: a program's own, then a generic one.
    """
    grid, may, real = grid_of(inputs), allowed(inputs), inputs.real
    listed = may & real[:, :, None] & real[:, None, :]
    given = [(selection.names, selection.selected & listed) for selection in programs]
    given += [((name,), select(grid) & listed) for name, select in GENERIC.items()]
    distinct: dict[bytes, Selector] = {}
    for form in FORMS:
        for names, chosen in given:
            if form != ELSE_BOS and not chosen.any():
                continue  # it is BOS in every form
            whole = _in_form(chosen, form, may) & real[:, :, None]
            key = np.packbits(whole.numpy()).tobytes()
            if key not in distinct:
                distinct[key] = Selector(names, form, whole)
            elif distinct[key].form == form:
                every = dict.fromkeys((*distinct[key].names, *names))
                distinct[key] = Selector(tuple(every), form, whole)
    return list(distinct.values())


def _in_form(
    chosen: Bool[Tensor, "inputs query key"], form: str, may: Bool[Tensor, "inputs query key"]
) -> Bool[Tensor, "inputs query key"]:
    none = ~chosen.any(-1, keepdim=True)
    bos = torch.arange(chosen.shape[-1]) == 0
    if form == AND_BOS:
        return chosen | (bos & may)
    return chosen | (none & may & bos if form == ELSE_BOS else none & may)


def bos_rows(inputs: InputSet) -> dict[str, Float[Tensor, "inputs query key"]]:
    """Return what BOS may attend to, by name; other queries have nothing.

    In a causal model it can only attend to itself.
    """
    grid, may = grid_of(inputs), allowed(inputs)
    may = may & (torch.arange(may.shape[1]) == 0)[:, None]
    rows = {}
    for name, select in BOS_ROWS.items():
        chosen = (select(grid) & may).float()
        if name == ITSELF or not inputs.task.causal:
            rows[name] = chosen / chosen.sum(-1, keepdim=True).clamp(min=1)
    return rows
