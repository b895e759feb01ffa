"""What `algomatch compare` does: trained models compared over several seeds of each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..hypotheses.seed_groups import Group, grouped, notes
from ..infra.files import faults_named, refuse_file, write_file
from ..report.figures.comparison_figure import comparison_figure
from ..report.terminal.comparison import COMPARISON, LEGEND, by_task, comparison_rows, table
from ..report.terminal.tables import say
from ..runs.run_batches import find_runs, load_runs
from ..runs.run_folder import RunFolder

FIGURE = "comparison.png"


def compare(
    runs: Sequence[RunFolder | str | Path] | str | Path,
    output: str | Path = ".",
    *,
    console: Console | None = None,
) -> list[Group]:
    """Compare runs over their seeds; write comparison.csv and comparison.png into `output`.

    Runs that differ only in their seed are one group. Each of `runs` is a run or a folder of runs;
    those that cannot be read are left out and reported. Tables are printed on the console, if there
    is one.

    Example:
        algomatch.compare("runs", "comparison")

    Raises:
        UserError: a path holds no run, no run has a checkpoint, or `output` is a file.
        FaultError: no run can be read, or the output cannot be written.
    """
    folder, screen = Path(output), console or Console(quiet=True)
    refuse_file("--output", folder)
    left_out = list[str]()
    groups = grouped(load_runs(find_runs(paths_of(runs), left_out), left_out))
    for part in by_task(groups):
        screen.print(table(part))
        for line in notes(part):
            say(f"! {line}", screen)
    for line in left_out:
        say(f"! {line}", screen)
    say(LEGEND, screen)
    content = io.BytesIO()
    comparison_figure(groups).savefig(content, format="png", dpi=110)
    with faults_named(f"write into '{folder}'"):
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / COMPARISON.name, COMPARISON.to_csv(comparison_rows(groups)))
        write_file(folder / FIGURE, content.getvalue())
    for label, name in (("all numbers", COMPARISON.name), ("figure", FIGURE)):
        screen.print(f"{label:<12} {folder / name}", markup=False, highlight=False, soft_wrap=True)
    return groups


def paths_of(runs: Sequence[RunFolder | str | Path] | str | Path) -> list[Path]:
    """Return the paths of runs and folders of runs."""
    several = [runs] if isinstance(runs, str | Path) else runs
    return [run.path if isinstance(run, RunFolder) else Path(run) for run in several]
