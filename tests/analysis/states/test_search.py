"""The states of models whose states are known, and the search's own rules."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.compiles import fast_compiles as fast_compiles
from support.tasks import TASK_OF, small_config, small_inputs, small_task
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.controls.variants import rotated
from algomatch.analysis.states import search as search_module
from algomatch.analysis.states.search import State, StateRule, StateSpace
from algomatch.analysis.states.site_states import SiteFindings, fewest_bits, site_states
from algomatch.analysis.states.state_sites import COMPONENT, RESIDUAL, SIDE
from algomatch.analysis.states.state_verdicts import (
    FOLLOWS,
    NOT_SOLVED,
    StatesVerdict,
    program_verdict,
)
from algomatch.data.inputs import input_set
from algomatch.data.rasp.cuts import Cuts, cuts
from algomatch.data.rasp.library import library
from algomatch.models.reference import build_reference
from algomatch.models.shapes import random_inits
from algomatch.models.task_model import task_model_of

RULE = StateRule(sufficient=0.95, cases=200, draws=100, seed=0)
# What the compiled programs hold after each block, by their own weights.
HELD: dict[str, list[set[str]]] = {
    "reverse": [{"tokens", "indices", "length"}] * 3 + [{"reverse"}],
    "sort": [{"tokens", "indices"}, {"tokens", "indices", "place"}, {"sort"}],
    "hist": [{"hist"}],
    "shift_by_by_steps": [{"indices", "previous_token"}, {"shift_by"}],
    "hist_by_share": [{"tokens", "indices"}, *[{"tokens", "is_first"}] * 2, {"hist"}],
}
FOLLOWED = [  # whose inner cuts can be told from their inputs and outputs
    "reverse", "reverse_by_counting", "palindrome", "sort", "sort_unique", "double_hist",
    "double_hist_by_division", "hist_by_share", "count_by_running", "sort_freq",
    "sort_freq_by_parts", "shift_by_by_steps", "induction", "induction_by_pointer", "frac_prevs",
    "share_of_last_by_counting",
]  # fmt: skip


@cache
def space_of(program: str) -> tuple[StateSpace, dict[str, Cuts]]:
    task = small_task(TASK_OF[program])
    tasks = {task.name: task, **{name: task.with_program(name) for name in task.alternatives}}
    config = replace(small_config(TASK_OF[program]), held_out=0.0)
    inputs = small_inputs(program)
    made = library(inputs, {name: each.program for name, each in tasks.items()}, 300, 600.0)
    known = {name: cuts(input_set(each, config)) for name, each in tasks.items()}
    return StateSpace(inputs, made, RULE), known


@cache
def reference_of(program: str) -> TransformerBridge:
    return build_reference(small_inputs(program)).bridge


def states_of(
    bridge: TransformerBridge, program: str, kinds: tuple[str, ...] = (RESIDUAL,)
) -> list[SiteFindings]:
    space, programs = space_of(program)
    return list(site_states(task_model_of(bridge, space.inputs), space, kinds, programs))


@cache
def of_reference(program: str) -> list[SiteFindings]:
    return states_of(reference_of(program), program)


def verdicts_of(
    findings: list[SiteFindings], program: str, exact: float = 1.0
) -> dict[str, StatesVerdict]:
    _, programs = space_of(program)
    sites = [finding.states.site for finding in findings]
    return {
        name: program_verdict(
            name, known, sites,
            [at for finding in findings for at in finding.cuts if at.program == name],
            dict.fromkeys(sites, True), exact, 0.99,
        )
        for name, known in programs.items()
    }  # fmt: skip


def partition(program: str, names: set[str]) -> bytes:
    """Of variables by their names in the program."""
    space, _ = space_of(program)
    return space.resampling.partition(space.numbers(names, program))


def partition_of(program: str, state: State) -> bytes:
    """Of a state, by its names in the library."""
    space, _ = space_of(program)
    return space.resampling.partition(space.numbers(state.variables))


@pytest.mark.parametrize("turned", [False, True], ids=["compiled", "rotated"])
@pytest.mark.parametrize("program", HELD)
def test_a_reference_and_its_rotation_hold_the_programs_cuts(program: str, turned: bool) -> None:
    space, _ = space_of(program)
    findings = of_reference(program)
    if turned:
        compiled = build_reference(space.inputs).compiled
        findings = states_of(rotated(compiled, 5).bridge(space.inputs), program)
    held = [finding.states.state for finding in findings[1:]]
    assert len(held) == len(HELD[program])
    for state, wanted in zip(held, HELD[program], strict=True):
        assert state is not None
        assert partition_of(program, state) == partition(program, wanted)
        assert state.sufficiency.low >= 0.95
        assert state.minimal
        assert state.bits == pytest.approx(space.resampling.bits(space.numbers(wanted, program)))
    assert all(finding.states.permuted < 0.6 for finding in findings)  # type: ignore[operator]


def test_what_attention_reads_is_what_the_program_compares_and_aggregates() -> None:
    findings = states_of(reference_of("reverse"), "reverse", (SIDE,))
    held = {finding.states.site: finding.states.state for finding in findings}
    for side, wanted in (("q", {"opp_idx"}), ("k", {"indices"}), ("v", {"tokens"})):
        state = held[f"blocks.3.hook_{side}_input"]
        assert state is not None
        assert partition_of("reverse", state) == partition("reverse", wanted)


def test_what_a_component_writes_is_the_variable_that_it_computes() -> None:
    findings = states_of(reference_of("reverse"), "reverse", (COMPONENT,))
    held = {finding.states.site: finding.states.state for finding in findings}
    wanted = {"blocks.0.attn.hook_z[0]": {"length"}, "blocks.3.attn.hook_z[0]": {"reverse"},
              "blocks.1.attn.hook_z[0]": set()}  # fmt: skip
    for site, names in wanted.items():
        state = held[site]
        assert state is not None
        assert partition_of("reverse", state) == partition("reverse", names)


def test_sites_have_the_same_states_alone_and_together() -> None:
    both = states_of(reference_of("sort"), "sort", (RESIDUAL, SIDE))
    space, programs = space_of("sort")
    fresh = StateSpace(space.inputs, space.library, RULE)
    model = task_model_of(reference_of("sort"), space.inputs)
    alone = list(site_states(model, fresh, (SIDE,), programs))
    together = [finding.states for finding in both if finding.states.kind == SIDE]
    for first, other in zip(alone, together, strict=True):
        assert [s.variables for s in first.states.states] == [s.variables for s in other.states]
        assert [s.sufficiency.value for s in first.states.states] == [
            s.sufficiency.value for s in other.states
        ]


def test_the_curve_goes_from_nothing_to_all_and_holds_the_state() -> None:
    for finding in of_reference("sort"):
        points = [(point.bits, point.sufficiency.value) for point in finding.states.curve]
        assert points == sorted(points)
        assert points[0][0] == 0
        assert points[-1][1] == 1.0
        state = finding.states.state
        assert state is not None
        assert (state.bits, state.sufficiency.value) in points


@pytest.mark.parametrize("program", FOLLOWED)
def test_a_reference_follows_its_own_program(program: str) -> None:
    verdict = verdicts_of(of_reference(program), program)[program]
    assert verdict.verdict == FOLLOWS, verdict.why


@pytest.mark.parametrize(
    "program",
    [
        program if program in FOLLOWED else pytest.param(program, marks=pytest.mark.slow)
        for program in TASK_OF
    ],
)
def test_no_reference_follows_a_program_whose_cuts_are_others(program: str) -> None:
    """It may follow one whose held cuts are, value by value, those of its own program."""
    space, programs = space_of(program)
    partitions = space.resampling.partition
    own = {partitions(space.numbers(cut.variables, program)) for cut in programs[program].all}
    for name, verdict in verdicts_of(of_reference(program), program).items():
        if verdict.verdict.startswith(FOLLOWS):
            for at in filter(None, verdict.path.values()):
                assert partitions(space.numbers(at.cut.variables, name)) in own, verdict


def test_a_model_that_does_not_solve_the_task_follows_nothing() -> None:
    verdicts = verdicts_of(of_reference("sort"), "sort", exact=0.9)
    assert {verdict.verdict for verdict in verdicts.values()} == {NOT_SOLVED}
    assert "exact accuracy 0.900 is below 0.99" in verdicts["sort"].why


def test_an_untrained_model_needs_more_bits_than_the_program() -> None:
    space, programs = space_of("reverse")
    inits = random_inits(reference_of("reverse").cfg, 2, 5, "cpu")
    held = {finding.states.site: finding.states.state for finding in of_reference("reverse")}
    for init in inits:
        bits = fewest_bits(task_model_of(init, space.inputs), space, programs)
        assert set(bits) == set(held) - {"blocks.0.hook_resid_pre"}
        last = held["blocks.3.hook_resid_post"]
        assert last is not None
        assert bits["blocks.3.hook_resid_post"] > last.bits


@given(st.sets(st.sets(st.integers(0, 11), min_size=1, max_size=4).map(frozenset), min_size=1))
def test_elimination_by_halves_ends_at_a_minimal_set(enough: set[frozenset[int]]) -> None:
    """What is enough is what holds one of some sets, as for sufficiency without noise."""

    def suffices(chosen: list[int]) -> bool:
        return any(each <= set(chosen) for each in enough)

    minimal = search_module._quick_explain(suffices, [], list(range(12)))
    assert suffices(minimal)
    for left_out in minimal:
        assert not suffices([i for i in minimal if i != left_out])


def test_small_input_sets_are_drawn_several_times() -> None:
    space, _ = space_of("sort_unique")
    assert len(space.inputs) < RULE.cases
    for name, targets in space.targets.items():
        least = {"first": search_module.FEW, "glance": search_module.FEWEST}.get(name, RULE.cases)
        assert len(targets) >= least
        assert set(targets.tolist()) <= set(range(len(space.inputs)))
    searched, judged = (set(space.targets[name].tolist()) for name in ("searched", "judged"))
    assert not searched & judged
    assert torch.equal(torch.unique(space.targets["all"]), torch.arange(len(space.inputs)))
