"""The registry of measures, and the one call that takes them all of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from transformer_lens.model_bridge import TransformerBridge

from ...infra.errors import NotFiniteError, UserError, one_of
from ..activations import Source, Statistic
from ..base import MeasurementContext
from ..measurements import Measurement, Metric
from . import ablation, accuracy, attention, similarity, sparsity
from . import light_matching as realisation


@dataclass(frozen=True)
class Measure:
    """A measure: the statistic that takes it, and the declarations of what that yields."""

    statistic: Callable[[Source, MeasurementContext], Statistic]
    metrics: tuple[Metric, ...]


REGISTRY: dict[str, Measure] = {
    "accuracy": Measure(accuracy.Accuracy, accuracy.METRICS),
    "similarity": Measure(similarity.Similarity, similarity.METRICS),
    "attention": Measure(attention.AttentionOverlap, attention.METRICS),
    "ablation": Measure(ablation.Ablation, ablation.METRICS),
    "sparsity": Measure(sparsity.Sparsity, sparsity.METRICS),
    "matching": Measure(realisation.Realisation, realisation.METRICS),
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


def measure(bridge: TransformerBridge, context: MeasurementContext) -> Iterator[Measurement]:
    """Yield the configured measures of a bridge, from one pass over the inputs that all share.

    Raises:
        NotFiniteError: the model's outputs are not finite numbers.
    """
    source = context.observe(bridge)
    statistics: list[Statistic] = []
    for rows, part in source.parts():
        if not part.logits.isfinite().all():
            raise NotFiniteError("the model's outputs are not finite numbers")
        if not statistics:  # whose controls need not be measured of such a model
            statistics = [REGISTRY[n].statistic(source, context) for n in context.config.measures]
        for statistic in statistics:
            statistic.add(part, rows)
    for statistic in statistics:
        yield from statistic.rows()


HEADLINES = (
    "accuracy/", "training/", "similarity/best_", "similarity/mean_", "similarity/matched_",
    "matching/best_match", "matching/variable_", "matching/realised",
)  # fmt: skip
OF_MODEL = ("sparsity/", "attention/", "ablation/")


def headlines(rows: Iterable[Measurement]) -> list[Measurement]:
    """Return the rows that are worth a curve of their own; the rest belongs in tables.

    Accuracies, each variable at its best site and the reference's sites matched, attention matched,
    each beside its controls, sparsity of the whole model and H1, the redundant share, the component
    that matters most under each kind of ablation, how far each testable cut and variable is
    realised, and the training curves.
    """
    rows = list(rows)
    chosen = [
        row
        for row in rows
        if row.measure.startswith(HEADLINES)
        or (row.measure.startswith(OF_MODEL) and row.subject.endswith(sparsity.MODEL))
    ]
    names = {metric.name for metric in ablation.METRICS}
    deltas: dict[str, list[Measurement]] = {}
    for row in rows:
        if row.measure in names and row.measure.endswith("_delta_exact") and whole(row.subject):
            deltas.setdefault(row.measure, []).append(row)
    for effects in deltas.values():
        singles = [row for row in effects if single(row.subject)] or effects
        worst = min(singles, key=lambda row: row.value)
        chosen.append(
            Measurement(
                worst.measure, "worst_component", worst.value, worst.n, worst.ci_low,
                worst.ci_high, worst.run, worst.step,
            )
        )  # fmt: skip
    return chosen


def single(subject: str) -> bool:
    """Return whether an ablation's subject is one head, layer or MLP, not a set of them."""
    return subject.startswith("blocks.") and not subject.endswith(".all")


def whole(subject: str) -> bool:
    """Return whether a subject is of all inputs, not of one length."""
    return ".length_" not in subject
