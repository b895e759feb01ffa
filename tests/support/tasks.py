"""Every registered program on short lists of few tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.registered_tasks import REGISTRY
from algomatch.data.tasks import Task, make_task


def small_config(name: str) -> TaskConfig:
    """A registered task on lists of up to four tokens, with three tokens or those it needs."""
    row = REGISTRY[name]
    brackets = name.startswith("shuffle_dyck")
    longest = 3 if len(row.vocabulary) == 4 and brackets else 4
    size = len(row.vocabulary) if brackets else 4 if row.unique else 3
    return TaskConfig(name=name, vocabulary=list(row.vocabulary[:size]), max_length=longest)


@cache
def small_task(program: str) -> Task:
    """The task of a registered program; an alternative becomes the task's program."""
    name = TASK_OF[program]
    task = make_task(small_config(name))
    return task if program == name else task.with_program(program)


@cache
def small_inputs(program: str) -> InputSet:
    """All inputs of a registered program's small task."""
    return input_set(small_task(program), replace(small_config(TASK_OF[program]), held_out=0.0))


TASK_OF = {
    program: name
    for name in REGISTRY
    for program in (name, *make_task(small_config(name)).alternatives)
}
