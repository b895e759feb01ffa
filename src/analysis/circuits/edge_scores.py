"""Which edges of a model matter: exact patching, ACDC, and edge attribution.

Removing an edge means that its reader receives the node's ablated output: zero, its mean, or its
value on another input (`ablation_names.KINDS`), at every position at once.

- `exact`: each edge is removed alone and the model is run. The score is the divergence of the
  outputs from the intact model's.
- `acdc`: edges are removed one after another, from the output back. A removal is kept if it moves
  the outputs by less than a threshold (Conmy et al. 2023).
- `eap`: edge attribution patching, the loss's gradient at the reader times the change (Syed et al.
  2023). `eap_ig` takes the mean of the gradients along the path from ablated to intact embeddings
  (Hanna et al. 2024). Compiled steps and attention pass no gradient. An edge whose attribution is
  zero (up to rounding) on every input therefore falls back to exact patching of the loss.

Divergence is the KL divergence from the intact model in nats for classes, and the squared error
for numbers. It is averaged over the positions where the program is defined.

Shapes: as in `wiring`; `edge` the edges of a graph in its order, `stack` several runs at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ...data.inputs import InputSet
from ...data.outputs import Categorical, Output
from ...models.task_model import TaskModel
from ...models.wiring import Edge, GraphRun, Wiring
from ..measures.rerun import Donors, donors

NOTHING = 1e-9  # of a divergence, a loss or an attribution: smaller values are rounding
ROUNDING = 1e-4  # of the largest value: smaller ones are rounding, or soft attention of 1e-5
VALUES_AT_ONCE = 2**23  # numbers of the residual streams that are run together
Progress = Callable[[int, int], None]
Measured = Callable[[Tensor, Tensor], Tensor]  # (outputs, intact outputs) to one value per input


def divergence(
    output: Output,
    given: Float[Tensor, "*stack inputs pos width"],
    intact: Float[Tensor, "inputs pos width"],
    defined: Bool[Tensor, "inputs pos"],
) -> Float64[Tensor, "*stack inputs"]:
    """Return the divergence of outputs from the intact model's, per input.

    It is the mean over the positions where the program is defined, in nats or squared units.
    """
    if isinstance(output, Categorical):
        old, new = (logits.double().log_softmax(-1) for logits in (intact, given))
        apart = (old.exp() * (old - new)).sum(-1).clamp(min=0)
    else:
        apart = (given.double() - intact.double())[..., 0] ** 2
    mean: Tensor = (apart * defined).sum(-1) / defined.sum(-1).clamp(min=1)
    return mean


def losses(
    inputs: InputSet, given: Float[Tensor, "*stack inputs pos width"]
) -> Float64[Tensor, "*stack inputs"]:
    """Return the loss on each input, averaged over positions where the program is defined."""
    targets = inputs.targets.expand(given.shape[:-1])
    loss = inputs.output.loss(given.double(), targets.to(_as(inputs)))
    mean: Tensor = loss.sum(-1) / inputs.defined.sum(-1).clamp(min=1)
    return mean


def _as(inputs: InputSet) -> torch.dtype:
    return torch.int64 if isinstance(inputs.output, Categorical) else torch.float64


@dataclass(frozen=True)
class AblationCases:
    """Inputs as a model reads them, each with a donor for resampling."""

    inputs: InputSet
    task_model: TaskModel
    donors: dict[str, Donors]

    @property
    def kinds(self) -> list[str]:
        """The kinds of ablation possible on these inputs."""
        return ["zero", "mean", *self.donors]


def cases_of(
    inputs: InputSet, task_model: TaskModel, seed: int, rows: Int64[Tensor, " some"] | None = None
) -> AblationCases:
    """Return inputs, all or some, with their donors, drawn as for ablation."""
    if rows is not None:
        inputs, task_model = inputs.at(rows), task_model.at(rows)
    return AblationCases(inputs, task_model, donors(inputs, seed))


class AblatedGraph:
    """A model's graph on inputs, and its nodes' outputs under one kind of ablation."""

    def __init__(
        self,
        wiring: Wiring,
        cases: AblationCases,
        kind: str,
        other: Float[Tensor, "node inputs pos d_model"] | None = None,
    ):
        self.wiring, self.cases, self.kind = wiring, cases, kind
        self.inputs, self.task_model = cases.inputs, cases.task_model
        self.tokens, self.key_mask = cases.task_model.tokens, cases.task_model.key_mask
        self._other = other

    @cached_property
    def intact(self) -> GraphRun:
        """The run of the intact model."""
        with torch.inference_mode():
            return self.wiring.run(self.tokens, self.key_mask)

    @cached_property
    def other(self) -> Float[Tensor, "node inputs pos d_model"]:
        """The nodes' ablated outputs."""
        if self._other is not None:
            return self._other
        written = self.intact.written
        if self.kind == "zero":
            return torch.zeros_like(written)
        if self.kind == "mean":
            reached = self.key_mask[..., None].to(written)
            total = (written * reached).sum(1, keepdim=True)
            return (total / reached.sum(0).clamp(min=1)).expand_as(written)
        drawn = self.cases.donors[self.kind]
        rows, positions = self.task_model.own_places(drawn.rows, drawn.positions)
        return written[:, rows, positions]

    def parts(self, size: int) -> Iterator[tuple[slice, AblatedGraph]]:
        """Yield `(rows, ablated)` for at most `size` inputs at a time."""
        mean = self._mean(size) if self.kind == "mean" else None
        for at in range(0, len(self.inputs), size):
            rows = torch.arange(at, min(at + size, len(self.inputs)))
            part = AblationCases(self.inputs.at(rows), self.task_model.at(rows), {})
            other = mean if mean is None else mean.expand(-1, len(rows), -1, -1)
            if self.kind in self.cases.donors:
                drawn = self.cases.donors[self.kind]
                theirs = self.task_model.at(drawn.rows[rows])
                written = self._written(theirs)
                own = torch.arange(len(rows))
                there = self.task_model.own_places(own, drawn.positions[rows])
                other = written[:, there[0], there[1]]
            yield slice(at, at + len(rows)), AblatedGraph(self.wiring, part, self.kind, other)

    def _mean(self, size: int) -> Float[Tensor, "node 1 pos d_model"]:
        total, count = torch.zeros(()).double(), torch.zeros(()).double()
        for some in torch.split(torch.arange(len(self.inputs)), size):
            task_model = self.task_model.at(some)
            reached = task_model.key_mask[..., None].float()
            total = total + (self._written(task_model) * reached).double().sum(1, keepdim=True)
            count = count + reached.double().sum(0)
        return (total / count.clamp(min=1)).float()

    @torch.inference_mode()
    def _written(self, task_model: TaskModel) -> Float[Tensor, "node inputs pos d_model"]:
        return self.wiring.run(task_model.tokens, task_model.key_mask).written

    def read(self, logits: Float[Tensor, "*stack inputs own classes"]) -> Tensor:
        """Return the outputs at the task's positions and classes."""
        return self.task_model.read(logits)

    def real_positions(self) -> Bool[Tensor, "inputs own"]:
        """Return which of the model's positions belong to a list."""
        real = self.inputs.real
        return torch.cat([torch.zeros(len(real), self.task_model.lead).bool(), real], dim=1)

    @cached_property
    def outputs(self) -> Float[Tensor, "inputs pos width"]:
        """The intact model's outputs."""
        outputs: Tensor = self.read(self.intact.logits)
        return outputs

    def divergence(
        self, logits: Float[Tensor, "*stack inputs own classes"]
    ) -> Float64[Tensor, "*stack inputs"]:
        """Return the divergence of some logits from the intact model's, per input."""
        return divergence(self.inputs.output, self.read(logits), self.outputs, self.inputs.defined)

    @torch.inference_mode()
    def without(
        self, removed: Bool[Tensor, "reader node"], start: int = 0
    ) -> Float[Tensor, "inputs own classes"]:
        """Return the logits with some edges removed; blocks before `start` lose none."""
        before = None
        if start:
            count = self.wiring.readers[self.wiring.first_reader[start]].nodes
            before = self.intact.written[:count]
        return self.wiring.run(
            self.tokens, self.key_mask, removed, self.other, start=start, before=before
        ).logits


