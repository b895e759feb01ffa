"""Interchange training: the alignment, the program's counterfactuals, and the loss."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from support.references import make_inputs
from tracr.rasp import rasp
from transformer_lens.config import TransformerBridgeConfig

from algomatch.analysis.controls.interchange_training import (
    InterchangeCases,
    InterchangeImplementation,
    cases_of,
    implement,
    interchange_accuracy,
    interchanged,
)
from algomatch.config.composition import compose
from algomatch.config.schema import TrainerConfig
from algomatch.data.inputs import InputSet
from algomatch.data.outputs import IGNORE, Categorical
from algomatch.data.programs import (
    make_hist,
    make_most_freq,
    make_pair_balance,
    make_previous_token,
    make_reverse,
    make_shuffle_dyck,
    make_sort,
)
from algomatch.data.tasks import Task
from algomatch.models.bridges import make_bridge, make_native
from algomatch.models.shapes import learned_shape
from algomatch.models.variable_sites import ResidualDims, align, inner_variables, sites_of

TINY = ("model=2L", "model.d_model=32", "model.n_heads=2")
SETTINGS = TrainerConfig(
    max_steps=400, batch_size=32, learning_rate=3e-3, warmup_steps=10, evaluate_every=50
)


def shape_of(inputs: InputSet, *overrides: str) -> TransformerBridgeConfig:
    return learned_shape(compose([*TINY, *overrides]).model, inputs, 0)


def sort_inputs(longest: int = 3) -> InputSet:
    return make_inputs(Task("sort", make_sort((1, 2), longest), (1, 2), 1, longest))


def reverse_inputs() -> InputSet:
    return make_inputs(Task("reverse", make_reverse(), ("a", "b"), 1, 3))


@pytest.fixture(scope="module")
def inputs() -> InputSet:
    return sort_inputs()


@pytest.fixture(scope="module")
def trained(inputs: InputSet) -> InterchangeImplementation:
    return implement(inputs, shape_of(inputs), 0, SETTINGS)


@pytest.fixture(scope="module")
def untaught(inputs: InputSet) -> InterchangeImplementation:
    """A model trained on the same pairs without the interchange loss, until its steps run out."""
    return implement(inputs, shape_of(inputs), 0, SETTINGS, weight=0.0)


# The interchange loss


def test_the_program_is_learned_by_its_variable(trained: InterchangeImplementation) -> None:
    assert trained.exact == 1
    assert set(trained.interchange) == {"place"}
    assert trained.interchange["place"] >= 0.99
    assert trained.steps < SETTINGS.max_steps


def test_without_the_loss_the_task_is_learned_but_not_the_variable(
    trained: InterchangeImplementation, untaught: InterchangeImplementation
) -> None:
    assert untaught.exact == 1
    assert untaught.steps == SETTINGS.max_steps
    assert untaught.alignment == trained.alignment
    assert untaught.interchange["place"] < trained.interchange["place"] - 0.4


def test_a_bridge_with_the_weights_shows_the_same(
    inputs: InputSet, trained: InterchangeImplementation
) -> None:
    """Hooks on the bridge replace the dimensions, not the training loop.

    A hook between attention and MLP changes only what the MLP reads, so the block's output is
    changed too.
    """
    cases = cases_of(inputs, "place", 200, 9)
    place = trained.alignment["place"]
    dims, after = list(place.dims), place.site.replace("mid", "post")
    assert after != place.site
    bridge = make_bridge(shape_of(inputs), trained.weights)
    tokens, key_mask = inputs.tokens, inputs.key_mask
    with torch.inference_mode():
        base, donor = (
            bridge.run_with_cache(tokens[rows], attention_mask=key_mask[rows])[1][place.site]
            for rows in (cases.bases, cases.donors)
        )
        change = torch.zeros_like(base)
        change[..., dims] = donor[..., dims] - base[..., dims]
        given = bridge.run_with_hooks(
            tokens[cases.bases],
            attention_mask=key_mask[cases.bases],
            fwd_hooks=[(site, lambda x, hook: x + change) for site in (place.site, after)],
        )
    model = make_native(shape_of(inputs))
    model.load_state_dict(trained.weights)
    _, swapped = interchanged(model, inputs, cases, [place] * len(cases))
    real = inputs.real[cases.bases]
    torch.testing.assert_close(given[real], swapped[real].detach(), rtol=0, atol=1e-4)
    assert interchange_accuracy(model, inputs, place, cases) > 0.95


def test_the_seed_fixes_the_model(inputs: InputSet) -> None:
    short = dataclasses.replace(SETTINGS, max_steps=3)
    implementation, other, third = (
        implement(inputs, shape_of(inputs), s, short) for s in (5, 5, 6)
    )
    assert all(
        torch.equal(implementation.weights[name], other.weights[name])
        for name in implementation.weights
    )
    assert any(
        not torch.equal(implementation.weights[name], third.weights[name])
        for name in implementation.weights
    )
    assert implementation.steps == 3


def test_a_program_without_inner_variables_is_trained_all_the_same() -> None:
    inputs = make_inputs(Task("hist", make_hist(), ("a", "b"), 1, 3))
    told: list[tuple[int, int]] = []
    made = implement(inputs, shape_of(inputs), 0, SETTINGS, progress=lambda *at: told.append(at))
    assert (made.alignment, made.interchange, made.exact) == ({}, {}, 1)
    assert told[0] == (50, 400)
    assert told[-1] == (made.steps, 400)


# What is replaced


def test_the_dimensions_of_a_case_are_replaced_at_its_site_and_nothing_else(
    inputs: InputSet,
) -> None:
    shape = shape_of(inputs)
    model = make_native(shape)
    cases = cases_of(inputs, "place", 20, 0)
    everything, nothing = tuple(range(shape.d_model)), ()
    for site in sites_of(shape):
        places = [ResidualDims(site, everything if at % 2 else nothing) for at in range(len(cases))]
        given, swapped = interchanged(model, inputs, cases, places, cases.bases)
        base, donor = given.chunk(2)
        for at in range(len(cases)):
            wanted = donor if at % 2 else base
            length = int(inputs.lengths[cases.bases[at]])
            if int(inputs.lengths[cases.donors[at]]) == length:
                torch.testing.assert_close(swapped[at, : length + 1], wanted[at, : length + 1])


# The cases


def brute(inputs: InputSet, name: str, base: int, donor: int) -> list[object]:
    """Return the program's output with a variable overridden, by plain function calls."""
    task, length = inputs.task, int(inputs.lengths[base])
    variable = inputs.variables[name]
    codes = variable.codes[donor, 1 : length + 1].tolist()
    values = [None if code == IGNORE else variable.values[code] for code in codes]

    class Overridden(rasp.DefaultRASPEvaluator):  # type: ignore[misc]
        def evaluate(self, expr: object, xs: object) -> Any:
            return values if expr is task.variables[name] else super().evaluate(expr, xs)

    return list(Overridden().evaluate(task.program, inputs.listed(base)))


