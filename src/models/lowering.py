"""Lowering: a program rewritten into the constructs that Tracr can compile.

The interpreter computes the program as it was written; the reference is validated against that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NoReturn

from tracr.rasp import rasp

from ..data.interpreter import Value, plain_value
from ..data.rasp.text import expressions, selectors
from ..data.tasks import Task
from ..infra.errors import UserError

LARGEST_MAP = 2_500  # pairs of values of a sequence map; Tracr's time grows with their cube
LARGEST_LINEAR = 250_000  # pairs of numbers of a linear sequence map
LARGEST_SELECT = 4_000_000  # pairs of a key and a query


@dataclass(frozen=True)
class Lowered:
    """A task's program in the form that Tracr compiles.

    `names` are the variables' names by Tracr's labels; s-ops that were added have names with a
    space, which no variable has. `values` are the foreseen values of each s-op, by label.
    """

    program: Any
    names: dict[str, str]
    values: dict[str, tuple[Value, ...]]


def lowered(task: Task) -> Lowered:
    """Return a task's program as Tracr compiles it.

    - `rasp.length` and `rasp.Full` become a count and a map;
    - composite selectors become selects over tuples of keys and of queries;
    - functions give nothing where they raise, which is on foreseen values that never occur;
    - defaults that Tracr lacks are left out; validation shows whether they are ever used;
    - a numerical map with negative values becomes the difference of two maps.

    Raises:
        UserError: Tracr cannot compile the program; the message says what to write instead.
    """
    itself = isinstance(task.program, (rasp.TokensType, rasp.IndicesType))
    if itself and not rasp.is_numerical(task.program):
        name = task.program.name
        refuse(task, f"it is {name} itself, and computes nothing", f"a map of it, as in "
               f"rasp.Map(lambda x: x, rasp.{rasp.default_name(task.program)})")  # fmt: skip
    work = _Lowering(task)
    for expression in expressions(task.program):
        work.add(expression)
    program = work.made[id(task.program)]
    return Lowered(program, work.names, work.values)


def refuse(task: Task, cause: str, instead: str) -> NoReturn:
    """Raise the UserError for a program that Tracr cannot compile."""
    raise UserError(
        f"task '{task.name}': Tracr cannot compile the program: {cause}; write {instead}"
    )


class _Lowering:
    """The expressions of a program that are lowered so far, each after its inputs."""

    def __init__(self, task: Task):
        self._task = task
        self._variables = {id(sop): name for name, sop in task.variables.items()}
        self._names = {
            id(selector): name for name, (selector, _) in selectors(task.program).items()
        }
        self._selects: dict[int, Any] = {}
        self._at_bos: dict[str, Value] = {rasp.tokens.label: None, rasp.indices.label: None}
        self.made: dict[int, Any] = {}
        self.names: dict[str, str] = {}
        self.values: dict[str, tuple[Value, ...]] = {
            rasp.tokens.label: tuple(dict.fromkeys(task.vocabulary)),
            rasp.indices.label: tuple(range(task.max_length)),
        }

    def add(self, expression: Any) -> None:
        """Lower an expression whose inputs are lowered already."""
        if not isinstance(expression, rasp.SOp):
            self.made[id(expression)] = self._selector(expression)
            return
        name = self._variables[id(expression)]
        sop = self._sop(expression, name)
        if not isinstance(sop, (rasp.TokensType, rasp.IndicesType)):
            sop = self._take_place(sop, expression, name)
        self.made[id(expression)] = sop

    def _take_place(self, sop: Any, original: Any, name: str) -> Any:
        """Give a lowered s-op the label of the variable it replaces, and record its values."""
        sop.annotations = {"encoding": rasp.get_encoding(original), "name": original.name}
        sop.__dict__["unique_id"] = original.unique_id
        if sop.label in self.names:  # a copy of an expression has its id
            del sop.__dict__["unique_id"]
        return self._known(sop, name)

    def _part(self, sop: Any, name: str) -> Any:
        """Return an added s-op, under a name that no variable has."""
        return self._known(sop.named(name), name)

    def _known(self, sop: Any, name: str) -> Any:
        self.names[sop.label] = name
        self.values[sop.label] = self._foreseen(sop, name)
        self._at_bos[sop.label] = self._given_at_bos(sop)
        return sop

    def _sop(self, sop: Any, name: str) -> Any:
        match sop:
            case rasp.TokensType() | rasp.IndicesType():
                plain = type(sop)()
                return self._number(_same, plain, name) if rasp.is_numerical(sop) else plain
            case rasp.LengthType():
                return self._length()
            case rasp.Full() if rasp.is_numerical(sop):
                return self._number(_Constant(sop.fill), rasp.tokens, name)
            case rasp.Full():
                return rasp.Map(_Constant(sop.fill), rasp.tokens)
            case rasp.Map():
                return self._map(sop, name)
            case rasp.SequenceMap():
                return self._sequence_map(sop, name)
            case rasp.SelectorWidth():
                return rasp.SelectorWidth(self._select(sop.selector, name))
            case rasp.Aggregate():
                return self._aggregate(sop, name)
        raise AssertionError(f"{type(sop).__name__} was interpreted")

    def _length(self) -> Any:
        task = self._task
        if not task.causal:
            everything = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
            return rasp.SelectorWidth(everything)
        if task.min_length == task.max_length:
            return rasp.Map(_Constant(task.max_length), rasp.tokens)
        refuse(self._task, "no position of a causal task sees how long the list is (rasp.length)",
               "rasp.indices + 1 for the length so far, or task.causal=false")  # fmt: skip

    def _map(self, sop: Any, name: str) -> Any:
        inner = self.made[id(sop.inner)]
        if rasp.is_numerical(sop):
            return self._number(sop.f, inner, name)
        return rasp.Map(_Total(sop.f), inner, simplify=False)

    def _number(self, function: Callable[..., Any], inner: Any, name: str) -> Any:
        """Return a map to numbers that is 0 at BOS, which aggregates read that select nothing.

        Tracr's MLP for a categorical input gives no negative numbers.
        """
        given = _Number(function)
        at_bos = self._mapped_at_bos(given, inner)
        if at_bos:
            rest = rasp.numerical(self._number(_Number(function, at_bos), inner, name))
            rest = self._part(rest, f"what {name} is but for {at_bos}")
            unit = self._part(rasp.numerical(rasp.Map(_Constant(1.0), rasp.tokens)), "a one")
            return rasp.LinearSequenceMap(rest, unit, 1, at_bos)
        negative = any(given(value) < 0 for value in self.values[inner.label])
        if rasp.is_numerical(inner) or not negative:
            return rasp.Map(given, inner, simplify=False)
        sides = [
            self._part(rasp.numerical(rasp.Map(_Side(given, sign), inner, simplify=False)), side)
            for sign, side in ((1, f"what {name} is above 0"), (-1, f"what {name} is below 0"))
        ]
        return rasp.LinearSequenceMap(*sides, 1, -1)

    def _mapped_at_bos(self, function: Callable[[Value], Any], inner: Any) -> Any:
        """Return a map's value at BOS, where numbers are 0 and most categories hold nothing."""
        if not rasp.is_numerical(inner):
            held = self._at_bos[inner.label]
            return None if held is None else function(held)
        foreseen: tuple[Any, ...] = self.values[inner.label]
        numbers = [value for value in foreseen if function(value) is not None]
        return function(min(numbers, key=abs)) if numbers else None

    def _given_at_bos(self, sop: Any) -> Value:
        """Return the category that a lowered s-op holds at BOS; None if nothing or a number."""
        if rasp.is_numerical(sop):
            return None
        match sop:
            case rasp.Map():
                held: Value = self._mapped_at_bos(sop.f, sop.inner)
                return held
            case rasp.SequenceMap():
                sides = [self._at_bos[side.label] for side in (sop.fst, sop.snd)]
                return None if None in sides else sop.f(*sides)
            case rasp.Aggregate():
                return self._at_bos[sop.sop.label]
        return None

    def _sequence_map(self, sop: Any, name: str) -> Any:
        first, second = (self.made[id(side)] for side in (sop.fst, sop.snd))
        numbers = [rasp.is_numerical(expression) for expression in (first, second, sop)]
        if isinstance(sop, rasp.LinearSequenceMap) and all(numbers):
            self._bounded(name, "adds", first, second, LARGEST_LINEAR)
            return rasp.LinearSequenceMap(first, second, sop.fst_fac, sop.snd_fac)
        if any(numbers[:2]):
            refuse(self._task, f"'{name}' is a sequence map that reads a number",
                   "rasp.numerical(rasp.LinearSequenceMap(x, y, a, b)) for a * x + b * y of two "
                   "numbers x and y, or compute with categories and make the result a number last: "
                   "rasp.numerical(rasp.Map(lambda x: x, category))")  # fmt: skip
        self._bounded(name, "maps", first, second, LARGEST_MAP)
        if not numbers[2]:
            return rasp.SequenceMap(_Total(sop.f), first, second)
        category = rasp.SequenceMap(_Total(sop.f), first, second)
        category = self._part(category, f"the category of {name}")
        return self._number(_same, category, name)

    def _aggregate(self, sop: Any, name: str) -> Any:
        select, value = self._select(sop.selector, name), self.made[id(sop.sop)]
        if not rasp.is_numerical(sop):
            if rasp.is_numerical(value):
                refuse(self._task, f"'{name}' is a category, but aggregates a number",
                       "rasp.numerical(rasp.Aggregate(selector, number, default=0)), and "
                       "rasp.Map(lambda x: x, ...) of it for a category")  # fmt: skip
            return rasp.Aggregate(select, value)
        if not rasp.is_numerical(value):
            number = rasp.numerical(self._number(_same, value, name))
            value = self._part(number, f"the number that {name} takes the mean of")
        return rasp.Aggregate(select, value, default=0)

    def _selector(self, selector: Any) -> Any:
        match selector:
            case rasp.Select():
                sides = (selector.keys, selector.queries)
                keys, queries = (self.made[id(side)] for side in sides)
                for side, sop in (("keys", keys), ("queries", queries)):
                    if rasp.is_numerical(sop):
                        name = self.names[sop.label]
                        refuse(self._task, f"'{name}' is a number, and the {side} of a select",
                               "the s-op that selects without rasp.numerical, or "
                               f"rasp.Map(lambda x: x, {name}) in its place")  # fmt: skip
                return rasp.Select(self._no_bos(keys), queries, _Holds(selector.predicate))
            case rasp.SelectorAnd() | rasp.SelectorOr():
                first, second = (self.made[id(part)] for part in (selector.fst, selector.snd))
                return type(selector)(first, second)
            case rasp.SelectorNot():
                return rasp.SelectorNot(self.made[id(selector.inner)])
        raise AssertionError(f"{type(selector).__name__} was interpreted")

    def _no_bos(self, keys: Any) -> Any:
        """Return keys that hold nothing at BOS, so that BOS is never selected."""
        if self._at_bos[keys.label] is None:
            return keys
        name = self.names[keys.label]
        self._bounded(name, "maps", keys, rasp.tokens, LARGEST_MAP)
        return self._part(rasp.SequenceMap(_first, keys, rasp.tokens), f"{name} but not at BOS")

    def _select(self, selector: Any, reader: str) -> Any:
        """Return a selector as a single select over the joint keys and queries of its parts."""
        if id(selector) not in self._selects:
            made = self.made[id(selector)]
            parts = list(_parts(made))
            if len(parts) > 1 or made is not parts[0] or any(map(_is_constant, made.children)):
                name = self._names[id(selector)]
                keys = self._joint([part.keys for part in parts], f"keys of {name}", reader)
                queries = self._joint(
                    [part.queries for part in parts], f"queries of {name}", reader
                )
                made = rasp.Select(keys.sop, queries.sop, _Composed(made, keys, queries))
            self._bounded(reader, "selects", made.keys, made.queries, LARGEST_SELECT)
            self._selects[id(selector)] = made
        return self._selects[id(selector)]

    def _joint(self, sops: Sequence[Any], name: str, reader: str) -> _Joint:
        """Return an s-op whose value is the tuple of the others' values, without constants."""
        different = {sop.label: sop for sop in sops if not _is_constant(sop)}
        first, *others = different.values() or (rasp.tokens,)
        joint = first
        for at, other in enumerate(others):
            self._bounded(reader, "selects by", joint, other, LARGEST_MAP)
            pair = rasp.SequenceMap(_longer if at else _pair, joint, other)
            last = at == len(others) - 1
            joint = self._part(pair, name if last else f"the first {at + 2} {name}")
        return _Joint(joint, tuple(different))

    def _bounded(self, name: str, does: str, first: Any, second: Any, most: int) -> None:
        """Refuse a program that would take Tracr many minutes and gigabytes to compile."""
        count, other = (len(self.values[sop.label]) for sop in (first, second))
        if count * other > most:
            self._refuse_large(f"'{name}' {does} {count} x {other} pairs of values", most)

    def _refuse_large(self, what: str, most: int) -> NoReturn:
        task = self._task
        raise UserError(
            f"task '{task.name}': {what}; above {most:,} Tracr takes minutes and gigabytes: lower "
            f"task.max_length={task.max_length} or shorten the {len(task.vocabulary)}-token "
            "task.vocabulary"
        )

    def _foreseen(self, sop: Any, name: str) -> tuple[Value, ...]:
        """Return a lowered s-op's foreseen values; of equal values, the first."""
        foreseen: Iterable[Any]
        match sop:
            case rasp.Map():
                values = self.values[sop.inner.label]
                if rasp.is_numerical(sop.inner) and len(values) > LARGEST_MAP:
                    self._refuse_large(f"'{name}' maps {len(values):,} numbers", LARGEST_MAP)
                foreseen = map(sop.f, values)
            case rasp.SequenceMap():
                sides = (self.values[side.label] for side in (sop.fst, sop.snd))
                foreseen = (sop.f(*pair) for pair in product(*sides))
            case rasp.SelectorWidth():
                foreseen = range(self._task.max_length + 1)
            case _:
                foreseen = self.values[sop.sop.label]
                if rasp.is_numerical(sop):
                    numbers: Any = foreseen
                    lengths = range(1, self._task.max_length + 1)
                    foreseen = (value / length for value in numbers for length in lengths)
        return tuple(dict.fromkeys(value for value in foreseen if value is not None))


