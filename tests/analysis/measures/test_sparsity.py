"""On/off neurons: constructed ones, Tracr's, and Sarle's coefficient against scipy."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import diptest
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import Rows, rows_of
from tracr.compiler import (
    basis_inference,
    craft_graph_to_model,
    expr_to_craft_graph,
    rasp_to_graph,
)
from tracr.craft import bases, transformers
from tracr.rasp import rasp

from algomatch.analysis.activations import Streamed, record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.controls.variants import permuted, reparametrised, rotated
from algomatch.analysis.measures import sparsity
from algomatch.analysis.measures.sparsity import (
    Neurons,
    Sums,
    adjusted,
    dips,
    real_neurons,
    sampled,
    sarle_bimodality,
)
from algomatch.analysis.statistics import shares_difference
from algomatch.data.tasks import BOS
from algomatch.models.bridges import make_bridge, make_native


def columns(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).T


def neurons(
    pre: torch.Tensor, act: str = "relu", parts: int = 1, rounding: float = 1e-6
) -> Neurons:
    """The statistics of neurons with these pre-activations. The sample holds all positions."""
    sums = Sums(torch.full((pre.shape[1],), rounding), act)
    for part in torch.tensor_split(pre, parts):
        sums.add(part.float(), part.float())
    return sums.neurons("layer", torch.ones(pre.shape[1], dtype=torch.bool))


def test_a_neuron_is_active_where_its_pre_activation_is_above_zero() -> None:
    figures = neurons(columns([1, 2, 3, 4], [-1, -2, -3, 0], [-1, 1, -1, 1], [0, 0, 0, 5]))
    assert figures.values["active_share"].tolist() == [1, 0, 0.5, 0.25]
    assert figures.flags("dead_share").tolist() == [False, True, False, False]
    assert figures.flags("always_on_share").tolist() == [True, False, False, False]


def test_a_neuron_is_on_where_it_is_above_zero_by_more_than_rounding() -> None:
    figures = neurons(columns([0.5, 2, 1, 3], [1, -1, 0.2, -3], [1.5, 4, 3, 2]), rounding=1.0)
    assert figures.values["active_share"].tolist() == [0.5, 0, 1]
    assert figures.flags("dead_share").tolist() == [False, True, False]
    assert figures.flags("always_on_share").tolist() == [False, False, True]
    alike = neurons(columns([0.5, 2, 0.9, 2]), rounding=1.0)  # on at two of four positions
    assert float(alike.values["hoyer"][0]) == pytest.approx(2 * (1 - 0.5**0.5), abs=1e-6)
    assert float(alike.values["gini"][0]) == pytest.approx(0.5)


def test_rounding_is_in_proportion_to_the_size_of_a_neurons_weights(
    small: MeasurementContext,
) -> None:
    weights = make_native(small.shape).state_dict()
    weights["layers.0.mlp.fc_in.weight"][3] *= 10
    weights["layers.0.mlp.fc_in.bias"][5] = -7
    rounding = sparsity.rounding(make_bridge(small.shape, weights), 0)
    entering = sum(
        float(weights[f"{name}.weight"].norm(dim=1).max()) for name in ("tok_embed", "pos")
    )
    size = weights["layers.0.mlp.fc_in.weight"].norm(dim=1) * max(1.0, entering)
    size += weights["layers.0.mlp.fc_in.bias"].abs()
    torch.testing.assert_close(rounding, 1e-5 * size)


def test_neurons_that_do_not_vary_have_no_bimodality_but_are_dead_or_always_on() -> None:
    varying, jitter = [-1.0, 1.0, -1.0, 1.0, 2.0], 1e-8
    figures = neurons(
        columns([2.0] * 5, [-2.0] * 5, [0.0] * 5, [3.0, 3.0 + jitter, 3.0, 3.0, 3.0], varying)
    )
    assert figures.values["active_share"].tolist() == pytest.approx([1, 0, 0, 1, 0.6])
    for name in ("bimodality", "dip", "dip_p"):
        assert len(figures.defined(name)) == 1, name
    torch.testing.assert_close(
        figures.defined("bimodality"), sarle_bimodality(columns(varying)), atol=1e-6, rtol=0
    )


def test_dead_neurons_have_neither_hoyer_nor_gini() -> None:
    figures = neurons(columns([-1, -2, -3, 0], [-1, 0, 0, 7], [4, 4, 4, 4]))
    for name in ("hoyer", "gini"):
        assert math.isnan(figures.values[name][0]), name
        assert not figures.values[name][1:].isnan().any()
    assert figures.values["hoyer"][1:].tolist() == pytest.approx([1, 0])  # one position; all alike
    assert figures.values["gini"][1:].tolist() == pytest.approx([0.75, 0])


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * scipy.stats.norm.cdf(x),
    "silu": lambda x: x * scipy.special.expit(x),
    "gelu_new": lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
}


def gini_by_pairs(values: Any) -> float:
    """The Gini index: half the relative mean absolute difference of all pairs."""
    apart = np.abs(values[:, None] - values[None]).mean()
    return float(apart / (2 * values.mean()))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(ACTIVATIONS)),
    st.integers(4, 80),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_hoyer_and_gini_are_their_definitions_of_the_activations(
    act: str, n: int, parts: int, seed: int
) -> None:
    pre = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    post = np.abs(ACTIVATIONS[act](pre.astype(np.float64)))
    figures = neurons(torch.from_numpy(pre), act, min(parts, n))
    assert set(sparsity.ACTIVATIONS) == set(ACTIVATIONS)
    for i in range(3):
        column = post[:, i]
        if column.max() < 1e-6:
            continue
        hoyer = (n**0.5 - column.sum() / np.sqrt((column**2).sum())) / (n**0.5 - 1)
        assert float(figures.values["hoyer"][i]) == pytest.approx(hoyer, abs=1e-5)
        assert float(figures.values["gini"][i]) == pytest.approx(gini_by_pairs(column), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 120), st.integers(2, 7), st.floats(-50, 50), st.integers(0, 2**31))
def test_parts_add_up_to_the_whole(n: int, parts: int, shift: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    pre = torch.from_numpy(generator.normal(size=(n, 4)) + generator.choice([0, 6], size=(n, 4)))
    whole, split = neurons(pre + shift), neurons(pre + shift, parts=min(parts, n))
    for name, values in whole.values.items():
        torch.testing.assert_close(
            split.values[name], values, atol=1e-6, rtol=0, equal_nan=True, msg=name
        )
    wanted = sarle_bimodality((pre + shift).float().double())
    torch.testing.assert_close(whole.values["bimodality"], wanted, atol=1e-6, rtol=0)


def test_the_dip_is_diptests_and_tells_two_values_from_a_normal() -> None:
    generator, n = np.random.default_rng(0), 400
    samples = np.column_stack(
        [generator.choice([0.0, 1.0], size=n), generator.normal(size=n), generator.uniform(size=n),
         np.concatenate([generator.normal(size=n // 2), 8 + generator.normal(size=n // 2)])]
    )  # fmt: skip
    tested = torch.tensor([True, True, True, True])
    statistics, p_values = dips(torch.from_numpy(samples).float(), tested)
    for i in range(4):
        dip, p = diptest.diptest(samples[:, i].astype(np.float32).astype(np.float64))
        assert (float(statistics[i]), float(p_values[i])) == (dip, p)
    two_valued, normal, uniform, two_normals = p_values.tolist()
    assert max(two_valued, two_normals) < 0.01
    assert min(normal, uniform) > 0.05
    ones = samples[:, 0].mean()
    assert float(statistics[0]) == pytest.approx(
        min(ones, 1 - ones) / 2
    )  # half the share of the rarer value


def test_untested_neurons_and_small_samples_have_no_dip() -> None:
    sample = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    pair = dips(sample, torch.tensor([True, False, True]))
    for values in pair:
        assert values.isnan().tolist() == [False, True, False]
    for values in dips(sample[:3], torch.ones(3, dtype=torch.bool)):
        assert values.isnan().all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=30))
def test_p_values_are_adjusted_as_benjamini_and_hochberg_say(given_: list[float | None]) -> None:
    p_values = torch.tensor([math.nan if p is None else p for p in given_], dtype=torch.float64)
    there = sorted(p for p in given_ if p is not None)
    got = adjusted(p_values).tolist()
    for p, value in zip(given_, got, strict=True):
        if p is None:
            assert math.isnan(value)
        else:  # the minimum of m q / rank over all p-values q >= p
            m = len(there)
            wanted = min(min(1.0, m * q / (rank + 1)) for rank, q in enumerate(there) if q >= p)
            assert value == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 60), st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_bimodality_is_sarles_formula_with_scipys_moments(n: int, seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    values = scale * (generator.normal(size=n) + generator.choice([0, 1, 8], size=n))
    skewness = scipy.stats.skew(values, bias=False)
    kurtosis = scipy.stats.kurtosis(values, bias=False)
    wanted = (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))
    (got,) = sarle_bimodality(torch.from_numpy(values)[:, None]).tolist()
    assert got == pytest.approx(min(wanted, 1.0), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(-100, 100), st.floats(0.01, 100))
def test_bimodality_knows_no_unit_and_no_sign(seed: int, shift: float, scale: float) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).gamma(2.0, size=(50, 2)))
    wanted = sarle_bimodality(values)
    for moved in (shift + scale * values, shift - scale * values):
        torch.testing.assert_close(sarle_bimodality(moved), wanted, atol=1e-8, rtol=0)


def test_bimodality_of_known_distributions() -> None:
    generator, n = np.random.default_rng(0), 200_000
    samples = np.column_stack(
        [generator.uniform(size=n), generator.normal(size=n), generator.choice([0.0, 1.0], size=n),
         generator.choice([0.0, 1.0], p=[0.9, 0.1], size=n)]
    )  # fmt: skip
    uniform, normal, even, rare = sarle_bimodality(torch.from_numpy(samples)).tolist()
    assert uniform == pytest.approx(5 / 9, abs=0.005)
    assert normal == pytest.approx(1 / 3, abs=0.005)
    assert even == pytest.approx(1, abs=1e-4)
    assert rare == pytest.approx(1, abs=1e-4)


def test_fewer_than_four_positions_have_no_bimodality() -> None:
    figures = neurons(columns([1, -1, 2], [3, 4, 5]))
    assert len(figures.defined("bimodality")) == 0
    assert figures.values["active_share"].tolist() == pytest.approx([2 / 3, 1])


@pytest.mark.parametrize("act_fn", ["relu", "gelu"])
def test_the_figures_of_a_model_are_those_of_its_pre_activations(
    act_fn: str, small: MeasurementContext
) -> None:
    shape = copy.copy(small.shape)
    shape.act_fn = act_fn
    weights = make_native(shape).state_dict()
    weights["layers.0.mlp.fc_in.bias"][:3] = -100  # dead
    weights["layers.1.mlp.fc_in.bias"][:5] = 100  # always on
    bridge, inputs = make_bridge(shape, weights), small.inputs
    rows = rows_of(sparsity.measure(record(bridge, inputs, 2048), small))
    _, cache = bridge.run_with_cache(inputs.tokens, attention_mask=inputs.key_mask)
    lengths = inputs.lengths.tolist()
    active, bimodality = [], []
    for layer in range(2):
        hook = f"blocks.{layer}.mlp.hook_pre"
        pre = np.concatenate([cache[hook][i, 1 : n + 1].numpy() for i, n in enumerate(lengths)])
        assert len(pre) == 426
        active.append((pre > 0).mean(0))
        doubles = torch.from_numpy(pre.astype(np.float64))
        bimodality.append(sarle_bimodality(doubles).numpy())
        check(rows, hook, active[-1], bimodality[-1])
    check(rows, "model", np.concatenate(active), np.concatenate(bimodality))
    assert rows["dead_share", "blocks.0.mlp.hook_pre"].value >= 3 / 64
    assert rows["always_on_share", "blocks.1.mlp.hook_pre"].value >= 5 / 64


def check(
    rows: Rows,
    subject: str,
    active: np.ndarray[Any, Any],
    bimodality: np.ndarray[Any, Any],
) -> None:
    wanted = {
        "active_share": active.mean(),
        "dead_share": (active == 0).mean(),
        "always_on_share": (active == 1).mean(),
        "bimodality": bimodality.mean(),
    }
    for name, value in wanted.items():
        row = rows[name, subject]
        assert row.value == pytest.approx(value, abs=1e-5), (name, subject)
        assert row.n == len(active)
        assert row.ci_low is not None
        assert row.ci_high is not None
        assert row.ci_low <= row.value <= row.ci_high


def tracr_mlp_widths(context: MeasurementContext) -> list[int]:
    """Return the number of neurons of each Tracr MLP before padding to a common width."""
    task = context.inputs.task
    extracted = rasp_to_graph.extract_rasp_graph(task.program)
    basis_inference.infer_bases(
        extracted.graph, extracted.sink, set(task.vocabulary), task.max_length
    )
    expr_to_craft_graph.add_craft_components_to_rasp_graph(
        extracted.graph,
        bos_dir=bases.BasisDirection(rasp.tokens.label, BOS),
        mlp_exactness=context.reference.compiled.mlp_exactness,
    )
    model = craft_graph_to_model.craft_graph_to_model(extracted.graph, extracted.sources)
    return [
        len(block.fst.output_space.basis)
        for block in model.blocks
        if isinstance(block, transformers.MLP)
    ]


def test_the_references_padded_neurons_are_left_out(small: MeasurementContext) -> None:
    recording = small.reference_source
    widths = tracr_mlp_widths(small)
    assert len(widths) == 3
    counts = [int(real_neurons(recording.bridge, layer).sum()) for layer in range(4)]
    assert counts == [*widths, 0]
    rows = rows_of(sparsity.measure(recording, small))
    for layer, width in enumerate(widths):
        subject = f"reference:blocks.{layer}.mlp.hook_pre"
        assert rows["active_share", subject].n == width
        assert rows["dead_share", subject].n == width
    assert rows["active_share", "reference:model"].n == sum(widths)
    assert ("active_share", "reference:blocks.3.mlp.hook_pre") not in rows


def test_all_neurons_of_a_random_init_are_real(small: MeasurementContext) -> None:
    recording = record(make_bridge(small.shape), small.inputs, 2048)
    assert all(real_neurons(recording.bridge, layer).all() for layer in range(2))


def test_the_references_rows_stand_beside_any_models(small: MeasurementContext) -> None:
    own = rows_of(sparsity.measure(small.reference_source, small))
    rows = rows_of(sparsity.measure(record(make_bridge(small.shape), small.inputs, 2048), small))
    of_reference = {key: row for key, row in rows.items() if key[1].startswith("reference:")}
    layers = {subject for _, subject in of_reference}
    assert layers == {"reference:model", *(f"reference:blocks.{n}.mlp.hook_pre" for n in range(3))}
    assert {name for name, _ in of_reference} == {*sparsity.MEANS, *sparsity.SHARES}
    for (name, subject), row in of_reference.items():
        assert own[name, subject] == row
        measured = own[name, subject.removeprefix("reference:")]
        assert (measured.value, measured.n) == (row.value, row.n)


def test_the_references_neurons_are_nearly_two_valued_where_it_maps_one_hots(
    small: MeasurementContext,
) -> None:
    rows = rows_of(sparsity.measure(small.reference_source, small))
    assert rows["bimodality", "reference:blocks.2.mlp.hook_pre"].value > 0.98
    assert rows["bimodality", "reference:model"].value > 5 / 9


def of_model(bridge: Any, context: MeasurementContext) -> dict[str, float]:
    rows = rows_of(sparsity.measure(record(bridge, context.inputs, 2048), context))
    figures = (*sparsity.MEANS, *sparsity.SHARES)
    return {name: rows[name, "model"].value for name in figures if (name, "model") in rows}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_reference_has_the_same_figures_in_any_basis_and_order(
    seed: int, small: MeasurementContext
) -> None:
    wanted, compiled = of_model(small.reference.bridge, small), small.reference.compiled
    assert set(wanted) == {*sparsity.MEANS, *sparsity.SHARES}
    turned = compiled.bridge(small.inputs)
    for made in (rotated(compiled, seed), permuted(compiled, seed)):
        bridge = made.bridge(small.inputs)
        assert not torch.allclose(bridge.W_E, turned.W_E, atol=0.1)
        assert of_model(bridge, small) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_linear_map_of_the_residual_stream_leaves_what_is_on_and_dead(
    seed: int, small: MeasurementContext
) -> None:
    wanted = of_model(small.reference.bridge, small)
    made = reparametrised(small.reference.compiled, seed)
    figures = of_model(made.bridge(small.inputs), small)
    for name in ("active_share", "dead_share", "always_on_share"):
        assert figures[name] == pytest.approx(wanted[name], abs=1e-3), name


def test_an_attention_only_model_has_the_references_rows_alone(small: MeasurementContext) -> None:
    shape = copy.copy(small.shape)
    shape.attn_only = True
    rows = rows_of(sparsity.measure(record(make_bridge(shape), small.inputs, 2048), small))
    assert rows
    assert all(subject.startswith("reference:") for _, subject in rows)


def test_every_neuron_has_its_figures(small: MeasurementContext) -> None:
    recording = record(make_bridge(small.shape), small.inputs, 2048)
    rows = rows_of(sparsity.measure(recording, small))
    real, at = small.inputs.real, sampled(small.inputs, small.config.seed)
    chosen = torch.arange(len(small.inputs))
    p_values = []
    for layer, i in itertools.product(range(2), range(64)):
        hook = f"blocks.{layer}.mlp.hook_pre"
        pre, name = recording[hook][real][:, i].double(), f"{hook}[{i}]"
        assert rows["active_share", name].value == pytest.approx(float((pre > 0).double().mean()))
        step = sparsity.rounding(recording.bridge, layer)[i]  # smaller differences are rounding
        sample = (recording[hook][chosen, at][:, i] / step).round() * step
        dip, p = diptest.diptest(sample.double().numpy())
        assert rows["dip", name].value == pytest.approx(dip)
        assert (rows["dip", name].n, rows["active_share", name].n) == (120, 426)
        p_values.append(p)
    adjusted_ = scipy.stats.false_discovery_control(p_values)
    got = [
        rows["dip_p", f"blocks.{n}.mlp.hook_pre[{i}]"].value for n in range(2) for i in range(64)
    ]
    assert got == pytest.approx(adjusted_.tolist())
    share = rows["bimodal_share", "model"]
    assert (share.value, share.n) == (np.mean(adjusted_ < 0.05), 128)
    for name in ("hoyer", "gini", "dip", "bimodality"):
        values = [row.value for (n, s), row in rows.items() if n == name and s.startswith("blocks")
                  and s.endswith("]")]  # fmt: skip
        assert rows[name, "model"].n == len(values)
        assert rows[name, "model"].value == pytest.approx(np.mean(values))


def test_a_position_of_each_sampled_input_is_in_the_sample(small: MeasurementContext) -> None:
    at = sampled(small.inputs, 0)
    assert ((at >= 1) & (at <= small.inputs.lengths)).all()
    assert not torch.equal(at, sampled(small.inputs, 1))
    many = small.inputs.at(torch.arange(120).repeat(5))
    assert int((sampled(many, 0) > 0).sum()) == sparsity.SAMPLED


def test_h1_is_the_references_figures_less_the_models(small: MeasurementContext) -> None:
    weights = make_native(small.shape).state_dict()
    weights["layers.0.mlp.fc_in.bias"][:40] = -100  # dead
    recording = record(make_bridge(small.shape, weights), small.inputs, 2048)
    rows = rows_of(sparsity.measure(recording, small))
    for name in sparsity.MEANS:
        row, reference, other = (
            rows[key]
            for key in ((f"h1_{name}", "model"), (name, "reference:model"), (name, "model"))
        )
        assert row.value == pytest.approx(reference.value - other.value)
        assert row.n == min(reference.n, other.n)
        assert row.ci_low is not None
        assert row.ci_high is not None
        assert row.ci_low <= row.value <= row.ci_high
        ends = [(end.ci_high or 0.0) - (end.ci_low or 0.0) for end in (reference, other)]
        width = row.ci_high - row.ci_low
        assert 0.9 * max(ends) <= width <= 1.1 * sum(ends)  # the groups are independent
    for name in sparsity.SHARES:
        row, reference, other = (
            rows[key]
            for key in ((f"h1_{name}", "model"), (name, "reference:model"), (name, "model"))
        )
        wanted = shares_difference(reference.value, reference.n, other.value, other.n)
        assert (row.value, row.ci_low, row.ci_high) == pytest.approx(wanted)
    assert rows["dead_share", "model"].value >= 40 / 128
    assert rows["h1_bimodality", "model"].value > 0


def test_h1_of_the_reference_itself_is_nothing(small: MeasurementContext) -> None:
    rows = rows_of(sparsity.measure(small.reference_source, small))
    by_measure = {name: row for (name, _), row in rows.items() if name.startswith("h1_")}
    assert set(by_measure) == {f"h1_{name}" for name in (*sparsity.MEANS, *sparsity.SHARES)}
    for row in by_measure.values():
        assert row.value == 0
        assert row.ci_low is not None
        assert row.ci_high is not None
        assert row.ci_low <= 0 <= row.ci_high


@pytest.mark.parametrize("of", ["random init", "reference"])
def test_small_parts_give_the_figures_of_the_whole(of: str, small: MeasurementContext) -> None:
    bridge = small.reference.bridge if of == "reference" else make_bridge(small.shape)
    whole = rows_of(sparsity.measure(record(bridge, small.inputs, 2048), small))
    parts = rows_of(sparsity.measure(Streamed(bridge, small.inputs, 8), small))
    assert set(parts) == set(whole)
    for key, row in parts.items():
        assert row.value == pytest.approx(whole[key].value, abs=1e-6), key
