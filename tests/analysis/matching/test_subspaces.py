"""Subspace search: what it finds in models whose variables are known, and what it must not find."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.models import orthogonal
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.base import Setting
from algomatch.analysis.controls.interchange_training import (
    Implementation,
    implement,
    interchange_accuracy,
)
from algomatch.analysis.controls.known_models import random_inits
from algomatch.analysis.controls.variants import rotated
from algomatch.analysis.matching.subspaces import (
    Question,
    Search,
    Subspace,
    _Site,
    distinct_cases,
    halves,
    predictive_directions,
    questions,
    subspaces,
)
from algomatch.api.preparation import prepare
from algomatch.config.schema import TrainerConfig, compose
from algomatch.data.inputs import InputSet, input_set, shuffled
from algomatch.data.rasp.cuts import labels
from algomatch.data.tasks import make_task
from algomatch.infra.errors import UserError
from algomatch.models.bridges import make_bridge, plain_model
from algomatch.models.continuation import residuals
from algomatch.models.shapes import learned_shape
from algomatch.models.training import fit

pytestmark = pytest.mark.slow

QUICK = Search(steps=40, batch_size=32, cases=256, evaluate_every=20)
TAUGHT = TrainerConfig(max_steps=400, batch_size=32, learning_rate=3e-3, warmup_steps=10)
BY_HEART = TrainerConfig(max_steps=20, batch_size=32, learning_rate=3e-3, warmup_steps=10)

Table = dict[tuple[str, str, int], Subspace]


@pytest.fixture(scope="module")
def implemented(small: Setting) -> Implementation:
    found = implement(small.inputs, taught_shape(small), 0, TAUGHT)
    assert found.interchange["opp_idx"] > 0.95
    return found


def taught_shape(small: Setting) -> TransformerBridgeConfig:
    model = compose(["model=2L_attn_only", "model.d_model=32"]).model
    return learned_shape(model, small.inputs, 0)


def searched(
    bridge: TransformerBridge,
    inputs: InputSet,
    names: list[str],
    sites: list[str],
    settings: Search = QUICK,
) -> Table:
    """Subspaces by variable, site without its `blocks.` and `hook_`, and number of directions."""
    weights, _, _ = fit(shuffled(inputs, 0), bridge.cfg, BY_HEART, 0)
    places = [f"blocks.{site.replace('.', '.hook_')}" for site in sites]
    found = subspaces(
        bridge,
        inputs,
        questions(inputs, names, settings),
        dict.fromkeys(names, places),
        random_inits(bridge.cfg, 2, 0, "cpu"),
        [make_bridge(bridge.cfg, weights)],
        settings,
    )
    return {(one.variable, one.site[7:].replace("hook_", ""), one.k): one for one in found}


@pytest.mark.parametrize("turned", [False, True])
def test_a_reference_has_its_variable_where_it_is_and_nowhere_else(
    small: Setting, turned: bool
) -> None:
    """The length and what of it is left at a position tell each other there: they are one."""
    compiled = small.reference.compiled
    bridge = (rotated(compiled, 3) if turned else compiled).bridge(small.inputs)
    sites = ["0.resid_post", "1.resid_post", "2.resid_post", "3.resid_mid", "3.resid_post"]
    settings = replace(QUICK, dimensions=(4,))
    found = searched(bridge, small.inputs, ["length", "opp_idx"], sites, settings)
    assert {one.same for one in found.values()} == {("opp_idx",)}
    assert {place[1] for place, one in found.items() if one.found} == set(sites[:3])
    for site in sites[:3]:
        one = found["length", site, 4]
        assert one.test == one.train == 1
        assert 0.9 < one.low < one.high == 1
        assert one.control < 0.7
        assert one.chance < 0.3
        assert len(one.random_inits) == 2
        assert len(one.shuffled_labels) == 1


def test_variables_that_come_after_each_other_are_told_apart() -> None:
    setting = prepare(compose(["task=double_hist", "task.vocabulary=[a,b,c]", "task.max_length=4"]))
    inputs, bridge = setting.inputs, setting.reference.bridge
    settings = replace(QUICK, dimensions=(4,))
    sites = ["0.resid_post", "2.resid_post"]
    found = searched(bridge, inputs, ["hist", "n_same_before"], sites, settings)
    assert {place[:2] for place, one in found.items() if one.found} == {("hist", "0.resid_post")}


def test_what_a_model_was_taught_is_found_where_it_was(
    small: Setting, implemented: Implementation
) -> None:
    bridge = make_bridge(taught_shape(small), implemented.weights)
    assert implemented.alignment["opp_idx"].site == "blocks.0.hook_resid_post"
    settings = replace(QUICK, steps=100, dimensions=(8,))
    found = searched(bridge, small.inputs, ["opp_idx"], ["0.resid_post", "1.resid_post"], settings)
    assert {place for place, one in found.items() if one.found} == {("opp_idx", "0.resid_post", 8)}
    one = found["opp_idx", "0.resid_post", 8]
    assert one.test > 0.95
    assert one.start < one.test - 0.3  # it is the search that finds it


def test_nothing_is_found_in_a_random_init(small: Setting) -> None:
    (bridge,) = random_inits(small.shape, 1, 5, "cpu")
    found = searched(bridge, small.inputs, ["length"], ["1.resid_mid"])
    assert {place[2] for place in found} == {1, 2, 4}
    assert not any(one.found for one in found.values())
    assert max(one.test for one in found.values()) < 0.7


def test_directions_along_dimensions_are_those_dimensions(
    small: Setting, implemented: Implementation
) -> None:
    """The accuracy is that of interchange training, by code that shares nothing with it."""
    inputs, place = small.inputs, implemented.alignment["opp_idx"]
    model = plain_model(make_bridge(taught_shape(small), implemented.weights))
    cases = distinct_cases(inputs, "opp_idx", 300, 4)
    with torch.no_grad():
        residual = residuals(model, inputs.tokens, inputs.key_mask, [place.site])
    site = _Site(model, place.site, residual[place.site], inputs, cases)
    for dims in (place.dims, place.dims[:3], tuple(range(20, 32))):
        expected = interchange_accuracy(model, inputs, replace(place, dims=dims), cases)
        assert site.accuracy(torch.eye(32)[:, list(dims)]) == pytest.approx(expected, abs=1e-6)


def test_a_search_is_repeatable_and_leaves_no_trace(small: Setting) -> None:
    (bridge,) = random_inits(small.shape, 1, 5, "cpu")
    state = torch.get_rng_state()
    settings = replace(QUICK, dimensions=(2,), steps=5)
    one, again, other = (
        searched(bridge, small.inputs, ["length"], ["0.resid_mid"], given)[
            "length", "0.resid_mid", 2
        ]
        for given in (settings, settings, replace(settings, seed=1))
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.directions, again.directions)
    assert one.test == again.test
    assert not torch.equal(one.directions, other.directions)
    torch.testing.assert_close(one.directions.T @ one.directions, torch.eye(2), atol=1e-5, rtol=0)
    assert all(parameter.grad is None for parameter in bridge.original_model.parameters())


def test_both_controls_are_demanded_and_sites_are_checked(small: Setting) -> None:
    (bridge,) = random_inits(small.shape, 1, 5, "cpu")
    for inits, by_heart in (([bridge], []), ([], [bridge])):
        with pytest.raises(UserError, match="random inits and models of shuffled labels"):
            list(subspaces(bridge, small.inputs, [], {}, inits, by_heart, QUICK))
    asked = questions(small.inputs, ["length"], QUICK)
    sites = {"length": ["blocks.7.hook_resid_post"]}
    with pytest.raises(UserError, match=r"no site 'blocks\.7\.hook_resid_post'"):
        list(subspaces(bridge, small.inputs, asked, sites, [bridge], [bridge], QUICK))


@pytest.mark.parametrize(
    ("test", "low", "inits", "by_heart", "rivalled", "found"),
    [
        (0.95, 0.9, (0.2, 0.8), (0.5,), 0.8, True),
        (0.95, 0.9, (0.2, 0.92), (0.5,), 0.1, False),
        (0.95, 0.9, (0.2, 0.3), (0.9,), 0.1, False),
        (0.95, 0.9, (0.2, 0.3), (0.5,), 0.95, False),
        (0.85, 0.8, (0.2, 0.3), (0.5,), 0.1, False),
    ],
)
def test_found_is_high_and_above_every_control(
    test: float, low: float, inits: tuple[float, ...], by_heart: tuple[float, ...],
    rivalled: float, found: bool,
) -> None:  # fmt: skip
    one = Subspace(
        "v", (), "s", torch.eye(4)[:, :2], 1.0, test, low, 1.0, 100, 0.0, 0.0, inits, by_heart,
        "w", rivalled, 0.9,
    )  # fmt: skip
    assert one.k == 2
    assert one.control == max(*inits, *by_heart)
    assert one.found == found


def test_inputs_to_judge_on_are_not_searched_on(small: Setting) -> None:
    train, test = halves(small.inputs, 0)
    lists = [{tuple(row) for row in part.tokens.tolist()} for part in (train, test)]
    assert not lists[0] & lists[1]
    assert len(lists[0]) + len(lists[1]) == len(small.inputs)
    for length in (2, 3, 4):
        counts = [int((part.lengths == length).sum()) for part in (train, test)]
        assert abs(counts[0] - counts[1]) <= 1


def test_cases_are_different_pairs_and_one_question_for_all_they_ask(small: Setting) -> None:
    (asked,) = questions(small.inputs, ["length", "opp_idx", "opp_idx-1"], QUICK)
    assert isinstance(asked, Question)
    assert asked.names == ("length", "opp_idx", "opp_idx-1")
    pairs = set(zip(asked.test.bases.tolist(), asked.test.donors.tolist(), strict=True))
    assert len(pairs) == len(asked.test) > 100


def test_what_another_variable_would_do_as_well_is_no_question(small: Setting) -> None:
    (asked,) = questions(small.inputs, ["length"], QUICK)
    assert asked.rival not in ("length", "opp_idx", "opp_idx-1")  # these are one with it
    assert 0 < asked.rivalled < 0.5
    assert asked.answerable
    task = compose(["task=pair_balance", "task.max_length=4"]).task
    inputs = input_set(make_task(task), task)
    (asked, _) = questions(inputs, ["share_open", "share_close"], QUICK)
    assert (asked.rival, asked.rivalled) == ("is_open", 1.0)  # it alone decides the share
    assert not asked.answerable
    (bridge,) = random_inits(small.shape, 1, 0, "cpu")
    sites = {"share_open": ["blocks.0.hook_resid_mid"]}
    assert not list(subspaces(bridge, inputs, [asked], sites, [bridge], [bridge], QUICK))


def test_the_first_directions_are_a_variable_s_own(small: Setting) -> None:
    """Planted among token and position, which are larger, and among what says nothing."""
    inputs = small.inputs
    n_pos, width = inputs.tokens.shape[1], 24
    basis = torch.from_numpy(orthogonal(0, width)).float()
    codes = labels(inputs, ["length"]).clamp(min=0)
    stream = (
        torch.nn.functional.one_hot(codes, 4).float() @ basis[:4]
        + 5 * torch.nn.functional.one_hot(inputs.tokens, 5).float() @ basis[4:9]
        + 5 * torch.eye(n_pos) @ basis[9 : 9 + n_pos]
        + torch.randn(len(inputs), n_pos, 4, generator=torch.Generator().manual_seed(0))
        @ basis[16:20]
    )
    directions = predictive_directions(stream, inputs, "length").float()
    torch.testing.assert_close(directions.T @ directions, torch.eye(width), atol=1e-5, rtol=0)
    inside = (basis[:4] @ directions).square().sum(0)
    assert (inside[:3] > 0.99).all()  # that one of four it is, they all say
    varied = (stream[inputs.real] @ directions).std(0)
    assert varied[3:8].max() < 1e-4 < 0.1 < varied[-8:].min()
