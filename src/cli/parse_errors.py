"""The error for a command line that cannot be parsed: one line, with the nearest name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cyclopts import App
from cyclopts.exceptions import (
    CoercionError,
    ConsumeMultipleError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from ..infra.errors import UserError, first_line, one_of

KINDS = {int: "a whole number", float: "a number"}
# What `match` did by an option is a command of its own.
MOVED = {
    "--controls": "match-controls",
    "--subspaces": "subspaces",
    "--encoder": "match-model",
    "--reader": "match-model",
}
FLAGS = ("--controls", "--subspaces")  # options without a value


def refuse_moved(words: Sequence[str]) -> None:
    """Name the new command for what was an option of `match`.

    Raises:
        UserError: the words have such an option.
    """
    if words[:1] != ["match"]:
        return
    for word in words:
        if new := MOVED.get(option := word.partition("=")[0]):
            from ..config.printed_commands import command

            again = command(new, *(word for word in words[1:] if word not in FLAGS))
            raise UserError(f"`match {option}` is a command of its own now: `{again}`")


def explained(error: CycloptsError, app: App) -> UserError:
    """Return what is wrong with a command line as one line."""
    chain = " ".join(("algomatch", *(error.command_chain or ())))
    return UserError(f"{_what(error, app)} (see `{chain} --help`)")


def _what(error: CycloptsError, app: App) -> str:
    match error:
        case UnknownOptionError():
            given = error.token.keyword or error.token.value
            names = {name for argument in error.argument_collection for name in argument.names}
            return _unknown_option(given, names)
        case UnknownCommandError():
            given, names = (error.unused_tokens or [""])[0], {*app}
            if given.startswith("-"):
                return _unknown_option(given, names)
            commands = [name for name in names if not name.startswith("-")]
            return f"unknown command '{given}': {one_of(given, commands)}"
        case ConsumeMultipleError():
            return f"{error.keyword}: expected at least one argument"
        case MissingArgumentError() if error.keyword is not None:
            return f"{error.keyword}: expected one argument"
        case MissingArgumentError() if error.argument is not None:
            return f"{error.argument.name} is missing"
        case CoercionError() if error.token is not None and error.target_type in KINDS:
            must = KINDS[error.target_type]
            return f"{error.token.keyword} {error.token.value} must be {must}"
        case RepeatArgumentError():
            return f"{error.token.keyword} is given twice"
        case UnusedCliTokensError() if error.unused_tokens:
            return f"unexpected argument '{error.unused_tokens[0]}'"
    error.verbose = False
    return first_line(error)


def _unknown_option(given: str, names: Iterable[str]) -> str:
    option = given.partition("=")[0]
    known = {"help", *(name.removeprefix("--") for name in names if name.startswith("--"))}
    return f"unknown option '{option}': {one_of(option.removeprefix('--'), known, prefix='--')}"
