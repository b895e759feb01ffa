"""How good a circuit is: whether it does what the model does, alone, and whether all of it does.

Of a circuit, a set of edges, all other edges are taken away by one kind of ablation. D is how far
the outputs then are from the intact model's (`circuits.divergence`), mean over inputs.

- faithfulness: 1 - D(circuit) / D(no edge): 1 is what the model does, 0 what is left without it.
- completeness: the same of all edges but the circuit's: what the model does without it. 0 is best:
  nothing of the model is outside (Marks et al. 2024).
- minimality: the share of the circuit's edges without which D is surely larger (after Wang et al.
  2023, who ask for nodes).

Shapes: `mask` circuits, `inputs` inputs, `reader` and `node` of a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from ...models.wiring import Edge
from ..measures.accuracy import outcome
from ..statistics import (
    bootstrap_counts,
    percentile_interval,
    percentile_intervals,
    weighted_sums,
    wilson_interval,
)
from .edge_scores import NOTHING, Ablated, Progress, Scores, all_edges, top

HELD_NUMBERS = 2**22  # of what all nodes write on a part of the inputs
GROWTH = 1.5  # from one size of a curve to the next


@dataclass(frozen=True)
class Judged:
    """What circuits give on every input: divergence from the intact model, and exactness."""

    divergence: Float64[Tensor, "mask inputs"]
    exact: Float64[Tensor, "mask inputs"]


@dataclass(frozen=True)
class Share:
    """A share with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Circuit:
    """A circuit found by a method under a kind of ablation, and how good it is.

    `exact` is its own exact accuracy. Completeness is None where it was not asked for.
    """

    method: str
    kind: str
    edges: Bool[Tensor, "reader node"]
    faithfulness: Share
    exact: Share
    completeness: Share | None = None

    @property
    def size(self) -> int:
        """How many edges it has."""
        return int(self.edges.sum())


