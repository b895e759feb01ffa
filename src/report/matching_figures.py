"""Figures of matching: a program's cuts over a model's sites, and when they appear in training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from rich.console import Console

from ..analysis.matching import by_site
from ..analysis.rivals import Standing
from ..analysis.verdicts import NOT_TESTABLE, REALISED
from ..files import faults_named, write_file
from .matching import (
    Matching,
    best_match,
    cut_label,
    programs_csv,
    selectors_csv,
    site_label,
    tested_cuts,
    to_csv,
    variable_curves,
)
from .panels import COLOURS, legend, png


def write_matching(found: Sequence[Matching], folder: Path) -> list[str]:
    """Write every test as CSV, the last checkpoint's diagram, and of several their curves.

    Raises:
        FaultError: the file system failed.
    """
    last = found[-1]
    files = {
        "match.csv": to_csv(found).encode(),
        "programs.csv": programs_csv(found).encode(),
        "match.png": png(diagram(last)),
    }
    if any(one.finer is not None for one in found):
        files["selectors.csv"] = selectors_csv(found).encode()
    if len(found) > 1:
        files["emergence.png"] = png(emergence(found))
    with faults_named(f"write into '{folder}'"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(folder / name, content)
    return list(files)


def save_matching(found: Sequence[Matching], folder: Path, console: Console) -> None:
    """Write what there is to write, and say where it is.

    Raises:
        FaultError: the file system failed.
    """
    files = ", ".join(write_matching(found, folder))
    console.print(f"{files}: {folder}", soft_wrap=True, highlight=False, markup=False)


def emergence(found: Sequence[Matching]) -> Figure:
    """Draw each testable cut's and variable's best match over training, below accuracy and loss."""
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    figure.suptitle(f"{found[-1].run}: when each cut appears")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    steps = [one.step for one in found]
    (line,) = above.plot(
        steps, [one.exact for one in found], color="black", marker=".", label="exact accuracy"
    )
    above.set(ylabel="exact accuracy", ylim=(-0.03, 1.03))
    beside = above.twinx()
    (other,) = beside.plot(
        steps, [one.loss for one in found], color="0.5", ls="--", marker=".", label="loss"
    )
    beside.set(ylabel="loss per position", yscale="log")
    above.legend(handles=[line, other], fontsize=7, loc="center left")
    for (name, cut), colour in zip(tested_cuts(found[-1]), cycle(COLOURS), strict=False):
        values = [best_match(one, name, cut) for one in found]
        below.plot(steps, values, marker=".", color=colour, label=f"{name}: {cut_label(cut)}")
    styles = cycle(COLOURS)
    for standing in sorted(found[-1].standings, key=lambda one: one.candidate.name):
        program = standing.candidate.name
        curves = variable_curves(found, program)
        for (variable, values), colour in zip(curves.items(), styles, strict=False):
            label = f"{program}: {variable} alone"
            below.plot(steps, values, ls="--", lw=0.8, color=colour, label=label)
    below.set(ylabel="best match of its own", xlabel="training step (log scale from 1 on)")
    below.set(ylim=(-0.03, 1.03))
    below.set_xscale("symlog", linthresh=1)
    legend(below)
    return figure


def diagram(one: Matching) -> Figure:
    """Draw each program's cuts over the model's sites: the match, and the path through them."""
    found = one.standings
    heights = [max(2, len(one.candidate.cuts.all)) for one in found]
    sites = max(len(by_site(one.matches)) for one in found)
    figure = Figure(
        figsize=(4.5 + 0.62 * sites, 1.3 + sum(0.42 * h + 0.9 for h in heights)),
        layout="constrained",
    )
    figure.suptitle(one.title)
    axes = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    for standing, ax in zip(found, axes, strict=True):
        image = _grid(ax, standing)
    figure.colorbar(image, ax=list(axes), label="match (lowest of scrub and interchange)")
    return figure


def _grid(axes: Axes, one: Standing) -> AxesImage:
    """Draw a program's matches, cuts from the input's down to the output's."""
    rows, all_cuts = by_site(one.matches), one.candidate.cuts.all
    none = float("nan")
    values = [
        [row[cut.name].value if cut.name in row else none for row in rows.values()]
        for cut in all_cuts
    ]
    image = axes.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(rows)), [site_label(site) for site in rows])
    untestable = [cut for cut in one.candidate.cuts.inner if cut not in one.candidate.testable]
    labels = [cut_label(cut) + " (not testable)" * (cut in untestable) for cut in all_cuts]
    axes.set_yticks(range(len(all_cuts)), labels)
    axes.set_title(f"{one.candidate.name}: {one.verdict.verdict}", fontsize=10, loc="left")
    for y, verdict in enumerate(one.verdict.cuts):
        for x, (site, value) in enumerate(zip(rows, values[y], strict=True)):
            own = site in verdict.sites
            if value == value:
                axes.text(
                    x, y, f"{value:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if value > 0.6 else "white",
                    fontweight="bold" if own else "normal",
                )  # fmt: skip
            if own and verdict.verdict in (REALISED, NOT_TESTABLE):
                axes.add_patch(_box(x, y))
    path = [
        (x, all_cuts.index(match.cut))
        for x, match in enumerate(one.verdict.path.values())
        if match is not None
    ]
    axes.plot(*zip(*path, strict=True), color="#d55e00", lw=1.2, alpha=0.7, zorder=1.5)
    return image


def _box(x: int, y: int) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="#d55e00", linewidth=2)
