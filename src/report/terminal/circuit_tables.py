"""A model's circuits: tables, CSV, and figures of the graph and of the faithfulness curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from ...analysis.circuits.edge_scores import METHODS, Scores, all_edges, reaching
from ...analysis.circuits.edge_variables import EdgeVariables, summed
from ...analysis.circuits.faithfulness import Circuit, CircuitAtLength, CircuitShare
from ...analysis.matching.cut_tests import Match
from ...data.inputs import InputSet
from ...data.outputs import Categorical
from ...models.wiring import Edge, Wiring
from ...runs.result_store import Key, save
from ..figures.graphs import Layout, arrow, box, canvas, layered, roles_legend
from ..figures.panels import COLOURS, png
from .matching_tables import site_label
from .tables import plain_table
from .tables import say as printed

MOST_DRAWN = 50  # edges
FEW = 20  # a graph with at most this many edges has its rows closer together
MOST_LISTED = 40
MOST_NAMED = 6
ROLES = {"q": "query", "k": "key", "v": "value", "": "value"}
METHOD_LEGEND = (
    "size: edges of the smallest circuit that is surely faithful (!: no circuit is), counting "
    "those on a path to the output; faithfulness: 1 is what the model does, 0 what is left "
    "without any edge; completeness: faithfulness of the complement, that is, of all other "
    "edges; 0 is best (-: the outputs are the same without any edge); exact: the circuit's own "
    "exact accuracy"
)
EDGE_LEGEND = (
    "needed: how much further from the model's the outputs are when this edge is ablated too "
    "({unit}); +: surely above 0; *: surely at least {least:g} (analysis.circuit_threshold, the "
    "least effect for which acdc keeps an edge); carries: the program variable that accounts "
    "for most of the edge's effect, its share, and the share by chance; a variable is named if "
    "its share is surely at least 0.9, and at least 0.9 of what chance leaves"
)


NODE_LEGEND = (
    "node scores: the effect of ablating everything that the node writes, mean over the inputs "
    "searched on: on the outputs by patching, on the loss by gradients (by patching where "
    "gradients are zero); edges: those of the circuit"
)


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
    carried: list[EdgeVariables] = field(default_factory=list)
    untrained: list[EdgeVariables] = field(default_factory=list)
    theirs: list[tuple[str, EdgeVariables]] = field(default_factory=list)
    matched: dict[str, Match | None] = field(default_factory=dict)
    verdict: str = ""

    @property
    def main(self) -> Circuit | None:
        """The smallest circuit of the preferred kind of ablation; None if none is faithful.

        Resampling across lengths is preferred, then resampling within a length.
        """
        kinds = list(dict.fromkeys(kind for kind, _ in self.chosen))
        for kind in ("resample_across", "resample_within", *kinds):
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


def auroc(
    scores: Scores,
    wiring: Wiring,
    positive: Bool[Tensor, "reader node"],
    left_out: Bool[Tensor, "reader node"],
) -> float | None:
    """Return the area under the ROC curve of the edges' scores; None if all labels are equal.

    `positive` are the true edges. Edges in `left_out` are not counted.
    """
    truth, values = _labelled(scores, wiring, positive, left_out)
    if len(set(truth)) < 2:
        return None
    return float(roc_auc_score(truth, values))


def _labelled(
    scores: Scores,
    wiring: Wiring,
    positive: Bool[Tensor, "reader node"],
    left_out: Bool[Tensor, "reader node"],
) -> tuple[list[bool], list[float]]:
    rows = [
        (bool(positive[edge]), value)
        for edge, value in zip(wiring.edges, scores.values.tolist(), strict=True)
        if not left_out[edge]
    ]
    return [label for label, _ in rows], [value for _, value in rows]


def print_circuits(circuits: Circuits, console: Console) -> None:
    """Print the results of every method under every kind of ablation, then the circuit."""
    say = partial(printed, console=console)

    wiring = circuits.wiring
    nodes, edges = len(wiring.nodes), len(wiring.edges)
    say(f"{circuits.name}: {edges} edges among {nodes} nodes; exact accuracy {circuits.exact:.4f}")
    say(f"searched on {circuits.searched_on:,} inputs, judged on {len(circuits.inputs):,}")
    if circuits.truth is not None:
        console.print(_truth_table(circuits))
        say(
            "AUROC of the edges' scores against the true circuit, known from the weights: over "
            "all real edges, and over those that the ablation can see (real edges that it "
            "cannot see are not counted); missed: real edges with a score of 0"
        )
        for line in missed(circuits):
            say(line)
        say("")
    console.print(_methods_table(circuits))
    say(METHOD_LEGEND)
    if fallen := [
        f"{scores.fallen_back} ({method}, {kind})"
        for (kind, method), scores in circuits.scores.items()
        if scores.fallen_back
    ]:
        say(f"edges without a gradient, patched instead: {', '.join(fallen)}")
    if idle := idle_kinds(circuits):
        say(
            f"nothing can be said about circuits by {', '.join(idle)}: without any edge the "
            "outputs are the same"
        )
    if circuits.main is None:
        say(f"no circuit is surely {circuits.faithful:.0%} faithful")
        return
    say("")
    say(_title(circuits) + ("; the edges below are all real ones" if circuits.truth else ""))
    console.print(_edges_table(circuits))
    say(EDGE_LEGEND.format(unit=circuits.unit, least=circuits.least))
    console.print(_lengths_table(circuits))
    console.print(_nodes_table(circuits))
    say(NODE_LEGEND)
    if (variables := _variables_table(circuits)).row_count:
        console.print(variables)
        say(
            "edges that carry each program variable, in this model and in the compiled "
            "reference; match: the variable's best match (the lower of scrub and interchange), "
            "and its site" + (f" (the model: {circuits.verdict})" if circuits.verdict else "")
        )


def _truth_table(circuits: Circuits) -> Table:
    assert circuits.truth is not None
    real, nothing = circuits.truth.real, torch.zeros_like(circuits.truth.real)
    table = plain_table("ablation", "method", "real", "AUROC", "visible", "AUROC", "missed")
    for (kind, method), scores in circuits.scores.items():
        seen = circuits.truth.visible[kind]
        values = (
            auroc(scores, circuits.wiring, real, nothing),
            auroc(scores, circuits.wiring, seen, real & ~seen),
        )
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        table.add_row(
            kind, method, str(int(real.sum())), shown[0], str(int(seen.sum())), shown[1],
            str(len(_missed(circuits, scores))),
        )  # fmt: skip
    return table


def _missed(circuits: Circuits, scores: Scores) -> list[Edge]:
    assert circuits.truth is not None
    values = scores.values.tolist()
    return [
        edge
        for edge, value in zip(circuits.wiring.edges, values, strict=True)
        if circuits.truth.real[edge] and value == 0
    ]


def missed(circuits: Circuits) -> Iterator[str]:
    """Yield the real edges that each ablation cannot see, and the visible ones a method misses."""
    assert circuits.truth is not None
    wiring = circuits.wiring
    for kind, seen in circuits.truth.visible.items():
        hidden = circuits.truth.real & ~seen
        names = ", ".join(wiring.edge_label(edge) for edge in wiring.edges if hidden[edge])
        yield f"{kind} cannot see: {names or 'none: it sees all'}"
        for (own, method), scores in circuits.scores.items():
            more = [edge for edge in _missed(circuits, scores) if seen[edge]]
            if own == kind and more:
                names = ", ".join(map(wiring.edge_label, more))
                yield f"  {method} misses these visible edges: {names}"


def _methods_table(circuits: Circuits) -> Table:
    table = plain_table(
        "ablation", "method", "size", "faithfulness", "95%", "completeness", "exact"
    )
    for kind, method in circuits.scores:
        best, note = circuits.chosen.get((kind, method)), ""
        if best is None:
            some = circuits.curves[kind, method]
            best, note = (some[-1], "!") if some else (None, "")
        if best is None:
            table.add_row(kind, method, "0", "-", "-", "-", "-")
            continue
        table.add_row(
            kind, method, f"{best.size}{note}", *_cells(best.faithfulness),
            _cells(best.completeness)[0] if best.completeness else "-", f"{best.exact.value:.3f}",
        )  # fmt: skip
    return table


def _cells(share: CircuitShare) -> tuple[str, str]:
    """Return a share and its interval as text; dashes if it is undefined."""
    if math.isnan(share.value):
        return "-", "-"
    return f"{share.value:.2f}", f"{share.low:.2f}..{share.high:.2f}"


def idle_kinds(circuits: Circuits) -> list[str]:
    """Return the kinds of ablation under which removing all edges leaves the outputs the same."""
    tried: dict[str, list[Circuit]] = {}
    for (kind, _), curve in circuits.curves.items():
        tried.setdefault(kind, []).extend(curve)
    return [
        kind
        for kind, candidates in tried.items()
        if candidates and all(math.isnan(candidate.faithfulness.value) for candidate in candidates)
    ]


def _title(circuits: Circuits) -> str:
    main = circuits.main
    assert main is not None
    inner = [
        carried
        for carried in circuits.carried
        if circuits.wiring.nodes[carried.edge.node].layer >= 0
    ]
    named = sum(map(_named, inner))
    size = f"the circuit: {main.size} of {circuits.most} edges"
    if circuits.is_whole:
        size = f"all {main.size} edges: the whole model; no smaller circuit is surely faithful"
    return (
        f"{size} ({main.method}, {main.kind}); {_needed(circuits)} (minimality, on "
        f"{circuits.needed_on:,} inputs); {named} of {len(inner)} edges that do not come from an "
        "embedding carry a variable"
        + (
            f" (in a random init: {sum(map(_named, there))})"
            if (there := circuits.untrained)
            else ""
        )
    )


def _needed(circuits: Circuits) -> str:
    """Return how many edges of the circuit are needed, and how many have any effect."""
    shares = circuits.needed.values()
    matter, above = (
        sum(share.low >= at and share.low > 0 for share in shares) for at in (circuits.least, 0)
    )
    return (
        f"{matter} of {len(circuits.needed)} edges are surely needed (without one, the outputs "
        f"are at least {circuits.least:g} {circuits.unit} further off), {above} surely have an "
        "effect (above 0)"
    )


def _named(carried: EdgeVariables) -> bool:
    return bool(carried.names)


def _listed(circuits: Circuits) -> list[EdgeVariables]:
    """Return what the circuit's edges carry, the most needed edges first."""

    def key(carried: EdgeVariables) -> float:
        there = circuits.needed.get(carried.edge)
        return -there.value if there else 0.0

    return sorted(circuits.carried, key=key)


