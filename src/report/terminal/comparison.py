"""Runs compared over several seeds: tables for the terminal, and rows for a CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from ...analysis.measures.registered_measures import Family
from ...hypotheses.compared_headlines import FAMILIES, compared_with
from ...hypotheses.failed_controls import marked
from ...hypotheses.seed_groups import (
    EMERGED,
    EMERGENCE_STEP,
    Estimate,
    Group,
    failing_of,
)
from ...infra.typed_tables import TypedTable

LEGEND = """\
Mean over seeds ± half its 95% interval (Student's t, over seeds alone); n: seeds.
Indented: what to compare the line above with: its controls, or the compiled reference.
Emerged: how many seeds passed the controls (accuracy: 0.99), and the mean of their first steps."""


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """An estimate over the seeds of a group; no interval of one seed."""

    group: str
    measure: str
    mean: float
    ci_low: float | None
    ci_high: float | None
    n: int
    lowest: float
    highest: float
    better: str
    fails_on_controls: str


COMPARISON = TypedTable(ComparisonRow, "comparison.csv")


def by_task(groups: Iterable[Group]) -> list[list[Group]]:
    """Split groups, sorted by task, into one list per task."""
    return [list(part) for _, part in groupby(groups, key=lambda group: group.task)]


def comparison_rows(groups: Iterable[Group]) -> Iterator[ComparisonRow]:
    """Yield every estimate of every group."""
    for group in groups:
        marks = group.failing
        for estimate in group.estimates.values():
            low, high = estimate.interval or (None, None)
            yield ComparisonRow(
                group=group.label, measure=estimate.key, mean=estimate.mean, ci_low=low,
                ci_high=high, n=estimate.n, lowest=estimate.lowest, highest=estimate.highest,
                better=estimate.better,
                fails_on_controls="not run" if marks is None else marks.get(estimate.key, ""),
            )  # fmt: skip


def table(groups: Sequence[Group]) -> RichTable:
    """Return the table of one task: a row per measure, a column per group, means with intervals."""
    comparison = RichTable(
        title=escape(groups[0].task),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    comparison.add_column("over seeds", no_wrap=True)
    for group in groups:
        comparison.add_column(escape(group.name), justify="right", overflow="fold")
    for family in FAMILIES:
        lines = list(_lines(family, groups))
        if lines:
            comparison.add_row(f"[bold]{family.title}[/bold]")
            for label, cells in lines:
                comparison.add_row(escape(label), *cells)
            comparison.add_section()
    return comparison


def _lines(family: Family, groups: Sequence[Group]) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a family: each measure, its baselines, and when it emerged."""
    keys = dict.fromkeys(key for group in groups for key in group.estimates)
    failing = failing_of(groups)
    for key, label in family.chosen(keys).items():
        yield marked(label, [key], failing), [_cell(group.estimates.get(key)) for group in groups]
        for other, words in compared_with(key).items():
            if other in keys:
                yield f"  {words}", [_compared(group, key, other) for group in groups]
        if family.emergence and f"{EMERGED}/{key}" in keys:
            yield "  emerged", [_emerged(group, key) for group in groups]


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    if estimate.interval is None:
        return f"{estimate.mean:.3f} (one seed)"
    return f"{estimate.mean:.3f} ±{_half(estimate):.3f} (n={estimate.n})"


def _compared(group: Group, key: str, other: str) -> str:
    """Return the text of a baseline, without an interval if it is the same for all seeds."""
    estimate = group.estimates.get(other)
    if estimate is None or key not in group.estimates:
        return ""
    return f"{estimate.mean:.3f}" if estimate.lowest == estimate.highest else _cell(estimate)


def _half(estimate: Estimate) -> float:
    low, high = estimate.interval or (estimate.mean, estimate.mean)
    return (high - low) / 2


def _emerged(group: Group, key: str) -> str:
    share = group.estimates.get(f"{EMERGED}/{key}")
    if share is None:
        return ""
    step = group.estimates.get(f"{EMERGENCE_STEP}/{key}")
    text = f"{step.n if step else 0} of {share.n}"
    if step is None:
        return text
    return f"{text}, step {step.mean:.0f}" + (f" ±{_half(step):.0f}" if step.interval else "")
