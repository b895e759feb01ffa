"""`algomatch subspaces`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .analyses import Keep, Options, Verb, analyse
from .options import Again, Checkpoints, DeviceOrCpu, Jobs

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.matching.subspace_result import Searched, SubspaceResult
    from ..analysis.results import Key
    from ..runs.loaded_run import Loaded


def subspaces(
    *checkpoints: Checkpoints,
    program: str | None = None,
    output: Path | None = None,
    device: DeviceOrCpu = None,
    jobs: Jobs = None,
    again: Again = False,
) -> None:
    """Search a checkpoint for a program's variables in subspaces, beside controls.

    The search takes minutes.

    Args:
        program: the program whose variables are searched for; the task's own by default
        output: folder for tables; RUN/matching by default
    """
    options = Options({"program": program, "device": device})
    analyse(SUBSPACES, checkpoints, options, output=output, jobs=jobs, again=again)


def _compute(
    runs: Sequence[Loaded], options: Options, keep: Keep, screen: Console
) -> list[Searched]:
    from ..api.subspaces import searched_of

    (run,) = runs
    program = options.values["program"]
    assert program is None or isinstance(program, str)
    searched = searched_of(run, program=program, console=screen)
    keep(searched, run.step)
    return [searched]


def _result(searched: Searched, key: Key, finished: bool) -> SubspaceResult:
    from ..analysis.matching.subspace_result import SubspaceResult

    return SubspaceResult.of(searched, key.settings)


def _show(results: Sequence[Searched], screen: Console) -> None:
    from ..report.terminal.subspace_tables import print_subspaces

    if not results[-1].program:
        screen.print("no subspaces were searched: the model does not solve the task")
        return
    print_subspaces(results[-1], screen)


def _settings(options: Options) -> tuple[str, ...]:
    from ..api.subspaces import program_setting

    program = options.values["program"]
    return (program_setting(program if isinstance(program, str) else None),)


SUBSPACES = Verb(
    "subspaces", "subspaces", _compute, _result, _show, following="report",
    of_reference=False, settings=_settings,
)  # fmt: skip
