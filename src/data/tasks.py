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

from ..config.composition import names_file, split_place
from ..config.schema import A_TASK, TaskConfig
from ..infra.errors import UserError, first_line, need_kind, one_of
from . import programs
from .interpreter import Value
from .rasp import text as rasp_text
from .registered_tasks import REGISTRY, RegisteredTask, check_program, task_of_program
from .user_functions import load_function, where_raised

BOS = "BOS"
PAD = "PAD"
UNIQUE, NONE = "unique", "none"  # values of task.restrict, besides a function
ASKED_FOR = ("vocabulary", "min_length", "max_length")  # what a maker may ask for

Maker = Callable[..., Any]


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


def other_tasks(task: Task) -> Iterator[Task]:
    """Yield the registered programs as tasks over the vocabulary and lengths of another task.

    Left out are programs that cannot be made for these, and the programs of the task itself.
    """
    available = dict(
        zip(ASKED_FOR, (list(task.vocabulary), task.min_length, task.max_length), strict=True)
    )
    own = {task.program.name, *task.alternatives}
    for name, registered in REGISTRY.items():
        if own & {name, *registered.alternatives}:
            continue
        try:
            program = _call(_maker(name), available)
        except UserError:
            continue
        if program is not None:
            yield replace(
                task, name=name, program=program, alternatives={}, about=registered.about,
                algorithms={}, tolerance=None,
            )  # fmt: skip


def make_task(config: TaskConfig) -> Task:
    """Return the configured Task; the registered task supplies defaults for unset fields.

    The program is `program`, by default `name`: a registered task, an alternative's name, or
    `path.py:function`. A control condition has a name of its own.

    >>> task = make_task(TaskConfig("reverse", max_length=4))
    >>> task.max_length, list(task.alternatives)
    (4, ['reverse_by_counting'])

    Raises:
        UserError: the name is unknown, the maker returns no program, or the vocabulary and lengths
            make no task.
    """
    need_kind(config, TaskConfig, f"make_task takes {A_TASK}")
    chosen = _chosen(config)
    usual = chosen.registered
    vocabulary, min_length, max_length, causal, unique = _open(config, usual)
    for message in _problems(config, vocabulary, min_length, max_length, unique):
        raise UserError(message)
    available = dict(zip(ASKED_FOR, (list(vocabulary), min_length, max_length), strict=True))
    program = _call(chosen.make, available)
    if program is None:
        raise UserError(
            f"task '{config.name}': {_name(chosen.make)} returned None: it must return an s-op, "
            f"here for lists of {min_length} to {max_length} tokens"
        )
    others = list(_alternatives(config, chosen))
    names = [_name(make) for make in (chosen.make, *others)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"task.alternatives: two programs are called '{twice[0]}'")
    alternatives = {_name(make): _call(make, available) for make in others}
    return Task(
        name=config.name,
        program=program,
        vocabulary=vocabulary,
        min_length=min_length,
        max_length=max_length,
        causal=causal,
        unique=unique,
        accepts=_predicate(config),
        tolerance=config.tolerance,
        alternatives={name: sop for name, sop in alternatives.items() if sop is not None},
        about=usual.about if usual and causal == usual.causal else "",
        algorithms={_name(make): _first_sentence(make) for make in (chosen.make, *others)},
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


@dataclass(frozen=True)
class _Chosen:
    """The program that a config names, and the others of its registered task, if it has one."""

    make: Maker
    registered: RegisteredTask | None
    others: tuple[str, ...] = ()


def _maker(name: str) -> Maker:
    """Return the maker of a registered program."""
    make: Maker = getattr(programs, f"make_{name}")
    return make


def _chosen(config: TaskConfig) -> _Chosen:
    """Return the configured program; an alternative becomes the reference."""
    name = config.program or config.name
    if names_file(name):
        make = load_function(name)
        if config.vocabulary is None:
            raise UserError(
                f"task '{config.name}' needs a vocabulary, as in 'task.vocabulary=[0,1,2]' "
                f"(or in {split_place(name)[0].with_suffix('.yaml').name} beside it)"
            )
        return _Chosen(make, None)
    check_program(config)
    known = task_of_program()
    registered = REGISTRY[known[name]]
    others = tuple(other for other in (known[name], *registered.alternatives) if other != name)
    return _Chosen(_maker(name), registered, others)


def _open(
    config: TaskConfig, usual: RegisteredTask | None
) -> tuple[tuple[Value, ...], int, int, bool, bool]:
    """Return vocabulary, shortest and longest length, whether causal and whether unique.

    What a config leaves open is as usual, and of a program of the user's own the defaults.
    """
    if usual is None:
        usual = RegisteredTask("", (), lambda xs, _: xs)
    vocabulary = tuple(usual.vocabulary if config.vocabulary is None else config.vocabulary)
    shortest = usual.min_length if config.min_length is None else config.min_length
    longest = usual.max_length if config.max_length is None else config.max_length
    causal = usual.causal if config.causal is None else config.causal
    unique = usual.unique if config.restrict is None else config.restrict == UNIQUE
    return vocabulary, shortest, longest, causal, unique


def _alternatives(config: TaskConfig, chosen: _Chosen) -> Iterator[Maker]:
    if config.alternatives is None:
        yield from map(_maker, chosen.others)
        return
    known, own = task_of_program(), config.program if names_file(config.program or "") else None
    for name in config.alternatives:
        if name in known:
            yield _maker(name)
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
        raise UserError(
            f"the parameters of {called} cannot be read: {first_line(error)}"
        ) from error
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
            f"{called} takes the argument '{strange[0]}': it may only take {', '.join(ASKED_FOR)}"
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
        yield f"{given}: a token must not be nan"
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
            "task.vocabulary, because no token may come twice (task.restrict=unique)"
        )
    outside = [n for n in config.held_out_lengths if not shortest <= n <= longest]
    if outside:
        yield f"task.held_out_lengths={outside} must be among the lengths {shortest} to {longest}"
    if not set(range(shortest, longest + 1)) - set(config.held_out_lengths):
        yield f"task.held_out_lengths={config.held_out_lengths} leaves no length to train on"
