"""Figures of matching: the match of each cut at each site, and over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from ...analysis.matching.cut_tests import by_site
from ...analysis.matching.cut_verdicts import NOT_TESTABLE, REALISED
from ...analysis.matching.match_result import (
    EmergenceRow,
    Matching,
    cut_label,
    short,
    site_label,
)
from ...analysis.matching.program_ranking import Standing
from .panels import COLOURS, legend, step_axis

PATH = "#d55e00"
LEGEND = (
    "box: the site holds the cut and no later one; dot: on the program's path through the sites"
)


def emergence(rows: Sequence[EmergenceRow]) -> Figure:
    """Draw the best match of each testable cut and variable over training, and accuracy and loss.

    A checkpoint without a value leaves a gap.
    """
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    figure.suptitle(f"{rows[-1].run}: when each cut appears")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    models = [row for row in rows if row.kind == "model"]
    steps = [row.step or 0 for row in models]

    def curve(values: Mapping[int | None, float | None]) -> list[float]:
        at_steps = (values.get(step) for step in steps)
        return [math.nan if value is None else value for value in at_steps]

    (line,) = above.plot(
        steps, curve({row.step: row.exact for row in models}), color="black", marker=".",
        label="exact accuracy",
    )  # fmt: skip
    above.set(ylabel="exact accuracy", ylim=(-0.03, 1.03))
    beside = above.twinx()
    (other,) = beside.plot(
        steps, curve({row.step: row.loss for row in models}), color="0.5", ls="--", marker=".",
        label="loss",
    )  # fmt: skip
    beside.set(ylabel="loss per position", yscale="log")
    above.legend(handles=[line, other], fontsize=7, loc="center left")
    styles: dict[str, tuple[dict[str, Any], str]] = {
        "cut": ({"marker": "."}, "{program}: {name}"),
        "variable": ({"ls": "--", "lw": 0.8}, "{program}: {name} alone"),
    }
    for kind, (style, label) in styles.items():
        of_kind = [row for row in rows if row.kind == kind]
        names = dict.fromkeys((row.program, row.name) for row in of_kind)
        for (program, name), colour in zip(names, cycle(COLOURS), strict=False):
            own = [row for row in of_kind if (row.program, row.name) == (program, name)]
            text = label.format(program=program, name=short(name.replace("+", ", ")))
            matches = curve({row.step: row.match for row in own})
            below.plot(steps, matches, color=colour, label=text, **style)
    below.set(ylabel="best match that no later cut explains", ylim=(-0.03, 1.03))
    step_axis(below)
    legend(below)
    return figure


def diagram(matching: Matching) -> Figure:
    """Draw each program's matches, cuts against sites, and mark the path."""
    standings = matching.standings
    heights = [max(2, len(standing.candidate.cuts.all)) for standing in standings]
    sites = max(len(by_site(standing.matches)) for standing in standings)
    longest = max(
        len(cut_label(cut)) for standing in standings for cut in standing.candidate.cuts.all
    )
    figure = Figure(
        figsize=(
            max(4.5, 2.8 + 0.085 * longest) + 0.62 * sites,
            1.3 + sum(0.42 * h + 0.9 for h in heights),
        ),
        layout="constrained",
    )
    figure.suptitle(matching.title)
    axes = figure.subplots(len(standings), 1, squeeze=False, height_ratios=heights)[:, 0]
    for standing, ax in zip(standings, axes, strict=True):
        image = _grid(ax, standing)
    figure.colorbar(image, ax=list(axes), label="match (lowest of scrub and interchange)")
    figure.supxlabel(LEGEND, fontsize=7)
    return figure


def _grid(axes: Axes, standing: Standing) -> AxesImage:
    """Draw one program's matches, a row for each cut, from the input to the output."""
    rows, all_cuts = by_site(standing.matches), standing.candidate.cuts.all
    none = float("nan")
    values = [
        [row[cut.name].value if cut.name in row else none for row in rows.values()] or [none]
        for cut in all_cuts
    ]
    image = axes.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(rows)), [site_label(site) for site in rows])
    untestable = [
        cut for cut in standing.candidate.cuts.inner if cut not in standing.candidate.testable
    ]
    labels = [cut_label(cut) + " (not testable)" * (cut in untestable) for cut in all_cuts]
    axes.set_yticks(range(len(all_cuts)), labels)
    axes.set_title(
        f"{standing.candidate.name}: {standing.verdict.verdict}", fontsize=10, loc="left"
    )
    for y, verdict in enumerate(standing.verdict.cuts):
        for x, (site, match) in enumerate(zip(rows, values[y], strict=False)):
            own = site in verdict.sites
            if not math.isnan(match):
                axes.text(
                    x, y, f"{match:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if match > 0.6 else "white",
                    fontweight="bold" if own else "normal",
                )  # fmt: skip
            if own and verdict.verdict in (REALISED, NOT_TESTABLE):
                axes.add_patch(_box(x, y))
    path = [
        (x, all_cuts.index(match.cut))
        for x, match in enumerate(standing.verdict.path.values())
        if match is not None
    ]
    for x, y in path:
        axes.plot(x, y + 0.36, "o", color=PATH, ms=3.5, mec="white", mew=0.4)
    return image


def _box(x: int, y: int) -> Rectangle:
    return Rectangle(
        (x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=PATH, linewidth=2, clip_on=False
    )
