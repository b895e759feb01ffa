"""The measures' mathematics from the definitions, by numpy, scipy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import scipy.spatial
import scipy.stats
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression

from algomatch.data.inputs import InputSet

Array = NDArray[np.float64]


def gram_cka(x: Array, y: Array) -> float:
    """Linear CKA by its definition: HSIC of the n-by-n Gram matrices, doubly centred."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n
    gram, other = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    own = np.sum(gram * gram) * np.sum(other * other)
    return float(np.sum(gram * other) / np.sqrt(own))


def procrustes(x: Array, y: Array) -> float:
    """Similarity by scipy's Procrustes analysis, which needs two sides of equal width."""
    width = max(x.shape[1], y.shape[1])
    padded, other = (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (x, y))
    _, _, disparity = scipy.spatial.procrustes(padded, other)
    return float(np.sqrt(max(0.0, 1 - disparity)))


def svcca(x: Array, y: Array) -> float:
    """The mean cosine of the angles between the subspaces that hold 99% of the variance."""
    kept = []
    for side in (x, y):
        u, s, _ = np.linalg.svd(side - side.mean(0), full_matrices=False)
        shares = np.cumsum(s**2) / np.sum(s**2)
        kept.append(u[:, : int(np.searchsorted(shares, 0.99)) + 1])
    return float(np.cos(scipy.linalg.subspace_angles(*kept)).mean())


def rsa(x: Array, y: Array) -> float:
    """Spearman's correlation of distances; those within a millionth of the largest are ties."""
    distances = []
    for side in (x, y):
        pairwise = scipy.spatial.distance.pdist(side)
        distances.append(np.round(pairwise / pairwise.max() * 1e6))
    return float(scipy.stats.spearmanr(*distances).statistic)


def confounds(inputs: InputSet) -> Array:
    """Token and position one-hots of the defined positions."""
    where = np.argwhere(inputs.defined.numpy())
    tokens = inputs.tokens.numpy()[where[:, 0], where[:, 1]]
    one_hots = np.hstack([tokens[:, None] == np.arange(12), where[:, 1:] == np.arange(12)])
    return np.asarray(one_hots, dtype=np.float64)


def residuals(values: Array, inputs: InputSet) -> Array:
    """The residuals of scikit-learn's regression of `values` on token and position."""
    design = confounds(inputs)
    fitted = LinearRegression().fit(design, values).predict(design)
    return np.asarray(values - fitted, dtype=np.float64)


def one_hot(values: NDArray[Any]) -> Array:
    """One column for each value that occurs."""
    return np.asarray(values[:, None] == np.unique(values), dtype=np.float64)
