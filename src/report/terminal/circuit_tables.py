"""The circuits of a model: tables, CSV, and pictures of the graph and of the curves."""

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
from ...analysis.circuits.edge_variables import Carried, summed
from ...analysis.circuits.faithfulness import AtLength, Circuit, Share
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
FEW = 20  # edges that need no more room than a program's
MOST_LISTED = 40
MOST_NAMED = 6
ROLES = {"q": "query", "k": "key", "v": "value", "": "value"}
METHOD_LEGEND = (
    "size: edges of the smallest circuit that is surely faithful (!: none is), of those on a way "
    "to the output; faithful: 1 is what the model does, 0 what is left without any edge; complete: "
    "the same of all other edges, 0 is best (-: the outputs are the same without any edge); exact: "
    "the circuit's own accuracy"
)
EDGE_LEGEND = (
    "needed: how much further from the model the outputs are without the edge ({unit}), + surely "
    "above 0, * surely at least {least:g} (analysis.circuit_threshold, below which acdc takes an "
    "edge away); carries: the program's variable that is most of what counts on the edge (share), "
    "and by chance; named if surely 0.9, and 0.9 of what chance leaves"
)


NODE_LEGEND = (
    "a node's score: what taking away all that it writes does, mean over the inputs searched on, "
    "by patching to the outputs, by gradients to the loss (where these say nothing, by patching, "
    "too); edges: of the circuit"
)


@dataclass
class Truth:
    """A compiled model's real edges, and those that each kind of ablation can see."""

    real: Bool[Tensor, "reader node"]
    visible: dict[str, Bool[Tensor, "reader node"]] = field(default_factory=dict)


@dataclass
class Circuits:
    """What was found of a model's circuits; keys are kinds of ablation and methods."""

    name: str
    exact: float
    inputs: InputSet
    wiring: Wiring
    faithful: float
    least: float = 0.0  # from which on an edge matters
    truth: Truth | None = None
    scores: dict[tuple[str, str], Scores] = field(default_factory=dict)
    curves: dict[tuple[str, str], list[Circuit]] = field(default_factory=dict)
    chosen: dict[tuple[str, str], Circuit] = field(default_factory=dict)
    needed: dict[Edge, Share] = field(default_factory=dict)
    needed_on: int = 0
    searched_on: int = 0
    lengths: dict[int, AtLength] = field(default_factory=dict)
    minimal: dict[int, float] = field(default_factory=dict)
    carried: list[Carried] = field(default_factory=list)
    untrained: list[Carried] = field(default_factory=list)
    theirs: list[tuple[str, Carried]] = field(default_factory=list)
    matched: dict[str, Match | None] = field(default_factory=dict)
    verdict: str = ""

    @property
    def main(self) -> Circuit | None:
        """The circuit of fewest edges, under the kind of ablation that sees most of resampling."""
        kinds = list(dict.fromkeys(kind for kind, _ in self.chosen))
        for kind in ("resample_across", "resample_within", *kinds):
            found = [one for (each, _), one in self.chosen.items() if each == kind]
            if found:
                return min(found, key=lambda one: one.size)
        return None

    @property
    def most(self) -> int:
        """How many edges the whole model has on a way to the output: no circuit has more."""
        return int(reaching(self.wiring, all_edges(self.wiring)).sum())

    @property
    def is_whole(self) -> bool:
        """Whether the circuit is the whole model, since no smaller one is faithful."""
        return self.main is not None and self.main.size >= self.most

    @property
    def unit(self) -> str:
        """What outputs that are apart are measured in."""
        return "nats" if isinstance(self.inputs.output, Categorical) else "squared difference"

    @property
    def drawn(self) -> Bool[Tensor, "reader node"] | None:
        """The edges that are drawn: the true ones of a compiled model, else the circuit's."""
        if self.truth is not None:
            return self.truth.real
        return None if self.main is None else self.main.edges


def auroc(
    scores: Scores,
    wiring: Wiring,
    positive: Bool[Tensor, "reader node"],
    left_out: Bool[Tensor, "reader node"],
) -> float | None:
    """Return the area under the ROC curve of edges' scores; None where all or none are true."""
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
    return [one for one, _ in rows], [value for _, value in rows]


