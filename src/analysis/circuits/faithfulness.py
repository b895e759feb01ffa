"""How good a circuit is: its faithfulness, completeness and minimality.

A circuit is a set of edges. All other edges are removed by one kind of ablation. D is the
divergence of the outputs from the intact model's (`circuits.divergence`), mean over inputs.

- faithfulness: 1 - D(circuit) / D(no edge). It is 1 if the circuit does all that the model does,
  and 0 if it does no more than no edge at all.
- completeness: faithfulness of the complement. 0 is best: no function is left outside the circuit
  (Marks et al. 2024).
- minimality: the share of the circuit's edges without which D is surely larger (after Wang et al.
  2023, who test nodes).

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
from .edge_scores import NOTHING, AblatedGraph, Progress, Scores, all_edges, top

HELD_NUMBERS = 2**22  # numbers in the outputs of all nodes on one part of the inputs
GROWTH = 1.5  # ratio of one size of a curve to the one before


@dataclass(frozen=True)
class CircuitDivergence:
    """The divergence of circuits from the intact model, and their exactness, per input."""

    divergence: Float64[Tensor, "mask inputs"]
    exact: Float64[Tensor, "mask inputs"]


@dataclass(frozen=True)
class CircuitShare:
    """A share with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Circuit:
    """A circuit found by a method under a kind of ablation, and how good it is.

    `exact` is the circuit's own exact accuracy. Completeness is None if it was not computed.
    """

    method: str
    kind: str
    edges: Bool[Tensor, "reader node"]
    faithfulness: CircuitShare
    exact: CircuitShare
    completeness: CircuitShare | None = None

    @property
    def size(self) -> int:
        """How many edges it has."""
        return int(self.edges.sum())


