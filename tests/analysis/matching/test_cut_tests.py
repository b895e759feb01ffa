"""Donors carry the required values, and compiled models match at their program's sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from support.compiles import fast_compiles as fast_compiles
from support.overriding import overridden, says, values_of
from support.tasks import small_inputs
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.controls.variants import rotated
from algomatch.analysis.matching import cut_verdicts as verdicts
from algomatch.analysis.matching.cut_tests import Match, by_site, matches, side_matches
from algomatch.analysis.matching.cut_verdicts import (
    DIFFERENT,
    FOLLOWS,
    FUSES,
    UNDECIDED,
    Rule,
    judge,
    realised,
)
from algomatch.analysis.statistics import wilson_interval
from algomatch.config.composition import compose
from algomatch.data.donors import SCRUB, CutTrials, Trial, cut_trials
from algomatch.data.inputs import InputSet
from algomatch.data.rasp.cuts import Cut, Cuts, cuts
from algomatch.data.registered_tasks import REGISTRY
from algomatch.models.bridges import make_bridge, plain_model
from algomatch.models.reference import Reference, build_reference
from algomatch.models.shapes import learned_shape, random_inits
from algomatch.models.task_model import task_model_of

RULE = Rule(realised=0.95, partly=0.5, solved=0.99)
COUNT = 120  # cases a test: if all are right, the interval is above the threshold
DRAWN = 12  # cases a test where each donor is checked
TASKS = [task for task in REGISTRY if not task.startswith("shuffle_dyck")][::2]

# Where Tracr puts each program's steps: "0.pre" to "0.post" is the first block.
REALISED: dict[str, dict[str, str]] = {
    "reverse": {
        "indices+tokens": "0.pre",
        "indices+tokens+length": "0.post 1.post 2.post",
        "reverse": "3.post",
    },
    "sort": {
        "tokens+indices": "0.pre 0.post",
        "tokens+indices+place": "1.post",
        "sort": "2.post",
    },
    "double_hist": {
        "tokens+indices": "0.pre",
        "tokens+hist+indices": "0.post",
        "hist+hist_at_first": "1.post 2.post",
        "double_hist": "3.post",
    },
    "double_hist_by_division": {
        "tokens": "0.pre",
        "hist": "0.post",
        "double_hist": "1.post 2.post",
    },
    "share_of_last": {
        "tokens+indices": "0.pre",
        "tokens+indices+length": "0.post 1.post",
        "tokens+holds_last": "2.post 3.post",
        "share_of_last": "4.post",
    },
}
INNER = {
    "reverse": ["indices+tokens+length"],
    "sort": ["tokens+indices+place"],
    "double_hist": ["tokens+hist+indices", "hist+hist_at_first"],
    "double_hist_by_division": ["hist"],
    "share_of_last": ["tokens+indices+length", "tokens+holds_last"],
}


@cache
def cuts_of(program: str) -> Cuts:
    return cuts(small_inputs(program))


@cache
def trials_of(program: str, count: int = COUNT) -> list[CutTrials]:
    return cut_trials(small_inputs(program), cuts_of(program).all, count, 0)


@cache
def few_trials_of(program: str) -> list[CutTrials]:
    """A few cases of a program's first inner cut (else its input cut) and of its last."""
    *some, last = cuts_of(program).all
    return cut_trials(small_inputs(program), (*some[:2][-1:], last), DRAWN, 0)


@cache
def reference_of(program: str) -> Reference:
    return build_reference(small_inputs(program))


def found_in(bridge: TransformerBridge, program: str) -> list[Match]:
    """The matches of a program's cuts in a model."""
    inputs = small_inputs(program)
    task_model = task_model_of(bridge, inputs)
    return list(matches(task_model, inputs, trials_of(program), task_model.sites, 50, 0))


@cache
def found_in_reference(program: str, of: str) -> list[Match]:
    """The matches of one program's cuts in another program's compiled model."""
    return found_in(reference_of(of).compiled.bridge(small_inputs(program)), program)


def sites_of(matches: Sequence[Match]) -> dict[str, str]:
    """The sites at which each cut is realised, written as "0.post"."""
    return {
        name: " ".join(site.replace("blocks.", "").replace("hook_resid_", "") for site in sites)
        for name, sites in realised(matches, RULE).items()
    }


def what_is_testable(program: str) -> tuple[Cut, ...]:
    return verdicts.testable(cuts_of(program), found_in_reference(program, program), RULE)


