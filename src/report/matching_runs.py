"""Several runs matched with the programs of their tasks: verdicts by architecture, over seeds."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..analysis.rivals import Standing
from .matching import Matching, path_text
from .seeds import Group

HEADER = (
    "task", "group", "seed", "run", "step", "exact", "program", "verdict", "score", "score_low",
    "score_high", "fused", "path", "why",
)  # fmt: skip
FILE = "verdicts.csv"
LEGEND = (
    "exact: mean over seeds. Of each program: how many seeds got each verdict; below it the score, "
    "mean over seeds (lowest..highest): the mean of the best match of each testable inner cut"
)


def print_verdicts(
    groups: Sequence[Group], found: Mapping[Path, Matching], console: Console
) -> None:
    """Print for each task its groups of runs with the verdicts of every program, over seeds."""
    for task in dict.fromkeys(group.task for group in groups):
        some = [group for group in groups if group.task == task]
        programs = _programs(some, found)
        table = Table(title=escape(f"verdicts on {task}"), title_justify="left", box=SIMPLE)
        for heading in ("runs", "seeds", "exact", *programs):
            right = heading in ("seeds", "exact")
            table.add_column(escape(heading), justify="right" if right else "left")
        for group in some:
            matchings = [found[run.folder.path] for run in group.runs]
            exact = sum(one.exact for one in matchings) / len(matchings)
            cells = [_cell(_standings(matchings, name)) for name in programs]
            table.add_row(escape(group.name), str(len(matchings)), f"{exact:.3f}", *cells)
        console.print(table)
    console.print(LEGEND, markup=False, highlight=False, soft_wrap=True)


def verdicts_csv(groups: Iterable[Group], found: Mapping[Path, Matching]) -> str:
    """Return a row for each run and program as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for group in groups:
        for run in group.runs:
            one = found[run.folder.path]
            for standing in one.standings:
                verdict = standing.verdict
                writer.writerow(
                    [
                        group.task, group.name, run.config.seed, one.run, one.step, one.exact,
                        standing.candidate.name, verdict.verdict,
                        *(standing.score or ("", "", "")), " ".join(verdict.fused),
                        path_text(standing), verdict.why,
                    ]
                )  # fmt: skip
    return out.getvalue()


def _programs(groups: Iterable[Group], found: Mapping[Path, Matching]) -> list[str]:
    runs = [run for group in groups for run in group.runs]
    names = (s.candidate.name for run in runs for s in found[run.folder.path].standings)
    return sorted(dict.fromkeys(names))


def _standings(matchings: Iterable[Matching], program: str) -> list[Standing]:
    return [s for one in matchings for s in one.standings if s.candidate.name == program]


def _cell(standings: Sequence[Standing]) -> str:
    if not standings:
        return "-"
    counts = Counter(one.verdict.verdict for one in standings).most_common()
    lines = [f"{verdict} {count}/{len(standings)}" for verdict, count in counts]
    scores = [one.score[0] for one in standings if one.score is not None]
    if scores:
        mean = sum(scores) / len(scores)
        lines.append(f"{mean:.2f} ({min(scores):.2f}..{max(scores):.2f})")
    return escape("\n".join(lines))
