"""Verdicts of several runs on the programs of their tasks, by group, over seeds."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...config.naming import task_title
from ...hypotheses.seed_groups import Group, Run
from ..html.stored_tables import Results, Row, value, whole
from .tables import say

HEADER = (
    "task", "group", "seed", "run", "step", "exact", "program", "verdict", "score", "score_low",
    "score_high", "fused", "path", "why",
)  # fmt: skip
FILE = "verdicts.csv"
LEGEND = (
    "exact: exact accuracy, mean over seeds. For each program: how many seeds got each verdict; "
    "below it the score, mean over seeds (lowest..highest). The score is the mean of the best "
    "match of each testable inner cut"
)


def print_verdicts(groups: Sequence[Group], console: Console) -> None:
    """Print a table for each task: its groups of runs and the verdicts on every program."""
    for task in dict.fromkeys(group.task for group in groups):
        some = [group for group in groups if group.task == task]
        verdicts = [[row for run in group.runs for row in _rows(run)] for group in some]
        programs = sorted({row["program"] for rows in verdicts for row in rows})
        titles = {task_title(run.config) for group in some for run in group.runs}
        title = titles.pop() if len(titles) == 1 else task  # else the group names tell them apart
        table = Table(title=escape(f"verdicts on {title}"), title_justify="left", box=SIMPLE)
        for heading in ("runs", "seeds", "exact", *programs):
            right = heading in ("seeds", "exact")
            table.add_column(escape(heading), justify="right" if right else "left", overflow="fold")
        for group, rows in zip(some, verdicts, strict=True):
            exact = {row["run"]: value(row, "exact") for row in rows}
            known = [accuracy for accuracy in exact.values() if accuracy is not None]
            cells = [_cell([row for row in rows if row["program"] == name]) for name in programs]
            mean = f"{fmean(known):.3f}" if known else "-"
            table.add_row(escape(group.name), str(len(exact)), mean, *cells)
        console.print(table)
    say(LEGEND, console)


def verdicts_csv(groups: Iterable[Group]) -> str:
    """Return a row for each run and program as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, HEADER, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for group in groups:
        for run in group.runs:
            about = {"task": group.task, "group": group.name, "seed": run.config.seed}
            writer.writerows({**row, **about} for row in _rows(run))
    return out.getvalue()


def _rows(run: Run) -> list[Row]:
    """Return the verdicts on a run's last checkpoint."""
    rows = Results(run.folder.path).programs.rows
    return [row for row in rows if whole(row, "step") == run.last_step]


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return "-"
    counts = Counter(row["verdict"] for row in rows).most_common()
    lines = [f"{verdict} {count}/{len(rows)}" for verdict, count in counts]
    scores = [score for row in rows if (score := value(row, "score")) is not None]
    if scores:
        lines.append(f"{fmean(scores):.2f} ({min(scores):.2f}..{max(scores):.2f})")
    return escape("\n".join(lines))
