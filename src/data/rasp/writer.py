"""Expressions of RASP as text."""

from __future__ import annotations

import enum
import functools
import keyword
import sys
from collections.abc import Generator, Iterable
from types import FunctionType, ModuleType
from typing import Any

from tracr.rasp import rasp

from .functions import (
    attribute_of,
    closure_of,
    defaults_of,
    global_data,
    lambda_source,
    operation_of,
    rasp_maker,
    real_name,
    stages_of,
    without_address,
)

_LONGEST_FUNCTION = 10_000
_LONGEST_VALUE = 400
_MOST_ITEMS = 50
_DEEPEST_VALUE = 3


class _Text(str):
    """Text and its binding strength: 0 a name, 1 an operation or lambda, 2 anything looser."""

    looseness: int

    def __new__(cls, text: str, looseness: int = 0) -> _Text:
        self = super().__new__(cls, text)
        self.looseness = looseness
        return self

    def inside(self, most: int = 0) -> str:
        return str(self) if self.looseness <= most else f"({self})"


_Steps = Generator[Any, Any, Any]  # returns a _Text, except `_each`


def run(steps: _Steps) -> str:
    """Run a generator that yields generators and gets their results: recursion of any depth."""
    path: list[_Steps] = [steps]
    answer: Any = None
    while path:
        try:
            path.append(path[-1].send(answer))
            answer = None
        except StopIteration as end:
            path.pop()
            answer = end.value
    return str(answer)


def _each(several: Iterable[_Steps]) -> _Steps:
    """Return the list of what several generators return."""
    texts = []
    for steps in several:
        text = yield steps
        texts.append(text)
    return texts


