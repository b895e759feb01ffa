"""A program's output when some of its variables are overridden.

Shapes: `cases` pairs of an input and other values, `pos` the positions of an encoded input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float32, Int, Int64
from torch import Tensor

from .inputs import InputSet
from .interpreter import Column, Interpreter, ProgramError, Value
from .outputs import IGNORE, Categorical


def overridden_targets(
    inputs: InputSet, bases: Int64[Tensor, " cases"], codes: Mapping[str, Int[Tensor, "cases pos"]]
) -> Int64[Tensor, "cases pos"] | Float32[Tensor, "cases pos"]:
    """Return the targets of inputs with variables overridden at every position.

    `codes` are indices into the values of the input set's variables. A target is undefined if the
    program gives nothing, raises, gives a value that occurs on no input, or takes the mean of
    several categories.
    """
    lengths = inputs.lengths[bases]
    targets = torch.full_like(inputs.targets[bases], _undefined(inputs))
    for length in torch.unique(lengths).tolist():
        rows, places = torch.nonzero(lengths == length)[:, 0], slice(1, length + 1)
        given = {name: values[rows, places].long() for name, values in codes.items()}
        targets[rows, places] = _of_length(inputs, inputs.tokens[bases[rows], places], given)
    return targets


def _of_length(
    inputs: InputSet, tokens: Int64[Tensor, "cases length"], codes: Mapping[str, Tensor]
) -> Tensor:
    task = inputs.task
    vocabulary = tuple(sorted(inputs.token_ids, key=inputs.token_ids.__getitem__))
    overrides = []
    for name, values in codes.items():
        variable = inputs.variables[name]
        places = torch.where(values == IGNORE, len(variable.values), values)
        overrides.append((task.variables[name], Column(places.numpy(), (*variable.values, None))))
    try:
        interpreter = Interpreter(
            Column(tokens.numpy(), vocabulary), task.causal, overrides, one_value=True
        )
        column = interpreter.column(task.program)
    except ProgramError:
        if len(tokens) == 1:
            return torch.full(tokens.shape, _undefined(inputs), dtype=inputs.targets.dtype)
        half = len(tokens) // 2
        parts = (slice(None, half), slice(half, None))
        return torch.cat(
            [
                _of_length(inputs, tokens[part], {name: v[part] for name, v in codes.items()})
                for part in parts
            ]
        )
    table = torch.tensor([_target(inputs, value) for value in column.values])
    return table.to(inputs.targets.dtype)[torch.from_numpy(column.codes).long()]


def _undefined(inputs: InputSet) -> float:
    return IGNORE if isinstance(inputs.output, Categorical) else math.nan


def _target(inputs: InputSet, value: Value) -> float:
    output = inputs.output
    if isinstance(output, Categorical):
        return output.values.index(value) if value in output.values else IGNORE
    return float(value) if isinstance(value, (int, float)) else math.nan