def _edges_table(circuits: Circuits) -> Table:
    table = plain_table("edge", "needed", "", "carries", "share", "95%", "chance")
    rows = _listed(circuits)
    for carried in rows[:MOST_LISTED]:
        there = circuits.needed.get(carried.edge)
        held = carried.highest
        table.add_row(
            circuits.wiring.edge_label(carried.edge), f"{there.value:.3f}" if there else "-",
            _sure(there, circuits.least),
            escape(carried.name or "no single variable") if held else "no effect",
            f"{held.share:.2f}" if held else "-",
            f"{held.low:.2f}..{held.high:.2f}" if held else "-",
            f"{held.chance:.2f}" if held else "-",
        )  # fmt: skip
    if len(rows) > MOST_LISTED:
        table.add_row(f"and {len(rows) - MOST_LISTED} more (edges.csv)", "", "", "", "", "", "")
    return table


def _sure(there: CircuitShare | None, least: float) -> str:
    if there is None or there.low <= 0:
        return ""
    return "*" if there.low >= least else "+"


def _lengths_table(circuits: Circuits) -> Table:
    table = plain_table(
        "length", "inputs", "faithfulness", "95%", "completeness", "95%", "exact", "above 0"
    )
    for length, at_length in circuits.lengths.items():
        table.add_row(
            str(length), f"{at_length.n:,}", *_cells(at_length.faithfulness),
            *_cells(at_length.completeness), f"{at_length.exact.value:.3f}",
            "-" if math.isnan(circuits.minimal[length]) else f"{circuits.minimal[length]:.2f}",
        )  # fmt: skip
    return table


