"""Ablation without rerunning what comes before, against TransformerLens' own hooks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from algomatch.analysis import ablation
from algomatch.analysis.ablation import KINDS, Component, ablated_logits, components
from algomatch.analysis.accuracy import outcome
from algomatch.analysis.activations import Recording, record
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.setting import Setting
from algomatch.data.tasks import PAD
from algomatch.models.bridges import make_bridge, make_native

SHAPES: dict[str, dict[str, Any]] = {
    "2L with LN": {},
    "attn_only": {"attn_only": True},
    "causal": {"attention_dir": "causal"},
    "1L gelu without LN": {"n_layers": 1, "act_fn": "gelu", "normalization_type": None},
    "heads wider than the residual": {"d_head": 24, "n_heads": 3},
}


def varied(small: Setting, **changes: Any) -> Any:
    shape = copy.copy(small.shape)
    for name, value in changes.items():
        setattr(shape, name, value)
    return shape


def trained_looking(shape: Any) -> dict[str, torch.Tensor]:
    """Return weights of a shape with biases and norms that are not at their start."""
    generator = torch.Generator().manual_seed(7)
    weights: dict[str, torch.Tensor] = make_native(shape).state_dict()
    for name, value in weights.items():
        if value.dim() == 1:
            weights[name] = value + 0.3 * torch.randn(value.shape, generator=generator)
    return weights


def bridge_of(kind: str, small: Setting) -> Any:
    if kind == "reference":
        return small.reference.bridge
    shape = varied(small, **SHAPES[kind])
    return make_bridge(shape, trained_looking(shape))


@pytest.fixture(scope="module", params=["reference", *SHAPES])
def recording(request: pytest.FixtureRequest, small: Setting) -> Recording:
    return record(bridge_of(request.param, small), small.inputs, 2048)


def replacement(values: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], kind: str) -> Any:
    """Return zeros, or the mean over the inputs long enough to reach each position, by a loop."""
    filled = np.zeros_like(values)
    if kind == "mean":
        for position in range(values.shape[1]):
            reach = lengths >= position
            filled[:, position] = values[reach, position].astype(np.float64).mean(0)
    return torch.from_numpy(filled)


def hooked_logits(recording: Recording, component: Component, kind: str) -> torch.Tensor:
    """Return the logits with a component replaced by a TransformerLens hook, run from the start."""
    place = component.name.partition("[")[0]
    lengths = recording.inputs.lengths.numpy()
    filled: torch.Tensor = replacement(recording[place].numpy(), lengths, kind)

    def put(value: torch.Tensor, hook: Any) -> torch.Tensor:
        assert value.shape == filled.shape
        if component.head is None:
            return filled
        value = value.clone()
        value[:, :, component.head] = filled[:, :, component.head]
        return value

    logits: torch.Tensor = recording.bridge.run_with_hooks(
        recording.inputs.tokens,
        attention_mask=recording.inputs.key_mask,
        fwd_hooks=[(place, put)],
    )
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_ablating_is_what_a_transformer_lens_hook_does(kind: str, recording: Recording) -> None:
    real = recording.inputs.key_mask
    changed = 0
    for component in components(recording.bridge):
        got = ablated_logits(recording, component, kind, 2048)
        wanted = hooked_logits(recording, component, kind)
        scale = max(1.0, float(wanted.abs().max()))
        assert (got - wanted).abs().max() < 1e-5 * scale, component
        assert torch.equal(got.argmax(-1)[real], wanted.argmax(-1)[real]), component
        changed += not torch.allclose(got, recording.logits, atol=1e-2)
    assert changed >= len(components(recording.bridge)) // 3


def test_every_head_attention_layer_and_mlp_is_a_component(recording: Recording) -> None:
    cfg, found = recording.bridge.cfg, components(recording.bridge)
    wanted = []
    for layer in range(cfg.n_layers):
        wanted += [f"blocks.{layer}.attn.hook_z[{head}]" for head in range(cfg.n_heads)]
        wanted += [f"blocks.{layer}.hook_attn_out"]
        wanted += [] if cfg.attn_only else [f"blocks.{layer}.hook_mlp_out"]
    assert [component.name for component in found] == wanted
    for component in found:
        assert component.name.partition("[")[0] in recording.bridge.hook_dict


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_size_changes_nothing(kind: str, recording: Recording) -> None:
    for component in components(recording.bridge):
        whole = ablated_logits(recording, component, kind, 2048)
        batched = ablated_logits(recording, component, kind, 7)
        torch.testing.assert_close(batched, whole, atol=1e-5, rtol=1e-5)


def test_the_mean_is_over_the_inputs_that_reach_a_position() -> None:
    values = torch.tensor([[1.0, 2.0, 90.0], [3.0, 80.0, 70.0], [5.0, 4.0, 60.0]])[..., None]
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, False]])
    filled = KINDS["mean"](values, mask)
    assert filled[:, :, 0].tolist() == [[3.0, 3.0, 0.0]] * 3
    assert not KINDS["zero"](values, mask).any()


def test_what_the_padding_holds_does_not_enter_the_mean(small: Setting) -> None:
    shape = varied(small)
    weights = trained_looking(shape)
    one = record(make_bridge(shape, weights), small.inputs, 2048)
    padding = small.inputs.token_ids[PAD]
    assert (small.inputs.tokens[~small.inputs.key_mask] == padding).all()
    weights["tok_embed.weight"][padding] *= -5
    other = record(make_bridge(shape, weights), small.inputs, 2048)
    real = small.inputs.key_mask
    assert not torch.allclose(one.logits[~real], other.logits[~real], atol=0.1)
    for component in components(one.bridge):
        for kind in KINDS:
            got = ablated_logits(other, component, kind, 2048)[real]
            wanted = ablated_logits(one, component, kind, 2048)[real]
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def by_name(recording: Recording, setting: Setting) -> dict[tuple[str, str], Measurement]:
    """Return the rows by the metric's short name and the component."""
    return {
        (row.measure.removeprefix("ablation/"), row.subject): row
        for row in ablation.measure(recording, setting)
    }


