"""Similarities of representations against scipy and numpy, and their invariances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import plain
from support.models import orthogonal
from support.plain import Array

from algomatch.analysis.measures import representations
from algomatch.analysis.measures.representations import distance_ranks, linear_cka

seeds = st.integers(0, 2**31)


def drawn(seed: int, n: int = 40) -> tuple[Array, Array]:
    """Return two uncentred representations of `n` cases that share some dimensions."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, generator.integers(1, 6))) + 3
    mixed = x @ generator.normal(size=(x.shape[1], 4))
    return x, mixed + generator.uniform(0.1, 3) * generator.normal(size=mixed.shape)


def cka(x: Array, y: Array) -> float:
    return linear_cka(torch.from_numpy(x), torch.from_numpy(y))


def covariances(x: Array, y: Array) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    centred, other = (torch.from_numpy(side - side.mean(0)) for side in (x, y))
    return centred.T @ other, centred.T @ centred, other.T @ other


def from_covariances(name: str) -> Callable[[Array, Array], float]:
    def of(x: Array, y: Array) -> float:
        return float(getattr(representations, name)(*covariances(x, y)))

    return of


def rsa(x: Array, y: Array) -> float:
    return representations.rsa(*(distance_ranks(torch.from_numpy(side)) for side in (x, y)))


MEASURES: dict[str, tuple[Callable[[Array, Array], float], Callable[[Array, Array], float]]] = {
    "CKA": (cka, plain.gram_cka),
    "CKA of covariances": (from_covariances("cka"), plain.gram_cka),
    "Procrustes": (from_covariances("procrustes"), plain.procrustes),
    "SVCCA": (from_covariances("svcca"), plain.svcca),
    "RSA": (rsa, plain.rsa),
}


@pytest.mark.parametrize("name", MEASURES)
@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_a_similarity_is_what_numpy_and_scipy_say(name: str, seed: int) -> None:
    ours, theirs = MEASURES[name]
    x, y = drawn(seed)
    assert ours(x, y) == pytest.approx(theirs(x, y), abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
@settings(max_examples=25, deadline=None)
@given(seed=seeds, scale=st.floats(1e-2, 1e2))
def test_a_similarity_knows_itself_turned_shifted_scaled_and_reordered(
    name: str, seed: int, scale: float
) -> None:
    measure, _ = MEASURES[name]
    x, y = drawn(seed)
    wanted = measure(x, y)
    assert -1 <= wanted <= 1 + 1e-9
    assert measure(x, x) == pytest.approx(1, abs=1e-6)
    assert measure(y, x) == pytest.approx(wanted, abs=1e-6)
    order = np.random.default_rng(seed).permutation(len(x))
    assert measure(x[order], y[order]) == pytest.approx(wanted, abs=1e-6)
    moved = scale * y @ orthogonal(seed, y.shape[1]) - 5
    assert measure(x, moved) == pytest.approx(wanted, abs=1e-5)
    units = np.random.default_rng(seed).permutation(y.shape[1])
    assert measure(x, y[:, units]) == pytest.approx(wanted, abs=1e-6)


def test_linear_cka_of_one_column_each_is_the_squared_correlation() -> None:
    x, y = (part[:, :1] for part in drawn(3))
    assert cka(x, y) == pytest.approx(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=3, max_size=20))
def test_equal_distances_share_their_mean_rank(places: list[int]) -> None:
    points = np.array(places, dtype=np.float64)[:, None]
    pairs = [abs(a - b) for i, a in enumerate(places) for b in places[i + 1 :]]
    ranks = scipy.stats.rankdata(pairs)
    got = distance_ranks(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(got, ranks - ranks.mean(), atol=1e-9)


def test_distances_that_differ_by_rounding_are_equal() -> None:
    generator = np.random.default_rng(0)
    points = generator.integers(4, size=(30, 1)).astype(np.float64)
    noisy = points + 1e-9 * generator.normal(size=points.shape)
    ranks, other = (distance_ranks(torch.from_numpy(side)) for side in (points, noisy))
    assert torch.equal(ranks, other)


def test_where_all_cases_are_alike_distances_say_nothing() -> None:
    same, x = np.ones((12, 3)), drawn(0, 12)[0]
    assert rsa(same, x) == rsa(same, same) == 0


def test_svcca_leaves_out_what_is_one_percent_of_the_variance() -> None:
    generator = np.random.default_rng(0)
    u, _ = np.linalg.qr(generator.normal(size=(60, 4)))
    u -= u.mean(0)
    x = u[:, :1] + 0.05 * u[:, 1:2]
    strong, weak = np.hstack([u[:, :1], 0.02 * u[:, 1:2]]), np.hstack([u[:, :1], 0.5 * u[:, 1:2]])
    kept = [representations.whitening(covariances(x, side)[2]).shape[1] for side in (strong, weak)]
    assert kept == [1, 2]
