"""The type checker that checks shapes while tests run: beartype, taking an int for a float.

A function within a function is made anew at every call, and the checker with it: in the
interpreter's loops that took longer than what was checked. So these are left unchecked.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(one: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that checks its arguments and what it returns."""
    return one if "<locals>" in one.__qualname__ else _checked(one)
