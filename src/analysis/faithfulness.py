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
from jaxtyping import Bool, Float64
from torch import Tensor

from ..models.wiring import Edge
from .accuracy import outcome
from .circuits import NOTHING, Ablated, Progress, Scores, all_edges, top
from .statistics import bootstrap_counts, percentile_interval, weighted_sums, wilson_interval

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
    counts = bootstrap_counts(len(one.inputs), draws, seed)
    sums = weighted_sums(counts, found.divergence.T.contiguous())
    answered = one.inputs.defined.any(-1)

    def share(i: int) -> Share:
        none = float(found.divergence[0].mean())
        if none <= NOTHING:  # the ablation does nothing: nothing can be said
            return Share(float("nan"), float("nan"), float("nan"))
        value = 1 - float(found.divergence[i].mean()) / none
        drawn = 1 - sums[:, i] / sums[:, 0].clamp(min=NOTHING)
        return Share(value, *percentile_interval(drawn))

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


@torch.inference_mode()
def needed(
    one: Ablated,
    circuit: Bool[Tensor, "reader node"],
    draws: int,
    seed: int,
    progress: Progress | None = None,
) -> dict[Edge, Share]:
    """Return how much further off the outputs are without each edge of a circuit."""
    every, found = all_edges(one.wiring), dict[Edge, Share]()
    base = one.divergence(one.without(every & ~circuit))
    counts = bootstrap_counts(len(one.inputs), draws, seed)
    edges = [Edge(int(r), int(u)) for r, u in torch.nonzero(circuit).tolist()]
    moved = []
    for i, edge in enumerate(edges):
        fewer = circuit.clone()
        fewer[edge] = False
        moved.append(one.divergence(one.without(every & ~fewer)) - base)
        if progress is not None:
            progress(i + 1, len(edges))
    if not edges:
        return found
    drawn = weighted_sums(counts, torch.stack(moved, dim=1)) / len(one.inputs)
    for i, edge in enumerate(edges):
        found[edge] = Share(float(moved[i].mean()), *percentile_interval(drawn[:, i]))
    return found


def by_length(
    one: Ablated, circuit: Bool[Tensor, "reader node"]
) -> dict[int, tuple[float, float, int]]:
    """Return a circuit's faithfulness and exact accuracy on the lists of each length, and how many.

    Faithfulness is nan where the ablation does nothing.
    """
    nothing = torch.zeros_like(circuit)
    found = judged(one, [nothing, circuit])
    rows: dict[int, tuple[float, float, int]] = {}
    for length in torch.unique(one.inputs.lengths).tolist():
        some = (one.inputs.lengths == length) & one.inputs.defined.any(-1)
        if not some.any():
            continue
        none, own = (float(values[some].mean()) for values in found.divergence)
        share = 1 - own / none if none > NOTHING else float("nan")
        rows[length] = share, float(found.exact[1, some].mean()), int(some.sum())
    return rows
