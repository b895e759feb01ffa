"""Moments summed part by part, against numpy and scikit-learn on all cases at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from support.plain import Array

from algomatch.analysis.measures.cross_products import (
    Confounds,
    Cross,
    Representations,
    Residuals,
    centred_without_each,
)

GROUPS = 4


class Drawn(NamedTuple):
    """The columns of two sides, confounds including a constant, and each case's group."""

    left: Array
    right: Array
    confounds: Array
    group: np.ndarray[tuple[int], np.dtype[np.int64]]


def drawn(seed: int, n: int = 60) -> Drawn:
    generator = np.random.default_rng(seed)
    kind, place = generator.integers(3, size=n), generator.integers(4, size=n)
    one_hots = np.hstack([kind[:, None] == np.arange(3), place[:, None] == np.arange(5)])
    left = generator.normal(size=(n, 5)) + one_hots[:, :5] + 2
    right = left[:, :3] @ generator.normal(size=(3, 4)) + one_hots[:, 2:6] - 1
    design = np.hstack([one_hots, np.ones((n, 1))]).astype(np.float64)  # rank-deficient
    return Drawn(left, right, design, generator.integers(GROUPS, size=n))


SLICES = {"one": slice(0, 2), "other": slice(2, 5)}


def added_up(given_: Drawn, parts: int) -> tuple[Representations, Representations, Cross]:
    """Add the cases in parts, each sorted by group."""
    left, right, cross = (
        Representations(SLICES, 5),
        Representations({"site": slice(0, 4)}, 4),
        Cross(),
    )
    for rows in np.array_split(np.arange(len(given_.left)), parts):
        order = rows[np.argsort(given_.group[rows], kind="stable")]
        sizes = tuple(np.bincount(given_.group[rows], minlength=GROUPS).tolist())
        confounds = Confounds(torch.from_numpy(given_.confounds[order]), sizes)
        block, other = (torch.from_numpy(side[order]) for side in (given_.left, given_.right))
        left.add(block, confounds)
        right.add(other, confounds)
        cross.add(block, other, confounds)
    return left, right, cross


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.booleans())
def test_what_regression_leaves_is_scikit_learns(seed: int, parts: int, constant: bool) -> None:
    given_ = drawn(seed)
    left, right, cross = added_up(given_, parts)
    design = np.ones((60, 1)) if constant else given_.confounds[:, :-1]
    rests = [
        side - LinearRegression().fit(design, side).predict(design)
        for side in (given_.left, given_.right)
    ]
    residuals, other = Residuals(left, constant), Residuals(right, constant)
    products = residuals.with_(other, cross, slice(None)).numpy()
    for group in range(GROUPS):
        rows = given_.group == group
        assert int(residuals.counts[group]) == rows.sum()
        np.testing.assert_allclose(products[group], rests[0][rows].T @ rests[1][rows], atol=1e-8)
        np.testing.assert_allclose(residuals.sums[group], rests[0][rows].sum(0), atol=1e-8)
        for name, part in SLICES.items():
            wanted = rests[0][rows][:, part].T @ rests[0][rows][:, part]
            np.testing.assert_allclose(residuals.own(name)[group], wanted, atol=1e-8)
    for name, part in SLICES.items():
        assert residuals.energy(name) == pytest.approx((rests[0][:, part] ** 2).sum())
        assert residuals.raw_energy(name) == pytest.approx((given_.left[:, part] ** 2).sum())


def test_what_is_linear_in_the_confounds_has_no_energy_left() -> None:
    given_ = drawn(0)
    weights = np.random.default_rng(1).normal(size=(given_.confounds.shape[1], 5))
    left, _, _ = added_up(given_._replace(left=given_.confounds @ weights), 3)
    rest = Residuals(left)
    for name in SLICES:
        assert rest.energy(name) < 1e-13 * rest.raw_energy(name)
        assert Residuals(left, constant_only=True).energy(name) > 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 8), min_size=2, max_size=6))
def test_covariances_with_a_group_left_out_are_numpys_on_the_other_rows(
    seed: int, sizes: list[int]
) -> None:
    sizes = [*sizes, 2]  # at least two rows remain, whatever is left out
    generator, n = np.random.default_rng(seed), sum(sizes)
    x, y = generator.normal(size=(n, 3)) + 2, generator.normal(size=(n, 2)) - 1
    group = np.repeat(np.arange(len(sizes)), sizes)
    of = [group == g for g in range(len(sizes))]
    products = np.stack([x[rows].T @ y[rows] for rows in of])
    sums = [np.stack([side[rows].sum(0) for rows in of]) for side in (x, y)]
    counts = torch.tensor(sizes, dtype=torch.float64)
    got = centred_without_each(
        torch.from_numpy(products), torch.from_numpy(sums[0]), torch.from_numpy(sums[1]), counts
    )
    assert len(got) == len(sizes) + 1
    for left_out in range(len(sizes) + 1):  # the last leaves out nothing
        rows = group != left_out
        wanted = np.cov(np.hstack([x, y])[rows].T, bias=True) * rows.sum()
        np.testing.assert_allclose(got[left_out], wanted[:3, 3:], atol=1e-9)
