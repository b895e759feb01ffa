"""The true circuit of a compiled model, from its weights.

An edge from u to v is real if v reads a dimension of the residual stream that u writes, and v
reaches the output by real edges. Compiled weights are exactly zero elsewhere.

Shapes: `reader` and `node` of a graph, `d_model` the residual's width.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge.sources.native import NativeModel

from ...models.wiring import EMBED, HEAD, MLP_IN, OUTPUT, POSITIONS, Reader, Site, Wiring


def written_dimensions(model: NativeModel, node: Site) -> Bool[Tensor, " d_model"]:
    """Return the dimensions that a node writes."""
    if node.hook == EMBED:
        return _any(model.tok_embed.weight, 0)
    if node.hook == POSITIONS:
        assert model.pos is not None
        return _any(model.pos.weight, 0)
    if node.hook == HEAD:
        value = _of_head(model, node, "v")
        return _any(_written_by_head(model, node)[:, value], 1)
    mlp: Any = model.layers[node.layer].mlp
    alive = _any(mlp.fc_in.weight, 1) | (mlp.fc_in.bias != 0)
    biased: Tensor = mlp.fc_out.bias != 0
    return _any(mlp.fc_out.weight[:, alive], 1) | biased


def read_dimensions(model: NativeModel, reader: Reader) -> Bool[Tensor, " d_model"]:
    """Return the residual dimensions this reader's output depends on."""
    if reader.hook == OUTPUT:
        return _any(model.head.weight, 0)
    block: Any = model.layers[reader.layer]
    if reader.hook == MLP_IN:
        goes_on = _any(block.mlp.fc_out.weight, 0)
        return _any(block.mlp.fc_in.weight[goes_on], 0)
    node, side = reader.node, reader.side
    assert node is not None
    if side == "v":
        goes_on = _any(_written_by_head(model, node), 0)
    else:  # what the other side of the product is zero at has no say
        goes_on = _of_head(model, node, "k" if side == "q" else "q")
    return _any(_by_head(getattr(block.attn, side).weight, model)[node.head][goes_on], 0)


def _written_by_head(model: NativeModel, node: Site) -> Float[Tensor, "d_model e"]:
    attention: Any = model.layers[node.layer].attn
    return _by_head(attention.o.weight.T, model)[node.head].T


def _of_head(model: NativeModel, node: Site, side: str) -> Bool[Tensor, " e"]:
    """Return which of a head's queries, keys or values may be other than zero."""
    part: Any = getattr(model.layers[node.layer].attn, side)
    rows = _any(part.weight, 1) | (part.bias != 0)
    return _by_head(rows, model)[node.head]


def _by_head(values: Tensor, model: NativeModel) -> Tensor:
    """Return rows in groups, one for each head."""
    return values.reshape(-1, int(model.cfg.d_head), *values.shape[1:])


def _any(values: Tensor, dim: int) -> Bool[Tensor, " n"]:
    """Return where there is anything but zero along a dimension."""
    return (values != 0).any(dim)


def true_edges(model: NativeModel, wiring: Wiring) -> Bool[Tensor, "reader node"]:
    """Return which edges of a compiled model are real."""
    writes = [written_dimensions(model, node) for node in wiring.nodes]
    edges = torch.zeros(len(wiring.readers), len(wiring.nodes), dtype=torch.bool)
    for r, reader in reversed(list(enumerate(wiring.readers))):
        own = reader.node
        if own is not None and not edges[:, wiring.nodes.index(own)].any():
            continue  # what reads for a dead node reaches nothing
        reads = read_dimensions(model, reader)
        for u in range(reader.nodes):
            edges[r, u] = bool((reads & writes[u]).any())
    return edges
