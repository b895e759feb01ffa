"""The circuits of a model with their rates, and the result as typed tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ...data.inputs import InputSet
from ...data.outputs import Categorical
from ...infra.typed_tables import TypedTable, spread
from ...models.wiring import Edge, Wiring
from ..matching.cut_tests import Match
from ..results import CIRCUIT, About, Key, Result, known, share_columns, untitled
from .edge_scores import Scores, all_edges, reaching
from .edge_variables import EdgeVariables
from .faithfulness import Circuit, CircuitAtLength, CircuitShare

EMBEDDINGS = ("tokens", "positions")  # the nodes that edges which are not inner come from
PREFERRED = ("resample_across", "resample_within")  # kinds of ablation, the most telling first
MODEL, REFERENCE, RANDOM_INIT = "model", "reference", "random init"  # whose edges carry what


@dataclass
class Truth:
    """A compiled model's real edges, and which of them each kind of ablation can see."""

    real: Bool[Tensor, "reader node"]
    visible: dict[str, Bool[Tensor, "reader node"]] = field(default_factory=dict)


@dataclass
class Circuits:
    """The circuits of a model; keys are (kind of ablation, method)."""

    name: str
    exact: float
    inputs: InputSet
    wiring: Wiring
    faithful: float
    least: float = 0.0  # an edge is needed if its removal changes the outputs by this
    truth: Truth | None = None
    scores: dict[tuple[str, str], Scores] = field(default_factory=dict)
    curves: dict[tuple[str, str], list[Circuit]] = field(default_factory=dict)
    chosen: dict[tuple[str, str], Circuit] = field(default_factory=dict)
    needed: dict[Edge, CircuitShare] = field(default_factory=dict)
    needed_on: int = 0
    searched_on: int = 0
    lengths: dict[int, CircuitAtLength] = field(default_factory=dict)
    minimal: dict[int, float] = field(default_factory=dict)
    edge_variables: list[EdgeVariables] = field(default_factory=list)
    untrained_edges: list[EdgeVariables] = field(default_factory=list)
    reference_edges: list[tuple[str, EdgeVariables]] = field(default_factory=list)
    matched: dict[str, Match | None] = field(default_factory=dict)
    verdict: str = ""

    @property
    def main(self) -> Circuit | None:
        """The smallest circuit of the preferred kind of ablation; None if none is faithful.

        Resampling across lengths is preferred, then resampling within a length.
        """
        kinds = dict.fromkeys((*PREFERRED, *(kind for kind, _ in self.chosen)))
        for kind in kinds:
            circuits = [circuit for (each, _), circuit in self.chosen.items() if each == kind]
            if circuits:
                return min(circuits, key=lambda circuit: circuit.size)
        return None

    @property
    def most(self) -> int:
        """The number of edges on a path to the output in the whole model; no circuit has more."""
        return int(reaching(self.wiring, all_edges(self.wiring)).sum())

    @property
    def is_whole(self) -> bool:
        """Whether the circuit is the whole model, because no smaller circuit is faithful."""
        return self.main is not None and self.main.size >= self.most

    @property
    def unit(self) -> str:
        """The unit of the distance between outputs."""
        return "nats" if isinstance(self.inputs.output, Categorical) else "squared difference"

    @property
    def drawn(self) -> Bool[Tensor, "reader node"] | None:
        """The edges to draw: the real ones of a compiled model, else the circuit's."""
        if self.truth is not None:
            return self.truth.real
        return None if self.main is None else self.main.edges

    @property
    def hidden(self) -> Bool[Tensor, "reader node"]:
        """The real edges that the circuit's kind of ablation cannot see."""
        if self.truth is None or self.main is None:
            return torch.zeros_like(all_edges(self.wiring))
        return self.truth.real & ~self.truth.visible[self.main.kind]

    @property
    def idle_kinds(self) -> list[str]:
        """The kinds of ablation under which removing all edges leaves the outputs the same."""
        tried: dict[str, list[Circuit]] = {}
        for (kind, _), curve in self.curves.items():
            tried.setdefault(kind, []).extend(curve)
        return [
            kind
            for kind, candidates in tried.items()
            if candidates and all(math.isnan(each.faithfulness.value) for each in candidates)
        ]

    def missed(self, scores: Scores) -> list[Edge]:
        """Return the real edges of a compiled model that a method gives a score of 0."""
        assert self.truth is not None
        values = scores.values.tolist()
        return [
            edge
            for edge, value in zip(self.wiring.edges, values, strict=True)
            if self.truth.real[edge] and value == 0
        ]

    def auroc(self, scores: Scores, visible: bool) -> float | None:
        """Return the area under the ROC curve of scores against the real edges of a compiled model.

        If `visible`, the real edges out of the sight of the scores' kind of ablation do not count.
        """
        assert self.truth is not None
        real, seen = self.truth.real, self.truth.visible[scores.kind]
        if visible:
            return auroc(scores, self.wiring, seen, real & ~seen)
        return auroc(scores, self.wiring, real, torch.zeros_like(real))


