"""Loss, token accuracy and exact-sequence accuracy, per input, per split and per length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped, UInt8
from torch import Tensor

from ...data.inputs import InputSet
from ...data.outputs import Output
from ..activations import Recording, Source, taken
from ..base import MeasurementContext
from ..measurements import Measurement, Metric
from ..statistics import percentile_interval, weighted_sums, wilson_interval

SPLITS = ("all", "train", "held_out")

METRICS = (
    Metric("accuracy/exact", "share of inputs", "higher", 0, 1, "whole output right", emerges=0.99),
    Metric("accuracy/token", "share of positions", "higher", 0, 1, "output right at a position",
           emerges=0.99),
    Metric("accuracy/loss", "nats, or squared error, per position", "lower", 0, float("inf"),
           "cross-entropy, or the squared error of a number"),
    Metric("accuracy/blind_exact", "share of inputs", "neither", 0, 1, "whole output right by "
           "an answer blind to the tokens: the most frequent output at each position and length"),
    Metric("accuracy/undefined_share", "share of positions", "neither", 0, 1, "positions where "
           "the program has no output; they count in no loss and no accuracy"),
    Metric("accuracy/reference_exact", "share of inputs", "higher", 0, 1,
        "inputs on which the reference gives the program's output; below 1, every comparison "
        "is with an inexact reference"),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Exactness, correct positions and loss per input, of one model or several.

    Only positions where the program is defined count.
    """

    exact: Float64[Tensor, "inputs *models"]
    correct: Float64[Tensor, "inputs *models"]
    loss: Float64[Tensor, "inputs *models"]
    count: Float64[Tensor, "inputs *models"]

    def over(self, rows: Bool[Tensor, " inputs"] | Int64[Tensor, " chosen"]) -> Outcome:
        """Return the outcome on some of the inputs."""
        return Outcome(self.exact[rows], self.correct[rows], self.loss[rows], self.count[rows])

    def columns(self, chosen: list[int]) -> Outcome:
        """Return the outcome of the chosen models; a model may be chosen more than once."""
        return Outcome(*(getattr(self, f.name)[:, chosen] for f in fields(Outcome)))

    def means(self) -> dict[str, float]:
        """Return one model's exact accuracy, token accuracy and loss per position."""
        return {name: float(value) for name, value in self.weighted(self.once).items()}

    @property
    def once(self) -> UInt8[Tensor, "1 inputs"]:
        """Counts in which each input occurs once."""
        return torch.ones(1, len(self.exact), dtype=torch.uint8)

    def weighted(
        self, counts: Shaped[Tensor, "draws inputs"]
    ) -> dict[str, Float64[Tensor, "draws *models"]]:
        """Return, for each draw, the three means with input i counted `counts[draw, i]` times.

        Inputs on which the program is defined nowhere are left out.
        """
        n = len(self.count)
        count = self.count.reshape(n, -1)[:, :1]  # the same for all models
        columns = [count, (count > 0).double()]
        columns += [values.reshape(n, -1) for values in (self.exact, self.correct, self.loss)]
        sums = weighted_sums(counts, torch.cat(columns, dim=1))
        positions, inputs = sums[:, :2].clamp(min=1).unbind(1)
        exact, token, loss = sums[:, 2:].reshape(len(counts), 3, *self.exact.shape[1:]).unbind(1)

        def mean(values: Tensor, over: Tensor) -> Tensor:
            return values / over.reshape(-1, *[1] * (values.dim() - 1))

        return {
            "exact": mean(exact, inputs),
            "token": mean(token, positions),
            "loss": mean(loss, positions),
        }


def changes(ablated: Outcome, intact: Outcome) -> Outcome:
    """Return the ablated models' outcome minus the intact model's, per input.

    The weighted means of it are differences of means, exactly 0 where nothing changed.
    """

    def less(name: str) -> Tensor:
        change: Tensor = getattr(ablated, name) - getattr(intact, name)[:, None]
        return change

    return Outcome(less("exact"), less("correct"), less("loss"), ablated.count)


def joined(parts: Iterable[Outcome]) -> Outcome:
    """Return one outcome on the concatenation of several sets of inputs."""
    outcomes = list(parts)
    return Outcome(
        *(torch.cat([getattr(part, f.name) for part in outcomes]) for f in fields(Outcome))
    )


def side_by_side(models: Iterable[Outcome]) -> Outcome:
    """Return one outcome with a column for each model, all on the same inputs."""
    outcomes = list(models)
    return Outcome(
        *(
            torch.stack([getattr(column, f.name) for column in outcomes], dim=1)
            for f in fields(Outcome)
        )
    )


