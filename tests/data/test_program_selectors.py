"""Selectors select the keys that Tracr's evaluators select, which take one input each."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tasks import TASK_OF, small_config, small_inputs
from tracr.rasp import causal_eval, rasp

from algomatch.config.schema import TaskConfig
from algomatch.data import program_selectors as module
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.program_selectors import Selection, selections
from algomatch.data.rasp.text import AGGREGATED, COUNTED, selectors
from algomatch.data.tasks import Task, make_task

pytestmark = pytest.mark.slow

EQ, LT, TRUE = rasp.Comparison.EQ, rasp.Comparison.LT, rasp.Comparison.TRUE


@cache
def selections_of(program: str) -> dict[str, Selection]:
    """The selections of a small task by name; a selection may have several names."""
    return {
        name: selection
        for selection in selections(small_inputs(program))
        for name in selection.names
    }


def keys_selected(selection: Selection, row: int) -> dict[int, list[int]]:
    """The keys of each query that selects any, as positions in the list, from 0."""
    chosen = torch.nonzero(selection.selected[row]) - 1
    queries = set(chosen[:, 0].tolist())
    return {query: chosen[chosen[:, 0] == query, 1].tolist() for query in queries}


def by_tracr(selector: Any, inputs: InputSet, row: int) -> dict[int, list[int]]:
    """The same by Tracr's evaluator, for queries at which the program has an output."""
    causal = inputs.task.causal
    evaluator = causal_eval.CausalEvaluator() if causal else rasp.DefaultRASPEvaluator()
    matrix = evaluator.evaluate(selector, inputs.listed(row))
    chosen = {
        query: [key for key, selected in enumerate(keys) if selected]
        for query, keys in enumerate(matrix)
        if inputs.defined[row, query + 1]
    }
    return {query: keys for query, keys in chosen.items() if keys}


@pytest.mark.parametrize("program", TASK_OF)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_selectors_select_what_tracr_says(program: str, data: st.DataObject) -> None:
    inputs = small_inputs(program)
    row = data.draw(st.integers(0, len(inputs) - 1))
    by_name = selections_of(program)
    for name, (selector, uses) in selectors(inputs.task.program).items():
        expected = by_tracr(selector, inputs, row)
        if name in by_name:
            assert keys_selected(by_name[name], row) == expected
            assert uses <= by_name[name].uses
        else:  # it selects nothing anywhere
            assert not expected


def of_program(program: Any, causal: bool = False) -> InputSet:
    task = Task("own", program, ("a", "b", "c"), 1, 4, causal)
    return input_set(task, replace(small_config("hist"), held_out=0.0))


def selector(keys: Any, queries: Any, predicate: Any, name: str) -> Any:
    return rasp.Select(keys, queries, predicate).named(name)


def test_selectors_that_select_the_same_are_one() -> None:
    tokens, indices = rasp.tokens, rasp.indices
    same = selector(tokens, tokens, EQ, "same")
    again = selector(tokens, tokens, lambda key, query: key == query, "again")
    before = selector(indices, indices, LT, "before")
    mean = rasp.Aggregate(again, rasp.numerical(rasp.Map(lambda t: float(t == "a"), tokens)), 0)
    program = rasp.SequenceMap(
        lambda a, b: a + b,
        rasp.SelectorWidth(same),
        rasp.SequenceMap(
            lambda a, b: a + b, rasp.SelectorWidth(before), rasp.Map(int, rasp.numerical(mean))
        ),
    )
    selected = selections(of_program(program))
    assert [(selection.names, sorted(selection.uses)) for selection in selected] == [
        (("same", "again"), [AGGREGATED, COUNTED]),
        (("before",), [COUNTED]),
    ]


def test_a_composed_selector_is_one_whole() -> None:
    same = selector(rasp.tokens, rasp.tokens, EQ, "same")
    before = selector(rasp.indices, rasp.indices, LT, "before")
    both = rasp.SelectorAnd(same, before).named("same_before")
    selected = selections(of_program(rasp.SelectorWidth(both)))
    assert [selection.name for selection in selected] == ["same_before"]


def test_a_causal_task_selects_no_later_key() -> None:
    program = rasp.SelectorWidth(selector(rasp.tokens, rasp.tokens, TRUE, "everything"))
    (bidirectional,), (causal,) = (
        selections(of_program(program, masked)) for masked in (False, True)
    )
    row = -1
    assert keys_selected(bidirectional, row) == {query: [0, 1, 2, 3] for query in range(4)}
    assert keys_selected(causal, row) == {query: list(range(query + 1)) for query in range(4)}


def test_queries_without_an_output_and_selectors_without_a_key_are_left_out() -> None:
    inputs = small_inputs("previous_token")  # undefined at the first position
    (selection,) = selections(inputs)
    assert not selection.counted[:, :2].any()
    assert torch.equal(selection.counted, inputs.defined)
    none = selector(rasp.tokens, rasp.tokens, lambda key, query: False, "none")
    count = rasp.SelectorWidth(selector(rasp.tokens, rasp.tokens, EQ, "same"))
    both = rasp.SequenceMap(lambda a, b: a + b, count, rasp.SelectorWidth(none))
    assert [selection.name for selection in selections(of_program(both))] == ["same"]


def test_a_pattern_is_the_selected_keys_each_alike() -> None:
    inputs = small_inputs("hist")
    (selection,) = selections(inputs)
    pattern = selection.pattern(slice(None))
    assert torch.equal(pattern.sum(-1), selection.counted.float())
    row = [inputs.listed(row) for row in range(len(inputs))].index(["a", "b", "a", "a"])
    assert pattern[row, 1].tolist() == pytest.approx([0, 1 / 3, 0, 1 / 3, 1 / 3])


def test_sets_interpreted_in_parts_select_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = input_set(make_task(TaskConfig(name="sort")), replace(TaskConfig(), max_inputs=300))
    whole = selections(inputs)
    monkeypatch.setattr(module, "CHUNK", 64)
    parts = selections(inputs)
    assert [selection.key for selection in whole] == [selection.key for selection in parts]
