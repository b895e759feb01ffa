"""Tasks in the terminal: a task in full, and the check of all tasks."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...config.composition import compose
from ...data.inputs import InputSet, difference, input_set
from ...data.rasp.text import describe
from ...data.registered_tasks import task_names
from ...data.tasks import Task, make_task
from ...infra.errors import FaultError, UserError
from ...infra.files import Unwritten
from ...infra.progress import Steps
from ...models.reference import Reference, build_reference
from ..figures.graphs import save_program_graph
from .summary import how_many, output_text, reference_text

EXAMPLES = 6
VALUES_SHOWN = 6
SIZES = ("n_layers", "n_heads", "d_model", "d_mlp")


def print_task(overrides: Sequence[str], picture: Path | None, console: Console) -> None:
    """Print one task in full, and draw its program.

    Raises:
        UserError: the task or its program is not valid.
        FaultError: an alternative computes another map, or the picture cannot be written.
    """
    config = compose(overrides).task
    task = make_task(config)
    picture = picture or Path(f"task-{task.name}.png")
    inputs = input_set(task, config)

    def say(text: str = "") -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"{task.name}: {task.about}" if task.about else task.name)
    algorithm = next(iter(task.algorithms.values()), "")
    say(f"\nprogram: {algorithm}" if algorithm else "\nprogram")
    for line in describe(task.program):
        say(f"  {line}")
    wrong: list[str] = []
    for name, alternative in task.alternatives.items():
        say(f"\nalternative {name}: {task.algorithms.get(name, '')}".rstrip().rstrip(":"))
        for line in describe(alternative):
            say(f"  {line}")
        other = input_set(task.with_program(name), config)
        differs = difference(inputs, other)
        equal = f"the same outputs on {how_many(inputs)}"
        say(f"  -> NOT THE SAME MAP: {differs}" if differs else f"  -> {equal}")
        wrong += [name] if differs else []
    console.print(_variables(inputs))
    tokens = ", ".join(map(str, task.vocabulary))
    limits = [note for note, there in _limits(task) if there]
    say(
        f"inputs      {how_many(inputs)} of length {task.min_length} to {task.max_length} over "
        f"{tokens}{''.join(f'; {limit}' for limit in limits)}"
    )
    say(f"output      {output_text(inputs)}")
    reference = build_reference(inputs, config.allow_inexact)
    say(f"reference   {reference_text(reference)}")
    say("examples")
    for row in examples(inputs):
        given = " ".join(map(str, inputs.listed(row)))
        say(f"  {given}  ->  {' '.join(shown(value) for value in inputs.values_at(row))}")
    unwritten = Unwritten()
    with unwritten.noted():
        save_program_graph(task, picture)
        say(f"graph       {picture}")
    if wrong:
        raise FaultError(
            f"{', '.join(wrong)} in task.alternatives: computes another map than {task.name}"
        )
    unwritten.tell()


def _limits(task: Task) -> Iterator[tuple[str, bool]]:
    yield "no token twice in a list", task.unique
    yield "restricted by task.restrict", task.accepts is not None
    yield "causal: no position sees a later one", task.causal


def _variables(inputs: InputSet) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variable", overflow="fold")
    table.add_column("kind", no_wrap=True)
    table.add_column("values")
    table.add_column("undefined", justify="right", no_wrap=True)
    real = inputs.real
    for name, variable in inputs.variables.items():
        values = ", ".join(shown(value) for value in variable.values[:VALUES_SHOWN])
        more = len(variable.values) - VALUES_SHOWN
        share = float((real & ~variable.defined).sum() / real.sum())
        table.add_row(
            escape(name),
            "number" if variable.numerical else "category",
            escape(values + (f", and {more} more" if more > 0 else "")),
            f"{share:.1%}" if share else "",
        )
    return table


def shown(value: object) -> str:
    """Return the value of a variable as text."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def examples(inputs: InputSet) -> list[int]:
    """Return the rows of some of the longest lists; deterministic."""
    rows = (inputs.lengths == inputs.lengths.max()).nonzero()[:, 0].tolist()
    return sorted(random.Random(0).sample(rows, min(EXAMPLES, len(rows))))


@dataclass(frozen=True)
class Checked:
    """The check of one program; `problem` is None if it is exact and computes the task's map."""

    name: str
    inputs: InputSet | None
    reference: Reference | None
    seconds: float
    problem: str | None
    alternative: bool


def check_tasks(names: Sequence[str], overrides: Sequence[str], console: Console) -> list[Checked]:
    """Compile and validate every program of the named tasks, and print the table.

    Raises:
        FaultError: a program is not exact, or an alternative computes another map.
    """
    checks: list[Checked] = []
    names = names or task_names()
    total = sum(_programs(name, overrides) for name in names)
    try:
        with Steps(console, "checking programs", total) as steps:
            for name in names:
                for checked in _check(name, overrides):
                    checks.append(checked)
                    steps.to(len(checks), checked.name)
    finally:  # show the programs checked so far, also after Ctrl-C
        console.print(_checked_table(checks))
    wrong = [check for check in checks if check.problem is not None]
    for failed in wrong:
        console.print(
            f"{failed.name}: {failed.problem}", markup=False, highlight=False, soft_wrap=True
        )
    if wrong:
        raise FaultError(f"{len(wrong)} of {len(checks)} programs failed the check")
    return checks


def _programs(name: str, overrides: Sequence[str]) -> int:
    """Return the number of programs of a task; 1 if the task is not valid."""
    try:
        return 1 + len(make_task(compose([f"task={name}", *overrides]).task).alternatives)
    except UserError:
        return 1


def _check(name: str, overrides: Sequence[str]) -> Iterator[Checked]:
    start = time.monotonic()
    inputs: InputSet | None = None
    try:
        config = compose([f"task={name}", *overrides]).task
        task = make_task(config)
        inputs = input_set(task, config)
        reference = build_reference(inputs)
    except UserError as error:
        yield Checked(name, inputs, None, time.monotonic() - start, str(error), alternative=False)
        return
    yield Checked(name, inputs, reference, time.monotonic() - start, None, alternative=False)
    for other_name in task.alternatives:
        start, problem, other = time.monotonic(), None, None
        try:
            other_inputs = input_set(task.with_program(other_name), config)
            differs = difference(inputs, other_inputs)
            problem = f"computes another map than {name}: {differs}" if differs else None
            other = build_reference(other_inputs)
        except UserError as error:
            problem = str(error)
        seconds = time.monotonic() - start
        yield Checked(other_name, inputs, other, seconds, problem, alternative=True)


def _checked_table(checks: Sequence[Checked]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("program", no_wrap=True)
    table.add_column("inputs", justify="right", no_wrap=True)
    table.add_column("layers/heads/\nd_model/d_mlp", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("exact", no_wrap=True)
    for check in checks:
        shape = check.reference.compiled.shape if check.reference else {}
        size = "/".join(str(shape[key]) for key in SIZES if shape)
        name = escape(f" {check.name}" if check.alternative else check.name)
        count = f"{len(check.inputs):,}" if check.inputs else ""
        table.add_row(
            name, count, size, f"{check.seconds:.1f}", "NO" if check.problem else _yes(check)
        )
    return table


def _yes(check: Checked) -> str:
    assert check.reference is not None
    error = check.reference.validation.largest_error
    sampled = "" if check.reference.inputs.exhaustive else ", sampled"
    return f"yes{sampled}" if error is None else f"to {error:.0e}{sampled}"
