"""Which measures tell models that run the program from models that do not, and by how much."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...infra.typed_tables import TypedTable
from ..controls.known_models import NEGATIVE, POSITIVE, Control
from ..measurements import Measurement
from .sparsity import REFERENCE
from .suite import declared_metrics, headlines

EXACT = "accuracy/all/exact"
BECAUSE = {  # the group of the highest negative
    "random init": "untrained networks of this shape show as much",
    "shuffled labels": "a network that learns labels by heart shows as much",
    "trained other": "a network trained on another task shows as much",
    "compiled other": "a compiled program of another task shows as much",
}
THOUGH = {  # the group of the lowest positive
    "implemented": "a learned model can run the program and show less",
    "reparametrised": "the same program in another basis shows less",
    "noised": "the same program with a little noise shows less",
}


@dataclass(frozen=True)
class Separation:
    """A measure on a task's controls: its lowest positive, its highest negative, and which.

    `why` says what it means that they overlap, where they do.
    """

    key: str
    lowest_positive: float
    positive: str
    highest_negative: float
    negative: str
    why: str

    @property
    def gap(self) -> float:
        """By how much the lowest positive is above the highest negative."""
        return self.lowest_positive - self.highest_negative

    @property
    def separates(self) -> bool:
        """Whether there is such a gap."""
        return self.gap > 0


SEPARATIONS = TypedTable(Separation, "separation.csv", derived=("gap", "separates"))


def qualifies(control: Control, rows: Iterable[Measurement]) -> bool:
    """Return whether a control is what it is meant to be: a positive or decoy solves the task.

    A negative does not.
    """
    exact = next((row.value for row in rows if row.key == EXACT), None)
    if exact is None:
        return True
    return exact < 1 if control.kind == NEGATIVE else exact == 1


def tested(rows: Iterable[Measurement]) -> dict[str, float]:
    """Return the headlines that are meant to speak for the program, by key."""
    metrics = declared_metrics()
    return {
        row.key: row.value
        for row in headlines(rows)
        if metrics[row.measure].match and not row.subject.startswith(REFERENCE)
    }


def separations(
    measured: Sequence[tuple[Control, Sequence[Measurement]]],
) -> list[Separation]:
    """Return how each measure does on the controls that qualify.

    A control that has no value of a measure counts as 0; where it has nothing that measures of this
    kind are taken of, as neurons, it is left out. Measures with no negative or no positive are left
    out.
    """
    good = [(control, tested(rows)) for control, rows in measured if qualifies(control, rows)]
    keys = list(dict.fromkeys(key for _, values in good for key in values))
    table = []
    for key in keys:
        sides = {
            kind: [
                (values.get(key, 0.0), control)
                for control, values in good
                if control.kind == kind and any(_kind(other) == _kind(key) for other in values)
            ]
            for kind in (POSITIVE, NEGATIVE)
        }
        if not all(sides.values()):
            continue
        low, positive = min(sides[POSITIVE], key=lambda pair: pair[0])
        high, negative = max(sides[NEGATIVE], key=lambda pair: pair[0])
        why = "" if low > high else _why(positive, negative)
        table.append(Separation(key, low, positive.name, high, negative.name, why))
    return table


def _kind(key: str) -> str:
    """Return what a measure is taken of: `sparsity` of neurons."""
    return key.partition("/")[0]


def _why(positive: Control, negative: Control) -> str:
    parts = [BECAUSE.get(negative.group), THOUGH.get(positive.group)]
    return "; ".join(part for part in parts if part)


def failing(rows: Iterable[Separation]) -> dict[str, str]:
    """Return the measures that do not separate, and why."""
    return {row.key: row.why or "controls overlap" for row in rows if not row.separates}
