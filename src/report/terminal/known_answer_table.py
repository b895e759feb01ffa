"""Whether matching tells models whose answer is known: a row for each control of each task."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...analysis.controls.known_models import DECOY, NEGATIVE, POSITIVE
from ...analysis.matching.known_answers import Checked
from .tables import say as printed

FAMILIES = {"trained_on_": "trained on other tasks", "compiled_": "compiled other tasks"}
HEADER = ("task", "control", "kind", "program", "exact", "verdict", "match", "right", "note",
          "recognised", "recognised_note")  # fmt: skip


def print_checked(task: str, found: Sequence[Checked], console: Console) -> None:
    """Print a task's controls: those that differ only in seed or in which task they are as one."""
    table = Table(
        title=escape(f"matching the controls of {task}"), title_justify="left", box=SIMPLE
    )
    for heading in ("", "control", "program", "exact", "match", "verdict", ""):
        right = heading in ("exact", "match")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    groups: dict[tuple[str, str, str], list[Checked]] = {}
    for one in found:
        groups.setdefault((one.kind, _family(one.control), one.program), []).append(one)
    for (kind, control, program), some in groups.items():
        verdicts = Counter(one.verdict for one in some).most_common()
        wrong = sum(one.right is False for one in some)
        table.add_row(
            kind, escape(control if len(some) == 1 else f"{control} ({len(some)})"),
            escape(program), _range([one.exact for one in some]),
            _range([one.match for one in some]),
            escape(", ".join(f"{said} {n}" if len(some) > 1 else said for said, n in verdicts)),
            f"[bold red]{wrong} WRONG[/]" if wrong else "" if some[0].right else "-",
        )  # fmt: skip
    console.print(table)


def _family(control: str) -> str:
    """Return what controls that differ only in seed, or in the other task, are called together.

    >>> _family("random_init-3"), _family("trained_on_hist"), _family("sort_by_counting")
    ('random_init', 'trained on other tasks', 'sort_by_counting')
    """
    for start, words in FAMILIES.items():
        if control.startswith(start):
            return words
    return re.sub(r"-\d+$", "", control)


def _range(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, high = f"{min(known):.3f}", f"{max(known):.3f}"
    return low if low == high else f"{low}..{high}"


def print_counts(found: Sequence[Checked], console: Console) -> None:
    """Print how many controls there were, of each kind, and every exception."""
    say = partial(printed, console=console)

    for kind, claim in (
        (POSITIVE, "follow their program"),
        (NEGATIVE, "realise no inner cut"),
        (DECOY, "do not follow a program whose cuts they lack"),
    ):
        judged = [one for one in found if one.kind == kind and one.right is not None]
        say(f"{sum(bool(one.right) for one in judged)} of {len(judged)} {kind}s {claim}")
    for line in _gap(found):
        say(line)
    for one in found:
        if one.right is False:
            match = "" if one.match is None else f", match {one.match:.3f}"
            where = f"{one.task}: {one.kind} {one.control}, program {one.program}"
            say(f"exception: {where}: {one.verdict}{match}")

    unjudged = Counter((one.task, one.note) for one in found if one.right is None)
    for (task, note), count in unjudged.items():
        say(f"not judged: {task}: {count} rows: {note}")
    _print_recognised(found, say)


def _gap(found: Sequence[Checked]) -> Iterator[str]:
    """Yield what lies between the controls that must match and those that must not."""
    known = [one for one in found if one.match is not None and one.right is not None]
    positives = [one for one in known if one.kind == POSITIVE]
    others = [one for one in known if one.kind == NEGATIVE]
    if positives and others:
        lowest = min(positives, key=lambda one: one.match or 0.0)
        highest = max(others, key=lambda one: one.match or 0.0)
        yield (
            f"lowest match of a positive on a testable cut: {lowest.match:.3f} ({lowest.task}: "
            f"{lowest.control}); highest of a negative: {highest.match:.3f} ({highest.task}: "
            f"{highest.control})"
        )
    models = {(one.task, one.control) for one in known if one.kind != POSITIVE}
    yield f"{len(models)} negatives and decoys were judged"


def _print_recognised(found: Sequence[Checked], say: Callable[[str], None]) -> None:
    """Print how many decoys are told from every rival of their own program."""
    asked = [one for one in found if one.recognised is not None or one.recognised_note]
    if not asked:
        return
    right, wrong = (sum(one.recognised is answer for one in asked) for answer in (True, False))
    say(
        f"{right} of {len(asked)} compiled programs are recognised as themselves, {wrong} as "
        f"another, {len(asked) - right - wrong} cannot be told"
    )
    for one in asked:
        if one.recognised is not True:
            said = "cannot be told" if one.recognised is None else "taken for another"
            say(f"{said}: {one.task}: {one.control}: {one.recognised_note}")


def checked_csv(found: Sequence[Checked], before: str = "") -> str:
    """Return the rows as CSV, after those of other tasks in an earlier one."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    tasks = {one.task for one in found}
    header, *kept = list(csv.reader(io.StringIO(before))) or [[]]
    if tuple(header) == HEADER:
        writer.writerows(row for row in kept if row and row[0] not in tasks)
    for one in found:
        writer.writerow([getattr(one, name) for name in HEADER])
    return out.getvalue()
