"""A program's output with overridden variables, by Tracr's evaluator, one list at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tracr.rasp import causal_eval, rasp

from algomatch.data.inputs import InputSet
from algomatch.data.outputs import IGNORE, Categorical
from algomatch.data.tasks import Task


def overridden(
    task: Task, tokens: Sequence[Any], given: Mapping[str, Sequence[Any]]
) -> list[Any] | None:
    """The program's output; None where it raises.

    A categorical aggregate of several different values gives None: categories have no mean.
    """
    base: Any = causal_eval.CausalEvaluator if task.causal else rasp.DefaultRASPEvaluator
    values: dict[int, Any] = {
        id(task.variables[name]): list(those) for name, those in given.items()
    }

    class Evaluator(base):  # type: ignore[misc]
        def evaluate(self, expression: Any, xs: Sequence[Any]) -> Any:
            if id(expression) not in values:
                values[id(expression)] = super().evaluate(expression, xs)
            return values[id(expression)]

        def eval_aggregate(self, sop: Any, xs: Sequence[Any]) -> list[Any]:
            if rasp.is_numerical(sop):
                return list(super().eval_aggregate(sop, xs))
            rows, among = self.evaluate(sop.selector, xs), self.evaluate(sop.sop, xs)
            chosen = [[x for s, x in zip(row, among, strict=True) if s] for row in rows]
            return [
                (some[0] if all(x == some[0] for x in some) else None) if some else sop.default
                for some in chosen
            ]

    try:
        return list(Evaluator().evaluate(task.program, list(tokens)))
    except Exception:
        return None


def values_of(inputs: InputSet, name: str, row: int) -> list[Any]:
    """A variable's values at the positions of an input's list."""
    variable = inputs.variables[name]
    codes = variable.codes[row, 1 : int(inputs.lengths[row]) + 1].tolist()
    return [None if code == IGNORE else variable.values[code] for code in codes]


def says(inputs: InputSet, targets: torch.Tensor, wanted: Sequence[Any] | None) -> bool:
    """Whether the targets of an encoded input are the wanted values, undefined where these are.

    A value that the program never gives counts as undefined too.
    """
    defined = inputs.output.defined(targets).tolist()
    if wanted is None:
        return not any(defined)
    length = len(wanted)
    if any(defined[:1]) or any(defined[length + 1 :]):
        return False
    given = targets[1 : length + 1].tolist()
    for code, known, value in zip(given, defined[1 : length + 1], wanted, strict=True):
        if isinstance(inputs.output, Categorical):
            there = value is not None and value in inputs.output.values
            if known != there or (known and inputs.output.values[code] != value):
                return False
        elif known != (value is not None) or (known and abs(code - value) > 1e-6):
            return False
    return True
