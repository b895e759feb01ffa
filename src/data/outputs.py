"""What a program's output is, to a model: one of several classes, or a number.

This is the one place that knows when an output is right and what a wrong one costs.

Shapes: `cases` any shape; a model gives `width` values a case, the targets one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

IGNORE = -100  # the class of a case that counts in no loss and no metric; of a number it is nan


@dataclass(frozen=True)
class Categorical:
    """One of several values; the model gives a logit for each."""

    values: tuple[Any, ...]

    @property
    def width(self) -> int:
        """How many values a model gives at a position."""
        return len(self.values)

    def defined(self, targets: Int64[Tensor, "*cases"]) -> Bool[Tensor, "*cases"]:
        """Return where there is an output to give."""
        return targets != IGNORE

    def right(
        self, given: Float[Tensor, "*cases width"], targets: Int64[Tensor, "*cases"]
    ) -> Bool[Tensor, "*cases"]:
        """Return where the likeliest class is the target; nowhere where there is none."""
        return given.argmax(-1) == targets

    def loss(
        self, given: Float[Tensor, "*cases width"], targets: Int64[Tensor, "*cases"]
    ) -> Float[Tensor, "*cases"]:
        """Return the cross-entropy, in nats; 0 where there is no target."""
        flat = F.cross_entropy(
            given.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="none"
        )
        return flat.view(targets.shape)

    def same(self, target: Tensor, other: Tensor) -> Bool[Tensor, "*cases"]:
        """Return where a target would be right for another."""
        return target == other

    def decode(self, given: Float[Tensor, "cases width"]) -> list[object]:
        """Return the values that a model gives."""
        return [self.values[index] for index in given.argmax(-1).tolist()]


@dataclass(frozen=True)
class Numerical:
    """A number; the model gives it, and is right within a tolerance.

    Of a model of another task, which gives more, the first is taken for it.
    """

    tolerance: float
    width = 1

    def defined(self, targets: Float[Tensor, "*cases"]) -> Bool[Tensor, "*cases"]:
        """Return where there is an output to give."""
        return ~targets.isnan()

    def right(
        self, given: Float[Tensor, "*cases width"], targets: Float[Tensor, "*cases"]
    ) -> Bool[Tensor, "*cases"]:
        """Return where the number is within the tolerance; nowhere where there is no target."""
        return (given[..., 0] - targets).abs() <= self.tolerance

    def loss(
        self, given: Float[Tensor, "*cases width"], targets: Float[Tensor, "*cases"]
    ) -> Float[Tensor, "*cases"]:
        """Return the squared error; 0 where there is no target."""
        number = given[..., 0]
        wanted = torch.where(targets.isnan(), number.detach(), targets)
        return (number - wanted) ** 2

    def same(self, target: Tensor, other: Tensor) -> Bool[Tensor, "*cases"]:
        """Return where a target would be right for another."""
        return (target - other).abs() <= self.tolerance

    def decode(self, given: Float[Tensor, "cases 1"]) -> list[object]:
        """Return the numbers that a model gives."""
        return [float(f"{value:.6g}") for value in given[..., 0].tolist()]


Output = Categorical | Numerical


def ordered(values: Iterable[object]) -> tuple[object, ...]:
    """Return values in an order that is the same in every process: numbers, then the rest.

    >>> ordered(["b", 2, "a", False])
    (False, 2, 'a', 'b')
    """

    def place(value: object) -> tuple[bool, float, str, str]:
        number = value if isinstance(value, (int, float)) else 0.0
        text = value if isinstance(value, str) else stable_text(value)
        return not isinstance(value, (int, float)), number, type(value).__name__, text

    return tuple(sorted(values, key=place))


def stable_text(value: object) -> str:
    """Return a value's text, the same in every process: sets are sorted.

    >>> stable_text((1, frozenset("ba")))
    "(1, {'a', 'b'})"
    """
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(stable_text, value)))}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(stable_text, value))})"
    return repr(value)
