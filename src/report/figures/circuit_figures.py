"""Figures of a model's circuits: the graph, and the curves of faithfulness over size."""

from __future__ import annotations

from itertools import cycle

import torch
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import Tensor

from ...analysis.ablation_names import METHODS
from ...analysis.circuits.circuit_result import EMBEDDINGS, Circuits, labelled
from ...analysis.circuits.edge_scores import reaching
from ...analysis.circuits.edge_variables import EdgeVariables
from ...analysis.circuits.faithfulness import Circuit
from ...models.wiring import Edge, Wiring
from .graphs import Layout, arrow, box, canvas, layered, roles_legend
from .panels import COLOURS

MOST_DRAWN = 50  # edges
FEW = 20  # a graph with at most this many edges has its rows closer together
ROLES = {"q": "query", "k": "key", "v": "value", "": "value"}
TOLD = ("tokens", "indices")  # what an edge from an embedding carries: the box says it
SHIFTS = {"v": -0.12, "": -0.12, "k": 0.0, "q": 0.12}


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
        truth, values = labelled(scores, circuits.wiring, seen, real & ~seen)
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
        mask = _fewer(circuits, main)
        note = f" (the {MOST_DRAWN} most needed, of which those on a path to the output)"
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
    hidden = circuits.hidden
    if hidden.any() and main is not None:
        note += f"; thin: {main.kind} cannot see it"
    size = f"{what}, {int(mask.sum())} edges"
    if circuits.truth is None and circuits.is_whole:
        size = f"all {circuits.most} edges, the whole model: no smaller circuit is surely faithful"
    axes.set_title(f"{circuits.name}: {size}{note}", fontsize=9)
    by_edge = {carried.edge: carried for carried in circuits.edge_variables}
    for edge, (source, target, side) in zip(edges, named, strict=True):
        way = layout.ways[source, target]
        arrow(axes, way, ROLES[side], 0.6 if hidden[edge] else 1.6)
        _label(axes, way, by_edge.get(edge), side)
    for name, place in layout.places.items():
        kind = "output" if name == "output" else "input" if name in EMBEDDINGS else "step"
        box(axes, name, place, kind)
    roles_legend(figure)
    return figure


def _end(wiring: Wiring, edge: Edge) -> str:
    node = wiring.readers[edge.reader].node
    return "output" if node is None else node.label


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
