"""Residual streams at sites, and a model continued from a given residual stream at a site.

The part of a model after a site depends only on the residual stream there. A NativeModel runs only
its later attention layers and MLPs, without hooks. Any other bridge runs as a whole on arbitrary
tokens, and its residual stream is overwritten at the site.

Shapes: `pos` positions, `d_model` the residual's width, `classes` output classes.
Tensors are on the model's device. Gradients flow unless they are switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import NativeModel
from transformer_lens.utilities.activation_functions import apply_softcap

from ..infra.errors import UserError, one_of
from .bridges import plain_model

SIDES = ("q", "k", "v")
Half = Callable[[Tensor], Tensor]  # an attention layer or an MLP, added to the residual stream


def without_hooks(model: NativeModel | TransformerBridge) -> NativeModel | TransformerBridge:
    """Return the form of a model that is fastest to continue: a NativeModel instead of its bridge.

    Any other bridge is returned itself. Call it once if a model is continued often.
    """
    if isinstance(model, TransformerBridge) and isinstance(model.original_model, NativeModel):
        return plain_model(model)
    return model


def residual_stream(model: NativeModel | TransformerBridge) -> list[str]:
    """Return every site of the residual stream, in the order of computation.

    A block without an MLP, or with its MLP parallel to attention, has no site in the middle.
    """
    kinds, layers = ("pre", "mid", "post"), range(model.cfg.n_layers)
    sites = [f"blocks.{layer}.hook_resid_{kind}" for layer in layers for kind in kinds]
    if isinstance(model, NativeModel):
        return [site for site in sites if not (model.cfg.attn_only and site.endswith("mid"))]
    hooks = model.hook_dict
    return [site for site in sites if site in hooks]


def continue_from(
    model: NativeModel | TransformerBridge,
    site: str,
    residual: Float[Tensor, "batch pos d_model"],
    key_mask: Bool[Tensor, "batch pos"],
    sides: Mapping[str, Float[Tensor, "batch pos ..."]] | None = None,
) -> Float[Tensor, "batch pos classes"]:
    """Return the logits of a model with the given residual stream at a site.

    `sides` replace the queries ("q"), keys ("k") or values ("v") of the block that reads the site,
    in the form that `attention_inputs` gives them.

    Raises:
        UserError: the model has no such site in its residual stream.
    """
    model, sides = without_hooks(model), sides or {}
    _check(model, [site])
    layer = layer_of(site) + site.endswith("hook_resid_post")
    if isinstance(model, NativeModel):
        with _overwritten(model, layer, sides):
            for half in halves(model, key_mask)[_halves_before(model, site) :]:
                residual = half(residual)
        logits: Tensor = model.head(model.ln_out(residual))
        return apply_softcap(logits, model.output_logits_soft_cap)  # type: ignore[no-any-return]

    def overwrite(value: Tensor, hook: Any) -> None:
        value.copy_(residual)  # in place: a block adds this very tensor to what its MLP gives

    def side(value: Tensor, hook: Any, name: str) -> Tensor:
        return sides[name]

    hooks: list[tuple[str, Callable[..., Any]]] = [(site, overwrite)]
    hooks += [(_side_hook(model, layer, name), partial(side, name=name)) for name in sides]
    anything = torch.zeros_like(key_mask, dtype=torch.int64)
    hooked: Tensor = model.run_with_hooks(anything, attention_mask=key_mask, fwd_hooks=hooks)
    return hooked


def attention_inputs(
    model: NativeModel | TransformerBridge,
    tokens: Int64[Tensor, "batch pos"],
    key_mask: Bool[Tensor, "batch pos"],
    layer: int,
) -> dict[str, Float[Tensor, "batch pos ..."]]:
    """Return the queries, keys and values of a block's attention, before any rotation, by side.

    Raises:
        UserError: the model does not show them.
    """
    model = without_hooks(model)
    if isinstance(model, NativeModel):
        site = f"blocks.{layer}.hook_resid_pre"
        stream = residuals(model, tokens, key_mask, [site])[site]
        block = model.layers[layer]
        read = block.ln1(stream)
        return {side: getattr(block.attn, side)(read) for side in SIDES}
    names = {side: _side_hook(model, layer, side) for side in SIDES}
    _, cache = model.run_with_cache(
        tokens, attention_mask=key_mask, names_filter=list(names.values())
    )
    return {side: cache[name] for side, name in names.items()}


def layer_of(site: str) -> int:
    """Return the block that a site belongs to."""
    return int(site.split(".")[1])


def residuals(
    model: NativeModel | TransformerBridge,
    tokens: Int64[Tensor, "batch pos"],
    key_mask: Bool[Tensor, "batch pos"],
    sites: Iterable[str],
) -> dict[str, Float[Tensor, "batch pos d_model"]]:
    """Return a model's residual streams at some sites.

    Raises:
        UserError: the model has no such site in its residual stream.
    """
    model, sites = without_hooks(model), list(sites)
    _check(model, sites)
    if isinstance(model, NativeModel):
        before = {site: _halves_before(model, site) for site in sites}
        needed = halves(model, key_mask)[: max(before.values(), default=0)]
        streams = list(accumulate(needed, _added, initial=embedded(model, tokens)))
        return {site: streams[count] for site, count in before.items()}
    _, cache = model.run_with_cache(tokens, attention_mask=key_mask, names_filter=sites)
    return {site: cache[site] for site in sites}


def embedded(
    model: NativeModel, tokens: Int64[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """Return the residual stream before the first block."""
    embeddings: Tensor = model.tok_embed(tokens)
    return embeddings if model.pos is None else embeddings + model.pos.weight[: tokens.shape[1]]


def halves(model: NativeModel, key_mask: Bool[Tensor, "batch pos"]) -> list[Half]:
    """Return each attention layer and MLP as a map of the residual stream, in order."""

    def attention(block: Any) -> Half:
        return lambda x: x + block.attn(block.ln1(x), attention_mask=key_mask)[0]

    def mlp(block: Any) -> Half:
        return lambda x: x + block.mlp(block.ln2(x))

    kinds = (attention,) if model.cfg.attn_only else (attention, mlp)
    return [kind(block) for block in model.layers for kind in kinds]


def _halves_before(model: NativeModel, site: str) -> int:
    """Return the number of attention layers and MLPs before a site."""
    per_block = 1 if model.cfg.attn_only else 2
    layer, within = divmod(residual_stream(model).index(site), per_block + 1)
    return layer * per_block + within


@contextmanager
def _overwritten(model: NativeModel, layer: int, sides: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace the queries, keys or values of a block's attention by the given ones."""

    def put(module: Any, arguments: Any, output: Tensor, value: Tensor) -> Tensor:
        return value

    handles = [
        getattr(model.layers[layer].attn, side).register_forward_hook(partial(put, value=value))
        for side, value in sides.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _side_hook(model: TransformerBridge, layer: int, side: str) -> str:
    """Return the name of the hook at which a block's queries, keys or values are."""
    names = [f"blocks.{layer}.attn.{side}.hook_out", f"blocks.{layer}.attn.hook_{side}"]
    hook = next((name for name in names if name in model.hook_dict), None)
    if hook is None:
        raise UserError(
            f"block {layer} does not expose '{side}' of its attention: it has no hook {names[0]}"
        )
    return hook


def _added(residual: Tensor, half: Half) -> Tensor:
    return half(residual)


def _check(model: NativeModel | TransformerBridge, sites: Iterable[str]) -> None:
    known = residual_stream(model)
    for site in sites:
        if site not in known:
            raise UserError(f"the residual stream has no site '{site}': {one_of(site, known)}")
