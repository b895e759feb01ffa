"""Alignment of a program's variables with a model: at which site, in which residual dimensions.

Attention and MLPs alternate, and so do a program's steps: selecting, then mapping the selected
values. A variable's site is the first at which a model that follows the program can hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor
from tracr.rasp import rasp
from transformer_lens.config import TransformerBridgeConfig

from ..data.inputs import InputSet
from ..data.rasp.text import edges

ALIGNED_SHARE = 0.75  # largest share of the residual dimensions that is assigned to variables
WIDEST = 16  # dimensions of one variable


@dataclass(frozen=True)
class ResidualDims:
    """Where a model holds a variable: residual dimensions at a site."""

    site: str
    dims: tuple[int, ...]


def sites_of(shape: TransformerBridgeConfig) -> list[str]:
    """Return the sites after each attention layer and each MLP, in the order of computation."""
    kinds = ("post",) if shape.attn_only else ("mid", "post")
    return [f"blocks.{at}.hook_resid_{kind}" for at in range(shape.n_layers) for kind in kinds]


def align(
    inputs: InputSet, shape: TransformerBridgeConfig, names: list[str]
) -> dict[str, ResidualDims]:
    """Return the places of those of the named variables that a model can hold one after another.

    Variables share no dimensions. The last site is the output's. If two variables would be at one
    site though one depends on the other, only the later one is held.
    """
    sites = sites_of(shape)
    last, above = len(sites) - 1, _ancestors(inputs)
    times = {name: min(time, last) for name, time in _times(inputs, shape).items() if name in names}
    held = [
        name
        for name, time in times.items()
        if time >= 1 and not any(name in above[other] and times[other] <= time for other in times)
    ]
    room = int(ALIGNED_SHARE * shape.d_model)
    held = held[:room]
    width = min(WIDEST, room // max(1, len(held)))
    return {
        name: ResidualDims(sites[times[name] - 1], tuple(range(at * width, (at + 1) * width)))
        for at, name in enumerate(held)
    }


def inner_variables(inputs: InputSet) -> list[str]:
    """Return the inner variables that are informative.

    Left out are variables that token and position alone determine, and those equivalent to another
    one or to the output.
    """
    *inner, output = inputs.variables
    known = [_partition(inputs, output)]
    token_and_position = _joint(inputs.tokens, _positions(inputs))[inputs.real]
    names = []
    for name in inner:
        own = _partition(inputs, name)
        determined = _determines(token_and_position, own)
        if not determined and not any(torch.equal(own, other) for other in known):
            known.append(own)
            names.append(name)
    return names


def _times(inputs: InputSet, shape: TransformerBridgeConfig) -> dict[str, int]:
    """Return the number of attention layers and MLPs after which each variable can be held.

    Variables that the token or the position alone determines are held from the start. If the
    program has more steps than the model, consecutive maps share an MLP.
    """
    strict = _scheduled(inputs, shape, share=False)
    return (
        strict if max(strict.values()) <= len(sites_of(shape)) else _scheduled(inputs, shape, True)
    )


def _scheduled(inputs: InputSet, shape: TransformerBridgeConfig, share: bool) -> dict[str, int]:
    real, reads = inputs.real, edges(inputs.task.program)
    embedded = [inputs.tokens[real], _positions(inputs)[real]]
    partitions: dict[str, Tensor] = {}
    times: dict[str, int] = {}
    for name, sop in inputs.task.variables.items():
        own = _partition(inputs, name)
        same = [other for other, known in partitions.items() if torch.equal(own, known)]
        before = max((times[source] for source, target, _ in reads if target == name), default=0)
        attends = isinstance(sop, (rasp.Aggregate, rasp.SelectorWidth, rasp.LengthType))
        if any(_determines(column, own) for column in embedded):
            times[name] = 0
        elif same:
            times[name] = max(times[same[0]], before if not share else 0)
        elif shape.attn_only:
            times[name] = before + attends if share else before + 1
        elif attends:
            times[name] = before + 1 + before % 2
        else:
            times[name] = before + (before % 2 if share and before else 2 - before % 2)
        partitions[name] = own
    return times


def _ancestors(inputs: InputSet) -> dict[str, set[str]]:
    """Return the variables that each variable depends on, directly or indirectly."""
    ancestors: dict[str, set[str]] = {name: set() for name in inputs.variables}
    reads = edges(inputs.task.program)
    for name in ancestors:  # in program order: a variable comes after what it reads
        for source, target, _ in reads:
            if target == name:
                ancestors[name] |= {source} | ancestors[source]
    return ancestors


def _positions(inputs: InputSet) -> Int64[Tensor, "inputs pos"]:
    return torch.arange(inputs.tokens.shape[1]).expand_as(inputs.tokens)


def _joint(codes: Tensor, other: Tensor) -> Tensor:
    return codes * (int(other.max()) + 1) + other


def _partition(inputs: InputSet, name: str) -> Int64[Tensor, " places"]:
    """Return a variable's values at the lists' positions, numbered in order of first occurrence."""
    codes = inputs.variables[name].codes[inputs.real].long()
    _, index = torch.unique(codes, return_inverse=True)
    first = torch.full((int(index.max()) + 1,), len(index))
    first.scatter_reduce_(0, index, torch.arange(len(index)), "amin")
    return first.argsort().argsort()[index]


def _determines(cause: Int64[Tensor, " places"], effect: Int64[Tensor, " places"]) -> bool:
    pairs = _joint(cause, effect)
    return len(torch.unique(pairs)) == len(torch.unique(cause))
