"""When a neuron is on: a predicate over the features of a place, from a shallow decision tree.

The tree (Breiman et al. 1984, scikit-learn) tests codes of numerical features by thresholds and
those of others one value at a time. Its paths to "on" become a predicate: alternatives, each of
which asks of some features that their value is one of several. Tests that leave out no value, and
alternatives that differ in one feature only, are merged.

Shapes: `cells` different combinations of features, `columns` what the tree tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.tree import DecisionTreeClassifier

from ...data.interpreter import Value
from .position_features import UNKNOWN, Feature, FeatureCells, is_bos

NEAR_BEST = 0.001  # balanced accuracy that a shallower tree may lack
Clause = Mapping[int, frozenset[int]]  # by feature, the codes that it may have


@dataclass(frozen=True)
class Predicate:
    """Alternatives, one of which must hold: none of them is never, an empty one always.

    `domain` has, by feature, the codes that occur where it was fitted.
    """

    clauses: tuple[Clause, ...]
    domain: Mapping[int, frozenset[int]]

    def holds(self, codes: Int[np.ndarray, "cells features"]) -> Bool[np.ndarray, " cells"]:
        """Return the cells in which it holds."""
        inside = np.zeros(len(codes), dtype=bool)
        for clause in self.clauses:
            inside |= np.all(
                [np.isin(codes[:, at], list(allowed)) for at, allowed in clause.items()]
                or [np.ones(len(codes), dtype=bool)],
                axis=0,
            )
        return inside

    def asks(self, at: int) -> bool:
        """Return whether it tests a feature."""
        return any(at in clause for clause in self.clauses)

    def text(self, features: Sequence[Feature]) -> str:
        """Return the predicate in words."""
        if not self.clauses:
            return "never"
        return " or ".join(self._clause(clause, features) for clause in self.clauses)

    def _clause(self, clause: Clause, features: Sequence[Feature]) -> str:
        tests = [
            _test(features[at], allowed, self.domain[at]) for at, allowed in sorted(clause.items())
        ]
        return " and ".join(tests) or "always"


@dataclass(frozen=True)
class TreeTests:
    """What a tree may test of each cell: a feature's code, or whether it is one of its values."""

    values: Float[np.ndarray, "cells columns"]
    tests: tuple[tuple[int, int | None], ...]  # feature, and the code that it is compared with


def columns_of(cells: FeatureCells, told: bool = True) -> TreeTests:
    """Return what a tree may test: thresholds on numerical features, values of the others.

    Unless it is `told`, it may not test the program's output.
    """
    codes, tests = cells.codes.numpy(), list[tuple[int, int | None]]()
    for at, feature in enumerate(cells.features):
        if feature.output and not told:
            continue
        if feature.numerical:
            tests.append((at, None))
        else:
            tests += [(at, int(code)) for code in np.unique(codes[:, at])]
    values = [codes[:, at] if code is None else codes[:, at] == code for at, code in tests]
    return TreeTests(np.stack(values, axis=1).astype(np.float32), tuple(tests))


def fit(
    cells: FeatureCells,
    columns: TreeTests,
    on: Float[np.ndarray, " cells"],
    off: Float[np.ndarray, " cells"],
    depth: int,
) -> tuple[Predicate, int]:
    """Return the predicate fitted to how often each cell is on and off, and its depth.

    It is the shallowest tree, or the interval of one feature (a tree of depth 2), whose balanced
    accuracy on these counts is within `NEAR_BEST` of the best one's.
    """
    codes = cells.codes.numpy()
    domain = {at: frozenset(codes[:, at].tolist()) for at in range(codes.shape[1])}
    tree = fitted_tree(columns, on, off, depth)
    tried: list[tuple[Predicate, int]] = []
    for level in range(1, tree.get_depth() + 1):
        clauses = _clauses(tree.tree_, tree.classes_, columns, domain, level)
        tried.append((Predicate(tuple(clauses), domain), level))
    if not tried:  # one class, or nothing to tell them by
        majority = tree.classes_[tree.tree_.value[0].ravel().argmax()]
        return Predicate(({},) if majority == 1 else (), domain), 0
    if depth > 1:
        tried.insert(1, (Predicate((_interval(cells, columns, on, off),), domain), 2))
    scores = [balanced(on, off, predicate.holds(codes)) for predicate, _ in tried]
    return tried[next(at for at, score in enumerate(scores) if score >= max(scores) - NEAR_BEST)]


def fitted_tree(
    columns: TreeTests,
    on: Float[np.ndarray, " cells"],
    off: Float[np.ndarray, " cells"],
    depth: int,
) -> DecisionTreeClassifier:
    """Return the tree fitted to how often each cell is on (1) and off (0), both weighing the same.

    A tree of less depth is its upper part.
    """
    weights = np.concatenate([on / max(on.sum(), 1), off / max(off.sum(), 1)])
    there, classes = weights > 0, np.repeat([1, 0], len(on))
    tree = DecisionTreeClassifier(max_depth=depth, random_state=0)
    values = np.concatenate([columns.values, columns.values])[there]
    return tree.fit(values, classes[there], sample_weight=weights[there])