def print_circuits(found: Circuits, console: Console) -> None:
    """Print what every method found under every kind of ablation, then the circuit itself."""
    say = partial(printed, console=console)

    wiring = found.wiring
    nodes, edges = len(wiring.nodes), len(wiring.edges)
    say(f"{found.name}: {edges} edges among {nodes} nodes; exact accuracy {found.exact:.4f}")
    say(f"searched on {found.searched_on:,} inputs, judged on {len(found.inputs):,}")
    if found.truth is not None:
        console.print(_truth_table(found))
        say(
            "AUROC of the edges' scores against the true circuit, from the weights: of all real "
            "edges, and of those that the ablation can see (real ones out of its sight count "
            "neither way); missed: real edges with a score of 0"
        )
        for line in missed(found):
            say(line)
        say("")
    console.print(_methods_table(found))
    say(METHOD_LEGEND)
    if fallen := [
        f"{one.fallen_back} ({method}, {kind})"
        for (kind, method), one in found.scores.items()
        if one.fallen_back
    ]:
        say(f"edges without a gradient, patched instead: {', '.join(fallen)}")
    if idle := idle_kinds(found):
        say(
            f"nothing can be told of circuits by {', '.join(idle)}: without any edge the outputs "
            "are the same"
        )
    if found.main is None:
        say(f"no circuit is surely {found.faithful:.0%} faithful")
        return
    say("")
    say(_title(found) + ("; the edges below are all real ones" if found.truth else ""))
    console.print(_edges_table(found))
    say(EDGE_LEGEND.format(unit=found.unit, least=found.least))
    console.print(_lengths_table(found))
    console.print(_nodes_table(found))
    say(NODE_LEGEND)
    if (variables := _variables_table(found)).row_count:
        console.print(variables)
        say(
            "edges that carry each variable of the program, here and in the compiled reference; "
            "match: the best of the variable by interchange and scrub, and its site"
            + (f" (the model: {found.verdict})" if found.verdict else "")
        )


def _truth_table(found: Circuits) -> Table:
    assert found.truth is not None
    real, nothing = found.truth.real, torch.zeros_like(found.truth.real)
    table = plain_table("ablation", "method", "real", "AUROC", "visible", "AUROC", "missed")
    for (kind, method), scores in found.scores.items():
        seen = found.truth.visible[kind]
        values = (
            auroc(scores, found.wiring, real, nothing),
            auroc(scores, found.wiring, seen, real & ~seen),
        )
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        table.add_row(
            kind, method, str(int(real.sum())), shown[0], str(int(seen.sum())), shown[1],
            str(len(_missed(found, scores))),
        )  # fmt: skip
    return table


def _missed(found: Circuits, scores: Scores) -> list[Edge]:
    assert found.truth is not None
    values = scores.values.tolist()
    return [
        edge
        for edge, value in zip(found.wiring.edges, values, strict=True)
        if found.truth.real[edge] and value == 0
    ]


def missed(found: Circuits) -> Iterator[str]:
    """Yield which real edges each kind of ablation cannot see, and which the methods miss else."""
    assert found.truth is not None
    wiring = found.wiring
    for kind, seen in found.truth.visible.items():
        hidden = found.truth.real & ~seen
        names = ", ".join(wiring.edge_label(edge) for edge in wiring.edges if hidden[edge])
        yield f"{kind} cannot see: {names or 'none: it sees all'}"
        for (own, method), scores in found.scores.items():
            more = [edge for edge in _missed(found, scores) if seen[edge]]
            if own == kind and more:
                names = ", ".join(map(wiring.edge_label, more))
                yield f"  {method} misses of what it sees: {names}"


def _methods_table(found: Circuits) -> Table:
    table = plain_table("ablation", "method", "size", "faithful", "95%", "complete", "exact")
    for kind, method in found.scores:
        best, note = found.chosen.get((kind, method)), ""
        if best is None:
            some = found.curves[kind, method]
            best, note = (some[-1], "!") if some else (None, "")
        if best is None:
            table.add_row(kind, method, "0", "-", "-", "-", "-")
            continue
        table.add_row(
            kind, method, f"{best.size}{note}", *_cells(best.faithfulness),
            _cells(best.completeness)[0] if best.completeness else "-", f"{best.exact.value:.3f}",
        )  # fmt: skip
    return table


