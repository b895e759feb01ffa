"""What the registered measures yield: their metrics, their rows of a model, and the headlines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module

from transformer_lens.model_bridge import TransformerBridge

from ...infra.errors import NotFiniteError
from ..activations import Source, Statistic
from ..base import MeasurementContext
from ..measurements import Measurement, Metric
from .registered_measures import REGISTRY, RegisteredMeasure, measured

Summarise = Callable[[list[Measurement]], Iterator[Measurement]]


@dataclass(frozen=True)
class Measure:
    """A measure as its module has it: what takes it, its metrics, and its further headlines."""

    statistic: Callable[[Source, MeasurementContext], Statistic]
    metrics: tuple[Metric, ...]
    summarise: Summarise | None


def _loaded(registered: RegisteredMeasure) -> Measure:
    name, _, statistic = registered.statistic.partition(":")
    module = import_module(f".{name}", __package__)
    summarise = getattr(module, registered.summary) if registered.summary else None
    return Measure(getattr(module, statistic), module.METRICS, summarise)


MEASURES = {name: _loaded(registered) for name, registered in REGISTRY.items()}

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


def declared(name: str) -> tuple[Metric, ...]:
    """Return the metrics that a measure declares."""
    return MEASURES[name].metrics


def declared_metrics() -> dict[str, Metric]:
    """Return every declared metric, by name."""
    rows = [*TRAINING_METRICS, *(m for measure in MEASURES.values() for m in measure.metrics)]
    return {metric.name: metric for metric in rows}


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
            names = measured(context.config)
            statistics = [MEASURES[name].statistic(source, context) for name in names]
        for statistic in statistics:
            statistic.add(part, rows)
    for statistic in statistics:
        yield from statistic.rows()


HEADLINES = ("training/", *(start for each in REGISTRY.values() for start in each.headlines))
OF_MODEL = tuple(f"{name}/" for name, registered in REGISTRY.items() if registered.of_model)


def headlines(rows: Iterable[Measurement]) -> list[Measurement]:
    """Return the rows that are worth a curve of their own; the rest belongs in tables.

    Which these are, each measure's entry in the registry says; beside them the training curves.
    """
    rows = list(rows)
    chosen = [
        row
        for row in rows
        if row.measure.startswith(HEADLINES)
        or (row.measure.startswith(OF_MODEL) and row.subject.endswith("model"))
    ]
    for each in MEASURES.values():
        if each.summarise is not None:
            chosen += each.summarise(rows)
    return chosen
