"""Predicates predict what scikit-learn's trees predict, without redundant tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tasks import small_inputs

from algomatch.analysis.explain.position_features import FeatureCells, cells, features
from algomatch.analysis.explain.predicates import (
    Predicate,
    balanced,
    columns_of,
    fit,
    fitted_tree,
    simplified,
)

PROGRAMS = ("reverse", "hist", "sort", "most_freq", "induction")
CELLS: dict[str, FeatureCells] = {}


def cells_of(program: str) -> FeatureCells:
    if program not in CELLS:
        inputs = small_inputs(program)
        CELLS[program] = cells(inputs, features(inputs))
    return CELLS[program]


def at(places: FeatureCells, name: str) -> int:
    return next(place for place, feature in enumerate(places.features) if feature.name == name)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PROGRAMS), st.integers(0, 2**31), st.integers(1, 3), st.floats(0.05, 0.95))
def test_the_predicate_predicts_what_the_tree_predicts(
    program: str, seed: int, depth: int, share: float
) -> None:
    places, generator = cells_of(program), np.random.default_rng(seed)
    n = len(places.codes)
    truth = places.codes[:, generator.integers(places.codes.shape[1])].numpy() <= 1
    truth = np.where(generator.random(n) < 0.2, generator.random(n) < share, truth)
    counts = generator.integers(0, 5, n).astype(float)
    on, off = counts * truth, counts * ~truth
    if not on.sum() or not off.sum():
        return
    columns = columns_of(places)
    predicate, level = fit(places, columns, on, off, depth)
    assert level <= depth
    holds = predicate.holds(places.codes.numpy())
    tree = fitted_tree(columns, on, off, level)
    said = tree.predict(columns.values) == 1
    if (
        level == depth
        and tree.get_depth() == level
        and balanced(on, off, said) == balanced(on, off, holds)
    ):
        assert ((holds == said) | (counts == 0)).mean() > 0.5
    best = fitted_tree(columns, on, off, depth).predict(columns.values) == 1
    assert balanced(on, off, holds) >= balanced(on, off, best) - 0.001 - 1e-12
    shorter = simplified(predicate, places.codes.numpy())
    assert (shorter.holds(places.codes.numpy()) == holds).all()
    assert sum(map(len, shorter.clauses)) <= sum(map(len, predicate.clauses)) or not holds.all()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PROGRAMS), st.integers(0, 2**31), st.integers(1, 3))
def test_the_parts_of_a_tree_predict_what_the_tree_predicts(
    program: str, seed: int, depth: int
) -> None:
    from algomatch.analysis.explain import predicates

    places, generator = cells_of(program), np.random.default_rng(seed)
    on = generator.integers(0, 4, len(places.codes)).astype(float)
    off = generator.integers(0, 4, len(places.codes)).astype(float)
    columns, codes = columns_of(places), places.codes.numpy()
    tree = fitted_tree(columns, on, off, 3)
    domain = {place: frozenset(codes[:, place].tolist()) for place in range(codes.shape[1])}
    clauses = predicates._clauses(tree.tree_, tree.classes_, columns, domain, depth)
    predicate = Predicate(tuple(clauses), domain)
    cut = fitted_tree(columns, on, off, depth)
    if depth == 3:
        assert (predicate.holds(codes) == (cut.predict(columns.values) == 1)).all()
    else:
        own = balanced(on, off, cut.predict(columns.values) == 1)
        assert balanced(on, off, predicate.holds(codes)) == pytest.approx(own, abs=0.05)


@pytest.mark.parametrize(
    ("program", "name", "codes", "text", "depth"),
    [
        ("reverse", "length", {2, 3}, "length > 2", 1),
        ("reverse", "length", {0, 1}, "length <= 2", 1),
        ("reverse", "index", {2}, "index is 1", 2),
        ("reverse", "index", {2, 3}, "1 <= index <= 2", 2),
        ("reverse", "token", {2}, "token is 'b'", 1),
        ("sort", "place", {1}, "place is 1", 2),
    ],
)
def test_a_predicate_reads_as_a_sentence(
    program: str, name: str, codes: set[int], text: str, depth: int
) -> None:
    places = cells_of(program)
    place = at(places, name)
    if name == "place":
        codes = {places.features[place].values.index(1)}
    listed = places.codes[:, at(places, "index")].numpy() > 0
    truth = np.isin(places.codes[:, place].numpy(), list(codes)) & listed
    if name == "token":
        code = places.features[place].values.index("b")
        truth = (places.codes[:, place].numpy() == code) & listed
    predicate, level = fit(places, columns_of(places), truth * 1.0, ~truth * listed * 1.0, 3)
    assert level == depth
    shorter = simplified(predicate, places.codes.numpy()[listed])
    assert shorter.text(places.features) == text


def test_redundant_tests_are_left_out() -> None:
    places = cells_of("reverse")
    codes = places.codes.numpy()
    length, opposite = at(places, "length"), at(places, "opp_idx")
    domain = {place: frozenset(codes[:, place].tolist()) for place in range(codes.shape[1])}
    longest = max(domain[length])
    given = Predicate(
        (
            {length: frozenset([longest]), opposite: domain[opposite]},
            {length: frozenset([longest - 1])},
            {length: frozenset([longest]), opposite: frozenset([1])},
        ),
        domain,
    )
    assert simplified(given, codes).text(places.features) == "length > 2"


def test_nothing_to_tell_by_is_always_or_never() -> None:
    places = cells_of("reverse")
    some, none = np.ones(len(places.codes)), np.zeros(len(places.codes))
    for on, off, text in ((some, none, "always"), (none, some, "never")):
        predicate, depth = fit(places, columns_of(places), on, off, 3)
        assert depth == 0
        assert predicate.text(places.features) == text
        assert predicate.holds(places.codes.numpy()).all() == (text == "always")


@pytest.mark.parametrize(
    ("codes", "text"),
    [
        ({-1}, "induction is undefined"),
        ({0, 1, 2}, "induction is defined"),
        ({0}, "induction is 'a'"),
        ({-1, 0}, "(induction is 'a' or undefined)"),
    ],
)
def test_an_undefined_value_is_said_to_be(codes: set[int], text: str) -> None:
    places = cells_of("induction")
    place = at(places, "induction")
    domain = {
        each: frozenset(places.codes[:, each].tolist()) for each in range(len(places.features))
    }
    assert domain[place] == {-1, 0, 1, 2}
    predicate = Predicate(({place: frozenset(codes)},), domain)
    assert predicate.text(places.features) == text
    assert (
        predicate.holds(places.codes.numpy()) == np.isin(places.codes[:, place], list(codes))
    ).all()


def test_without_being_told_no_test_is_of_the_output() -> None:
    places = cells_of("hist")
    output = at(places, "hist")
    truth = places.codes[:, output].numpy() > 0
    for told in (True, False):
        predicate, _ = fit(places, columns_of(places, told), truth * 1.0, ~truth * 1.0, 3)
        assert predicate.asks(output) == told


def test_balanced_accuracy_is_the_mean_of_both_recalls() -> None:
    holds = np.array([True, True, False, False])
    on, off = np.array([3.0, 1.0, 1.0, 0.0]), np.array([0.0, 2.0, 1.0, 7.0])
    assert balanced(on, off, holds) == pytest.approx((4 / 5 + 8 / 10) / 2)
    assert np.isnan(balanced(on, 0 * off, holds))
    assert torch.is_tensor(cells_of("hist").codes)