def _cells(share: Share) -> tuple[str, str]:
    """Return a share and its interval as text; dashes where it is not defined."""
    if math.isnan(share.value):
        return "-", "-"
    return f"{share.value:.2f}", f"{share.low:.2f}..{share.high:.2f}"


def idle_kinds(found: Circuits) -> list[str]:
    """Return the kinds of ablation under which the outputs do not change without any edge."""
    tried: dict[str, list[Circuit]] = {}
    for (kind, _), circuits in found.curves.items():
        tried.setdefault(kind, []).extend(circuits)
    return [
        kind
        for kind, circuits in tried.items()
        if circuits and all(math.isnan(one.faithfulness.value) for one in circuits)
    ]


def _title(found: Circuits) -> str:
    main = found.main
    assert main is not None
    inner = [one for one in found.carried if found.wiring.nodes[one.edge.node].layer >= 0]
    named = sum(map(_named, inner))
    size = f"the circuit: {main.size} of {found.most} edges"
    if found.is_whole:
        size = f"all {main.size} edges: the whole model, no smaller circuit is surely faithful"
    return (
        f"{size} ({main.method}, {main.kind}); {_needed(found)} (minimality, on "
        f"{found.needed_on:,} inputs); {named} of {len(inner)} that do not come from an embedding "
        "carry a variable"
        + (f" (of a random init's {sum(map(_named, there))})" if (there := found.untrained) else "")
    )


def _needed(found: Circuits) -> str:
    """Return how many edges of the circuit matter, and how many do anything at all."""
    shares = found.needed.values()
    matter, above = (
        sum(one.low >= at and one.low > 0 for one in shares) for at in (found.least, 0)
    )
    return (
        f"of {len(found.needed)} edges {matter} are surely needed (without one the outputs are at "
        f"least {found.least:g} {found.unit} further off), {above} surely do anything (above 0)"
    )


def _named(one: Carried) -> bool:
    return bool(one.names)


def _listed(found: Circuits) -> list[Carried]:
    """Return the edges of the circuit, those that are needed most first."""

    def key(one: Carried) -> float:
        there = found.needed.get(one.edge)
        return -there.value if there else 0.0

    return sorted(found.carried, key=key)


def _edges_table(found: Circuits) -> Table:
    table = plain_table("edge", "needed", "", "carries", "share", "95%", "chance")
    rows = _listed(found)
    for one in rows[:MOST_LISTED]:
        there = found.needed.get(one.edge)
        held = one.highest
        table.add_row(
            found.wiring.edge_label(one.edge), f"{there.value:.3f}" if there else "-",
            _sure(there, found.least),
            escape(one.name or "no variable alone") if held else "nothing that counts",
            f"{held.share:.2f}" if held else "-",
            f"{held.low:.2f}..{held.high:.2f}" if held else "-",
            f"{held.chance:.2f}" if held else "-",
        )  # fmt: skip
    if len(rows) > MOST_LISTED:
        table.add_row(f"and {len(rows) - MOST_LISTED} more (edges.csv)", "", "", "", "", "", "")
    return table


def _sure(there: Share | None, least: float) -> str:
    if there is None or there.low <= 0:
        return ""
    return "*" if there.low >= least else "+"


def _lengths_table(found: Circuits) -> Table:
    table = plain_table(
        "length", "inputs", "faithful", "95%", "complete", "95%", "exact", "above 0"
    )
    for length, one in found.lengths.items():
        table.add_row(
            str(length), f"{one.n:,}", *_cells(one.faithfulness), *_cells(one.completeness),
            f"{one.exact.value:.3f}",
            "-" if math.isnan(found.minimal[length]) else f"{found.minimal[length]:.2f}",
        )  # fmt: skip
    return table


def _nodes_table(found: Circuits) -> Table:
    """Return the scores of nodes, under the kind of ablation of the circuit."""
    assert found.main is not None
    main, wiring = found.main, found.wiring
    known = {method: one for (kind, method), one in found.scores.items() if kind == main.kind}
    some = {method: one for method, one in known.items() if method != "acdc"}
    table = plain_table("node", *some, "edges to it", "edges from it")
    first = next(iter(some.values()), None)
    order = range(len(wiring.nodes)) if first is None else first.nodes.argsort(descending=True)
    for u in map(int, order):
        own = [i for i, one in enumerate(wiring.readers) if one.node == wiring.nodes[u]]
        table.add_row(
            wiring.nodes[u].label, *(f"{float(one.nodes[u]):.3f}" for one in some.values()),
            str(int(main.edges[own].sum())), str(int(main.edges[:, u].sum())),
        )  # fmt: skip
    return table


