"""What `algomatch compare` does: trained models compared over several seeds of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from ..hypotheses.seed_groups import Group
from ..infra.errors import UserError, need_kind
from ..report.terminal import comparison
from ..runs.loaded_run import LoadedRun
from ..runs.run_folder import RunFolder

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
    `train` or `load` returns it, or a folder of runs. Tables are printed on the console, if there
    is one.

    Example:
        algomatch.compare("runs", "comparison")

    Raises:
        UserError: a path holds no run, no run has a checkpoint, or `output` is a file.
        FaultError: no run can be read, or the output cannot be written.
    """
    return comparison.compare(
        paths_of("compare", runs), Path(output), console or Console(quiet=True)
    )


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