def verdict_on(model: str, program: str) -> str:
    """The verdict on a program in another program's compiled model."""
    matches = found_in_reference(program, model)
    return judge(cuts_of(program), what_is_testable(program), matches, 1.0, RULE).verdict


def values_at(inputs: InputSet, name: str, row: int, position: int) -> Any:
    return values_of(inputs, name, row)[position - 1]


def lists_places(inputs: InputSet, test: Trial, case: int) -> list[tuple[int, int, int]]:
    """Each position of a case with the row and position of its donor."""
    length = int(inputs.lengths[test.bases[case]])
    rows, positions = test.rows[case].tolist(), test.positions[case].tolist()
    return [(place, rows[place], positions[place]) for place in range(1, length + 1)]


# Donors


@pytest.mark.parametrize("program", TASKS)
def test_scrubs_donors_have_the_values_of_the_whole_cut(program: str) -> None:
    inputs = small_inputs(program)
    for tested in few_trials_of(program):
        for test in tested.trials[:1]:
            assert test.name == SCRUB
            assert torch.equal(
                test.targets.nan_to_num(nan=-7), inputs.targets[test.bases].nan_to_num(nan=-7)
            )
            for case, base in enumerate(test.bases.tolist()):
                donors = lists_places(inputs, test, case)
                assert any((base, place) != (row, position) for place, row, position in donors)
                for name in tested.cut.variables:
                    given = [values_at(inputs, name, row, place) for _, row, place in donors]
                    assert given == values_of(inputs, name, base)


@pytest.mark.parametrize("program", TASKS)
def test_interchanges_donors_keep_the_rest_and_give_what_the_output_comes_from(
    program: str,
) -> None:
    inputs = small_inputs(program)
    for tested in few_trials_of(program):
        for test in tested.trials[1:]:
            for case, base in enumerate(test.bases.tolist()):
                donors = lists_places(inputs, test, case)
                given = {
                    name: [values_at(inputs, name, row, place) for _, row, place in donors]
                    for name in tested.cut.variables
                }
                rest = [name for name in tested.cut.variables if name != test.name]
                assert all(given[name] == values_of(inputs, name, base) for name in rest)
                wanted = overridden(inputs.task, inputs.listed(base), given)
                assert says(inputs, test.targets[case], wanted)


@pytest.mark.parametrize("program", TASKS)
def test_every_interchange_changes_an_output(program: str) -> None:
    inputs = small_inputs(program)
    output = inputs.output
    for tested in few_trials_of(program):
        for test in tested.trials[1:]:
            base = inputs.targets[test.bases]
            both = output.defined(base) & output.defined(test.targets)
            assert (both & ~output.same(base, test.targets)).any(-1).all()


@pytest.mark.parametrize("program", TASKS)
def test_bos_is_given_by_any_bos_and_padding_by_itself(program: str) -> None:
    inputs = small_inputs(program)
    for tested in few_trials_of(program):
        for test in tested.trials:
            assert (test.positions[:, 0] == 0).all()
            assert len(test) < DRAWN or len(torch.unique(test.rows[:, 0])) > 1
            padding = ~inputs.key_mask[test.bases]
            places = torch.arange(padding.shape[1]).expand_as(padding)
            own = test.bases[:, None].expand_as(padding)
            assert torch.equal(test.rows[padding], own[padding])
            assert torch.equal(test.positions[padding], places[padding])
            assert inputs.real[test.rows, test.positions][inputs.real[test.bases]].all()


def equal(trial: Trial, other: Trial) -> bool:
    parts = ("bases", "rows", "positions", "targets")
    return all(torch.equal(getattr(trial, part), getattr(other, part)) for part in parts)


def test_the_same_seed_gives_the_same_cases_and_another_seed_others() -> None:
    inputs, everything = small_inputs("sort"), cuts_of("sort").inner
    first, again, other = (cut_trials(inputs, everything, 30, seed) for seed in (3, 3, 4))
    for tested, two, three in zip(first, again, other, strict=True):
        assert [test.name for test in tested.trials] == [test.name for test in two.trials]
        assert all(map(equal, tested.trials, two.trials))
        assert not any(map(equal, tested.trials, three.trials))


@pytest.mark.parametrize("program", ["reverse", "sort", "double_hist"])
def test_cases_are_of_several_lengths_and_no_more_than_asked_for(program: str) -> None:
    inputs = small_inputs(program)
    for tested in trials_of(program, 60):
        for test in tested.trials:
            assert len(test) <= 60
            of = Counter(inputs.lengths[test.bases].tolist())
            assert {3, 4} <= set(of)
            assert of[4] <= 45


