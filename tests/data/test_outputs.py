"""Outputs: correctness, loss and decoded values, against plain NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from algomatch.data.outputs import IGNORE, Categorical, Numerical, Output, ordered

logit = st.floats(-30, 30, width=32)
shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(-3, 3),
    st.text("ab1", max_size=2),
    st.sampled_from(["None", "(0, '')"]),
    st.tuples(st.integers(0, 2), st.text("ab", max_size=1)),
)


@st.composite
def classes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits and targets; some targets are undefined."""
    shape, width = draw(shapes), draw(st.integers(2, 4))
    logits = draw(hnp.arrays(np.float32, (*shape, width), elements=logit))
    target = st.integers(0, width - 1) | st.just(IGNORE)
    return logits, draw(hnp.arrays(np.int64, shape, elements=target))


@st.composite
def numbers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw numbers and targets; some targets are undefined."""
    shape = draw(shapes)
    given_numbers = draw(hnp.arrays(np.float32, (*shape, 1), elements=logit))
    target = st.sampled_from([0.0, 0.5, -2.0, 29.5, math.nan])
    return given_numbers, draw(hnp.arrays(np.float32, shape, elements=target))


def letters(logits: np.ndarray) -> Categorical:
    return Categorical(tuple("abcd"[: logits.shape[-1]]))


@given(drawn=classes())
@settings(deadline=None)
def test_a_class_is_right_where_its_logit_is_the_first_of_the_largest(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, targets = drawn
    output = letters(logits)
    wanted, likeliest = torch.from_numpy(targets), logits.argmax(-1)
    assert output.width == logits.shape[-1]
    assert output.defined(wanted).tolist() == (targets != IGNORE).tolist()
    right = output.right(torch.from_numpy(logits), wanted)
    assert right.tolist() == (likeliest == targets).tolist()
    flat = torch.from_numpy(logits).flatten(0, -2)
    assert output.decode(flat) == ["abcd"[index] for index in likeliest.ravel()]


@given(drawn=classes())
@settings(deadline=None)
def test_a_classs_loss_is_minus_its_log_probability_and_0_where_there_is_none(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, targets = drawn
    leaf = torch.from_numpy(logits).requires_grad_()
    loss = letters(logits).loss(leaf, torch.from_numpy(targets))
    exact = logits.astype(np.float64)
    log_sums = exact.max(-1) + np.log(np.exp(exact - exact.max(-1, keepdims=True)).sum(-1))
    chosen = np.take_along_axis(exact, np.maximum(targets, 0)[..., None], -1)[..., 0]
    there = targets != IGNORE
    assert loss.shape == targets.shape
    np.testing.assert_allclose(
        loss.detach().numpy(), np.where(there, log_sums - chosen, 0), rtol=1e-5, atol=1e-5
    )
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    one_hot = np.eye(logits.shape[-1])[np.maximum(targets, 0)]
    slope = np.exp(exact - log_sums[..., None]) - one_hot
    np.testing.assert_allclose(leaf.grad.numpy(), slope * there[..., None], atol=1e-5)


@given(drawn=numbers(), tolerance=st.sampled_from([0.05, 0.5, 2.0]))
@settings(deadline=None)
def test_a_number_is_right_within_the_tolerance(
    drawn: tuple[np.ndarray, np.ndarray], tolerance: float
) -> None:
    given_numbers, targets = drawn
    output, wanted = Numerical(tolerance), torch.from_numpy(targets)
    assert output.width == 1
    assert output.defined(wanted).tolist() == (~np.isnan(targets)).tolist()
    right = output.right(torch.from_numpy(given_numbers), wanted).numpy()
    off = np.abs(given_numbers[..., 0].astype(np.float64) - targets)
    assert right[off < tolerance - 1e-5].all()
    assert not right[(off > tolerance + 1e-5) | np.isnan(targets)].any()


@given(drawn=numbers())
@settings(deadline=None)
def test_a_numbers_loss_is_its_squared_error_and_0_where_there_is_none(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    given_numbers, targets = drawn
    leaf = torch.from_numpy(given_numbers).requires_grad_()
    loss = Numerical(0.1).loss(leaf, torch.from_numpy(targets))
    off = np.nan_to_num(given_numbers[..., 0].astype(np.float64) - targets, nan=0.0)
    np.testing.assert_allclose(loss.detach().numpy(), off**2, rtol=1e-5, atol=1e-5)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy()[..., 0], 2 * off, rtol=1e-5, atol=1e-5)


def test_a_number_exactly_as_far_off_as_the_tolerance_is_right() -> None:
    wanted = torch.tensor([1.0, 1.0, 1.0, 1.0])
    given_numbers = torch.tensor([[1.5], [0.5], [1.5000002], [math.nan]])
    assert Numerical(0.5).right(given_numbers, wanted).tolist() == [True, True, False, False]


def test_numbers_decode_to_six_digits() -> None:
    given_numbers = torch.tensor([[1 / 3], [-0.1], [1234567.0], [0.0]])
    assert Numerical(0.1).decode(given_numbers) == [0.333333, -0.1, 1234570.0, 0.0]


@pytest.mark.parametrize("output", [Categorical(("a", "b")), Numerical(0.1)])
def test_no_cases_have_no_loss(output: Output) -> None:
    nothing = torch.empty(0, output.width, requires_grad=True)
    targets = torch.empty(0, dtype=torch.int64 if output.width == 2 else torch.float32)
    assert output.loss(nothing, targets).shape == (0,)
    assert output.right(nothing, targets).shape == (0,)
    assert output.decode(nothing) == []


@given(items=st.lists(values, max_size=8), data=st.data())
def test_values_have_one_order_however_they_come(items: list[object], data: st.DataObject) -> None:
    distinct = list({(type(item), item): item for item in items}.values())
    shuffled = data.draw(st.permutations(distinct))
    first, second = ordered(distinct), ordered(shuffled)
    assert [(type(x), x) for x in first] == [(type(x), x) for x in second]
    assert len(first) == len(distinct)
    is_number = [isinstance(x, (int, float)) for x in first]
    assert is_number == sorted(is_number, reverse=True)
    numeric = [x for x in first if isinstance(x, (int, float))]
    assert numeric == sorted(numeric)
    for kind in (str, tuple):
        same = [str(x) for x in first if isinstance(x, kind)]
        assert same == sorted(same)