TASKS = {
    "reverse": lambda: Task("reverse", make_reverse(), ("a", "b"), 1, 4),
    "sort": lambda: Task("sort", make_sort((1, 2, 3), 3), (1, 2, 3), 1, 3),
    "pair_balance": lambda: Task(
        "pair_balance", make_pair_balance(("(", ")", "a")), ("(", ")", "a"), 1, 3
    ),
    "most_freq": lambda: Task("most_freq", make_most_freq(("a", "b", "c"), 3), tuple("abc"), 1, 3),
}


@pytest.mark.parametrize("task", TASKS)
def test_targets_are_what_tracrs_own_evaluator_says(task: str) -> None:
    inputs = make_inputs(TASKS[task]())
    names = inner_variables(inputs)
    assert names
    for name in names:
        cases = cases_of(inputs, name, 60, 0)
        for base, donor, targets in zip(
            cases.bases.tolist(), cases.donors.tolist(), cases.targets, strict=True
        ):
            length = int(inputs.lengths[base])
            assert length <= int(inputs.lengths[donor])
            wanted = brute(inputs, name, base, donor)
            for value, target in zip(wanted, targets[1 : length + 1].tolist(), strict=True):
                if isinstance(inputs.output, Categorical):
                    known = value in inputs.output.values
                    assert target == (inputs.output.values.index(value) if known else IGNORE)
                else:
                    assert target == pytest.approx(value, nan_ok=True)
            assert not inputs.output.defined(targets[length + 1 :]).any()


@pytest.mark.parametrize("task", TASKS)
def test_every_case_changes_the_output_and_the_seed_fixes_them(task: str) -> None:
    inputs = make_inputs(TASKS[task]())
    for name in inner_variables(inputs):
        cases, again, other = (cases_of(inputs, name, 50, seed) for seed in (0, 0, 1))
        base = inputs.targets[cases.bases]
        both = inputs.output.defined(cases.targets) & inputs.output.defined(base)
        assert (both & ~inputs.output.same(cases.targets, base)).any(-1).all()
        assert len(cases) <= 50
        assert torch.equal(cases.bases, again.bases)
        assert torch.equal(cases.donors, again.donors)
        assert not torch.equal(cases.bases, other.bases)


