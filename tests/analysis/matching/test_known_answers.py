"""Controls of matching: the trained positive realises cuts where any are testable."""

from __future__ import annotations

from dataclasses import replace

import pytest

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.controls.known_models import Control, NotMadeError, controls
from algomatch.analysis.matching.cut_verdicts import FOLLOWS
from algomatch.analysis.matching.known_answers import check, of_matching
from algomatch.analysis.matching.program_ranking import Candidate, candidate
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.config.schema import Config

TASK = (
    "task=reverse", "task.vocabulary=[a,b,c]", "task.max_length=4", "analysis.match_cases=300",
    "analysis.bootstrap=100", "analysis.other_tasks=1", "model=2L", "model.d_model=32",
    "model.n_heads=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def config() -> Config:
    return compose([*TASK])


@pytest.fixture(scope="module")
def context(config: Config) -> MeasurementContext:
    return prepare(config)


@pytest.fixture(scope="module")
def own(context: MeasurementContext) -> Candidate:
    program = candidate("reverse", context.inputs, context.reference, context.config)
    assert program.testable
    return program


@pytest.fixture(scope="module")
def planned(config: Config, context: MeasurementContext) -> list[Control]:
    return controls(context.inputs, context.reference, context.shape, config)


def implemented(planned: list[Control], own: Candidate, context: MeasurementContext) -> Control:
    (control,) = (
        control for control in of_matching(planned, own, context) if control.name == "implemented"
    )
    return control


def test_one_control_is_another_and_the_rest_are_the_same(
    planned: list[Control], own: Candidate, context: MeasurementContext
) -> None:
    controls = of_matching(planned, own, context)
    changed = [
        control.name for control, other in zip(planned, controls, strict=True) if control != other
    ]
    assert changed == ["implemented"]
    assert [control.kind for control in planned] == [control.kind for control in controls]


@pytest.mark.slow
def test_the_trained_positive_follows_its_program(
    planned: list[Control], own: Candidate, context: MeasurementContext
) -> None:
    told: list[int] = []
    control = implemented(planned, own, context)
    (row,) = check(control, [own], context, lambda step, steps: told.append(step))
    assert told
    assert row.verdict == FOLLOWS
    assert row.right is True
    assert row.exact == 1
    assert (row.match or 0) >= 0.95


def test_where_no_cut_can_be_held_it_is_not_made(
    planned: list[Control], own: Candidate, context: MeasurementContext
) -> None:
    none = replace(own, testable=())
    with pytest.raises(NotMadeError, match="reverse has no inner cut that can be tested"):
        implemented(planned, none, context).make(lambda step, steps: None)
    many = replace(own, testable=own.cuts.all)
    with pytest.raises(NotMadeError, match=r"3 cuts are held after 3 blocks.* the model has 2"):
        implemented(planned, many, context).make(lambda step, steps: None)
