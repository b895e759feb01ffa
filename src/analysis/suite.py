"""The registry of measures, and the one call that takes them all of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from transformer_lens.model_bridge import TransformerBridge

from ..errors import NotFiniteError, UserError, one_of
from . import ablation, accuracy, similarity, sparsity
from .activations import Recording, record
from .measurements import Measurement, Metric
from .setting import Setting


@dataclass(frozen=True)
class Measure:
    """A measure: its function, and the declarations of what it yields."""

    function: Callable[[Recording, Setting], Iterable[Measurement]]
    metrics: tuple[Metric, ...]


def _row(module: ModuleType) -> Measure:
    return Measure(module.measure, module.METRICS)


REGISTRY: dict[str, Measure] = {
    "accuracy": _row(accuracy),
    "similarity": _row(similarity),
    "ablation": _row(ablation),
    "sparsity": _row(sparsity),
}

TRAINING_METRICS = (
    Metric(
        "training/loss",
        "nats, or squared error, per position",
        "lower",
        0,
        float("inf"),
        "of the step's batch",
    ),
    Metric("training/learning_rate", "per step", "neither", 0, float("inf"), "as scheduled"),
)


def declared_metrics() -> dict[str, Metric]:
    """Return every declared metric, by name."""
    rows = [*TRAINING_METRICS, *(m for measure in REGISTRY.values() for m in measure.metrics)]
    return {metric.name: metric for metric in rows}


def check_names(names: Sequence[str]) -> None:
    """Refuse measures that are not in the registry, repeated or none.

    Raises:
        UserError: a name is unknown or there twice, or there is none.
    """
    if not names or len(set(names)) < len(names):
        given = f"analysis.measures=[{', '.join(names)}]"
        raise UserError(f"{given} must name at least one measure, each once: {', '.join(REGISTRY)}")
    for name in names:
        if name not in REGISTRY:
            raise UserError(
                f"unknown measure '{name}' (analysis.measures): {one_of(name, REGISTRY)}"
            )


def measure(bridge: TransformerBridge, setting: Setting) -> Iterator[Measurement]:
    """Yield the configured measures of a bridge, from one recorded pass over the inputs.

    Raises:
        NotFiniteError: the model's outputs are not finite numbers.
    """
    recording = record(bridge, setting.inputs, setting.config.batch_size)
    if not recording.logits.isfinite().all():
        raise NotFiniteError("the model's outputs are not finite numbers")
    for name in setting.config.measures:
        yield from REGISTRY[name].function(recording, setting)


def headlines(rows: Iterable[Measurement]) -> list[Measurement]:
    """Return the rows that are worth a curve of their own; the rest belongs in tables.

    Accuracies, each variable at its best site beside its control, sparsity of the whole model,
    the component that matters most under each kind of ablation, and the training curves.
    """
    rows = list(rows)
    chosen = [
        row
        for row in rows
        if row.measure.startswith(("accuracy/", "training/", "similarity/best_"))
        or (row.measure.startswith("sparsity/") and row.subject.endswith(sparsity.MODEL))
    ]
    for kind in ablation.KINDS:
        deltas = [row for row in rows if row.measure == f"ablation/{kind}_delta_exact"]
        if deltas:
            worst = min(deltas, key=lambda row: row.value)
            chosen.append(
                Measurement(
                    worst.measure, "worst_component", worst.value, worst.n, worst.ci_low,
                    worst.ci_high, worst.run, worst.step,
                )
            )  # fmt: skip
    return chosen
