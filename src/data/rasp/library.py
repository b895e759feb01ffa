"""The library of variables: RASP expressions over a vocabulary, enumerated by cost.

An expression is a variable, a function of a list and a position. Two expressions with the same
partition of all (input, position) pairs are one variable to any test on activations: the cheapest
is kept. The s-ops of the task's programs are always there.

Names read like RASP: `count(tokens == a)` is a selector width, `tokens[length - 1 - indices]` an
aggregate. In a selector the left side is the key's, the right side the query's.

Shapes: `inputs` inputs, `pos` positions of an encoded input, `places` the positions of all lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from tracr.rasp import rasp

from ...infra.errors import UserError, first_line
from ..inputs import InputSet
from ..interpreter import Column, Interpreter, NoValueError, ProgramError, Value, plain_value
from ..outputs import stable_text
from .text import variables as named_variables

Function = Callable[[list[Value], int], Value]
COMPARED = 250_000  # (query, key) pairs, at most, of the inputs on which expressions are compared
DEAREST = 7  # cost up to which expressions are enumerated
OF_PROGRAMS = 3  # cost of a program's own s-op
TOKEN, POSITION, NUMBER = "token", "position", "number"  # kinds of values
TRUTH, OTHER = "truth", "other"
SYMBOLS = {
    rasp.Comparison.EQ: "==", rasp.Comparison.LT: "<", rasp.Comparison.GT: ">",
}  # fmt: skip


@dataclass(frozen=True)
class LibraryVariable:
    """A named function of a list and a position, by its values on an input set.

    `codes` number its values, -1 at BOS and padding. `cost` is the size of its expression. `bits`
    is the entropy of its value over all (input, position). `sop` is its RASP expression, None for
    a user's own function.
    """

    name: str
    cost: int
    codes: Int64[Tensor, "inputs pos"]
    bits: float
    list_wide: bool
    sop: Any = None

    def at(self, rows: Int64[Tensor, " chosen"]) -> LibraryVariable:
        """Return the variable on some of the inputs."""
        return replace(self, codes=self.codes[rows])


@dataclass(frozen=True)
class Library:
    """Variables with different partitions, cheapest first, and how far the enumeration came.

    `names` gives, by program and name of its s-op, the name of the variable that has the same
    partition. `tried` expressions were evaluated; `complete` says whether none of those up to
    `cost` was left out for the budget.
    """

    variables: tuple[LibraryVariable, ...]
    names: Mapping[str, Mapping[str, str]]
    tried: int
    cost: int
    complete: bool
    seconds: float

    def of(self, name: str, program: str = "") -> LibraryVariable:
        """Return a variable by its name, or by that of a program's s-op."""
        name = self.names.get(program, {}).get(name, name)
        return next(variable for variable in self.variables if variable.name == name)


def library(
    inputs: InputSet,
    programs: Mapping[str, Any],
    budget: int,
    seconds: float,
    own: Mapping[str, Function] | None = None,
) -> Library:
    """Return the library of a task: its programs' s-ops, and expressions of increasing cost.

    At most `budget` expressions are evaluated, for at most `seconds`; the s-ops of the programs
    are always there. So are a user's `own` functions of a list and a position, by their names.

    Raises:
        UserError: a function of the user's raises, or gives what is no value.
    """
    began = time.monotonic()
    pairs = int((inputs.lengths**2).sum())
    some = inputs if pairs <= COMPARED else inputs.at(_spread(inputs, COMPARED / pairs))
    enumeration = _Enumeration(some, budget, began + seconds)
    enumeration.run(programs)
    values = enumeration.values if some is inputs else _Values(inputs)
    made = [_variable(inputs, values, formula) for formula in enumeration.kept]
    names, partitions = dict(enumeration.names), {_key(v.codes): v.name for v in made}
    names[""] = {}  # a user's own
    for name, function in (own or {}).items():
        variable = _of_function(inputs, name, function)
        alike = partitions.setdefault(_key(variable.codes), name)
        if alike != name:
            names[""][name] = alike
        else:
            made.append(variable)
    return Library(
        tuple(made), names, enumeration.tried, enumeration.cost, enumeration.complete,
        time.monotonic() - began,
    )  # fmt: skip


def _spread(inputs: InputSet, share: float) -> Int64[Tensor, " chosen"]:
    """Return a share of the inputs, of all lengths, evenly spread over the set."""
    count = max(1, int(share * len(inputs)))
    spread: Tensor = torch.unique(torch.linspace(0, len(inputs) - 1, count).long())
    return spread


@dataclass(frozen=True)
class _Formula:
    """An expression with its name; `compound` where an operator stands outside all brackets."""

    name: str
    cost: int
    sop: Any
    compound: bool = False
    kind: str = OTHER
    list_wide: bool = False

    @property
    def operand(self) -> str:
        return f"({self.name})" if self.compound else self.name


