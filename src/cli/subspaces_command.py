"""`algomatch subspaces`."""

from __future__ import annotations

from pathlib import Path

from ..infra.errors import UserError
from .analyses import (
    Options,
    are_several,
    each_alone,
    readable_runs,
    refuse_output,
    refuse_settings,
    refuse_several,
    say_where,
)
from .arguments import console
from .options import Again, Checkpoints, Jobs


def subspaces(
    *checkpoints: Checkpoints,
    program: str | None = None,
    output: Path | None = None,
    jobs: Jobs = None,
    again: Again = False,
) -> None:
    """Search a checkpoint for a program's variables in subspaces, beside controls.

    It takes minutes. The search runs on the CPU.

    Args:
        program: whose variables; the task's own program by default
        output: where tables go; RUN/matching by default
    """
    refuse_settings(checkpoints)
    if not checkpoints:
        raise UserError("subspaces takes a checkpoint or run folders: none is given")
    several, screen = are_several(checkpoints), console()
    options = Options({"program": program})
    from ..analysis.results import SUBSPACES
    from ..runs.result_store import save, setting

    settings = (setting("subspaces", () if program is None else (program,)),)
    if several:
        refuse_output(output, "matching")
        each_alone(
            "subspaces", SUBSPACES, readable_runs(checkpoints, screen), "matching", options,
            jobs=jobs, again=again, console=screen, settings=settings,
        )  # fmt: skip
        return
    refuse_several(jobs, again)
    from ..analysis.matching.subspace_result import SubspaceResult
    from ..api.subspaces import subspaces as search
    from ..report.terminal.subspace_tables import print_subspaces
    from ..runs.loaded_run import LoadedRun

    run = LoadedRun.open(checkpoints[0], device="cpu")
    where = output or run.home / "matching"
    searched = search(run, program=program, console=screen)
    if not searched.program:
        screen.print("no subspaces are searched for: the model does not solve the task")
        save(where, SubspaceResult.of(searched, settings, run.task.name))
        return
    print_subspaces(searched, screen)
    folder = save(where, SubspaceResult.of(searched, settings, run.task.name))
    say_where([folder], where, screen)