def judged(
    one: Ablated, circuits: Sequence[Bool[Tensor, "reader node"]], progress: Progress | None = None
) -> Judged:
    """Return what circuits give, everything outside of each taken away, on all inputs."""
    every, each = all_edges(one.wiring), one.wiring.d_model * one.tokens.shape[1]
    size = max(1, HELD_NUMBERS // (each * len(one.wiring.nodes)))
    apart = torch.zeros(len(circuits), len(one.inputs), dtype=torch.float64)
    right = torch.zeros_like(apart)
    done, total = 0, len(circuits) * -(-len(one.inputs) // size)
    for rows, part in one.parts(size):
        for i, circuit in enumerate(circuits):
            logits = part.without(every & ~circuit)
            apart[i, rows] = part.divergence(logits)
            found = outcome(part.read(logits), part.inputs.targets, part.inputs.output)
            right[i, rows] = found.exact
            done += 1
            if progress is not None:
                progress(done, total)
    return Judged(apart, right)


def sizes(count: int) -> list[int]:
    """Return the sizes of a curve: each half as large again as the one before, up to all.

    >>> sizes(20)
    [1, 2, 3, 4, 7, 10, 16, 20]
    """
    found, size = [1], 1.0
    while found[-1] < count:
        size *= GROWTH
        found.append(min(count, max(round(size), found[-1] + 1)))
        size = max(size, found[-1])
    return found


def curve(
    one: Ablated,
    scores: Scores,
    draws: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Circuit]:
    """Return the circuits of the edges with the highest scores, from one edge to all.

    Edges that are on no way to the output are left out of each.
    """
    masks: dict[bytes, Tensor] = {}
    for size in sizes(len(one.wiring.edges)):
        mask = top(one.wiring, scores, size)
        masks.setdefault(mask.numpy().tobytes(), mask)
    found = [mask for mask in masks.values() if mask.any()]
    return rated(one, scores.method, found, draws, seed, progress)


def rated(
    one: Ablated,
    method: str,
    circuits: Sequence[Bool[Tensor, "reader node"]],
    draws: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Circuit]:
    """Return circuits with their faithfulness and accuracy on all inputs."""
    nothing = torch.zeros_like(all_edges(one.wiring))
    found = judged(one, [nothing, *circuits], progress)
    answered = one.inputs.defined.any(-1)

    def share(i: int) -> Share:
        return faithfulness(found.divergence[i], found.divergence[0], draws, seed)

    def exact(i: int) -> Share:
        value, n = float(found.exact[i, answered].mean()), int(answered.sum())
        return Share(value, *wilson_interval(value, n))

    return [
        Circuit(method, one.kind, circuit, share(i + 1), exact(i + 1))
        for i, circuit in enumerate(circuits)
    ]


def completed(one: Ablated, circuit: Circuit, draws: int, seed: int) -> Circuit:
    """Return a circuit with its completeness: what is faithful of all edges that it has not."""
    rest = all_edges(one.wiring) & ~circuit.edges
    (found,) = rated(one, circuit.method, [rest], draws, seed)
    return replace(circuit, completeness=found.faithfulness)


def smallest(circuits: Sequence[Circuit], faithful: float) -> Circuit | None:
    """Return the circuit of the fewest edges that is surely faithful; None where none is."""
    enough = [one for one in circuits if one.faithfulness.low >= faithful]
    return min(enough, key=lambda one: one.size, default=None)


@dataclass(frozen=True)
class Needed:
    """How much further off the outputs are without each edge of a circuit, on each input."""

    edges: tuple[Edge, ...]
    moved: Float64[Tensor, "inputs edge"]
    lengths: Int64[Tensor, " inputs"]

    def shares(self, draws: int, seed: int, length: int | None = None) -> dict[Edge, Share]:
        """Return the mean of each edge, with a bootstrap over inputs: all, or of one length."""
        rows = self.moved if length is None else self.moved[self.lengths == length]
        if not self.edges or not len(rows):
            return {}
        drawn = weighted_sums(bootstrap_counts(len(rows), draws, seed), rows) / len(rows)
        means, intervals = rows.mean(0).tolist(), percentile_intervals(drawn)
        return {
            edge: Share(mean, *interval)
            for edge, mean, interval in zip(self.edges, means, intervals, strict=True)
        }


@torch.inference_mode()
def needed(
    one: Ablated, circuit: Bool[Tensor, "reader node"], progress: Progress | None = None
) -> Needed:
    """Return what is further off without each edge of a circuit."""
    every = all_edges(one.wiring)
    base = one.divergence(one.without(every & ~circuit))
    edges = tuple(Edge(int(r), int(u)) for r, u in torch.nonzero(circuit).tolist())
    moved = torch.zeros(len(base), len(edges), dtype=torch.float64)
    for i, edge in enumerate(edges):
        fewer = circuit.clone()
        fewer[edge] = False
        moved[:, i] = one.divergence(one.without(every & ~fewer)) - base
        if progress is not None:
            progress(i + 1, len(edges))
    return Needed(edges, moved, one.inputs.lengths)


def minimal(found: dict[Edge, Share]) -> float:
    """Return the share of a circuit's edges that are surely needed; nan if it has none."""
    return sum(one.low > 0 for one in found.values()) / len(found) if found else float("nan")


@dataclass(frozen=True)
class AtLength:
    """How a circuit does on the lists of one length."""

    n: int
    faithfulness: Share
    completeness: Share
    exact: Share


def by_length(
    one: Ablated, circuit: Bool[Tensor, "reader node"], draws: int, seed: int
) -> dict[int, AtLength]:
    """Return how a circuit does on the lists of each length that have an output."""
    nothing, rest = torch.zeros_like(circuit), all_edges(one.wiring) & ~circuit
    found = judged(one, [nothing, circuit, rest])
    rows: dict[int, AtLength] = {}
    for length in torch.unique(one.inputs.lengths).tolist():
        some = (one.inputs.lengths == length) & one.inputs.defined.any(-1)
        if n := int(some.sum()):
            apart = found.divergence[:, some]
            exact = float(found.exact[1, some].mean())
            rows[length] = AtLength(
                n,
                faithfulness(apart[1], apart[0], draws, seed),
                faithfulness(apart[2], apart[0], draws, seed),
                Share(exact, *wilson_interval(exact, n)),
            )
    return rows


def faithfulness(
    own: Float64[Tensor, " inputs"], none: Float64[Tensor, " inputs"], draws: int, seed: int
) -> Share:
    """Return 1 less what a circuit is off over what no edge is, with a bootstrap over inputs.

    It is nan where the ablation does nothing.
    """
    if float(none.mean()) <= NOTHING:
        return Share(float("nan"), float("nan"), float("nan"))
    counts = bootstrap_counts(len(own), draws, seed)
    sums = weighted_sums(counts, torch.stack([own, none], dim=1))
    drawn = 1 - sums[:, 0] / sums[:, 1].clamp(min=NOTHING)
    return Share(1 - float(own.mean()) / float(none.mean()), *percentile_interval(drawn))