class _Values:
    """The values of expressions on an input set, by one interpreter for each length."""

    def __init__(self, inputs: InputSet):
        vocabulary = tuple(sorted(inputs.token_ids, key=inputs.token_ids.__getitem__))
        self._parts: list[tuple[Tensor, int, Interpreter]] = []
        for length in torch.unique(inputs.lengths).tolist():
            rows = torch.nonzero(inputs.lengths == length)[:, 0]
            tokens = inputs.tokens[rows, 1 : length + 1].numpy()
            interpreter = Interpreter(
                Column(tokens, vocabulary), inputs.task.causal, one_value=True
            )
            self._parts.append((rows, length, interpreter))
        self.size = sum(len(rows) * length for rows, length, _ in self._parts)

    def of(self, sop: Any) -> tuple[np.ndarray, list[Value]]:
        """Return an s-op's values at all places, as indices into a table.

        Raises:
            ProgramError: a function of the expression raises.
        """
        table: dict[Any, int] = {}
        values: list[Value] = []
        flat = []
        for _, _, interpreter in self._parts:
            column = interpreter.column(sop)
            lookup = np.empty(len(column.values), dtype=np.int64)
            for code, value in enumerate(column.values):
                index = table.setdefault(value, len(table))
                if index == len(values):
                    values.append(value)
                lookup[code] = index
            flat.append(lookup[column.codes].ravel())
        return np.concatenate(flat), values

    def unselected(self, selector: Any) -> int:
        """Return at how many places a selector selects nothing."""
        return sum(int((~part.selection(selector).any(-1)).sum()) for _, _, part in self._parts)

    def is_list_wide(self, codes: np.ndarray) -> bool:
        """Return whether codes at places are the same at every position of a list."""
        at = 0
        for rows, length, _ in self._parts:
            block = codes[at : at + len(rows) * length].reshape(len(rows), length)
            at += len(rows) * length
            if (block != block[:, :1]).any():
                return False
        return True

    def spread(self, codes: np.ndarray, like: Tensor) -> Int64[Tensor, "inputs pos"]:
        """Return codes at places as codes at positions of inputs."""
        spread, at = torch.full(like.shape, -1, dtype=torch.int64), 0
        for rows, length, _ in self._parts:
            count = len(rows) * length
            block = torch.from_numpy(codes[at : at + count]).view(len(rows), length)
            spread[rows[:, None], torch.arange(1, length + 1)] = block
            at += count
        return spread


def first_seen(codes: np.ndarray) -> np.ndarray:
    """Return non-negative codes renumbered in the order in which they first occur."""
    size = int(codes.max(initial=-1)) + 1
    first = np.full(size, len(codes))
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    order = np.argsort(first, kind="stable")
    renumbered = np.empty(size, dtype=np.int64)
    renumbered[order] = np.arange(size)
    numbered: np.ndarray = renumbered[codes]
    return numbered


def entropy(codes: np.ndarray) -> float:
    """Return the entropy of codes, in bits."""
    shares = np.bincount(codes) / max(1, len(codes))
    shares = shares[shares > 0]
    return abs(float((shares * np.log2(shares)).sum()))


def _key(codes: Tensor) -> bytes:
    return codes.numpy().tobytes()


def _of_function(inputs: InputSet, name: str, function: Function) -> LibraryVariable:
    """Return a user's own function of a list and a position as a variable."""
    codes, table = torch.full_like(inputs.tokens, -1), dict[Value, int]()
    for row in range(len(inputs)):
        listed = inputs.listed(row)
        for position in range(len(listed)):
            try:
                value = plain_value(function(list(listed), position))
            except Exception as error:
                reason = (
                    str(error)
                    if isinstance(error, NoValueError)
                    else f"{type(error).__name__}: {first_line(error)}"
                )
                raise UserError(
                    f"the variable '{name}' fails on the list {listed} at position {position}: "
                    f"{reason}; it must be a function of a list and a position that gives a value"
                ) from error
            codes[row, position + 1] = table.setdefault(value, len(table))
    real = inputs.real
    numbered = first_seen(codes[real].numpy())
    codes[real] = torch.from_numpy(numbered)
    wide = bool((~real | (codes == codes[:, 1:2])).all())
    return LibraryVariable(name, 1, codes, entropy(numbered), wide)


def _variable(inputs: InputSet, values: _Values, formula: _Formula) -> LibraryVariable:
    codes, _ = values.of(formula.sop)
    spread = values.spread(codes, inputs.tokens)
    real = inputs.real
    spread[real] = torch.from_numpy(first_seen(spread[real].numpy()))
    return LibraryVariable(
        formula.name, formula.cost, spread, entropy(codes), values.is_list_wide(codes),
        formula.sop,
    )  # fmt: skip


