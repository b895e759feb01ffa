"""Sums of products of two sides' columns, added up part by part: all that linear measures need.

One side is the program's (its variables, the reference's sites), the other a model's sites. The
sums are kept for each jackknife group, together with those of the confounds, so that confounds can
be regressed out afterwards without the activations.

Shapes: `cases` (input, position) pairs sorted by group, `groups` jackknife groups, `left_out` the
estimates with each group left out and, last, of all; `b` confounds, `k`, `d` columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Confounds:
    """Confounds at the cases of a part, the constant last, and how many cases each group has."""

    columns: Float64[Tensor, "cases b"]
    sizes: tuple[int, ...]

    def by_group(self, values: Float64[Tensor, "cases k"]) -> Sequence[Float64[Tensor, "group k"]]:
        """Return the rows of each group."""
        return torch.split_with_sizes(values, list(self.sizes))


ColumnIndex = slice | Int64[Tensor, " columns"]  # where a representation's columns are


class Representations:
    """One side's representations: where each one's columns are, and their products.

    Representations may share columns.
    """

    def __init__(self, places: Mapping[str, ColumnIndex], width: int):
        self.places, self.width = dict(places), width
        self.confounds: Tensor | None = None  # groups b b
        self.with_confounds: Tensor | None = None  # groups b k
        self.own: dict[str, Tensor] = {}  # groups k k

    def columns(
        self, parts: Iterable[Shaped[Tensor, "cases columns"]], order: Int64[Tensor, " cases"]
    ) -> Float64[Tensor, "cases k"]:
        """Return columns side by side, the cases in an order; in one piece, for they are many."""
        matrix, start = torch.empty(len(order), self.width, dtype=torch.float64), 0
        for part in parts:
            matrix[:, start : start + part.shape[1]] = part[order]
            start += part.shape[1]
        return matrix

    def add(self, values: Float64[Tensor, "cases k"], confounds: Confounds) -> None:
        """Take in the cases of a part."""
        groups = confounds.by_group(values)
        theirs = confounds.by_group(confounds.columns)
        self.confounds = _added(self.confounds, theirs, theirs)
        self.with_confounds = _added(self.with_confounds, theirs, groups)
        for name, part in self.places.items():
            columns = [group[:, part] for group in groups]
            self.own[name] = _added(self.own.get(name), columns, columns)


def _added(
    total: Tensor | None, left: Sequence[Tensor], right: Sequence[Tensor]
) -> Float64[Tensor, "groups k d"]:
    """Return the sums of products with those of more cases, in place: they may be large."""
    if total is None:
        total = left[0].new_zeros(len(left), left[0].shape[1], right[0].shape[1])
    for sums, x, y in zip(total, left, right, strict=True):
        sums.addmm_(x.T, y)
    return total


class Cross:
    """The products of a left side's columns with a right side's."""

    def __init__(self) -> None:
        self.products: Tensor | None = None  # groups k d

    def add(
        self,
        left: Float64[Tensor, "cases k"],
        right: Float64[Tensor, "cases d"],
        confounds: Confounds,
    ) -> None:
        """Take in the cases of a part."""
        groups = confounds.by_group(left), confounds.by_group(right)
        self.products = _added(self.products, *groups)


class Residuals:
    """A side with confounds regressed out (all of them, or the constant only: centred).

    The regression is on all cases; it is not refitted where a group is left out.
    """

    def __init__(self, side: Representations, constant_only: bool = False):
        assert side.confounds is not None
        assert side.with_confounds is not None
        keep = slice(-1, None) if constant_only else slice(None)
        self._side = side
        self._bb, self._bx = side.confounds[:, keep, keep], side.with_confounds[:, keep]
        inverse = torch.linalg.pinv(self._bb.sum(0), rtol=1e-12, hermitian=True)
        self.weights = inverse @ self._bx.sum(0)
        self._rest = self._bx - self._bb @ self.weights  # confounds with residuals
        self.counts: Float64[Tensor, " groups"] = self._bb[:, -1, -1]
        self.sums: Float64[Tensor, "groups k"] = self._rest[:, -1]
        self._totals: dict[str, Tensor] = {}  # of all groups: those of each would be large

    def own(self, name: str) -> Float64[Tensor, "groups k k"]:
        """Return a representation's products with itself, by group."""
        part = self._side.places[name]
        weights = self.weights[:, part]
        products = self._side.own[name] - self._bx[:, :, part].mT @ weights
        rest: Tensor = products - weights.T @ self._rest[:, :, part]
        return rest

    def total(self, name: str) -> Float64[Tensor, "k k"]:
        """Return a representation's products with itself, of all groups."""
        if name not in self._totals:
            self._totals[name] = self.own(name).sum(0)
        return self._totals[name]

    def with_(
        self, other: Residuals, cross: Cross, part: ColumnIndex
    ) -> Float64[Tensor, "groups k part"]:
        """Return this (left) side's products with some columns of another (right) one's, by group.

        A part at a time, for the products of all are large.
        """
        assert cross.products is not None
        products = cross.products[:, :, part] - self._bx.mT @ other.weights[:, part]
        rest: Tensor = products.sub_(self.weights.T @ other._rest[:, :, part])
        return rest

    def total_with(self, other: Residuals, cross: Cross) -> Float64[Tensor, "k d"]:
        """Return this (left) side's products with another (right) one's, of all groups."""
        assert cross.products is not None
        products = cross.products.sum(0) - self._bx.sum(0).T @ other.weights
        rest: Tensor = products - self.weights.T @ other._rest.sum(0)
        return rest

    def energy(self, name: str) -> float:
        """Return the sum of squares of what is left of a representation."""
        return max(0.0, float(self.total(name).diagonal().sum()))

    def raw_energy(self, name: str) -> float:
        """Return the sum of squares of a representation as it is."""
        return float(self._side.own[name].sum(0).diagonal().sum())


def centred_without_each(
    products: Float64[Tensor, "groups k d"],
    left: Float64[Tensor, "groups k"],
    right: Float64[Tensor, "groups d"],
    counts: Float64[Tensor, " groups"],
) -> Float64[Tensor, "left_out k d"]:
    """Return n times the covariance with each group left out, and last of all groups."""

    def without_each(sums: Tensor) -> Tensor:
        whole = sums.sum(0, keepdim=True)
        return torch.cat([whole - sums, whole])

    n = without_each(counts).clamp(min=1)[:, None, None]
    lefts, rights = without_each(left), without_each(right)
    return without_each(products).baddbmm_(lefts[:, :, None], (rights[:, None, :] / n), alpha=-1)
