"""How alike two representations of the same cases are: linear CKA, Procrustes, SVCCA, RSA.

All are of centred representations and need, but for RSA, no more than their covariances. All are
invariant to rotations of either side, to the order of the cases and to scale.

Shapes: `cases` (input, position) pairs, `k` and `d` the columns of the two sides.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

KEPT_VARIANCE = 0.99  # of each side, in SVCCA
SAME_DISTANCE = 1e-6  # of the largest: distances closer than that are ties, in RSA


def linear_cka(x: Float64[Tensor, "cases k"], y: Float64[Tensor, "cases d"]) -> float:
    """Return linear CKA (Kornblith et al. 2019) of two representations, which it centres."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float(cka(x.T @ y, x.T @ x, y.T @ y))


def cka(
    cross: Float64[Tensor, "*batch k d"],
    own: Float64[Tensor, "*batch k k"],
    other: Float64[Tensor, "*batch d d"],
) -> Float64[Tensor, "*batch"]:
    """Return linear CKA in feature space (Kornblith et al. 2019)."""
    shared = torch.linalg.matrix_norm(cross) ** 2
    value: Tensor = shared / (torch.linalg.matrix_norm(own) * torch.linalg.matrix_norm(other))
    return value


def procrustes(
    cross: Float64[Tensor, "k d"], own: Float64[Tensor, "k k"], other: Float64[Tensor, "d d"]
) -> float:
    """Return the Procrustes similarity: 1 less half the squared distance of the two sides.

    Each is scaled to norm 1 and one is rotated onto the other (Ding et al. 2021).
    """
    shared = torch.linalg.svdvals(cross).sum()
    return float(shared / (own.trace() * other.trace()).sqrt())


def svcca(
    cross: Float64[Tensor, "k d"], own: Float64[Tensor, "k k"], other: Float64[Tensor, "d d"]
) -> float:
    """Return the mean canonical correlation of the directions that hold 99% of the variance.

    Source: Raghu et al. 2017.
    """
    return canonical(cross, whitening(own), whitening(other))


def canonical(
    cross: Float64[Tensor, "k d"],
    own: Float64[Tensor, "k kept"],
    other: Float64[Tensor, "d kept_of_other"],
) -> float:
    """Return the mean canonical correlation of two sides, given what `whitening` says of each."""
    correlations = torch.linalg.svdvals(own.T @ cross @ other)
    return float(correlations.clamp(max=1).mean())


def whitening(covariance: Float64[Tensor, "k k"]) -> Float64[Tensor, "k kept"]:
    """Return the map to the leading principal components, each scaled to norm 1."""
    variances, directions = torch.linalg.eigh(covariance)
    variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)
    shares = variances.cumsum(0) / variances.sum()
    kept = int((shares < KEPT_VARIANCE).sum()) + 1
    scaled: Tensor = directions[:, :kept] / variances[:kept].sqrt()
    return scaled


def distance_ranks(x: Float64[Tensor, "cases k"]) -> Float64[Tensor, " pairs"]:
    """Return the ranks of the cases' Euclidean distances, ties sharing their mean rank, centred."""
    distances = torch.pdist(x)
    largest = distances.max()
    if largest > 0:
        distances = (distances / largest / SAME_DISTANCE).round()
    _, place, counts = torch.unique(distances, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts - 1) / 2)[place]
    centred: Tensor = ranks - ranks.mean()
    return centred


def rsa(ranks: Float64[Tensor, " pairs"], other: Float64[Tensor, " pairs"]) -> float:
    """Return Spearman's correlation of two representations' distances, given as centred ranks.

    Representational similarity analysis (Kriegeskorte et al. 2008); 0 where all are alike.
    """
    norms = ranks.norm() * other.norm()
    return float(ranks @ other / norms) if norms > 0 else 0.0
