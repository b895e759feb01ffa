"""Other tasks over the same vocabulary and lengths: those that share the fewest variables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from ...config.schema import TaskConfig
from ...data.inputs import InputSet, difference, input_set
from ...data.tasks import Task, other_tasks
from ...infra.errors import UserError
from ...models.reference import Reference, build_reference

COMPARED = 500  # inputs on which programs are looked through for variables that they share


def other_references(inputs: InputSet, config: TaskConfig, count: int) -> list[Reference]:
    """Return the compiled programs of other tasks over the same vocabulary and lengths.

    Those are taken that share the fewest variables with the inputs' program, the first in the
    registry first: a model of a task that needs the same variable is no negative control for it.
    Fewer are returned where there are no more that can be made and compiled exactly.
    """
    references: list[Reference] = []
    for task in _least_shared(inputs.task, config, count):
        if len(references) == count:
            break
        try:
            references.append(build_reference(input_set(task, config)))
        except UserError:  # Tracr cannot, or not exactly
            continue
    return references


def _least_shared(task: Task, config: TaskConfig, count: int) -> Iterator[Task]:
    """Yield other tasks, those that share the fewest variables first."""
    most = min(config.max_inputs, max(COMPARED, len(task.lengths)))
    few = replace(config, max_inputs=most)
    inputs, later = input_set(task, few), list[tuple[int, Task]]()
    for other in other_tasks(task) if count else ():
        try:
            theirs = input_set(other, few)
        except UserError:  # it fails on some of these inputs
            continue
        if difference(inputs, theirs) is None:
            continue
        shared = len(shared_variables(inputs, theirs))
        if shared == 0:
            yield other
        else:
            later.append((shared, other))
    for _, other in sorted(later, key=lambda pair: pair[0]):
        yield other


def shared_variables(inputs: InputSet, theirs: InputSet) -> list[str]:
    """Return which of a program's variables another program's variables determine, one by one.

    On the same inputs, and of those variables that token and position do not determine.
    """
    real = inputs.real
    where = torch.nonzero(real)[:, 1]
    trivial = _joint(inputs.tokens[real], where)
    others = [variable.codes[real].long() for variable in theirs.variables.values()]
    others = [codes for codes in others if not _determines(trivial, codes)]
    return [
        name
        for name, variable in inputs.variables.items()
        if not _determines(trivial, codes := variable.codes[real].long())
        and any(_determines(other, codes) for other in others)
    ]


def _joint(
    codes: Int64[Tensor, " cases"], other: Int64[Tensor, " cases"]
) -> Int64[Tensor, " cases"]:
    return (codes - codes.min()) * (int(other.max()) - int(other.min()) + 1) + (other - other.min())


def _determines(codes: Int64[Tensor, " cases"], other: Int64[Tensor, " cases"]) -> bool:
    """Return whether the one's value says what the other's is."""
    return len(torch.unique(_joint(codes, other))) == len(torch.unique(codes))