def test_a_case_on_which_the_program_raises_is_left_out_and_the_others_are_not() -> None:
    place = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.LT))
    pair = rasp.SequenceMap(
        lambda n, token: {(0, 1): "x", (1, 2): "y", (2, 2): "z", (0, 2): "x"}[n, token],
        place.named("lower"),
        rasp.tokens,
    )
    inputs = make_inputs(Task("fragile", pair.named("pair"), (1, 2), 1, 3))
    wanted, raising = set(), 0
    for base, donor in itertools.product(range(len(inputs)), repeat=2):
        if inputs.lengths[base] <= inputs.lengths[donor]:
            try:
                given = brute(inputs, "lower", base, donor)
            except KeyError:
                raising += 1
                continue
            if any(a not in (b, None) for a, b in zip(given, inputs.values_at(base), strict=True)):
                wanted.add((base, donor))
    cases = cases_of(inputs, "lower", 2000, 0)
    assert set(zip(cases.bases.tolist(), cases.donors.tolist(), strict=True)) == wanted
    assert raising > 10
    assert len(wanted) > 10


def test_the_accuracy_of_no_cases_is_one(inputs: InputSet) -> None:
    none = cases_of(inputs, "place", 50, 0).rows(torch.empty(0, dtype=torch.int64))
    assert isinstance(none, InterchangeCases)
    model = make_native(shape_of(inputs))
    assert (
        interchange_accuracy(model, inputs, ResidualDims(sites_of(model.cfg)[0], (0,)), none) == 1
    )


# The alignment


def aligned(inputs: InputSet, *overrides: str) -> dict[str, str]:
    shape = shape_of(inputs, *overrides)
    return {k: p.site[7:] for k, p in align(inputs, shape, inner_variables(inputs)).items()}


def test_what_token_and_position_tell_and_what_is_another_again_is_no_inner_variable() -> None:
    assert inner_variables(reverse_inputs()) == ["length", "opp_idx"]  # opp_idx-1 is opp_idx
    assert inner_variables(sort_inputs()) == ["place"]  # the key holds token and position
    causal = make_inputs(Task("prev", make_previous_token(), ("a", "b"), 1, 3, causal=True))
    assert inner_variables(causal) == []
    fixed = make_inputs(Task("reverse", make_reverse(), ("a", "b"), 3, 3))
    assert inner_variables(fixed) == []  # the length is the same at all positions


def test_selecting_takes_an_attention_layer_and_mapping_an_mlp() -> None:
    most = make_inputs(Task("most_freq", make_most_freq(("a", "b", "c"), 4), tuple("abc"), 1, 4))
    assert aligned(most, "model.n_layers=4") == {
        "hist": "0.hook_resid_mid",
        "key": "0.hook_resid_post",
        "n_better": "1.hook_resid_mid",
        "best_at": "1.hook_resid_post",
        "n_best_before": "2.hook_resid_mid",
    }
    assert aligned(sort_inputs()) == {"place": "1.hook_resid_mid"}
    assert aligned(reverse_inputs()) == {
        "length": "0.hook_resid_mid",
        "opp_idx": "0.hook_resid_post",
    }


def test_a_variable_is_never_held_after_one_that_depends_on_it() -> None:
    dyck = make_inputs(Task("dyck", make_shuffle_dyck(("(", ")")), ("(", ")"), 1, 5))
    for n_layers in (1, 2, 3, 4):
        for kind in ("true", "false"):
            shape = shape_of(dyck, f"model.n_layers={n_layers}", f"model.attn_only={kind}")
            places = align(dyck, shape, inner_variables(dyck))
            order = sites_of(shape)
            at = {name: order.index(place.site) for name, place in places.items()}
            for before, after in [("share_open", "zero"), ("zero", "last_zero")]:
                if before in at and after in at:
                    assert at[before] < at[after]
            assert order[-1] not in {place.site for place in places.values()}
            dims = [dim for place in places.values() for dim in place.dims]
            assert len(dims) == len(set(dims))
            assert max(dims, default=0) < shape.d_model
    assert places


def test_a_program_of_more_steps_than_the_model_has_still_has_places() -> None:
    most = make_inputs(Task("most_freq", make_most_freq(("a", "b", "c"), 4), tuple("abc"), 1, 4))
    assert aligned(most, "model.n_layers=1") != {}
    assert len(aligned(most, "model.n_layers=2")) < 5
