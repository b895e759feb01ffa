"""Figures of several runs over their seeds, drawn from their tables alone.

Each task has a panel or a column, each architecture a row or a line. Intervals are 95%, Student's
t over the seeds, clipped to the bounds of the values.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from ...hypotheses.failed_controls import MARK
from ...hypotheses.seed_groups import estimate
from ...hypotheses.verdicts import (
    CLAIMS,
    MIXED,
    NOT_JUDGED,
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
)
from ..html.grouped_runs import NAMES, Gathered
from ..html.sweep_tables import ATTENTION, NOT_RUN, Record, SummaryTable, Value, summary_tables
from .panels import COLOURS, STYLES, nothing, png

LOOKS = {  # by verdict: letter, colour, colour of the letter
    SUPPORTED: ("S", "#0072b2", "white"),
    NOT_SUPPORTED: ("N", "#d55e00", "white"),
    MIXED: ("M", "#cc79a7", "black"),
    UNDECIDED: ("U", "#f3e9b5", "black"),
    NOT_JUDGED: ("J", "#d9d9d9", "black"),
    NOT_MEASURED: ("?", "#ffffff", "black"),
}
COLUMNS = 4  # panels per row
MARKERS = "osD^vP*<>"
EXACT, CKA = "accuracy/all/exact", "similarity/model/mean_deconfounded_cka"
REDUNDANT = "ablation/model/redundant_share"
SERIES = dict(zip(
    ("model", "reference", "random init", "shuffled on/off"),
    ((COLOURS[0], "o"), (COLOURS[6], "|"), (COLOURS[1], "s"), (COLOURS[10], "x")), strict=True,
))  # fmt: skip
EMERGING: dict[str, tuple[Callable[[str], bool], tuple[str, str]]] = {  # keys; look
    "task solved (exact accuracy 0.99)": (lambda key: key == EXACT, (COLOURS[6], "|")),
    "deconfounded CKA, mean, passes its controls": (lambda key: key == CKA, (COLOURS[0], "o")),
    "attention in common passes its controls": (lambda key: key == ATTENTION, (COLOURS[1], "s")),
    "a testable cut is surely realised (each cut a mark)": (
        lambda key: key.startswith("matching/") and key.endswith("/realised"), (COLOURS[2], "D"),
    ),
}  # fmt: skip
BASE = 0.5  # inches around a panel


@dataclass(frozen=True)
class Mark:
    """A mean over seeds with its interval.

    `filled` says that it is over all seeds, `fails` that the measure fails the task's controls.
    """

    mean: float
    low: float | None
    high: float | None
    filled: bool = True
    fails: bool = False


Tables = Mapping[str, SummaryTable]
Marks = Mapping[str, Mapping[tuple[str, str], Sequence[Mark]]]  # by series, task and architecture


def summary_files(gathered: Gathered) -> dict[str, bytes]:
    """Return the tables of several runs as CSV and their figures as PNG, by file name."""
    tables = summary_tables(gathered)
    figures = {f"{name}.png": png(draw(tables)) for name, draw in FIGURES.items()}
    return {**{f"{name}.csv": table.csv() for name, table in tables.items()}, **figures}


def verdicts_figure(tables: Tables) -> Figure:
    """Draw the verdicts over seeds: architectures by tasks, a panel for each hypothesis."""
    rows = tables["verdicts"].rows
    tasks, architectures = _names(rows, "task"), _names(rows, "architecture")
    width = 1.6 + len(NAMES) * (0.62 * len(tasks) + 0.5)
    figure = Figure(figsize=(max(8.0, width), 1.9 + 0.42 * len(architectures)),
                    layout="constrained")  # fmt: skip
    figure.suptitle(
        "Verdicts over seeds; below each letter, how many seeds have which verdict (blank: no run)",
        size=10,
    )
    letters = int(12 * figure.get_figwidth() / len(NAMES) - 6)  # that fit into a title
    panels = figure.subplots(1, len(NAMES), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, NAMES, strict=True):
        for row in rows:
            if row["hypothesis"] == name:
                at = (
                    tasks.index(_text(row["task"])),
                    architectures.index(_text(row["architecture"])),
                )
                _verdict(axes, at, _text(row["verdict"]), _text(row["by_verdict"]))
        axes.set_title(f"{name}: {textwrap.fill(CLAIMS[name], letters)}", size=8)
        axes.set_xticks(range(len(tasks)), [*map(_plain, tasks)], size=7, rotation=40, ha="right")
        _by_architecture(axes, architectures)
        axes.set_xlim(-0.5, len(tasks) - 0.5)
        axes.tick_params(length=0)
    figure.legend(
        handles=[Patch(facecolor=colour, edgecolor="0.5", label=f"{letter}: {word}")
                 for word, (letter, colour, _) in LOOKS.items()],
        loc="outside lower center", ncols=len(LOOKS), fontsize=8, frameon=False,
    )  # fmt: skip
    return figure


def _verdict(axes: Axes, at: tuple[int, int], verdict: str, seeds: str) -> None:
    letter, colour, ink = LOOKS[verdict]
    x, y = at
    axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, facecolor=colour, edgecolor="0.6",
                             linewidth=0.5))  # fmt: skip
    counts = [part.rpartition(" ") for part in seeds.split("; ")]
    told = " ".join(f"{LOOKS[word][0]}{count}" for word, _, count in counts if word in LOOKS)
    axes.text(x, y - 0.1, letter, ha="center", va="center", color=ink, size=9, weight="bold")
    axes.text(x, y + 0.26, told, ha="center", va="center", color=ink, size=5)


def lengths_figure(tables: Tables) -> Figure:
    """Draw exact accuracy by list length, a panel for each task, a line for each architecture."""
    rows = [row for row in tables["lengths"].rows if row["split"] == "all"]
    tasks, architectures = _names(rows, "task"), _names(rows, "architecture")
    if not tasks:
        return _empty("exact accuracy by length was not measured")
    figure, panels = _panels(tasks, 2.5, "Exact accuracy by list length, all inputs: mean over "
                             "seeds and its 95% interval")  # fmt: skip
    looks = _line_looks(architectures)
    for axes, task in zip(panels, tasks, strict=True):
        here = [row for row in rows if row["task"] == task]
        lengths = sorted({int(_float(row["length"])) for row in here})
        present = [
            name for name in architectures if any(row["architecture"] == name for row in here)
        ]
        for place, name in enumerate(present):
            line = sorted((row for row in here if row["architecture"] == name),
                          key=lambda row: _float(row["length"]))  # fmt: skip
            aside = 0.5 * ((place + 0.5) / len(present) - 0.5)
            look = looks[name]
            xs = [_float(row["length"]) + aside for row in line]
            means = [_float(row["mean"]) for row in line]
            axes.plot(xs, means, **look)
            for x, row in zip(xs, line, strict=True):
                low, high = _clipped(row["low"], row["high"])
                if low is not None and high is not None:
                    axes.vlines(x, low, high, color=look["color"], lw=0.9, alpha=0.7)
        axes.set_xticks(lengths)
        axes.set_ylim(-0.04, 1.06)
        axes.set_xlim(lengths[0] - 0.6, lengths[-1] + 0.6)
        axes.set_title(_plain(task), size=9)
        axes.set_xlabel("list length", size=7)
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", alpha=0.25)
    handles = [Line2D([], [], label=_short(name, " "), **look) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=7, frameon=False)
    return figure


def _line_looks(architectures: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the looks of lines: a colour and marker per model, a line style per setting of it."""
    models = list(dict.fromkeys(name.partition(" ")[0] for name in architectures))
    by_model = dict(zip(models, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    seen: Counter[str] = Counter()
    looks: dict[str, dict[str, Any]] = {}
    for name in architectures:
        model = name.partition(" ")[0]
        (colour, marker), turn = by_model[model], seen[model]
        seen[model] += 1
        looks[name] = {
            "color": colour, "marker": marker, "ms": 4, "lw": 1, "mew": 0.9,
            "ls": STYLES[turn % len(STYLES)], "mfc": "white" if turn else colour,
        }  # fmt: skip
    return looks


def emergence_figure(tables: Tables) -> Figure:
    """Draw the steps at which each architecture solved its task and measures emerged."""
    rows = tables["emergence"].rows
    marks: dict[str, dict[tuple[str, str], list[Mark]]] = {}
    for words, (chosen, _) in EMERGING.items():
        by_place = marks.setdefault(words, {})
        for row in rows:
            if chosen(_text(row["measure"])) and row["step_mean"] is not None:
                low, high = row["step_low"], row["step_high"]
                mark = Mark(
                    _float(row["step_mean"]), None if low is None else max(0.0, _float(low)),
                    None if high is None else _float(high), row["emerged"] == row["seeds"],
                    _fails(row),
                )  # fmt: skip
                by_place.setdefault(_place(row), []).append(mark)
    figure = _dots(
        tables, marks, {words: look for words, (_, look) in EMERGING.items()},
        "Step at which it emerged: mean over the seeds in which it did, and its 95% interval "
        f"(hollow: not in all seeds){_unchecked(rows)}", "training step (log scale from 1 on)",
        "nothing emerged", "nothing emerged",
    )  # fmt: skip
    steps = [
        mark.high or mark.mean
        for by_place in marks.values()
        for some in by_place.values()
        for mark in some
    ]
    for axes in figure.axes:
        if axes.axison:
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(-0.3, 1.7 * max(1.0, *steps))
    return figure


def circuits_figure(tables: Tables) -> Figure:
    """Draw the share of a circuit's inner edges that carry a variable, beside its controls."""
    rows = [row for row in tables["circuits"].rows if row["step"] == row["last_step"]]

    def share(words: str) -> Mapping[tuple[str, str], Sequence[Mark]]:
        return _of_runs(rows, lambda row: _ratio(row, f"{words}_named", f"{words}_inner"))

    marks = {"model": share("model"), "reference": share("reference"),
             "random init": share("random_init")}  # fmt: skip
    return _shares(
        tables, marks, "Share of the circuit's inner edges that carry one variable of the program",
        "share of inner edges", "circuits were not searched for (algomatch circuit)",
    )  # fmt: skip


def deletion_figure(tables: Tables) -> Figure:
    """Draw the share of heads and MLPs that are jointly redundant."""
    rows = [row for row in tables["headlines"].rows if row["headline"] == REDUNDANT]
    marks: dict[tuple[str, str], Sequence[Mark]] = {}
    for row in rows:
        ends = _clipped(row["low"], row["high"])
        marks[_place(row)] = [Mark(_float(row["mean"]), *ends, fails=_fails(row))]
    return _shares(
        tables, {"model": marks}, "Share of heads and MLPs that are redundant together (in the "
        f"runs that solve the task{_unchecked(rows)})", "share of heads and MLPs",
        "redundancy was not measured, or no run solves its task",
    )  # fmt: skip


def neurons_figure(tables: Tables) -> Figure:
    """Draw the share of neurons that a predicate explains, beside its controls."""
    rows = [row for row in tables["explained"].rows if row["step"] == row["last_step"]]
    marks = {
        words: _of_runs(rows, lambda row, name=name: row.get(name))  # type: ignore[misc]
        for words, name in (
            ("model", "neurons_explained"), ("random init", "random_init_explained"),
            ("shuffled on/off", "neurons_shuffled"),
        )
    }  # fmt: skip
    return _shares(
        tables, marks, "Share of the varying neurons that a predicate explains",
        "share of neurons", "neurons were not explained (algomatch explain)",
    )  # fmt: skip


FIGURES: dict[str, Callable[[Tables], Figure]] = {
    "verdicts": verdicts_figure,
    "lengths": lengths_figure,
    "emergence": emergence_figure,
    "circuits": circuits_figure,
    "deletion": deletion_figure,
    "neurons": neurons_figure,
}


def _of_runs(
    rows: Iterable[Record], taken: Callable[[Record], Value]
) -> dict[tuple[str, str], list[Mark]]:
    """Return the means over seeds of the values that `taken` reads from the rows of runs."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if (number := taken(row)) is not None:
            values.setdefault(_place(row), []).append(_float(number))
    marks: dict[tuple[str, str], list[Mark]] = {}
    for place, some in values.items():
        whole = estimate("", some, "neither")
        marks[place] = [Mark(whole.mean, *_clipped(*(whole.interval or (None, None))))]
    return marks


def _shares(tables: Tables, marks: Marks, title: str, axis: str, none: str) -> Figure:
    """Draw shares: means over seeds with their intervals, one panel per task."""
    looks = {words: SERIES[words] for words in marks}
    figure = _dots(tables, marks, looks, f"{title}: mean over seeds and its 95% interval", axis,
                   none)  # fmt: skip
    for axes in figure.axes:
        if axes.axison:
            axes.set_xlim(-0.04, 1.04)
    return figure


def _dots(
    tables: Tables,
    marks: Marks,
    looks: Mapping[str, tuple[str, str]],
    title: str,
    axis: str,
    none: str,
    blank: str = "no value",
) -> Figure:
    """Draw marks by series: one panel per task, one row per architecture."""
    if not any(marks.values()):
        return _empty(none)
    groups = tables["verdicts"].rows
    tasks, architectures = _names(groups, "task"), _names(groups, "architecture")
    there = {_place(row) for row in groups}
    figure, panels = _panels(tasks, 0.7 + 0.3 * len(architectures), title)
    for axes, task in zip(panels, tasks, strict=True):
        for y, name in enumerate(architectures):
            each = {words: by_place.get((task, name), ()) for words, by_place in marks.items()}
            if not any(each.values()):
                told = blank if (task, name) in there else "no run"
                axes.text(0.02, y, told, size=6, color="0.55", va="center",
                          transform=axes.get_yaxis_transform())  # fmt: skip
            for at, (words, some) in enumerate(each.items()):
                aside = 0.56 * ((at + 0.5) / len(each) - 0.5)
                for mark in some:
                    _mark(axes, mark, y + aside, *looks[words])
        axes.set_title(_plain(task), size=9)
        _by_architecture(axes, architectures)
        axes.set_xlabel(axis, size=7)
        axes.tick_params(labelsize=7)
        axes.grid(axis="x", alpha=0.25)
        for y in range(1, len(architectures)):
            axes.axhline(y - 0.5, color="0.88", lw=0.6, zorder=0)
    handles = [Line2D([], [], color=colour, marker=marker, ms=5, lw=0, mew=1.5, label=words)
               for words, (colour, marker) in looks.items()]  # fmt: skip
    if any(
        mark.fails for by_place in marks.values() for some in by_place.values() for mark in some
    ):
        words = "does not separate the program from other models on the task's controls"
        handles.append(Line2D([], [], lw=0, marker=f"${MARK}$", color="0.3", ms=6, label=words))
    letters = sum(len(str(handle.get_label())) + 6 for handle in handles)
    columns = len(handles) if letters < 12 * figure.get_figwidth() else -(-len(handles) // 2)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8,
                  frameon=False)  # fmt: skip
    return figure


def _mark(axes: Axes, mark: Mark, y: float, colour: str, marker: str) -> None:
    inside: dict[str, Any] = {} if mark.filled else {"mfc": "white"}
    if mark.low is not None and mark.high is not None:
        axes.hlines(y, mark.low, mark.high, color=colour, lw=1.1, alpha=0.8)
    size, edge = (7.0, 1.6) if marker in "|x" else (4.5, 1.0)
    axes.plot([mark.mean], [y], color=colour, marker=marker, ms=size, mew=edge, lw=0, **inside)
    if mark.fails:
        axes.annotate(MARK, (mark.mean, y), (4, 0), textcoords="offset points", size=7,
                      va="center", color=colour)  # fmt: skip


def _panels(tasks: Sequence[str], height: float, title: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per task, as many per row as fit."""
    columns = min(COLUMNS, len(tasks))
    lines = -(-len(tasks) // columns)
    size = (max(6.5, 1.3 + 2.9 * columns), 1.0 + lines * (height + BASE))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(textwrap.fill(title, int(14 * size[0])), size=10)
    axes = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for left in axes[len(tasks) :]:
        left.set_axis_off()
    return figure, axes[: len(tasks)]


def _by_architecture(axes: Axes, architectures: Sequence[str]) -> None:
    """Give the axes one row per architecture, the first on top."""
    axes.set_yticks(range(len(architectures)), [_short(name) for name in architectures], size=7)
    axes.set_ylim(len(architectures) - 0.5, -0.5)


def _empty(why: str) -> Figure:
    figure = Figure(figsize=(6, 1.5), layout="constrained")
    nothing(figure.subplots(), why)
    return figure


def _names(rows: Iterable[Record], column: str) -> list[str]:
    return sorted({_text(row[column]) for row in rows})


def _place(row: Record) -> tuple[str, str]:
    return _text(row["task"]), _text(row["architecture"])


def _short(name: str, between: str = "\n") -> str:
    """Return the name of an architecture with its settings, without their groups.

    >>> _short("1L model.normalization=none", " ")
    '1L normalization=none'
    """
    model, *settings = name.split(" ")
    return _plain(between.join([model, *(word.removeprefix("model.") for word in settings)]))


def _plain(text: str) -> str:
    """Escape the dollar signs of a text, between which matplotlib reads a formula."""
    return text.replace("$", r"\$")


def _ratio(row: Record, part: str, whole: str) -> float | None:
    named, edges = row.get(part), row.get(whole)
    return None if named is None or not edges else _float(named) / _float(edges)


def _fails(row: Record) -> bool:
    return row.get("fails_controls") not in (None, "", NOT_RUN)


def _unchecked(rows: Iterable[Record]) -> str:
    """Return the end of a title: the tasks on which the controls were not run."""
    tasks = sorted({_text(row["task"]) for row in rows if row.get("fails_controls") == NOT_RUN})
    return f"; controls not run on {', '.join(tasks)}" if tasks else ""


def _clipped(low: Value, high: Value) -> tuple[float | None, float | None]:
    """Return the ends of a share's interval clipped to 0 and 1, None if there is no interval."""
    if low is None or high is None:
        return None, None
    return max(0.0, _float(low)), min(1.0, _float(high))


def _float(value: Value) -> float:
    assert value is not None
    return float(value)


def _text(value: Value) -> str:
    return str(value)
