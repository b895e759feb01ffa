"""Tasks: a program with its vocabulary and lengths, and the registry of the built-in ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..config import TaskConfig, group_names
from ..errors import UserError, one_of
from . import programs
from .programs import Maker, Value

BOS = "BOS"
PAD = "PAD"


@dataclass(frozen=True)
class TaskRow:
    """One registry row: what a task is unless the config says otherwise."""

    make: Maker
    vocabulary: tuple[Value, ...]
    min_length: int = 1
    max_length: int = 5
    causal: bool = False


REGISTRY: dict[str, TaskRow] = {
    "reverse": TaskRow(programs.make_reverse, vocabulary=("a", "b", "c", "d")),
}


@dataclass(frozen=True)
class Task:
    """An input-output map given by a RASP program, over a vocabulary and a range of lengths."""

    name: str
    program: Any
    vocabulary: tuple[Value, ...]
    min_length: int
    max_length: int
    causal: bool = False

    @property
    def variables(self) -> dict[str, Any]:
        """The program's variables, name to s-op, the output last."""
        return programs.variables(self.program)

    @property
    def lengths(self) -> range:
        """The input lengths, shortest first."""
        return range(self.min_length, self.max_length + 1)

    @property
    def n_ctx(self) -> int:
        """Positions of an encoded input: BOS and the longest list."""
        return self.max_length + 1

    @property
    def n_inputs(self) -> int:
        """How many different inputs there are, over all lengths."""
        return sum(len(self.vocabulary) ** length for length in self.lengths)


def make_task(config: TaskConfig) -> Task:
    """Return the configured Task, the registry row filling what the config leaves open.

    The row is that of `program`, by default of `name`: a control condition has a name of its own.

    Raises:
        UserError: unknown name, or vocabulary and lengths that make no task.
    """
    program_name = config.program or config.name
    if program_name not in REGISTRY:
        choices = REGISTRY if config.program else {*REGISTRY, *group_names("task")}
        raise UserError(f"unknown task '{program_name}': {one_of(program_name, choices)}")
    row = REGISTRY[program_name]
    vocabulary = tuple(row.vocabulary if config.vocabulary is None else config.vocabulary)
    max_length = row.max_length if config.max_length is None else config.max_length
    min_length = row.min_length if config.min_length is None else config.min_length
    for message in _problems(config, vocabulary, min_length, max_length):
        raise UserError(message)
    program = programs.call_maker(row.make, vocabulary, max_length)
    return Task(config.name, program, vocabulary, min_length, max_length, row.causal)


def _problems(
    config: TaskConfig, vocabulary: tuple[Any, ...], shortest: int, longest: int
) -> Iterator[str]:
    given = f"task.vocabulary=[{', '.join(map(str, vocabulary))}]"
    if not all(isinstance(token, (str, int, float)) for token in vocabulary):
        yield f"{given}: tokens must be strings or numbers"
    elif any(token != token for token in vocabulary):
        yield f"{given}: a token must equal itself, not nan"
    elif len(vocabulary) < 2:
        yield f"{given} must have at least 2 tokens"
    elif min(len(set(vocabulary)), len({*map(str, vocabulary)})) < len(vocabulary):
        yield f"{given} must not repeat a token, not even as a text and as a number"
    elif reserved := {BOS, PAD} & set(vocabulary):
        yield f"{given} must not hold the reserved {', '.join(sorted(map(str, reserved)))}"
    if shortest > longest:
        yield f"task.min_length={shortest} must not exceed task.max_length={longest}"
    outside = [n for n in config.held_out_lengths if not shortest <= n <= longest]
    if outside:
        yield f"task.held_out_lengths={outside} must be among the lengths {shortest} to {longest}"
    if not set(range(shortest, longest + 1)) - set(config.held_out_lengths):
        yield f"task.held_out_lengths={config.held_out_lengths} leaves no length to train on"