def outcome(given: Float[Tensor, "inputs pos width"], targets: Tensor, output: Output) -> Outcome:
    """Return the outcome of a model's outputs, at positions where the program is defined."""
    defined = output.defined(targets)
    right = output.right(given, targets) & defined
    count = defined.sum(-1)
    return Outcome(
        exact=((right | ~defined).all(-1) & (count > 0)).double(),
        correct=right.sum(-1).double(),
        loss=output.loss(given.double(), targets).double().sum(-1),
        count=count.double(),
    )


class Accuracy:
    """The accuracies of every split, overall and per length.

    Exact accuracy has a Wilson interval. The others have a bootstrap interval over inputs, and none
    for a single input. Inputs on which the program is defined nowhere are left out. A split has no
    row for a length of which it has no other inputs.
    """

    def __init__(self, source: Source, context: MeasurementContext):
        self._context, self._inputs = context, source.inputs
        self._parts: list[Outcome] = []

    def add(self, part: Recording, rows: slice) -> None:
        """Record the model's outcome on some inputs."""
        self._parts.append(outcome(part.logits, part.inputs.targets, part.inputs.output))

    def rows(self) -> Iterator[Measurement]:
        """Yield the model's accuracies, then their baselines."""
        yield from _accuracies(joined(self._parts), self._inputs, self._context)
        yield from _controls(self._inputs, self._context)


def measure(source: Source, context: MeasurementContext) -> Iterator[Measurement]:
    """Yield the accuracies of a source."""
    return taken(Accuracy(source, context), source)


def _accuracies(
    whole: Outcome, inputs: InputSet, context: MeasurementContext
) -> Iterator[Measurement]:
    answered, subsets = whole.count > 0, dict[str, Tensor]()
    for split in SPLITS:
        for length in (None, *inputs.task.lengths):
            rows = inputs.rows(split, length) & answered
            if rows.any():
                subsets[split if length is None else f"{split}.length_{length}"] = rows
    if not subsets:
        return
    masks = torch.stack([*subsets.values()], dim=1).double()
    sums = [values[:, None] * masks for values in (whole.correct, whole.loss, whole.count)]
    drawn = weighted_sums(context.bootstrap, torch.cat(sums, dim=1))
    drawn = drawn.T.contiguous().view(3, len(subsets), -1)
    for (subject, rows), samples in zip(subsets.items(), drawn.unbind(1), strict=True):
        yield from _rows(subject, whole.over(rows), samples)


def _controls(inputs: InputSet, context: MeasurementContext) -> Iterator[Measurement]:
    yield from context.once("blind accuracy", lambda: list(_blind(inputs)))
    positions = int(inputs.real.sum())
    yield Measurement("accuracy/undefined_share", "all", inputs.undefined_share, positions)
    validation = context.reference.validation
    share = 1 - validation.n_wrong / validation.n
    interval = wilson_interval(share, validation.n)
    yield Measurement("accuracy/reference_exact", "all", share, validation.n, *interval)


def _blind(inputs: InputSet) -> Iterator[Measurement]:
    """Yield the accuracy of answering the most frequent output per position and length."""
    outputs, defined = list(inputs.variables.values())[-1], inputs.defined
    right = torch.zeros_like(defined)
    for length in inputs.task.lengths:
        rows = inputs.rows("all", length)
        for position in range(1, length + 1):
            cases = rows & defined[:, position]
            if not cases.any():
                continue
            codes = outputs.codes[cases, position].long()
            frequent = inputs.targets[cases, position][codes == codes.bincount().argmax()][:1]
            right[cases, position] = inputs.output.same(inputs.targets[cases, position], frequent)
    exact = (right | ~defined).all(-1)
    for length in (None, *inputs.task.lengths):
        rows = inputs.rows("all", length) & defined.any(-1)
        if rows.any():
            subject = "all" if length is None else f"all.length_{length}"
            share, n = float(exact[rows].double().mean()), int(rows.sum())
            yield Measurement("accuracy/blind_exact", subject, share, n, *wilson_interval(share, n))


def _rows(subject: str, part: Outcome, drawn: Float64[Tensor, "3 draws"]) -> Iterator[Measurement]:
    """Yield a subset's accuracies, with intervals from resampled sums.

    `drawn` holds the sums of correct positions, of loss and of positions.
    """
    means, n = part.means(), len(part.exact)
    low, high = wilson_interval(means["exact"], n)
    yield Measurement("accuracy/exact", subject, means["exact"], n, low, high)
    right, loss, count = drawn[:, drawn[2] > 0]
    for name, sums in (("token", right), ("loss", loss)):
        interval = percentile_interval(sums / count) if n > 1 else (None, None)
        positions = int(part.count.sum())
        yield Measurement(f"accuracy/{name}", subject, means[name], positions, *interval)
