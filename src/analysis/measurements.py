"""Measurements: one row each, how each is declared, and the table they are kept in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..infra.typed_tables import TypedTable


@dataclass(frozen=True)
class Metric:
    """The declaration of a measure: its name, unit, direction and bounds, and what it says.

    `name` is `group/name`; a measurement adds its subject in between. `better` is "higher",
    "lower" or, where neither is good in itself, "neither". `emerges` is the value whose first
    passing counts as the emergence, where there is one that means the same everywhere. `match` says
    that a higher value is meant to speak for the program: that is what controls put to the test.
    """

    name: str
    unit: str
    better: str
    low: float
    high: float
    about: str
    emerges: float | None = None
    match: bool = False


@dataclass(frozen=True)
class Measurement:
    """One row: a measure of a subject at a step, its n and its 95% interval where it has one."""

    measure: str
    subject: str
    value: float
    n: int
    ci_low: float | None = None
    ci_high: float | None = None
    run: str = ""
    step: int = 0

    @property
    def key(self) -> str:
        """`group/subject/name`, as in W&B."""
        group, _, name = self.measure.partition("/")
        return f"{group}/{self.subject}/{name}"

    def at(self, run: str, step: int) -> Measurement:
        """Return this measurement as taken of `run` at `step`."""
        return replace(self, run=run, step=step)


def whole(subject: str) -> bool:
    """Return whether a subject is of all inputs, not of one length."""
    return ".length_" not in subject


FIRST = ("run", "step")
# Its bytes are covered by a checkpoint's digest, so it has no column that says its format: the
# checkpoint does.
MEASUREMENTS = TypedTable(
    Measurement, "measurements.csv", first=("run", "step"), stamped=False, ending="\r\n"
)


def to_csv(rows: Iterable[Measurement]) -> bytes:
    """Return the rows as CSV, which `from_csv` reads back exactly, and this writes again alike."""
    return MEASUREMENTS.to_csv(rows)


def joined_csv(tables: Iterable[bytes]) -> bytes:
    """Return one CSV of several that `to_csv` wrote."""
    header = to_csv(())
    return header + b"".join(table.removeprefix(header) for table in tables)


def from_csv(content: bytes, source: str) -> list[Measurement]:
    """Return the rows of a CSV that `to_csv` wrote.

    Raises:
        FaultError: `content` is damaged; `source` names it.
    """
    return MEASUREMENTS.from_csv(content, source)


def differences(old: Sequence[Measurement], new: Sequence[Measurement]) -> list[str]:
    """Return a line for each measurement that is not the same, to the last bit, in both."""
    before = {(row.measure, row.subject): row for row in old}
    after = {(row.measure, row.subject): row for row in new}
    lines = []
    for key in sorted({*before, *after}):
        recorded, other = before.get(key), after.get(key)
        if recorded is None or other is None:
            lines.append(
                f"{' '.join(key)}: only {'recomputed' if recorded is None else 'recorded'}"
            )
        elif not _same(recorded, other):
            lines.append(f"{recorded.key}: recorded {_shown(recorded)}, recomputed {_shown(other)}")
    return lines


def _shown(row: Measurement) -> str:
    interval = "" if row.ci_low is None else f" [{row.ci_low!r}, {row.ci_high!r}]"
    return f"{row.value!r}{interval} (n={row.n})"


def _same(row: Measurement, other: Measurement) -> bool:
    pairs = ((row.value, other.value), (row.ci_low, other.ci_low), (row.ci_high, other.ci_high))
    return row.n == other.n and all(
        a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))
        for a, b in pairs
    )