def _nodes_table(circuits: Circuits) -> Table:
    """Return a table of the nodes' scores under the circuit's kind of ablation."""
    assert circuits.main is not None
    main, wiring = circuits.main, circuits.wiring
    known = {
        method: scores for (kind, method), scores in circuits.scores.items() if kind == main.kind
    }
    some = {method: scores for method, scores in known.items() if method != "acdc"}
    table = plain_table("node", *some, "edges to it", "edges from it")
    first = next(iter(some.values()), None)
    order = range(len(wiring.nodes)) if first is None else first.nodes.argsort(descending=True)
    for u in map(int, order):
        own = [i for i, reader in enumerate(wiring.readers) if reader.node == wiring.nodes[u]]
        table.add_row(
            wiring.nodes[u].label, *(f"{float(scores.nodes[u]):.3f}" for scores in some.values()),
            str(int(main.edges[own].sum())), str(int(main.edges[:, u].sum())),
        )  # fmt: skip
    return table


def _variables_table(circuits: Circuits) -> Table:
    ours = summed(circuits.carried)
    theirs: dict[str, list[str]] = {}
    for label, carried in circuits.theirs:
        if carried.names:
            theirs.setdefault(carried.name, []).append(label)
    table = Table(
        title="variables carried by edges", title_justify="left", box=None, padding=(0, 1)
    )
    for heading in ("variable", "in the reference", "in the model", "match"):
        table.add_column(heading, overflow="fold")
    for name in dict.fromkeys([*theirs, *ours]):
        here = [circuits.wiring.edge_label(carried.edge) for carried in ours.get(name, [])]
        table.add_row(
            escape(name), _some(theirs.get(name, [])), _some(here), _match_of(circuits, name),
        )  # fmt: skip
    return table