@dataclass(frozen=True)
class _Joint:
    """An s-op whose values are tuples of several s-ops' values; for one s-op, its own values."""

    sop: Any
    labels: tuple[str, ...]

    def read(self, value: Any, part: Any) -> Any:
        """Return a part's value from a value of the joint s-op."""
        if _is_constant(part):
            return part.f.value
        return value if len(self.labels) == 1 else value[self.labels.index(part.label)]


class _Composed:
    """The predicate of a composite selector, over joint keys and queries."""

    def __init__(self, selector: Any, keys: _Joint, queries: _Joint):
        self._selector, self._keys, self._queries = selector, keys, queries

    def __call__(self, key: Value, query: Value) -> bool:
        return self._holds(self._selector, key, query)

    def _holds(self, selector: Any, key: Value, query: Value) -> bool:
        match selector:
            case rasp.SelectorAnd():
                return all(self._holds(child, key, query) for child in selector.children)
            case rasp.SelectorOr():
                return any(self._holds(child, key, query) for child in selector.children)
            case rasp.SelectorNot():
                return not self._holds(selector.inner, key, query)
        sides = self._keys.read(key, selector.keys), self._queries.read(query, selector.queries)
        return bool(selector.predicate(*sides))


class _Total:
    """A program's function that gives nothing where it raises or returns no valid value."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *values: Value) -> Value:
        try:
            given = plain_value(self._function(*values))
        except Exception:  # the interpreter reports it if such a value occurs
            return None
        return given if given == given else None


class _Number(_Total):
    """A program's function to numbers, minus a constant; 0 where it gives no number."""

    def __init__(self, function: Callable[..., Any], less: float = 0):
        super().__init__(function)
        self._less = less

    def __call__(self, *values: Value) -> Any:
        given = super().__call__(*values)
        number = isinstance(given, (bool, int, float)) and math.isfinite(given)
        return (given if number else 0.0) - self._less  # type: ignore[operator]


class _Holds:
    """A program's predicate that does not hold where it raises."""

    def __init__(self, predicate: Callable[..., Any]):
        self._predicate = predicate

    def __call__(self, key: Value, query: Value) -> bool:
        try:
            return bool(self._predicate(key, query))
        except Exception:
            return False


@dataclass(frozen=True)
class _Constant:
    value: Value

    def __call__(self, _: Value) -> Value:
        return self.value


@dataclass(frozen=True)
class _Side:
    """The positive or the negative part of a number."""

    number: Callable[[Value], Any]
    sign: int

    def __call__(self, value: Value) -> Any:
        return max(self.sign * self.number(value), 0.0)


def _same(value: Any) -> Any:
    return value


def _first(first: Any, _: Any) -> Any:
    return first


def _pair(first: Any, second: Any) -> Any:
    return first, second


def _longer(several: Any, other: Any) -> Any:
    return (*several, other)


def _is_constant(sop: Any) -> bool:
    return isinstance(sop, rasp.Map) and isinstance(sop.f, _Constant)


def _parts(selector: Any) -> Iterator[Any]:
    """Yield the selects that a selector is composed of."""
    if isinstance(selector, rasp.Select):
        yield selector
        return
    for child in selector.children:
        yield from _parts(child)
