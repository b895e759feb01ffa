"""The library holds what it should, under names that say how to compute it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tasks import TASK_OF, small_inputs, small_task
from tracr.rasp import rasp

from algomatch.config.composition import compose
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.rasp.library import Library, LibraryVariable, entropy, first_seen, library
from algomatch.data.tasks import make_task
from algomatch.infra.errors import UserError

BUDGET, SECONDS = 4000, 600.0
Variable = Callable[[list[Any], int], Any]

BY_HAND: dict[str, Variable] = {  # what every library of numbers must hold
    "count of 1": lambda xs, i: xs.count(1),
    "count of 3": lambda xs, i: xs.count(3),
    "occurs 1": lambda xs, i: 1 in xs,
    "occurs 2": lambda xs, i: 2 in xs,
    "own count": lambda xs, i: xs.count(xs[i]),
    "number before": lambda xs, i: xs[:i].count(xs[i]),
    "smaller": lambda xs, i: sum(x < xs[i] for x in xs),
    "place": lambda xs, i: sum((x, j) < (xs[i], i) for j, x in enumerate(xs)),
    "first": lambda xs, i: xs[0],
    "last": lambda xs, i: xs[-1],
    "before": lambda xs, i: xs[i - 1] if i else None,
    "after": lambda xs, i: xs[i + 1] if i + 1 < len(xs) else None,
    "mirror": lambda xs, i: xs[len(xs) - 1 - i],
    "from the end": lambda xs, i: len(xs) - 1 - i,
    "minimum": lambda xs, i: min(xs),
    "maximum": lambda xs, i: max(xs),
    "token": lambda xs, i: xs[i],
    "index": lambda xs, i: i,
    "length": lambda xs, i: len(xs),
}


@cache
def inputs_of_numbers() -> InputSet:
    config = compose(["task=sort", "task.vocabulary=[1,2,3]", "task.max_length=4"])
    return input_set(make_task(config.task), config.task)


@cache
def without_programs() -> Library:
    return library(inputs_of_numbers(), {}, BUDGET, SECONDS)


def partition(inputs: InputSet, codes: torch.Tensor) -> bytes:
    return first_seen(codes[inputs.real].numpy()).tobytes()


def by_hand(inputs: InputSet, function: Variable) -> torch.Tensor:
    codes, table = torch.full_like(inputs.tokens, -1), dict[object, int]()
    for row in range(len(inputs)):
        listed = inputs.listed(row)
        for position in range(len(listed)):
            value = function(listed, position)
            codes[row, position + 1] = table.setdefault(value, len(table))
    return codes


@pytest.mark.parametrize("name", BY_HAND)
def test_it_reaches_the_variables_known_by_hand(name: str) -> None:
    inputs, made = inputs_of_numbers(), without_programs()
    wanted = partition(inputs, by_hand(inputs, BY_HAND[name]))
    assert made.complete
    assert [v.name for v in made.variables if partition(inputs, v.codes) == wanted]


@pytest.mark.parametrize("task", TASK_OF)
def test_every_s_op_of_every_program_is_there(task: str) -> None:
    """Under its own program: two programs may use one name for different things."""
    every = small_task(TASK_OF[task])
    programs = {every.name: every.program, **every.alternatives}
    inputs = small_inputs(task)
    made = library(inputs, programs, 50, SECONDS)
    for name, variable in inputs.variables.items():
        codes = torch.where(inputs.real, variable.codes.long() + 200, -1)
        if len(torch.unique(codes[inputs.real])) > 1:  # no constant
            at = made.of(name, task)
            assert partition(inputs, at.codes) == partition(inputs, codes)


def test_no_two_variables_are_one() -> None:
    inputs, made = inputs_of_numbers(), without_programs()
    assert len({partition(inputs, v.codes) for v in made.variables}) == len(made.variables)
    assert len({v.name for v in made.variables}) == len(made.variables)
    assert all(len(torch.unique(v.codes[inputs.real])) > 1 for v in made.variables)


@pytest.mark.parametrize("variable", without_programs().variables, ids=lambda v: v.name)
def test_its_values_are_those_of_tracrs_own_evaluator(variable: LibraryVariable) -> None:
    inputs, evaluator = inputs_of_numbers(), rasp.DefaultRASPEvaluator()
    value_of_code: dict[int, object] = {}
    for row in range(3, len(inputs), 9):
        listed = inputs.listed(row)
        values = evaluator.evaluate(variable.sop, listed)
        codes = variable.codes[row, 1 : len(listed) + 1].tolist()
        for code, value in zip(codes, values, strict=True):
            assert value_of_code.setdefault(code, value) == value
    assert len(set(map(repr, value_of_code.values()))) == len(value_of_code)


def test_names_read_like_rasp() -> None:
    names = {v.name for v in without_programs().variables}
    assert {
        "tokens", "indices", "length", "length - 1 - indices", "count(tokens == 1)",
        "count(tokens == tokens)", "count(tokens < tokens)", "tokens[0]", "tokens[length - 1]",
        "tokens[indices - 1]", "tokens[length - 1 - indices]",
        "count(tokens == tokens and indices < indices)",
    } <= names  # fmt: skip


def test_a_budget_is_kept_and_said() -> None:
    made = library(inputs_of_numbers(), {}, 30, SECONDS)
    whole = without_programs()
    assert not made.complete
    assert made.tried <= 33
    assert made.cost < whole.cost
    assert [v.name for v in made.variables] == [v.name for v in whole.variables][
        : len(made.variables)
    ]
    assert not library(inputs_of_numbers(), {}, BUDGET, 1e-9).complete


def test_what_is_list_wide_is_known() -> None:
    made = without_programs()
    assert made.of("length").list_wide
    assert made.of("count(tokens == 1)").list_wide
    assert not made.of("tokens").list_wide
    assert made.of("length").bits == pytest.approx(_entropy_of_length())


def _entropy_of_length() -> float:
    inputs = inputs_of_numbers()
    lengths = inputs.lengths.numpy()
    shares = np.array([lengths[lengths == n].sum() for n in (1, 2, 3, 4)]) / lengths.sum()
    return float(-(shares * np.log2(shares)).sum())


@given(st.lists(st.integers(0, 6), min_size=1))
def test_codes_are_renumbered_by_first_occurrence(codes: list[int]) -> None:
    renumbered = first_seen(np.array(codes)).tolist()
    order = list(dict.fromkeys(codes))
    assert renumbered == [order.index(code) for code in codes]
    shares = [codes.count(code) / len(codes) for code in order]
    assert entropy(np.array(codes)) == pytest.approx(-sum(s * np.log2(s) for s in shares), abs=1e-9)


def test_a_variable_of_ones_own_is_there_or_has_another_name() -> None:
    inputs = inputs_of_numbers()
    made = library(
        inputs, {}, BUDGET, SECONDS,
        {"mine": BY_HAND["own count"], "new": lambda xs, i: (xs[0], xs[i]) == (1, 2)},
    )  # fmt: skip
    assert made.names[""]["mine"] == "count(tokens == tokens)"
    assert made.of("mine").name == "count(tokens == tokens)"
    new = made.of("new")
    assert new.name == "new"
    assert partition(inputs, new.codes) == partition(
        inputs, by_hand(inputs, lambda xs, i: xs[0] == 1 and xs[i] == 2)
    )


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda xs, i: xs[i + 1], "IndexError"),
        (lambda xs: 0, "TypeError"),
        (lambda xs, i: [i], "it gives a value of type list"),
    ],
)
def test_a_function_that_is_none_of_list_and_position_is_refused(
    function: Variable, reason: str
) -> None:
    with pytest.raises(UserError) as told:
        library(inputs_of_numbers(), {}, 10, SECONDS, {"mine": function})
    assert "the variable 'mine' fails on the list [1] at position 0" in str(told.value)
    assert reason in str(told.value)
