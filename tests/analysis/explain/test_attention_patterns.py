"""Generic selectors against their definitions, and their forms against Tracr's heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from support.compiles import fast_compiles as fast_compiles
from support.tasks import small_config, small_inputs, small_task

from algomatch.analysis.activations import record
from algomatch.analysis.explain.attention_patterns import (
    AND_BOS,
    BOS_ROWS,
    ELSE_ALL,
    ELSE_BOS,
    GENERIC,
    Selector,
    bos_rows,
    of_programs,
    selectors,
)
from algomatch.analysis.head_attention import PATTERN, active_heads, uniform_attention
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.tasks import make_task
from algomatch.models.reference import build_reference

Rule = Callable[[int, int, Sequence[object]], bool]
PLAIN: dict[str, Rule] = {  # of query i, key j (both from 0) and the list
    "BOS": lambda i, j, x: False,
    "everything": lambda i, j, x: True,
    "self": lambda i, j, x: i == j,
    "previous": lambda i, j, x: j == i - 1,
    "next": lambda i, j, x: j == i + 1,
    "first": lambda i, j, x: j == 0,
    "last": lambda i, j, x: j == len(x) - 1,
    "mirror": lambda i, j, x: i + j == len(x) - 1,
    "earlier": lambda i, j, x: j < i,
    "up to here": lambda i, j, x: j <= i,
    "later": lambda i, j, x: j > i,
    "all others": lambda i, j, x: j != i,
    "same token": lambda i, j, x: x[i] == x[j],
    "same token elsewhere": lambda i, j, x: x[i] == x[j] and i != j,
    "earlier same token": lambda i, j, x: x[i] == x[j] and j < i,
    "later same token": lambda i, j, x: x[i] == x[j] and j > i,
    "another token": lambda i, j, x: x[i] != x[j],
}
EMPTY = {  # form: the keys attended to where nothing is selected, in a list of three
    ELSE_BOS: {0}, AND_BOS: {0}, ELSE_ALL: {0, 1, 2, 3},
}  # fmt: skip


def of(inputs: InputSet, name: str, form: str) -> Selector | None:
    return next(
        (
            selector
            for selector in selectors(inputs)
            if name in selector.names and selector.form == form
        ),
        None,
    )


def keys(pattern: torch.Tensor, row: int, query: int) -> set[int]:
    return set(torch.nonzero(pattern[row, query])[:, 0].tolist())


def test_every_generic_selector_has_a_definition() -> None:
    assert GENERIC.keys() == PLAIN.keys()


@pytest.mark.parametrize("name", GENERIC)
def test_a_generic_selector_selects_what_it_says(name: str) -> None:
    inputs = small_inputs("reverse")
    selector = of(inputs, name, ELSE_BOS)
    assert selector is not None
    for row in range(0, len(inputs), 7):
        listed = inputs.listed(row)
        for query in range(len(listed)):
            chosen = {j + 1 for j in range(len(listed)) if PLAIN[name](query, j, listed)}
            assert keys(selector.pattern, row, query + 1) == (chosen or {0})
        assert not selector.pattern[row, 0].any()
        assert not selector.pattern[row, len(listed) + 1 :].any()
    sums = selector.pattern.sum(-1)
    assert torch.allclose(sums, inputs.real.float())


@pytest.mark.parametrize("form", EMPTY)
def test_where_nothing_is_selected_the_form_decides(form: str) -> None:
    inputs = small_inputs("reverse")
    selector = of(inputs, "previous", form)
    assert selector is not None
    row = int(torch.nonzero(inputs.lengths == 3)[0])
    assert keys(selector.pattern, row, 1) == EMPTY[form]
    assert keys(selector.pattern, row, 2) == ({0, 1} if form == AND_BOS else {1})


def test_selectors_that_are_one_pattern_are_there_once() -> None:
    listed = selectors(small_inputs("reverse"))
    assert len({selector.selected.numpy().tobytes() for selector in listed}) == len(listed)
    assert len({selector.name for selector in listed}) == len(listed)
    (bos,) = [selector for selector in listed if "BOS" in selector.names]
    assert bos.name == "BOS"


@pytest.mark.parametrize("task", ["reverse", "previous_token"])
def test_everything_is_attention_to_every_key_there_is(task: str) -> None:
    inputs = small_inputs(task)
    selector = of(inputs, "everything", AND_BOS)
    assert selector is not None
    assert selector.name == "everything"
    assert torch.allclose(selector.pattern[inputs.real], uniform_attention(inputs)[inputs.real])


def test_nothing_later_is_selected_in_a_causal_task() -> None:
    inputs = small_inputs("previous_token")
    assert inputs.task.causal
    for selector in selectors(inputs):
        assert not selector.pattern.triu(1).any()
    assert list(bos_rows(inputs)) == ["itself"]


def test_bos_attends_as_it_is_said() -> None:
    inputs = small_inputs("reverse")
    rows = bos_rows(inputs)
    assert rows.keys() == BOS_ROWS.keys()
    row = int(torch.nonzero(inputs.lengths == 3)[0])
    expected = {
        "itself": {0}, "everything": {0, 1, 2, 3}, "the list": {1, 2, 3}, "first": {1}, "last": {3},
    }  # fmt: skip
    for name, pattern in rows.items():
        assert keys(pattern, row, 0) == expected[name]
        assert not pattern[:, 1:].any()
        assert torch.allclose(pattern[:, 0].sum(-1), torch.ones(len(inputs)))


@pytest.mark.parametrize("program", ["reverse", "hist", "sort", "previous_token", "most_freq"])
def test_a_compiled_head_attends_as_one_of_the_programs_selectors(program: str) -> None:
    config = small_config(program)
    task = make_task(config)
    inputs = input_set(task, replace(config, held_out=0.0))
    bridge = build_reference(inputs).bridge
    recording = record(bridge, inputs, 512)
    own = of_programs([(program, inputs)])
    names = {name for selector in own for name in selector.names}
    given = [selector for selector in selectors(inputs, own) if names & {*selector.names}]
    itself = bos_rows(inputs)["itself"]
    for layer, head in active_heads(bridge):
        pattern = recording[f"blocks.{layer}.{PATTERN}"][:, head]
        wanted = [selector.pattern + itself for selector in given]
        queries = inputs.defined | (torch.arange(inputs.tokens.shape[1]) == 0)
        nearest = min(float((pattern - expected)[queries].abs().max()) for expected in wanted)
        assert nearest < 1e-3, (layer, head)


def test_selectors_of_other_programs_are_named_with_their_program() -> None:
    inputs = small_inputs("reverse")
    task = small_task("reverse")
    other = "reverse_by_counting"
    both = [("reverse", inputs), (other, small_inputs(other))]
    names = [name for selector in of_programs(both) for name in selector.names]
    assert "reverse_selector" in names
    assert any(name.endswith(f"({other})") for name in names)
    assert task.name == "reverse"
