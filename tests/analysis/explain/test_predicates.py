"""Predicates say what scikit-learn's trees say, and no more than is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tasks import small_inputs

from algomatch.analysis.explain.position_features import Cells, cells, features
from algomatch.analysis.explain.predicates import (
    Predicate,
    balanced,
    columns_of,
    fit,
    fitted_tree,
    simplified,
)

PROGRAMS = ("reverse", "hist", "sort", "most_freq", "induction")
CELLS: dict[str, Cells] = {}


def cells_of(program: str) -> Cells:
    if program not in CELLS:
        inputs = small_inputs(program)
        CELLS[program] = cells(inputs, features(inputs))
    return CELLS[program]


def at(found: Cells, name: str) -> int:
    return next(place for place, one in enumerate(found.features) if one.name == name)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PROGRAMS), st.integers(0, 2**31), st.integers(1, 3), st.floats(0.05, 0.95))
def test_the_predicate_predicts_what_the_tree_predicts(
    program: str, seed: int, depth: int, share: float
) -> None:
    found, generator = cells_of(program), np.random.default_rng(seed)
    n = len(found.codes)
    truth = found.codes[:, generator.integers(found.codes.shape[1])].numpy() <= 1
    truth = np.where(generator.random(n) < 0.2, generator.random(n) < share, truth)
    counts = generator.integers(0, 5, n).astype(float)
    on, off = counts * truth, counts * ~truth
    if not on.sum() or not off.sum():
        return
    columns = columns_of(found)
    predicate, level = fit(found, columns, on, off, depth)
    assert level <= depth
    holds = predicate.holds(found.codes.numpy())
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
    shorter = simplified(predicate, found.codes.numpy())
    assert (shorter.holds(found.codes.numpy()) == holds).all()
    assert sum(map(len, shorter.clauses)) <= sum(map(len, predicate.clauses)) or not holds.all()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PROGRAMS), st.integers(0, 2**31), st.integers(1, 3))
def test_the_parts_of_a_tree_predict_what_the_tree_predicts(
    program: str, seed: int, depth: int
) -> None:
    from algomatch.analysis.explain import predicates

    found, generator = cells_of(program), np.random.default_rng(seed)
    on = generator.integers(0, 4, len(found.codes)).astype(float)
    off = generator.integers(0, 4, len(found.codes)).astype(float)
    columns, codes = columns_of(found), found.codes.numpy()
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
    found = cells_of(program)
    place = at(found, name)
    if name == "place":
        codes = {found.features[place].values.index(1)}
    listed = found.codes[:, at(found, "index")].numpy() > 0
    truth = np.isin(found.codes[:, place].numpy(), list(codes)) & listed
    if name == "token":
        code = found.features[place].values.index("b")
        truth = (found.codes[:, place].numpy() == code) & listed
    predicate, level = fit(found, columns_of(found), truth * 1.0, ~truth * listed * 1.0, 3)
    assert level == depth
    shorter = simplified(predicate, found.codes.numpy()[listed])
    assert shorter.text(found.features) == text


def test_redundant_tests_are_left_out() -> None:
    found = cells_of("reverse")
    codes = found.codes.numpy()
    length, opposite = at(found, "length"), at(found, "opp_idx")
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
    assert simplified(given, codes).text(found.features) == "length > 2"


def test_nothing_to_tell_by_is_always_or_never() -> None:
    found = cells_of("reverse")
    some, none = np.ones(len(found.codes)), np.zeros(len(found.codes))
    for on, off, text in ((some, none, "always"), (none, some, "never")):
        predicate, depth = fit(found, columns_of(found), on, off, 3)
        assert depth == 0
        assert predicate.text(found.features) == text
        assert predicate.holds(found.codes.numpy()).all() == (text == "always")


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
    found = cells_of("induction")
    place = at(found, "induction")
    domain = {each: frozenset(found.codes[:, each].tolist()) for each in range(len(found.features))}
    assert domain[place] == {-1, 0, 1, 2}
    one = Predicate(({place: frozenset(codes)},), domain)
    assert one.text(found.features) == text
    assert (one.holds(found.codes.numpy()) == np.isin(found.codes[:, place], list(codes))).all()


def test_without_being_told_no_test_is_of_the_output() -> None:
    found = cells_of("hist")
    output = at(found, "hist")
    truth = found.codes[:, output].numpy() > 0
    for told in (True, False):
        predicate, _ = fit(found, columns_of(found, told), truth * 1.0, ~truth * 1.0, 3)
        assert predicate.asks(output) == told


def test_balanced_accuracy_is_the_mean_of_both_recalls() -> None:
    holds = np.array([True, True, False, False])
    on, off = np.array([3.0, 1.0, 1.0, 0.0]), np.array([0.0, 2.0, 1.0, 7.0])
    assert balanced(on, off, holds) == pytest.approx((4 / 5 + 8 / 10) / 2)
    assert np.isnan(balanced(on, 0 * off, holds))
    assert torch.is_tensor(cells_of("hist").codes)
