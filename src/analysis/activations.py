"""Sites of a bridge, and one batched pass that records all that the measures need.

Shapes: `inputs` inputs, `pos` positions (BOS, tokens, padding), `d_model` the residual's
width, `head` heads, `d_head` their width, `neuron` MLP neurons, `classes` output classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from ..data.inputs import InputSet


@dataclass(frozen=True)
class Recording:
    """A model's logits and activations on an input set, by TransformerLens hook name."""

    bridge: TransformerBridge
    inputs: InputSet
    logits: Float[Tensor, "inputs pos classes"]
    activations: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.activations[name]


def has_mlp(bridge: TransformerBridge) -> bool:
    """Return whether the blocks have MLPs."""
    return not bridge.cfg.attn_only


def residual_sites(bridge: TransformerBridge) -> list[str]:
    """Return the residual-stream sites after each sublayer, in layer order."""
    kinds = ("hook_resid_mid", "hook_resid_post") if has_mlp(bridge) else ("hook_resid_post",)
    return [f"blocks.{layer}.{kind}" for layer in range(bridge.cfg.n_layers) for kind in kinds]


def recorded_names(bridge: TransformerBridge) -> list[str]:
    """Return the hook names that a recording holds."""
    kinds = ["hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_post"]
    if has_mlp(bridge):
        kinds += ["hook_resid_mid", "mlp.hook_pre", "hook_mlp_out"]
    return [f"blocks.{layer}.{kind}" for layer in range(bridge.cfg.n_layers) for kind in kinds]


@torch.inference_mode()
def record(bridge: TransformerBridge, inputs: InputSet, batch_size: int) -> Recording:
    """Run a bridge on an input set once, in batches, and keep what the measures need."""
    names = recorded_names(bridge)
    logits: list[Tensor] = []
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, len(inputs), batch_size):
        rows = slice(start, start + batch_size)
        out, cache = bridge.run_with_cache(
            inputs.tokens[rows].to(bridge.cfg.device),
            attention_mask=inputs.key_mask[rows].to(bridge.cfg.device),
            names_filter=names,
        )
        logits.append(out.cpu())
        for name in names:
            kept[name].append(cache[name].cpu())
    activations = {name: torch.cat(parts) for name, parts in kept.items()}
    return Recording(bridge, inputs, torch.cat(logits), activations)
