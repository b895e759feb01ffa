"""Assembly of Tracr's crafted model into weights under NativeModel's names, without haiku or jax.

Tracr's own assembly draws random weights with haiku and then overwrites all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tracr.craft import bases, transformers

ATTENTION_HALF, MLP_HALF = 0, 1  # the halves of a block, in their order


@dataclass(frozen=True)
class Assembled:
    """A crafted model's shape and weights, and the label of each residual dimension."""

    shape: dict[str, Any]
    weights: dict[str, Tensor]
    labels: tuple[str, ...]


def assemble(
    craft: transformers.SeriesWithResiduals,
    tokens: Sequence[bases.BasisDirection],
    longest: int,
    output: Sequence[bases.BasisDirection],
    causal: bool,
) -> Assembled:
    """Return the weights of a crafted model for lists of up to `longest` tokens.

    The embedding has a row for each token direction, the head a row for each output direction, in
    the given order. Every weight equals Tracr's exactly; heads have the width of their values.
    """
    space = bases.VectorSpaceWithBasis
    indices = space.from_values("indices", range(longest)).basis
    space = bases.join_vector_spaces(craft.residual_space, *map(space, (tokens, indices, output)))
    places = {direction: place for place, direction in enumerate(space.basis)}
    halves = list(_halves(craft.blocks))
    heads = {
        half: list(block.as_multi().heads()) for half, block in halves if half[1] == ATTENTION_HALF
    }
    mlps = {half: block for half, block in halves if half[1] == MLP_HALF}
    each = [head for several in heads.values() for head in several]
    shape: dict[str, Any] = {
        "n_layers": halves[-1][0][0] + 1,
        "d_model": len(places),
        "n_ctx": longest + 1,
        "d_head": max((max(*h.w_qk.matrix.shape, h.w_ov.matrix.shape[1]) for h in each), default=1),
        "n_heads": max(map(len, heads.values()), default=1),
        "d_mlp": max((mlp.fst.output_space.num_dims for mlp in mlps.values()), default=1),
        "d_vocab": len(tokens),
        "d_vocab_out": len(output),
        "act_fn": "relu",
        "attention_dir": "causal" if causal else "bidirectional",
        "normalization_type": None,
    }
    weights = {
        "tok_embed.weight": _embedding(places, tokens),
        "pos.weight": np.vstack([np.zeros((1, len(places)), np.float32), _rows(places, indices)]),
        "head.weight": _rows(places, output),
    }
    for layer in range(shape["n_layers"]):
        weights |= _attention(places, shape, layer, heads.get((layer, ATTENTION_HALF), ()))
        weights |= _mlp(places, shape, layer, mlps.get((layer, MLP_HALF)))
    # Adding zero makes -0.0 the 0.0 that it is in Tracr's products of matrices.
    made = {name: torch.from_numpy(np.ascontiguousarray(w + 0)) for name, w in weights.items()}
    return Assembled(shape, made, tuple(map(str, space.basis)))


def _halves(blocks: Sequence[Any]) -> Iterator[tuple[tuple[int, int], Any]]:
    """Yield each crafted block with its layer and half: the first free half of its kind."""
    at = 0
    for block in blocks:
        kind = MLP_HALF if isinstance(block, transformers.MLP) else ATTENTION_HALF
        at += at % 2 != kind
        yield (at // 2, kind), block
        at += 1


def _rows(places: dict[Any, int], directions: Sequence[Any]) -> np.ndarray:
    """Return a row for each direction, one at its place in the residual stream."""
    rows = np.zeros((len(directions), len(places)), np.float32)
    rows[np.arange(len(directions)), [places[direction] for direction in directions]] = 1
    return rows


def _embedding(places: dict[Any, int], tokens: Sequence[Any]) -> np.ndarray:
    rows = _rows(places, tokens)
    constant = places.get(bases.BasisDirection("one"))
    if constant is not None:
        rows[:, constant] += 1
    return rows


def _attention(
    places: dict[Any, int], shape: dict[str, Any], layer: int, heads: Sequence[Any]
) -> dict[str, np.ndarray]:
    """Return the weights of an attention layer; unused heads are zero."""
    width, d_model, n_heads = shape["d_head"], shape["d_model"], shape["n_heads"]
    sides = {side: np.zeros((n_heads, width, d_model), np.float32) for side in ("k", "q", "v", "o")}
    for at, head in enumerate(heads):
        for side, space, matrix in (
            ("k", head.w_qk.right_space, np.eye(head.w_qk.matrix.shape[1])),
            ("q", head.w_qk.left_space, head.w_qk.matrix.T),
            ("v", head.w_ov.input_space, head.w_ov.matrix.T),
            ("o", head.w_ov.output_space, np.eye(head.w_ov.matrix.shape[1])),
        ):
            columns = [places[direction] for direction in space.basis]
            sides[side][at, : len(matrix), columns] = matrix.T
    weights: dict[str, np.ndarray] = {}
    for side, blocks in sides.items():
        matrix = blocks.reshape(n_heads * width, d_model)
        name = f"layers.{layer}.attn.{side}"
        weights[f"{name}.weight"] = matrix.T if side == "o" else matrix
        weights[f"{name}.bias"] = np.zeros(len(weights[f"{name}.weight"]), np.float32)
    return weights


def _mlp(
    places: dict[Any, int], shape: dict[str, Any], layer: int, mlp: Any
) -> dict[str, np.ndarray]:
    """Return the weights of an MLP; zero if the layer has none."""
    first = np.zeros((shape["d_mlp"], shape["d_model"]), np.float32)
    second = np.zeros((shape["d_model"], shape["d_mlp"]), np.float32)
    if mlp is not None:
        hidden = mlp.fst.output_space.num_dims
        columns = [places[direction] for direction in mlp.fst.input_space.basis]
        first[:hidden, columns] = mlp.fst.matrix.T
        rows = [places[direction] for direction in mlp.snd.output_space.basis]
        second[rows, :hidden] = mlp.snd.matrix.T
    name = f"layers.{layer}.mlp"
    return {
        f"{name}.fc_in.weight": first,
        f"{name}.fc_in.bias": np.zeros(len(first), np.float32),
        f"{name}.fc_out.weight": second,
        f"{name}.fc_out.bias": np.zeros(len(second), np.float32),
    }
