"""Tasks: programs with their vocabulary and lengths, and the registry of the built-in ones."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tracr.rasp import rasp

from ..config.composition import group_names, names_file, split_place
from ..config.schema import TaskConfig
from ..infra.errors import UserError, first_line, one_of
from . import programs
from .interpreter import Value
from .rasp import text as rasp_text
from .user_functions import load_function, where_raised

BOS = "BOS"
PAD = "PAD"
UNIQUE, NONE = "unique", "none"  # values of task.restrict, besides a function
ASKED_FOR = ("vocabulary", "min_length", "max_length")  # what a maker may ask for

Maker = Callable[..., Any]


@dataclass(frozen=True)
class TaskRow:
    """One registry row: what a task is unless the config says otherwise."""

    make: Maker
    about: str
    vocabulary: tuple[Value, ...]
    min_length: int = 1
    max_length: int = 5
    alternatives: tuple[Maker, ...] = ()
    causal: bool = False
    unique: bool = False


LETTERS = ("a", "b", "c", "d")
DIGITS = (1, 2, 3, 4)

REGISTRY: dict[str, TaskRow] = {
    "reverse": TaskRow(
        programs.make_reverse,
        "the list backwards",
        LETTERS,
        alternatives=(
            programs.make_reverse_by_counting,
            programs.make_reverse_by_position,
        ),
    ),
    "length": TaskRow(
        programs.make_length,
        "how long the list is, at every position",
        LETTERS,
        alternatives=(programs.make_length_by_vocabulary,),
    ),
    "palindrome": TaskRow(
        programs.make_palindrome,
        "whether the list reads the same backwards, at every position",
        ("a", "b", "c"),
        max_length=6,
        alternatives=(programs.make_palindrome_by_pairs,),
    ),
    "hist": TaskRow(
        programs.make_hist,
        "how often this token occurs",
        LETTERS,
        alternatives=(
            programs.make_hist_by_vocabulary,
            programs.make_hist_by_share,
        ),
    ),
    "double_hist": TaskRow(
        programs.make_double_hist,
        "how many different tokens occur as often as this one",
        LETTERS,
        alternatives=(programs.make_double_hist_by_division,),
    ),
    "count": TaskRow(
        programs.make_count,
        "how often the first vocabulary token occurs, at every position",
        LETTERS,
        alternatives=(programs.make_count_by_running,),
    ),
    "parity": TaskRow(
        programs.make_parity,
        "whether the number of first vocabulary tokens is odd, at every position",
        ("a", "b", "c"),
        max_length=6,
        alternatives=(programs.make_parity_by_halves,),
    ),
    "first_occurrence": TaskRow(
        programs.make_first_occurrence,
        "whether this token has not occurred before",
        LETTERS,
        alternatives=(programs.make_first_occurrence_by_vocabulary,),
    ),
    "rank": TaskRow(
        programs.make_rank,
        "how many tokens are smaller than this one",
        DIGITS,
        alternatives=(programs.make_rank_by_others,),
    ),
    "sort": TaskRow(
        programs.make_sort,
        "the tokens in ascending order",
        DIGITS,
        alternatives=(programs.make_sort_by_counting,),
    ),
    "sort_unique": TaskRow(
        programs.make_sort_unique,
        "different tokens in ascending order",
        (1, 2, 3, 4, 5, 6),
        alternatives=(programs.make_sort_unique_by_larger,),
        unique=True,
    ),
    "sort_freq": TaskRow(
        programs.make_sort_freq,
        "the tokens in descending frequency, ties in input order",
        LETTERS,
        alternatives=(programs.make_sort_freq_by_parts,),
    ),
    "most_freq": TaskRow(
        programs.make_most_freq,
        "the most frequent token, at every position; of several, the first in the vocabulary",
        LETTERS,
        alternatives=(programs.make_most_freq_by_vocabulary,),
    ),
    "frac_prevs": TaskRow(
        programs.make_frac_prevs,
        "the share of the tokens so far that are the first vocabulary token",
        LETTERS,
        alternatives=(programs.make_frac_prevs_by_counting,),
    ),
    "pair_balance": TaskRow(
        programs.make_pair_balance,
        "the share of opens minus the share of closes so far",
        ("(", ")", "a"),
        max_length=6,
        alternatives=(programs.make_pair_balance_by_counting,),
    ),
    "share_of_last": TaskRow(
        programs.make_share_of_last,
        "the share of the tokens that are the last one, at every position",
        LETTERS,
        alternatives=(programs.make_share_of_last_by_counting,),
    ),
    "shuffle_dyck": TaskRow(
        programs.make_shuffle_dyck,
        "whether the brackets are balanced, at every position",
        ("(", ")"),
        max_length=8,
        alternatives=(programs.make_shuffle_dyck_by_depth,),
    ),
    "shuffle_dyck2": TaskRow(
        programs.make_shuffle_dyck2,
        "whether two shuffled kinds of brackets are each balanced, at every position",
        ("(", ")", "{", "}"),
        alternatives=(programs.make_shuffle_dyck2_by_depth,),
    ),
    "previous_token": TaskRow(
        programs.make_previous_token,
        "the token before this one",
        LETTERS,
        alternatives=(programs.make_previous_token_by_sending,),
        causal=True,
    ),
    "shift_by": TaskRow(
        programs.make_shift_by,
        "the token two positions earlier",
        LETTERS,
        alternatives=(programs.make_shift_by_by_steps,),
    ),
    "detect_pattern": TaskRow(
        programs.make_detect_pattern,
        "whether the first two vocabulary tokens, in this order, end here",
        LETTERS,
        alternatives=(programs.make_detect_pattern_by_flags,),
    ),
    "contains": TaskRow(
        programs.make_contains,
        "whether the first vocabulary token is directly followed by the second, anywhere",
        LETTERS,
        alternatives=(programs.make_contains_by_positions,),
    ),
    "induction": TaskRow(
        programs.make_induction,
        "the token after the latest previous occurrence of this one",
        LETTERS,
        alternatives=(programs.make_induction_by_pointer,),
        causal=True,
    ),
}


@dataclass(frozen=True)
class Task:
    """An input-output map given by RASP programs, over a vocabulary and a range of lengths.

    `program` is the reference program; `alternatives` should compute the same map. With `unique`,
    no input has a token twice; `accepts`, if given, decides which lists are inputs. `tolerance` is
    the largest error of a right numerical output; if None, it follows from the output's values.
    `algorithms` describes each program's algorithm, by program name.
    """

    name: str
    program: Any
    vocabulary: tuple[Value, ...]
    min_length: int
    max_length: int
    causal: bool = False
    unique: bool = False
    accepts: Callable[[list[Value]], bool] | None = None
    tolerance: float | None = None
    alternatives: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    algorithms: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def variables(self) -> dict[str, Any]:
        """The program's variables, name to s-op, the output last."""
        return rasp_text.variables(self.program)

    @property
    def lengths(self) -> range:
        """The input lengths, shortest first."""
        return range(self.min_length, self.max_length + 1)

    @property
    def n_ctx(self) -> int:
        """The number of positions of an encoded input: BOS and the longest list."""
        return self.max_length + 1

    def count(self, length: int) -> int:
        """Return the number of lists of a length, before `accepts` is applied."""
        size = len(self.vocabulary)
        return math.perm(size, length) if self.unique else size**length

    def with_program(self, name: str) -> Task:
        """Return the task with one of its alternatives as its program."""
        return replace(self, name=name, program=self.alternatives[name], alternatives={})


