"""The figure of a comparison: for each task the seeds' final values, and their learning curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..analysis.statistics import t_interval
from ..analysis.suite import declared_metrics
from .families import FAMILIES, Family, compared_with
from .marks import marked
from .panels import COLOURS, step_axis
from .seeds import Group, failing_of, notes

COLUMNS = 4  # panels beside each other
MOST_LINES = 8  # measures in a panel of final values
MOST_CURVES = 12  # panels of curves of one task
STYLES = (
    ":",
    (0, (4, 1.5)),
    "-.",
    (0, (1, 3)),
    (0, (6, 1, 1, 1)),
)  # of what is compared with, in its order
PANEL = (4.2, 3.1)  # inches


def comparison_figure(groups: Sequence[Group]) -> Figure:
    """Return the figure of groups: a block for each task, of final values and of curves."""
    tasks = [list(part) for _, part in groupby(groups, key=lambda group: group.task)]
    plans = [_plan(part) for part in tasks]
    rows = [sum(math.ceil(len(panels) / COLUMNS) for panels in plan) for plan in plans]
    heights = [max(1, height) for height in rows]  # a task may have nothing to show
    figure = Figure(
        figsize=(PANEL[0] * COLUMNS, PANEL[1] * sum(heights) + 0.9 * len(tasks)),
        layout="constrained",
    )
    blocks = figure.subfigures(len(tasks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for block, part, (finals, curves), height in zip(blocks, tasks, plans, heights, strict=True):
        block.suptitle(
            f"{part[0].task}: dots are seeds, bars their mean and its 95% interval; "
            "curves are means over seeds, bands 95%"
        )
        block.supxlabel("\n".join(notes(part)), size=8)
        axes = list(block.subplots(height, COLUMNS, squeeze=False).flat)
        second = math.ceil(len(finals) / COLUMNS) * COLUMNS
        used = [*axes[: len(finals)], *axes[second : second + len(curves)]]
        for panel, (family, keys) in zip(axes, finals, strict=False):
            _final_values(panel, part, family, keys)
        for panel, (family, key, label) in zip(axes[second:], curves, strict=False):
            _learning_curves(panel, part, f"{family.title}: {label}", key)
        for panel in axes:
            if panel not in used:
                panel.set_axis_off()
    return figure


Finals = list[tuple[Family, dict[str, str]]]
Curves = list[tuple[Family, str, str]]


def _plan(groups: Sequence[Group]) -> tuple[Finals, Curves]:
    """Return the panels of a task: a family each, then a measure each."""
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
    kept = sorted(nth, key=lambda one: one[:2])[:MOST_CURVES]  # some of every family
    return finals, [curve for _, _, curve in sorted(kept, key=lambda one: (one[1], one[0]))]


def _final_values(
    axes: Axes, groups: Sequence[Group], family: Family, keys: dict[str, str]
) -> None:
    shown, spread = list(keys.items())[:MOST_LINES], 0.7
    drawn: dict[str, int] = {}  # what is compared with, and its style
    ends: list[float] = []  # of the intervals
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
            one = group.estimates[key]
            if one.interval is not None:
                axes.hlines(one.mean, here - half, here + half, colors=colour, linewidth=2)
                axes.vlines(here, *one.interval, colors=colour, linewidth=1)
                ends += np.clip(one.interval, *_bounds(final[0].measure)).tolist()
    for words, style in drawn.items():
        axes.plot([], [], color="grey", linestyle=STYLES[style], label=words)
    left_out = len(keys) - len(shown)
    axes.set_title(family.title + (f" ({left_out} more in the CSV)" if left_out else ""), size=10)
    names = ["\n".join([*textwrap.wrap(group.name, 24), _seeds(group)]) for group in groups]
    slanted = len(groups) > 3
    axes.set_xticks(
        range(len(groups)), names, size=7, rotation=30 if slanted else 0,
        ha="right" if slanted else "center",
    )  # fmt: skip
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.grid(axis="y", alpha=0.25)
    _within(axes, groups, [key for key, _ in shown], ends)
    below = -0.42 if slanted else -0.2
    axes.legend(fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, below))


def _learning_curves(axes: Axes, groups: Sequence[Group], title: str, key: str) -> None:
    compared: dict[str, int] = {}
    for group, colour in zip(groups, _colours(len(groups)), strict=True):
        steps, means, bands = mean_curve(group, key)
        if not steps:
            continue
        axes.plot(steps, means, color=colour, label=group.name, marker="o", ms=2.5)
        if bands is not None:
            axes.fill_between(steps, *bands, color=colour, alpha=0.15, linewidth=0)
        for style, (other, words) in enumerate(compared_with(key).items()):
            steps, means, _ = mean_curve(group, other)
            if steps:
                compared[words] = style
                axes.plot(steps, means, color=colour, linestyle=STYLES[style], linewidth=1.2)
    handles, labels = axes.get_legend_handles_labels()
    handles += [Line2D([], [], color="grey", linestyle=STYLES[i]) for i in compared.values()]
    step_axis(axes)
    axes.set_title(title, size=10)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    _within(axes, groups, [key], ())
    axes.legend(handles, [*labels, *compared], fontsize=6)


def mean_curve(
    group: Group, key: str
) -> tuple[list[int], list[float], tuple[list[float], list[float]] | None]:
    """Return a headline's steps, means over seeds, and lower and upper ends of their intervals.

    Only steps at which every run that has the headline measured it, so that no run drops out of a
    mean; no intervals of one run.
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


def _colours(n: int) -> Iterable[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _seeds(group: Group) -> str:
    return "one seed" if len(group.runs) == 1 else f"{len(group.runs)} seeds"


def _bounds(measure: str) -> tuple[float, float]:
    metric = declared_metrics().get(measure)
    return (-math.inf, math.inf) if metric is None else (metric.low, metric.high)


def _within(
    axes: Axes, groups: Sequence[Group], keys: Iterable[str], more: Iterable[float]
) -> None:
    """Show all values, and `more`, but no further: a band of two seeds may end far beyond."""
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
