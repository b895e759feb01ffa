"""NativeModels and TransformerBridges: only this module builds either."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.sources.native import NativeModel, initialize_native_model


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return a hash of names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}{tuple(weights[name].shape)}{weights[name].dtype}".encode())
        digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()


def make_native(shape: TransformerBridgeConfig) -> NativeModel:
    """Return a NativeModel, initialised from `shape.seed` without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        model = NativeModel(shape)
        initialize_native_model(model, shape)
    return model


def make_bridge(
    shape: TransformerBridgeConfig,
    weights: Mapping[str, Tensor] | None = None,
    device: str = "cpu",
) -> TransformerBridge:
    """Return a bridge for measuring: weights (a NativeModel's state dict) loaded, no gradients.

    Raises:
        RuntimeError: the weights are not those of a NativeModel of this shape.
    """
    model = make_native(shape)
    if weights is not None:
        model.load_state_dict(dict(weights), strict=True)
    model = model.eval().requires_grad_(False).to(device)
    return build_bridge_from_module(
        model,
        architecture="TransformerLensNative",
        tl_config=shape,
        tokenizer=None,
        dtype=torch.float32,
        device=device,
        model_name="native",
    )


def plain_model(bridge: TransformerBridge) -> NativeModel:
    """Return a NativeModel with a bridge's weights and no hooks, which runs faster."""
    weights = {
        name.replace("._original_component", ""): value
        for name, value in bridge.original_model.named_parameters()
    }
    model = make_native(bridge.cfg)
    model.load_state_dict(weights, strict=True)
    return model.eval().requires_grad_(False).to(bridge.cfg.device)


def narrowed(bridge: TransformerBridge) -> NativeModel:
    """Return `plain_model` without the MLP neurons that read nothing or write nothing.

    Tracr pads all MLPs to the width of the widest. Outputs are equal up to rounding.
    """
    model = plain_model(bridge)
    for block in () if bridge.cfg.attn_only else model.layers:
        into, out = block.mlp.fc_in, block.mlp.fc_out
        reads = (into.weight != 0).any(1) | (into.bias != 0)
        kept = reads & (out.weight != 0).any(0)
        for module, name, value in (
            (into, "weight", into.weight[kept]),
            (into, "bias", into.bias[kept]),
            (out, "weight", out.weight[:, kept]),
        ):
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    return model
