"""The tables that other commands wrote into a run's folder, read back."""

from __future__ import annotations

import csv
import io
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ...runs.result_store import CIRCUIT, EXPLANATION, Result, results

Row = Mapping[str, str]


@dataclass(frozen=True)
class Left:
    """The rows of a table that a command wrote; `problem` says why it cannot be read."""

    rows: tuple[Row, ...] = ()
    problem: str = ""

    @property
    def there(self) -> bool:
        """Whether there are rows."""
        return bool(self.rows)


def read_table(path: Path, needed: Iterable[str]) -> Left:
    """Read a CSV; no rows and the problem if it is damaged or lacks a needed column."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return Left()
    except (OSError, UnicodeDecodeError) as error:
        return Left(problem=f"the table {path.name} cannot be read: {error}")
    lines = csv.DictReader(io.StringIO(text, newline=""))
    lacking = [name for name in needed if name not in (lines.fieldnames or ())]
    if lacking:
        names = ", ".join(lacking)
        return Left(problem=f"the table {path.name}, of another version, has no column {names}")
    try:
        rows = tuple(dict(row) for row in lines)
    except csv.Error as error:
        return Left(problem=f"the table {path.name} is damaged: {error}")
    if any(None in row or None in row.values() for row in rows):
        return Left(
            problem=f"the table {path.name} is damaged: a line has another number of columns"
        )
    return Left(rows)


def value(row: Row, name: str) -> float | None:
    """Return a number of a row, None if it has none.

    >>> value({"x": "0.5", "y": ""}, "x"), value({"x": "0.5", "y": ""}, "y")
    (0.5, None)
    """
    try:
        number = float(row.get(name, ""))
    except ValueError:
        return None
    return None if math.isnan(number) else number


def whole(row: Row, name: str) -> int | None:
    """Return an integer of a row, None if it has none."""
    number = value(row, name)
    return None if number is None or math.isinf(number) else int(number)


def picture(path: Path) -> str:
    """Return a PNG as a data URI, empty if there is no file."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    return f"data:image/png;base64,{b64encode(content).decode()}"


def step_in(title: str) -> int | None:
    """Return the step at the end of a result's title.

    >>> step_in("2L-reverse-s0-1a2b, step 300")
    300
    """
    matched = re.search(r", step (\d+)$", title)
    return int(matched.group(1)) if matched else None


def last_step_of(rows: Iterable[Row]) -> int | None:
    """Return the last step named in the titles of results."""
    steps = (step_in(row["model"]) for row in rows)
    return max((step for step in steps if step is not None), default=None)


def of_step(left: Left, step: int | None) -> Left:
    """Return the rows of a table at one step."""
    rows = tuple(row for row in left.rows if step_in(row["model"]) == step)
    return replace(left, rows=rows)


