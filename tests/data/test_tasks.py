"""Tasks: what a row fills in, and what makes no task."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracr.rasp import rasp

from algomatch.config import TaskConfig, compose, group_names
from algomatch.data.tasks import BOS, PAD, REGISTRY, Task, make_task
from algomatch.errors import UserError


@pytest.mark.parametrize("name", REGISTRY)
def test_a_row_fills_what_the_config_leaves_open(name: str) -> None:
    row, task = REGISTRY[name], make_task(TaskConfig(name=name))
    assert task.name == name
    assert task.vocabulary == row.vocabulary
    assert (task.min_length, task.max_length) == (row.min_length, row.max_length)
    assert task.causal == row.causal
    assert isinstance(task.program, rasp.SOp)
    assert 1 <= row.min_length <= row.max_length


@pytest.mark.parametrize("name", REGISTRY)
def test_the_config_overrules_the_row(name: str) -> None:
    row = REGISTRY[name]
    longest = row.max_length + 2
    vocabulary = list(row.vocabulary[:2])
    config = TaskConfig(
        name=name, vocabulary=vocabulary, min_length=row.min_length + 1, max_length=longest
    )
    task = make_task(config)
    assert task.vocabulary == tuple(vocabulary)
    assert list(task.lengths) == list(range(row.min_length + 1, longest + 1))
    assert task.n_ctx == longest + 1


@given(size=st.integers(2, 4), shortest=st.integers(1, 4), more=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_lengths_context_and_number_of_inputs_are_counted(
    size: int, shortest: int, more: int
) -> None:
    longest = shortest + more
    task = Task("any", rasp.tokens, tuple(range(size)), shortest, longest)
    lists = [xs for n in task.lengths for xs in itertools.product(task.vocabulary, repeat=n)]
    assert list(task.lengths) == list(range(shortest, longest + 1))
    assert task.n_ctx == 1 + max(map(len, lists))
    assert task.n_inputs == len(lists)


def test_the_number_of_inputs_does_not_overflow() -> None:
    task = Task("any", rasp.tokens, tuple(range(30)), 20, 20)
    assert task.n_inputs == 30**20


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "revers"}, "unknown task 'revers': did you mean 'reverse'? valid: "),
    ({"name": "Zqxj"}, "unknown task 'Zqxj': valid: "),
    ({"vocabulary": ["a"]}, "task.vocabulary=[a] must have at least 2 tokens"),
    ({"vocabulary": []}, "task.vocabulary=[] must have at least 2 tokens"),
    ({"vocabulary": ["a", "b", "a"]}, "task.vocabulary=[a, b, a] must not repeat a token"),
    ({"vocabulary": [1, 1.0]}, "task.vocabulary=[1, 1.0] must not repeat a token"),
    ({"vocabulary": [True, 1]}, "task.vocabulary=[True, 1] must not repeat a token"),
    (
        {"vocabulary": ["a", None]},
        "task.vocabulary=[a, None]: tokens must be strings or numbers",
    ),
    (
        {"vocabulary": ["a", ["b"]]},
        "task.vocabulary=[a, ['b']]: tokens must be strings or numbers",
    ),
    (
        {"vocabulary": [PAD, "a", BOS]},
        "task.vocabulary=[PAD, a, BOS] must not hold the reserved BOS, PAD",
    ),
    (
        {"vocabulary": ["a", BOS]},
        "task.vocabulary=[a, BOS] must not hold the reserved BOS",
    ),
    ({"min_length": 6}, "task.min_length=6 must not exceed task.max_length=5"),
    (
        {"held_out_lengths": [3, 6, 0]},
        "task.held_out_lengths=[6, 0] must be among the lengths 1 to 5",
    ),
    (
        {"held_out_lengths": [2, 3], "min_length": 2, "max_length": 3},
        "task.held_out_lengths=[2, 3] leaves no length to train on",
    ),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[message for _, message in BAD])
def test_what_makes_no_task_is_refused_with_value_rule_and_choices(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}") as caught:
        make_task(TaskConfig(**fields))
    assert "\n" not in str(caught.value)
    if "valid:" in message:
        choices = sorted({*REGISTRY, *group_names("task")})
        assert str(caught.value).endswith(", ".join(choices))


def test_a_token_that_does_not_equal_itself_is_refused() -> None:
    with pytest.raises(UserError, match=r"task\.vocabulary=\[a, nan\]: .* not nan"):
        make_task(TaskConfig(vocabulary=["a", float("nan")]))


def test_a_control_condition_has_its_own_name_and_the_program_of_its_task() -> None:
    fixed, free = (
        make_task(compose([f"task={name}"]).task) for name in ("reverse_fixed", "reverse")
    )
    assert (fixed.name, free.name) == ("reverse_fixed", "reverse")
    assert list(fixed.variables) == list(free.variables)
    assert list(fixed.lengths) == [5]
