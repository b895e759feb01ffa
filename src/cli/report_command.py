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

    The page is self-contained. For one run it shows everything that was measured; for several
    runs, or a folder of runs, it shows what differs over their seeds. It names what was not
    measured, and the command that measures it.

    Args:
        output: file for the page, which replaces an earlier one; report.html by default
        title: the page's heading; by default the run's title, or the number of runs
        tables: with several runs, a folder for the page's tables, as CSV, and for figures of them
    """
    need_runs("report", runs)
    from ..api.report import report as report_runs
    from ..config.printed_commands import quoted

    screen = console()
    page = report_runs(runs, output, title=title, tables=tables, console=screen)
    say_next(quoted("python", "-m", "webbrowser", page.resolve().as_uri()), screen)
