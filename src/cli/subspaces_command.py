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
        program: the program whose variables are searched for; the task's own by default
        output: folder for tables; RUN/matching by default
    """
    refuse_settings(checkpoints)
    if not checkpoints:
        raise UserError("subspaces takes a checkpoint or run folders: none is given")
    several, screen = are_several(checkpoints), console()
    options = Options({"program": program})
    from ..runs.result_store import SUBSPACES, setting

    settings = (setting("subspaces", () if program is None else (program,)),)
    if several:
        refuse_output(output, "matching")
        each_alone(
            "subspaces", SUBSPACES, readable_runs(checkpoints, screen), "matching", options,
            jobs=jobs, again=again, console=screen, settings=settings,
        )  # fmt: skip
        return
    refuse_several(jobs, again)
    from ..api.subspaces import subspaces as search
    from ..report.terminal.subspace_tables import keep_subspaces, print_subspaces
    from ..runs.loaded_run import LoadedRun

    run = LoadedRun.open(checkpoints[0], device="cpu")
    where = output or run.home / "matching"
    searched = search(run, program=program, console=screen)
    if not searched.program:
        screen.print("no subspaces are searched for: the model does not solve the task")
        keep_subspaces(searched, where, settings)
        return
    print_subspaces(searched, screen)
    say_where([keep_subspaces(searched, where, settings)], where, screen)