def _some(labels: list[str]) -> str:
    more = len(labels) - MOST_NAMED
    shown = ", ".join(labels[:MOST_NAMED]) or "-"
    return f"{shown} and {more} more" if more > 0 else shown


def _match_of(circuits: Circuits, names: str) -> str:
    for name in names.replace(" or ", " = ").split(" = "):
        match = circuits.matched.get(name)
        if match is not None:
            return f"{match.value:.2f} at {site_label(match.site)}"
    return "-"


def circuits_csv(circuits: Circuits) -> str:
    """Return the circuits of all curves as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["model", "ablation", "method", "edges", "faithfulness", "faithfulness_low",
         "faithfulness_high", "exact", "exact_low", "exact_high", "chosen", "completeness",
         "completeness_low", "completeness_high", "whole"]
    )  # fmt: skip
    for (kind, method), curve in circuits.curves.items():
        best = circuits.chosen.get((kind, method))
        for circuit in curve:
            chosen = best is not None and torch.equal(best.edges, circuit.edges)
            rest = best.completeness if chosen and best is not None else None
            shares = [circuit.faithfulness, circuit.exact]
            values = [value for share in shares for value in (share.value, share.low, share.high)]
            more = (rest.value, rest.low, rest.high) if rest else ("", "", "")
            whole = circuit.size >= circuits.most
            writer.writerow(
                [circuits.name, kind, method, circuit.size, *values, chosen, *more, whole]
            )
    return out.getvalue()


def edges_csv(circuits: Circuits) -> str:
    """Return all edges as CSV: scores, truth, whether in the circuit, and what each carries."""
    out, wiring = io.StringIO(), circuits.wiring
    writer = csv.writer(out, lineterminator="\n")
    keys = list(circuits.scores)
    real = (
        []
        if circuits.truth is None
        else ["real", *(f"visible/{k}" for k in circuits.truth.visible)]
    )
    writer.writerow(
        ["model", "edge", *(f"{method}/{kind}" for kind, method in keys), *real, "in_circuit",
         "needed", "needed_low", "needed_high", "carries", "share", "share_low", "share_high",
         "chance"]
    )  # fmt: skip
    by_edge = {carried.edge: carried for carried in circuits.carried}
    for i, edge in enumerate(wiring.edges):
        truth = (
            []
            if circuits.truth is None
            else [circuits.truth.real, *circuits.truth.visible.values()]
        )
        there, what = circuits.needed.get(edge), by_edge.get(edge)
        circuit = circuits.main is not None and bool(circuits.main.edges[edge])
        writer.writerow(
            [circuits.name, wiring.edge_name(edge),
             *(float(circuits.scores[key].values[i]) for key in keys),
             *(bool(mask[edge]) for mask in truth), circuit,
             *((there.value, there.low, there.high) if there else ("", "", "")),
             *_told(what)]
        )  # fmt: skip
    return out.getvalue()


def carried_csv(circuits: Circuits) -> str:
    """Return what edges carry as CSV: in the model's circuit, the reference and a random init.

    An edge is `inner` if it does not come from an embedding.
    """
    out, wiring = io.StringIO(), circuits.wiring
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["model", "of", "edge", "inner", "carries", "share", "share_low", "share_high", "chance"]
    )
    ours = [(wiring.edge_label(carried.edge), carried) for carried in circuits.carried]
    untrained = [(wiring.edge_label(carried.edge), carried) for carried in circuits.untrained]
    for of, edges in (("model", ours), ("reference", circuits.theirs), ("random init", untrained)):
        for label, carried in edges:
            inner = label.partition(" -> ")[0] not in INPUTS
            writer.writerow([circuits.name, of, label, inner, *_told(carried)])
    return out.getvalue()


def _told(carried: EdgeVariables | None) -> tuple[object, ...]:
    held = None if carried is None else carried.highest
    if carried is None or held is None:
        return ("",) * 5
    return carried.name, held.share, held.low, held.high, held.chance


def nodes_csv(circuits: Circuits) -> str:
    """Return the scores of all nodes as CSV."""
    out, keys = io.StringIO(), list(circuits.scores)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "node", *(f"{method}/{kind}" for kind, method in keys)])
    for u, node in enumerate(circuits.wiring.nodes):
        values = [float(circuits.scores[key].nodes[u]) for key in keys]
        writer.writerow([circuits.name, node.name, *values])
    return out.getvalue()


def lengths_csv(circuits: Circuits) -> str:
    """Return faithfulness, completeness, accuracy and minimality by length as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("faithfulness", "completeness", "exact")
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    writer.writerow(["model", "length", "inputs", *ends, "minimality"])
    for length, at_length in circuits.lengths.items():
        shares = (at_length.faithfulness, at_length.completeness, at_length.exact)
        values = [value for share in shares for value in (share.value, share.low, share.high)]
        writer.writerow(
            [circuits.name, length, at_length.n, *values, circuits.minimal.get(length, "")]
        )
    return out.getvalue()


