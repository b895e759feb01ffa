"""An interpreter of RASP programs that takes many inputs of one length at once.

Every s-op's values are stored as indices into a table of its distinct values. A program's functions
are called once for each distinct argument, not once for each input. Tracr's own evaluator, which
takes one input at a time, checks a sample.

Shapes: `inputs` inputs of one length, `pos` their positions, `query` and `key` too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from tracr.rasp import causal_eval, rasp

from ..infra.errors import first_line

Value = None | bool | int | float | str | tuple[Any, ...] | Hashable
DIRECT = 1 << 22  # largest table size at which codes are counted instead of sorted


class ProgramError(Exception):
    """A program raised on an input, or gave a forbidden value: `instead` says what to write."""

    def __init__(self, row: int, reason: str, instead: str = ""):
        super().__init__(reason)
        self.row, self.instead = row, instead


class NoValueError(TypeError):
    """A program's function returned something that is not a value; `instead` is what to write."""

    def __init__(self, reason: str, instead: str):
        super().__init__(reason)
        self.instead = instead


@dataclass(frozen=True)
class Column:
    """An s-op's values: at each position the index of its value in a table."""

    codes: Int[np.ndarray, "inputs pos"]
    values: tuple[Value, ...]

    def row(self, index: int) -> list[Value]:
        """Return the values on one input."""
        return [self.values[code] for code in self.codes[index].tolist()]