def judged(
    ablated: AblatedGraph,
    circuits: Sequence[Bool[Tensor, "reader node"]],
    progress: Progress | None = None,
) -> CircuitDivergence:
    """Return the divergence and exactness of circuits on all inputs, all other edges removed."""
    every, each = all_edges(ablated.wiring), ablated.wiring.d_model * ablated.tokens.shape[1]
    size = max(1, HELD_NUMBERS // (each * len(ablated.wiring.nodes)))
    apart = torch.zeros(len(circuits), len(ablated.inputs), dtype=torch.float64)
    right = torch.zeros_like(apart)
    done, total = 0, len(circuits) * -(-len(ablated.inputs) // size)
    for rows, part in ablated.parts(size):
        for i, circuit in enumerate(circuits):
            logits = part.without(every & ~circuit)
            apart[i, rows] = part.divergence(logits)
            outcomes = outcome(part.read(logits), part.inputs.targets, part.inputs.output)
            right[i, rows] = outcomes.exact
            done += 1
            if progress is not None:
                progress(done, total)
    return CircuitDivergence(apart, right)


def sizes(count: int) -> list[int]:
    """Return the sizes of a curve, each about 1.5 times the one before, up to `count`.

    >>> sizes(20)
    [1, 2, 3, 4, 7, 10, 16, 20]
    """
    points, size = [1], 1.0
    while points[-1] < count:
        size *= GROWTH
        points.append(min(count, max(round(size), points[-1] + 1)))
        size = max(size, points[-1])
    return points


def curve(
    ablated: AblatedGraph,
    scores: Scores,
    draws: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Circuit]:
    """Return the circuits of the highest-scored edges, from one edge to all.

    Edges that are on no path to the output are left out of each circuit.
    """
    masks: dict[bytes, Tensor] = {}
    for size in sizes(len(ablated.wiring.edges)):
        mask = top(ablated.wiring, scores, size)
        masks.setdefault(mask.numpy().tobytes(), mask)
    circuits = [mask for mask in masks.values() if mask.any()]
    return rated(ablated, scores.method, circuits, draws, seed, progress)


def rated(
    ablated: AblatedGraph,
    method: str,
    circuits: Sequence[Bool[Tensor, "reader node"]],
    draws: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Circuit]:
    """Return circuits with their faithfulness and accuracy on all inputs."""
    nothing = torch.zeros_like(all_edges(ablated.wiring))
    judgement = judged(ablated, [nothing, *circuits], progress)
    answered = ablated.inputs.defined.any(-1)

    def share(i: int) -> CircuitShare:
        return faithfulness(judgement.divergence[i], judgement.divergence[0], draws, seed)

    def exact(i: int) -> CircuitShare:
        value, n = float(judgement.exact[i, answered].mean()), int(answered.sum())
        return CircuitShare(value, *wilson_interval(value, n))

    return [
        Circuit(method, ablated.kind, circuit, share(i + 1), exact(i + 1))
        for i, circuit in enumerate(circuits)
    ]


def completed(ablated: AblatedGraph, circuit: Circuit, draws: int, seed: int) -> Circuit:
    """Return a circuit with its completeness: faithfulness of the complement."""
    rest = all_edges(ablated.wiring) & ~circuit.edges
    (complement,) = rated(ablated, circuit.method, [rest], draws, seed)
    return replace(circuit, completeness=complement.faithfulness)


def smallest(circuits: Sequence[Circuit], faithful: float) -> Circuit | None:
    """Return the smallest circuit that is surely faithful; None if there is none."""
    enough = [circuit for circuit in circuits if circuit.faithfulness.low >= faithful]
    return min(enough, key=lambda circuit: circuit.size, default=None)


@dataclass(frozen=True)
class EdgeNecessity:
    """The increase in divergence without each edge of a circuit, per input."""

    edges: tuple[Edge, ...]
    moved: Float64[Tensor, "inputs edge"]
    lengths: Int64[Tensor, " inputs"]

    def shares(self, draws: int, seed: int, length: int | None = None) -> dict[Edge, CircuitShare]:
        """Return each edge's mean with a bootstrap interval, over all inputs or one length."""
        rows = self.moved if length is None else self.moved[self.lengths == length]
        if not self.edges or not len(rows):
            return {}
        drawn = weighted_sums(bootstrap_counts(len(rows), draws, seed), rows) / len(rows)
        means, intervals = rows.mean(0).tolist(), percentile_intervals(drawn)
        return {
            edge: CircuitShare(mean, *interval)
            for edge, mean, interval in zip(self.edges, means, intervals, strict=True)
        }


@torch.inference_mode()
def needed(
    ablated: AblatedGraph, circuit: Bool[Tensor, "reader node"], progress: Progress | None = None
) -> EdgeNecessity:
    """Return the increase in divergence without each edge of a circuit."""
    every = all_edges(ablated.wiring)
    base = ablated.divergence(ablated.without(every & ~circuit))
    edges = tuple(Edge(int(r), int(u)) for r, u in torch.nonzero(circuit).tolist())
    moved = torch.zeros(len(base), len(edges), dtype=torch.float64)
    for i, edge in enumerate(edges):
        fewer = circuit.clone()
        fewer[edge] = False
        moved[:, i] = ablated.divergence(ablated.without(every & ~fewer)) - base
        if progress is not None:
            progress(i + 1, len(edges))
    return EdgeNecessity(edges, moved, ablated.inputs.lengths)


def minimal(shares: dict[Edge, CircuitShare]) -> float:
    """Return the share of a circuit's edges that are surely needed; nan if it has none."""
    return sum(share.low > 0 for share in shares.values()) / len(shares) if shares else float("nan")


@dataclass(frozen=True)
class CircuitAtLength:
    """How good a circuit is on the lists of one length."""

    n: int
    faithfulness: CircuitShare
    completeness: CircuitShare
    exact: CircuitShare


def by_length(
    ablated: AblatedGraph, circuit: Bool[Tensor, "reader node"], draws: int, seed: int
) -> dict[int, CircuitAtLength]:
    """Return how good a circuit is on the lists of each length, those with an output."""
    nothing, rest = torch.zeros_like(circuit), all_edges(ablated.wiring) & ~circuit
    judgement = judged(ablated, [nothing, circuit, rest])
    rows: dict[int, CircuitAtLength] = {}
    for length in torch.unique(ablated.inputs.lengths).tolist():
        some = (ablated.inputs.lengths == length) & ablated.inputs.defined.any(-1)
        if n := int(some.sum()):
            apart = judgement.divergence[:, some]
            exact = float(judgement.exact[1, some].mean())
            rows[length] = CircuitAtLength(
                n,
                faithfulness(apart[1], apart[0], draws, seed),
                faithfulness(apart[2], apart[0], draws, seed),
                CircuitShare(exact, *wilson_interval(exact, n)),
            )
    return rows


def faithfulness(
    own: Float64[Tensor, " inputs"], none: Float64[Tensor, " inputs"], draws: int, seed: int
) -> CircuitShare:
    """Return 1 - D(circuit) / D(no edge), with a bootstrap interval over inputs.

    It is nan if the ablation changes nothing.
    """
    if float(none.mean()) <= NOTHING:
        return CircuitShare(float("nan"), float("nan"), float("nan"))
    counts = bootstrap_counts(len(own), draws, seed)
    sums = weighted_sums(counts, torch.stack([own, none], dim=1))
    drawn = 1 - sums[:, 0] / sums[:, 1].clamp(min=NOTHING)
    return CircuitShare(1 - float(own.mean()) / float(none.mean()), *percentile_interval(drawn))
