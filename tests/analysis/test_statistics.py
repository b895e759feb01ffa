"""Intervals against scipy, numpy and published tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algomatch.analysis.statistics import (
    Z95,
    bootstrap_counts,
    jackknife_interval,
    mean_interval,
    percentile_interval,
    percentile_intervals,
    shares_difference,
    wilson_interval,
)

shares = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=60, deadline=None)
@given(shares)
def test_the_wilson_interval_is_scipys(counted: tuple[int, int]) -> None:
    k, n = counted
    expected = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.integers(1, 10**9))
def test_the_wilson_interval_lies_within_0_and_1_and_contains_the_share(
    share: float, n: int
) -> None:
    low, high = wilson_interval(share, n)
    assert 0 <= low <= share <= high <= 1
    assert low < high


def test_z95_is_the_normal_quantile() -> None:
    assert pytest.approx(scipy.stats.norm.ppf(0.975), abs=1e-12) == Z95


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 2**31))
def test_every_resample_draws_n_things(n: int, draws: int, seed: int) -> None:
    counts = bootstrap_counts(n, draws, seed)
    assert counts.shape == (draws, n)
    assert counts.dtype == torch.uint8
    assert (counts.sum(-1) == n).all()


def test_resamples_come_from_the_seed_alone() -> None:
    first = bootstrap_counts(50, 20, 3).clone()
    bootstrap_counts.cache_clear()
    torch.manual_seed(12)
    assert torch.equal(bootstrap_counts(50, 20, 3), first)
    assert not torch.equal(bootstrap_counts(50, 20, 4), first)


def test_each_thing_is_drawn_as_often_as_in_a_multinomial() -> None:
    n, draws = 40, 20_000
    counts = bootstrap_counts(n, draws, 0).double()
    variance = 1 - 1 / n
    assert counts.mean(0).numpy() == pytest.approx(np.ones(n), abs=5 * (variance / draws) ** 0.5)
    assert counts.var(0).numpy() == pytest.approx(np.full(n, variance), rel=0.1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_the_percentile_interval_is_numpys(values: list[float]) -> None:
    low, high = percentile_interval(torch.tensor(values, dtype=torch.float64))
    assert (low, high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), rel=1e-9)


@pytest.mark.parametrize("n", [8, 150])
def test_the_interval_of_a_mean_is_scipys_percentile_bootstrap(n: int) -> None:
    values = np.random.default_rng(n).exponential(size=n)
    drawn = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    )
    expected = drawn.confidence_interval
    low, high = mean_interval(torch.from_numpy(values), draws=10_000, seed=0)
    assert low is not None
    assert high is not None
    # Both ends are Monte Carlo estimates. They differ by about 0.04 standard errors.
    tolerance = 0.15 * drawn.standard_error
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=tolerance)


def test_the_interval_of_a_mean_covers_it_95_times_in_100() -> None:
    generator, covered, trials = np.random.default_rng(5), 0, 200
    for trial in range(trials):
        values = torch.from_numpy(generator.normal(3.0, 2.0, size=60))
        low, high = mean_interval(values, draws=1000, seed=trial % 5)
        assert low is not None
        assert high is not None
        covered += low <= 3.0 <= high
    assert scipy.stats.binomtest(covered, trials, 0.95).pvalue > 1e-3


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_values_have_no_interval(n: int) -> None:
    assert mean_interval(torch.ones(n, dtype=torch.float64), draws=10, seed=0) == (None, None)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(0, 1000))
def test_the_jackknife_of_a_mean_is_the_textbook_t_interval(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=n)
    left_out = torch.from_numpy((values.sum() - values) / (n - 1))
    low, high = jackknife_interval(float(values.mean()), left_out)
    half = scipy.stats.t.ppf(0.975, n - 1) * scipy.stats.sem(values)
    assert low == pytest.approx(values.mean() - half, abs=1e-10)
    assert high == pytest.approx(values.mean() + half, abs=1e-10)


def test_the_jackknife_of_a_constant_has_no_width() -> None:
    low, high = jackknife_interval(0.5, torch.full((20,), 0.5, dtype=torch.float64))
    assert math.isclose(low, 0.5)
    assert math.isclose(high, 0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 1000), st.integers(1, 6), st.booleans(), st.integers(0, 2**31))
def test_percentile_intervals_are_torchs_quantiles(
    draws: int, columns: int, tied: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    values = torch.from_numpy(generator.normal(size=(draws, columns)))
    values = values.round() if tied else values
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    intervals = percentile_intervals(values)
    assert [lower for lower, _ in intervals] == pytest.approx(low.tolist(), abs=1e-12)
    assert [other for _, other in intervals] == pytest.approx(high.tolist(), abs=1e-12)


@pytest.mark.parametrize(
    ("hits", "n", "other", "n_other", "wanted"),
    [  # Newcombe 1998, Table II, method 10
        (56, 70, 48, 80, (0.0524, 0.3339)),
        (9, 10, 3, 10, (0.1705, 0.8090)),
        (6, 7, 2, 7, (0.0582, 0.8062)),
        (5, 56, 0, 29, (-0.0381, 0.1926)),
        (0, 10, 0, 20, (-0.1611, 0.2775)),
        (0, 10, 0, 10, (-0.2775, 0.2775)),
        (10, 10, 0, 20, (0.6791, 1.0)),
        (10, 10, 0, 10, (0.6075, 1.0)),
    ],
)
def test_the_interval_of_a_difference_of_shares_is_newcombes(
    hits: int, n: int, other: int, n_other: int, wanted: tuple[float, float]
) -> None:
    value, low, high = shares_difference(hits / n, n, other / n_other, n_other)
    assert value == pytest.approx(hits / n - other / n_other)
    assert (low, high) == pytest.approx(wanted, abs=5e-5)


@settings(max_examples=40, deadline=None)
@given(shares, shares)
def test_a_difference_of_shares_turns_its_sign_with_its_sides(
    share: tuple[int, int], other: tuple[int, int]
) -> None:
    (k, n), (k_other, n_other) = share, other
    value, low, high = shares_difference(k / n, n, k_other / n_other, n_other)
    assert -1 <= low <= value <= high <= 1
    assert low < high
    turned = shares_difference(k_other / n_other, n_other, k / n, n)
    assert turned == pytest.approx((-value, -high, -low), abs=1e-12)
