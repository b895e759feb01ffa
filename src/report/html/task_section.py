"""The section of a page on the task: its program as text and as a graph, and its inputs."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl

from ...config.composition import flattened
from ...config.schema import Config
from ...data.inputs import InputSet
from ...data.rasp.text import describe, edges
from ...data.tasks import Task
from ..figures.graphs import program_graph
from ..terminal.summary import how_many, output_text
from ..terminal.task_view import examples, shown
from .blocks import Cell, Code, Details, Picture, Section, Table, Text

VALUES_SHOWN = 8


def task_section(task: Task, inputs: InputSet, config: Config) -> Section:
    """Return the section on the task: program, alternatives, inputs and the whole config."""
    algorithm = next(iter(task.algorithms.values()), "")
    blocks: list[Any] = [
        Text(algorithm) if algorithm else Text("The program, a line for each of its variables:"),
        Code("The program in RASP", describe(task.program)),
        dataflow(task),
    ]
    for name, alternative in task.alternatives.items():
        other = task.with_program(name)
        about = task.algorithms.get(name, "")
        blocks.append(
            Details(
                f"Another program for the same task: {name}",
                [
                    *([Text(about)] if about else []),
                    Code(f"{name} in RASP", describe(alternative)),
                    dataflow(other),
                ],
            )
        )
    tokens = ", ".join(map(str, task.vocabulary))
    lengths = f"{task.min_length} to {task.max_length}"
    if task.min_length == task.max_length:
        lengths = f"{task.min_length}, always (so `length` is constant)"
    blocks += [
        Text(f"Inputs: {how_many(inputs)} over the tokens {tokens}, of length {lengths}. Output: "
             f"{output_text(inputs)}."),
        _examples(inputs),
        Details("The program's variables, with the values that occur", [_variables(inputs)]),
        Details("The run's whole config", [_config(config)]),
    ]  # fmt: skip
    lead = f"{task.about}." if task.about else "The task, and a program that solves it."
    return Section("task", "Task and program", lead.replace("..", "."), blocks)


def dataflow(task: Task) -> Picture:
    """Return the dataflow of a program as an inline SVG, with a text alternative."""
    reads: dict[str, list[str]] = {}
    for source, target, role in edges(task.program):
        reads.setdefault(target, []).append(source if role == "value" else f"{source} as {role}")
    said = "; ".join(f"{target} reads {', '.join(sources)}" for target, sources in reads.items())
    return Picture(
        f"Dataflow of {task.name}, from inputs on top to the output at the bottom. {said}.",
        "What each variable of the program is computed from: values, and the keys and queries "
        "of selectors.",
        svg=svg(program_graph(task), task.name),
    )


def svg(figure: Any, salt: str) -> str:
    """Return a figure as SVG markup for a page, without header, comments and metadata."""
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    text = content.getvalue().decode()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text[text.index("<svg") :]
    width = re.search(r'width="([\d.]+)pt"', text)
    size = f'style="max-width:{float(width.group(1)) * 1.1:.0f}px" ' if width else ""
    text = re.sub(r'(width|height)="[\d.]+pt" ?', "", text, count=2)
    own = hashlib.sha256(salt.encode()).hexdigest()[:6]  # makes ids unique in a page
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", text)
    return text.replace("<svg ", f'<svg {size}aria-hidden="true" ', 1).strip()


def _examples(inputs: InputSet) -> Table:
    rows = [
        [
            Cell(" ".join(map(str, inputs.listed(row))), code=True),
            Cell(" ".join(shown(value) for value in inputs.values_at(row)), code=True),
        ]
        for row in examples(inputs)
    ]
    return Table("Some inputs and their outputs", ("input", "output"), rows)


def _variables(inputs: InputSet) -> Table:
    rows = []
    for name, variable in inputs.variables.items():
        values = ", ".join(shown(value) for value in variable.values[:VALUES_SHOWN])
        more = len(variable.values) - VALUES_SHOWN
        kind = "number" if variable.numerical else "category"
        text = values + (f", and {more} more" if more > 0 else "")
        rows.append([Cell(name, code=True), Cell(kind), Cell(text)])
    return Table("Variables of the program", ("variable", "kind", "values"), rows)


def _config(config: Config) -> Table:
    rows = [[Cell(key, code=True), Cell(value)] for key, value in _settings(config)]
    return Table("Settings", ("key", "value"), rows)


def _settings(config: Config) -> Iterator[tuple[str, str]]:
    for key, value in flattened(config, ("run_dir", "runs_dir", "tracking")).items():
        yield key, "null" if value is None else str(value)
