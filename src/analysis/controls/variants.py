"""Variants of compiled models: the same program by construction, with other weights.

Compiled models have no LayerNorm, so their residual stream can be transformed linearly: weights
that write into it are multiplied by a matrix, weights that read from it by the inverse. The algebra
is done in float64. Every function is pure; the same seed gives the same weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ...data.inputs import InputSet
from ...infra.errors import UserError
from ...models.compiling import UNEMBEDDING, Compiled
from ...models.reference import RECHECKED, validate

NOISE_SCALES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
EMBEDDINGS = ("tok_embed.weight", "pos.weight")  # of shape (ids, d_model)
WRITERS = (".attn.o.", ".mlp.fc_out.")  # weights of shape (d_model, in), biases of (d_model)
READERS = (".attn.q.", ".attn.k.", ".attn.v.", ".mlp.fc_in.")  # weights of shape (out, d_model)

Weights = Mapping[str, Float64[Tensor, "..."]]


def rotated(compiled: Compiled, seed: int) -> Compiled:
    """Return the model with its residual stream rotated by a random orthogonal matrix.

    The matrix is Haar-distributed (Mezzadri 2007, arXiv:math-ph/0609050). Dimensions no longer hold
    single values, so there are no labels.
    """
    turn = _orthogonal(compiled.shape["d_model"], np.random.default_rng(seed))
    return _changed(compiled, lambda weights: _rebased(weights, turn, turn.T), ())


def reparametrised(compiled: Compiled, seed: int, condition: float = 3.0) -> Compiled:
    """Return the model with its residual stream multiplied by a random invertible matrix.

    The logarithms of its singular values are evenly spaced, with mean 0. `condition` is the ratio
    of the largest to the smallest. There are no labels.

    Raises:
        UserError: the condition number is below 1 or not finite.
    """
    if not 1 <= condition < math.inf:
        raise UserError(f"condition={condition} must be a finite number of at least 1")
    generator, width = np.random.default_rng(seed), compiled.shape["d_model"]
    left, right = _orthogonal(width, generator), _orthogonal(width, generator)
    scales = torch.logspace(-0.5, 0.5, width, base=condition, dtype=torch.float64)
    matrix, inverse = (left * scales) @ right, (right.T / scales) @ left.T
    return _changed(compiled, lambda weights: _rebased(weights, matrix, inverse), ())


def permuted(compiled: Compiled, seed: int) -> Compiled:
    """Return the model with heads, neurons and residual dimensions in another order.

    Each layer's heads and neurons are shuffled among themselves; labels move with their dimensions.
    """
    generator, shape = np.random.default_rng(seed), compiled.shape
    order = generator.permutation(shape["d_model"])
    layers = [
        (generator.permutation(shape["n_heads"]), generator.permutation(shape["d_mlp"]))
        for _ in range(shape["n_layers"])
    ]

    def change(weights: Weights) -> dict[str, Tensor]:
        matrix = torch.eye(len(order), dtype=torch.float64)[:, torch.from_numpy(order)]
        moved = _rebased(weights, matrix, matrix.T)
        for layer, (heads, neurons) in enumerate(layers):
            width = shape["d_head"]
            dims = torch.from_numpy((heads[:, None] * width + np.arange(width)).ravel())
            _reorder(moved, f"layers.{layer}.attn", ("q", "k", "v"), "o", dims)
            _reorder(moved, f"layers.{layer}.mlp", ("fc_in",), "fc_out", torch.from_numpy(neurons))
        return moved

    labels = compiled.residual_labels
    return _changed(compiled, change, tuple(labels[place] for place in order) if labels else ())


def noised(compiled: Compiled, seed: int, scale: float) -> Compiled:
    """Return the model with every weight multiplied by (1 + scale * normal); zeros stay zeros.

    Raises:
        UserError: the scale is negative or not finite.
    """
    if not 0 <= scale < math.inf:
        raise UserError(f"scale={scale} must be a finite number of at least 0")
    generator = torch.Generator().manual_seed(seed)

    def change(weights: Weights) -> dict[str, Tensor]:
        noisy = {}
        for name in sorted(weights):
            noise = torch.randn(weights[name].shape, generator=generator, dtype=torch.float64)
            noisy[name] = weights[name] * (1 + scale * noise)
        return noisy

    return _changed(compiled, change, compiled.residual_labels)


def hardest_noise(compiled: Compiled, inputs: InputSet, seed: int) -> tuple[Compiled, float] | None:
    """Return the noised model and the largest of `NOISE_SCALES` at which it is exact on all inputs.

    Only the size of the noise differs between scales. None if it is exact at no scale.
    """
    few = torch.unique(torch.linspace(0, len(inputs) - 1, RECHECKED).long())
    for scale in NOISE_SCALES:
        variant = noised(compiled, seed, scale)
        if validate(variant, inputs, few).exact and validate(variant, inputs).exact:
            return variant, scale
    return None


def _changed(
    compiled: Compiled, change: Callable[[Weights], dict[str, Tensor]], labels: tuple[str, ...]
) -> Compiled:
    weights = change({name: weight.double() for name, weight in compiled.weights.items()})
    single = {name: weight.float().contiguous() for name, weight in weights.items()}
    return dataclasses.replace(compiled, weights=single, residual_labels=labels)


def _orthogonal(width: int, generator: np.random.Generator) -> Float64[Tensor, "dim dim"]:
    turn, upper = np.linalg.qr(generator.standard_normal((width, width)))
    return torch.from_numpy(turn * np.sign(np.diag(upper)))


def _rebased(
    weights: Weights, matrix: Float64[Tensor, "dim dim"], inverse: Float64[Tensor, "dim dim"]
) -> dict[str, Tensor]:
    """Return the weights of a model whose residual rows are the old ones times the matrix."""
    rebased = dict(weights)
    for name, weight in weights.items():
        if name in EMBEDDINGS:
            rebased[name] = weight @ matrix
        elif any(part in name for part in WRITERS):
            rebased[name] = weight @ matrix if name.endswith(".bias") else matrix.T @ weight
        elif name == UNEMBEDDING or (
            name.endswith(".weight") and any(part in name for part in READERS)
        ):
            rebased[name] = weight @ inverse.T
    return rebased


def _reorder(
    weights: dict[str, Tensor], layer: str, into: tuple[str, ...], out: str, order: Tensor
) -> None:
    """Permute, in place, the dimensions between a layer's readers and its writer."""
    for name in into:
        for kind in ("weight", "bias"):
            weights[f"{layer}.{name}.{kind}"] = weights[f"{layer}.{name}.{kind}"][order]
    weights[f"{layer}.{out}.weight"] = weights[f"{layer}.{out}.weight"][:, order]
