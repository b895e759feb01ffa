"""Errors that a user sees as one line instead of a traceback, and suggestions in them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable

LONGEST_SHOWN = 40  # characters of a value in an error


class UserError(Exception):
    """The user's request cannot be done; the message says what to change."""

    exit_code = 2


class FolderExistsError(UserError):
    """The folder of a new run exists already."""


class BusyError(UserError):
    """Another process works on the same run."""


class FaultError(Exception):
    """The machine, the numbers or a service failed; nothing complete was damaged."""

    exit_code = 1


class NotFiniteError(FaultError):
    """A loss, a weight or an output is infinite or not a number: training diverged."""


class Interrupted(Exception):  # noqa: N818 (not an error)
    """A signal stopped the work; it is saved, and the message says how to resume."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def reported(action: Callable[[], None]) -> int:
    """Run an action; print an expected failure as one line, and return the exit code.

    The code is 0, 1 for a fault, 2 for a user's mistake, 128 + the signal's number for an
    interruption.
    """
    try:
        action()
    except (UserError, FaultError, Interrupted) as error:
        print(f"algomatch: {' '.join(_lines(error))}", file=sys.stderr)
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        print(f"algomatch: not enough memory: {first_line(error)}", file=sys.stderr)
        return FaultError.exit_code
    except KeyboardInterrupt:
        print("algomatch: interrupted", file=sys.stderr)
        return 130
    return 0


def _lines(error: BaseException) -> list[str]:
    """Return an error's lines; blanks within a line stay, since a path or command may have them."""
    return [line.strip() for line in str(error).splitlines() if line.strip()]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def refuse_texts(**given: object) -> None:
    """Refuse a text for a list of texts: Python would take its letters.

    Raises:
        UserError: an argument is one.
    """
    for name, value in given.items():
        if isinstance(value, str):
            raise UserError(f"{name}={value!r}: give a list, as [{value!r}]")


def need_kind(value: object, kind: type | tuple[type, ...], takes: str) -> None:
    """Refuse an argument of another kind than a function takes; `takes` says what that is.

    Raises:
        UserError: it is of another kind.
    """
    if not isinstance(value, kind):
        shown = repr(value)
        if len(shown) > LONGEST_SHOWN or shown.startswith("<"):
            shown = f"an object of type {type(value).__name__}"
        raise UserError(f"{takes}, not {shown}")


def one_of(value: object, choices: Iterable[object], prefix: str = "") -> str:
    """Return "did you mean ...?" (if a choice is close) and the valid choices.

    A prefix is put before the choices; it makes none of them closer.

    >>> one_of("revers", ["sort", "reverse"])
    "did you mean 'reverse'? valid: reverse, sort"
    >>> one_of("x", ["sort", "reverse"])
    'valid: reverse, sort'
    >>> one_of("al", ["all", "help"], prefix="--")
    "did you mean '--all'? valid: --all, --help"
    """
    names = sorted(str(choice) for choice in choices)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"did you mean '{prefix}{near[0]}'? " if near else ""
    return f"{hint}valid: {', '.join(f'{prefix}{name}' for name in names)}"
