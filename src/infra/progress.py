"""Progress of long commands: bars on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

SECONDS = 30.0  # between two lines, if there is no terminal
LEAST = 1.0  # seconds after which the remaining time is estimated

Told = Callable[[int, int], None]  # called with the number done and the total
Item = TypeVar("Item")


@dataclass
class _Part:
    """A part of the work that is under way, and its progress."""

    name: str
    weight: int
    bar: TaskID | None
    done: int = 0
    total: int | None = None

    @property
    def share(self) -> float:
        """The share of the part that is done."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    def __str__(self) -> str:
        return f"{self.name} {self.done:,} of {self.total:,}" if self.total else self.name


class Steps:
    """Shows a long command's progress, its current parts, and the estimated remaining time.

    On a terminal it is a live bar, elsewhere a line every `every` seconds. Without a console
    nothing is shown. `start` of `total` steps were done before.
    """

    def __init__(
        self,
        console: Console | None,
        what: str,
        total: int,
        start: float = 0,
        every: float = SECONDS,
    ):
        self._console, self._what, self._total, self._every = console, what, total, every
        self._start = self._done = start
        self._note = ""
        self._parts: list[_Part] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._bars: Progress | None = None
        if console is not None and console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(),
                MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("{task.fields[more]}", markup=False), console=console, transient=True,
            )  # fmt: skip

    def __enter__(self) -> Steps:
        self._begun = time.monotonic()
        if self._bars is not None:
            self._bars.start()
            self._whole = self._bars.add_task(
                self._what, total=self._total, completed=int(self._start), more=""
            )
        elif self._console is not None:
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def part(self, name: str, weight: int = 1) -> Iterator[Told]:
        """Do a part of the work, `weight` of the total; yield a function that takes progress."""
        bar = None
        if self._bars is not None:
            bar = self._bars.add_task(name, total=None, more="")
        part = _Part(name, weight, bar)
        self._parts.append(part)

        def told(done: int, total: int) -> None:
            part.done, part.total = done, total
            if self._bars is not None and bar is not None:
                self._bars.update(bar, completed=done, total=total)
            self._show()

        try:
            yield told
        finally:
            self._parts.remove(part)
            if self._bars is not None and bar is not None:
                self._bars.remove_task(bar)
            self._done += weight
            self._show()

    def each(self, items: Sequence[Item], name: Callable[[Item], str]) -> Iterator[Item]:
        """Yield the items; the work on each is one part."""
        for item in items:
            with self.part(name(item)):
                yield item

    def to(self, done: float, note: str = "") -> None:
        """Set the number of steps done, and a note to show."""
        self._done, self._note = done, note
        self._show()

    @property
    def done(self) -> float:
        """The number of steps done, including shares of the parts under way."""
        return self._done + sum(part.share * part.weight for part in self._parts)

    def _show(self) -> None:
        if self._bars is not None:
            self._bars.update(self._whole, completed=self.done, more=self._more())

    def _more(self) -> str:
        left = self._left()
        return ", ".join(part for part in (self._note, left and f"{left} left") if part)

    def _left(self) -> str:
        """Return the estimated remaining time; empty if it is not known yet."""
        gone = time.monotonic() - self._begun
        made, rest = self.done - self._start, self._total - self.done
        if gone < LEAST or made <= 0 or rest <= 0:
            return ""
        return f"about {lasting(gone * rest / made)}"

    def _tell(self) -> None:
        """Print a line now and then until the work has ended."""
        assert self._console is not None
        while not self._ended.wait(self._every):
            gone = lasting(time.monotonic() - self._begun)
            doing = [str(part) for part in list(self._parts)]
            parts = [f"{int(self.done):,} of {self._total:,}", *doing, f"{gone} gone", self._more()]
            line = f"{self._what}: {', '.join(part for part in parts if part)}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def stage(told: Told, number: int, count: int) -> Told:
    """Return the progress function of one of `count` stages of a part, of about equal length."""

    def of_stage(done: int, total: int) -> None:
        told(number * total + done, count * total)

    return of_stage


def lasting(seconds: float) -> str:
    """Return a duration in words.

    >>> lasting(42.2), lasting(150), lasting(7300)
    ('42 s', '2.5 min', '2.0 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
