"""What `algomatch compare` does: trained models compared over several seeds of each."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from ..hypotheses.seed_groups import Group, grouped, notes
from ..infra.errors import UserError, need_kind
from ..infra.files import faults_named, refuse_file, write_file
from ..report.figures.comparison_figure import comparison_figure
from ..report.terminal.comparison import COMPARISON, LEGEND, by_task, comparison_rows, table
from ..report.terminal.tables import say
from ..runs.loaded_run import LoadedRun
from ..runs.run_batches import find_runs, load_runs
from ..runs.run_folder import RunFolder

FIGURE = "comparison.png"
Given = RunFolder | LoadedRun | str | Path
Runs = Sequence[Given] | Given


def compare(
    runs: Runs,
    output: str | Path = ".",
    *,
    console: Console | None = None,
) -> list[Group]:
    """Compare runs over their seeds; write comparison.csv and comparison.png into `output`.

    Runs that differ only in their seed are one group. Each of `runs` is a run, by its path or as
    `train` or `load` returns it, or a folder of runs; those that cannot be read are left out and
    reported. Tables are printed on the console, if there is one.

    Example:
        algomatch.compare("runs", "comparison")

    Raises:
        UserError: a path holds no run, no run has a checkpoint, or `output` is a file.
        FaultError: no run can be read, or the output cannot be written.
    """
    folder, screen = Path(output), console or Console(quiet=True)
    refuse_file("--output", folder)
    left_out = list[str]()
    groups = grouped(load_runs(find_runs(paths_of("compare", runs), left_out), left_out))
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


def paths_of(function: str, runs: Runs) -> list[Path]:
    """Return the paths of runs and folders of runs.

    Raises:
        UserError: there is none, or one is of another kind than `function` takes.
    """
    takes = f"{function} takes runs, each a path, what train returns or what load does"
    several: Iterable[object]
    several = runs if isinstance(runs, Iterable) and not isinstance(runs, str) else [runs]
    paths = [_path_of(run, takes) for run in several]
    if not paths:
        raise UserError(f"{takes}: none is given")
    return paths


def _path_of(run: object, takes: str) -> Path:
    if isinstance(run, LoadedRun):
        return run.home
    if isinstance(run, RunFolder):
        return run.path
    need_kind(run, (str, Path), takes)
    return Path(str(run))
