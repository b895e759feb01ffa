"""Intervals: bootstrap, Wilson for shares, delete-a-group jackknife.

In torch throughout: numpy's and torch's threads, used by turns, slow each other down manifold.

Shapes: `draws` bootstrap resamples, `n` what is resampled, `groups` jackknife groups.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64
from scipy.special import stdtrit
from torch import Tensor

Z95 = 1.959963984540054  # two-sided 95% quantile of the standard normal


@lru_cache(maxsize=8)
def bootstrap_counts(n: int, draws: int, seed: int) -> Float64[Tensor, "draws n"]:
    """Return how often each of `n` things is in each bootstrap resample (Efron 1979)."""
    generator = np.random.default_rng([seed, n])
    counts = generator.multinomial(n, np.full(n, 1 / n), size=draws)
    return torch.from_numpy(counts).double()


def percentile_intervals(samples: Float64[Tensor, "draws k"]) -> list[tuple[float, float]]:
    """Return the central 95% of each column of bootstrap samples."""
    quantiles = torch.tensor([0.025, 0.975], dtype=samples.dtype)
    low, high = torch.quantile(samples, quantiles, dim=0).tolist()
    return list(zip(low, high, strict=True))


def percentile_interval(samples: Float64[Tensor, " draws"]) -> tuple[float, float]:
    """Return the central 95% of bootstrap samples."""
    return percentile_intervals(samples[:, None])[0]


def mean_interval(
    values: Float64[Tensor, " n"], draws: int, seed: int
) -> tuple[float, float] | tuple[None, None]:
    """Return the bootstrap interval of a mean; none for fewer than two values."""
    if len(values) < 2:
        return None, None
    return percentile_interval(bootstrap_counts(len(values), draws, seed) @ values / len(values))


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return the interval of a share of `n` (Wilson 1927), honest at 0 and 1 too.

    >>> [round(x, 3) for x in wilson_interval(1.0, 100)]
    [0.963, 1.0]
    """
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def jackknife_interval(
    estimate: float, left_out: Float64[Tensor, " groups"]
) -> tuple[float, float]:
    """Return the interval of an estimate from those with one group left out (Tukey 1958).

    By Student's t with one degree of freedom less than there are groups.
    """
    groups = len(left_out)
    variance = (groups - 1) / groups * float(((left_out - left_out.mean()) ** 2).sum())
    half = float(stdtrit(groups - 1, 0.975)) * math.sqrt(variance)
    return estimate - half, estimate + half