def _interval(
    cells: FeatureCells,
    columns: TreeTests,
    on: Float[np.ndarray, " cells"],
    off: Float[np.ndarray, " cells"],
) -> Clause:
    """Return the interval of values of one numerical feature that tells on from off best."""
    best, clause = -1.0, {0: frozenset[int]()}
    for at in [at for at, code in columns.tests if code is None]:
        feature = cells.features[at]
        codes = cells.codes[:, at].numpy() + 1  # 0 is UNKNOWN
        size = len(feature.values) + 1
        share = [
            np.concatenate([[0], np.cumsum(np.bincount(codes, counts, size))])
            / max(counts.sum(), 1)
            for counts in (on, off)
        ]
        gain = share[0] - share[1]
        inside = gain[None, :] - gain[:, None]  # of the codes from row to column
        low, high = np.unravel_index(np.triu(inside, 1).argmax(), inside.shape)
        if inside[low, high] > best:
            best = inside[low, high]
            clause = {at: frozenset(range(int(low) - 1, int(high) - 1))}
    return clause


def balanced(
    on: Float[np.ndarray, " cells"],
    off: Float[np.ndarray, " cells"],
    holds: Bool[np.ndarray, " cells"],
) -> float:
    """Return the mean of the share of "on" where it holds and of "off" where not; nan of one."""
    if not on.sum() or not off.sum():
        return float("nan")
    return float(on[holds].sum() / on.sum() + off[~holds].sum() / off.sum()) / 2


def _clauses(
    tree: Any,
    classes: np.ndarray,
    columns: TreeTests,
    domain: Mapping[int, frozenset[int]],
    depth: int,
) -> list[dict[int, frozenset[int]]]:
    """Return the paths of a tree, cut at a depth, to nodes that say "on"."""

    def walk(node: int, left: int, path: dict[int, frozenset[int]]) -> Iterator[dict[int, Any]]:
        if left == 0 or tree.children_left[node] < 0:
            if classes[tree.value[node].ravel().argmax()] == 1:
                yield path
            return
        at, code = columns.tests[tree.feature[node]]
        have = path.get(at, domain[at])
        if code is None:
            below = frozenset(value for value in have if value <= tree.threshold[node])
        else:
            below = have - {code}
        for child, kept in (
            (tree.children_left[node], below),
            (tree.children_right[node], have - below),
        ):
            if kept:
                yield from walk(int(child), left - 1, {**path, at: kept})

    return list(walk(0, depth, {}))


def simplified(predicate: Predicate, codes: Int[np.ndarray, "cells features"]) -> Predicate:
    """Return a predicate that holds in the same of some cells, with as few tests as can be had.

    Its domain is what occurs in these cells.
    """
    domain = {at: frozenset(codes[:, at].tolist()) for at in range(codes.shape[1])}
    wanted = predicate.holds(codes)
    clauses = [
        {at: allowed & domain[at] for at, allowed in clause.items()} for clause in predicate.clauses
    ]
    merged = _merged(
        [clause for clause in clauses if Predicate((clause,), domain).holds(codes).any()]
    )

    def same(tried: list[Clause]) -> bool:
        return bool((Predicate(tuple(tried), domain).holds(codes) == wanted).all())

    for at in reversed(range(len(merged))):
        if same(merged[:at] + merged[at + 1 :]):
            del merged[at]
    for at, clause in enumerate(merged):
        for feature in sorted(clause, reverse=True):
            shorter = {other: allowed for other, allowed in merged[at].items() if other != feature}
            if same([*merged[:at], shorter, *merged[at + 1 :]]):
                merged[at] = shorter
    return Predicate(tuple(_merged(merged)), domain)


def _merged(clauses: Sequence[Clause]) -> list[Clause]:
    """Return alternatives with those that differ in one feature joined, until there are none."""
    alternatives = list(clauses)
    while True:
        pairs = combinations(alternatives, 2)
        joined = next((merge for pair in pairs if (merge := _joined(*pair)) is not None), None)
        if joined is None:
            return alternatives
        whole, parts = joined
        alternatives = [clause for clause in alternatives if clause not in parts] + [whole]


def _joined(clause: Clause, other: Clause) -> tuple[Clause, tuple[Clause, Clause]] | None:
    if clause.keys() != other.keys():
        return None
    apart = [at for at in clause if clause[at] != other[at]]
    if len(apart) > 1:
        return None
    whole = {at: allowed | other[at] for at, allowed in clause.items()}
    return whole, (clause, other)


def _test(feature: Feature, allowed: frozenset[int], domain: frozenset[int]) -> str:
    """Return in words that a feature's value is one of those allowed, of those that occur."""
    missing = frozenset([UNKNOWN])
    if domain & missing:
        if allowed == missing:
            return f"{feature.name} is undefined"
        known = _known(feature, allowed - missing, domain - missing)
        if not allowed & missing:
            return known if allowed != domain - missing else f"{feature.name} is defined"
        return f"({known} or undefined)"
    return _known(feature, allowed, domain)


def _known(feature: Feature, allowed: frozenset[int], domain: frozenset[int]) -> str:
    rest = domain - allowed
    if not rest:
        return f"{feature.name} is anything"
    if feature.numerical and len(allowed) > 1 and len(domain) > 2:
        if max(allowed) < min(rest):
            return f"{feature.name} <= {_value(feature, max(allowed))}"
        if min(allowed) > max(rest):
            return f"{feature.name} > {_value(feature, max(rest))}"
        between = [code for code in domain if min(allowed) <= code <= max(allowed)]
        if len(between) == len(allowed):
            low, high = _value(feature, min(allowed)), _value(feature, max(allowed))
            return f"{low} <= {feature.name} <= {high}"
    if len(rest) < len(allowed):
        return f"{feature.name} is not {_values(feature, rest)}"
    return f"{feature.name} is {_values(feature, allowed)}"


def _values(feature: Feature, codes: frozenset[int]) -> str:
    return " or ".join(_value(feature, code) for code in sorted(codes))


def _value(feature: Feature, code: int) -> str:
    value: Value = feature.values[code]
    return "BOS" if is_bos(value) else repr(value)