class _Enumeration:
    """Expressions by increasing cost; of those with one partition the first is kept."""

    def __init__(self, inputs: InputSet, budget: int, until: float):
        self.values = _Values(inputs)
        self.kept: list[_Formula] = []
        self.names: dict[str, dict[str, str]] = {}
        self.tried, self.cost, self.complete = 0, 0, True
        self._vocabulary = inputs.task.vocabulary
        self._budget, self._until = budget, until
        self._partitions: dict[bytes, str] = {}
        self._selectors: dict[int, list[_Selection]] = {}
        self._ordered = _is_ordered(self._vocabulary)

    def run(self, programs: Mapping[str, Any]) -> None:
        """Add the inputs, the programs' s-ops, and what the budget allows, cheapest first."""
        self._add(_Formula("tokens", 1, rasp.tokens, kind=TOKEN))
        self._add(_Formula("indices", 1, rasp.indices, kind=POSITION))
        self._add(_Formula("length", 1, rasp.length, kind=NUMBER))
        for cost in range(2, DEAREST + 1):
            if cost == OF_PROGRAMS:
                self._add_programs(programs)
            for formula in self._of_cost(cost):
                if self.tried >= self._budget or time.monotonic() > self._until:
                    self.complete = False
                    break
                self._add(formula)
            self.cost = cost if self.complete else self.cost

    def _add_programs(self, programs: Mapping[str, Any]) -> None:
        for program, output in programs.items():
            names = self.names.setdefault(program, {})
            for name, sop in named_variables(output).items():
                added = self._add(_Formula(name, OF_PROGRAMS, sop, not name.isidentifier()))
                if added is not None:
                    names[name] = added

    def _add(self, formula: _Formula) -> str | None:
        """Return the name of the variable that an expression is; None of a constant."""
        self.tried += 1
        try:
            codes, values = self.values.of(formula.sop)
        except ProgramError:
            return None
        codes = first_seen(codes)
        if codes.max(initial=0) == 0:
            return None
        key = codes.astype(np.int32).tobytes()
        if key not in self._partitions:
            name = self._partitions[key] = self._unique(formula.name)
            kind = formula.kind if formula.kind != OTHER else _kind(values, self._vocabulary)
            wide = self.values.is_list_wide(codes)
            self.kept.append(replace(formula, name=name, kind=kind, list_wide=wide))
        return self._partitions[key]

    def _unique(self, name: str) -> str:
        taken, numbered, count = set(self._partitions.values()), name, 1
        while numbered in taken:
            count += 1
            numbered = f"{name}_{count}"
        return numbered

    def _costing(self, cost: int, *kinds: str) -> list[_Formula]:
        return [f for f in self.kept if f.cost == cost and (not kinds or f.kind in kinds)]

    def _of_cost(self, cost: int) -> Iterator[_Formula]:
        """Yield the expressions of a cost: maps, then what selectors count and aggregate."""
        yield from self._maps(cost)
        for selection in self._selections(cost - 1):
            yield _Formula(
                f"count({selection.text})",
                cost,
                rasp.SelectorWidth(selection.selector),
                kind=NUMBER,
            )
        for at in range(1, cost - 1):
            for selection in self._selections(at):
                for value in self._costing(cost - 1 - at):
                    aggregate = self._aggregated(selection, value, cost)
                    if aggregate is not None:
                        yield aggregate

    def _aggregated(self, selection: _Selection, value: _Formula, cost: int) -> _Formula | None:
        """Return an aggregate; None where positions with different values are selected."""
        sop = rasp.Aggregate(selection.selector, value.sop, default=None)
        self.tried += 1
        try:
            codes, values = self.values.of(sop)
            _, inner_values = self.values.of(value.sop)
        except ProgramError:
            return None
        if None in inner_values or value.list_wide:
            return None
        missing = int((codes == values.index(None)).sum()) if None in values else 0
        if missing != selection.unselected(self.values):
            return None
        where = selection.at or f" where {selection.text}"
        name = f"{value.operand}[{where}]" if selection.at else f"{value.operand}{where}"
        return _Formula(name, cost, sop, not selection.at, value.kind)

    def _selections(self, cost: int) -> list[_Selection]:
        if cost not in self._selectors:
            self._selectors[cost] = list(self._new_selections(cost))
        return self._selectors[cost]

    def _new_selections(self, cost: int) -> Iterator[_Selection]:
        """Yield comparisons with constants, of one expression with itself, and with indices."""
        indices = self.kept[1]
        if cost == 2:
            last = _Formula("length - 1", 1, rasp.length - 1, True)
            yield _comparison(indices, last, rasp.Comparison.EQ, cost)
        for key in self._costing(cost - 1, TOKEN, POSITION, NUMBER):
            constants = self._vocabulary if key.kind == TOKEN else (0,)
            yield from (_constant(key, constant, cost) for constant in constants)
        half, odd = divmod(cost - 1, 2)
        for key in self._costing(half, TOKEN, POSITION, NUMBER) if not odd else []:
            if key is not indices:
                yield _comparison(key, key, rasp.Comparison.EQ, cost)
            if key.kind != TOKEN or self._ordered:
                yield _comparison(key, key, rasp.Comparison.LT, cost)
                yield _comparison(key, key, rasp.Comparison.GT, cost)
        for query in self._costing(cost - 2, POSITION, NUMBER):
            if query is not indices:
                yield _comparison(indices, query, rasp.Comparison.EQ, cost)
                if query.kind == POSITION:
                    yield _comparison(indices, query, rasp.Comparison.LT, cost)
                    yield _comparison(indices, query, rasp.Comparison.GT, cost)
        for query in self._costing(cost - 3, POSITION):
            for words, sop in (("- 1", query.sop - 1), ("+ 1", query.sop + 1)):
                moved = replace(query, name=f"{query.operand} {words}", sop=sop, compound=True)
                yield _comparison(indices, moved, rasp.Comparison.EQ, cost)
        half, odd = divmod(cost - 3, 2)
        earlier = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LT)
        for key in self._costing(half, TOKEN, NUMBER) if not odd else []:
            same = _comparison(key, key, rasp.Comparison.EQ, cost)
            text = f"{same.text} and indices < indices"
            before = rasp.SelectorAnd(same.selector, earlier)
            yield _Selection(text, cost, before)
            if key.kind == NUMBER or self._ordered:
                less = _comparison(key, key, rasp.Comparison.LT, cost)
                either = rasp.SelectorOr(less.selector, before)
                yield _Selection(f"{less.text} or {text}", cost, either)

    def _maps(self, cost: int) -> Iterator[_Formula]:
        for x in self._costing(cost - 1, POSITION):
            from_end = (rasp.length - 1) - x.sop
            yield _Formula(f"length - 1 - {x.operand}", cost, from_end, True, POSITION)
            yield _Formula(f"{x.operand} == 0", cost, x.sop == 0, True, TRUTH)
        for x in self._costing(cost - 1, NUMBER):
            yield _Formula(f"{x.operand} > 0", cost, x.sop > 0, True, TRUTH)
        for x in self._costing(cost - 3, POSITION, NUMBER):
            yield _Formula(f"{x.operand} % 2", cost, rasp.Map(_parity, x.sop), True, NUMBER)
        for x in self._costing(cost - 2, TOKEN):
            for token in self._vocabulary:
                name = f"{x.operand} == {stable_text(token)}"
                yield _Formula(name, cost, x.sop == token, True, TRUTH)
        for at in range(1, cost - 1):
            for x in self._costing(at, TOKEN):
                for y in self._costing(cost - 1 - at, TOKEN):
                    if x.name < y.name:
                        same = rasp.SequenceMap(_equal, x.sop, y.sop)
                        yield _Formula(f"{x.operand} == {y.operand}", cost, same, True, TRUTH)


