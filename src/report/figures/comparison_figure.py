"""The figure of a comparison: for each task, final values by seed and learning curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...analysis.measures.registered_measures import Family
from ...analysis.measures.suite import declared_metrics
from ...analysis.statistics import t_interval
from ...hypotheses.compared_headlines import FAMILIES, compared_with
from ...hypotheses.failed_controls import marked
from ...hypotheses.seed_groups import Group, failing_of, notes
from .panels import COLOURS, legend, step_axis

COLUMNS = 4  # panels per row if there are few groups
MOST_SLIM = 8  # the most groups that fit into a narrow panel
MOST_LINES = 8  # the most measures in a panel of final values
MOST_CURVES = 12  # the most curve panels per task
STYLES = (
    ":",
    (0, (4, 1.5)),
    "-.",
    (0, (1, 3)),
    (0, (6, 1, 1, 1)),
)  # line styles of the baselines, in the order of `compared_with`
MARKERS = "os^Dvp*"  # the next one each time the colours repeat
PANEL = (4.2, 3.2)  # inches
LINE, HEAD = 0.18, 0.7  # inches: one line of a key; the margin around the key
KEY, WIDE, SHORT = 250, 170, 42  # characters per line: of a key, of a note, of a panel's title


def comparison_figure(groups: Sequence[Group]) -> Figure:
    """Return the figure: one block per task, with panels of final values and of curves.

    Each group has a letter and a colour. The key at the head of its block explains them.
    """
    tasks = [list(part) for _, part in groupby(groups, key=lambda group: group.task)]
    plans = [_plan(part) for part in tasks]
    keys = [_key(part) for part in tasks]
    rows = [
        max(1, sum(math.ceil(len(panels) / _columns(part)) for panels in plan))
        for part, plan in zip(tasks, plans, strict=True)
    ]
    heads = [HEAD + LINE * sum(label.count("\n") + 1 for label in key) for key in keys]
    below = [0.3 + LINE * len(_notes(part)) for part in tasks]
    heights = [
        height
        for head, count, foot in zip(heads, rows, below, strict=True)
        for height in (head, PANEL[1] * count + foot)
    ]
    figure = Figure(figsize=(PANEL[0] * COLUMNS, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for number, (part, (finals, curves), key) in enumerate(zip(tasks, plans, keys, strict=True)):
        head, block = parts[2 * number], parts[2 * number + 1]
        head.suptitle(
            f"{part[0].task}: dots are seeds, bars their mean and its 95% interval; "
            "curves are means over seeds, bands 95%"
        )
        handles = [Line2D([], [], ls="-", **look) for look in _looks(len(part))]
        head.legend(handles, key, loc="lower left", fontsize=8, frameon=False)
        block.supxlabel("\n".join(_notes(part)), size=8)
        columns = _columns(part)
        axes = list(block.subplots(rows[number], columns, squeeze=False).flat)
        second = math.ceil(len(finals) / columns) * columns
        used = [*axes[: len(finals)], *axes[second : second + len(curves)]]
        for panel, (family, measures) in zip(axes, finals, strict=False):
            _final_values(panel, part, family, measures)
        for panel, (family, measure, label) in zip(axes[second:], curves, strict=False):
            _learning_curves(panel, part, f"{family.title}: {label}", measure)
        for panel in axes:
            if panel not in used:
                panel.set_axis_off()
    return figure


def _columns(groups: Sequence[Group]) -> int:
    """Return the number of panels per row, halved if there are many groups."""
    return COLUMNS if len(groups) <= MOST_SLIM else COLUMNS // 2


def _letter(number: int) -> str:
    """Return the letter of a group, starting at A.

    >>> _letter(0), _letter(27)
    ('A', 'BB')
    """
    turn, place = divmod(number, 26)
    return chr(ord("A") + place) * (turn + 1)


def _key(groups: Sequence[Group]) -> list[str]:
    """Return the lines that explain the letters of the groups."""
    return [
        "\n".join(textwrap.wrap(f"{_letter(i)}: {group.name} ({_seeds(group)})", KEY))
        for i, group in enumerate(groups)
    ]


def _notes(groups: Sequence[Group]) -> list[str]:
    return [part for line in notes(groups) for part in textwrap.wrap(line, WIDE)]


def _looks(n: int) -> list[dict[str, Any]]:
    """Return the colour and the marker of each of `n` groups."""
    count = len(COLOURS)
    return [
        {"color": COLOURS[i % count], "marker": MARKERS[i // count % len(MARKERS)]}
        for i in range(n)
    ]


Finals = list[tuple[Family, dict[str, str]]]
Curves = list[tuple[Family, str, str]]


def _plan(groups: Sequence[Group]) -> tuple[Finals, Curves]:
    """Return the panels of a task: final values by family, then curves by measure."""
    keys = dict.fromkeys(key for group in groups for key in group.estimates)
    marks = failing_of(groups)
    finals = [
        (family, {key: marked(label, [key], marks) for key, label in chosen.items()})
        for family in FAMILIES
        if (chosen := family.chosen(keys))
    ]
    nth = [
        (i, at, (family, key, label))
        for at, (family, chosen) in enumerate(finals)
        for i, (key, label) in enumerate(chosen.items())
    ]
    kept = sorted(nth, key=lambda entry: entry[:2])[:MOST_CURVES]  # some of every family
    return finals, [curve for _, _, curve in sorted(kept, key=lambda entry: (entry[1], entry[0]))]


def _final_values(
    axes: Axes, groups: Sequence[Group], family: Family, keys: dict[str, str]
) -> None:
    shown, spread = list(keys.items())[:MOST_LINES], 0.7
    drawn: dict[str, int] = {}  # label of each baseline, with its style
    ends: list[float] = []  # interval ends
    for i, (key, label) in enumerate(shown):
        colour, offset = COLOURS[i % len(COLOURS)], spread * ((i + 0.5) / len(shown) - 0.5)
        axes.plot([], [], "o", color=colour, label=label, ms=4)
        for at, group in enumerate(groups):
            here, half = at + offset, 0.35 * spread / len(shown)
            final = [run.final[key] for run in group.runs if key in run.final]
            if not final:
                continue
            for style, (other, words) in enumerate(compared_with(key).items()):
                if other in group.estimates:
                    drawn[words] = style
                    mean = group.estimates[other].mean
                    axes.hlines(
                        mean, here - 1.3 * half, here + 1.3 * half, colors=colour,
                        linestyles=[STYLES[style]], linewidth=1.4,
                    )  # fmt: skip
            beside = here + half * np.linspace(-0.6, 0.6, len(final) + 2)[1:-1]
            axes.plot(
                beside, [row.value for row in final], "o", color=colour, ms=4, alpha=0.55, mew=0
            )
            estimate = group.estimates[key]
            if estimate.interval is not None:
                axes.hlines(estimate.mean, here - half, here + half, colors=colour, linewidth=2)
                axes.vlines(here, *estimate.interval, colors=colour, linewidth=1)
                ends += np.clip(estimate.interval, *_bounds(final[0].measure)).tolist()
    for words, style in drawn.items():
        axes.plot([], [], color="grey", linestyle=STYLES[style], label=words)
    left_out = len(keys) - len(shown)
    _title(axes, family.title + (f" ({left_out} more in the CSV)" if left_out else ""))
    axes.set_xticks(range(len(groups)), [_letter(i) for i in range(len(groups))], size=8)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.grid(axis="y", alpha=0.25)
    _within(axes, groups, [key for key, _ in shown], ends)
    legend(axes, 3)


def _learning_curves(axes: Axes, groups: Sequence[Group], title: str, key: str) -> None:
    compared: dict[str, int] = {}
    for group, look in zip(groups, _looks(len(groups)), strict=True):
        steps, means, bands = mean_curve(group, key)
        if not steps:
            continue
        axes.plot(steps, means, ms=2.5 if look["marker"] == "o" else 4, **look)
        if bands is not None:
            axes.fill_between(steps, *bands, color=look["color"], alpha=0.15, linewidth=0)
        for style, (other, words) in enumerate(compared_with(key).items()):
            steps, means, _ = mean_curve(group, other)
            if steps:
                compared[words] = style
                axes.plot(steps, means, color=look["color"], linestyle=STYLES[style], linewidth=1.2)
    step_axis(axes)
    _title(axes, title)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    _within(axes, groups, [key], ())
    for words, style in compared.items():
        axes.plot([], [], color="grey", linestyle=STYLES[style], label=words)
    if compared:
        axes.legend(fontsize=6)


def _title(axes: Axes, text: str) -> None:
    axes.set_title("\n".join(textwrap.wrap(text, SHORT)), size=9)


def mean_curve(
    group: Group, key: str
) -> tuple[list[int], list[float], tuple[list[float], list[float]] | None]:
    """Return the steps of a headline, its means over seeds, and the ends of their intervals.

    Steps are kept if every run with this headline measured it there, so that all means are over
    the same runs. The intervals are None for a single run.
    """
    curves = [run.curves[key] for run in group.runs if key in run.curves]
    if not curves:
        return [], [], None
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    values = [[curve[step].value for curve in curves] for step in steps]
    means = [math.fsum(at) / len(at) for at in values]
    intervals = [interval for at in values if (interval := t_interval(at)) is not None]
    if len(intervals) < len(steps) or not steps:
        return steps, means, None
    return steps, means, ([low for low, _ in intervals], [high for _, high in intervals])


def _seeds(group: Group) -> str:
    return "one seed" if len(group.runs) == 1 else f"{len(group.runs)} seeds"


def _bounds(measure: str) -> tuple[float, float]:
    metric = declared_metrics().get(measure)
    return (-math.inf, math.inf) if metric is None else (metric.low, metric.high)


def _within(
    axes: Axes, groups: Sequence[Group], keys: Iterable[str], more: Iterable[float]
) -> None:
    """Limit the y axis to the values and `more`: the band of two seeds can extend far beyond."""
    others = [other for key in keys for other in compared_with(key)]
    values = [
        row.value
        for group in groups
        for run in group.runs
        for key in (*keys, *others)
        for row in run.curves.get(key, {}).values()
    ]
    values = [value for value in (*values, *more) if math.isfinite(value)]
    if values:
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or 0.05
        axes.set_ylim(low - margin, high + margin)