def _variables_table(found: Circuits) -> Table:
    ours = summed(found.carried)
    theirs: dict[str, list[str]] = {}
    for label, one in found.theirs:
        if one.names:
            theirs.setdefault(one.name, []).append(label)
    table = Table(title="variables over edges", title_justify="left", box=None, padding=(0, 1))
    for heading in ("variable", "in the reference", "in the model", "match"):
        table.add_column(heading, overflow="fold")
    for name in dict.fromkeys([*theirs, *ours]):
        here = [found.wiring.edge_label(one.edge) for one in ours.get(name, [])]
        table.add_row(
            escape(name), _some(theirs.get(name, [])), _some(here), _match_of(found, name),
        )  # fmt: skip
    return table


def _some(labels: list[str]) -> str:
    more = len(labels) - MOST_NAMED
    shown = ", ".join(labels[:MOST_NAMED]) or "-"
    return f"{shown} and {more} more" if more > 0 else shown


def _match_of(found: Circuits, names: str) -> str:
    for name in names.replace(" or ", " = ").split(" = "):
        match = found.matched.get(name)
        if match is not None:
            return f"{match.value:.2f} at {site_label(match.site)}"
    return "-"


def circuits_csv(found: Circuits) -> str:
    """Return every circuit of every curve as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["model", "ablation", "method", "edges", "faithfulness", "faithfulness_low",
         "faithfulness_high", "exact", "exact_low", "exact_high", "chosen", "completeness",
         "completeness_low", "completeness_high", "whole"]
    )  # fmt: skip
    for (kind, method), circuits in found.curves.items():
        best = found.chosen.get((kind, method))
        for one in circuits:
            chosen = best is not None and torch.equal(best.edges, one.edges)
            rest = best.completeness if chosen and best is not None else None
            shares = [one.faithfulness, one.exact]
            values = [value for share in shares for value in (share.value, share.low, share.high)]
            more = (rest.value, rest.low, rest.high) if rest else ("", "", "")
            whole = one.size >= found.most
            writer.writerow([found.name, kind, method, one.size, *values, chosen, *more, whole])
    return out.getvalue()


def edges_csv(found: Circuits) -> str:
    """Return every edge with its scores, and what is known of it, as CSV."""
    out, wiring = io.StringIO(), found.wiring
    writer = csv.writer(out, lineterminator="\n")
    keys = list(found.scores)
    real = [] if found.truth is None else ["real", *(f"visible/{k}" for k in found.truth.visible)]
    writer.writerow(
        ["model", "edge", *(f"{method}/{kind}" for kind, method in keys), *real, "in_circuit",
         "needed", "needed_low", "needed_high", "carries", "share", "share_low", "share_high",
         "chance"]
    )  # fmt: skip
    carried = {one.edge: one for one in found.carried}
    for i, edge in enumerate(wiring.edges):
        truth = [] if found.truth is None else [found.truth.real, *found.truth.visible.values()]
        there, what = found.needed.get(edge), carried.get(edge)
        circuit = found.main is not None and bool(found.main.edges[edge])
        writer.writerow(
            [found.name, wiring.edge_name(edge),
             *(float(found.scores[key].values[i]) for key in keys),
             *(bool(one[edge]) for one in truth), circuit,
             *((there.value, there.low, there.high) if there else ("", "", "")),
             *_told(what)]
        )  # fmt: skip
    return out.getvalue()


def carried_csv(found: Circuits) -> str:
    """Return what edges carry as CSV: of the model's circuit, the reference, a random init.

    `inner` edges are those that do not come from an embedding.
    """
    out, wiring = io.StringIO(), found.wiring
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["model", "of", "edge", "inner", "carries", "share", "share_low", "share_high", "chance"]
    )
    ours = [(wiring.edge_label(one.edge), one) for one in found.carried]
    untrained = [(wiring.edge_label(one.edge), one) for one in found.untrained]
    for of, edges in (("model", ours), ("reference", found.theirs), ("random init", untrained)):
        for label, one in edges:
            inner = label.partition(" -> ")[0] not in INPUTS
            writer.writerow([found.name, of, label, inner, *_told(one)])
    return out.getvalue()


def _told(one: Carried | None) -> tuple[object, ...]:
    held = None if one is None else one.highest
    if one is None or held is None:
        return ("",) * 5
    return one.name, held.share, held.low, held.high, held.chance


def nodes_csv(found: Circuits) -> str:
    """Return every node's scores as CSV."""
    out, keys = io.StringIO(), list(found.scores)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "node", *(f"{method}/{kind}" for kind, method in keys)])
    for u, node in enumerate(found.wiring.nodes):
        values = [float(found.scores[key].nodes[u]) for key in keys]
        writer.writerow([found.name, node.name, *values])
    return out.getvalue()