class Writer:
    """Writes expressions as text; expressions that have a name are referred to by it."""

    def __init__(self, names: dict[int, str]):
        self._names = names
        self._functions: dict[int, tuple[Any, _Text]] = {}

    def definition(self, expression: Any) -> _Steps:
        """Return the right-hand side of an expression's line."""
        if isinstance(expression, rasp.Map):
            text = self._reference(expression.inner)
            for stage in stages_of(expression.f):
                text = yield self._applied("map", stage, [text])
            return text
        if isinstance(expression, rasp.LinearSequenceMap):
            inputs = map(self._reference, expression.children)
            factors = [expression.fst_fac, expression.snd_fac]
            return _Text(f"linear_sequence_map({', '.join([*inputs, *map(self.show, factors)])})")
        if isinstance(expression, rasp.SequenceMap):
            inputs = map(self._reference, expression.children)
            return (yield self._applied("sequence_map", expression.f, list(inputs)))
        if isinstance(expression, rasp.Select):
            keys, queries = map(self._reference, expression.children)
            predicate = yield self._function(expression.predicate)
            return _Text(f"select(keys={keys}, queries={queries}, {predicate})")
        if isinstance(expression, (rasp.TokensType, rasp.IndicesType, rasp.LengthType)):
            return _Text(f"rasp.{rasp.default_name(expression)}")
        if isinstance(expression, rasp.Full):
            return _Text(f"full({self.show(expression.fill)})")
        if isinstance(expression, (rasp.ConstantSOp, rasp.ConstantSelector)):
            return _Text(f"{rasp.default_name(expression)}({self.show(expression.value)})")
        parts = yield _each(map(self._selector_or_name, expression.children))
        if isinstance(expression, rasp.Aggregate) and expression.default is not None:
            parts.append(f"default={self.show(expression.default)}")
        kind = rasp.default_name(expression)
        kind = type(expression).__name__ if kind in ("sop", "selector") else kind
        return _Text(f"{kind}({', '.join(parts)})")

    def show(self, value: Any) -> str:
        """Return a value as text that is the same in every process."""
        return run(self.value(value))

    def value(self, value: Any, depth: int = 0) -> _Steps:
        """Return a value as text, containers item by item."""
        if isinstance(value, rasp.RASPExpr):
            return self._reference(value)
        if isinstance(value, enum.Enum):
            return _Text(f"{type(value).__name__}.{value.name}")
        if type(value) in (list, tuple, set, frozenset, dict):
            return _cut((yield self._container(value, depth)), _LONGEST_VALUE)
        if callable(value):
            return _Text((yield self._function(value)).inside())
        plain = _listed(value)
        if plain is not value and depth <= _DEEPEST_VALUE:
            return (yield self.value(plain, depth + 1))
        return _cut(_object(value), _LONGEST_VALUE)

    def _container(self, value: Any, depth: int) -> _Steps:
        brackets = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        if not value and type(value) in (set, frozenset):
            return _Text("set()")
        if depth > _DEEPEST_VALUE:
            return _Text(f"{brackets[0]}…{brackets[1]}")
        ordered = isinstance(value, (list, tuple, dict))
        items = list(value)[: _MOST_ITEMS if ordered else None]
        texts = yield _each(self.value(item, depth + 1) for item in items)
        if isinstance(value, dict):
            values = yield _each(self.value(value[item], depth + 1) for item in items)
            texts = [f"{key}: {text}" for key, text in zip(texts, values, strict=True)]
        elif not ordered:
            texts = sorted(texts)[:_MOST_ITEMS]
        if len(value) > _MOST_ITEMS:
            texts.append("…")
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return _Text(f"{brackets[0]}{', '.join(texts)}{comma}{brackets[1]}")

    def _reference(self, expression: Any) -> _Text:
        name = self._names.get(id(expression))
        if name is None:
            return _Text(f"<{type(expression).__name__}>")
        plain = name.isidentifier() and not keyword.iskeyword(name)
        return _Text(name if plain else f"`{name}`")

    def _selector_or_name(self, expression: Any) -> _Steps:
        if id(expression) in self._names or not isinstance(expression, rasp.Selector):
            return self._reference(expression)
        return (yield self.definition(expression))

    def _applied(self, kind: str, function: Any, inputs: list[_Text]) -> _Steps:
        operation = operation_of(function, len(inputs))
        if operation is None:
            text = yield self._function(function)
            return _Text(f"{kind}({', '.join([text.inside(1), *inputs])})")
        template, constant = operation
        known = {name: text.inside() for name, text in zip("xy", inputs, strict=False)}
        known["c"] = self.show(constant)
        return _Text(" ".join(known.get(word, word) for word in template.split()), 1)

    def _function(self, function: Any) -> _Steps:
        if isinstance(function, rasp.Comparison):
            return _Text(function.value.upper())
        if id(function) not in self._functions:
            # An object that it refers to may refer back to it.
            self._functions[id(function)] = (function, _Text(real_name(function) or "<function>"))
            text = _cut((yield self._written(function)), _LONGEST_FUNCTION)
            self._functions[id(function)] = (function, text)
        return self._functions[id(function)][1]

    def _written(self, function: Any) -> _Steps:
        if isinstance(function, FunctionType):
            composed = _COMPOSED.get(rasp_maker(function))
            return (yield (composed or Writer._free_standing)(self, function))
        if isinstance(function, functools.partial):
            parts = yield _each(map(self.value, (function.func, *function.args)))
            values = yield _each(map(self.value, function.keywords.values()))
            parts += [
                f"{name}={text}" for name, text in zip(function.keywords, values, strict=True)
            ]
            return _Text(f"partial({', '.join(parts)})")
        name, owner = attribute_of(function, "__name__"), attribute_of(function, "__self__")
        if not isinstance(name, str):
            return _object(function)
        if owner is None or isinstance(owner, ModuleType):
            return _Text(name)
        return _Text(f"{(yield self.value(owner))}.{name}")

    def _free_standing(self, function: FunctionType) -> _Steps:
        known = {**closure_of(function), **global_data(function), **defaults_of(function)}
        text = _Text(function.__name__ if function.__name__.isidentifier() else "<function lambda>")
        if function.__name__ == "<lambda>" and (source := lambda_source(function)):
            text = _Text(source[0], 1)
            known = {name: value for name, value in known.items() if name not in source[1]}
        values = []
        for name, value in known.items():
            shown = yield self.value(value)
            if shown != name:
                values.append(f"{name} = {shown}")
        return _Text(f"{text} where {', '.join(values)}", 2) if values else text

    def _negated(self, function: FunctionType) -> _Steps:
        predicate = yield self._function(closure_of(function)["inner"].predicate)
        return _Text(f"not {predicate.inside()}", 2)

    def _combined(self, function: FunctionType) -> _Steps:
        cells = closure_of(function)
        if "combine" not in cells:
            return (yield self._filled(function))
        first = yield self._function(cells["fst_predicate"])
        second = yield self._function(cells["snd_predicate"])
        word = "and" if rasp_maker(cells["combine"]) == "selector_and" else "or"
        return _Text(f"{first.inside()} {word} {second.inside()}", 2)

    def _filled(self, function: FunctionType) -> _Steps:
        """Write a predicate with a constant on one side, from a `rasp.Full`."""
        (select,) = closure_of(function).values()
        side = "key" if "keys" in function.__code__.co_names else "query"
        full = select.keys if side == "key" else select.queries
        predicate = yield self._function(defaults_of(function)["p"])
        return _Text(f"{predicate.inside()} with {side}={self.show(full.fill)}", 2)


_COMPOSED = {"selector_not": Writer._negated, "_attempt_simplify": Writer._combined}


def _object(value: Any) -> _Text:
    """Return an object's own text if it is known to be stable, else its type's name."""
    kind = type(value)
    if kind.__module__.partition(".")[0] in sys.stdlib_module_names:
        try:
            text = repr(value)
        except Exception:  # such as an int of too many digits
            text = ""
        if text and text == without_address(text):
            return _Text(text)
    return _Text(f"<{kind.__name__}>")


def _listed(value: Any) -> Any:
    """Return a small array, or an array library's number, as Python values."""
    size = attribute_of(value, "size")
    if isinstance(size, int) and size <= _LONGEST_VALUE:
        try:
            return value.tolist()
        except Exception:  # not an array after all
            return value
    return value


def _cut(text: _Text, longest: int) -> _Text:
    return text if len(text) <= longest else _Text(f"{text[:longest]}…", text.looseness)
