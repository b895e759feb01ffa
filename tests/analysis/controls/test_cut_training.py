"""Cut training by interchange of whole residuals: the trained model follows its program."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.references import make_inputs
from transformer_lens.config import TransformerBridgeConfig

from algomatch.analysis.controls.cut_training import CutImplementation, cut_sites, implement_cuts
from algomatch.analysis.matching.cut_verdicts import FOLLOWS
from algomatch.analysis.matching.program_ranking import Candidate, Standing, candidate, standing
from algomatch.config.composition import compose
from algomatch.config.schema import TrainerConfig
from algomatch.data.inputs import InputSet
from algomatch.data.programs import (
    make_double_hist,
    make_reverse,
    make_share_of_last,
)
from algomatch.data.rasp.cuts import Cut, cuts
from algomatch.data.tasks import Task
from algomatch.infra.errors import UserError
from algomatch.models.bridges import make_bridge
from algomatch.models.reference import build_reference
from algomatch.models.shapes import learned_shape
from algomatch.models.task_model import task_model_of
from algomatch.models.training import fit

pytestmark = pytest.mark.slow

SETTINGS = TrainerConfig(
    max_steps=600, batch_size=48, learning_rate=3e-3, warmup_steps=10, evaluate_every=50
)
FEW = replace(SETTINGS, max_steps=2)
MATCHED = compose(["analysis.match_cases=300", "analysis.bootstrap=100"]).analysis


def shape_of(inputs: InputSet, blocks: int = 2) -> TransformerBridgeConfig:
    given = ["model=2L", "model.d_model=32", "model.n_heads=2", f"model.n_layers={blocks}"]
    return learned_shape(compose(given).model, inputs, 0)


def reverse_inputs() -> InputSet:
    return make_inputs(Task("reverse", make_reverse(), ("a", "b", "c"), 1, 4))


@pytest.fixture(scope="module")
def own() -> Candidate:
    inputs = reverse_inputs()
    return candidate("reverse", inputs, build_reference(inputs), MATCHED)


@pytest.fixture(scope="module")
def trained(own: Candidate) -> CutImplementation:
    return implement_cuts(own.inputs, shape_of(own.inputs), own.testable, 0, SETTINGS)


def standing_of(own: Candidate, weights: dict[str, torch.Tensor], blocks: int = 2) -> Standing:
    bridge = make_bridge(shape_of(own.inputs, blocks), weights)
    return standing(task_model_of(bridge, own.inputs), own, MATCHED)


def test_the_model_follows_its_program(own: Candidate, trained: CutImplementation) -> None:
    (cut,) = own.testable
    assert trained.solved
    assert trained.sites == {cut.name: "blocks.0.hook_resid_post"}
    assert trained.held_shares[cut.name] >= 0.99
    assert trained.steps < SETTINGS.max_steps
    standing = standing_of(own, trained.weights)
    assert standing.verdict.verdict == FOLLOWS
    assert "blocks.0.hook_resid_post" in next(
        cut_verdict.sites for cut_verdict in standing.verdict.cuts if cut_verdict.cut == cut
    )
    assert standing.best_of(own.testable)[cut.name] >= 0.95


def test_the_same_model_trained_plainly_does_not(own: Candidate) -> None:
    settings = replace(SETTINGS, batch_size=32)
    weights, exact, _ = fit(own.inputs, shape_of(own.inputs), settings, 0)
    assert exact == 1
    standing = standing_of(own, weights)
    assert standing.verdict.verdict != FOLLOWS
    assert max(standing.best_of(own.testable).values()) < 0.5


def test_without_cuts_it_is_plain_training(own: Candidate) -> None:
    implementation = implement_cuts(own.inputs, shape_of(own.inputs), (), 0, SETTINGS)
    assert (implementation.sites, implementation.held_shares) == ({}, {})
    assert implementation.solved
    assert standing_of(own, implementation.weights).verdict.verdict != FOLLOWS


def test_what_has_not_learned_is_not_solved_and_the_seed_fixes_it() -> None:
    inputs = make_inputs(Task("reverse", make_reverse(), ("a", "b"), 1, 3))
    inner, told = cuts(inputs).inner, list[tuple[int, int]]()
    implementation, again, other = (
        implement_cuts(
            inputs, shape_of(inputs), inner, seed, FEW, lambda *steps: told.append(steps)
        )
        for seed in (0, 0, 1)
    )
    assert not implementation.solved
    assert implementation.steps == 2
    assert implementation.exact < 1
    assert implementation.held_shares == again.held_shares
    assert all(
        torch.equal(value, again.weights[name]) for name, value in implementation.weights.items()
    )
    assert not torch.equal(implementation.weights["head.weight"], other.weights["head.weight"])
    assert told == [(2, 2)] * 3


# The sites


def chain() -> tuple[Cut, ...]:
    inputs = make_inputs(Task("double_hist", make_double_hist(), ("a", "b"), 1, 3))
    by_name = {cut.name: cut for cut in cuts(inputs).all}
    return tuple(by_name[name] for name in ("tokens+hist+indices", "hist+hist_at_first"))


@pytest.mark.parametrize(
    ("blocks", "count", "after"),
    [(2, 1, [0]), (3, 2, [0, 1]), (4, 1, [1]), (4, 2, [0, 1]), (6, 2, [1, 3]), (1, 0, [])],
)
def test_cuts_are_held_one_after_the_other_and_the_output_after_them(
    blocks: int, count: int, after: list[int]
) -> None:
    shape = shape_of(reverse_inputs(), blocks)
    sites = cut_sites(shape, chain()[:count])
    assert list(sites.values()) == [f"blocks.{block}.hook_resid_post" for block in after]


def test_a_model_of_too_few_blocks_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 cuts are held after 2 blocks, .* the model has 2"):
        cut_sites(shape_of(reverse_inputs(), 2), chain())


def test_cuts_that_no_order_of_steps_has_one_by_one_are_refused() -> None:
    first, second = chain()
    with pytest.raises(UserError, match=r"has hist\+hist_at_first, then tokens\+hist\+indices"):
        cut_sites(shape_of(reverse_inputs(), 4), (second, first))


@pytest.mark.slow
def test_a_number_is_the_output_and_two_cuts_are_held() -> None:
    inputs = make_inputs(Task("share_of_last", make_share_of_last(), ("a", "b", "c"), 1, 4))
    own = candidate("share_of_last", inputs, build_reference(inputs), MATCHED)
    assert [cut.name for cut in own.testable] == ["tokens+indices+length", "tokens+holds_last"]
    implementation = implement_cuts(inputs, shape_of(inputs, 3), own.testable, 0)
    assert implementation.solved
    assert standing_of(own, implementation.weights, 3).verdict.verdict == FOLLOWS
