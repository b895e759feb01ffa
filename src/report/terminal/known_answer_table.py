"""Matching on models whose answer is known: a row for each control of each task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...analysis.controls.known_models import DECOY, NEGATIVE, POSITIVE
from ...analysis.matching.known_answers import KnownAnswer
from .tables import say as printed

FAMILIES = {"trained_on_": "trained on other tasks", "compiled_": "compiled other tasks"}


def print_checked(task: str, checks: Sequence[KnownAnswer], console: Console) -> None:
    """Print a task's controls; those that differ only in seed or in the other task share a row."""
    table = Table(
        title=escape(f"matching the controls of {task}"), title_justify="left", box=SIMPLE
    )
    for heading in ("", "control", "program", "exact", "match", "verdict", ""):
        right = heading in ("exact", "match")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    groups: dict[tuple[str, str, str], list[KnownAnswer]] = {}
    for check in checks:
        groups.setdefault((check.kind, _family(check.control), check.program), []).append(check)
    for (kind, control, program), some in groups.items():
        verdicts = Counter(check.verdict for check in some).most_common()
        wrong = sum(check.right is False for check in some)
        table.add_row(
            kind, escape(control if len(some) == 1 else f"{control} ({len(some)})"),
            escape(program), _range([check.exact for check in some]),
            _range([check.match for check in some]),
            escape(", ".join(f"{said} {n}" if len(some) > 1 else said for said, n in verdicts)),
            f"[bold red]{wrong} WRONG[/]" if wrong else "" if some[0].right else "-",
        )  # fmt: skip
    console.print(table)


def _family(control: str) -> str:
    """Return the common name of controls that differ only in seed or in the other task.

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


def print_counts(checks: Sequence[KnownAnswer], console: Console) -> None:
    """Print how many controls of each kind got the right verdict, and every exception."""
    say = partial(printed, console=console)

    for kind, claim in (
        (POSITIVE, "follow their program"),
        (NEGATIVE, "realise no inner cut"),
        (DECOY, "do not follow a program whose cuts they lack"),
    ):
        judged = [check for check in checks if check.kind == kind and check.right is not None]
        say(f"{sum(bool(check.right) for check in judged)} of {len(judged)} {kind}s {claim}")
    for line in _gap(checks):
        say(line)
    for check in checks:
        if check.right is False:
            match = "" if check.match is None else f", match {check.match:.3f}"
            where = f"{check.task}: {check.kind} {check.control}, program {check.program}"
            say(f"exception: {where}: {check.verdict}{match}")

    unjudged = Counter((check.task, check.note) for check in checks if check.right is None)
    for (task, note), count in unjudged.items():
        say(f"not judged: {task}: {count} rows: {note}")
    _print_recognised(checks, say)


def _gap(checks: Sequence[KnownAnswer]) -> Iterator[str]:
    """Yield the lowest match of a positive and the highest of a negative; count the models."""
    known = [check for check in checks if check.match is not None and check.right is not None]
    positives = [check for check in known if check.kind == POSITIVE]
    others = [check for check in known if check.kind == NEGATIVE]
    if positives and others:
        lowest = min(positives, key=lambda check: check.match or 0.0)
        highest = max(others, key=lambda check: check.match or 0.0)
        yield (
            f"lowest match of a positive on a testable cut: {lowest.match:.3f} ({lowest.task}: "
            f"{lowest.control}); highest of a negative: {highest.match:.3f} ({highest.task}: "
            f"{highest.control})"
        )
    models = {(check.task, check.control) for check in known if check.kind != POSITIVE}
    yield f"{len(models)} negatives and decoys were judged"


def _print_recognised(checks: Sequence[KnownAnswer], say: Callable[[str], None]) -> None:
    """Print how many compiled programs are recognised as themselves."""
    asked = [check for check in checks if check.recognised is not None or check.recognised_note]
    if not asked:
        return
    right, wrong = (sum(check.recognised is answer for check in asked) for answer in (True, False))
    say(
        f"{right} of {len(asked)} compiled programs are recognised as themselves, {wrong} as "
        f"another, {len(asked) - right - wrong} cannot be told apart"
    )
    for check in asked:
        if check.recognised is not True:
            said = "cannot be told apart" if check.recognised is None else "taken for another"
            say(f"{said}: {check.task}: {check.control}: {check.recognised_note}")
