"""What `algomatch compare` does: trained models compared over several seeds of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..hypotheses.seed_groups import Group
from ..report.terminal import comparison
from ..runs.run_folder import RunFolder


def compare(
    runs: Sequence[RunFolder | str | Path] | str | Path,
    output: str | Path = ".",
    *,
    console: Console | None = None,
) -> list[Group]:
    """Compare runs over their seeds; write comparison.csv and comparison.png into `output`.

    Runs that differ only in their seed are one group. Each of `runs` is a run or a folder of runs.
    Tables are printed on the console, if there is one.

    Example:
        algomatch.compare("runs", "comparison")

    Raises:
        UserError: a path holds no run, no run has a checkpoint, or `output` is a file.
        FaultError: no run can be read, or the output cannot be written.
    """
    return comparison.compare(paths_of(runs), Path(output), console or Console(quiet=True))


def paths_of(runs: Sequence[RunFolder | str | Path] | str | Path) -> list[Path]:
    """Return the paths of runs and folders of runs."""
    several = [runs] if isinstance(runs, str | Path) else runs
    return [run.path if isinstance(run, RunFolder) else Path(run) for run in several]
