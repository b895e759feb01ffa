"""Neurons, on or off: constructed ones, Tracr's own, and Sarle's coefficient against scipy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tracr.compiler import (
    basis_inference,
    craft_graph_to_model,
    expr_to_craft_graph,
    rasp_to_graph,
)
from tracr.craft import bases, transformers
from tracr.rasp import rasp

from algomatch.analysis import sparsity
from algomatch.analysis.activations import record
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.setting import Setting
from algomatch.analysis.sparsity import neurons, real_neurons, sarle_bimodality
from algomatch.data.tasks import BOS
from algomatch.models.bridges import make_bridge, make_native


def columns(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).T


def test_a_neuron_is_active_where_its_pre_activation_is_above_zero() -> None:
    found = neurons(columns([1, 2, 3, 4], [-1, -2, -3, 0], [-1, 1, -1, 1], [0, 0, 0, 5]))
    assert found.active.tolist() == [1, 0, 0.5, 0.25]


def test_neurons_that_do_not_vary_have_no_bimodality_but_are_dead_or_always_on() -> None:
    varying, jitter = [-1.0, 1.0, -1.0, 1.0, 2.0], 1e-8
    found = neurons(
        columns([2.0] * 5, [-2.0] * 5, [0.0] * 5, [3.0, 3.0 + jitter, 3.0, 3.0, 3.0], varying)
    )
    assert found.active.tolist() == [1, 0, 0, 1, 0.6]
    assert len(found.bimodality) == 1
    assert torch.equal(found.bimodality, sarle_bimodality(columns(varying)))


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
    found = neurons(columns([1, -1, 2], [3, 4, 5]))
    assert len(found.bimodality) == 0
    assert found.active.tolist() == pytest.approx([2 / 3, 1])


def by_name(recording: Any, setting: Setting) -> dict[tuple[str, str], Measurement]:
    """Return the rows by the metric's short name and the subject."""
    return {
        (row.measure.removeprefix("sparsity/"), row.subject): row
        for row in sparsity.measure(recording, setting)
    }


@pytest.mark.parametrize("act_fn", ["relu", "gelu"])
def test_the_figures_of_a_model_are_those_of_its_pre_activations(
    act_fn: str, small: Setting
) -> None:
    shape = copy.copy(small.shape)
    shape.act_fn = act_fn
    weights = make_native(shape).state_dict()
    weights["layers.0.mlp.fc_in.bias"][:3] = -100  # dead
    weights["layers.1.mlp.fc_in.bias"][:5] = 100  # always on
    bridge, inputs = make_bridge(shape, weights), small.inputs
    rows = by_name(record(bridge, inputs, 2048), small)
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
    rows: Mapping[tuple[str, str], Measurement],
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


def tracr_mlp_widths(setting: Setting) -> list[int]:
    """Return how many neurons Tracr gives each MLP before it pads them all to one width."""
    task = setting.inputs.task
    extracted = rasp_to_graph.extract_rasp_graph(task.program)
    basis_inference.infer_bases(
        extracted.graph, extracted.sink, set(task.vocabulary), task.max_length
    )
    expr_to_craft_graph.add_craft_components_to_rasp_graph(
        extracted.graph,
        bos_dir=bases.BasisDirection(rasp.tokens.label, BOS),
        mlp_exactness=setting.reference.compiled.mlp_exactness,
    )
    model = craft_graph_to_model.craft_graph_to_model(extracted.graph, extracted.sources)
    return [
        len(block.fst.output_space.basis)
        for block in model.blocks
        if isinstance(block, transformers.MLP)
    ]


def test_the_references_padded_neurons_are_left_out(small: Setting) -> None:
    recording = small.reference_recording
    widths = tracr_mlp_widths(small)
    assert len(widths) == 3
    found = [int(real_neurons(recording, layer).sum()) for layer in range(4)]
    assert found == [*widths, 0]
    rows = by_name(recording, small)
    for layer, width in enumerate(widths):
        subject = f"reference:blocks.{layer}.mlp.hook_pre"
        assert rows["active_share", subject].n == width
        assert rows["dead_share", subject].n == width
    assert rows["active_share", "reference:model"].n == sum(widths)
    assert ("active_share", "reference:blocks.3.mlp.hook_pre") not in rows


def test_all_neurons_of_a_random_init_are_real(small: Setting) -> None:
    recording = record(make_bridge(small.shape), small.inputs, 2048)
    assert all(real_neurons(recording, layer).all() for layer in range(2))


def test_the_references_rows_stand_beside_any_models(small: Setting) -> None:
    own = by_name(small.reference_recording, small)
    rows = by_name(record(make_bridge(small.shape), small.inputs, 2048), small)
    found = {key: row for key, row in rows.items() if key[1].startswith("reference:")}
    assert len(found) == 4 * 4
    for (name, subject), row in found.items():
        assert own[name, subject] == row
        measured = own[name, subject.removeprefix("reference:")]
        assert (measured.value, measured.n) == (row.value, row.n)


def test_the_references_neurons_are_nearly_two_valued_where_it_maps_one_hots(
    small: Setting,
) -> None:
    rows = by_name(small.reference_recording, small)
    assert rows["bimodality", "reference:blocks.2.mlp.hook_pre"].value > 0.98
    assert rows["bimodality", "reference:model"].value > 5 / 9


def test_an_attention_only_model_has_the_references_rows_alone(small: Setting) -> None:
    shape = copy.copy(small.shape)
    shape.attn_only = True
    rows = by_name(record(make_bridge(shape), small.inputs, 2048), small)
    assert rows
    assert all(subject.startswith("reference:") for _, subject in rows)
