"""The recorded pass against TransformerLens' own cache."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from algomatch.analysis.activations import has_mlp, record, recorded_names, residual_sites
from algomatch.analysis.base import MeasurementContext
from algomatch.models.bridges import make_bridge

KINDS = ("full", "attn_only", "reference")


def bridge_of(kind: str, small: MeasurementContext) -> Any:
    if kind == "reference":
        return small.reference.bridge
    shape = copy.copy(small.shape)
    shape.attn_only = kind == "attn_only"
    return make_bridge(shape)


def close(got: torch.Tensor, wanted: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(got, wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [7, 60, 2048])
def test_a_recording_is_what_one_pass_over_everything_caches(
    kind: str, batch_size: int, small: MeasurementContext
) -> None:
    bridge, inputs = bridge_of(kind, small), small.inputs
    logits, cache = bridge.run_with_cache(inputs.tokens, attention_mask=inputs.key_mask)
    recording = record(bridge, inputs, batch_size)
    close(recording.logits, logits, 1e-6)
    assert set(recording.activations) == set(recorded_names(bridge))
    for name, values in recording.activations.items():
        scale = max(1.0, float(cache[name].abs().max()))
        assert values.shape == cache[name].shape, name
        close(values, cache[name], 1e-6 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_the_recorded_logits_are_the_bridges(kind: str, small: MeasurementContext) -> None:
    bridge, inputs = bridge_of(kind, small), small.inputs
    with torch.inference_mode():
        logits = bridge(inputs.tokens, attention_mask=inputs.key_mask)
    close(record(bridge, inputs, 2048).logits, logits, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_recorded_residual_stream_adds_up(kind: str, small: MeasurementContext) -> None:
    recording = record(bridge_of(kind, small), small.inputs, 2048)
    for layer in range(recording.bridge.cfg.n_layers):
        block = f"blocks.{layer}"
        stream = recording[f"{block}.hook_resid_pre"] + recording[f"{block}.hook_attn_out"]
        if has_mlp(recording.bridge):
            close(recording[f"{block}.hook_resid_mid"], stream, 1e-5)
            stream = stream + recording[f"{block}.hook_mlp_out"]
        close(recording[f"{block}.hook_resid_post"], stream, 1e-5)


def test_a_recording_keeps_no_gradients_and_changes_no_random_state(
    small: MeasurementContext,
) -> None:
    state = torch.get_rng_state()
    recording = record(bridge_of("full", small), small.inputs, 50)
    assert not recording.logits.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_what_lies_in_the_padding_does_not_reach_the_positions_before_it(
    small: MeasurementContext,
) -> None:
    bridge, inputs = bridge_of("full", small), small.inputs
    other = copy.copy(inputs)
    tokens = torch.where(inputs.key_mask, inputs.tokens, torch.zeros_like(inputs.tokens))
    object.__setattr__(other, "tokens", tokens)
    assert not torch.equal(tokens, inputs.tokens)
    before, after = record(bridge, inputs, 2048), record(bridge, other, 2048)
    close(after.logits[inputs.key_mask], before.logits[inputs.key_mask], 1e-6)


def test_sites_and_names_of_a_model_with_mlps_are_transformer_lens_names(
    small: MeasurementContext,
) -> None:
    bridge = bridge_of("full", small)
    assert residual_sites(bridge) == [
        "blocks.0.hook_resid_mid",
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_mid",
        "blocks.1.hook_resid_post",
    ]
    assert set(recorded_names(bridge)) == {
        f"blocks.{layer}.{kind}"
        for layer in range(2)
        for kind in (
            "hook_resid_pre", "attn.hook_pattern", "attn.hook_z", "hook_attn_out",
            "hook_resid_mid", "mlp.hook_pre", "hook_mlp_out", "hook_resid_post",
        )
    }  # fmt: skip
    assert set(recorded_names(bridge)) <= set(bridge.hook_dict)


def test_an_attention_only_model_has_neither_mlp_names_nor_middle_sites(
    small: MeasurementContext,
) -> None:
    bridge = bridge_of("attn_only", small)
    assert not has_mlp(bridge)
    assert residual_sites(bridge) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    names = recorded_names(bridge)
    assert set(names) <= set(bridge.hook_dict)
    assert not [name for name in names if "mlp" in name or "mid" in name]
    assert len(names) == 10