def lengths_csv(found: Circuits) -> str:
    """Return how the circuit does on the lists of each length as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("faithfulness", "completeness", "exact")
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    writer.writerow(["model", "length", "inputs", *ends, "minimality"])
    for length, one in found.lengths.items():
        shares = (one.faithfulness, one.completeness, one.exact)
        values = [value for share in shares for value in (share.value, share.low, share.high)]
        writer.writerow([found.name, length, one.n, *values, found.minimal.get(length, "")])
    return out.getvalue()


def curves_figure(found: Circuits) -> Figure:
    """Draw faithfulness over size; of a compiled model the ROC curves beside it."""
    kinds = list(dict.fromkeys(kind for kind, _ in found.scores))
    rows = 1 if found.truth is None else 2
    figure = Figure(figsize=(3.1 * len(kinds) + 0.5, 3.1 * rows + 0.6), layout="constrained")
    figure.suptitle(found.name, fontsize=10)
    axes = figure.subplots(rows, len(kinds), squeeze=False)
    for column, kind in enumerate(kinds):
        _faithfulness(axes[0, column], found, kind)
        if found.truth is not None:
            _roc(axes[1, column], found, kind)
    axes[0, 0].set_ylabel("faithfulness")
    if found.truth is not None:
        axes[1, 0].set_ylabel("visible edges found")
    axes[0, -1].legend(fontsize=7)
    return figure


def _faithfulness(axes: Axes, found: Circuits, kind: str) -> None:
    for method, colour in zip(METHODS, cycle(COLOURS), strict=False):
        some = found.curves.get((kind, method), [])
        sizes = [one.size for one in some]
        shares = [one.faithfulness for one in some]
        marker = "*" if method == "acdc" else "."
        axes.plot(
            sizes, [one.value for one in shares], marker=marker, color=colour, label=method,
            markersize=9 if method == "acdc" else 5, lw=1,
        )  # fmt: skip
        axes.fill_between(
            sizes, [one.low for one in shares], [one.high for one in shares], color=colour,
            alpha=0.2, lw=0,
        )  # fmt: skip
    axes.axhline(found.faithful, color="0.6", lw=0.8, ls="--")
    most = len(found.wiring.edges)
    axes.set(title=kind, xlabel="edges", ylim=(-1.05, 1.05), xlim=(0.9, 1.1 * most), xscale="log")
    axes.title.set_fontsize(9)


def _roc(axes: Axes, found: Circuits, kind: str) -> None:
    assert found.truth is not None
    real, seen = found.truth.real, found.truth.visible[kind]
    for method, colour in zip(METHODS, cycle(COLOURS), strict=False):
        scores = found.scores.get((kind, method))
        if scores is None:
            continue
        truth, values = _labelled(scores, found.wiring, seen, real & ~seen)
        if len(set(truth)) > 1:
            false, true, _ = roc_curve(truth, values)
            axes.plot(false, true, color=colour, label=method, lw=1.2)
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
    axes.set(xlabel="unreal edges found", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))


def graph_figure(found: Circuits) -> Figure | None:
    """Draw the circuit as a graph, from the embeddings down to the output; None if there is none.

    Of more than fifty edges those that are needed most, of these those on a way to the output.
    """
    mask, note = found.drawn, ""
    if mask is None or not mask.any():
        return None
    main = found.main
    if int(mask.sum()) > MOST_DRAWN and main is not None:
        mask, note = _fewer(found, main), f" (the {MOST_DRAWN} strongest, of those on a way)"
    wiring = found.wiring
    edges = [edge for edge in wiring.edges if mask[edge]]
    named = [
        (wiring.nodes[edge.node].label, _end(wiring, edge), wiring.readers[edge.reader].side)
        for edge in edges
    ]
    names = list(dict.fromkeys([one for a, b, _ in named for one in (a, b)]))
    layout: Layout = layered(names, list(dict.fromkeys((a, b) for a, b, _ in named)))
    figure, axes, _ = canvas(layout, row=1.3 if len(edges) > FEW else 0.8)
    what = "true circuit" if found.truth is not None else "circuit"
    hidden = _hidden(found)
    if hidden.any() and main is not None:
        note += f"; thin: out of the sight of {main.kind}"
    size = f"{what}, {int(mask.sum())} edges"
    if found.truth is None and found.is_whole:
        size = f"all {found.most} edges, the whole model: no smaller circuit is surely faithful"
    axes.set_title(f"{found.name}: {size}{note}", fontsize=9)
    carried = {one.edge: one for one in found.carried}
    for edge, (source, target, side) in zip(edges, named, strict=True):
        way = layout.ways[source, target]
        arrow(axes, way, ROLES[side], 0.6 if hidden[edge] else 1.6)
        _label(axes, way, carried.get(edge), side)
    for name, place in layout.places.items():
        kind = "output" if name == "output" else "input" if name in INPUTS else "step"
        box(axes, name, place, kind)
    roles_legend(figure)
    return figure


INPUTS = ("tokens", "positions")
TOLD = ("tokens", "indices")  # what an edge from an embedding carries, as its box says
SHIFTS = {"v": -0.12, "": -0.12, "k": 0.0, "q": 0.12}


def _end(wiring: Wiring, edge: Edge) -> str:
    node = wiring.readers[edge.reader].node
    return "output" if node is None else node.label


def _hidden(found: Circuits) -> Bool[Tensor, "reader node"]:
    """Return the edges that the ablation the circuit was found by cannot see."""
    nothing = torch.zeros(len(found.wiring.readers), len(found.wiring.nodes), dtype=torch.bool)
    if found.truth is None or found.main is None:
        return nothing
    return found.truth.real & ~found.truth.visible[found.main.kind]


def _fewer(found: Circuits, main: Circuit) -> Bool[Tensor, "reader node"]:
    order = sorted(found.needed, key=lambda edge: -found.needed[edge].value)
    kept = torch.zeros_like(main.edges)
    for edge in order[:MOST_DRAWN]:
        kept[edge] = True
    return reaching(found.wiring, kept)


def _label(axes: Axes, way: list[tuple[float, float]], one: Carried | None, side: str) -> None:
    if one is None or not one.names or set(one.names) & set(TOLD):
        return
    at = (len(way) - 1) / 2
    (x, y), (z, w) = way[int(at)], way[min(int(at) + 1, len(way) - 1)]
    part = 0.5 if at == int(at) and len(way) == 2 else 0.35
    axes.text(
        x + (z - x) * part + SHIFTS[side], y + (w - y) * part, one.names[0].partition(" = ")[0],
        fontsize=6.5,
        ha="left" if SHIFTS[side] >= 0 else "right", va="center", color="#444444",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}, zorder=2.5,
    )  # fmt: skip


def keep_circuits(found: Circuits, where: Path, key: Key, finished: bool = True) -> list[Path]:
    """Write what was found whole, by step and settings; return the files.

    What is not `finished` has no pictures, and takes no place of what is.

    Raises:
        FaultError: the file system failed.
    """
    texts = {
        "circuits.csv": circuits_csv(found),
        "edges.csv": edges_csv(found),
        "nodes.csv": nodes_csv(found),
    }
    if found.lengths:
        texts["lengths.csv"] = lengths_csv(found)
    if found.carried:
        texts["carried.csv"] = carried_csv(found)
    files = {name: text.encode() for name, text in texts.items()}
    if finished:
        figures = {"curves.png": curves_figure(found), "circuit.png": graph_figure(found)}
        files |= {name: png(figure) for name, figure in figures.items() if figure is not None}
    path = save(where, key, files, (len(found.scores),), finished)
    return [path / name for name in files]