@dataclass(frozen=True)
class Scores:
    """Every edge's and node's score, and how many edges fell back to exact patching.

    Both are in the graph's order. Removing a node removes all edges from it.
    """

    method: str
    kind: str
    values: Float64[Tensor, " edge"]
    nodes: Float64[Tensor, " node"]
    fallen_back: int = 0

    @property
    def order(self) -> Int64[Tensor, " edge"]:
        """The edges sorted by score, the highest first."""
        return self.values.argsort(descending=True, stable=True)


@torch.inference_mode()
def patched(
    ablated: AblatedGraph,
    edges: Sequence[Edge],
    measured: Measured,
    progress: Progress | None = None,
) -> Float64[Tensor, " edge"]:
    """Return the effect of removing each of some edges alone, mean over inputs.

    `measured` compares outputs with the intact model's, per input. Only the part of the model after
    the reader is run, with all edges of a reader together. Edges of idle readers, and of nodes that
    the ablation does not change, have effect 0 and are not run.
    """
    wiring, intact, done = ablated.wiring, ablated.intact, 0
    effects = torch.zeros(len(edges), dtype=torch.float64)
    by_reader: dict[int, list[int]] = {}
    change = ablated.other - intact.written
    varied = change.flatten(1).any(1).tolist()
    for i, edge in enumerate(edges):
        if varied[edge.node] and not wiring.idle[edge.reader]:
            by_reader.setdefault(edge.reader, []).append(i)
    count, stream = -1, torch.empty(0)
    for reader, places in by_reader.items():
        if wiring.readers[reader].nodes != count:
            count, stream = wiring.readers[reader].nodes, wiring.stream(reader, intact.written)
        for some in _portions(places, stream.numel()):
            nodes = [edges[i].node for i in some]
            stack = torch.cat([torch.zeros_like(stream)[None], change[nodes]])
            given = wiring.changed_outputs(reader, stream, stack, ablated.key_mask)
            moved = torch.nonzero((given[1:] != given[0]).flatten(1).any(1))[:, 0]
            if len(moved):
                asked = torch.cat([given[:1], given[1:][moved]])
                out = ablated.read(wiring.after(reader, stream, asked, intact, ablated.key_mask))
                effect = measured(out[1:], out[0]).mean(-1)
                effects[[some[i] for i in moved.tolist()]] = effect
            done += len(some)
            if progress is not None:
                progress(done, len(edges))
    return torch.where(effects > NOTHING, effects, 0.0)


