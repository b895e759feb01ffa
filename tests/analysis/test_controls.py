"""Random inits: of the learned model's very shape, and of nobody's seed."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch

from algomatch.analysis.controls import RANDOM_INIT_SEEDS, random_inits
from algomatch.analysis.setting import Setting
from algomatch.models.bridges import make_bridge

SHAPES: dict[str, dict[str, Any]] = {
    "bidirectional": {},
    "causal": {"attention_dir": "causal"},
    "attn_only": {"attn_only": True},
    "without LN": {"normalization_type": None, "act_fn": "gelu"},
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest, small: Setting) -> Any:
    made = copy.copy(small.shape)
    for name, value in SHAPES[request.param].items():
        setattr(made, name, value)
    return made


def weights(bridge: Any) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in bridge.original_model.named_parameters()
        if value.dim() == 2  # norms and biases start alike everywhere
    }


def test_controls_have_the_learned_models_very_shape(shape: Any) -> None:
    own = make_bridge(shape)
    for control in random_inits(shape, 2, 0, "cpu"):
        for field in fields(own.cfg):
            if field.name != "seed":
                one, other = getattr(control.cfg, field.name), getattr(own.cfg, field.name)
                assert one == other, field.name
        assert control.cfg.attention_dir == shape.attention_dir
        sizes = {name: value.shape for name, value in weights(own).items()}
        assert {name: value.shape for name, value in weights(control).items()} == sizes


def test_controls_attend_as_the_learned_model_does(shape: Any, small: Setting) -> None:
    tokens = small.inputs.tokens[small.inputs.rows("all", 4)][[0, -1]].clone()
    tokens[1, :4] = tokens[0, :4]
    assert tokens[0, 4] != tokens[1, 4]
    (control,) = random_inits(shape, 1, 0, "cpu")
    first, second = control(tokens, attention_mask=torch.ones_like(tokens, dtype=torch.bool))
    reaches_back = not torch.allclose(first[:4], second[:4], atol=1e-4)
    assert reaches_back == (shape.attention_dir == "bidirectional")


def test_controls_are_nobodys_start(shape: Any) -> None:
    controls = random_inits(shape, 3, 0, "cpu")
    starts = []
    for seed in range(3):
        one = copy.copy(shape)
        one.seed = seed
        starts.append(make_bridge(one))
    models = [weights(bridge) for bridge in [*controls, *starts]]
    for i, one_model in enumerate(models):
        for other_model in models[:i]:
            for name, value in one_model.items():
                assert not torch.allclose(value, other_model[name]), name


def test_controls_are_drawn_as_the_learned_model_is(shape: Any) -> None:
    starts = []
    for seed in range(5):
        one = copy.copy(shape)
        one.seed = seed
        starts.append(weights(make_bridge(one)))
    controls = [weights(bridge) for bridge in random_inits(shape, 5, 0, "cpu")]
    for name in starts[0]:
        own, drawn = (torch.stack([model[name] for model in ms]) for ms in (starts, controls))
        assert float(drawn.std()) == pytest.approx(float(own.std()), rel=0.3), name
        assert float(drawn.mean()) == pytest.approx(0, abs=5 * float(own.std()) * len(own) ** -0.5)


def test_controls_depend_on_the_analysis_seed_and_nothing_else(shape: Any) -> None:
    state, before = torch.get_rng_state(), copy.deepcopy(vars(shape))
    first = random_inits(shape, 2, 0, "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert vars(shape) == before
    other_run = copy.copy(shape)
    other_run.seed = 17
    torch.manual_seed(5)
    for one, again in zip(first, random_inits(other_run, 2, 0, "cpu"), strict=True):
        for name, value in weights(one).items():
            assert torch.equal(value, weights(again)[name])
    for one, other in zip(first, random_inits(shape, 2, 1, "cpu"), strict=True):
        for name, value in weights(one).items():
            assert not torch.allclose(value, weights(other)[name]), name


def test_more_controls_begin_with_the_fewer(shape: Any) -> None:
    few, more = random_inits(shape, 1, 2, "cpu"), random_inits(shape, 3, 2, "cpu")
    assert len(more) == 3
    for name, value in weights(few[0]).items():
        assert torch.equal(value, weights(more[0])[name])
    assert [bridge.cfg.seed for bridge in more] == [3 * RANDOM_INIT_SEEDS + i for i in range(3)]


def test_the_setting_records_as_many_controls_as_configured(small: Setting) -> None:
    recordings = small.random_recordings()
    assert len(recordings) == small.config.random_inits == 2
    for recording, bridge in zip(recordings, random_inits(small.shape, 2, 0, "cpu"), strict=True):
        assert recording.inputs is small.inputs
        with torch.inference_mode():
            logits = bridge(small.inputs.tokens, attention_mask=small.inputs.key_mask)
        torch.testing.assert_close(recording.logits, logits, atol=1e-6, rtol=0)


def test_no_control_takes_a_gradient(small: Setting) -> None:
    for bridge in random_inits(small.shape, 1, 0, "cpu"):
        assert not any(p.requires_grad for p in bridge.original_model.parameters())
