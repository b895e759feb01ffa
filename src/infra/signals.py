"""Signals that request a stop: noted when they arrive, acted on when nothing would be lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Stop:
    """A request to stop a run, by Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP.

    A second Ctrl-C interrupts at once; saved files stay whole. SIGUSR1 means that a cluster
    scheduler is about to take the machine away. SIGHUP means that the terminal was closed; it is
    ignored if the run was started with `nohup`.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self.received: int | None = None

    @contextmanager
    def taken(self, numbers: Sequence[int] = SIGNALS) -> Iterator[None]:
        """Handle the signals within the context; then restore the earlier handlers."""
        before = {number: signal.getsignal(number) for number in numbers}
        try:
            self.take(numbers)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take(self, numbers: Sequence[int] = SIGNALS) -> None:
        """Handle the signals, also if a library has replaced the handlers since."""
        for number in heeded(numbers):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received != signal.SIGUSR1:  # a scheduler may send SIGTERM after it
            self.received = number
        self._say("stopping as soon as the state is saved (Ctrl-C again stops at once)")


def heeded(numbers: Sequence[int]) -> list[int]:
    """Return the signals, without SIGHUP if it is ignored, as `nohup` sets it."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in numbers if number != signal.SIGHUP or not ignored]


def end_by(number: int) -> None:
    """End this process by a signal with its default action, so that the parent process sees it."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
