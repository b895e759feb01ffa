"""Subspace search on controls: models with known variables, and models without any."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.models import orthogonal
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.controls.interchange_training import (
    InterchangeImplementation,
    implement,
    interchange_accuracy,
)
from algomatch.analysis.controls.variants import rotated
from algomatch.analysis.matching.subspace_search import (
    Question,
    Subspace,
    SubspaceSearch,
    _Site,
    distinct_cases,
    halves,
    predictive_directions,
    questions,
    subspaces,
)
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.config.schema import TrainerConfig
from algomatch.data.inputs import InputSet, input_set, shuffled
from algomatch.data.rasp.cuts import labels
from algomatch.data.tasks import make_task
from algomatch.infra.errors import UserError
from algomatch.models.bridges import make_bridge, plain_model
from algomatch.models.continuation import residuals
from algomatch.models.shapes import learned_shape, random_inits
from algomatch.models.training import fit

pytestmark = pytest.mark.slow

QUICK = SubspaceSearch(steps=40, batch_size=32, cases=256, evaluate_every=20)
TAUGHT = TrainerConfig(max_steps=400, batch_size=32, learning_rate=3e-3, warmup_steps=10)
BY_HEART = TrainerConfig(max_steps=20, batch_size=32, learning_rate=3e-3, warmup_steps=10)

Table = dict[tuple[str, str, int], Subspace]


@pytest.fixture(scope="module")
def implemented(small: MeasurementContext) -> InterchangeImplementation:
    implementation = implement(small.inputs, taught_shape(small), 0, TAUGHT)
    assert implementation.interchange["opp_idx"] > 0.95
    return implementation


def taught_shape(small: MeasurementContext) -> TransformerBridgeConfig:
    model = compose(["model=2L_attn_only", "model.d_model=32"]).model
    return learned_shape(model, small.inputs, 0)


def searched(
    bridge: TransformerBridge,
    inputs: InputSet,
    names: list[str],
    sites: list[str],
    settings: SubspaceSearch = QUICK,
) -> Table:
    """Subspaces by variable, short site (without `blocks.` and `hook_`) and dimension."""
    weights, _, _ = fit(shuffled(inputs, 0), bridge.cfg, BY_HEART, 0)
    places = [f"blocks.{site.replace('.', '.hook_')}" for site in sites]
    spaces = subspaces(
        bridge,
        inputs,
        questions(inputs, names, settings),
        dict.fromkeys(names, places),
        random_inits(bridge.cfg, 2, 0, "cpu"),
        [make_bridge(bridge.cfg, weights)],
        settings,
    )
    return {
        (space.variable, space.site[7:].replace("hook_", ""), space.k): space for space in spaces
    }


@pytest.mark.parametrize("turned", [False, True])
def test_a_reference_has_its_variable_where_it_is_and_nowhere_else(
    small: MeasurementContext, turned: bool
) -> None:
    """Given the position, length and opp_idx determine each other, so they are merged."""
    compiled = small.reference.compiled
    bridge = (rotated(compiled, 3) if turned else compiled).bridge(small.inputs)
    sites = ["0.resid_post", "1.resid_post", "2.resid_post", "3.resid_mid", "3.resid_post"]
    settings = replace(QUICK, dimensions=(4,))
    spaces = searched(bridge, small.inputs, ["length", "opp_idx"], sites, settings)
    assert {space.same for space in spaces.values()} == {("opp_idx",)}
    assert {place[1] for place, space in spaces.items() if space.carries} == set(sites[:3])
    for site in sites[:3]:
        space = spaces["length", site, 4]
        assert space.test == space.train == 1
        assert 0.9 < space.low < space.high == 1
        assert space.control < 0.7
        assert space.chance < 0.3
        assert len(space.random_inits) == 2
        assert len(space.shuffled_labels) == 1


def test_variables_that_come_after_each_other_are_told_apart() -> None:
    context = prepare(compose(["task=double_hist", "task.vocabulary=[a,b,c]", "task.max_length=4"]))
    inputs, bridge = context.inputs, context.reference.bridge
    settings = replace(QUICK, dimensions=(4,))
    sites = ["0.resid_post", "2.resid_post"]
    spaces = searched(bridge, inputs, ["hist", "n_same_before"], sites, settings)
    assert {place[:2] for place, space in spaces.items() if space.carries} == {
        ("hist", "0.resid_post")
    }


def test_what_a_model_was_taught_is_found_where_it_was(
    small: MeasurementContext, implemented: InterchangeImplementation
) -> None:
    bridge = make_bridge(taught_shape(small), implemented.weights)
    assert implemented.alignment["opp_idx"].site == "blocks.0.hook_resid_post"
    settings = replace(QUICK, steps=100, dimensions=(8,))
    spaces = searched(bridge, small.inputs, ["opp_idx"], ["0.resid_post", "1.resid_post"], settings)
    assert {place for place, space in spaces.items() if space.carries} == {
        ("opp_idx", "0.resid_post", 8)
    }
    space = spaces["opp_idx", "0.resid_post", 8]
    assert space.test > 0.95
    assert space.start < space.test - 0.3  # the start is not enough: the search finds it


def test_nothing_is_found_in_a_random_init(small: MeasurementContext) -> None:
    (bridge,) = random_inits(small.shape, 1, 5, "cpu")
    spaces = searched(bridge, small.inputs, ["length"], ["1.resid_mid"])
    assert {place[2] for place in spaces} == {1, 2, 4}
    assert not any(space.carries for space in spaces.values())
    assert max(space.test for space in spaces.values()) < 0.7


def test_directions_along_dimensions_are_those_dimensions(
    small: MeasurementContext, implemented: InterchangeImplementation
) -> None:
    """The accuracy equals that of interchange training, which shares no code with it."""
    inputs, place = small.inputs, implemented.alignment["opp_idx"]
    model = plain_model(make_bridge(taught_shape(small), implemented.weights))
    cases = distinct_cases(inputs, "opp_idx", 300, 4)
    with torch.no_grad():
        residual = residuals(model, inputs.tokens, inputs.key_mask, [place.site])
    site = _Site(model, place.site, residual[place.site], inputs, cases)
    for dims in (place.dims, place.dims[:3], tuple(range(20, 32))):
        expected = interchange_accuracy(model, inputs, replace(place, dims=dims), cases)
        assert site.accuracy(torch.eye(32)[:, list(dims)]) == pytest.approx(expected, abs=1e-6)


def test_a_search_is_repeatable_and_leaves_no_trace(small: MeasurementContext) -> None:
    (bridge,) = random_inits(small.shape, 1, 5, "cpu")
    state = torch.get_rng_state()
    settings = replace(QUICK, dimensions=(2,), steps=5)
    space, again, other = (
        searched(bridge, small.inputs, ["length"], ["0.resid_mid"], given)[
            "length", "0.resid_mid", 2
        ]
        for given in (settings, settings, replace(settings, seed=1))
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(space.directions, again.directions)
    assert space.test == again.test
    assert not torch.equal(space.directions, other.directions)
    torch.testing.assert_close(
        space.directions.T @ space.directions, torch.eye(2), atol=1e-5, rtol=0
    )
    assert all(parameter.grad is None for parameter in bridge.original_model.parameters())


def test_both_controls_are_demanded_and_sites_are_checked(small: MeasurementContext) -> None:
    (bridge,) = random_inits(small.shape, 1, 5, "cpu")
    for inits, by_heart in (([bridge], []), ([], [bridge])):
        with pytest.raises(UserError, match="random inits and models of shuffled labels"):
            list(subspaces(bridge, small.inputs, [], {}, inits, by_heart, QUICK))
    asked = questions(small.inputs, ["length"], QUICK)
    sites = {"length": ["blocks.7.hook_resid_post"]}
    with pytest.raises(UserError, match=r"no site 'blocks\.7\.hook_resid_post'"):
        list(subspaces(bridge, small.inputs, asked, sites, [bridge], [bridge], QUICK))


@pytest.mark.parametrize(
    ("test", "low", "inits", "by_heart", "rivalled", "there"),
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
    rivalled: float, there: bool,
) -> None:  # fmt: skip
    space = Subspace(
        "v", (), "s", torch.eye(4)[:, :2], 1.0, test, low, 1.0, 100, 0.0, 0.0, inits, by_heart,
        "w", rivalled, 0.9,
    )  # fmt: skip
    assert space.k == 2
    assert space.control == max(*inits, *by_heart)
    assert space.carries == there


def test_inputs_to_judge_on_are_not_searched_on(small: MeasurementContext) -> None:
    train, test = halves(small.inputs, 0)
    lists = [{tuple(row) for row in part.tokens.tolist()} for part in (train, test)]
    assert not lists[0] & lists[1]
    assert len(lists[0]) + len(lists[1]) == len(small.inputs)
    for length in (2, 3, 4):
        counts = [int((part.lengths == length).sum()) for part in (train, test)]
        assert abs(counts[0] - counts[1]) <= 1


def test_cases_are_different_pairs_and_one_question_for_all_they_ask(
    small: MeasurementContext,
) -> None:
    (asked,) = questions(small.inputs, ["length", "opp_idx", "opp_idx-1"], QUICK)
    assert isinstance(asked, Question)
    assert asked.names == ("length", "opp_idx", "opp_idx-1")
    pairs = set(zip(asked.test.bases.tolist(), asked.test.donors.tolist(), strict=True))
    assert len(pairs) == len(asked.test) > 100


def test_what_another_variable_would_do_as_well_is_no_question(small: MeasurementContext) -> None:
    (asked,) = questions(small.inputs, ["length"], QUICK)
    assert asked.rival not in ("length", "opp_idx", "opp_idx-1")  # these are merged with length
    assert 0 < asked.rivalled < 0.5
    assert asked.answerable
    task = compose(["task=pair_balance", "task.max_length=4"]).task
    inputs = input_set(make_task(task), task)
    (asked, _) = questions(inputs, ["share_open", "share_close"], QUICK)
    assert (asked.rival, asked.rivalled) == ("is_open", 1.0)  # is_open alone determines the share
    assert not asked.answerable
    (bridge,) = random_inits(small.shape, 1, 0, "cpu")
    sites = {"share_open": ["blocks.0.hook_resid_mid"]}
    assert not list(subspaces(bridge, inputs, [asked], sites, [bridge], [bridge], QUICK))


def test_the_first_directions_are_a_variable_s_own(small: MeasurementContext) -> None:
    """The variable is planted beside larger token and position directions, and noise."""
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
    assert (inside[:3] > 0.99).all()  # 3 dimensions encode 4 values
    varied = (stream[inputs.real] @ directions).std(0)
    assert varied[3:8].max() < 1e-4 < 0.1 < varied[-8:].min()
