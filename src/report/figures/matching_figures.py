"""Figures of matching: the match of each cut at each site, and over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from ...analysis.matching.cut_tests import by_site
from ...analysis.matching.cut_verdicts import NOT_TESTABLE, REALISED
from ...analysis.matching.program_ranking import Standing
from ...infra.files import faults_named, write_file
from ...runs.result_store import MATCH, Key, save
from ..html.stored_tables import Row, read_table, value
from ..terminal.matching_tables import (
    EMERGENCE_HEADER,
    Matching,
    cut_label,
    emergence_csv,
    programs_csv,
    selectors_csv,
    short,
    site_label,
    to_csv,
)
from .panels import COLOURS, legend, png, step_axis

PATH = "#d55e00"
LEGEND = (
    "box: the site holds the cut and no later one; dot: on the program's path through the sites"
)


def matching_files(matching: Matching) -> dict[str, bytes]:
    """Return the files of a matched checkpoint by name: tests, verdicts and diagram."""
    files = {
        "match.csv": to_csv([matching]).encode(),
        "programs.csv": programs_csv([matching]).encode(),
        "emergence.csv": emergence_csv([matching]).encode(),
        "match.png": png(diagram(matching)),
    }
    if matching.finer is not None:
        files["selectors.csv"] = selectors_csv([matching]).encode()
    return files


def keep_matching(
    matching: Matching,
    where: Path,
    settings: Sequence[str] = (),
    sides: bool = True,
    of: Sequence[str] = (),
) -> Path:
    """Write a matched checkpoint, by step and settings; return the folder.

    `of` names the model and task where the run's name does not.

    Raises:
        FaultError: the file system failed.
    """
    key = Key(MATCH, matching.run, matching.step, tuple(settings), tuple(of))
    return save(where, key, matching_files(matching), (len(matching.standings), int(sides)))


def draw_emergence(where: Path) -> list[str]:
    """Draw the matches over training from the gathered tables; return the names of the files.

    A single checkpoint is not drawn.

    Raises:
        FaultError: the file system failed.
    """
    name = "emergence.png"
    rows = read_table(where / "emergence.csv", EMERGENCE_HEADER).rows
    if len({row["step"] for row in rows}) < 2:
        return []
    with faults_named(f"write into '{where}'"):
        write_file(where / name, png(emergence(rows)))
    return [name]


def emergence(rows: Sequence[Row]) -> Figure:
    """Draw the best match of each testable cut and variable over training, and accuracy and loss.

    `rows` are those of `emergence_csv`. A checkpoint without a value leaves a gap.
    """
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    figure.suptitle(f"{rows[-1]['run']}: when each cut appears")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    models = [row for row in rows if row["kind"] == "model"]
    steps = [int(row["step"]) for row in models]

    def curve(some: Sequence[Row], column: str) -> list[float]:
        at = {int(row["step"]): value(row, column) for row in some}
        known = (at.get(step) for step in steps)
        return [math.nan if number is None else number for number in known]

    (line,) = above.plot(
        steps, curve(models, "exact"), color="black", marker=".", label="exact accuracy"
    )
    above.set(ylabel="exact accuracy", ylim=(-0.03, 1.03))
    beside = above.twinx()
    (other,) = beside.plot(
        steps, curve(models, "loss"), color="0.5", ls="--", marker=".", label="loss"
    )
    beside.set(ylabel="loss per position", yscale="log")
    above.legend(handles=[line, other], fontsize=7, loc="center left")
    styles: dict[str, tuple[dict[str, Any], str]] = {
        "cut": ({"marker": "."}, "{program}: {name}"),
        "variable": ({"ls": "--", "lw": 0.8}, "{program}: {name} alone"),
    }
    for kind, (style, label) in styles.items():
        some = [row for row in rows if row["kind"] == kind]
        names = dict.fromkeys((row["program"], row["name"]) for row in some)
        for (program, name), colour in zip(names, cycle(COLOURS), strict=False):
            own = [row for row in some if (row["program"], row["name"]) == (program, name)]
            text = label.format(program=program, name=short(name.replace("+", ", ")))
            below.plot(steps, curve(own, "match"), color=colour, label=text, **style)
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
