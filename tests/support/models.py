"""Models for tests: many shapes, weights away from their initial values, rotated bases."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.activations import Recording
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measurements import Measurement
from algomatch.models.bridges import make_bridge, make_native

Rows = dict[tuple[str, str], Measurement]
SHAPES: dict[str, dict[str, Any]] = {
    "2L with LN": {},
    "attn_only": {"attn_only": True},
    "causal": {"attention_dir": "causal"},
    "1L gelu without LN": {"n_layers": 1, "act_fn": "gelu", "normalization_type": None},
    "3L, heads wider than the residual": {"n_layers": 3, "d_head": 24, "n_heads": 3},
}


def rows_of(measured: Any) -> Rows:
    """Rows by the measure's short name and the subject."""
    return {(row.measure.partition("/")[2], row.subject): row for row in measured}


def varied(shape: Any, **changes: Any) -> Any:
    """A shape with some fields changed (`dataclasses.replace` would lose attention_dir)."""
    shape = copy.copy(shape)
    for name, value in changes.items():
        setattr(shape, name, value)
    return shape


def trained_looking(shape: Any, seed: int = 7) -> dict[str, torch.Tensor]:
    """Weights of a shape, with biases and norms away from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = make_native(shape).state_dict()
    for name, value in weights.items():
        if value.dim() == 1:
            weights[name] = value + 0.3 * torch.randn(value.shape, generator=generator)
    return weights


def bridge_of(kind: str, context: MeasurementContext) -> Any:
    """The reference, or a model of one of the shapes."""
    if kind == "reference":
        return context.reference.bridge
    shape = varied(context.shape, **SHAPES[kind])
    return make_bridge(shape, trained_looking(shape))


def with_config(context: MeasurementContext, **changes: Any) -> MeasurementContext:
    """The same context with another analysis config and no measurements."""
    config = replace(context.config, **changes)
    return MeasurementContext(
        context.inputs, context.reference, context.shape, config, compiled(context)
    )


def with_shape(context: MeasurementContext, shape: Any) -> MeasurementContext:
    """The same context for models of another shape, with no measurements."""
    return MeasurementContext(
        context.inputs, context.reference, shape, context.config, compiled(context)
    )


def compiled(context: MeasurementContext) -> Callable[[], list[TransformerBridge]]:
    """The compiled programs of other tasks, each compiled once."""
    return lambda: context.once("other tasks", context.others)


def plain_weights(bridge: Any) -> dict[str, torch.Tensor]:
    """The weights of the NativeModel in a bridge, under their own names."""
    state = bridge.original_model.named_parameters()
    return {
        name.replace("_original_component.", ""): value.detach().clone() for name, value in state
    }


def orthogonal(seed: int, width: int) -> NDArray[np.float64]:
    """A random orthogonal matrix."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    return np.asarray(q, dtype=np.float64)


def rotated(bridge: Any, seed: int) -> Any:
    """A model without layer norm with a rotated residual stream, otherwise equal."""
    shape = copy.copy(bridge.cfg)
    rotation = torch.from_numpy(orthogonal(seed, shape.d_model))
    weights = plain_weights(bridge)
    for name, value in weights.items():
        writes = re.search(r"\.(attn\.o|mlp\.fc_out)\.", name)
        if writes:  # their rows and biases are in the residual stream
            weights[name] = (rotation.T @ value.double()).float()
        elif value.dim() == 2:  # embeddings and readers: their columns are in it
            weights[name] = (value.double() @ rotation).float()
    return make_bridge(shape, weights)


def with_heads(bridge: Any, copies: Mapping[tuple[int, int], list[int]], n_heads: int) -> Any:
    """A model with `n_heads` heads per layer: each old (layer, head) is copied to its places.

    Other places are empty heads.
    """
    shape = varied(bridge.cfg, n_heads=n_heads)
    shape.d_model = bridge.cfg.d_model
    weights, width = plain_weights(bridge), bridge.cfg.d_head
    for layer in range(shape.n_layers):
        for part in ("q", "k", "v"):
            for kind in ("weight", "bias"):
                name = f"layers.{layer}.attn.{part}.{kind}"
                if name in weights:
                    weights[name] = _placed(weights[name], layer, copies, n_heads, width)
        name = f"layers.{layer}.attn.o.weight"
        weights[name] = _placed(weights[name].T, layer, copies, n_heads, width).T.contiguous()
    return make_bridge(shape, weights)


def _placed(
    value: torch.Tensor,
    layer: int,
    copies: Mapping[tuple[int, int], list[int]],
    n_heads: int,
    width: int,
) -> torch.Tensor:
    """The rows of heads, copied to the places that want them."""
    placed = torch.zeros(n_heads * width, *value.shape[1:])
    for (at, head), chosen in copies.items():
        for place in chosen if at == layer else ():
            own = value[head * width : (head + 1) * width]
            placed[place * width : (place + 1) * width] = own
    return placed


def site_as_recording(values: torch.Tensor, context: MeasurementContext) -> Recording:
    """A recording whose one residual site, `blocks.0.hook_resid_post`, holds given values."""
    shape = varied(context.shape, n_layers=1, attn_only=True, n_heads=1, d_head=4)
    shape.d_model = values.shape[-1]
    logits = torch.zeros(*values.shape[:2], context.inputs.output.width)
    name = "blocks.0.hook_resid_post"
    return Recording(make_bridge(shape), context.inputs, logits, {name: values})
