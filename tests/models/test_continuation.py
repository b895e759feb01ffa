"""The rest of a model, run from its own or another residual stream at every site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.gpt2 import padded_tokens, saved_gpt2, trained_looking
from support.models import SHAPES, bridge_of, varied
from support.models import trained_looking as weights_of
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.sources.native import NativeModel

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measures.sparsity import real_neurons
from algomatch.infra.errors import UserError
from algomatch.models import continuation
from algomatch.models.bridges import make_bridge, narrowed, plain_model
from algomatch.models.continuation import (
    SIDES,
    attention_inputs,
    continue_from,
    layer_of,
    residual_stream,
    residuals,
    without_hooks,
)
from algomatch.models.foreign import load_gpt2

MODERN = {  # settings of NativeModel that no shipped model has
    "normalization_type": "RMS",
    "final_rms": True,
    "gated_mlp": True,
    "positional_embedding_type": "rotary",
    "rotary_dim": 8,
    "n_key_value_heads": 1,
    "output_logits_soft_cap": 2.0,
    "act_fn": "silu",
}
NATIVE = [*SHAPES, "modern", "reference"]
SMALL = {
    "vocab_size": 11,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 8,
}
OTHERS = ["Llama", "Phi", "Bert", "Olmo2"]  # RMS norm, parallel MLP, norm after: all three


def made(kind: str, small: MeasurementContext, folder: Path) -> Any:
    """A bridge of some kind."""
    if kind == "modern":
        shape = varied(small.shape, **MODERN)
        return make_bridge(shape, weights_of(shape))
    if kind in NATIVE:
        return bridge_of(kind, small)
    if kind == "GPT-2":
        saved_gpt2(folder)
        return load_gpt2(folder)
    name = f"{kind}{'ForMaskedLM' if kind == 'Bert' else 'ForCausalLM'}"
    config = getattr(transformers, f"{kind}Config")(
        **SMALL, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    model = trained_looking(getattr(transformers, name)(config))
    return build_bridge_from_module(
        model, architecture=name, hf_config=config, tokenizer=None, dtype=torch.float32
    )


def inputs_for(kind: str, small: MeasurementContext) -> tuple[Tensor, Tensor]:
    """Tokens and key mask."""
    native = kind in NATIVE
    return (small.inputs.tokens, small.inputs.key_mask) if native else padded_tokens()


@pytest.fixture(params=[*((kind, way) for kind in NATIVE for way in ("plain", "hooked")),
                        *((kind, "hooked") for kind in ("GPT-2", *OTHERS))],
                ids=str)  # fmt: skip
def case(
    request: pytest.FixtureRequest,
    small: MeasurementContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Any, Tensor, Tensor]:
    """A bridge, its tokens and key mask; continued with or without hooks."""
    kind, way = request.param
    if way == "hooked":
        monkeypatch.setattr(continuation, "without_hooks", lambda model: model)
    bridge = made(kind, small, tmp_path)
    plain = isinstance(continuation.without_hooks(bridge), NativeModel)
    assert plain == (way == "plain")
    return bridge, *inputs_for(kind, small)


def test_from_its_own_residual_stream_a_model_gives_its_own_logits(
    case: tuple[Any, Tensor, Tensor],
) -> None:
    bridge, tokens, key_mask = case
    sites = residual_stream(bridge)
    with torch.inference_mode():
        logits, cache = bridge.run_with_cache(tokens, attention_mask=key_mask)
        recorded = residuals(bridge, tokens, key_mask, sites)
        assert list(recorded) == sites
        for site, residual in recorded.items():
            torch.testing.assert_close(residual, cache[site], atol=1e-5, rtol=0)
            before = residual.clone()
            given = continue_from(bridge, site, residual, key_mask)
            torch.testing.assert_close(given, logits, atol=1e-5, rtol=0)
            assert torch.equal(residual, before)
        after = bridge(tokens, attention_mask=key_mask)
    assert torch.equal(after, logits), "no hook is left behind"


def test_from_anothers_residual_stream_a_model_gives_the_others_logits(
    case: tuple[Any, Tensor, Tensor],
) -> None:
    bridge, tokens, key_mask = case
    tokens, key_mask = tokens[key_mask.all(1)], key_mask[key_mask.all(1)]
    with torch.inference_mode():
        logits = bridge(tokens, attention_mask=key_mask)
        assert ((logits - logits.roll(1, 0)).abs().amax((1, 2)) > 0.05).any()
        for site, residual in residuals(bridge, tokens, key_mask, residual_stream(bridge)).items():
            given = continue_from(bridge, site, residual.roll(1, 0), key_mask)
            torch.testing.assert_close(given, logits.roll(1, 0), atol=1e-5, rtol=0)


def test_with_anothers_queries_keys_and_values_its_attention_gives_what_the_others_does(
    case: tuple[Any, Tensor, Tensor],
) -> None:
    bridge, tokens, key_mask = case
    tokens, key_mask = tokens[key_mask.all(1)], key_mask[key_mask.all(1)]
    with torch.inference_mode():
        logits = bridge(tokens, attention_mask=key_mask)
        starts = [site for site in residual_stream(bridge) if site.endswith("hook_resid_pre")]
        outputs = [site.replace("hook_resid_pre", "attn.o.hook_in") for site in starts]
        _, cache = bridge.run_with_cache(tokens, attention_mask=key_mask, names_filter=outputs)
        for (site, own), output in zip(
            residuals(bridge, tokens, key_mask, starts).items(), outputs, strict=True
        ):
            read = attention_inputs(bridge, tokens, key_mask, layer_of(site))
            assert tuple(read) == SIDES
            given = continue_from(bridge, site, own, key_mask, read)
            torch.testing.assert_close(given, logits, atol=1e-5, rtol=0)
            rolled = {side: value.roll(1, 0) for side, value in read.items()}
            given = continue_from(bridge, site, own, key_mask, rolled)
            expected = bridge.run_with_hooks(
                tokens, attention_mask=key_mask,
                fwd_hooks=[(output, lambda value, hook: cache[hook.name].roll(1, 0))],
            )  # fmt: skip
            torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
        assert torch.equal(bridge(tokens, attention_mask=key_mask), logits), "no hook stays"


PATTERNED = [*SHAPES, "modern", "GPT-2", *(kind for kind in OTHERS if kind != "Bert")]


@pytest.mark.parametrize("kind", PATTERNED)
def test_a_side_alone_moves_what_it_is_of(
    kind: str, small: MeasurementContext, tmp_path: Path
) -> None:
    bridge, (tokens, key_mask) = made(kind, small, tmp_path), inputs_for(kind, small)
    tokens, key_mask = tokens[key_mask.all(1)], key_mask[key_mask.all(1)]
    site = "blocks.0.hook_resid_pre"
    with torch.inference_mode():
        own = residuals(bridge, tokens, key_mask, [site])[site]
        read = attention_inputs(bridge, tokens, key_mask, 0)
        _, pattern = patterns(bridge, tokens, key_mask, site, own, {})
        for side in SIDES:
            some = {side: read[side].roll(1, 0)}
            logits, moved = patterns(bridge, tokens, key_mask, site, own, some)
            if side == "v":
                torch.testing.assert_close(moved, pattern, atol=1e-6, rtol=0)
            else:
                assert (moved - pattern).abs().max() > 1e-3
            plain = continue_from(bridge, site, own, key_mask, some)
            torch.testing.assert_close(plain, logits, atol=1e-5, rtol=0)


def patterns(
    bridge: Any, tokens: Tensor, key_mask: Tensor, site: str, own: Tensor, sides: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """A bridge's logits and first attention pattern, with queries, keys or values replaced."""
    kept = list[Tensor]()

    def keep(value: Tensor, hook: Any) -> None:
        kept.append(value.clone())

    def put(value: Tensor, hook: Any) -> Tensor:
        return sides[hook.name.split(".")[3]]

    hooks = [(f"blocks.0.attn.{side}.hook_out", put) for side in sides]
    logits = bridge.run_with_hooks(
        tokens, attention_mask=key_mask,
        fwd_hooks=[*hooks, ("blocks.0.attn.hook_pattern", keep)],
    )  # fmt: skip
    return logits, kept[0]


