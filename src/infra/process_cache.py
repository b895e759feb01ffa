"""A cache of one value that is costly to make and the same for similar runs of a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class LastResult(Generic[Made]):
    """What was made last, by what it was made of.

    >>> kept = LastResult[int]()
    >>> kept.of("one", lambda: 1), kept.of("one", lambda: 2), kept.of("two", lambda: 3)
    (1, 1, 3)
    """

    def __init__(self) -> None:
        self._key, self._made = "", list[Made]()

    def of(self, key: str, make: Callable[[], Made]) -> Made:
        """Return the value for the key; make it if the last value had another key."""
        if not self._made or self._key != key:
            self._made = []  # freed first: values may be large
            self._made, self._key = [make()], key
        return self._made[0]