def task_names() -> list[str]:
    """Return all task names: the registered tasks, and their shipped control conditions."""
    return [*REGISTRY, *(name for name in group_names("task") if name not in REGISTRY)]


def other_tasks(task: Task) -> Iterator[Task]:
    """Yield the registered programs as tasks over the vocabulary and lengths of another task.

    Left out are programs that cannot be made for these, and the programs of the task itself.
    """
    available = dict(
        zip(ASKED_FOR, (list(task.vocabulary), task.min_length, task.max_length), strict=True)
    )
    own = {task.program.name, *task.alternatives}
    for name, row in REGISTRY.items():
        if own & {name, *map(_name, (row.make, *row.alternatives))}:
            continue
        try:
            program = _call(row.make, available)
        except UserError:
            continue
        if program is not None:
            yield replace(
                task, name=name, program=program, alternatives={}, about=row.about, algorithms={},
                tolerance=None,
            )  # fmt: skip


def make_task(config: TaskConfig) -> Task:
    """Return the configured Task; the registry row supplies defaults for unset fields.

    The program is `program`, by default `name`: a registered task, an alternative's name, or
    `path.py:function`. A control condition has a name of its own.

    >>> task = make_task(TaskConfig("reverse", max_length=4))
    >>> task.max_length, list(task.alternatives)
    (4, ['reverse_by_counting'])

    Raises:
        UserError: the name is unknown, the maker returns no program, or the vocabulary and lengths
            make no task.
    """
    row = _row(config)
    vocabulary = tuple(row.vocabulary if config.vocabulary is None else config.vocabulary)
    max_length = row.max_length if config.max_length is None else config.max_length
    min_length = row.min_length if config.min_length is None else config.min_length
    unique = row.unique if config.restrict is None else config.restrict == UNIQUE
    for message in _problems(config, vocabulary, min_length, max_length, unique):
        raise UserError(message)
    available = dict(zip(ASKED_FOR, (list(vocabulary), min_length, max_length), strict=True))
    program = _call(row.make, available)
    if program is None:
        raise UserError(
            f"task '{config.name}': {_name(row.make)} returned None: it must return an s-op, here "
            f"for lists of {min_length} to {max_length} tokens"
        )
    others = list(_alternatives(config, row))
    names = [_name(make) for make in (row.make, *others)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"task.alternatives: two programs are called '{twice[0]}'")
    alternatives = {_name(make): _call(make, available) for make in others}
    return Task(
        name=config.name,
        program=program,
        vocabulary=vocabulary,
        min_length=min_length,
        max_length=max_length,
        causal=row.causal if config.causal is None else config.causal,
        unique=unique,
        accepts=_predicate(config),
        tolerance=config.tolerance,
        alternatives={name: sop for name, sop in alternatives.items() if sop is not None},
        about=row.about if config.causal in (None, row.causal) else "",
        algorithms={_name(make): _first_sentence(make) for make in (row.make, *others)},
    )


