"""The program's variable that each edge of a model carries, if there is one.

The test scrubs one edge (Chan et al. 2022). At every position of a list, the reader receives the
node's output from a donor: a random (input, position) with the same value of the variable. If the
model's outputs do not change, the edge carries nothing else that matters. The share is 1 minus the
ratio of two divergences: that with these donors over that with unrestricted donors, each the mean
of several draws. `chance` is the share with the variable's values shuffled among the places; it is
high for variables of many values, since few donors are left. Variables with the same partition of
the places are merged.

Shapes: as in `circuits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ...data.donors import Donated, anywhere
from ...data.inputs import InputSet
from ...data.outputs import IGNORE
from ...models.wiring import Edge
from ..statistics import bootstrap_counts, percentile_intervals, weighted_sums
from .edge_scores import NOTHING, VALUES_AT_ONCE, AblatedGraph, Progress, divergence

DRAWS = 4  # of donors
CARRIES = 0.9  # least share, raw and corrected for chance, of a variable that is carried


@dataclass(frozen=True)
class VariableShare:
    """The share of an edge's effect that a variable explains, its interval and chance level.

    The interval is from a bootstrap over inputs.
    """

    share: float
    low: float
    high: float
    chance: float

    @property
    def all_of_it(self) -> bool:
        """Whether the share, raw and corrected for chance, surely reaches `CARRIES`."""
        by_chance = max(0.0, self.chance)
        above = (self.share - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
        return self.low >= CARRIES and above >= CARRIES


@dataclass(frozen=True)
class EdgeVariables:
    """The share of each variable on an edge; None where the edge has no effect.

    An edge has no effect if unrestricted donors change nothing. Merged variables have one name,
    `a = b`.
    """

    edge: Edge
    variables: dict[str, VariableShare] | None

    @property
    def highest(self) -> VariableShare | None:
        """The share of the variable that explains most."""
        return max((self.variables or {}).values(), key=lambda held: held.share, default=None)

    @property
    def names(self) -> tuple[str, ...]:
        """The carried variable; more than one if their intervals do not tell them apart."""
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
        """`names` as text; empty where no variable is carried."""
        return " or ".join(self.names)


@torch.inference_mode()
def variables_on_edges(
    ablated: AblatedGraph,
    edges: Sequence[Edge],
    draws: int,
    seed: int,
    progress: Progress | None = None,
) -> list[EdgeVariables]:
    """Return what each of some edges carries, on the inputs of an ablation.

    `draws` is the number of bootstrap resamples.
    """
    inputs, wiring, intact = ablated.inputs, ablated.wiring, ablated.intact
    groups = partitions(inputs)
    donated = _donated(inputs, list(groups.values()), seed)
    places = [ablated.task_model.own_places(each.rows, each.positions) for each in donated]
    counts = bootstrap_counts(len(inputs), draws, seed)
    contents: list[EdgeVariables] = []
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
        contents.append(EdgeVariables(edge, _held(mean, list(groups), counts)))
        if progress is not None:
            progress(i + 1, len(edges))
    return contents


def partitions(inputs: InputSet) -> dict[str, Int64[Tensor, "inputs pos"]]:
    """Return the program's variables by name; those with the same partition are merged."""
    groups: dict[bytes, tuple[list[str], Tensor]] = {}
    for name, variable in inputs.variables.items():
        codes = variable.codes.long()
        own = codes[inputs.real]
        values, first = np.unique(own.numpy(), return_index=True)
        order = np.argsort(np.argsort(first))  # values numbered by first occurrence
        key = order[np.searchsorted(values, own.numpy())]
        undefined = np.where(own.numpy() == IGNORE, 1, 0)
        names, _ = groups.setdefault(key.tobytes() + undefined.tobytes(), ([], codes))
        names.append(name)
    return {" = ".join(names): codes for names, codes in groups.values()}


def _donated(
    inputs: InputSet, variables: Sequence[Int64[Tensor, "inputs pos"]], seed: int
) -> list[Donated]:
    """Return, for each draw, unrestricted donors, then for each variable its donors.

    Each variable has two sets: donors of the same value, and of the same shuffled value.
    """
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
) -> dict[str, VariableShare] | None:
    free, rest = apart[:1], apart[1:]
    if float(free.mean()) <= NOTHING:
        return None
    sums = weighted_sums(counts, apart.T.contiguous())
    drawn = 1 - sums[:, 1:] / sums[:, :1].clamp(min=NOTHING)
    shares = (1 - rest.mean(1) / free.mean()).tolist()
    intervals = percentile_intervals(drawn)
    return {
        name: VariableShare(shares[2 * i], *intervals[2 * i], shares[2 * i + 1])
        for i, name in enumerate(names)
    }


def _alike(
    inputs: InputSet,
    codes: Int64[Tensor, "inputs pos"],
    free: Donated,
    generator: np.random.Generator,
) -> Donated:
    """Return for each place of a list a donor place with the same code, another one if possible.

    BOS, padding, and places where the variable is undefined keep the donors of `free`.
    """
    rows, positions = free.rows.clone(), free.positions.clone()
    places = torch.nonzero(inputs.real)
    own = codes[inputs.real]
    for code in torch.unique(own[own != IGNORE]).tolist():
        some = places[own == code].numpy()
        order = generator.permutation(len(some))
        drawn = np.empty(len(some), dtype=np.int64)
        drawn[order] = np.roll(order, 1)  # each donates once, never to itself if there are two
        at = torch.from_numpy(some)
        rows[at[:, 0], at[:, 1]] = at[drawn, 0]
        positions[at[:, 0], at[:, 1]] = at[drawn, 1]
    return replace(free, rows=rows, positions=positions)


def summed(contents: Sequence[EdgeVariables]) -> dict[str, list[EdgeVariables]]:
    """Return the edges that carry each variable, grouped by `Carried.name`."""
    groups: dict[str, list[EdgeVariables]] = {}
    for content in contents:
        if content.names:
            groups.setdefault(content.name, []).append(content)
    return groups
