"""The values of each measure on a task's controls: a table and a figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement as Width
from rich.table import Table

from ...analysis.controls.known_models import DECOY, NEGATIVE, POSITIVE, Control
from ...analysis.measurements import Measurement
from ...analysis.measures.separation import EXACT, Separation, qualifies
from ...analysis.measures.sparsity import REFERENCE
from ...analysis.measures.suite import headlines
from ...hypotheses.row_values import drawable
from .tables import say

COLUMNS = {  # group: (heading, which of several values is shown)
    "reference": ("refer-\nence", min),
    "rotated": ("rota-\nted", min),
    "reparametrised": ("repara-\nmetrised", min),
    "permuted": ("permu-\nted", min),
    "noised": ("noised", min),
    "implemented": ("imple-\nmented", min),
    "random init": ("random\ninit", max),
    "shuffled labels": ("shuffled\nlabels", max),
    "trained other": ("trained\nother", max),
    "compiled other": ("compiled\nother", max),
    "decoy": ("decoy", max),
}
MARKERS = {POSITIVE: "o", NEGATIVE: "x", DECOY: "d"}
COLOURS = {POSITIVE: "#0072b2", NEGATIVE: "#d55e00", DECOY: "#888888"}
Measured = Sequence[tuple[Control, Sequence[Measurement]]]
Values = Sequence[tuple[Control, Mapping[str, float]]]
DESCRIBING = ("ablation/", "sparsity/")
GAP = "gap"  # the column of verdicts
SHOWN = {  # what each column holds
    "reference": "the compiled reference",
    "rotated": "in another basis (rotated)",
    "reparametrised": "in another basis, by a map of condition number 3 (reparametrised)",
    "permuted": "with heads, neurons and dimensions permuted",
    "noised": "with as much noise in its weights as it survives",
    "implemented": "a learned network trained to implement it by interchange",
    "random init": "random inits",
    "shuffled labels": "trained on shuffled labels",
    "trained other": "trained on another task",
    "compiled other": "another task's compiled program",
}
KINDS = {
    POSITIVE: "Positives run the program (the lowest of several is shown): ",
    NEGATIVE: "Negatives do not (the highest is shown): ",
}


def legend(measured: Measured) -> str:
    """Return a legend: the controls that were measured, and what a gap is."""
    there = {control.kind: dict[str, None]() for control, _ in measured}
    for control, _ in measured:
        there[control.kind][SHOWN.get(control.group, control.group)] = None
    lines = [f"{start}{'; '.join(there[kind])}." for kind, start in KINDS.items() if kind in there]
    if DECOY in there:
        lines.append("Decoys compute the same map by another program; they decide nothing.")
    lines.append(
        "gap: the lowest positive minus the highest negative. A measure without a gap does not "
        "separate this program from other models on this task.\n"
    )
    return "\n".join(lines)


def print_controls(
    title: str,
    measured: Measured,
    notes: Mapping[str, str],
    separations: Sequence[Separation],
    console: Console,
) -> None:
    """Print the measures on the controls, which measures separate, and a legend."""
    values = _values(measured)
    judged = {separation.key: separation for separation in separations}
    others = dict.fromkeys(
        key
        for _, held in values
        for key in held
        if key not in judged and key.startswith(DESCRIBING)
    )
    _print_table(title, values, list(judged), judged, console)
    if others:
        about = "Measures that describe a model and test no program"
        _print_table(about, values, list(others), {}, console)
    say(legend(measured), console)
    for control, rows in measured:
        exact = next((f"exact {row.value:.3f}" for row in rows if row.key == EXACT), "")
        why = "it solves the task" if control.kind == NEGATIVE else "it does not solve the task"
        left_out = "" if qualifies(control, rows) else f"LEFT OUT: {why}"
        about = "; ".join(part for part in (exact, notes.get(control.name), left_out) if part)
        say(f"{control.kind:8} {control.name}: {about}", console)
    for name in notes:
        if name not in {control.name for control, _ in measured}:
            say(f"missing: {name}: {notes[name]}", console)
    failing = [separation for separation in separations if not separation.separates]
    say(f"\n{len(separations) - len(failing)} of {len(separations)} measures separate", console)
    for separation in failing:
        say(
            f"\u2717 {_label(separation.key)}: {separation.negative} "
            f"{separation.highest_negative:.3f} is not below {separation.positive} "
            f"{separation.lowest_positive:.3f}: {separation.why}",
            console,
        )


def _print_table(
    title: str,
    values: Values,
    keys: Sequence[str],
    verdicts: Mapping[str, Separation],
    console: Console,
) -> None:
    """Print a table, split into parts that fit the terminal, so that no column is lost."""
    there = {control.group for control, _ in values}
    free = console.options.update(max_width=1000)
    columns = [*(group for group in COLUMNS if group in there), *[GAP] * bool(verdicts)]
    while columns:
        count = len(columns)
        while True:
            part = _table(title, values, keys, columns[:count], verdicts)
            if count == 1 or Width.get(console, free, part).maximum <= console.width:
                break
            count -= 1
        console.print(part)
        columns = columns[count:]


def _values(measured: Measured) -> Values:
    """Return each control's headline values by key, without those of the reference and of H1."""
    return [
        (
            control,
            {
                row.key: row.value
                for row in headlines(rows)
                if not row.subject.startswith(REFERENCE) and "/h1_" not in row.key
            },
        )
        for control, rows in measured
    ]