def _portions(places: list[int], size: int) -> Iterator[list[int]]:
    count = max(1, VALUES_AT_ONCE // size)
    for at in range(0, len(places), count):
        yield places[at : at + count]


@torch.no_grad()
def visible(
    ablated: AblatedGraph, real: Bool[Tensor, "reader node"]
) -> Bool[Tensor, "reader node"]:
    """Return the real edges that an ablation can see.

    An edge is visible if removing it alone changes its reader's output at some position of a list.
    Resampling cannot see an edge that carries a constant. Resampling within a length cannot see an
    edge that depends only on the length.
    """
    wiring, intact, seen = ablated.wiring, ablated.intact, torch.zeros_like(real)
    counted = ablated.real_positions()[..., None]
    for r in torch.nonzero(real.any(1))[:, 0].tolist():
        nodes = torch.nonzero(real[r])[:, 0]
        change = ablated.other[nodes] - intact.written[nodes]
        stacked = torch.cat([torch.zeros_like(change[:1]), change])
        given = (
            wiring.changed_outputs(r, wiring.stream(r, intact.written), stacked, ablated.key_mask)
            * counted
        )
        moved = (given[1:] - given[0]).abs().flatten(1).amax(1)
        seen[r, nodes] = moved > ROUNDING * given[0].abs().max()
    return seen


def exact(ablated: AblatedGraph, progress: Progress | None = None) -> Scores:
    """Return the divergence caused by removing each edge alone, and each node alone."""
    edges = exact_edges(ablated, progress)
    nodes = without_nodes(ablated, range(len(ablated.wiring.nodes)), _apart(ablated))
    return Scores("exact", ablated.kind, edges, nodes)


def exact_edges(
    ablated: AblatedGraph, progress: Progress | None = None
) -> Float64[Tensor, " edge"]:
    """Return the divergence caused by removing each edge alone."""
    return patched(ablated, ablated.wiring.edges, _apart(ablated), progress)


def _apart(ablated: AblatedGraph) -> Measured:
    inputs = ablated.inputs

    def measured(given: Tensor, intact: Tensor) -> Tensor:
        return divergence(inputs.output, given, intact, inputs.defined)

    return measured


def without_nodes(
    ablated: AblatedGraph, nodes: Iterable[int], measured: Measured
) -> Float64[Tensor, " some"]:
    """Return the effect of removing each of some nodes alone, mean over inputs."""
    effects = []
    for u in nodes:
        removed = torch.zeros(
            len(ablated.wiring.readers), len(ablated.wiring.nodes), dtype=torch.bool
        )
        removed[:, u] = True
        effects.append(
            float(measured(ablated.read(ablated.without(removed)), ablated.outputs).mean())
        )
    values = torch.tensor(effects, dtype=torch.float64)
    return torch.where(values > NOTHING, values, 0.0)


def acdc(
    ablated: AblatedGraph, threshold: float, progress: Progress | None = None
) -> Bool[Tensor, "reader node"]:
    """Return the edges that ACDC keeps.

    Edges are tried from the output back, the latest node first. An edge is removed if this raises
    the divergence by less than `threshold`, given the edges removed before. A node that nothing
    reads any more keeps no edge.
    """
    wiring = ablated.wiring
    removed = torch.zeros(len(wiring.readers), len(wiring.nodes), dtype=torch.bool)
    moved, done = 0.0, 0
    for r, reader in reversed(list(enumerate(wiring.readers))):
        node = reader.node
        dead = node is not None and not _kept(wiring, removed)[:, wiring.nodes.index(node)].any()
        for u in reversed(range(reader.nodes)):
            removed[r, u] = True
            done += 1
            if not dead:
                now = float(ablated.divergence(ablated.without(removed, reader.layer)).mean())
                if now - moved < threshold:
                    moved = now
                else:
                    removed[r, u] = False
            if progress is not None:
                progress(done, len(wiring.edges))
    return _kept(wiring, removed)


def _kept(wiring: Wiring, removed: Bool[Tensor, "reader node"]) -> Bool[Tensor, "reader node"]:
    return all_edges(wiring) & ~removed


def all_edges(wiring: Wiring) -> Bool[Tensor, "reader node"]:
    """Return which readers read which nodes."""
    counts = torch.tensor([reader.nodes for reader in wiring.readers])
    return torch.arange(len(wiring.nodes)) < counts[:, None]


def attribution(
    ablated: AblatedGraph, steps: int | None = None, progress: Progress | None = None
) -> Scores:
    """Return each edge's attribution: the gradient of the loss at the reader times the change.

    With `steps`, the gradient is the mean over that many points from ablated to intact embeddings.
    """
    wiring, method = ablated.wiring, "eap" if steps is None else "eap_ig"
    own = wiring.embedded(ablated.tokens)
    count = len(own)
    shares = [1.0] if steps is None else [(i + 1) / steps for i in range(steps)]
    gradient = torch.zeros(len(wiring.readers), *own.shape[1:])
    for i, share in enumerate(shares):
        embeddings = ablated.other[:count] + share * (own - ablated.other[:count])
        gradient += _gradient(ablated, embeddings) / len(shares)
        if progress is not None:
            progress(i + 1, len(shares))
    change = ablated.other - ablated.intact.written
    nodes = torch.zeros(len(wiring.nodes), dtype=torch.float64)
    values, silent = torch.zeros(len(wiring.edges), dtype=torch.float64), list[int]()
    starts = [i for i, edge in enumerate(wiring.edges) if edge.node == 0]
    for r, reader in enumerate(wiring.readers):
        each = torch.einsum("unpd,npd->un", change[: reader.nodes], gradient[r]).double()
        here = torch.arange(starts[r], starts[r] + reader.nodes)
        values[here] = each.mean(-1).abs()
        nodes[: reader.nodes] += each.mean(-1)  # a node's attribution is the sum over its edges
        silent += here[each.abs().amax(-1) <= NOTHING].tolist()

    def dearer(given: Tensor, intact: Tensor) -> Tensor:
        return (losses(ablated.inputs, given) - losses(ablated.inputs, intact)).abs()

    asked = [wiring.edges[i] for i in silent]
    if asked:
        values[silent] = patched(ablated, asked, dearer)
    nodes = nodes.abs()
    quiet = torch.nonzero(nodes <= NOTHING)[:, 0].tolist()
    nodes[quiet] = without_nodes(ablated, quiet, dearer)
    return Scores(method, ablated.kind, values, nodes, len(asked))


def _gradient(
    ablated: AblatedGraph, embeddings: Float[Tensor, "node inputs pos d_model"]
) -> Float[Tensor, "reader inputs pos d_model"]:
    """Return the gradient of each input's loss with respect to each reader's input."""
    with torch.enable_grad():
        added = torch.zeros(len(ablated.wiring.readers), *embeddings.shape[1:], requires_grad=True)
        run = ablated.wiring.run(
            ablated.tokens, ablated.key_mask, added=added, embeddings=embeddings.clone()
        )
        loss = losses(ablated.inputs, ablated.read(run.logits)).sum()
        (gradient,) = torch.autograd.grad(loss, [added])
    return gradient


def reaching(wiring: Wiring, kept: Bool[Tensor, "reader node"]) -> Bool[Tensor, "reader node"]:
    """Return the kept edges on a path to the output.

    A node into which no edge is kept still has an output: it depends on ablated values, and on the
    length, which attention sees without an edge.
    """
    reached = kept.clone()
    for r, reader in reversed(list(enumerate(wiring.readers))):
        node = reader.node
        if node is not None and not reached[:, wiring.nodes.index(node)].any():
            reached[r] = False
    return reached


def top(wiring: Wiring, scores: Scores, count: int) -> Bool[Tensor, "reader node"]:
    """Return the edges with the highest positive scores that are on a path to the output."""
    kept = torch.zeros(len(wiring.readers), len(wiring.nodes), dtype=torch.bool)
    for i in scores.order[:count].tolist():
        kept[wiring.edges[i]] = bool(scores.values[i] > 0)
    return reaching(wiring, kept)