def curves_figure(circuits: Circuits) -> Figure:
    """Draw faithfulness against size; for a compiled model also the ROC curves."""
    kinds = list(dict.fromkeys(kind for kind, _ in circuits.scores))
    rows = 1 if circuits.truth is None else 2
    figure = Figure(figsize=(3.1 * len(kinds) + 0.5, 3.1 * rows + 0.6), layout="constrained")
    figure.suptitle(circuits.name, fontsize=10)
    axes = figure.subplots(rows, len(kinds), squeeze=False)
    for column, kind in enumerate(kinds):
        _faithfulness(axes[0, column], circuits, kind)
        if circuits.truth is not None:
            _roc(axes[1, column], circuits, kind)
    axes[0, 0].set_ylabel("faithfulness")
    if circuits.truth is not None:
        axes[1, 0].set_ylabel("visible edges found")
    axes[0, -1].legend(fontsize=7)
    return figure


def _faithfulness(axes: Axes, circuits: Circuits, kind: str) -> None:
    for method, colour in zip(METHODS, cycle(COLOURS), strict=False):
        some = circuits.curves.get((kind, method), [])
        sizes = [circuit.size for circuit in some]
        shares = [circuit.faithfulness for circuit in some]
        marker = "*" if method == "acdc" else "."
        axes.plot(
            sizes, [share.value for share in shares], marker=marker, color=colour, label=method,
            markersize=9 if method == "acdc" else 5, lw=1,
        )  # fmt: skip
        axes.fill_between(
            sizes, [share.low for share in shares], [share.high for share in shares], color=colour,
            alpha=0.2, lw=0,
        )  # fmt: skip
    axes.axhline(circuits.faithful, color="0.6", lw=0.8, ls="--")
    most = len(circuits.wiring.edges)
    axes.set(title=kind, xlabel="edges", ylim=(-1.05, 1.05), xlim=(0.9, 1.1 * most), xscale="log")
    axes.title.set_fontsize(9)


def _roc(axes: Axes, circuits: Circuits, kind: str) -> None:
    assert circuits.truth is not None
    real, seen = circuits.truth.real, circuits.truth.visible[kind]
    for method, colour in zip(METHODS, cycle(COLOURS), strict=False):
        scores = circuits.scores.get((kind, method))
        if scores is None:
            continue
        truth, values = _labelled(scores, circuits.wiring, seen, real & ~seen)
        if len(set(truth)) > 1:
            false, true, _ = roc_curve(truth, values)
            axes.plot(false, true, color=colour, label=method, lw=1.2)
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
    axes.set(xlabel="edges found that are not real", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))


