"""The picture of a model's states: sites by variables, and the curves of sufficiency and bits."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ...analysis.states.state_sites import RESIDUAL
from ...analysis.states.states_result import CurveRow, LossRow, StateRow

COLOURS = "Blues"
PALEST = 0.25  # shade of a variable of which nothing is lost


def states_figure(
    states: Sequence[StateRow], losses: Sequence[LossRow], curve: Sequence[CurveRow]
) -> Figure:
    """Return the picture of one checkpoint's states.

    On the left, a row is a site and a column a variable: the cell is filled where the simplest
    state has the variable, darker the more is lost without it; bits stand at the right. On the
    right are the curves of the residual stream, with the states as dots.
    """
    rows = [row for row in states if row.rank == 0]
    names = list(dict.fromkeys(name for row in rows for name in row.variables))
    lost = {(loss.site, loss.variable): loss.loss for loss in losses if loss.rank == 0}
    height = max(2.6, 0.3 * len(rows) + 1.8)
    figure = Figure(figsize=(5.6 + 0.42 * len(names), height), layout="constrained")
    grid, curves = figure.subplots(1, 2, width_ratios=[max(1.0, 0.3 * len(names)), 1.6])
    shades = [
        [
            _shade(lost.get((row.site, name), 0.0)) if name in row.variables else 0.0
            for name in names
        ]
        for row in rows
    ]
    if names:
        grid.imshow(shades, cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    grid.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    grid.set_yticks(range(len(rows)), [row.site for row in rows], fontsize=7)
    grid.set_xticks([place - 0.5 for place in range(1, len(names))], minor=True)
    grid.set_yticks([place - 0.5 for place in range(1, len(rows))], minor=True)
    grid.grid(which="minor", color="white", linewidth=1)
    grid.tick_params(which="both", length=0)
    for place, row in enumerate(rows):
        bits = "no short state" if row.bits is None else f"{row.bits:.1f} bits"
        grid.annotate(bits, (1.01, place), xycoords=("axes fraction", "data"), va="center",
                      fontsize=7)  # fmt: skip
    grid.set_title("the state of each site (darker: more is lost without it)", fontsize=8)
    for row in rows:
        if row.kind != RESIDUAL:
            continue
        points = [point for point in curve if point.site == row.site]
        (line,) = curves.step(
            [point.bits for point in points], [point.sufficiency for point in points],
            where="post", label=row.site, linewidth=1,
        )  # fmt: skip
        if row.bits is not None and row.sufficiency is not None:
            curves.plot([row.bits], [row.sufficiency], "o", color=line.get_color(), markersize=4)
    curves.set_xlabel("bits of the variables", fontsize=8)
    curves.set_ylabel("share of whole outputs kept", fontsize=8)
    curves.set_ylim(-0.02, 1.04)
    curves.tick_params(labelsize=7)
    curves.legend(fontsize=6, loc="lower right")
    curves.set_title("sufficiency against bits", fontsize=8)
    return figure


def _shade(loss: float) -> float:
    return PALEST + (1 - PALEST) * min(1.0, max(0.0, loss))