@pytest.mark.parametrize("kind", NATIVE)
def test_hooks_or_none_a_model_gives_the_same(
    kind: str, small: MeasurementContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = made(kind, small, tmp_path)
    model, key_mask = without_hooks(bridge), small.inputs.key_mask
    assert isinstance(model, NativeModel)
    assert residual_stream(model) == residual_stream(bridge)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(*key_mask.shape, bridge.cfg.d_model, generator=generator).requires_grad_()
    for site in residual_stream(model):
        plain = continue_from(model, site, drawn, key_mask)
        (gradient,) = torch.autograd.grad(plain.square().sum(), drawn)
        with monkeypatch.context() as patch:
            patch.setattr(continuation, "without_hooks", lambda model: model)
            hooked = continue_from(bridge, site, drawn, key_mask)
        (other,) = torch.autograd.grad(hooked.square().sum(), drawn)
        torch.testing.assert_close(plain, hooked, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-4)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ["2L with LN", "attn_only"])
def test_what_comes_before_the_site_is_not_run(
    kind: str, small: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("run")

    bridge = bridge_of(kind, small)
    model, tokens, key_mask = plain_model(bridge), small.inputs.tokens, small.inputs.key_mask
    sites = residual_stream(model)
    logits = bridge(tokens, attention_mask=key_mask)
    recorded = residuals(model, tokens, key_mask, sites)
    kinds = ["attn"] if kind == "attn_only" else ["attn", "mlp"]
    parts = [getattr(layer, name) for layer in model.layers for name in kinds]
    monkeypatch.setattr(model.tok_embed, "forward", refuse)
    order = [site for site in sites if site != "blocks.1.hook_resid_pre"]
    for site, part in zip(order, [*parts, None], strict=True):
        given = continue_from(model, site, recorded[site], key_mask)
        torch.testing.assert_close(given, logits, atol=1e-5, rtol=0)
        if part is not None:
            monkeypatch.setattr(part, "forward", refuse)


def test_the_residual_stream_is_every_site_in_the_order_of_computation(
    small: MeasurementContext, tmp_path: Path
) -> None:
    def kinds(kind: str) -> list[str]:
        sites = residual_stream(made(kind, small, tmp_path))
        assert all(site.startswith("blocks.") for site in sites)
        return [site.removeprefix("blocks.").replace("hook_resid_", "") for site in sites]

    whole = ["0.pre", "0.mid", "0.post", "1.pre", "1.mid", "1.post"]
    assert kinds("2L with LN") == kinds("GPT-2") == kinds("Llama") == whole
    assert kinds("attn_only") == kinds("Phi") == ["0.pre", "0.post", "1.pre", "1.post"]


def test_a_site_that_a_model_does_not_have_is_refused(
    small: MeasurementContext, tmp_path: Path
) -> None:
    tokens, key_mask = small.inputs.tokens, small.inputs.key_mask
    residual = torch.zeros(*key_mask.shape, 16)
    bridge = bridge_of("attn_only", small)
    valid = ", ".join(f"blocks.{n}.hook_resid_{kind}" for n in (0, 1) for kind in ("post", "pre"))
    for model in (bridge, without_hooks(bridge)):
        with pytest.raises(UserError) as caught:
            continue_from(model, "blocks.0.hook_resid_mid", residual, key_mask)
        assert str(caught.value).startswith(
            "the residual stream has no site 'blocks.0.hook_resid_mid': did you mean 'blocks.0."
        )
        assert str(caught.value).endswith(f"valid: {valid}")
    saved_gpt2(tmp_path)
    for model in (bridge_of("2L with LN", small), load_gpt2(tmp_path)):
        for site in ("blocks.2.hook_resid_pre", "blocks.0.mlp.hook_post", "hook_embed", ""):
            with pytest.raises(UserError, match=f"the residual stream has no site '{site}'"):
                continue_from(model, site, residual, key_mask)
            with pytest.raises(UserError, match=f"the residual stream has no site '{site}'"):
                residuals(model, tokens, key_mask, [site])


def test_without_idle_neurons_a_model_gives_the_same(small: MeasurementContext) -> None:
    bridge, inputs = small.reference.bridge, small.inputs
    model = narrowed(bridge)
    widths = [block.mlp.fc_in.out_features for block in plain_model(bridge).layers]
    left = [len(block.mlp.fc_in.bias) for block in model.layers]
    assert sum(left) == sum(int(real_neurons(bridge, n).sum()) for n in range(len(left)))
    assert sum(left) < sum(widths)
    wanted = bridge(inputs.tokens, attention_mask=inputs.key_mask)
    got = model(inputs.tokens, attention_mask=inputs.key_mask)
    assert torch.allclose(got, wanted, atol=1e-4)
    learned = make_bridge(small.shape)
    assert torch.equal(
        narrowed(learned)(inputs.tokens, attention_mask=inputs.key_mask),
        plain_model(learned)(inputs.tokens, attention_mask=inputs.key_mask),
    )
