"""Summaries of a run's curves: hand-made curves, and those of a real run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from support.runs import TINY, quiet

from algomatch.analysis.measurements import Measurement, Metric
from algomatch.analysis.measures.emergence import Summary, passing, summaries
from algomatch.analysis.measures.suite import declared_metrics, headlines
from algomatch.api.train import train
from algomatch.config.composition import compose

BEST = "similarity/best_deconfounded_cka"
KEY = "similarity/v/best_deconfounded_cka"


def row(
    step: int, measure: str, value: float, low: float | None, high: float | None
) -> Measurement:
    return Measurement(measure, "v", value, 10, low, high, "run", step)


def exact(values: dict[int, float]) -> list[Measurement]:
    return [Measurement("accuracy/exact", "all", v, 10, step=step) for step, v in values.items()]


def test_a_curve_emerges_where_it_first_reaches_the_declared_value() -> None:
    rows = exact({0: 0.1, 4: 0.989, 8: 0.99, 16: 0.7, 32: 0.95})
    [summary] = summaries(reversed(rows)).values()
    assert summary == Summary("accuracy/all/exact", 0.95, 0.99, 8, 0.99)


def test_a_curve_that_never_passes_has_no_step() -> None:
    [summary] = summaries(exact({0: 0.1, 4: 0.989})).values()
    assert summary == Summary("accuracy/all/exact", 0.989, 0.989, None, 0.99)


def test_the_best_of_a_loss_is_its_lowest_and_of_what_has_no_better_none() -> None:
    rows = [
        Measurement("accuracy/loss", "all", value, 10, step=step)
        for step, value in enumerate((2.0, math.nan, 0.5, 1.0))
    ]
    rows += [Measurement("sparsity/dead_share", "model", 0.25, 10, step=3)]
    by_key = summaries(rows)
    assert by_key["accuracy/all/loss"] == Summary("accuracy/all/loss", 1.0, 0.5, None, None)
    key = "sparsity/model/dead_share"
    assert by_key[key] == Summary(key, 0.25, None, None, None)


def test_controls_decide_before_any_declared_value() -> None:
    rows = [
        row(0, BEST, 0.9, 0.3, 0.95),
        row(0, f"{BEST}_random_init", 0.2, 0.1, 0.4),
        row(1, BEST, 0.7, 0.5, 0.8),  # above the random inits, below the other task
        row(1, f"{BEST}_random_init", 0.2, 0.1, 0.4),
        row(1, f"{BEST}_other_task", 0.6, None, None),
        row(2, BEST, 0.65, 0.61, 0.7),
        row(2, f"{BEST}_random_init", 0.2, 0.1, 0.4),
        row(2, f"{BEST}_other_task", 0.6, None, None),
        row(3, BEST, 0.1, 0.0, 0.2),
        row(3, f"{BEST}_random_init", 0.2, 0.1, 0.5),
    ]
    assert summaries(rows)[KEY] == Summary(KEY, 0.1, 0.9, 2, 0.6)
    assert summaries(rows[:5])[KEY] == Summary(KEY, 0.7, 0.9, None, 0.6)
    # The curve of a control has no control lines and no better direction.
    assert summaries(rows)[f"{KEY}_random_init"].best is None


def test_without_an_interval_the_value_itself_must_pass_its_controls() -> None:
    metric = Metric("g/name", "share", "higher", 0, 1, "", emerges=0.1)
    control = row(0, "g/name_random_init", 0.3, 0.2, 0.5)
    assert passing(row(0, "g/name", 0.51, None, None), metric, [control]) == (True, 0.5)
    assert passing(row(0, "g/name", 0.5, None, None), metric, [control]) == (False, 0.5)
    assert passing(row(0, "g/name", 0.5, None, None), metric, []) == (True, 0.1)


def test_where_lower_is_better_passing_is_from_above() -> None:
    metric = Metric("g/name", "nats", "lower", 0, 9, "", emerges=0.1)
    control = row(0, "g/name_random_init", 2.0, 1.5, 2.5)
    assert passing(row(0, "g/name", 0.1, None, None), metric, []) == (True, 0.1)
    assert passing(row(0, "g/name", 0.2, None, None), metric, []) == (False, 0.1)
    assert passing(row(0, "g/name", 1.0, 0.5, 1.4), metric, [control]) == (True, 1.5)
    assert passing(row(0, "g/name", 1.0, 0.5, 1.6), metric, [control]) == (False, 1.5)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> list[Measurement]:
    path: Path = tmp_path_factory.mktemp("runs") / "run"
    settings = [*TINY, "trainer.checkpoints=10", "tracking=disabled", f"run_dir={path}"]
    return train(compose([*settings, "trainer.learning_rate=0.02"]), quiet()).measurements()


@pytest.mark.slow
def test_every_headline_of_a_real_run_has_a_summary(learned: list[Measurement]) -> None:
    last = [r for r in learned if r.step == max(row.step for row in learned)]
    by_key = summaries(learned)
    shown = {r.key: r.value for r in headlines(last) if not r.measure.startswith("training/")}
    assert {key: by_key[key].final for key in shown} == shown
    assert not any(key.startswith("training/") for key in by_key)
    metrics = declared_metrics()
    for key in shown:
        curve = [r for r in learned if r.key == key]
        if curve and metrics[curve[0].measure].better == "higher":
            assert by_key[key].best == max(r.value for r in curve)


@pytest.mark.slow
def test_a_real_run_emerges_at_its_first_step_above(learned: list[Measurement]) -> None:
    curve = {r.step: r.value for r in learned if r.key == "accuracy/all/exact"}
    assert max(curve.values()) >= 0.99, "the run was to learn its task"
    first = min(step for step, value in curve.items() if value >= 0.99)
    assert summaries(learned)["accuracy/all/exact"].emergence_step == first
    for variable in {r.subject for r in learned if r.measure == BEST}:
        own = {r.step: r for r in learned if (r.measure, r.subject) == (BEST, variable)}
        control = {
            r.step: r
            for r in learned
            if (r.measure, r.subject) == (f"{BEST}_random_init", variable)
        }
        above = [step for step, r in own.items() if (r.ci_low or 0) > (control[step].ci_high or 0)]
        summary = summaries(learned)[f"similarity/{variable}/best_deconfounded_cka"]
        assert summary.emergence_step == (min(above) if above else None)


@pytest.mark.slow
def test_summaries_go_on_from_those_of_earlier_steps(learned: list[Measurement]) -> None:
    early = [r for r in learned if r.step <= 10]
    late = [r for r in learned if r.step > 10]
    assert early
    assert late
    assert summaries(late, summaries(early)) == summaries(learned)
