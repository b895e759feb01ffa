"""What runs over a model's edges: the program's variable that an edge carries, if there is one.

At every position of a list the reader gets what the node writes at a place, of any input, where the
variable has the same value (scrubbing one edge: Chan et al. 2022). If the outputs stay as they are,
the variable is all that counts of what goes over the edge. How much that is: 1 less the divergence
it makes, over that where any place gives, each the mean of several draws of donors. `chance` is the
same with the variable's values shuffled among the places: many values leave few places to choose
from. Variables that tell the same places apart are one.

Shapes: as in `circuits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ..data.donors import Donated, anywhere
from ..data.inputs import InputSet
from ..data.outputs import IGNORE
from ..models.wiring import Edge
from .circuits import NOTHING, VALUES_AT_ONCE, Ablated, Progress, divergence
from .statistics import bootstrap_counts, percentile_intervals, weighted_sums

DRAWS = 4  # of donors
CARRIES = 0.9  # of what counts, and of what chance leaves, from which on a variable is carried


@dataclass(frozen=True)
class Held:
    """How much of what counts on an edge a variable is, with a bootstrap over inputs; by chance."""

    share: float
    low: float
    high: float
    chance: float

    @property
    def all_of_it(self) -> bool:
        """Whether the variable is surely most of what counts, and of what chance leaves."""
        by_chance = max(0.0, self.chance)
        above = (self.share - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
        return self.low >= CARRIES and above >= CARRIES


@dataclass(frozen=True)
class Carried:
    """What each variable is of what counts on an edge; None where nothing counts.

    Nothing counts on an edge where any place may give. Variables that are one have one name,
    `a = b`.
    """

    edge: Edge
    variables: dict[str, Held] | None

    @property
    def highest(self) -> Held | None:
        """The variable that is most of it."""
        return max((self.variables or {}).values(), key=lambda held: held.share, default=None)

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that are all that counts; several that cannot be told apart."""
        highest = self.highest
        if highest is None:
            return ()
        return tuple(
            name
            for name, held in (self.variables or {}).items()
            if held.all_of_it and held.high >= highest.low
        )

    @property
    def name(self) -> str:
        """The same as text; empty where no variable alone is."""
        return " or ".join(self.names)


@torch.inference_mode()
def carried(
    ablated: Ablated,
    edges: Sequence[Edge],
    draws: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Carried]:
    """Return what each edge of a model carries, on the inputs of an ablation.

    `draws` is of the bootstrap.
    """
    inputs, wiring, intact = ablated.inputs, ablated.wiring, ablated.intact
    groups = partitions(inputs)
    donated = _donated(inputs, list(groups.values()), seed)
    places = [ablated.subject.own_places(each.rows, each.positions) for each in donated]
    counts = bootstrap_counts(len(inputs), draws, seed)
    contents: list[Carried] = []
    for i, edge in enumerate(edges):
        written = intact.written[edge.node]
        stream = wiring.stream(edge.reader, intact.written)
        apart: list[Tensor] = []
        count = max(1, VALUES_AT_ONCE // stream.numel())
        for at in range(0, len(places), count):
            changes = [written[rows, spots] - written for rows, spots in places[at : at + count]]
            stack = torch.stack([torch.zeros_like(stream), *changes])
            given = ablated.read(
                wiring.patched(edge.reader, stream, stack, intact, ablated.key_mask)
            )
            apart.append(divergence(inputs.output, given[1:], given[0], inputs.defined))
        mean = torch.cat(apart).view(DRAWS, -1, len(inputs)).mean(0)
        contents.append(Carried(edge, _held(mean, list(groups), counts)))
        if progress is not None:
            progress(i + 1, len(edges))
    return contents


def partitions(inputs: InputSet) -> dict[str, Int64[Tensor, "inputs pos"]]:
    """Return the program's variables by name, those that tell the same places apart as one."""
    groups: dict[bytes, tuple[list[str], Tensor]] = {}
    for name, variable in inputs.variables.items():
        codes = variable.codes.long()
        own = codes[inputs.real]
        values, first = np.unique(own.numpy(), return_index=True)
        order = np.argsort(np.argsort(first))  # values numbered as they come
        key = order[np.searchsorted(values, own.numpy())]
        undefined = np.where(own.numpy() == IGNORE, 1, 0)
        names, _ = groups.setdefault(key.tobytes() + undefined.tobytes(), ([], codes))
        names.append(name)
    return {" = ".join(names): codes for names, codes in groups.values()}


def _donated(
    inputs: InputSet, variables: Sequence[Int64[Tensor, "inputs pos"]], seed: int
) -> list[Donated]:
    """Return for each draw any places, then for each variable those alike, and by chance."""
    bases, real, donated = torch.arange(len(inputs)), inputs.real, list[Donated]()
    generator = np.random.default_rng([seed, len(inputs), 5])
    for _ in range(DRAWS):
        free = anywhere(inputs, bases, generator)
        donated.append(free)
        for codes in variables:
            mixed = codes.clone()
            mixed[real] = codes[real][torch.from_numpy(generator.permutation(int(real.sum())))]
            donated += [_alike(inputs, each, free, generator) for each in (codes, mixed)]
    return donated


def _held(
    apart: Float64[Tensor, "ways inputs"], names: Sequence[str], counts: Tensor
) -> dict[str, Held] | None:
    free, rest = apart[:1], apart[1:]
    if float(free.mean()) <= NOTHING:
        return None
    sums = weighted_sums(counts, apart.T.contiguous())
    drawn = 1 - sums[:, 1:] / sums[:, :1].clamp(min=NOTHING)
    shares = (1 - rest.mean(1) / free.mean()).tolist()
    intervals = percentile_intervals(drawn)
    return {
        name: Held(shares[2 * i], *intervals[2 * i], shares[2 * i + 1])
        for i, name in enumerate(names)
    }


def _alike(
    inputs: InputSet,
    codes: Int64[Tensor, "inputs pos"],
    free: Donated,
    generator: np.random.Generator,
) -> Donated:
    """Return for each place of a list another one with the same code, if there is one.

    BOS, padding, and places where the variable is undefined get what `free` gives them.
    """
    rows, positions = free.rows.clone(), free.positions.clone()
    places = torch.nonzero(inputs.real)
    own = codes[inputs.real]
    for code in torch.unique(own[own != IGNORE]).tolist():
        some = places[own == code].numpy()
        order = generator.permutation(len(some))
        drawn = np.empty(len(some), dtype=np.int64)
        drawn[order] = np.roll(order, 1)  # each gives once, never to itself if there are two
        at = torch.from_numpy(some)
        rows[at[:, 0], at[:, 1]] = at[drawn, 0]
        positions[at[:, 0], at[:, 1]] = at[drawn, 1]
    return replace(free, rows=rows, positions=positions)


def summed(contents: Sequence[Carried]) -> dict[str, list[Carried]]:
    """Return the edges that carry each variable, by what cannot be told apart."""
    groups: dict[str, list[Carried]] = {}
    for content in contents:
        if content.names:
            groups.setdefault(content.name, []).append(content)
    return groups