def auroc(
    scores: Scores,
    wiring: Wiring,
    positive: Bool[Tensor, "reader node"],
    left_out: Bool[Tensor, "reader node"],
) -> float | None:
    """Return the area under the ROC curve of the edges' scores; None if all labels are equal.

    `positive` are the true edges. Edges in `left_out` are not counted.
    """
    truth, values = labelled(scores, wiring, positive, left_out)
    if len(set(truth)) < 2:
        return None
    return float(roc_auc_score(truth, values))


def labelled(
    scores: Scores,
    wiring: Wiring,
    positive: Bool[Tensor, "reader node"],
    left_out: Bool[Tensor, "reader node"],
) -> tuple[list[bool], list[float]]:
    """Return, of each edge that is not left out, whether it is positive, and its score."""
    rows = [
        (bool(positive[edge]), value)
        for edge, value in zip(wiring.edges, scores.values.tolist(), strict=True)
        if not left_out[edge]
    ]
    return [label for label, _ in rows], [value for _, value in rows]


@dataclass(frozen=True, kw_only=True)
class CircuitRow:
    """A circuit of a curve of faithfulness over size.

    `chosen` is the smallest surely faithful one of its method and kind of ablation. `whole` says
    that it is the whole model; None if an earlier version did not record it.
    """

    model: str
    step: int | None = None
    ablation: str
    method: str
    edges: int
    faithfulness: float | None
    faithfulness_low: float | None = None
    faithfulness_high: float | None = None
    exact: float | None
    exact_low: float | None = None
    exact_high: float | None = None
    chosen: bool
    completeness: float | None = None
    completeness_low: float | None = None
    completeness_high: float | None = None
    whole: bool | None = None


@dataclass(frozen=True, kw_only=True)
class EdgeRow:
    """An edge: its scores by `METHOD/KIND`, whether it is in the circuit, and what it carries.

    `real` says whether it is an edge of a compiled program, and `visible` by kind of ablation
    whether that can see it. `needed` is how much further from the model the outputs are without it.
    """

    model: str
    step: int | None = None
    edge: str
    scores: dict[str, float] = field(default_factory=dict, metadata=spread("{}", "/"))
    real: bool | None = None
    visible: dict[str, bool] = field(default_factory=dict, metadata=spread("visible/{}"))
    in_circuit: bool
    needed: float | None
    needed_low: float | None = None
    needed_high: float | None = None
    carries: str
    share: float | None
    share_low: float | None = None
    share_high: float | None = None
    chance: float | None


@dataclass(frozen=True, kw_only=True)
class NodeRow:
    """A node and its scores by `METHOD/KIND`."""

    model: str
    step: int | None = None
    node: str
    scores: dict[str, float] = field(default_factory=dict, metadata=spread("{}", "/"))


@dataclass(frozen=True, kw_only=True)
class LengthRow:
    """The circuit on the inputs of one length; `minimality` is the share of edges that matter."""

    model: str
    step: int | None = None
    length: int
    inputs: int
    faithfulness: float | None
    faithfulness_low: float | None = None
    faithfulness_high: float | None = None
    completeness: float | None
    completeness_low: float | None = None
    completeness_high: float | None = None
    exact: float | None
    exact_low: float | None = None
    exact_high: float | None = None
    minimality: float | None = None


@dataclass(frozen=True, kw_only=True)
class CarriedRow:
    """What an edge carries: in the model's circuit, the reference or a random init (`of`).

    An edge is `inner` if it does not come from an embedding.
    """

    model: str
    step: int | None = None
    of: str
    edge: str
    inner: bool
    carries: str
    share: float | None
    share_low: float | None = None
    share_high: float | None = None
    chance: float | None


