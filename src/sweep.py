"""What `algomatch sweep` does: the runs of a sweep file on this machine, without a server.

Every cell is a process and a run folder of its own. The processes are forked from one that has
imported everything, so they start at once and are as separate as any others.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from .errors import BusyError, reported
from .files import faults_named, write_file
from .sweep_cells import BUSY, Cell, Outcome, Sweep

SECONDS_SHOWN = 0.5  # between two states of the bar
LOG_WIDTH = 100
STOPPING = (signal.SIGINT, signal.SIGTERM)
SPEED_SECONDS = 600.0  # over which the remaining time is estimated


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_cells(sweep: Sweep, jobs: int, console: Console) -> Outcome:
    """Run what is not finished of a sweep's cells, `jobs` at once; return how they ended.

    A cell that another process works on is left to it: several machines may share a folder. On
    Ctrl-C or SIGTERM the runs save their state and stop; the same call goes on.

    Raises:
        FaultError: the sweep's folder cannot be written.
    """
    with faults_named(f"write into the sweep's folder '{sweep.folder}'"):
        (sweep.folder / "logs").mkdir(parents=True, exist_ok=True)
        write_file(sweep.folder / "sweep.yaml", sweep.file.text.encode())
    workers = _Workers(jobs)
    before = {number: signal.signal(number, workers.stop) for number in STOPPING}
    try:
        with Progress(
            TextColumn("cells"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("remaining"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[at_work]}"),
            console=console,
            transient=True,
            speed_estimate_period=SPEED_SECONDS,
        ) as progress:
            left = [cell for cell in sweep.cells if not cell.finished]
            finished = len(sweep.cells) - len(left)
            bar = progress.add_task("", total=len(sweep.cells), completed=finished, at_work="")
            for done, at_work in workers.run(left):
                progress.update(bar, completed=finished + done, at_work=at_work)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Outcome(sweep, workers.codes, workers.received)


@dataclass
class _Running:
    """A cell that is being run: its process, and the step that it last told."""

    cell: Cell
    process: BaseProcess
    step: Any  # a multiprocessing.Value

    @property
    def share(self) -> float:
        """The share of its steps that is done."""
        return float(self.step.value / self.cell.config.trainer.max_steps)


@dataclass
class _Workers:
    """Processes, so many at once, each for one cell."""

    jobs: int
    codes: dict[int, int] = field(default_factory=dict)
    received: int | None = None
    _running: list[_Running] = field(default_factory=list)

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[float, str]]:
        """Run the cells; yield now and then how many are done, in parts too, and which run."""
        queue, done = list(cells), 0
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([f"{__package__}.experiment"])
        # It and its children have signals blocked: they are for the runs, once these begin.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        while self._running or (queue and not self.is_stopped()):
            while queue and len(self._running) < self.jobs and not self.is_stopped():
                cell, step = queue.pop(0), context.Value("q", 0, lock=False)
                if cell.finished:  # by another machine that shares the folder
                    done += 1
                    continue
                process = context.Process(target=_run_cell, args=(cell, step))
                process.start()
                self._running.append(_Running(cell, process, step))
                if self.is_stopped():  # while it was started
                    process.terminate()
            wait([one.process.sentinel for one in self._running], SECONDS_SHOWN)
            for one in [one for one in self._running if not one.process.is_alive()]:
                self._running.remove(one)
                self.codes[one.cell.index] = int(one.process.exitcode or 0)
                link_records(one.cell)
                done += 1
            names = ", ".join(f"{one.cell.folder.name} {one.share:.0%}" for one in self._running)
            yield done + sum(one.share for one in self._running), names

    def is_stopped(self) -> bool:
        """Whether the sweep was asked to stop."""
        return self.received is not None

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Let every process save its state and stop; the second time, end them at once."""
        again, self.received = self.received is not None, number
        for one in self._running:
            (one.process.kill if again else one.process.terminate)()


def link_records(cell: Cell) -> None:
    """Gather the offline W&B records of the sweep's runs in one folder, for `wandb leet`.

    It is a convenience: where links cannot be made, there are none.
    """
    where = cell.folder.parent / "wandb"
    with suppress(OSError):
        where.mkdir(exist_ok=True)
        for record in (cell.folder / "wandb").glob("offline-run-*"):
            with suppress(FileExistsError):
                (where / record.name).symlink_to(os.path.relpath(record, where))
        for link in where.iterdir():  # of records that a later attempt has taken the place of
            if link.is_symlink() and not link.exists():
                link.unlink(missing_ok=True)


def _run_cell(cell: Cell, step: Any) -> None:
    """Run a cell in a process of its own, which ends here."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    from . import experiment
    from .tracking.wandb_log import end_service

    def report(done: int) -> None:
        step.value = done

    def run() -> None:
        with faults_named(f"write '{cell.log}'"):
            log = os.open(cell.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, sys.stdout.fileno())
        os.dup2(log, sys.stderr.fileno())
        console = Console(file=sys.stdout, width=LOG_WIDTH)
        try:
            experiment.train_or_resume(cell.config, console, report)
        except BusyError as error:
            print(error)
            sys.exit(BUSY)

    try:
        sys.exit(reported(run))
    finally:  # this kind of process ends without the usual clean-up
        sys.stdout.flush()
        end_service()