def _table(
    title: str,
    values: Values,
    keys: Sequence[str],
    columns: Sequence[str],
    verdicts: Mapping[str, Separation],
) -> Table:
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("measure", overflow="fold")
    for column in columns:
        heading = column if column == GAP else COLUMNS[column][0]
        table.add_column(heading, justify="right", no_wrap=True)
    if GAP in columns:
        table.add_column("", no_wrap=True)
    for key in keys:
        cells = []
        for column in columns:
            if column == GAP:
                separation = verdicts[key]
                cells += [
                    f"{separation.gap:+.3f}",
                    "separates" if separation.separates else "\u2717 fails",
                ]
                continue
            held = [row[key] for control, row in values if control.group == column and key in row]
            cells.append(f"{COLUMNS[column][1](held):.2f}" if held else "-")
        table.add_row(escape(_label(key)), *cells)
    return table


def _label(key: str) -> str:
    """Return a key without the parts that all keys of its kind share.

    >>> _label("similarity/length/best_deconfounded_cka")
    'dCKA length'
    """
    group, _, rest = key.partition("/")
    subject, _, name = rest.rpartition("/")
    if name == "best_deconfounded_cka":
        return f"dCKA {subject}"
    words = name.replace("deconfounded_cka", "dCKA").replace("_", " ")
    return f"{group} {words}" if subject == "model" else f"{group} {subject} {words}"


def controls_figure(title: str, measured: Measured, separations: Sequence[Separation]) -> bytes:
    """Return a PNG of each measure's values on all controls; labels of failing ones are grey."""
    figure = Figure(figsize=(11, 1.6 + 0.32 * max(1, len(separations))), layout="constrained")
    axes = figure.add_subplot()
    values = _values(measured)
    shown = set[str]()
    for place, separation in enumerate(reversed(separations)):
        axes.axhline(place, color="0.9", lw=0.8, zorder=0)
        if separation.separates:
            span = [separation.highest_negative, separation.lowest_positive]
            axes.plot(span, [place, place], color="#009e73", lw=5, alpha=0.35, zorder=1)
        for kind in (NEGATIVE, DECOY, POSITIVE):
            there = [
                held[separation.key]
                for c, held in values
                if c.kind == kind and separation.key in held
            ]
            axes.scatter(
                there, [place] * len(there), s=26, color=COLOURS[kind], alpha=0.75,
                marker=MARKERS[kind], label=None if kind in shown else f"{kind} controls",
            )  # fmt: skip
            shown.add(kind)
    labels = [
        f"{_label(separation.key)}  ({separation.gap:+.2f}"
        f"{'' if separation.separates else ', fails'})"
        for separation in reversed(separations)
    ]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    for tick, separation in zip(axes.get_yticklabels(), reversed(separations), strict=True):
        tick.set_color("black" if separation.separates else "0.55")
    words = f"{drawable(title)}: green is the gap between positives and negatives"
    axes.set_title(words, parse_math=False)
    axes.set_xlabel("value of the measure")
    if separations:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.05), ncols=3, fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
