"""What is costly to make and the same for runs of one kind: kept for the next of the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class LastResult(Generic[Made]):
    """What was made last, by what it was made of.

    >>> kept = Kept[int]()
    >>> kept.of("one", lambda: 1), kept.of("one", lambda: 2), kept.of("two", lambda: 3)
    (1, 1, 3)
    """

    def __init__(self) -> None:
        self._key, self._made = "", list[Made]()

    def of(self, key: str, make: Callable[[], Made]) -> Made:
        """Return what was made for the key; make it where another was the last."""
        if not self._made or self._key != key:
            self._made = []  # may be large: never two at a time
            self._made, self._key = [make()], key
        return self._made[0]