def test_replacing_a_constant_output_by_its_mean_changes_nothing(small: Setting) -> None:
    shape = varied(small)
    weights = trained_looking(shape)
    weights["layers.0.attn.o.weight"].zero_()
    weights["layers.1.mlp.fc_out.weight"].zero_()
    recording = record(make_bridge(shape, weights), small.inputs, 2048)
    rows = by_name(recording, small)
    for name in ("blocks.0.hook_attn_out", "blocks.1.hook_mlp_out"):
        for effect in ("exact", "token"):
            assert rows[f"mean_delta_{effect}", name].value == 0
        assert rows["mean_delta_loss", name].value == pytest.approx(0, abs=1e-6)
        assert abs(rows["zero_delta_loss", name].value) > 1e-3
    for head in range(shape.n_heads):  # nobody reads what these heads say
        for kind in KINDS:
            row = rows[f"{kind}_delta_loss", f"blocks.0.attn.hook_z[{head}]"]
            assert row.value == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def of_reference(small: Setting) -> dict[tuple[str, str], Measurement]:
    return by_name(small.reference_recording, small)


EMPTY = ("blocks.1.attn.hook_z[0]", "blocks.1.hook_attn_out", "blocks.2.attn.hook_z[0]",
         "blocks.2.hook_attn_out", "blocks.3.hook_mlp_out")  # fmt: skip


def test_what_tracr_left_empty_can_be_deleted_without_any_effect(
    small: Setting, of_reference: Mapping[tuple[str, str], Measurement]
) -> None:
    recording = small.reference_recording
    found = {component.name for component in components(recording.bridge)}
    silent = {
        name
        for name in found
        if not recording[name.partition("[")[0]].any()  # it writes nothing on any input
    }
    assert silent == set(EMPTY)
    for name in EMPTY:
        for kind in KINDS:
            for effect in ("exact", "token", "loss"):
                row = of_reference[f"{kind}_delta_{effect}", name]
                assert (row.value, row.ci_low, row.ci_high) == (0, 0, 0)