def test_the_longest_lists_too_have_their_length_interchanged() -> None:
    inputs = small_inputs("reverse")
    test = next(test for test in trials_of("reverse")[1].trials if test.name == "length")
    for case, base in enumerate(test.bases.tolist()):
        donors = lists_places(inputs, test, case)
        given = {values_at(inputs, "length", row, place) for _, row, place in donors}
        assert given != {int(inputs.lengths[base])}
    assert (inputs.lengths[test.bases] == 4).any()


def test_a_variable_that_the_rest_determines_cannot_be_interchanged() -> None:
    indices_tokens_length = trials_of("reverse")[1]
    assert indices_tokens_length.untestable == ("indices",)
    assert [test.name for test in indices_tokens_length.trials] == [SCRUB, "tokens", "length"]


def test_a_cut_without_any_interchange_has_no_tests() -> None:
    cut = next(cut for cut in cuts_of("parity_by_halves").all if cut.name == "tokens+side")
    (tested,) = cut_trials(small_inputs("parity_by_halves"), [cut], DRAWN, 0)
    assert tested.trials == ()
    assert tested.untestable == ("tokens", "side")


# Matches of compiled models


@pytest.mark.parametrize("program", REALISED)
def test_a_compiled_model_realises_each_cut_where_its_program_has_it(program: str) -> None:
    matches = found_in_reference(program, program)
    assert sites_of(matches) == REALISED[program]
    table = by_site(matches)
    for name, sites in realised(matches, RULE).items():
        assert all(table[site][name].value == 1 for site in sites)


@pytest.mark.parametrize("program", REALISED)
def test_a_compiled_model_follows_its_program(program: str) -> None:
    assert [cut.name for cut in what_is_testable(program)] == INNER[program]
    assert verdict_on(program, program) == FOLLOWS


@pytest.mark.parametrize("program", REALISED)
def test_turning_the_residual_stream_changes_no_match(program: str) -> None:
    turned = rotated(reference_of(program).compiled, 5).bridge(small_inputs(program))
    matches, plain = found_in(turned, program), found_in_reference(program, program)
    assert sites_of(matches) == REALISED[program]
    for match, other in zip(matches, plain, strict=True):
        assert (match.site, match.cut) == (other.site, other.cut)
        # A meaningless residual gives tied logits, and rounding breaks the tie.
        assert (match.value == 1) == (other.value == 1)


@pytest.mark.parametrize("program", REALISED)
def test_random_inits_realise_no_inner_cut(program: str) -> None:
    model = compose(["model=2L", "model.d_model=16", "model.n_heads=2"]).model
    shape = learned_shape(model, small_inputs(program), 0)
    for bridge in random_inits(shape, 3, 0, "cpu"):
        matches = found_in(bridge, program)
        assert not {cut.name for cut in cuts_of(program).inner} & set(sites_of(matches))
        inner = [match.value for match in matches if match.cut in cuts_of(program).inner]
        assert max(inner) < RULE.partly


@pytest.mark.parametrize(
    ("program", "other"),
    [("reverse", "double_hist"), ("double_hist", "reverse"), ("double_hist", "shift_by_by_steps")],
)
def test_another_tasks_compiled_model_realises_no_inner_cut(program: str, other: str) -> None:
    matches = found_in_reference(program, other)
    assert not {cut.name for cut in cuts_of(program).inner} & set(sites_of(matches))


@pytest.mark.parametrize(
    ("program", "model", "verdict"),
    [
        ("double_hist", "double_hist_by_division", DIFFERENT),
        ("double_hist_by_division", "double_hist", DIFFERENT),
        ("shift_by_by_steps", "shift_by", FUSES),
    ],
)
def test_another_programs_compiled_model_does_not_follow_a_program(
    program: str, model: str, verdict: str
) -> None:
    assert verdict_on(program, program) == FOLLOWS
    assert verdict_on(model, program) == verdict


@pytest.mark.parametrize("model", ["frac_prevs", "frac_prevs_by_counting"])
def test_a_cut_that_the_embedding_holds_tells_no_programs_apart(model: str) -> None:
    embedding = by_site(found_in_reference("frac_prevs", model))["blocks.0.hook_resid_pre"]
    assert embedding["indices+is_first"].value == 1
    assert what_is_testable("frac_prevs") == ()
    assert verdict_on(model, "frac_prevs") == UNDECIDED


