"""`algomatch sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..infra.errors import FaultError, Interrupted
from .arguments import console, need_at_least
from .options import Settings


def sweep(
    file: Path,
    /,
    *settings: Settings,
    jobs: int | None = None,
    index: int | None = None,
    count: int | None = None,
    seed: int = 0,
    only_list: Annotated[bool, Parameter(name="--list")] = False,
    output: Path | None = None,
) -> None:
    """Train the runs of a sweep file on this machine, without a server.

    Each run of the file (grid or random) has a process and a run folder of its own. If the command
    is stopped, the same command continues. Several machines may share the folder.

    Args:
        file: a sweep file, as `wandb sweep` takes it
        jobs: how many runs are trained at once; as many as cores by default
        index: train only the run with this index, as in an array job
        count: how many runs; the file's run_cap by default
        seed: seed of a random search; 0 by default
        only_list: only list the runs and their states
        output: folder for the runs; runs/FILE by default
    """
    need_at_least(1, jobs=jobs, count=count)
    need_at_least(0, seed=seed)
    from ..api import sweep as sweeps
    from ..config.devices import check_devices
    from ..infra.processes import cores
    from ..runs.sweep_cells import plan

    screen = console()
    planned = plan(file, settings, output, count, seed, index)
    if only_list:
        from ..report.terminal.sweep_outcome import print_cells

        print_cells(planned, screen)
        return
    for cell in planned.cells:
        if not cell.finished:  # a finished run is shown, on whatever machine it was trained
            check_devices(cell.config)
    if index is not None:
        from ..api.train import train_or_resume

        try:
            train_or_resume(planned.cells[0].config, screen)
        finally:
            sweeps.link_records(planned.cells[0])
        return
    at_once = jobs or cores() // max(cell.config.threads for cell in planned.cells) or 1
    if planned.file.ends_early:
        screen.print("early_terminate needs a W&B server: here every run trains to its end")
    outcome = sweeps.run_cells(planned, at_once, screen)
    from ..report.terminal.sweep_outcome import print_sweep

    print_sweep(outcome, screen)
    if outcome.signal is not None:
        raise Interrupted("stopped; the same command continues", outcome.signal)
    if outcome.failed:
        failed = f"{len(outcome.failed)} of {len(planned.cells)} runs failed"
        raise FaultError(f"{failed}; the same command tries them again")
