"""RASP programs: makers, their named variables, and an interpreter that traces them.

A maker returns an s-op. It may ask for the keyword arguments `vocabulary` and
`max_length`; it gets those it names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tracr.rasp import rasp

Value = None | bool | int | float | str
Maker = Callable[..., Any]


def make_reverse() -> Any:
    """Reverse the list: position i attends to position length - i - 1."""
    everything = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE).named("everything")
    length = rasp.SelectorWidth(everything).named("length")
    opposite = (length - rasp.indices).named("opp_idx")
    mirror = (opposite - 1).named("opp_idx-1")
    selector = rasp.Select(rasp.indices, mirror, rasp.Comparison.EQ).named("reverse_selector")
    return rasp.Aggregate(selector, rasp.tokens).named("reverse")


def call_maker(maker: Maker, vocabulary: Sequence[Value], max_length: int) -> Any:
    """Return the s-op of a maker, giving it whichever arguments it names."""
    available = {"vocabulary": list(vocabulary), "max_length": max_length}
    wanted = inspect.signature(maker).parameters
    return maker(**{name: value for name, value in available.items() if name in wanted})


def variables(program: Any) -> dict[str, Any]:
    """Return a program's variables, name to s-op, inputs first and the output last.

    A name that several different s-ops carry (the unnamed ones carry their class's) is
    numbered in program order: `map`, `map_2`, ...
    """
    found: dict[str, Any] = {}
    visited: set[int] = set()

    def visit(expression: Any) -> None:
        if id(expression) in visited:
            return
        visited.add(id(expression))
        for child in expression.children:
            visit(child)
        if isinstance(expression, rasp.SOp):
            name, count = expression.name, 1
            while name in found:
                count += 1
                name = f"{expression.name}_{count}"
            found[name] = expression

    visit(program)
    return found


class Interpreter(rasp.DefaultRASPEvaluator):  # type: ignore[misc]
    """Tracr's evaluator, evaluating each s-op once an input, with values overridden at will."""

    def __init__(self, overrides: Iterable[tuple[Any, Sequence[Value]]] = ()):
        super().__init__()
        # By id, for s-ops have no hash; each is kept, so that its id is not given to another.
        self._known: dict[int, tuple[Any, Any]] = {
            id(sop): (sop, list(values)) for sop, values in overrides
        }

    def evaluate(self, expr: Any, xs: Sequence[Value]) -> Any:
        """Return the value of `expr` on `xs`; one Interpreter serves one input."""
        if id(expr) not in self._known:
            self._known[id(expr)] = (expr, super().evaluate(expr, xs))
        return self._known[id(expr)][1]


def trace(named: Mapping[str, Any], xs: Sequence[Value]) -> dict[str, list[Value]]:
    """Return the value of every variable at every position of the input `xs`."""
    interpreter = Interpreter()
    return {name: list(interpreter.evaluate(sop, xs)) for name, sop in named.items()}