@dataclass(frozen=True, kw_only=True)
class CircuitResult(Result):
    """The circuits of a model: their curves, edges, nodes, what is carried, and by length."""

    curves: tuple[CircuitRow, ...] = ()
    edges: tuple[EdgeRow, ...] = ()
    nodes: tuple[NodeRow, ...] = ()
    lengths: tuple[LengthRow, ...] = ()
    carried: tuple[CarriedRow, ...] = ()
    circuits: Circuits | None = field(default=None, repr=False, compare=False)

    KIND: ClassVar[str] = CIRCUIT
    CURVES: ClassVar = TypedTable(CircuitRow, "circuits.csv", earlier=untitled)
    EDGES: ClassVar = TypedTable(EdgeRow, "edges.csv", earlier=untitled)
    NODES: ClassVar = TypedTable(NodeRow, "nodes.csv", earlier=untitled)
    LENGTHS: ClassVar = TypedTable(LengthRow, "lengths.csv", earlier=untitled)
    CARRIED: ClassVar = TypedTable(CarriedRow, "carried.csv", earlier=untitled)
    TABLES: ClassVar[Mapping[str, TypedTable[Any]]] = {
        "curves": CURVES, "edges": EDGES, "nodes": NODES, "lengths": LENGTHS, "carried": CARRIED,
    }  # fmt: skip
    PICTURES: ClassVar[tuple[str, ...]] = ("curves.png", "circuit.png")
    JOINS: ClassVar[bool] = True

    @classmethod
    def of(cls, circuits: Circuits, key: Key, finished: bool = True) -> Self:
        """Return the circuits of a model as a result, finished or as far as they are."""
        about = About(key, circuits.inputs.task.name, finished, (len(circuits.scores),))
        return cls(
            about=about, curves=tuple(_curves(circuits, key)), edges=tuple(_edges(circuits, key)),
            nodes=tuple(_nodes(circuits, key)), lengths=tuple(_lengths(circuits, key)),
            carried=tuple(_carried(circuits, key)), circuits=circuits,
        )  # fmt: skip

    @property
    def chosen(self) -> list[CircuitRow]:
        """The smallest surely faithful circuit of each method under each kind of ablation."""
        return [row for row in self.curves if row.chosen]

    @property
    def main(self) -> CircuitRow | None:
        """The smallest circuit of the preferred kind of ablation; None if none is faithful."""
        return main_of(self.chosen)

    @property
    def searches(self) -> list[tuple[str, str]]:
        """The pairs of method and kind of ablation that were searched for."""
        scored = self.edges[0].scores if self.edges else ()
        pairs = [(name.partition("/")[0], name.partition("/")[2]) for name in scored]
        return pairs or list(dict.fromkeys((row.method, row.ablation) for row in self.curves))

    def is_whole(self, row: CircuitRow) -> bool:
        """Return whether a circuit is the whole model.

        Where an earlier version did not record it, a circuit of all edges is the whole model.
        """
        return row.edges == len(self.edges) if row.whole is None else row.whole

    def inner(self, of: str) -> list[CarriedRow]:
        """Return what inner edges carry in the model, the reference or a random init."""
        return [row for row in self.carried if row.of == of and row.inner]

    @classmethod
    def together(cls, results: Sequence[Self]) -> Self:
        """Return what results of one checkpoint found together, the fullest first.

        Of an ablation and a method that several have, it is what the fullest found. The circuit
        is the one that a search over all of them would choose, with its result's pictures.
        """
        rows: dict[tuple[str, str], list[CircuitRow]] = {}
        source: dict[tuple[str, str], int] = {}
        for at, result in enumerate(results):
            for row in result.curves:
                pair = (row.ablation, row.method)
                if source.setdefault(pair, at) == at:
                    rows.setdefault(pair, []).append(row)
        every = tuple(row for part in rows.values() for row in part)
        main = main_of(row for row in every if row.chosen)
        base = results[0 if main is None else source[main.ablation, main.method]]
        edge_scores = [{row.edge: row.scores for row in result.edges} for result in results]
        node_scores = [{row.node: row.scores for row in result.nodes} for result in results]
        problems = {name: told for result in results for name, told in result.problems.items()}
        return replace(
            base, curves=every, problems=problems,
            edges=tuple(
                replace(row, scores=_merged(row.scores, (own.get(row.edge) for own in edge_scores)))
                for row in base.edges
            ),
            nodes=tuple(
                replace(row, scores=_merged(row.scores, (own.get(row.node) for own in node_scores)))
                for row in base.nodes
            ),
        )  # fmt: skip


