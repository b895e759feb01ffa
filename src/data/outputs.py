"""The kinds of program output that a model predicts: one of several classes, or a number.

Only this module decides whether an output is right and what a wrong one costs.

Shapes: `cases` any shape; a model gives `width` values per case, the targets have one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

IGNORE = -100  # class of a case that no loss or metric counts; for numbers the target is nan


@dataclass(frozen=True)
class Categorical:
    """An output that is one of several values; the model gives a logit for each."""

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
        """Return where the class with the largest logit is the target; False without a target."""
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
    """An output that is a number; the model's is right within a tolerance.

    If a model of another task gives several values, the first is taken.
    """

    tolerance: float
    width = 1

    def defined(self, targets: Float[Tensor, "*cases"]) -> Bool[Tensor, "*cases"]:
        """Return where there is an output to give."""
        return ~targets.isnan()

    def right(
        self, given: Float[Tensor, "*cases width"], targets: Float[Tensor, "*cases"]
    ) -> Bool[Tensor, "*cases"]:
        """Return where the number is within the tolerance; False without a target."""
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
    """Return values in an order that is the same in every process: numbers first, then the rest.

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
