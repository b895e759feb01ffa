"""Names for a program's expressions: the user's, or a formula over their inputs' names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tracr.rasp import rasp

from .functions import is_numerical, operation_of, real_name, stages_of, without_address
from .writer import Writer

_LONGEST_NAME = 60
_LONGEST_DERIVED_NAME = 40
_ONE_WORD = r"[\w.]+(\(.*\)|\[.*\]|\{.*\})?"
_INPUTS = (rasp.tokens, rasp.indices)


class _Label(NamedTuple):
    text: str
    compound: bool = False  # an operator stands outside all brackets

    @property
    def operand(self) -> str:
        return f"({self.text})" if self.compound else self.text


class Names:
    """The names of a program's expressions, by id."""

    def __init__(self, expressions: Sequence[Any]):
        self.of_sops: dict[int, str] = {}
        self._labels: dict[int, _Label] = {}
        self._reserved = {given_name(sop) for sop in expressions if isinstance(sop, rasp.SOp)}
        self._reserved |= {"tokens", "indices"}
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}
        for primitive in _INPUTS:
            self._name_input(primitive, expressions)
        for expression in expressions:
            if id(expression) not in self._labels:
                self._add(expression)

    def of_selectors(self, selectors: Iterable[Any]) -> dict[int, str]:
        """Return a name for each selector, distinct from all variables' names."""
        return {
            id(selector): self._unique(self._labels[id(selector)].text, False)
            for selector in selectors
        }

    def _name_input(self, primitive: Any, expressions: Sequence[Any]) -> None:
        plain = [expression for expression in expressions if _is_input(expression, primitive)]
        for sop in sorted(plain, key=lambda expression: expression is not primitive)[:1]:
            self._labels[id(sop)] = _Label(primitive.name)
            self.of_sops[id(sop)] = primitive.name
            self._taken.add(primitive.name)

    def _add(self, expression: Any) -> None:
        given = given_name(expression)
        derived = None if given else self._derived(expression)
        label = derived or _Label(given, not re.fullmatch(_ONE_WORD, given))
        if isinstance(expression, rasp.SOp):
            own = bool(given) and given not in ("tokens", "indices")
            label = label._replace(text=self._unique(label.text, own))
            self.of_sops[id(expression)] = label.text
        self._labels[id(expression)] = label

    def _unique(self, name: str, may_be_reserved: bool) -> str:
        if name not in self._taken and (may_be_reserved or name not in self._reserved):
            self._taken.add(name)
            return name
        count, numbered = self._counts.get(name, 1), name
        while numbered in self._taken or numbered in self._reserved:
            count += 1
            suffix = f"_{count}"
            numbered = name[: _LONGEST_NAME - len(suffix)] + suffix
        self._counts[name] = count
        self._taken.add(numbered)
        return numbered

    def _derived(self, expression: Any) -> _Label:
        label = self._computed(expression)
        label = label._replace(text=_clean(label.text))
        return label if len(label.text) <= _LONGEST_DERIVED_NAME else _short_label(expression)

    def _computed(self, expression: Any) -> _Label:
        inputs = [self._labels.get(id(child), _Label("_")) for child in expression.children]
        if isinstance(expression, rasp.Map):
            for stage in stages_of(expression.f):
                inputs = [_applied(stage, inputs, "map")]
            return inputs[0]
        if isinstance(expression, rasp.LinearSequenceMap):
            return _call("linear", inputs)
        if isinstance(expression, rasp.SequenceMap):
            return _applied(expression.f, inputs, "sequence_map")
        if isinstance(expression, rasp.Select):
            if expression.predicate is rasp.Comparison.TRUE:
                return _Label("all")
            if expression.predicate is rasp.Comparison.FALSE:
                return _Label("none")
            return _applied(expression.predicate, inputs, "select")
        if isinstance(expression, rasp.SelectorNot):
            return _operation_label(["not", inputs[0]])
        if isinstance(expression, (rasp.SelectorAnd, rasp.SelectorOr)):
            word = "and" if isinstance(expression, rasp.SelectorAnd) else "or"
            return _operation_label([inputs[0], word, inputs[1]])
        if isinstance(expression, rasp.Full):
            return _Label(f"full({_constant(expression.fill)})")
        short = _short_label(expression)
        return _call(short.text, inputs) if inputs else short


def _is_input(expression: Any, primitive: Any) -> bool:
    plain = type(expression) is type(primitive) and not is_numerical(expression)
    return plain and not given_name(expression)


def given_name(expression: Any) -> str:
    """Return the cleaned name that the user gave, or nothing."""
    name = expression.name
    return "" if name == rasp.default_name(expression) else _clean(without_address(str(name)))


def _short_label(expression: Any) -> _Label:
    if isinstance(expression, rasp.Aggregate) and is_numerical(expression):
        return _Label("mean")
    kind = rasp.default_name(expression)
    if kind in ("sop", "selector"):
        kind = _clean(type(expression).__name__)
    return _Label({"selector_width": "width", "constant_sop": "constant"}.get(kind, kind))


def _clean(name: str) -> str:
    """Return the name without characters that paths, metric names or back quotes cannot hold."""
    name = re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", name)
    name = name.replace("/", "÷").replace("@", "_at_").replace("`", "'")
    kept = (c if c.isprintable() and not c.isspace() else "_" for c in name)
    return "".join(kept)[:_LONGEST_NAME]


def _applied(function: Any, inputs: Sequence[_Label], otherwise: str) -> _Label:
    operation = operation_of(function, len(inputs))
    if operation is None:
        return _call(real_name(function) or otherwise, inputs)
    template, constant = operation
    known = dict(zip("xy", inputs, strict=False)) | {"c": _Label(_constant(constant))}
    return _operation_label([known.get(word, word) for word in template.split()])


def _operation_label(words: Sequence[_Label | str]) -> _Label:
    parts = []
    for word in words:
        if isinstance(word, _Label):
            parts.append(word.operand)
        else:
            parts.append({"not": "not_", "and": "_and_", "or": "_or_"}.get(word, word))
    return _Label("".join(parts), True)


def _call(function: str, inputs: Iterable[_Label]) -> _Label:
    return _Label(f"{function}({','.join(label.text for label in inputs)})")


def _constant(value: Any) -> str:
    return re.sub(r"\s", "_", value) if isinstance(value, str) and value else Writer({}).show(value)
