"""The features of every place (a position of an input), of which explanations are made.

Features are the token, the index in the list, the length, and the program's variables. At BOS the
token is BOS, the index -1, and a variable is known if it is one value for the whole of any input.

Shapes: `inputs` inputs, `pos` positions of an encoded input, `cells` different combinations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ...data.inputs import InputSet
from ...data.interpreter import Value
from ...data.outputs import IGNORE
from ...data.tasks import BOS

UNKNOWN = -1  # the code of a feature that has no value at a place
HELD_OUT = 0.25  # of each length's inputs, on which explanations are judged


@dataclass(frozen=True)
class Feature:
    """A feature's value at every place, as an index into its values; `UNKNOWN` where it has none.

    The values of a numerical one are in ascending order, BOS before all tokens. `output` marks the
    program's variables that tell its output: the output, and what determines it.
    """

    name: str
    values: tuple[Value, ...]
    codes: Int64[Tensor, "inputs pos"]
    numerical: bool
    output: bool = False


@dataclass(frozen=True)
class FeatureCells:
    """The places of inputs by the combination of features there: a cell's codes, a place's cell.

    At padding a place's cell is -1.
    """

    features: tuple[Feature, ...]
    codes: Int64[Tensor, "cells features"]
    at: Int64[Tensor, "inputs pos"]


def features(inputs: InputSet) -> tuple[Feature, ...]:
    """Return the features of an input set, the simplest first, each once."""
    tokens = {index: token for token, index in inputs.token_ids.items()}
    present = torch.unique(inputs.tokens[inputs.key_mask]).tolist()
    place = torch.full((len(inputs.token_ids),), UNKNOWN)
    place[present] = torch.arange(len(present))
    n_pos = inputs.tokens.shape[1]
    index = torch.arange(n_pos).expand(len(inputs), n_pos)
    lengths, length = torch.unique(inputs.lengths, return_inverse=True)
    distinct = [
        _feature(inputs, "token", [tokens[token_id] for token_id in present], place[inputs.tokens]),
        _feature(inputs, "index", range(-1, n_pos - 1), index),
        _feature(inputs, "length", lengths.tolist(), length[:, None].expand(-1, n_pos)),
    ]
    for name, variable in inputs.variables.items():
        codes = torch.where(variable.codes == IGNORE, UNKNOWN, variable.codes.long())
        first = codes[:, 1:2]
        constant = bool(((codes == first) | ~inputs.real).all())
        codes = torch.where(inputs.real, codes, first if constant else UNKNOWN)
        feature = _feature(inputs, name, variable.values, codes)
        if not any(_same(feature, other, inputs.real) for other in distinct):
            distinct.append(replace(feature, output=_determines(feature, inputs)))
    return tuple(distinct)


def _determines(feature: Feature, inputs: InputSet) -> bool:
    """Return whether a feature's value tells the program's output, wherever there is one."""
    outputs = list(inputs.variables.values())[-1].codes[inputs.defined].tolist()
    pairs = {*zip(feature.codes[inputs.defined].tolist(), outputs, strict=True)}
    return len({value for value, _ in pairs}) == len(pairs)


def _feature(
    inputs: InputSet, name: str, values: Sequence[Value], codes: Int64[Tensor, "inputs pos"]
) -> Feature:
    """Return a feature with its values in order, and no value at padding."""
    numerical = all(isinstance(value, Real) for value in values if not is_bos(value))
    order = list(range(len(values)))
    if numerical:
        order.sort(key=lambda at: -math.inf if is_bos(values[at]) else float(values[at]))  # type: ignore[arg-type]
    rank = torch.full((len(values) + 1,), UNKNOWN)  # the last one is that of UNKNOWN
    rank[order] = torch.arange(len(values))
    codes = torch.where(inputs.key_mask, rank[codes], UNKNOWN)
    return Feature(name, tuple(values[at] for at in order), codes, numerical)


def _same(first: Feature, other: Feature, real: Bool[Tensor, "inputs pos"]) -> bool:
    """Return whether two features have the same values at the list's own positions."""
    pairs = {*zip(first.codes[real].tolist(), other.codes[real].tolist(), strict=True)}

    def value(feature: Feature, code: int) -> Value:
        return None if code == UNKNOWN else feature.values[code]

    return all(value(first, a) == value(other, b) for a, b in pairs)


def cells(inputs: InputSet, chosen: Sequence[Feature]) -> FeatureCells:
    """Return the combinations of features that occur, BOS's among them."""
    codes = torch.stack([feature.codes for feature in chosen], dim=-1)[inputs.key_mask]
    different, which = torch.unique(codes, dim=0, return_inverse=True)
    at = torch.full(inputs.tokens.shape, UNKNOWN)
    at[inputs.key_mask] = which
    return FeatureCells(tuple(chosen), different, at)


def some_of(inputs: InputSet, at_most: int, seed: int) -> InputSet:
    """Return the inputs, or so many of them, every length alike, where there are more."""
    if len(inputs) <= at_most:
        return inputs
    generator, lengths = np.random.default_rng([seed, 21]), inputs.lengths.numpy()
    chosen, left = list[np.ndarray](), at_most
    present, counts = np.unique(lengths, return_counts=True)
    order = np.argsort(counts, kind="stable")  # a short length leaves the rest to the others
    for done, at in enumerate(order):
        share = max(1, left // (len(order) - done))
        rows = generator.permutation(np.flatnonzero(lengths == present[at]))[:share]
        chosen.append(rows)
        left -= len(rows)
    return inputs.at(torch.from_numpy(np.sort(np.concatenate(chosen))))


def held_out(inputs: InputSet, seed: int) -> Bool[Tensor, " inputs"]:
    """Return which inputs explanations are judged on: a quarter of each length, by input."""
    generator, lengths = np.random.default_rng([seed, 22]), inputs.lengths.numpy()
    chosen = np.zeros(len(inputs), dtype=bool)
    for length in np.unique(lengths):
        rows = generator.permutation(np.flatnonzero(lengths == length))
        chosen[rows[: min(len(rows) - 1, max(1, round(HELD_OUT * len(rows))))]] = True
    return torch.from_numpy(chosen)


def is_bos(value: Value) -> bool:
    """Return whether a token is BOS."""
    return isinstance(value, str) and value == BOS
