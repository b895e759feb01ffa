"""`algomatch report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .arguments import console, need_runs, say_next
from .options import Runs


def report(
    *runs: Runs,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("report.html"),
    title: str | None = None,
    tables: Path | None = None,
) -> None:
    """Write one HTML page of a run, or of many side by side.

    The page needs nothing but itself: of one run all that was measured of it, of several runs, or
    a folder of them, what differs over their seeds. What was not measured is named, with the
    command that does.

    Args:
        output: file for the page, which replaces an earlier one; report.html by default
        title: the page's heading; the runs by default
        tables: with several runs, a folder for the tables behind the page, as CSV, and for
            figures of these tables
    """
    need_runs("report", runs)
    from ..api.report import report as report_runs
    from ..config.printed_commands import quoted

    screen = console()
    page = report_runs(runs, output, title=title, tables=tables, console=screen)
    say_next(quoted("python", "-m", "webbrowser", page.resolve().as_uri()), screen)