@dataclass(frozen=True)
class Results:
    """The results of `match`, `circuit` and `explain` in a run's folder.

    The tables of `match` hold every checkpoint that was matched, those of the others only the last.
    """

    folder: Path

    @cached_property
    def circuit_step(self) -> int | None:
        """The step of the last checkpoint with circuits."""
        return last_step_of(self._circuits.rows or self._edges.rows)

    @cached_property
    def explained_step(self) -> int | None:
        """The step of the last checkpoint that was explained."""
        return last_step_of(self._heads.rows or self._neurons.rows)

    @cached_property
    def circuit_left(self) -> Result | None:
        """The result behind the circuit's tables; None if an earlier version wrote them."""
        return self._left("circuit", CIRCUIT, self.circuit_step)

    @cached_property
    def explanation_left(self) -> Result | None:
        """The result behind the explanation's tables; None if an earlier version wrote them."""
        return self._left("explanation", EXPLANATION, self.explained_step)

    def _left(self, name: str, what: str, step: int | None) -> Result | None:
        some = [result for result in results(self.folder / name) if result.key.what == what]
        return max(
            (result for result in some if result.key.step == step),
            key=lambda result: result.rank,
            default=None,
        )

    @cached_property
    def matches(self) -> Left:
        """Every test of every cut at every site, for each checkpoint that was matched."""
        needed = ("step", "program", "cut", "site", "match", "match_low", "match_high", "chance",
                  "n", "verdict")  # fmt: skip
        return read_table(self.folder / "matching" / "match.csv", needed)

    @cached_property
    def programs(self) -> Left:
        """The verdict on each program, for each checkpoint that was matched."""
        needed = ("step", "exact", "program", "verdict", "score", "why", "shared_with", "decided")
        return read_table(self.folder / "matching" / "programs.csv", needed)

    @cached_property
    def emergence(self) -> Left:
        """The best match of each testable cut and variable, for each matched checkpoint."""
        needed = ("step", "program", "kind", "name", "match")
        return read_table(self.folder / "matching" / "emergence.csv", needed)

    @cached_property
    def selectors(self) -> Left:
        """How well heads match the programs' selectors."""
        needed = ("step", "program", "selectors", "head", "overlap", "low", "high", "random_init")
        return read_table(self.folder / "matching" / "selectors.csv", needed)

    @property
    def circuits(self) -> Left:
        """Every circuit of every curve of faithfulness over size."""
        return of_step(self._circuits, self.circuit_step)

    @cached_property
    def _circuits(self) -> Left:
        needed = ("model", "ablation", "method", "edges", "faithfulness", "exact", "chosen")
        return read_table(self.folder / "circuit" / "circuits.csv", needed)

    @property
    def edges(self) -> Left:
        """Every edge of the model."""
        return of_step(self._edges, self.circuit_step)

    @cached_property
    def _edges(self) -> Left:
        needed = ("model", "edge", "in_circuit", "needed", "carries", "share", "chance")
        return read_table(self.folder / "circuit" / "edges.csv", needed)

    @cached_property
    def carried(self) -> Left:
        """The variables that edges carry, in the model, the reference and a random init."""
        needed = ("model", "of", "edge", "inner", "carries", "share", "chance")
        return of_step(
            read_table(self.folder / "circuit" / "carried.csv", needed), self.circuit_step
        )

    @cached_property
    def lengths(self) -> Left:
        """The accuracy of the circuit by length."""
        needed = ("model", "length", "inputs", "faithfulness", "completeness", "exact")
        return of_step(
            read_table(self.folder / "circuit" / "lengths.csv", needed), self.circuit_step
        )

    @property
    def circuit_picture(self) -> str:
        """The circuit's picture as a data URI."""
        return picture(self.folder / "circuit" / "circuit.png")

    @property
    def heads(self) -> Left:
        """The explanation of each head."""
        return of_step(self._heads, self.explained_step)

    @cached_property
    def _heads(self) -> Left:
        needed = ("model", "layer", "head", "level", "selector", "selector_overlap", "table",
                  "table_overlap", "uniform")  # fmt: skip
        return read_table(self.folder / "explanation" / "heads.csv", needed)

    @property
    def neurons(self) -> Left:
        """The predicate of each neuron."""
        return of_step(self._neurons, self.explained_step)

    @cached_property
    def _neurons(self) -> Left:
        needed = ("model", "layer", "neuron", "state", "predicate", "accuracy", "shuffled")
        return read_table(self.folder / "explanation" / "neurons.csv", needed)

    @cached_property
    def untrained_neurons(self) -> Left:
        """The predicates of a random init's neurons."""
        needed = ("model", "layer", "neuron", "state", "explained")
        return of_step(
            read_table(self.folder / "explanation" / "neurons-random-init.csv", needed),
            self.explained_step,
        )

    @cached_property
    def explained(self) -> Left:
        """The accuracy of the explained model."""
        needed = ("model", "explained", "control", "up_to_layer", "inputs", "length", "n", "exact")
        return of_step(
            read_table(self.folder / "explanation" / "explained.csv", needed), self.explained_step
        )
