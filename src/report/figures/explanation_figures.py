"""The figure of an explained model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ...analysis.explain.explanation_result import Explanation, shares
from ...analysis.explain.heads import HeadExplanation
from ...analysis.explain.substitution import CONTROLS, INTACT, SubstitutedAccuracy
from ...hypotheses.row_values import drawable
from .panels import COLOURS

MOST_HEADS = 16  # drawn
TITLE = 26  # characters of a pattern's name above its panel


def explanation_figure(explanation: Explanation) -> Figure:
    """Draw heads beside their explanations, the neurons, and the explained model."""
    assert explanation.heads is not None
    assert explanation.rows is not None
    heads = [head for head in explanation.heads.heads if head.active]
    shown = sorted(heads, key=lambda head: -head.best.scored.value)[:MOST_HEADS]
    shown.sort(key=lambda head: (head.layer, head.head))
    columns = max(1, min(4, len(shown)))
    lines = -(-len(shown) // columns) or 1
    figure = Figure(figsize=(15, 2.1 * lines + 5), layout="constrained")
    figure.suptitle(drawable(explanation.title), parse_math=False)
    above, below = cast(list[SubFigure], figure.subfigures(2, 1, height_ratios=(2.1 * lines, 4.6)))
    _heads(above, shown, len(heads), columns, lines)
    panels = below.subplots(1, 3 if explanation.neurons else 2, squeeze=False)[0]
    if explanation.neurons:
        _neurons(panels[0], explanation)
    _by_layer(panels[-2], explanation.rows)
    _by_length(panels[-1], explanation.rows)
    return figure


def _heads(
    figure: SubFigure, heads: Sequence[HeadExplanation], active: int, columns: int, lines: int
) -> None:
    more = f", {len(heads)} of {active} active ones" if len(heads) < active else ""
    figure.suptitle(
        f"mean attention on the longest inputs (queries down, keys across): heads{more}, each "
        "beside its best explanation",
        fontsize=9,
    )
    axes = list(figure.subplots(lines, 2 * columns, squeeze=False).flat)
    for at in axes:
        at.axis("off")
    for number, head in enumerate(heads):
        pair = axes[2 * number], axes[2 * number + 1]
        name = head.best.scored.name
        name = name if len(name) <= TITLE else f"{name[: TITLE - 1]}…"
        verdict = "" if head.level != "nothing" else " (not explained)"
        said = f"{name}\n{head.best.scored.value:.2f}{verdict}"
        for place, values, title in zip(
            pair,
            (head.mean_pattern, head.explained_pattern),
            (f"head {head.name}", said),
            strict=True,
        ):
            place.axis("on")
            place.imshow(values.numpy(), vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
            names = ["B", *map(str, range(len(values) - 1))]
            few = len(names) <= 8
            place.set_xticks(range(len(names)) if few else [], names if few else [], fontsize=6)
            place.set_yticks(range(len(names)) if few else [], names if few else [], fontsize=6)
            place.tick_params(length=0)
            place.set_title(title, fontsize=7)


def _neurons(axes: Axes, explanation: Explanation) -> None:
    """Draw the predicates' accuracies: by layer, of a random init, and the shuffled floor."""
    neurons = explanation.neurons or ()
    by_layer = shares(neurons)
    for layer, colour in zip(by_layer, cycle(COLOURS), strict=False):
        values = [each.accuracy for each in neurons if each.layer == layer]
        share, n = by_layer[layer]
        label = f"layer {layer}: {share:.0%} of {n} explained"
        _ranked(axes, values, label, color=colour, marker="." if n < 40 else None)
    accuracies = [each.accuracy for each in explanation.untrained]
    _ranked(axes, accuracies, "random init, all layers", color="0.3", ls="--")
    _ranked(axes, [each.floor for each in neurons], "shuffled on/off", color="0.5", ls=":")
    axes.axhline(
        explanation.bar, color="black", lw=0.8, ls="-.", label=f"explained at {explanation.bar:g}"
    )
    axes.set(ylim=(0.3, 1.03), xlim=(0, 1.02), xlabel="neurons that vary, best first (share)")
    axes.set_ylabel("balanced accuracy of the predicate, held out", fontsize=8)
    axes.set_title("neurons", fontsize=9)
    axes.legend(fontsize=6.5, loc="lower left")


def _ranked(axes: Axes, values: Sequence[float], label: str, **style: Any) -> None:
    """Draw values against their rank (highest first), the rank as a share of all."""
    known = sorted((value for value in values if not math.isnan(value)), reverse=True)
    ranks = [(rank + 1) / len(known) for rank in range(len(known))]
    axes.plot(ranks, known, label=label, **style)


def _styled(rows: Sequence[SubstitutedAccuracy]) -> list[tuple[str, dict[str, Any]]]:
    """Return each variant's name and line style: controls dotted, the others ever thinner."""
    names = list(dict.fromkeys(row.variant for row in rows if row.variant != INTACT))
    colours, greys = cycle(COLOURS), cycle(("0.15", "0.35", "0.5", "0.65"))
    widths = [max(1.2, 4.5 - 0.7 * at) for at in range(len(names))]
    return [
        (
            name,
            {"color": next(greys), "ls": ":", "lw": 1.3}
            if name in CONTROLS
            else {"color": next(colours), "ls": "-", "lw": width},
        )
        for name, width in zip(names, widths, strict=True)
    ]


def _by_layer(axes: Axes, rows: Sequence[SubstitutedAccuracy]) -> None:
    layers = sorted({row.layer for row in rows if row.layer >= 0})
    intact = next(row for row in rows if row.variant == INTACT)
    for name, style in _styled(rows):
        of = {row.layer: row.held_out.value for row in rows if row.variant == name}
        values = [intact.held_out.value, *(of[layer] for layer in layers)]
        axes.plot(range(len(values)), values, marker=".", **style)
    axes.set_xticks(range(len(layers) + 1), ["none", *map(str, layers)])
    axes.set(ylim=(-0.03, 1.03), xlabel="layers explained, up to")
    axes.set_ylabel("exact accuracy, held out", fontsize=8)
    axes.set_title("the explained model (dotted: controls)", fontsize=9)


def _by_length(axes: Axes, rows: Sequence[SubstitutedAccuracy]) -> None:
    last = max(row.layer for row in rows)
    lengths = [length for length, share in rows[0].by_length.items() if share.n]
    for name, style in _styled(rows):
        row = next(row for row in rows if row.variant == name and row.layer == last)
        values = [row.by_length[length].value for length in lengths]
        axes.plot(lengths, values, marker=".", **style, label=name)
    axes.set_xticks(lengths)
    axes.set(ylim=(-0.03, 1.03), xlabel="length")
    axes.set_ylabel("exact accuracy, all inputs", fontsize=8)
    axes.set_title("all layers explained, by length", fontsize=9)
    axes.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