def graph_figure(circuits: Circuits) -> Figure | None:
    """Draw the circuit as a graph, from the embeddings to the output; None if it has no edges.

    If there are more than fifty edges, the fifty most needed are kept, and of these the ones on a
    path to the output are drawn.
    """
    mask, note = circuits.drawn, ""
    if mask is None or not mask.any():
        return None
    main = circuits.main
    if int(mask.sum()) > MOST_DRAWN and main is not None:
        mask, note = (
            _fewer(circuits, main),
            (f" (the {MOST_DRAWN} most needed, of which those on a path to the output)"),
        )
    wiring = circuits.wiring
    edges = [edge for edge in wiring.edges if mask[edge]]
    named = [
        (wiring.nodes[edge.node].label, _end(wiring, edge), wiring.readers[edge.reader].side)
        for edge in edges
    ]
    names = list(dict.fromkeys([end for a, b, _ in named for end in (a, b)]))
    layout: Layout = layered(names, list(dict.fromkeys((a, b) for a, b, _ in named)))
    figure, axes, _ = canvas(layout, row=1.3 if len(edges) > FEW else 0.8)
    what = "true circuit" if circuits.truth is not None else "circuit"
    hidden = _hidden(circuits)
    if hidden.any() and main is not None:
        note += f"; thin: {main.kind} cannot see it"
    size = f"{what}, {int(mask.sum())} edges"
    if circuits.truth is None and circuits.is_whole:
        size = f"all {circuits.most} edges, the whole model: no smaller circuit is surely faithful"
    axes.set_title(f"{circuits.name}: {size}{note}", fontsize=9)
    by_edge = {carried.edge: carried for carried in circuits.carried}
    for edge, (source, target, side) in zip(edges, named, strict=True):
        way = layout.ways[source, target]
        arrow(axes, way, ROLES[side], 0.6 if hidden[edge] else 1.6)
        _label(axes, way, by_edge.get(edge), side)
    for name, place in layout.places.items():
        kind = "output" if name == "output" else "input" if name in INPUTS else "step"
        box(axes, name, place, kind)
    roles_legend(figure)
    return figure


INPUTS = ("tokens", "positions")
TOLD = ("tokens", "indices")  # what an edge from an embedding carries: the box says it
SHIFTS = {"v": -0.12, "": -0.12, "k": 0.0, "q": 0.12}


def _end(wiring: Wiring, edge: Edge) -> str:
    node = wiring.readers[edge.reader].node
    return "output" if node is None else node.label


def _hidden(circuits: Circuits) -> Bool[Tensor, "reader node"]:
    """Return the real edges that the circuit's kind of ablation cannot see."""
    nothing = torch.zeros(
        len(circuits.wiring.readers), len(circuits.wiring.nodes), dtype=torch.bool
    )
    if circuits.truth is None or circuits.main is None:
        return nothing
    return circuits.truth.real & ~circuits.truth.visible[circuits.main.kind]


def _fewer(circuits: Circuits, main: Circuit) -> Bool[Tensor, "reader node"]:
    order = sorted(circuits.needed, key=lambda edge: -circuits.needed[edge].value)
    kept = torch.zeros_like(main.edges)
    for edge in order[:MOST_DRAWN]:
        kept[edge] = True
    return reaching(circuits.wiring, kept)


def _label(
    axes: Axes, way: list[tuple[float, float]], carried: EdgeVariables | None, side: str
) -> None:
    if carried is None or not carried.names or set(carried.names) & set(TOLD):
        return
    at = (len(way) - 1) / 2
    (x, y), (z, w) = way[int(at)], way[min(int(at) + 1, len(way) - 1)]
    part = 0.5 if at == int(at) and len(way) == 2 else 0.35
    axes.text(
        x + (z - x) * part + SHIFTS[side], y + (w - y) * part, carried.names[0].partition(" = ")[0],
        fontsize=6.5,
        ha="left" if SHIFTS[side] >= 0 else "right", va="center", color="#444444",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}, zorder=2.5,
    )  # fmt: skip


def keep_circuits(circuits: Circuits, where: Path, key: Key, finished: bool = True) -> list[Path]:
    """Write the tables and figures of the circuits, by step and settings; return the files.

    An unfinished result has no figures and does not replace a finished one.

    Raises:
        FaultError: the file system failed.
    """
    texts = {
        "circuits.csv": circuits_csv(circuits),
        "edges.csv": edges_csv(circuits),
        "nodes.csv": nodes_csv(circuits),
    }
    if circuits.lengths:
        texts["lengths.csv"] = lengths_csv(circuits)
    if circuits.carried:
        texts["carried.csv"] = carried_csv(circuits)
    files = {name: text.encode() for name, text in texts.items()}
    if finished:
        figures = {"curves.png": curves_figure(circuits), "circuit.png": graph_figure(circuits)}
        files |= {name: png(figure) for name, figure in figures.items() if figure is not None}
    path = save(where, key, files, (len(circuits.scores),), finished)
    return [path / name for name in files]
