"""Intervals: bootstrap, Wilson for shares, delete-a-group jackknife, Student's t for seeds.

In torch throughout: numpy's and torch's threads, used by turns, slow each other down manifold.

Shapes: `draws` bootstrap resamples, `n` what is resampled, `groups` jackknife groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64, Shaped, UInt8
from scipy.special import stdtrit
from torch import Tensor

AT_ONCE = 100  # resamples: all of them at once, as doubles, would be large
Z95 = 1.959963984540054  # two-sided 95% quantile of the standard normal


@lru_cache(maxsize=16)
def bootstrap_counts(n: int, draws: int, seed: int) -> UInt8[Tensor, "draws n"]:
    """Return how often each of `n` things is in each bootstrap resample (Efron 1979)."""
    generator, chances = np.random.default_rng([seed, n]), np.full(n, 1 / n)
    counts = torch.empty(draws, n, dtype=torch.uint8)  # 256 of one thing are never drawn
    for at in range(0, draws, AT_ONCE):
        size = min(AT_ONCE, draws - at)
        counts[at : at + size] = torch.from_numpy(generator.multinomial(n, chances, size=size))
    return counts


def weighted_sums(
    counts: Shaped[Tensor, "draws n"], values: Float64[Tensor, "n k"]
) -> Float64[Tensor, "draws k"]:
    """Return the sums of values, each taken as often as it is counted, for each draw."""
    return torch.cat([some.double() @ values for some in torch.split(counts, AT_ONCE)])


def percentile_intervals(samples: Float64[Tensor, "draws k"]) -> list[tuple[float, float]]:
    """Return the central 95% of each column of bootstrap samples, linearly interpolated.

    The same as `torch.quantile`, without sorting what lies between.
    """
    draws = len(samples)
    place = 0.025 * (draws - 1)
    below, part = int(place), place - int(place)
    columns = samples.T.contiguous()
    count = min(below + 2, draws)

    def tail(largest: bool) -> Tensor:
        ordered = torch.topk(columns, count, dim=1, largest=largest).values
        return torch.lerp(ordered[:, below], ordered[:, min(below + 1, draws - 1)], part)

    return list(zip(tail(False).tolist(), tail(True).tolist(), strict=True))


def percentile_interval(samples: Float64[Tensor, " draws"]) -> tuple[float, float]:
    """Return the central 95% of bootstrap samples."""
    return percentile_intervals(samples[:, None])[0]


def mean_interval(
    values: Float64[Tensor, " n"], draws: int, seed: int
) -> tuple[float, float] | tuple[None, None]:
    """Return the bootstrap interval of a mean; none for fewer than two values."""
    if len(values) < 2:
        return None, None
    return percentile_interval(means_of_resamples(values, draws, seed))


def means_of_resamples(
    values: Float64[Tensor, " n"], draws: int, seed: int
) -> Float64[Tensor, " draws"]:
    """Return the mean of each bootstrap resample."""
    counts = bootstrap_counts(len(values), draws, seed)
    return weighted_sums(counts, values[:, None])[:, 0] / len(values)


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


def shares_difference(
    first: float, n_first: int, other: float, n_other: int
) -> tuple[float, float, float]:
    """Return one share less another, and its interval (Newcombe 1998, from Wilson's).

    >>> [round(x, 3) for x in shares_difference(0.9, 50, 0.5, 100)]
    [0.4, 0.251, 0.512]
    """
    low_first, high_first = wilson_interval(first, n_first)
    low_other, high_other = wilson_interval(other, n_other)
    difference = first - other
    below = math.hypot(first - low_first, high_other - other)
    above = math.hypot(high_first - first, other - low_other)
    return difference, max(-1.0, difference - below), min(1.0, difference + above)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of a mean by Student's t (1908); None for fewer than two values.

    For few independent values, as of seeds. It knows no bounds: that of shares may pass 1.
    """
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)
    return mean - half, mean + half