def task_of(
    program: Any,
    vocabulary: Sequence[Value],
    max_length: int,
    min_length: int = 1,
    *,
    name: str = "program",
    causal: bool = False,
    alternatives: Mapping[str, Any] | None = None,
) -> Task:
    """Return a RASP program as a Task over all lists of a vocabulary and some lengths.

    `alternatives` are programs, by name, that should compute the same map. In a `causal` task no
    position attends to a later one.

    Raises:
        UserError: it is not an s-op, or the vocabulary and lengths make no task.

    >>> task_of(rasp.Map(lambda token: token == "a", rasp.tokens), ["a", "b"], 3).lengths
    range(1, 4)
    """
    if not isinstance(program, rasp.SOp):
        raise UserError(
            f"a program must be an s-op (rasp.SOp), not {_kind(program)}{_s_op_of(program)}"
        )
    if min_length < 1:
        raise UserError(f"task.min_length={min_length} must be at least 1")
    for message in _problems(TaskConfig(name), vocabulary, min_length, max_length, unique=False):
        raise UserError(message)
    return Task(
        name=name,
        program=program,
        vocabulary=tuple(vocabulary),
        min_length=min_length,
        max_length=max_length,
        causal=causal,
        alternatives=alternatives or {},
    )


def _programs() -> dict[str, tuple[TaskRow, Maker]]:
    """Return every registered program by its name: tasks' and alternatives'."""
    programs = {name: (row, row.make) for name, row in REGISTRY.items()}
    for row in REGISTRY.values():
        programs |= {_name(make): (row, make) for make in row.alternatives}
    return programs


def _row(config: TaskConfig) -> TaskRow:
    """Return the registry row of the configured program; an alternative becomes the reference."""
    name = config.program or config.name
    if names_file(name):
        make = load_function(name)
        if config.vocabulary is None:
            raise UserError(
                f"task '{config.name}' needs its vocabulary, as in 'task.vocabulary=[0,1,2]' "
                f"(or in {split_place(name)[0].with_suffix('.yaml').name} beside it)"
            )
        return TaskRow(make, about="", vocabulary=())
    known = _programs()
    if name not in known:
        choices = known if config.program else task_names()
        raise UserError(
            f"unknown task '{name}': {one_of(name, choices)}, or path/to/file.py:function"
        )
    row, make = known[name]
    others = tuple(other for other in (row.make, *row.alternatives) if other is not make)
    return TaskRow(**{**vars(row), "make": make, "alternatives": others})


