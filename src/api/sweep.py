"""`algomatch sweep`: runs a sweep file on this machine, without a server.

Every cell has its own process and its own run folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from rich.console import Console

from ..infra.errors import BusyError
from ..infra.files import faults_named, write_file
from ..infra.processes import Job, Report, work_off
from ..runs.sweep_cells import BUSY, Sweep, SweepCell, SweepOutcome

LOG_WIDTH = 100


def run_cells(sweep: Sweep, jobs: int, console: Console) -> SweepOutcome:
    """Run a sweep's unfinished cells, `jobs` at once; return the outcome.

    Cells that another process works on are skipped: several machines may share a folder. On Ctrl-C
    or SIGTERM the runs save their state and stop; the same call resumes them.

    Raises:
        FaultError: the sweep's folder cannot be written.
    """
    with faults_named(f"write into the sweep's folder '{sweep.folder}'"):
        (sweep.folder / "logs").mkdir(parents=True, exist_ok=True)
        write_file(sweep.folder / "sweep.yaml", sweep.file.text.encode())
    left = [cell for cell in sweep.cells if not cell.finished]
    by_index = {cell.index: cell for cell in left}
    ended = work_off(
        [_job(cell) for cell in left], jobs, "cells", len(sweep.cells) - len(left),
        [f"{__package__}.train"], console, lambda job: link_records(by_index[job.key]),
    )  # fmt: skip
    return SweepOutcome(sweep, ended.codes, ended.signal)


def _job(cell: SweepCell) -> Job:
    return Job(
        cell.index, cell.folder.name, cell.log, cell.config.trainer.max_steps,
        partial(_run_cell, cell), _is_finished(cell),
    )  # fmt: skip


def _is_finished(cell: SweepCell) -> Callable[[], bool]:
    return lambda: cell.finished


def link_records(cell: SweepCell) -> None:
    """Link the offline W&B records of the sweep's runs in one folder, for `wandb leet`.

    This is a convenience; if links cannot be made, they are left out.
    """
    where = cell.folder.parent / "wandb"
    with suppress(OSError):
        where.mkdir(exist_ok=True)
        for record in (cell.folder / "wandb").glob("offline-run-*"):
            with suppress(FileExistsError):
                (where / record.name).symlink_to(os.path.relpath(record, where))
        for link in where.iterdir():  # links to records that a later attempt replaced
            if link.is_symlink() and not link.exists():
                link.unlink(missing_ok=True)


def _run_cell(cell: SweepCell, report: Report) -> None:
    """Run a cell in a process of its own."""
    from ..tracking.wandb_log import end_service
    from .train import train_or_resume

    try:
        console = Console(file=sys.stdout, width=LOG_WIDTH)
        train_or_resume(cell.config, console, report)
    except BusyError as error:
        print(error)
        sys.exit(BUSY)
    finally:  # such a process ends without the usual clean-up
        end_service()