class Interpreter:
    """RASP's semantics on a batch of inputs of one length; variables' values can be overridden.

    Causal programs select no later position (Tracr's `CausalEvaluator`). The program's functions
    must depend only on their arguments. With `one_value`, a categorical aggregate that selects
    several values is undefined, as in the compiled program; otherwise it is their mean.

    Raises:
        ProgramError: a function of the program raises, or an aggregate has no mean.
    """

    def __init__(
        self,
        tokens: Column,
        causal: bool = False,
        overrides: Iterable[tuple[Any, Column]] = (),
        one_value: bool = False,
    ):
        self._tokens, self._causal, self._one_value = tokens, causal, one_value
        self._shape = tokens.codes.shape
        # By id, since s-ops have no hash; each is kept alive, so that its id is not reused.
        self._columns: dict[int, tuple[Any, Column]] = {
            id(sop): (sop, column) for sop, column in overrides
        }
        self._selections: dict[int, tuple[Any, np.ndarray]] = {}

    def column(self, sop: Any) -> Column:
        """Return an s-op's values on every input."""
        if id(sop) not in self._columns:
            for child in _pending(sop, self._columns):
                self._columns[id(child)] = (child, self._evaluate(child))
        return self._columns[id(sop)][1]

    def selection(self, selector: Any) -> Bool[np.ndarray, "inputs query key"]:
        """Return which keys each query selects."""
        if id(selector) not in self._selections:
            self._selections[id(selector)] = (selector, self._select(selector))
        return self._selections[id(selector)][1]

    def _evaluate(self, sop: Any) -> Column:
        length = self._shape[1]
        match sop:
            case rasp.TokensType():
                return self._tokens
            case rasp.IndicesType():
                codes = np.broadcast_to(np.arange(length, dtype=np.int32), self._shape)
                return Column(codes, tuple(range(length)))
            case rasp.LengthType():
                return Column(np.zeros(self._shape, np.int32), (length,))
            case rasp.Full():
                return Column(np.zeros(self._shape, np.int32), (sop.fill,))
            case rasp.Map():
                return self._map(sop)
            case rasp.SequenceMap():
                return self._sequence_map(sop)
            case rasp.SelectorWidth():
                widths = self.selection(sop.selector).sum(-1, dtype=np.int32)
                return Column(widths, tuple(range(length + 1)))
            case rasp.Aggregate():
                return self._aggregate(sop)
        raise _uninterpreted(sop)

    def _map(self, sop: Any) -> Column:
        inner = self.column(sop.inner)

        def value(code: int) -> Value:
            x = inner.values[code]
            return None if x is None else plain_value(sop.f(x))

        return Column(*_apply(inner.codes, len(inner.values), value))

    def _sequence_map(self, sop: Any) -> Column:
        first, second = self.column(sop.fst), self.column(sop.snd)
        base = len(second.values)

        def value(code: int) -> Value:
            x, y = first.values[code // base], second.values[code % base]
            return None if x is None or y is None else plain_value(sop.f(x, y))

        pairs = _codes(first.codes, second.codes, base)
        return Column(*_apply(pairs, len(first.values) * base, value))

    def _select(self, selector: Any) -> np.ndarray:
        selected: np.ndarray
        match selector:
            case rasp.Select():
                selected = self._pairs(selector)
            case rasp.SelectorAnd():
                selected = self.selection(selector.fst) & self.selection(selector.snd)
            case rasp.SelectorOr():
                selected = self.selection(selector.fst) | self.selection(selector.snd)
            case rasp.SelectorNot():
                selected = ~self.selection(selector.inner)
            case _:
                raise _uninterpreted(selector)
        return np.tril(selected) if self._causal else selected

    def _pairs(self, selector: Any) -> np.ndarray:
        keys, queries = self.column(selector.keys), self.column(selector.queries)
        base = len(queries.values)

        def value(code: int) -> bool:
            key, query = keys.values[code // base], queries.values[code % base]
            if isinstance(selector.predicate, rasp.Comparison) and None in (key, query):
                side = "keys" if key is None else "queries"
                raise _undefined(selector.predicate, side)
            return bool(_no_sop(selector.predicate(key, query)))

        pairs = _codes(keys.codes[:, None, :], queries.codes[:, :, None], base)
        codes, chosen = _apply(pairs, len(keys.values) * base, value)
        selected: np.ndarray = np.array(chosen, dtype=bool)[codes]
        return selected

    def _aggregate(self, sop: Any) -> Column:
        selected, column = self.selection(sop.selector), self.column(sop.sop)
        widths = selected.sum(-1, dtype=np.int32)
        # One code for each case: nothing selected, one value, or several values and their mean.
        single = np.take_along_axis(column.codes, selected.argmax(-1), axis=1)
        codes = np.where(widths == 1, 1 + single, 0)
        means: list[Value] = []
        several = widths > 1
        if self._one_value and not rasp.is_numerical(sop):
            least = np.where(selected, column.codes[:, None, :], np.iinfo(np.int32).max).min(-1)
            most = np.where(selected, column.codes[:, None, :], -1).max(-1)
            several &= least != most
            codes[several] = 1 + len(column.values)
            codes[(widths > 1) & ~several] = 1 + single[(widths > 1) & ~several]
            table = (sop.default, *column.values, None)
            return Column(*_apply(codes, len(table), lambda code: table[code]))
        if several.any():
            kinds, means = _means(selected[several], column, np.nonzero(several)[0])
            codes[several] = 1 + len(column.values) + kinds
        table = (sop.default, *column.values, *means)
        return Column(*_apply(codes, len(table), lambda code: table[code]))


def _pending(sop: Any, known: Mapping[int, Any]) -> list[Any]:
    """Return the s-ops that `sop` needs and that are not known yet, in order of evaluation."""
    needed: list[Any] = []
    stack, seen = [(sop, False)], set(known)
    while stack:
        expression, ready = stack.pop()
        if ready:
            needed.append(expression)
        elif id(expression) not in seen:
            seen.add(id(expression))
            stack.append((expression, True))
            stack += [(child, False) for child in expression.children]
    return [expression for expression in needed if isinstance(expression, rasp.SOp)]


def _identity(value: Any) -> Any:
    """Return a key that distinguishes values that compare equal, such as 1 and True."""
    parts = tuple(map(_identity, value)) if isinstance(value, tuple) else value
    return type(value), parts


def present(codes: Int[np.ndarray, " *places"], size: int) -> Int[np.ndarray, " distinct"]:
    """Return which of the codes 0..size-1 occur."""
    there = np.zeros(size, dtype=bool)
    there[codes] = True
    return np.flatnonzero(there)


def plain_value(value: Any) -> Value:
    """Return the value that a program's function gave; numpy scalars become Python's own.

    Raises:
        NoValueError: it is an s-op, or unhashable: a list, a set, an array.
    """
    if isinstance(value, np.generic):
        own = value.item()
        return own if isinstance(own, np.generic) else plain_value(own)
    if isinstance(value, (tuple, frozenset)):
        parts = list(map(plain_value, value))
        if all(map(operator.is_, parts, value)):
            return value
        make = getattr(type(value), "_make", tuple if isinstance(value, tuple) else frozenset)
        made: Value = make(parts)
        return made
    try:
        hash(_no_sop(value))
    except TypeError as error:
        if isinstance(error, NoValueError):
            raise
        raise NoValueError(
            f"it gives a value of type {type(value).__name__}",
            "a function that gives a text, a number, a truth value, or a tuple of these",
        ) from error
    plain: Value = value
    return plain


def _no_sop(value: Any) -> Any:
    if isinstance(value, rasp.RASPExpr):
        raise NoValueError(
            "it gives an s-op where a function must give a value, as `a == b` of two s-ops does",
            "it outside of functions, as rasp.SequenceMap(lambda x, y: x == y, a, b)",
        )
    return value


def _undefined(predicate: rasp.Comparison, side: str) -> NoValueError:
    always = {"True": "True", "False": "False"}
    symbol = always.get(predicate.value, f"key {predicate.value} query")
    cause = f"it selects by rasp.Comparison.{predicate.name}, which raises where the {side} are"
    instead = f"the predicate lambda key, query: None not in (key, query) and {symbol}"
    return NoValueError(f"{cause} undefined", instead)


def _uninterpreted(expression: Any) -> ProgramError:
    instead = "it with rasp's own expressions"
    if isinstance(expression, rasp.ConstantSelector):
        instead = "rasp.Select(rasp.indices, rasp.indices, lambda key, query: ...) for every length"
    elif isinstance(expression, rasp.ConstantSOp):
        instead = "rasp.Map(lambda index: ..., rasp.indices) for every length"
    return ProgramError(0, f"{type(expression).__name__} cannot be interpreted", instead)


def _apply(
    codes: Int[np.ndarray, "inputs *places"], size: int, function: Callable[[int], Value]
) -> tuple[Int[np.ndarray, "inputs *places"], tuple[Value, ...]]:
    """Return the function's values as indices into a table of its distinct values.

    The function is called once for each of the codes 0..size-1 that occurs.
    """
    if size > max(DIRECT, codes.size):
        distinct, codes = np.unique(codes, return_inverse=True)
        return _apply(codes, len(distinct), lambda place: function(int(distinct[place])))
    table: dict[Any, int] = {}
    values: list[Value] = []
    lookup = np.zeros(size, dtype=np.int32)
    for code in present(codes, size).tolist():
        try:
            value = function(code)
            index = table.setdefault(_identity(value), len(table))
        except NoValueError as error:
            row = int(np.argwhere(codes == code)[0, 0])
            raise ProgramError(row, str(error), error.instead) from error
        except Exception as error:
            row = int(np.argwhere(codes == code)[0, 0])
            raise ProgramError(row, f"{type(error).__name__}: {first_line(error)}") from error
        if index == len(values):
            values.append(value)
        lookup[code] = index
    return lookup[codes], tuple(values)


def _codes(
    first: Int[np.ndarray, "inputs *#places"], second: Int[np.ndarray, "inputs *#places"], base: int
) -> Int[np.ndarray, "inputs *_"]:
    """Return one code for a pair of codes, the second below `base`."""
    wide = np.int32 if (int(first.max(initial=0)) + 1) * base < 2**31 else np.int64
    pairs: np.ndarray = np.multiply(first, base, dtype=wide) + second.astype(wide)
    return pairs


def _means(
    selected: Bool[np.ndarray, "cases key"], column: Column, rows: Int[np.ndarray, " cases"]
) -> tuple[Int[np.ndarray, " cases"], list[Value]]:
    """Return, for each case, the index of its mean in a list of means."""
    codes = column.codes[rows]
    used = present(codes[selected], len(column.values)).tolist()
    if all(_is_whole(column.values[code]) for code in used):
        numbers = np.zeros(len(column.values), dtype=np.int64)
        numbers[used] = [int(column.values[code]) for code in used]
        sums = (numbers[codes] * selected).sum(-1)
        low, base = int(sums.min()), selected.shape[1] + 1
        pairs = _codes(sums - low, selected.sum(-1), base)
        kinds, index = np.unique(pairs, return_inverse=True)
        return index, [(kind // base + low) / (kind % base) for kind in kinds.tolist()]
    codes = np.where(selected, codes, -1)
    kinds, first, index = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    means: list[Value] = []
    for kind, case in zip(kinds.tolist(), first.tolist(), strict=True):
        values = [column.values[code] for code in kind if code >= 0]
        if not all(isinstance(value, (int, float)) for value in values):
            raise ProgramError(
                int(rows[case]),
                f"an aggregate selects several of {values}, which have no mean",
                "a predicate that selects one position, as key == query - 1 does, or count with "
                "rasp.SelectorWidth",
            )
        means.append(sum(values) / len(values))
    return index.reshape(-1), means


def _is_whole(value: Value) -> bool:
    """Return whether sums of such values are exact in any order."""
    return isinstance(value, (int, float)) and abs(value) < 2**31 and value == int(value)


def trace(
    named: Mapping[str, Any], xs: Sequence[Value], causal: bool = False
) -> dict[str, list[Value]]:
    """Return every variable's values on one input, from Tracr's own evaluator."""
    evaluator = _Remembering(causal)
    return {name: list(evaluator.evaluate(sop, xs)) for name, sop in named.items()}


class _Remembering:
    """Tracr's evaluator, with each expression evaluated only once."""

    def __init__(self, causal: bool):
        base = causal_eval.CausalEvaluator if causal else rasp.DefaultRASPEvaluator
        known: dict[int, Any] = {}

        class Evaluator(base):  # type: ignore[misc, valid-type]
            def evaluate(self, expr: Any, xs: Sequence[Value]) -> Any:
                if id(expr) not in known:
                    known[id(expr)] = super().evaluate(expr, xs)
                return known[id(expr)]

        self.evaluate = Evaluator().evaluate
