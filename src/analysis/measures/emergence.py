"""Summaries of a run's headline curves: final value, best value and emergence step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from ..measurements import Measurement, Metric
from .suite import declared_metrics, headlines

CONTROLS = ("_random_init", "_other_task")  # endings of measures that are controls of another
_UNDECLARED = Metric("", "", "neither", -math.inf, math.inf, "")


@dataclass(frozen=True)
class Summary:
    """One headline curve: its last and best value, and the first step at which it passed.

    `best` is None if the metric has no better direction, `threshold` if nothing defines passing.
    """

    key: str
    final: float
    best: float | None
    emergence_step: int | None
    threshold: float | None


def summaries(
    rows: Iterable[Measurement], before: Mapping[str, Summary] | None = None
) -> dict[str, Summary]:
    """Return the summary of every headline curve in a run's rows of all steps, by its key.

    If a step has controls of the measure's subject, a value passes if its whole interval lies
    beyond all of theirs. Otherwise it passes if it reaches the metric's `emerges`. The emergence
    step is the first recorded step that passes, so it is known up to the spacing of checkpoints. A
    curve that falls below again keeps it. An untrained model may pass by chance. The threshold is
    that of the emergence step, or the last one if the curve never passed. `before` holds the
    summaries of earlier steps, if `rows` does not have all.
    """
    metrics = declared_metrics()
    by_key = dict(before or {})
    for _, at_step in groupby(sorted(rows, key=_step), key=_step):
        here = list(at_step)
        controls = _controls(here)
        for row in headlines(here):
            if not row.measure.startswith("training/"):
                metric = metrics.get(row.measure, _UNDECLARED)
                by_key[row.key] = _added(by_key.get(row.key), row, metric, controls)
    return by_key


def passing(
    row: Measurement, metric: Metric, controls: Iterable[Measurement]
) -> tuple[bool, float | None]:
    """Return whether a value passes, and the threshold; None if nothing defines passing."""
    lower = metric.better == "lower"
    ends = [_end(control, low=lower) for control in controls]
    if ends:
        threshold = min(ends) if lower else max(ends)
        own = _end(row, low=not lower)
        return (own < threshold if lower else own > threshold), threshold
    if metric.emerges is None:
        return False, None
    return (row.value <= metric.emerges if lower else row.value >= metric.emerges), metric.emerges


def _step(row: Measurement) -> int:
    return row.step


def _controls(rows: Iterable[Measurement]) -> Mapping[tuple[str, str], list[Measurement]]:
    """Return the controls of one step, by the measure and subject that they belong to."""
    controls: dict[tuple[str, str], list[Measurement]] = {}
    for row in rows:
        for ending in CONTROLS:
            if row.measure.endswith(ending):
                controls.setdefault((row.measure.removesuffix(ending), row.subject), []).append(row)
    return controls


def _added(
    before: Summary | None,
    row: Measurement,
    metric: Metric,
    controls: Mapping[tuple[str, str], list[Measurement]],
) -> Summary:
    """Return a curve's summary, updated with one more step."""
    passed, threshold = passing(row, metric, controls.get((row.measure, row.subject), ()))
    if before is None:
        return Summary(
            row.key, row.value, _best(None, row.value, metric), row.step if passed else None,
            threshold,
        )  # fmt: skip
    emerged = before.emergence_step is not None
    return Summary(
        row.key,
        row.value,
        _best(before.best, row.value, metric),
        before.emergence_step if emerged or not passed else row.step,
        before.threshold if emerged or threshold is None else threshold,
    )


def _best(before: float | None, value: float, metric: Metric) -> float | None:
    if metric.better == "neither" or math.isnan(value):
        return before
    if before is None:
        return value
    return min(before, value) if metric.better == "lower" else max(before, value)


def _end(row: Measurement, *, low: bool) -> float:
    """Return one end of a row's interval, or its value if it has no interval."""
    end = row.ci_low if low else row.ci_high
    return row.value if end is None else end