@dataclass
class _Selection:
    """A selector with its text and its cost; `at` is the text of x in `indices == x`."""

    text: str
    cost: int
    selector: Any
    at: str = ""
    _unselected: int | None = None

    def unselected(self, values: _Values) -> int:
        """Return at how many places nothing is selected."""
        if self._unselected is None:
            self._unselected = values.unselected(self.selector)
        return self._unselected


def _constant(key: _Formula, value: Value, cost: int) -> _Selection:
    text = f"{key.operand} == {stable_text(value)}"
    whole = rasp.Full(value)
    at = stable_text(value) if key.name == "indices" else ""
    return _Selection(text, cost, rasp.Select(key.sop, whole, rasp.Comparison.EQ), at)


def _comparison(key: _Formula, query: _Formula, order: Any, cost: int) -> _Selection:
    text = f"{key.operand} {SYMBOLS[order]} {query.operand}"
    at = query.name if key.name == "indices" and order is rasp.Comparison.EQ else ""
    return _Selection(text, cost, rasp.Select(key.sop, query.sop, order), at)


def _kind(values: Sequence[Value], vocabulary: Sequence[Value]) -> str:
    given = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in given):
        return TRUTH
    if all(isinstance(value, int) for value in given):
        return NUMBER
    return TOKEN if set(given) <= set(vocabulary) else OTHER


def _is_ordered(vocabulary: Sequence[Value]) -> bool:
    try:
        sorted(vocabulary)  # type: ignore[type-var]
    except TypeError:
        return False
    return True


def _parity(x: int) -> int:
    return x % 2


def _equal(x: Value, y: Value) -> bool:
    return x == y
