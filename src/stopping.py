"""Signals that ask for a stop: noted when they come, acted on where nothing is lost by it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """Whether a run was asked to stop, by Ctrl-C, SIGTERM or SIGUSR1.

    A second Ctrl-C interrupts at once; what was saved before stays whole. SIGUSR1 says that the
    machine is taken away, as cluster schedulers do ahead of time.
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
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received != signal.SIGUSR1:  # a scheduler may send SIGTERM after it
            self.received = number
        self._say("stopping as soon as the state is saved (Ctrl-C again stops at once)")


def end_by(number: int) -> None:
    """End this process by a signal, as if it had not been noted: whoever waits for it sees that."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
