"""The state kept over a run's checkpoints: controls are run once for all measures."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from support.models import with_config, with_shape

from algomatch.analysis import activations
from algomatch.analysis import base as module
from algomatch.analysis.activations import Source
from algomatch.analysis.base import CONTROLS, MeasurementContext
from algomatch.analysis.measures import suite
from algomatch.analysis.measures.registered_measures import measured
from algomatch.models.bridges import make_bridge


def first_weight(source: Source, context: MeasurementContext) -> float:
    return float(next(source.bridge.original_model.parameters()).flatten()[0])


def inputs_of(source: Source, context: MeasurementContext) -> int:
    return len(source.inputs)


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """The number of passes of each model, by its id."""
    seen, kept = Counter[int](), list[Any]()

    def counting(bridge: Any, *arguments: Any) -> Source:
        kept.append(bridge)  # keeps the model alive, so its id is not reused
        seen[id(bridge)] += 1
        return activations.observe(bridge, *arguments)

    monkeypatch.setattr(module, "observe", counting)
    return seen


def test_each_control_is_run_once_for_all_that_were_announced(
    small: MeasurementContext, observed: Counter[int]
) -> None:
    context = with_config(small, random_inits=3)
    for compare in (first_weight, inputs_of, first_weight):
        context.will_compare(compare)
    firsts = context.compared("random_init", first_weight)
    assert len(set(firsts)) == 3
    assert sum(observed.values()) == 3
    assert context.compared("random_init", inputs_of) == [len(small.inputs)] * 3
    assert context.compared("random_init", first_weight) == firsts
    assert sum(observed.values()) == 3  # no model was run again


def test_what_was_not_announced_is_compared_all_the_same(
    small: MeasurementContext, observed: Counter[int]
) -> None:
    context = with_config(small, random_inits=2)
    announced = context.compared("random_init", first_weight)
    assert sum(observed.values()) == 2
    assert context.compared("random_init", inputs_of) == [len(small.inputs)] * 2
    assert sum(observed.values()) == 4
    assert context.compared("random_init", first_weight) == announced


def test_the_kinds_of_controls_are_kept_apart(
    small: MeasurementContext, observed: Counter[int]
) -> None:
    context = with_config(small, random_inits=3)
    context.will_compare(inputs_of)
    controls = {kind: context.compared(kind, inputs_of) for kind in CONTROLS}
    assert {kind: len(values) for kind, values in controls.items()} == {
        "random_init": 3,
        "other_task": small.config.other_tasks,
    }
    assert sum(observed.values()) == 3 + small.config.other_tasks


def test_all_measures_of_all_checkpoints_run_each_control_once(
    small: MeasurementContext, observed: Counter[int]
) -> None:
    context = with_shape(small, small.shape)
    assert {"similarity", "attention"} <= set(measured(context.config))
    rows = list(suite.measure(make_bridge(small.shape), context))
    controls = context.config.random_inits + context.config.other_tasks
    assert sum(observed.values()) == controls + 2  # the model, and the reference
    assert list(suite.measure(make_bridge(small.shape), context)) == rows
    assert sum(observed.values()) == controls + 3
    assert max(observed.values()) == 1


def test_a_computation_is_kept_under_its_name(small: MeasurementContext) -> None:
    context, calls = with_shape(small, small.shape), list[str]()

    def compute(name: str) -> torch.Tensor:
        calls.append(name)
        return torch.zeros(2)

    kept = context.once("a", lambda: compute("a"))
    assert context.once("a", lambda: compute("a")) is kept
    assert context.once("b", lambda: compute("b")) is not kept
    assert calls == ["a", "b"]
