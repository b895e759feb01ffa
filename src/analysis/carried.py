"""What runs over a model's edges: the program's variable that an edge carries, if there is one.

At every position of a list the reader gets what the node writes at a place, of any input, where the
variable has the same value (scrubbing one edge: Chan et al. 2022). If the outputs stay as they are,
the variable is all that counts of what goes over the edge. How much that is: 1 less the divergence
it makes, over that where any place gives. `chance` is the same with the variable's values shuffled
among the places: many values leave few places to choose from.

Shapes: as in `circuits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ..data.donors import Donated, anywhere
from ..data.inputs import InputSet
from ..models.wiring import Edge
from .circuits import NOTHING, VALUES_AT_ONCE, Ablated, Progress, divergence

TIED = 0.01  # shares that are as good as each other


@dataclass(frozen=True)
class Carried:
    """How much of what counts on an edge each variable is, and by chance; None if nothing counts.

    Nothing counts on an edge where any place may give.
    """

    edge: Edge
    shares: dict[str, tuple[float, float]] | None
    values: dict[str, int]

    @property
    def best(self) -> tuple[str, ...]:
        """The variables that are the most of it; of equally good ones those of fewest values."""
        if not self.shares:
            return ()
        highest = max(share for share, _ in self.shares.values())
        good = [name for name, (share, _) in self.shares.items() if share >= highest - TIED]
        fewest = min(self.values[name] for name in good)
        return tuple(name for name in good if self.values[name] == fewest)

    @property
    def share(self) -> float:
        """How much of it the best variable is."""
        return self.shares[self.best[0]][0] if self.shares else float("nan")

    @property
    def chance(self) -> float:
        """How much of it that is by chance."""
        return self.shares[self.best[0]][1] if self.shares else float("nan")

    @property
    def above_chance(self) -> float:
        """How much of what chance leaves the best variable is: 1 is all, 0 is chance."""
        by_chance = max(0.0, self.chance)
        return (self.share - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


@torch.inference_mode()
def carried(
    one: Ablated, edges: Sequence[Edge], seed: int, progress: Progress | None = None
) -> list[Carried]:
    """Return what each edge of a model carries, on the inputs of an ablation."""
    inputs, wiring, intact = one.inputs, one.wiring, one.intact
    bases = torch.arange(len(inputs))
    generator = np.random.default_rng([seed, len(inputs), 5])
    free = anywhere(inputs, bases, generator)
    donated, names = [free], list(inputs.variables)
    for name in names:
        codes = inputs.variables[name].codes.long()
        mixed = codes.clone()
        real = inputs.real
        mixed[real] = codes[real][torch.from_numpy(generator.permutation(int(real.sum())))]
        donated += [_alike(inputs, values, free, generator) for values in (codes, mixed)]
    places = [one.subject.own_places(each.rows, each.positions) for each in donated]
    values = {name: len(torch.unique(inputs.variables[name].codes)) for name in names}
    found: list[Carried] = []
    for i, edge in enumerate(edges):
        written = intact.written[edge.node]
        stream = wiring.stream(edge.reader, intact.written)
        apart: list[float] = []
        count = max(1, VALUES_AT_ONCE // stream.numel())
        for at in range(0, len(places), count):
            changes = [written[rows, spots] - written for rows, spots in places[at : at + count]]
            stack = torch.stack([torch.zeros_like(stream), *changes])
            given = one.read(wiring.patched(edge.reader, stream, stack, intact, one.key_mask))
            moved = divergence(inputs.output, given[1:], given[0], inputs.defined)
            apart += moved.mean(-1).tolist()
        found.append(Carried(edge, _shares(apart, names), values))
        if progress is not None:
            progress(i + 1, len(edges))
    return found


def _shares(apart: Sequence[float], names: Sequence[str]) -> dict[str, tuple[float, float]] | None:
    free, rest = apart[0], apart[1:]
    if free <= NOTHING:
        return None
    return {
        name: (1 - rest[2 * i] / free, 1 - rest[2 * i + 1] / free) for i, name in enumerate(names)
    }


def _alike(
    inputs: InputSet,
    codes: Int64[Tensor, "inputs pos"],
    free: Donated,
    generator: np.random.Generator,
) -> Donated:
    """Return for each place of a list one with the same code, of another input if there is one.

    BOS and padding get what `free` gives them.
    """
    rows, positions = free.rows.clone(), free.positions.clone()
    places = torch.nonzero(inputs.real)
    own = codes[inputs.real]
    for code in torch.unique(own).tolist():
        some = places[own == code].numpy()
        order = generator.permutation(len(some))
        drawn = np.empty(len(some), dtype=np.int64)
        drawn[order] = np.roll(order, 1)  # each gives once, never to itself if there are two
        at = torch.from_numpy(some)
        rows[at[:, 0], at[:, 1]] = at[drawn, 0]
        positions[at[:, 0], at[:, 1]] = at[drawn, 1]
    return replace(free, rows=rows, positions=positions)


def summed(found: Sequence[Carried], least: float) -> dict[str, list[Carried]]:
    """Return the edges that carry each variable, by those that are one to this test.

    At least so much of what chance leaves.
    """
    groups: dict[str, list[Carried]] = {}
    for one in found:
        if one.shares and one.above_chance >= least:
            groups.setdefault(" = ".join(one.best), []).append(one)
    return groups
