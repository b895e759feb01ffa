"""The learned architectures: shapes, seeds, and which position may influence which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.references import make_inputs, make_share
from torch import Tensor, nn
from tracr.rasp import rasp
from transformer_lens.config import TransformerBridgeConfig

from algomatch.config.composition import compose, group_names
from algomatch.data.inputs import InputSet
from algomatch.data.tasks import Task
from algomatch.models.bridges import make_bridge, make_native
from algomatch.models.shapes import learned_shape

ARCHITECTURES = group_names("model")


def make_shape(
    name: str, *overrides: str, causal: bool = False, seed: int = 0
) -> TransformerBridgeConfig:
    config = compose([f"model={name}", *overrides]).model
    return learned_shape(config, make_inputs(make_task(causal)), seed)


def make_task(causal: bool = False) -> Task:
    program = rasp.Map(lambda x: x, rasp.tokens).named("same")
    return Task("same", program, ("a", "b", "c"), 1, 3, causal)


@pytest.fixture(scope="module")
def inputs() -> InputSet:
    return make_inputs(make_task())


def sharpened(shape: TransformerBridgeConfig) -> Any:
    """Return a NativeModel with weights so large that every influence can be seen."""
    model = make_native(shape).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


def logits_of(model: Any, tokens: Tensor, key_mask: Tensor) -> Tensor:
    logits = model(tokens, attention_mask=key_mask)
    assert isinstance(logits, Tensor)
    assert logits.isfinite().all()
    return logits


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_built_as_its_file_says(name: str) -> None:
    config = compose([f"model={name}"]).model
    model = make_native(make_shape(name))
    assert config.name == name
    assert len(model.layers) == config.n_layers
    assert model.tok_embed.weight.shape == (5, config.d_model)
    assert model.pos.weight.shape == (4, config.d_model)
    assert model.head.weight.shape == (3, config.d_model)
    assert isinstance(model.ln_out, nn.LayerNorm) == (config.normalization == "LN")
    for layer in model.layers:
        assert layer.attn.n_heads == config.n_heads
        assert layer.attn.q.weight.shape == (config.n_heads * config.head_width, config.d_model)
        assert layer.attn.scale == config.head_width**0.5
        assert not layer.attn.causal
        assert isinstance(layer.ln1, nn.LayerNorm) == (config.normalization == "LN")
        assert hasattr(layer, "mlp") == (not config.attn_only)
        if not config.attn_only:
            assert layer.mlp.fc_in.weight.shape == (config.mlp_width, config.d_model)
    assert name == f"{config.n_layers}L" + ("_attn_only" if config.attn_only else "")


def test_widths_heads_and_activation_can_be_set_one_by_one() -> None:
    shape = make_shape(
        "1L",
        "model.d_model=10",
        "model.n_heads=3",
        "model.d_head=2",
        "model.d_mlp=7",
        "model.act_fn=gelu",
        "model.normalization=none",
    )
    layer = make_native(shape).layers[0]
    assert layer.attn.q.weight.shape == (6, 10)
    assert layer.mlp.fc_in.weight.shape == (7, 10)
    assert layer.mlp.act is nn.functional.gelu
    assert isinstance(layer.ln1, nn.Identity)


def test_a_causal_task_makes_attention_causal() -> None:
    assert make_shape("2L", causal=True).attention_dir == "causal"
    assert make_shape("2L").attention_dir == "bidirectional"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_numerical_task_makes_a_head_of_one_number(name: str) -> None:
    inputs = make_inputs(Task("share", make_share("a"), ("a", "b", "c"), 1, 3))
    shape = learned_shape(compose([f"model={name}"]).model, inputs, 0)
    assert shape.d_vocab_out == 1
    assert (shape.d_vocab, shape.n_ctx) == (5, 4)
    given = make_native(shape)(inputs.tokens, attention_mask=inputs.key_mask)
    assert given.shape == (len(inputs), 4, 1)


def test_the_head_has_a_class_for_each_output_that_occurs_not_for_each_token() -> None:
    length = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE))
    for shortest in (1, 2):
        inputs = make_inputs(Task("length", length, ("a", "b"), shortest, 3))
        shape = learned_shape(compose().model, inputs, 0)
        assert (shape.d_vocab, shape.d_vocab_out) == (4, 4 - shortest)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_seed_fixes_the_weights(name: str) -> None:
    weights, same, other = (make_native(make_shape(name, seed=s)).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(weights[key], same[key]) for key in weights)
    for key in weights:
        drawn = weights[key].std() > 0  # biases and norms start at a constant
        assert torch.equal(weights[key], other[key]) != bool(drawn)


def test_building_a_model_leaves_the_global_generators_alone() -> None:
    weights = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        before = torch.get_rng_state(), str(np.random.get_state())
        bridge = make_bridge(make_shape("2L"))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert str(np.random.get_state()) == before[1]
        weights.append(bridge.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("normalization", ["LN", "none"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_bridge_gives_the_trained_models_logits(
    name: str, normalization: str, inputs: InputSet
) -> None:
    shape = make_shape(name, f"model.normalization={normalization}")
    model = sharpened(shape)
    bridge = make_bridge(shape, model.state_dict())
    trained = logits_of(model, inputs.tokens, inputs.key_mask)
    measured = logits_of(bridge, inputs.tokens, inputs.key_mask)
    assert trained.std() > 0.1
    if normalization == "none":
        assert torch.equal(measured, trained)
    else:
        exact = [
            logits_of(network.double(), inputs.tokens, inputs.key_mask)
            for network in (model, bridge)
        ]
        torch.testing.assert_close(*exact, rtol=0, atol=1e-5)  # float32 rounding is as large
    assert not any(parameter.requires_grad for parameter in bridge.parameters())


def test_a_bridge_keeps_weights_of_its_own() -> None:
    shape = make_shape("1L")
    model = make_native(shape)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    bridge = make_bridge(shape, model.state_dict())
    tokens, key_mask = torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool)
    before = logits_of(bridge, tokens, key_mask)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(logits_of(bridge, tokens, key_mask), before)
    assert not torch.equal(model.head.weight, weights["head.weight"])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_never_influences_a_real_position(
    name: str, causal: bool, inputs: InputSet
) -> None:
    shape = make_shape(name, causal=causal)
    model = sharpened(shape)
    for run in (model, make_bridge(shape, model.state_dict())):
        logits = logits_of(run, inputs.tokens, inputs.key_mask)
        for token in range(5):
            changed = torch.where(inputs.key_mask, inputs.tokens, token)
            moved = logits_of(run, changed, inputs.key_mask)
            assert torch.equal(moved[inputs.key_mask], logits[inputs.key_mask])
        for length in inputs.task.lengths:
            rows, end = inputs.lengths == length, length + 1
            bare = logits_of(run, inputs.tokens[rows, :end], inputs.key_mask[rows, :end])
            torch.testing.assert_close(bare, logits[rows, :end], rtol=0, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_a_bidirectional_model_looks_ahead(name: str, causal: bool, inputs: InputSet) -> None:
    model = sharpened(make_shape(name, causal=causal))
    longest = inputs.tokens[inputs.lengths == 3]
    whole = torch.ones_like(longest, dtype=torch.bool)
    logits = logits_of(model, longest, whole)
    for changed in (1, 2, 3):
        others = longest.clone()
        others[:, changed] = others[:, changed].roll(1)
        differs = (others[:, changed] != longest[:, changed]).nonzero()[:, 0]
        moved = (logits_of(model, others, whole) - logits).abs().amax(-1)[differs]
        assert (moved[:, changed:] > 0).all(), "a position sees itself and what is before it"
        assert (moved[:, :changed] > 0).any() != causal
        assert (moved[:, :changed] == 0).all() == causal


@pytest.mark.parametrize("missing", [True, False])
def test_weights_that_do_not_fit_are_refused(missing: bool) -> None:
    shape = make_shape("1L")
    wider = make_native(make_shape("1L", "model.d_mlp=7")).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for layers\.0\.mlp\.fc_in\.weight"):
        make_bridge(shape, wider)
    weights = make_native(shape).state_dict()
    if missing:
        del weights["head.weight"]
    else:
        weights["foot.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="head.weight" if missing else "foot.weight"):
        make_bridge(shape, weights)
