"""A command for several runs: each is done alone, side by side, and finished ones are skipped.

A run counts as done if its results exist, by checkpoint and settings.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from ..analysis.results import Key
from ..infra.errors import FaultError, Interrupted, UserError
from ..infra.files import faults_named, last_words
from ..infra.processes import Job, JobExits, Report, work_off
from ..runs.result_store import adopt, gather_tables, is_gathered, is_there
from ..runs.run_folder import RunFolder

LOG = "log.txt"  # the command's output
TOGETHER = 5  # runs of one process, which share the preparation for their task and architecture
NOT_ENDED = -1  # in place of an exit code
MOST_TOLD = 5  # failures that are shown, each with its last line

Main = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Work:
    """A run, the folder of its results, the command's options, and the keys of the results."""

    run: RunFolder
    where: Path
    options: tuple[str, ...]
    keys: tuple[Key, ...]

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.run.path.name

    @property
    def is_done(self) -> bool:
        """Whether all results that the command would make exist."""
        return bool(self.keys) and all(is_there(self.where, key) for key in self.keys)


@dataclass(frozen=True)
class _Part:
    """The job of one process: some runs, and the command's exit code for each once it ended."""

    works: Sequence[Work]
    codes: ctypes.Array[ctypes.c_longlong]


def call_for_each(
    command: str, works: Sequence[Work], jobs: int, again: bool, main: Main, console: Console
) -> None:
    """Call `main` with the command, a run and its options, for all undone runs side by side.

    With `again`, runs that are done are repeated.

    Raises:
        UserError: the command refused every run.
        FaultError: some runs failed; the results of the others exist.
        Interrupted: a signal stopped it.
    """
    for work in works:
        with suppress(OSError, FaultError):  # the run reports this itself and does not stop others
            for what in dict.fromkeys(key.kind for key in work.keys):
                adopt(work.where, what)
    left = [work for work in works if again or not work.is_done]
    lacking = [(work, why) for work in works if work not in left and (why := _not_gathered(work))]
    parts = [_Part(some, get_context("forkserver").Array("q", [NOT_ENDED] * len(some), lock=False))
             for some in _together(left)]  # fmt: skip
    ended = work_off(
        [_job(key, command, part, main, again) for key, part in enumerate(parts)],
        jobs, "runs", len(works) - len(left), [f"{__package__}.{command}"], console,
    )  # fmt: skip
    for key, part in enumerate(parts):
        for work, code in zip(part.works, part.codes, strict=True):
            if _is_lacking(work, code, key, ended, again):
                lacking.append((work, last_words(work.where / LOG)))
    _tell(command, works, left, lacking, ended, console)


def _not_gathered(work: Work) -> str:
    """Gather the tables of done runs that are not gathered; return the reasons for failures."""
    from .keeping import draw_gathered

    try:
        for key in {key.kind: key for key in work.keys}.values():
            if is_gathered(work.where, key):
                continue
            gather_tables(work.where, key)
            draw_gathered(work.where, key.kind)
    except OSError as error:
        return f"its tables cannot be collected: {error.strerror or error} ({work.where})"
    except FaultError as error:
        return str(error)
    return ""


def _is_lacking(work: Work, code: int, key: int, ended: JobExits, again: bool) -> bool:
    """Return whether a run was not done: its results were there before, or its command failed.

    `code` is the command's exit code for the run; `key` is that of the process, which may have been
    killed before.
    """
    if not work.is_done:
        return True
    if ended.signal is not None:
        return again and code != 0
    if code == NOT_ENDED:
        return again or ended.codes.get(key, 0) != 0
    return code != 0


def _together(works: Sequence[Work]) -> Iterator[list[Work]]:
    """Yield a few runs of one task and architecture at a time."""

    def kind(work: Work) -> str:
        return repr((work.run.config.task, work.run.config.model))

    for _, group in groupby(sorted(works, key=kind), key=kind):
        some = list(group)
        yield from (some[i : i + TOGETHER] for i in range(0, len(some), TOGETHER))


def _job(key: int, command: str, part: _Part, main: Main, again: bool) -> Job:
    works = part.works
    return Job(
        key, f"{works[0].name}{f' and {len(works) - 1} more' if len(works) > 1 else ''}",
        works[0].where / LOG, len(works), partial(_do, command, part, main),
        lambda: not again and all(work.is_done for work in works), len(works),
    )  # fmt: skip


def _do(command: str, part: _Part, main: Main, report: Report) -> None:
    """Do some runs, one after another, in a process of its own."""
    from ..tracking.wandb_log import end_service

    worst = 0
    try:
        for number, work in enumerate(part.works):
            with faults_named(f"write '{work.where / LOG}'"):
                work.where.mkdir(parents=True, exist_ok=True)
                log = os.open(work.where / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, sys.stdout.fileno())
            os.dup2(log, sys.stderr.fileno())
            os.close(log)
            code = main([command, str(work.run.path), *work.options])
            sys.stdout.flush()
            part.codes[number] = code
            if code >= 128:  # stopped by a signal
                sys.exit(code)
            worst = max(worst, code)
            report(number + 1)
    finally:
        end_service()
    sys.exit(worst)


def _tell(
    command: str,
    works: Sequence[Work],
    left: Sequence[Work],
    lacking: Sequence[tuple[Work, str]],
    ended: JobExits,
    console: Console,
) -> None:
    """Print what was done and where it is; raise what failed, with the reasons in `lacking`."""
    done = len(left) - sum(work in left for work, _ in lacking)
    lines = [f"{len(works)} runs: {done} done, {len(works) - len(left)} already done"]
    if lacking:
        lines[0] += f", {len(lacking)} {'left' if ended.signal else 'failed'}"
    if lacking and ended.signal is None:
        lines += [f"! {work.name}: {why}" for work, why in lacking[:MOST_TOLD]]
    lines.append(f"results of each run, and what it printed: RUN/{works[0].where.name}")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    if ended.signal is not None:
        raise Interrupted("stopped; the same command continues", ended.signal)
    if lacking and set(ended.codes.values()) == {UserError.exit_code} and not done:
        raise UserError(f"no run can be given to {command}: see above")
    if lacking:
        raise FaultError(
            f"{len(lacking)} of {len(works)} runs failed; the same command tries them again"
        )
