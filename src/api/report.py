"""What `algomatch report` does: one HTML page of a run, or of many side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..report.html.page import write_report
from ..runs.run_folder import RunFolder
from .compare import paths_of


def report(
    runs: Sequence[RunFolder | str | Path] | str | Path,
    output: str | Path = "report.html",
    *,
    title: str | None = None,
    tables: str | Path | None = None,
    console: Console | None = None,
) -> Path:
    """Write one HTML page of a run, or of many side by side; return its path.

    Each of `runs` is a run or a folder of runs. If `tables` is given, the tables of many runs and
    figures of them are written to this folder.

    Example:
        algomatch.report("runs/RUN", "report.html")

    Raises:
        UserError: a path holds no run, none of several runs has a checkpoint, `output` is a folder,
            or `tables` is a file or is given for a single run.
        FaultError: a run cannot be read, or the output cannot be written.
    """
    page = Path(output)
    folder = None if tables is None else Path(tables)
    write_report(paths_of(runs), page, title, console or Console(quiet=True), folder)
    return page
