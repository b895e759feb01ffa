"""Loss, token and exact-sequence accuracy: per input, and over splits and lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_exact_match

from ..data.inputs import IGNORE, InputSet
from .activations import Recording
from .measurements import Measurement, Metric
from .setting import Setting
from .statistics import percentile_interval, wilson_interval

SPLITS = ("all", "train", "held_out")

METRICS = (
    Metric("accuracy/exact", "share of inputs", "higher", 0, 1, "whole output right"),
    Metric("accuracy/token", "share of positions", "higher", 0, 1, "output right at a position"),
    Metric("accuracy/loss", "nats per position", "lower", 0, float("inf"), "cross-entropy"),
)


@dataclass(frozen=True)
class Outcome:
    """How a model, or several, did on each input, where the program is defined."""

    exact: Float64[Tensor, "inputs *models"]
    correct: Float64[Tensor, "inputs *models"]
    loss: Float64[Tensor, "inputs *models"]
    count: Float64[Tensor, "inputs *models"]

    def over(self, rows: Bool[Tensor, " inputs"]) -> Outcome:
        """Return the outcome on some of the inputs."""
        return Outcome(self.exact[rows], self.correct[rows], self.loss[rows], self.count[rows])

    def means(self) -> dict[str, float]:
        """Return one model's exact and token accuracy and its loss per position."""
        return {name: float(value) for name, value in self.weighted(self.once).items()}

    @property
    def once(self) -> Float64[Tensor, "1 inputs"]:
        """Counts that take each input once."""
        return torch.ones(1, len(self.exact), dtype=torch.float64)

    def weighted(
        self, counts: Float64[Tensor, "draws inputs"]
    ) -> dict[str, Float64[Tensor, "draws *models"]]:
        """Return the three means with input i counted `counts[draw, i]` times, for each draw.

        An input on which the program is defined nowhere counts as right, and in no position.
        """
        positions = (counts @ self.count).clamp(min=1)
        inputs = counts.sum(-1).view(-1, *[1] * (self.exact.dim() - 1))
        return {
            "exact": counts @ self.exact / inputs,
            "token": counts @ self.correct / positions,
            "loss": counts @ self.loss / positions,
        }


def changes(outcomes: Sequence[Outcome], intact: Outcome) -> Outcome:
    """Return how several models did, less how another one did on the same inputs, input by input.

    Its weighted means are differences of means, exactly 0 where nothing changed.
    """

    def less(name: str) -> Tensor:
        return torch.stack([getattr(o, name) - getattr(intact, name) for o in outcomes], dim=1)

    count = intact.count[:, None].expand(-1, len(outcomes))
    return Outcome(less("exact"), less("correct"), less("loss"), count)


def outcome(
    logits: Float[Tensor, "inputs pos classes"], targets: Int64[Tensor, "inputs pos"]
) -> Outcome:
    """Return how the logits do on each input (torchmetrics; loss by cross-entropy)."""
    classes = logits.shape[-1]
    predicted, defined = logits.argmax(-1), targets != IGNORE
    per_input: dict[str, Any] = {
        "num_classes": classes,
        "multidim_average": "samplewise",
        "ignore_index": IGNORE,
        "validate_args": False,
    }
    exact = multiclass_exact_match(predicted, targets, **per_input)
    token = multiclass_accuracy(predicted, targets, average="micro", **per_input)
    count = defined.sum(-1)
    loss = F.cross_entropy(
        logits.flatten(0, 1).double(), targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return Outcome(
        exact=exact.double(),
        correct=(token * count).round().double(),
        loss=loss.view_as(targets).sum(-1),
        count=count.double(),
    )


def measure(recording: Recording, setting: Setting) -> Iterator[Measurement]:
    """Yield the accuracies of every split, overall and per length.

    Exact accuracy has Wilson's interval, the others a bootstrap over inputs, of which a single
    input has none. A split without inputs of a length has no row for it.
    """
    inputs, counts = recording.inputs, setting.bootstrap
    whole = outcome(recording.logits, inputs.targets)
    for split in SPLITS:
        for length in (None, *inputs.task.lengths):
            rows = inputs.rows(split, length)
            if rows.any():
                subject = split if length is None else f"{split}.length_{length}"
                yield from _rows(subject, whole.over(rows), counts[:, rows])


def _rows(subject: str, part: Outcome, counts: Tensor) -> Iterator[Measurement]:
    means, n = part.means(), len(part.exact)
    drawn = part.weighted(counts[counts.sum(-1) > 0])
    positions = int(part.count.sum())
    low, high = wilson_interval(means["exact"], n)
    yield Measurement("accuracy/exact", subject, means["exact"], n, low, high)
    for name in ("token", "loss"):
        interval = percentile_interval(drawn[name]) if n > 1 else (None, None)
        yield Measurement(f"accuracy/{name}", subject, means[name], positions, *interval)


@torch.inference_mode()
def exact_accuracy(model: torch.nn.Module, inputs: InputSet, batch_size: int) -> float:
    """Return a NativeModel's exact-sequence accuracy on all inputs."""
    device = next(model.parameters()).device
    right = 0.0
    for start in range(0, len(inputs), batch_size):
        rows = slice(start, start + batch_size)
        mask = inputs.key_mask[rows].to(device)
        logits = model(inputs.tokens[rows].to(device), attention_mask=mask).cpu()
        right += float(outcome(logits, inputs.targets[rows]).exact.sum())
    return right / len(inputs)
