"""Verdicts of several runs on the programs of their tasks, by group, over seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from ...analysis.matching.match_result import ProgramRow
from ...config.composition import with_overrides
from ...config.naming import task_title
from ...hypotheses.seed_groups import Group
from ...infra.typed_tables import TypedTable, separated
from ...runs.result_store import changed_settings
from ...runs.run_batches import Run
from ...runs.run_results import RunResults
from .tables import say

LEGEND = (
    "exact: exact accuracy, mean over seeds. For each program: how many seeds got each verdict; "
    "below it the score, mean over seeds (lowest..highest). The score is the mean of the best "
    "match of each testable inner cut"
)


@dataclass(frozen=True, kw_only=True)
class RunVerdictRow:
    """The verdict on a program at a run's last checkpoint."""

    task: str
    group: str
    seed: int
    run: str
    step: int | None
    exact: float
    program: str
    verdict: str
    score: float | None
    score_low: float | None
    score_high: float | None
    fused: tuple[str, ...] = field(metadata=separated("; ", since=2))
    path: str
    why: str
    overrides: tuple[str, ...] = field(metadata=separated("; ", since=2))


VERDICTS = TypedTable(RunVerdictRow, "verdicts.csv", version=2)


def print_verdicts(
    groups: Sequence[Group], console: Console, overrides: Sequence[str] = ()
) -> None:
    """Print a table for each task: its groups of runs and the verdicts on every program.

    They are of results with these overrides, `analysis.key=value`.
    """
    given = f", with {' '.join(overrides)}" if overrides else ""
    for task in dict.fromkeys(group.task for group in groups):
        some = [group for group in groups if group.task == task]
        verdicts = [[row for run in group.runs for row in _rows(run, overrides)] for group in some]
        programs = sorted({row.program for rows in verdicts for row in rows})
        titles = {task_title(run.config) for group in some for run in group.runs}
        title = titles.pop() if len(titles) == 1 else task  # else the group names tell them apart
        heading = escape(f"verdicts on {title}{given}")
        table = RichTable(title=heading, title_justify="left", box=SIMPLE)
        for heading in ("runs", "seeds", "exact", *programs):
            right = heading in ("seeds", "exact")
            table.add_column(escape(heading), justify="right" if right else "left", overflow="fold")
        for group, rows in zip(some, verdicts, strict=True):
            exact = {row.run: row.exact for row in rows}
            known = list(exact.values())
            cells = [_cell([row for row in rows if row.program == name]) for name in programs]
            mean = f"{fmean(known):.3f}" if known else "-"
            table.add_row(escape(group.name), str(len(exact)), mean, *cells)
        console.print(table)
    say(LEGEND, console)


def verdicts_csv(groups: Iterable[Group], overrides: Sequence[str] = ()) -> bytes:
    """Return a row for each run and program as CSV, of results with these overrides."""
    return VERDICTS.to_csv(
        RunVerdictRow(
            task=group.task, group=group.name, seed=run.config.seed, run=row.run, step=row.step,
            exact=row.exact, program=row.program, verdict=row.verdict, score=row.score,
            score_low=row.score_low, score_high=row.score_high, fused=row.fused, path=row.path,
            why=row.why, overrides=_changed(run, overrides),
        )
        for group in groups
        for run in group.runs
        for row in _rows(run, overrides)
    )  # fmt: skip


def _rows(run: Run, overrides: Sequence[str]) -> list[ProgramRow]:
    """Return the verdicts on a run's last checkpoint."""
    matched = RunResults(run.folder.path).match_with(_changed(run, overrides))
    return [row for row in matched.programs if row.step == run.last_step]


def _changed(run: Run, overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides that are not a run's own settings anyway."""
    now = with_overrides(run.config, overrides)
    return changed_settings(run.config.analysis, now.analysis)


def _cell(rows: Sequence[ProgramRow]) -> str:
    if not rows:
        return "-"
    counts = Counter(row.verdict for row in rows).most_common()
    lines = [f"{verdict} {count}/{len(rows)}" for verdict, count in counts]
    scores = [row.score for row in rows if row.score is not None]
    if scores:
        lines.append(f"{fmean(scores):.2f} ({min(scores):.2f}..{max(scores):.2f})")
    return escape("\n".join(lines))