def test_the_reference_needs_everything_that_tracr_wrote(
    small: Setting, of_reference: Mapping[tuple[str, str], Measurement]
) -> None:
    for component in components(small.reference.bridge):
        if component.name not in EMPTY:
            row = of_reference["zero_delta_exact", component.name]
            assert row.ci_high is not None
            assert row.value <= -0.2
            assert row.ci_high < 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_last_attention_layer_the_reference_cannot_reverse(
    kind: str, of_reference: Mapping[tuple[str, str], Measurement]
) -> None:
    assert of_reference[f"{kind}_delta_exact", "blocks.3.hook_attn_out"].value < -0.9
    assert of_reference[f"{kind}_delta_token", "blocks.3.hook_attn_out"].value < -0.5
    assert of_reference[f"{kind}_delta_loss", "blocks.3.hook_attn_out"].value > 0.4


def test_deltas_are_ablated_minus_intact(small: Setting) -> None:
    recording = record(bridge_of("2L with LN", small), small.inputs, 2048)
    rows, against = by_name(recording, small), (small.inputs.targets, small.inputs.output)
    assert len(rows) == len(components(recording.bridge)) * len(KINDS) * len(ablation.EFFECTS)
    intact = outcome(recording.logits, *against).means()
    for component in components(recording.bridge):
        for kind in KINDS:
            means = outcome(hooked_logits(recording, component, kind), *against).means()
            for effect, value in means.items():
                row = rows[f"{kind}_delta_{effect}", component.name]
                assert row.value == pytest.approx(value - intact[effect], abs=1e-5)
                assert row.n == len(small.inputs)


def test_the_intervals_of_the_deltas_contain_them(recording: Recording, small: Setting) -> None:
    for key, row in by_name(recording, small).items():
        assert row.ci_low is not None, key
        assert row.ci_high is not None, key
        assert row.ci_low <= row.value <= row.ci_high, key


def test_the_interval_of_a_delta_is_a_paired_bootstrap_over_inputs(small: Setting) -> None:
    recording = record(bridge_of("2L with LN", small), small.inputs, 2048)
    component = components(recording.bridge)[2]
    row = by_name(recording, small)["zero_delta_exact", component.name]
    against = (small.inputs.targets, small.inputs.output)
    before = outcome(recording.logits, *against).exact
    after = outcome(ablated_logits(recording, component, "zero", 2048), *against).exact
    change = (after - before).numpy()
    drawn = np.random.default_rng(0).choice(change, size=(4000, len(change))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (row.ci_low, row.ci_high) == pytest.approx((low, high), abs=0.5 * drawn.std())


def test_the_batch_size_of_the_setting_changes_no_measurement(small: Setting) -> None:
    recording = record(bridge_of("2L with LN", small), small.inputs, 2048)
    config = replace(small.config, batch_size=50)
    other = Setting(small.inputs, small.reference, small.shape, config)
    wanted = by_name(recording, small)
    for key, row in by_name(recording, other).items():
        assert row.value == pytest.approx(wanted[key].value, abs=1e-6), key


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_causal_model_later_tokens_do_not_reach_back_through_an_ablation(
    kind: str, small: Setting
) -> None:
    shape = varied(small, attention_dir="causal")
    bridge = make_bridge(shape, trained_looking(shape))
    inputs = small.inputs
    rows = inputs.rows("all", 4)
    recording = record(bridge, inputs, 2048)
    first_same = (inputs.tokens[rows][:, None, :3] == inputs.tokens[rows][None, :, :3]).all(-1)
    for component in components(bridge):
        logits = ablated_logits(recording, component, kind, 2048)[rows][:, :3]
        apart = (logits[:, None] - logits[None]).abs().amax((-1, -2))
        assert apart[first_same].max() < 1e-5
