"""Signals that ask for a stop: noted when they come, acted on where nothing is lost by it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Stop:
    """Whether a run was asked to stop, by Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP.

    A second Ctrl-C interrupts at once; what was saved before stays whole. SIGUSR1 says that the
    machine is taken away, as cluster schedulers do ahead of time; SIGHUP that the terminal is
    closed, unless the run was started to outlive it (`nohup`).
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self.received: int | None = None

    @contextmanager
    def taken(self, numbers: Sequence[int] = SIGNALS) -> Iterator[None]:
        """Take the signals over for a while; then they are what they were before."""
        before = {number: signal.getsignal(number) for number in numbers}
        try:
            self.take(numbers)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take(self, numbers: Sequence[int] = SIGNALS) -> None:
        """Take the signals over, also from a library that took them since."""
        for number in heeded(numbers):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received != signal.SIGUSR1:  # a scheduler may send SIGTERM after it
            self.received = number
        self._say("stopping as soon as the state is saved (Ctrl-C again stops at once)")


def heeded(numbers: Sequence[int]) -> list[int]:
    """Return the signals but SIGHUP where it is ignored: `nohup` says so for all that it starts."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in numbers if number != signal.SIGHUP or not ignored]


def end_by(number: int) -> None:
    """End this process by a signal, as if it had not been noted: whoever waits for it sees that."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