def _merged(
    own: Mapping[str, float], others: Iterable[Mapping[str, float] | None]
) -> dict[str, float]:
    scores = dict(own)
    for other in others:
        scores |= {name: value for name, value in (other or {}).items() if name not in scores}
    return scores


def main_of(chosen: Iterable[CircuitRow]) -> CircuitRow | None:
    """Return the smallest circuit of the preferred kind of ablation; None if there is none."""
    listed = list(chosen)
    for kind in dict.fromkeys((*PREFERRED, *(row.ablation for row in listed))):
        if own := [row for row in listed if row.ablation == kind]:
            return min(own, key=lambda row: row.edges)
    return None


def _curves(circuits: Circuits, key: Key) -> Iterator[CircuitRow]:
    for (kind, method), curve in circuits.curves.items():
        best = circuits.chosen.get((kind, method))
        for circuit in curve:
            chosen = best is not None and torch.equal(best.edges, circuit.edges)
            rest = best.completeness if chosen and best is not None else None
            yield CircuitRow(
                model=key.model, step=key.step, ablation=kind, method=method, edges=circuit.size,
                **share_columns("faithfulness", circuit.faithfulness),
                **share_columns("exact", circuit.exact), chosen=chosen,
                **share_columns("completeness", rest), whole=circuit.size >= circuits.most,
            )  # fmt: skip


def _edges(circuits: Circuits, key: Key) -> Iterator[EdgeRow]:
    wiring, truth, main = circuits.wiring, circuits.truth, circuits.main
    by_edge = {carried.edge: carried for carried in circuits.edge_variables}
    scores = {
        f"{method}/{kind}": each.values.tolist() for (kind, method), each in circuits.scores.items()
    }
    for i, edge in enumerate(wiring.edges):
        visible = truth.visible if truth is not None else {}
        yield EdgeRow(
            model=key.model, step=key.step, edge=wiring.edge_name(edge),
            scores={name: float(values[i]) for name, values in scores.items()},
            real=None if truth is None else bool(truth.real[edge]),
            visible={kind: bool(mask[edge]) for kind, mask in visible.items()},
            in_circuit=main is not None and bool(main.edges[edge]),
            **share_columns("needed", circuits.needed.get(edge)), **_told(by_edge.get(edge)),
        )  # fmt: skip


def _nodes(circuits: Circuits, key: Key) -> Iterator[NodeRow]:
    for u, node in enumerate(circuits.wiring.nodes):
        scores = {
            f"{method}/{kind}": float(each.nodes[u])
            for (kind, method), each in circuits.scores.items()
        }
        yield NodeRow(model=key.model, step=key.step, node=node.name, scores=scores)


def _lengths(circuits: Circuits, key: Key) -> Iterator[LengthRow]:
    for length, at_length in circuits.lengths.items():
        yield LengthRow(
            model=key.model, step=key.step, length=length, inputs=at_length.n,
            **share_columns("faithfulness", at_length.faithfulness),
            **share_columns("completeness", at_length.completeness),
            **share_columns("exact", at_length.exact),
            minimality=known(circuits.minimal.get(length)),
        )  # fmt: skip


def _carried(circuits: Circuits, key: Key) -> Iterator[CarriedRow]:
    wiring = circuits.wiring
    ours = [(wiring.edge_label(carried.edge), carried) for carried in circuits.edge_variables]
    untrained = [(wiring.edge_label(carried.edge), carried) for carried in circuits.untrained_edges]
    if not ours:
        return
    for of, edges in (
        (MODEL, ours),
        (REFERENCE, circuits.reference_edges),
        (RANDOM_INIT, untrained),
    ):
        for label, carried in edges:
            inner = label.partition(" -> ")[0] not in EMBEDDINGS
            yield CarriedRow(
                model=key.model, step=key.step, of=of, edge=label, inner=inner, **_told(carried)
            )


def _told(carried: EdgeVariables | None) -> dict[str, Any]:
    held = None if carried is None else carried.highest
    if carried is None or held is None:
        return {"carries": "", **share_columns("share", None), "chance": None}
    return {
        "carries": carried.name, "share": known(held.share), "share_low": known(held.low),
        "share_high": known(held.high), "chance": known(held.chance),
    }  # fmt: skip
