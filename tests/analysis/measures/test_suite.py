"""All measures together, on controls."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch

from algomatch.analysis.ablation_names import KINDS
from algomatch.analysis.activations import record, taken
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measurements import Measurement, differences, from_csv, to_csv
from algomatch.analysis.measures import ablation, suite
from algomatch.analysis.measures.registered_measures import (
    check_measures,
    default_measures,
    measured,
    with_measures,
)
from algomatch.analysis.measures.similarity import OF_SITES
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.infra.errors import FaultError, UserError
from algomatch.models.bridges import make_bridge, make_native


def test_every_measurement_is_declared_and_within_its_bounds(small: MeasurementContext) -> None:
    metrics = suite.declared_metrics()
    rows = list(suite.measure(make_bridge(small.shape), small))
    assert {row.measure.partition("/")[0] for row in rows} == set(suite.MEASURES)
    for row in rows:
        metric = metrics[row.measure]
        assert metric.low <= row.value <= metric.high, row
        assert row.n > 0, row
        if row.ci_low is not None:
            assert row.ci_high is not None
            assert row.ci_low <= row.ci_high, row


@pytest.mark.parametrize("name", suite.MEASURES)
def test_a_measure_yields_just_what_it_declares(name: str, small: MeasurementContext) -> None:
    rows = list(suite.measure(make_bridge(small.shape), small))
    group = [row for row in rows if row.measure.startswith(f"{name}/")]
    assert {row.measure for row in group} <= {m.name for m in suite.MEASURES[name].metrics}
    assert len({row.key for row in group}) == len(group)


@pytest.fixture(scope="module")
def rows(small: MeasurementContext) -> list[Measurement]:
    return list(suite.measure(make_bridge(small.shape), small))


def test_every_declared_metric_is_measured_on_a_model_with_mlps(rows: list[Measurement]) -> None:
    training = {metric.name for metric in suite.TRAINING_METRICS}
    solved = {name for name in suite.declared_metrics() if "redundant" in name}
    assert {row.measure for row in rows} == set(suite.declared_metrics()) - training - solved


def test_of_a_model_that_solves_the_task_the_rest_is_measured_too(
    small: MeasurementContext,
) -> None:
    rows = list(suite.measure(small.reference.bridge, small))
    training = {metric.name for metric in suite.TRAINING_METRICS}
    assert {row.measure for row in rows} == set(suite.declared_metrics()) - training


def test_each_metric_is_declared_once() -> None:
    declared = [metric.name for measure in suite.MEASURES.values() for metric in measure.metrics]
    declared += [metric.name for metric in suite.TRAINING_METRICS]
    assert len(set(declared)) == len(declared)
    for name, metric in suite.declared_metrics().items():
        assert metric.name == name
        assert metric.better in ("higher", "lower", "neither")
        assert metric.low < metric.high
        assert metric.unit
        assert metric.about


def test_the_same_model_measured_twice_gives_the_same_bits(
    small: MeasurementContext, rows: list[Measurement]
) -> None:
    torch.manual_seed(99)
    again = list(suite.measure(make_bridge(small.shape), small))
    assert again == rows
    assert differences(rows, again) == []
    assert from_csv(to_csv(again), "rows.csv") == rows


def test_a_fresh_setting_gives_the_same_bits(
    small: MeasurementContext, rows: list[Measurement]
) -> None:
    config = compose(
        [
            "task.vocabulary=[a,b,c]",
            "task.max_length=4",
            "model=2L",
            "model.d_model=16",
            "model.n_heads=2",
            "analysis.bootstrap=100",
            "analysis.random_inits=2",
        ]
    )
    fresh = prepare(config)
    assert fresh.reference.from_cache
    other = copy.copy(fresh.shape)
    other.seed = 8
    recording = record(make_bridge(other), fresh.inputs, 2048)
    for name in reversed(
        measured(fresh.config)
    ):  # another model computes the controls, in reverse order
        list(taken(suite.MEASURES[name].statistic(recording, fresh), recording))
    assert list(suite.measure(make_bridge(fresh.shape), fresh)) == rows


def test_measuring_changes_neither_the_model_nor_the_random_state(
    small: MeasurementContext,
) -> None:
    bridge = make_bridge(small.shape)
    before = {name: value.clone() for name, value in bridge.original_model.named_parameters()}
    state = torch.get_rng_state()
    list(suite.measure(bridge, small))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in bridge.original_model.named_parameters():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_refused(value: float, small: MeasurementContext) -> None:
    weights = make_native(small.shape).state_dict()
    weights["head.weight"][0, 0] = value
    with pytest.raises(FaultError, match="the model's outputs are not finite numbers"):
        next(iter(suite.measure(make_bridge(small.shape, weights), small)))


def test_only_the_configured_measures_are_taken(small: MeasurementContext) -> None:
    config = replace(small.config, measures=["sparsity", "accuracy"])
    context = MeasurementContext(small.inputs, small.reference, small.shape, config)
    measures = [row.measure for row in suite.measure(make_bridge(small.shape), context)]
    groups = [name.partition("/")[0] for name in measures]
    assert set(groups) == {"sparsity", "accuracy"}
    assert groups == sorted(groups, reverse=True)  # in the configured order


def test_an_unknown_measure_is_named_with_what_was_meant() -> None:
    check_measures(list(suite.MEASURES))
    with pytest.raises(
        UserError,
        match=r"unknown measure 'acuracy' \(analysis\.measures\): did you mean 'accuracy'\? "
        r"valid: ablation, accuracy, attention, matching, similarity, sparsity$",
    ):
        check_measures(["similarity", "acuracy"])
    with pytest.raises(UserError, match=r"unknown measure 'qqq' .*: valid: ablation, accuracy"):
        check_measures(["qqq"])


def training_rows() -> list[Measurement]:
    return [Measurement(metric.name, "batch", 0.5, 1) for metric in suite.TRAINING_METRICS]


def test_headlines_hold_the_accuracies_the_best_sites_the_whole_model_and_training(
    rows: list[Measurement],
) -> None:
    given = [row.at("run", 30) for row in [*rows, *training_rows()]]
    headlines = suite.headlines(iter(given))
    kept = [row for row in headlines if row.subject != "worst_component"]
    wanted = {
        row.key for row in given
        if row.measure.partition("/")[0] in ("accuracy", "training")
        or row.measure.startswith(("similarity/best_", "similarity/matched_", "similarity/mean_"))
        or row.measure.startswith(("matching/best_", "matching/variable_", "matching/realised"))
        or (row.measure.startswith(("sparsity/", "attention/", "ablation/"))
            and row.subject in ("model", "reference:model"))
    }  # fmt: skip
    assert {row.key for row in kept} == wanted
    assert set(kept) <= set(given)
    suffixes = ("", "_random_init", "_other_task", "_reference")
    best = {f"similarity/best_deconfounded_cka{suffix}" for suffix in suffixes}
    matched = {f"similarity/matched_{name}{suffix}" for name in OF_SITES for suffix in suffixes}
    mean = {f"similarity/mean_deconfounded_cka{suffix}" for suffix in suffixes}
    assert {row.measure for row in kept if "similarity" in row.measure} == best | matched | mean
    assert {row.measure for row in kept if "attention" in row.measure} == {
        "attention/matched_overlap",
        "attention/matched_overlap_random_init",
        "attention/matched_overlap_other_task",
    }
    assert {row.subject for row in kept if "sparsity/h1" in row.measure} == {"model"}
    assert len({row.key for row in headlines}) == len(headlines)


def worst(rows: Iterable[Measurement]) -> dict[str, Measurement]:
    headlines = suite.headlines(rows)
    return {row.measure: row for row in headlines if row.subject == "worst_component"}


def test_the_worst_component_is_the_one_whose_deletion_costs_most(
    rows: list[Measurement],
) -> None:
    costliest = worst(row.at("run", 30) for row in rows)
    assert set(costliest) == {f"ablation/{kind}_delta_exact" for kind in KINDS}
    for measure, row in costliest.items():
        deltas = [
            other for other in rows
            if other.measure == measure and ".length_" not in other.subject
        ]  # fmt: skip
        lowest = min(other.value for other in deltas)
        assert row.value == lowest
        assert (row.run, row.step) == ("run", 30)
        assert (row.n, row.ci_low, row.ci_high) in {
            (other.n, other.ci_low, other.ci_high) for other in deltas if other.value == lowest
        }


def test_the_worst_component_of_the_reference_is_its_last_attention(
    small: MeasurementContext,
) -> None:
    rows = list(ablation.measure(small.reference_source, small))
    lost = {row.measure: row.value for row in worst(rows).values()}
    for measure, value in lost.items():
        (last,) = (
            row
            for row in rows
            if row.measure == measure and row.subject == "blocks.3.hook_attn_out"
        )
        assert value == pytest.approx(last.value, abs=0.1)
        assert value < -0.8


def test_the_redundant_share_is_a_headline_of_a_model_that_solves_the_task(
    small: MeasurementContext,
) -> None:
    headlines = {(row.measure, row.subject): row.value for row in suite.headlines(
        ablation.measure(small.reference_source, small))}  # fmt: skip
    assert headlines["ablation/redundant_share", "model"] == 3 / 8
    assert headlines["ablation/redundant_alone_share", "model"] == 3 / 8


def test_without_ablation_there_is_no_worst_component(rows: list[Measurement]) -> None:
    others = [row for row in rows if not row.measure.startswith("ablation/")]
    assert worst(others) == {}
    assert suite.headlines([]) == []


@pytest.mark.parametrize("names", [[], ["accuracy", "accuracy"]], ids=["none", "twice"])
def test_measures_are_named_at_least_one_and_each_once(names: list[str]) -> None:
    with pytest.raises(UserError, match="must name at least one measure, each once"):
        check_measures(names)


def test_the_component_that_matters_most_is_a_single_one_where_there_are_any() -> None:
    name, alone = "ablation/zero_delta_exact", "blocks.0.hook_mlp_out"
    rows = [
        Measurement(name, alone, -0.2, 9),
        Measurement(name, "blocks.0.attn.hook_z.all", -0.9, 9),
    ]
    assert [row.value for row in suite.headlines(rows) if row.subject == "worst_component"] == [
        -0.2
    ]


def test_what_is_on_by_default_is_taken_in_the_order_of_earlier_versions() -> None:
    assert default_measures() == [
        "accuracy", "similarity", "attention", "ablation", "sparsity", "matching",
    ]  # fmt: skip
    config = compose()
    assert config.analysis.measures is None
    assert with_measures(config).analysis.measures == default_measures()
    named = compose(["analysis.measures=[sparsity,accuracy]"])
    assert with_measures(named) == named