# Scores and chance levels


def by_hooks(bridge: TransformerBridge, inputs: InputSet, site: str, test: Trial) -> list[bool]:
    """Whether each case's defined outputs are all right, with one hooked pass a case."""
    _, recorded = bridge.run_with_cache(inputs.tokens, attention_mask=inputs.key_mask)
    outcomes = []
    for case, base in enumerate(test.bases.tolist()):
        donors = zip(test.rows[case].tolist(), test.positions[case].tolist(), strict=True)
        donated = np.array([recorded[site][row, place].tolist() for row, place in donors])

        def replaced(value: Any, hook: Any, donated: Any = donated) -> None:
            value[0] = torch.from_numpy(donated)

        given = bridge.run_with_hooks(
            inputs.tokens[base : base + 1],
            attention_mask=inputs.key_mask[base : base + 1],
            fwd_hooks=[(site, replaced)],
        )[0].numpy()
        wanted = test.targets[case].tolist()
        right = [given[at].argmax() == code for at, code in enumerate(wanted) if code >= 0]
        outcomes.append(all(right))
    return outcomes


@pytest.mark.parametrize("site", ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_mid"])
def test_shares_are_those_of_residuals_replaced_by_hooks(site: str) -> None:
    inputs, bridge = small_inputs("double_hist"), reference_of("double_hist").bridge
    tests = few_trials_of("double_hist")
    by_cut = {
        match.cut.name: match
        for match in matches(task_model_of(bridge, inputs), inputs, tests, [site], 10, 0)
    }
    shares = set()
    with torch.inference_mode():
        for tested in tests:
            scores = {score.test: score for score in by_cut[tested.cut.name].scores}
            for test in tested.trials:
                right = by_hooks(bridge, inputs, site, test)
                assert scores[test.name].right.tolist() == right
                assert scores[test.name].value == pytest.approx(np.mean(right))
                assert scores[test.name].bases.tolist() == test.bases.tolist()
                shares.add(scores[test.name].value)
    assert any(0 < share < 1 for share in shares)


@pytest.mark.parametrize("program", REALISED)
def test_a_match_is_its_weakest_test_and_no_surer_than_its_cases(program: str) -> None:
    for match in found_in_reference(program, program):
        assert match.value == min(score.value for score in match.scores) == match.weakest.value
        assert match.chance == min(score.chance for score in match.scores)
        for score in match.scores:
            assert (score.low, score.high) == pytest.approx(wilson_interval(score.value, score.n))
            assert match.low <= score.low
            assert score.value == pytest.approx(float(score.right.double().mean()))
        assert match.low <= match.value <= match.high


@pytest.mark.parametrize("program", REALISED)
def test_chance_is_at_least_the_best_one_answer(program: str) -> None:
    for tested, match in zip(
        trials_of(program), found_in_reference(program, program), strict=False
    ):
        for test, score in zip(tested.trials, match.scores, strict=True):
            constant: Counter[float] = Counter()
            for targets in test.targets.tolist():
                answers = {answer for answer in targets if answer >= 0}  # neither IGNORE nor nan
                if len(answers) == 1:
                    constant[answers.pop()] += 1
            best = max(constant.values(), default=0) / len(test)
            assert score.chance >= best - 1e-12


def test_a_model_with_the_same_residual_everywhere_matches_at_chance() -> None:
    inputs, bridge = small_inputs("double_hist"), reference_of("double_hist").bridge
    weights = {
        name: torch.zeros_like(value) if name in ("tok_embed.weight", "pos.weight") else value
        for name, value in plain_model(bridge).state_dict().items()
    }
    blank = make_bridge(bridge.cfg, weights)
    sites = task_model_of(blank, inputs).sites[:1]
    for match in matches(
        task_model_of(blank, inputs), inputs, trials_of("double_hist"), sites, 10, 0
    ):
        for score in match.scores:
            assert score.value <= score.chance


def test_sites_are_the_embedding_and_what_follows_each_block() -> None:
    program = "double_hist_by_division"
    sites = task_model_of(reference_of(program).bridge, small_inputs(program)).sites
    assert sites[0] == "blocks.0.hook_resid_pre"
    assert sites[1:] == [f"blocks.{layer}.hook_resid_post" for layer in range(3)]


def test_before_an_mlp_every_case_comes_out_as_it_does_after_it() -> None:
    inputs, bridge = small_inputs("sort"), reference_of("sort").bridge
    for layer in range(bridge.cfg.n_layers):
        sites = [f"blocks.{layer}.hook_resid_{half}" for half in ("mid", "post")]
        table = by_site(
            list(matches(task_model_of(bridge, inputs), inputs, trials_of("sort"), sites, 10, 0))
        )
        before, after = (table[site] for site in sites)
        for name, match in before.items():
            for score, other in zip(match.scores, after[name].scores, strict=True):
                assert torch.equal(score.right, other.right)


# Sides of attention

USED = {  # where the compiled program's next attention layer reads a variable
    ("reverse", "length"): ("blocks.3.hook_q_input",),
    ("sort", "place"): ("blocks.2.hook_k_input",),
    ("double_hist", "hist_at_first"): ("blocks.3.hook_k_input",),
    ("double_hist_by_division", "hist"): (),  # read by both attention and an MLP
}


@cache
def placed(program: str, model: str) -> dict[str, verdicts.Placement]:
    """The sides at which a model reads the variables of a program's testable cuts."""
    inputs = small_inputs(program)
    compiled = reference_of(program).compiled
    bridge = compiled.bridge(inputs) if model == "as is" else rotated(compiled, 5).bridge(inputs)
    some = [tested for tested in trials_of(program) if tested.cut in what_is_testable(program)]
    read = list(side_matches(task_model_of(bridge, inputs), inputs, some, 20, 0))
    assert {match.cut for match in read} == set(what_is_testable(program))
    return {place.variable: place for place in verdicts.placements(read, RULE)}


@pytest.mark.parametrize("model", ["as is", "rotated"])
@pytest.mark.parametrize(("program", "name"), USED)
def test_a_compiled_program_reads_a_variable_where_it_says(
    program: str, name: str, model: str
) -> None:
    place = placed(program, model)[name]
    assert place.sites == USED[program, name]
    if place.best.site in place.sites:
        assert place.best.value == 1


def test_the_tokens_to_be_moved_are_read_as_values() -> None:
    assert placed("reverse", "as is")["tokens"].sites == ("blocks.3.hook_v_input",)


def test_where_one_side_is_enough_the_others_do_nothing() -> None:
    inputs, bridge = small_inputs("reverse"), reference_of("reverse").bridge
    some = [tested for tested in trials_of("reverse") if tested.cut.name == "indices+tokens+length"]
    values = {
        match.site: {score.test: score.value for score in match.scores}
        for match in side_matches(task_model_of(bridge, inputs), inputs, some, 20, 0)
    }
    layers, sides = range(4), ("q_input", "k_input", "v_input", "attn_in")
    assert list(values) == [f"blocks.{layer}.hook_{side}" for layer in layers for side in sides]
    assert values["blocks.3.hook_q_input"] == {SCRUB: 1, "tokens": 0, "length": 1}
    assert values["blocks.3.hook_v_input"] == {SCRUB: 1, "tokens": 1, "length": 0}
    assert values["blocks.3.hook_k_input"] == {SCRUB: 1, "tokens": 0, "length": 0}
    assert values["blocks.3.hook_attn_in"] == {SCRUB: 1, "tokens": 1, "length": 1}
    for side in sides:  # the variables are present but not read yet
        assert values[f"blocks.1.hook_{side}"] == {SCRUB: 1, "tokens": 0, "length": 0}


def test_few_cases_leave_a_cut_undecided() -> None:
    inputs, bridge = small_inputs("reverse"), reference_of("reverse").bridge
    few = [
        replace(tested, trials=tuple(first_cases(test, 12) for test in tested.trials))
        for tested in trials_of("reverse")
    ]
    few_matches = list(
        matches(
            task_model_of(bridge, inputs), inputs, few, task_model_of(bridge, inputs).sites, 50, 0
        )
    )
    best = max(
        (match for match in few_matches if match.cut == cuts_of("reverse").inner[0]),
        key=lambda m: m.value,
    )
    assert best.value == 1
    assert best.low < RULE.realised
    assert verdicts.testable(cuts_of("reverse"), few_matches, RULE) == ()
    verdict = judge(cuts_of("reverse"), what_is_testable("reverse"), few_matches, 1.0, RULE)
    assert verdict.verdict == UNDECIDED


def first_cases(test: Trial, count: int) -> Trial:
    return test.at(torch.arange(count))
