"""What heads attend to: the hook of patterns, the heads that write, how far patterns overlap."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from ..data.inputs import InputSet

UNIFORM = 0.95  # a head counts as uniform from this overlap with uniform attention on
PATTERN = "attn.hook_pattern"


def active_heads(bridge: TransformerBridge) -> list[tuple[int, int]]:
    """Return (layer, head) of the heads that write something: neither values nor output all 0."""
    heads = []
    for layer in range(bridge.cfg.n_layers):
        attention = bridge.blocks[layer].attn
        values = (attention.W_V != 0).flatten(1).any(1) | (attention.b_V != 0).any(-1).flatten()
        writes = values & (attention.W_O != 0).flatten(1).any(1)
        heads += [(layer, head) for head in torch.nonzero(writes)[:, 0].tolist()]
    return heads


def name_of(head: tuple[int, int]) -> str:
    """Return a head's name: its pattern's hook name, with its index in brackets."""
    return f"blocks.{head[0]}.{PATTERN}[{head[1]}]"


def overlaps(
    patterns: Float[Tensor, "inputs head query key"],
    other: Float[Tensor, "inputs other query key"],
    counted: Float[Tensor, "inputs query"],
) -> Float64[Tensor, "inputs head other"]:
    """Return the overlap of each pair of heads, summed over the counted queries."""
    common = torch.empty(len(patterns), patterns.shape[1], other.shape[1], dtype=torch.float64)
    for i in range(patterns.shape[1]):
        common[:, i] = (torch.minimum(patterns[:, [i]], other).sum(-1) * counted[:, None]).sum(-1)
    return common


def uniform_attention(inputs: InputSet) -> Float[Tensor, "inputs query key"]:
    """Return uniform attention over the keys that each query may attend to."""
    n_pos = inputs.tokens.shape[1]
    may = inputs.key_mask[:, None, :].expand(-1, n_pos, -1)
    if inputs.task.causal:
        may = may & torch.ones(n_pos, n_pos, dtype=torch.bool).tril()
    return may.float() / may.sum(-1, keepdim=True)
