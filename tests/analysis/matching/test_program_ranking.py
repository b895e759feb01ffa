"""Selectors separate and rank programs that cuts do not separate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
from support.compiles import fast_compiles as fast_compiles
from support.tasks import TASK_OF, small_inputs

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.matching.cut_verdicts import DIFFERENT, FOLLOWS, UNDECIDED
from algomatch.analysis.matching.head_selectors import (
    ProgramSelectors,
    SelectorDecision,
    untrained_of,
)
from algomatch.analysis.matching.known_answers import recognised
from algomatch.analysis.matching.program_ranking import (
    Candidate,
    SelectorEvidence,
    Standing,
    candidate,
    order,
    ranked,
    selector_evidence,
    selectors_of,
    standing,
    told_by_cuts,
)
from algomatch.config.schema import AnalysisConfig
from algomatch.models.reference import build_reference
from algomatch.models.shapes import random_inits
from algomatch.models.task_model import task_model_of

pytestmark = pytest.mark.slow

CONFIG = AnalysisConfig(bootstrap=50, random_inits=2, match_cases=200)
TASKS = ["reverse", "rank", "double_hist"]


@cache
def known(task: str) -> tuple[Candidate, ...]:
    programs = [program for program, own in TASK_OF.items() if own == task]
    inputs = {program: small_inputs(program) for program in programs}
    return tuple(
        candidate(name, inputs[name], build_reference(inputs[name]), CONFIG) for name in programs
    )


def program(name: str) -> Candidate:
    return next(candidate for candidate in known(TASK_OF[name]) if candidate.name == name)


@cache
def standings(model: str) -> tuple[Standing, ...]:
    """The standings of a task's programs in a compiled model."""
    candidate = program(model)
    assert candidate.reference is not None
    task_model = task_model_of(candidate.reference.bridge, candidate.inputs)
    return tuple(standing(task_model, other, CONFIG) for other in known(TASK_OF[model]))


@cache
def heads_of(model: str) -> SelectorEvidence:
    candidate = program(model)
    assert candidate.reference is not None
    bridge, programs = candidate.reference.bridge, known(TASK_OF[model])
    compare = selectors_of(programs, untrained_of(bridge.cfg, candidate.inputs, CONFIG), CONFIG)
    return selector_evidence(
        compare, bridge, task_model_of(bridge, candidate.inputs), standings(model)
    )


def names(ranking: Sequence[Standing]) -> list[str]:
    return [rival.candidate.name for rival in ranking]


MODELS = [program for program, task in TASK_OF.items() if task in TASKS]


@pytest.mark.parametrize("model", MODELS)
def test_a_compiled_program_is_put_first(model: str) -> None:
    assert names(order(standings(model), heads_of(model).decisions))[0] == model


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_decided_for_another_program(model: str) -> None:
    decided = [
        decision.decided
        for decision in heads_of(model).decisions
        if model in {side.program for side in decision.sides}
    ]
    assert set(decided) <= {None, model}


def test_only_what_cuts_do_not_tell_is_asked_of_selectors() -> None:
    first, second = standings("double_hist")
    assert told_by_cuts(first, second)
    assert not heads_of("double_hist").decisions
    assert not told_by_cuts(*standings("reverse"))
    assert [decision.decided for decision in heads_of("reverse").decisions] == [None]
    assert [decision.decided for decision in heads_of("reverse_by_counting").decisions] == [
        "reverse_by_counting"
    ]
    followed = [with_verdict(rival, FOLLOWS) for rival in (first, second)]
    assert not told_by_cuts(*followed)
    assert not told_by_cuts(
        first, replace(second, candidate=replace(second.candidate, testable=()))
    )


def with_verdict(rival: Standing, verdict: str) -> Standing:
    return replace(rival, verdict=replace(rival.verdict, verdict=verdict))


def decisions_with(*verdicts: str) -> tuple[SelectorDecision, ...]:
    """The decisions for a compiled reverse_by_counting, given the verdicts of the cuts."""
    candidate = program("reverse_by_counting")
    assert candidate.reference is not None
    bridge = candidate.reference.bridge
    ranking = [
        with_verdict(each, verdict)
        for each, verdict in zip(standings(candidate.name), verdicts, strict=True)
    ]
    compare = selectors_of(
        known("reverse"), untrained_of(bridge.cfg, candidate.inputs, CONFIG), CONFIG
    )
    return selector_evidence(
        compare, bridge, task_model_of(bridge, candidate.inputs), ranking
    ).decisions


def test_selectors_decide_nothing_against_cuts() -> None:
    (decision,) = decisions_with(DIFFERENT, DIFFERENT)
    assert decision.decided is None
    assert decision.why == f"the cuts of reverse_by_counting say: {DIFFERENT}"
    (decision,) = decisions_with(FOLLOWS, FOLLOWS)
    assert decision.decided == "reverse_by_counting"


def test_a_model_that_does_not_solve_the_task_decides_nothing() -> None:
    own = program("rank")
    assert own.reference is not None
    (untrained,) = random_inits(own.reference.bridge.cfg, 1, 3, "cpu")
    task_model = task_model_of(untrained, own.inputs)
    ranking = [standing(task_model, candidate, CONFIG) for candidate in known("rank")]
    compare = selectors_of(known("rank"), untrained_of(untrained.cfg, own.inputs, CONFIG), CONFIG)
    assert not selector_evidence(compare, untrained, task_model, ranking).decisions


def test_a_decision_moves_a_program_before_the_other_and_no_undecided_one_past_a_followed() -> None:
    first, second = ranked(standings("reverse"))

    def preferring(decided: bool) -> SelectorDecision:
        sides = tuple(ProgramSelectors(rival.candidate.name, (), None) for rival in (first, second))
        return SelectorDecision((sides[0], sides[1]), sides[1].program if decided else None, "")

    assert names(order([first, second], [])) == names([first, second])
    assert names(order([first, second], [preferring(False)])) == names([first, second])
    assert names(order([first, second], [preferring(True)])) == names([second, first])
    unsure = with_verdict(second, UNDECIDED)
    assert names(order([first, unsure], [preferring(True)])) == names([first, second])


def recognised_as(model: str, of: str | None = None) -> tuple[bool | None, str]:
    """Whether a compiled program is recognised as itself, or as the program `of`."""
    candidate, said = program(model), of or model
    assert candidate.reference is not None
    bridge = candidate.reference.bridge
    own = next(each for each in standings(model) if each.candidate.name == said)
    context = MeasurementContext(candidate.inputs, candidate.reference, bridge.cfg, CONFIG)
    return recognised(
        bridge, task_model_of(bridge, candidate.inputs), own, standings(model), context
    )


def test_decoys_are_recognised_by_cuts_or_by_selectors() -> None:
    assert recognised_as("double_hist_by_division") == (
        True,
        "decided by cuts: double_hist_by_division over double_hist",
    )
    told, why = recognised_as("reverse_by_counting")
    assert told
    assert why.startswith("decided by selectors: reverse_by_counting 1.00 over reverse")
    told, why = recognised_as("reverse")
    assert told is None
    assert "reverse's everything says nothing" in why


def test_a_model_that_is_another_program_is_told_wrongly() -> None:
    told, why = recognised_as("double_hist", of="double_hist_by_division")
    assert told is False
    assert why == "decided by cuts: double_hist over double_hist_by_division"
    assert recognised_as("reverse_by_counting", of="reverse")[0] is False