def _alternatives(config: TaskConfig, row: TaskRow) -> Iterator[Maker]:
    if config.alternatives is None:
        yield from row.alternatives
        return
    known, own = _programs(), config.program if names_file(config.program or "") else None
    for name in config.alternatives:
        if name in known:
            yield known[name][1]
        elif own is not None or names_file(name):
            yield load_function(name, own)
        else:
            raise UserError(f"unknown program '{name}' (task.alternatives): {one_of(name, known)}")


def _predicate(config: TaskConfig) -> Callable[[list[Value]], bool] | None:
    given = config.restrict
    if given in (None, NONE, UNIQUE):
        return None
    assert given is not None
    own = config.program if names_file(config.program or "") else None
    if own is None and not names_file(given):
        valid = one_of(given, (UNIQUE, NONE))
        raise UserError(f"task.restrict={given}: {valid}, or path/to/file.py:function")
    try:
        function = load_function(given, own)
    except UserError as error:
        raise UserError(f"task.restrict={given}: {error}; or one of {UNIQUE}, {NONE}") from error

    def accepts(tokens: list[Value]) -> bool:
        try:
            return bool(function(list(tokens)))
        except Exception as error:
            line = _line(error, function)
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"task.restrict={given} raises on {tokens}{line}: {reason}") from error

    return accepts


def _first_sentence(make: Maker) -> str:
    return (inspect.getdoc(make) or "").partition("\n")[0]


def _name(make: Maker) -> str:
    return getattr(make, "__name__", type(make).__name__).removeprefix("make_")


def _call(make: Maker, available: Mapping[str, Any]) -> Any:
    """Call a maker with the arguments that it names; return its s-op, or None if it returns None.

    Raises:
        UserError: it asks for another argument, raises, or returns no s-op.
    """
    called = f"the function {getattr(make, '__name__', make)!r}"
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError) as error:
        raise UserError(f"{called} does not say what it takes: {first_line(error)}") from error
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    asked = [p.name for p in parameters if p.kind in by_keyword and p.name in available]
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    strange = [
        parameter.name
        for parameter in parameters
        if parameter.name not in asked
        and parameter.default is inspect.Parameter.empty
        and parameter.kind not in open_ended
    ]
    if strange:
        raise UserError(
            f"{called} takes the argument '{strange[0]}': it may ask for nothing but "
            f"{', '.join(ASKED_FOR)}"
        )
    try:
        made = make(**{name: copy(available[name]) for name in asked})
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{called} raises{_line(error, make)}: {reason}") from error
    if made is not None and not isinstance(made, rasp.SOp):
        raise UserError(
            f"{called} returned {_kind(made)}: it must return an s-op (rasp.SOp){_s_op_of(made)}"
        )
    return made


def _s_op_of(made: Any) -> str:
    """Return advice on how to turn a returned object into an s-op, if there is any."""
    if isinstance(made, rasp.Selector):
        return ", as rasp.SelectorWidth(selector) and rasp.Aggregate(selector, s_op) are"
    if isinstance(made, (list, tuple, dict)):
        return ": one program; others that compute the same are named in task.alternatives"
    return ", and not a function of it" if callable(made) else ""


def _line(error: BaseException, function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or code.co_filename == programs.__file__:
        return ""
    return where_raised(error, code.co_filename)


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _problems(
    config: TaskConfig, vocabulary: Sequence[Any], shortest: int, longest: int, unique: bool
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
    if unique and longest > len(vocabulary):
        yield (
            f"task.max_length={longest} must not exceed the {len(vocabulary)} tokens of "
            "task.vocabulary, where no token comes twice (task.restrict=unique)"
        )
    outside = [n for n in config.held_out_lengths if not shortest <= n <= longest]
    if outside:
        yield f"task.held_out_lengths={outside} must be among the lengths {shortest} to {longest}"
    if not set(range(shortest, longest + 1)) - set(config.held_out_lengths):
        yield f"task.held_out_lengths={config.held_out_lengths} leaves no length to train on"
