"""Processes that work side by side, a fixed number at once, and stop together.

They are forked from a server process that has imported everything, so they start fast and are
independent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from . import terminal_output as terminal
from .errors import reported
from .files import faults_named
from .progress import Steps
from .signals import heeded

SECONDS_SHOWN = 0.5  # between two redraws of the bar
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Report = Callable[[int], None]  # called with the number of steps done


@dataclass(frozen=True)
class Job:
    """The work of one process, in `total` steps; its output goes to `log`.

    `action` runs in the process and must be picklable. `is_done` says that nothing is left to do,
    for example because another machine has done it. The job counts as `weight` on the bar.
    """

    key: int
    name: str
    log: Path
    total: int
    action: Callable[[Report], None]
    is_done: Callable[[], bool]
    weight: int = 1


@dataclass(frozen=True)
class JobExits:
    """The exit codes of the jobs that were begun, by key, and the signal that stopped them all."""

    codes: dict[int, int]
    signal: int | None


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work_off(
    jobs: Sequence[Job],
    at_once: int,
    label: str,
    done: int,
    imports: Sequence[str],
    console: Console,
    after: Callable[[Job], None] = lambda job: None,
) -> JobExits:
    """Do the jobs, `at_once` side by side, behind a bar on which `done` are done before.

    `imports` are modules that all jobs need. `after` is called in this process when a job has
    ended. On Ctrl-C, SIGTERM or SIGHUP every process is asked to stop; a second signal kills them.
    SIGHUP does not count as second, since the end of a session sends several signals.
    """
    workers = _Workers(at_once, imports, after)
    before = {number: signal.signal(number, workers.stop) for number in heeded(STOPPING)}
    try:
        total = done + sum(job.weight for job in jobs)
        with Steps(console, label, total, start=done) as steps:
            for more, at_work in workers.run(jobs):
                steps.to(done + more, at_work)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return JobExits(workers.codes, workers.received)


@dataclass
class _Running:
    """A running job: its process, and the last step that it reported."""

    job: Job
    process: BaseProcess
    step: Any  # a multiprocessing.Value

    @property
    def share(self) -> float:
        """The share of the job's steps that is done."""
        return float(self.step.value / self.job.total)


@dataclass
class _Workers:
    """Processes, a fixed number at once, each for one job."""

    at_once: int
    imports: Sequence[str]
    after: Callable[[Job], None]
    codes: dict[int, int] = field(default_factory=dict)
    received: int | None = None
    _running: list[_Running] = field(default_factory=list)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[float, str]]:
        """Do the jobs; yield now and then the amount done, with fractions, and what runs."""
        queue, done = list(jobs), 0
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(self.imports))
        # The server and its children block signals; jobs unblock them once they begin.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        while self._running or (queue and not self.is_stopped()):
            while queue and len(self._running) < self.at_once and not self.is_stopped():
                job, step = queue.pop(0), context.Value("q", 0, lock=False)
                if job.is_done():
                    done += job.weight
                    continue
                process = context.Process(target=_do, args=(job.action, job.log, step))
                process.start()
                self._running.append(_Running(job, process, step))
                if self.is_stopped():  # a signal came during the start
                    process.terminate()
            wait([worker.process.sentinel for worker in self._running], SECONDS_SHOWN)
            for worker in [worker for worker in self._running if not worker.process.is_alive()]:
                self._running.remove(worker)
                self.codes[worker.job.key] = int(worker.process.exitcode or 0)
                self.after(worker.job)
                done += worker.job.weight
            names = ", ".join(f"{worker.job.name} {worker.share:.0%}" for worker in self._running)
            yield done + sum(worker.share * worker.job.weight for worker in self._running), names

    def is_stopped(self) -> bool:
        """Whether all jobs were asked to stop."""
        return self.received is not None

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Let every process save its state and stop; the second time, kill them."""
        again = self.received is not None and signal.SIGHUP not in (number, self.received)
        self.received = number
        for worker in self._running:
            (worker.process.kill if again else worker.process.terminate)()


def _do(action: Callable[[Report], None], log: Path, step: Any) -> None:
    """Do a job in a separate process, which ends here."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    terminal.make_lasting()

    def report(done: int) -> None:
        step.value = done

    def run() -> None:
        with faults_named(f"write '{log}'"):
            log.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, sys.stdout.fileno())
        os.dup2(opened, sys.stderr.fileno())
        action(report)

    try:
        sys.exit(reported(run))
    finally:
        sys.stdout.flush()  # such a process ends without the usual clean-up
