"""Selectors separate compiled programs from their rivals, and decide nothing for controls."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.compiles import fast_compiles as fast_compiles
from support.gpt2 import saved_gpt2
from support.models import plain_weights, with_heads
from support.tasks import TASK_OF, small_inputs
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.controls.variants import permuted, rotated
from algomatch.analysis.matching.head_selectors import (
    MET,
    SAYS_NOTHING,
    UNMET,
    UNSURE,
    OwnSelector,
    ProgramSelectors,
    SelectorComparison,
    SelectorDecision,
    SelectorReach,
    untrained_of,
)
from algomatch.config.composition import compose
from algomatch.config.schema import AnalysisConfig
from algomatch.data.program_selectors import Selection, selections
from algomatch.data.rasp.text import AGGREGATED, COUNTED
from algomatch.models.bridges import make_bridge
from algomatch.models.foreign import load_gpt2
from algomatch.models.reference import Reference, build_reference
from algomatch.models.shapes import learned_shape, random_inits
from algomatch.models.task_model import TaskModel

CONFIG = AnalysisConfig(bootstrap=100, random_inits=3)
# (compiled program, rival): True if selectors decide for the program, else for neither.
DECIDED = {
    ("reverse", "reverse_by_counting"): False,  # any uniform head meets `everything`
    ("reverse_by_counting", "reverse"): True,
    ("hist", "hist_by_vocabulary"): True,
    ("hist_by_vocabulary", "hist"): True,
    ("hist", "hist_by_share"): False,  # hist_by_share selects all that it selects
    ("hist_by_share", "hist"): True,
    ("hist_by_share", "hist_by_vocabulary"): True,
    ("hist_by_vocabulary", "hist_by_share"): True,
    ("sort", "sort_by_counting"): True,
    ("sort_by_counting", "sort"): True,
    ("contains", "contains_by_positions"): True,
    ("contains_by_positions", "contains"): False,  # `one_before` selects all that it selects
    (
        "previous_token",
        "previous_token_by_sending",
    ): False,  # under the causal mask both select the same
    ("previous_token_by_sending", "previous_token"): False,
    ("induction", "induction_by_pointer"): True,
    ("induction_by_pointer", "induction"): True,
}
TASKS = list(dict.fromkeys(TASK_OF[model] for model, _ in DECIDED))


@cache
def programs_of(task: str) -> dict[str, list[Selection]]:
    programs = [program for program, own in TASK_OF.items() if own == task]
    return {program: selections(small_inputs(program)) for program in programs}


@cache
def reference_of(program: str) -> Reference:
    return build_reference(small_inputs(program))


def learned(task: str) -> Any:
    config = compose(["model=2L", "model.d_model=16", "model.n_heads=2"])
    return learned_shape(config.model, small_inputs(task), 0)


@cache
def compared(task: str, shape_of: str = "") -> SelectorComparison:
    """A task's selectors, for the learned shape or a compiled program's shape."""
    shape = reference_of(shape_of).bridge.cfg if shape_of else learned(task)
    inputs = small_inputs(task)
    return SelectorComparison(
        inputs, programs_of(task), untrained_of(shape, inputs, CONFIG), CONFIG
    )


def decisions(
    bridge: TransformerBridge, selectors: SelectorComparison
) -> dict[tuple[str, str], SelectorDecision]:
    met = selectors.reaches(bridge)
    names = list(selectors.programs)
    return {(a, b): selectors.decide(met, a, b) for a in names for b in names if a != b}


def compiled_decisions(program: str, change: Any = None) -> dict[tuple[str, str], SelectorDecision]:
    compiled = reference_of(program).compiled
    bridge = (change(compiled) if change else compiled).bridge(small_inputs(program))
    return decisions(bridge, compared(TASK_OF[program], program))


# Compiled programs


@pytest.mark.parametrize("pair", DECIDED, ids="-".join)
def test_a_compiled_program_is_told_from_its_rival_where_it_selects_what_says_something(
    pair: tuple[str, str],
) -> None:
    model, rival = pair
    by_pair = compiled_decisions(model)
    expected = model if DECIDED[pair] else None
    assert by_pair[model, rival].decided == by_pair[rival, model].decided == expected


@pytest.mark.parametrize("program", ["reverse_by_counting", "hist_by_share", "sort", "induction"])
def test_turned_and_permuted_weights_decide_alike(program: str) -> None:
    plain = compiled_decisions(program)
    for change in (rotated, permuted):
        by_pair = compiled_decisions(program, lambda compiled, of=change: of(compiled, 5))
        assert {pair: decision.decided for pair, decision in by_pair.items()} == {
            pair: decision.decided for pair, decision in plain.items()
        }


@pytest.mark.parametrize("program", ["reverse", "hist_by_vocabulary", "contains"])
def test_a_compiled_program_meets_all_its_selectors(program: str) -> None:
    matches = compared(TASK_OF[program], program).reaches(reference_of(program).bridge)[program]
    assert [match.low for match in matches] == pytest.approx([1.0] * len(matches), abs=1e-4)


def test_the_rival_of_a_program_without_selectors_of_its_own_is_not_met() -> None:
    """The right program can then be ranked first even where nothing is decided."""
    for model, rival in (("reverse", "reverse_by_counting"), ("hist", "hist_by_share"),
                         ("contains_by_positions", "contains")):  # fmt: skip
        own, other = compiled_decisions(model)[model, rival].sides
        assert not own.telling
        assert not own.unmet
        assert other.unmet
        assert not other.all_met


def test_a_decision_says_why() -> None:
    decided = compiled_decisions("sort")["sort", "sort_by_counting"]
    assert decided.text.startswith("decided by selectors: sort 1.00 over sort_by_counting 0.")
    text = compiled_decisions("reverse")["reverse", "reverse_by_counting"].text
    assert text.startswith(
        "not decided by selectors: reverse and reverse_by_counting: reverse's everything says "
        "nothing, because attention to everything meets it; "
        "reverse_by_counting's later is not met (0."
    )
    by_pair = compiled_decisions("previous_token")
    assert by_pair["previous_token", "previous_token_by_sending"].why == "they select the same"


# Controls


def without(task: str, part: str) -> TransformerBridge:
    """A random init with some of its weights at 0."""
    weights = plain_weights(random_inits(learned(task), 1, seed=0, device="cpu")[0])
    assert any(part in name for name in weights)
    zeroed = {name: value * (part not in name) for name, value in weights.items()}
    return make_bridge(learned(task), zeroed)


@pytest.mark.parametrize("task", TASKS)
def test_random_inits_decide_nothing(task: str) -> None:
    for bridge in random_inits(learned(task), 4, seed=9, device="cpu"):
        assert {decision.decided for decision in decisions(bridge, compared(task)).values()} == {
            None
        }


@pytest.mark.parametrize("task", ["hist", "sort", "contains"])
def test_attention_to_everything_decides_nothing(task: str) -> None:
    bridge = without(task, ".attn.q.")
    met = compared(task).reaches(bridge)
    for match in (match for matches in met.values() for match in matches):
        if COUNTED in match.selection.uses:
            assert match.value == pytest.approx(match.uniform, abs=1e-5)
    assert {decision.decided for decision in decisions(bridge, compared(task)).values()} == {None}


def test_the_order_of_heads_does_not_matter() -> None:
    program = "sort"
    bridge, selectors = reference_of(program).bridge, compared("sort", program)
    n_heads, cfg = bridge.cfg.n_heads, bridge.cfg
    places = {(layer, head): [n_heads - head] for layer in range(cfg.n_layers)
              for head in range(n_heads)}  # fmt: skip
    moved = with_heads(bridge, places, n_heads + 1)
    before, after = (selectors.reaches(model)[program] for model in (bridge, moved))
    assert [match.value for match in before] == pytest.approx([match.value for match in after])
    assert [match.head for match in after] != [match.head for match in before]


def test_heads_that_write_nothing_meet_nothing() -> None:
    met = compared("sort").reaches(without("sort", ".attn.o."))
    assert {(match.head, match.value) for matches in met.values() for match in matches} == {
        ("", 0.0)
    }


# The overlap


def pattern_of(bridge: TransformerBridge, task: str, head: str) -> Any:
    inputs = small_inputs(task)
    hook, _, index = head.partition("[")
    _, kept = bridge.run_with_cache(inputs.tokens, attention_mask=inputs.key_mask)
    return kept[hook][:, int(index[:-1])].double().numpy()


@pytest.mark.parametrize("program", ["sort", "hist_by_share", "previous_token"])
def test_an_overlap_is_that_of_the_pattern_with_the_selected_keys(program: str) -> None:
    task, inputs = TASK_OF[program], small_inputs(program)
    bridge = random_inits(learned(task), 1, seed=3, device="cpu")[0]
    for match in compared(task).reaches(bridge)[program]:
        given, wanted, overlaps = (
            pattern_of(bridge, task, match.head),
            match.selection,
            list[float](),
        )
        (use,) = wanted.uses
        for row in range(len(inputs)):
            for query in np.flatnonzero(wanted.counted[row].numpy()):
                keys = np.flatnonzero(wanted.selected[row, query].numpy())
                attention = given[row, query].copy()
                if use == COUNTED:
                    attention[0] = 0
                    attention /= attention.sum()
                expected = np.zeros_like(attention)
                expected[keys] = 1 / len(keys)
                overlaps.append(1 - np.abs(attention - expected).sum() / 2)
        assert match.value == pytest.approx(np.mean(overlaps), abs=1e-6)
        assert match.low <= match.value <= match.high


def test_what_is_counted_may_go_to_bos_and_what_is_aggregated_may_not() -> None:
    inputs = small_inputs("hist")
    (wanted,) = programs_of("hist")["hist"]
    aggregated = Selection(wanted.names, frozenset({AGGREGATED}), wanted.selected)
    matches = SelectorComparison(
        inputs,
        {"counted": [wanted], "aggregated": [aggregated]},
        untrained_of(learned("hist"), inputs, CONFIG),
        CONFIG,
    ).reaches(reference_of("hist").bridge)
    assert matches["counted"][0].value == pytest.approx(1, abs=1e-4)
    assert matches["aggregated"][0].value < 0.75


def test_anothers_models_prefix_counts_as_bos(tmp_path: Path) -> None:
    """The model is a GPT-2 that reads one more token before BOS."""
    saved_gpt2(tmp_path)
    bridge, inputs = load_gpt2(tmp_path), small_inputs("hist")
    first = torch.ones(len(inputs), 1, dtype=torch.int64)
    tokens = torch.cat([first * 9, inputs.tokens], dim=1)
    key_mask = torch.cat([first.bool(), inputs.key_mask], dim=1)
    task_model = TaskModel(bridge, tokens, key_mask, lead=1)
    _, kept = bridge.run_with_cache(tokens, attention_mask=key_mask)
    (wanted,) = programs_of("hist")["hist"]
    aggregated = Selection(wanted.names, frozenset({AGGREGATED}), wanted.selected)
    programs = {"counted": [wanted], "aggregated": [aggregated]}
    matches = SelectorComparison(
        inputs, programs, untrained_of(learned("hist"), inputs, CONFIG), CONFIG
    ).reaches(bridge, task_model)
    for name, share in (("counted", True), ("aggregated", False)):
        (match,) = matches[name]
        hook, _, index = match.head.partition("[")
        listed = kept[hook][:, int(index[:-1]), 2:, 2:].double()
        if share:
            listed = listed / listed.sum(-1, keepdim=True)
        expected = torch.minimum(listed, wanted.pattern(slice(None))[:, 1:, 1:]).sum(-1)
        assert match.value == pytest.approx(float(expected[wanted.counted[:, 1:]].mean()), abs=1e-6)


# Hand-made decisions


def met(
    value: float, margin: float = 0.02, uniform: float = 0.2, init: float = 0.2
) -> SelectorReach:
    selected = torch.ones(1, 2, 2, dtype=torch.bool)
    selection = Selection(("one",), frozenset({COUNTED}), selected)
    resampled = torch.tensor([value], dtype=torch.float64)
    return SelectorReach(
        selection, "head", value, value - margin, value + margin, uniform, init, resampled
    )


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        (OwnSelector(met(0.95), 0.2, 0.9), MET),
        (OwnSelector(met(0.91), 0.2, 0.9), UNSURE),
        (OwnSelector(met(0.89), 0.2, 0.9), UNSURE),
        (OwnSelector(met(0.85), 0.2, 0.9), UNMET),
        (OwnSelector(met(0.99, uniform=0.95), 0.2, 0.975), SAYS_NOTHING),
        (OwnSelector(met(0.99), 0.95, 0.975), SAYS_NOTHING),
    ],
)
def test_a_selector_is_met_where_it_surely_is(own: OwnSelector, verdict: str) -> None:
    assert own.verdict == verdict


def test_a_side_is_met_by_all_its_selectors_that_say_something() -> None:
    good, bad = OwnSelector(met(0.99), 0.2, 0.9), OwnSelector(met(0.5), 0.2, 0.9)
    silent = OwnSelector(met(0.99, uniform=0.99), 0.2, 0.995)
    assert ProgramSelectors("a", (good, silent), None).all_met
    assert not ProgramSelectors("a", (good, bad), None).all_met
    assert ProgramSelectors("a", (good, bad), None).unmet
    assert not ProgramSelectors("a", (silent,), None).all_met
    assert not ProgramSelectors("a", (silent,), None).unmet


def test_controls_raise_the_bar() -> None:
    """The bar is halfway between the highest control and 1, where controls score high."""
    program, rival = "reverse_by_counting", "reverse"
    selectors = compared("reverse", program)
    own = met(0.97, uniform=0.3, init=0.9)
    wanted = selectors.programs[program][0]
    given = replace(own, selection=wanted)
    theirs = selectors.reaches(reference_of(rival).bridge)
    sides = selectors.decide(
        {**theirs, program: [given, *theirs[program][1:]]}, program, rival
    ).sides
    assert sides[0].telling[0].bar == pytest.approx(0.95)
