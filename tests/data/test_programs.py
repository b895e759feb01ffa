"""The makers, their named variables and the interpreter that traces them."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracr.rasp import rasp

from algomatch.config import TaskConfig
from algomatch.data.programs import (
    Interpreter,
    Value,
    call_maker,
    make_reverse,
    trace,
    variables,
)
from algomatch.data.tasks import REGISTRY, Task, make_task

TASKS = {name: make_task(TaskConfig(name=name)) for name in REGISTRY}


def depends_on(sop: Any, on: Any) -> bool:
    return sop is on or any(depends_on(child, on) for child in sop.children)


def inputs_of(task: Task) -> st.SearchStrategy[list[Value]]:
    tokens = st.sampled_from(task.vocabulary)
    return st.lists(tokens, min_size=task.min_length, max_size=task.max_length)


def every_kind_of_expression() -> Any:
    """Return a program with each expression that Tracr's evaluator knows."""
    before = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LT)
    same = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ)
    fixed = rasp.ConstantSelector([[True]], check_length=False)
    both = rasp.SelectorAnd(before, same)
    either = rasp.SelectorOr(rasp.SelectorNot(both), same)
    width = rasp.SelectorWidth(either).named("width")
    picked = rasp.Aggregate(before, rasp.indices).named("mean_before")
    mixed = rasp.SequenceMap(lambda x, y: x + y, width, picked).named("mixed")
    line = rasp.LinearSequenceMap(width, rasp.length, 2.0, -1.0).named("line")
    whole = rasp.SequenceMap(lambda x, y: x * y, line, rasp.Full(3)).named("whole")
    constant = rasp.ConstantSOp([7], check_length=False)
    first = rasp.Aggregate(fixed, constant, default=0).named("first")
    return [mixed, whole, first, both, either]


@pytest.mark.parametrize("name", REGISTRY)
def test_a_programs_variables_come_inputs_first_and_output_last(name: str) -> None:
    program, named = TASKS[name].program, TASKS[name].variables
    order = {id(sop): place for place, sop in enumerate(named.values())}
    assert list(named.values())[-1] is program
    assert any(sop is rasp.tokens for sop in named.values())
    assert len(order) == len(named), "a variable is listed twice"
    for place, sop in enumerate(named.values()):
        below = [other for other in named.values() if other is not sop and depends_on(sop, other)]
        assert all(order[id(other)] < place for other in below)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_program_made_twice_has_the_same_names(name: str) -> None:
    again = make_task(TaskConfig(name=name))
    assert again.program is not TASKS[name].program
    assert list(again.variables) == list(TASKS[name].variables)


def test_the_variables_of_reverse_are_the_named_s_ops() -> None:
    names = ["indices", "tokens", "length", "opp_idx", "opp_idx-1", "reverse"]
    assert list(variables(make_reverse())) == names


def test_variables_that_share_a_name_are_numbered_in_program_order() -> None:
    first = rasp.Map(lambda x: x + 1, rasp.indices)
    second = rasp.Map(lambda x: x, rasp.tokens)
    program = rasp.SequenceMap(lambda x, y: (x, y), first, second)
    named = variables(program)
    assert list(named) == ["indices", "map", "tokens", "map_2", "sequence_map"]
    assert named["map"] is first
    assert named["map_2"] is second


def test_a_number_that_is_already_a_name_is_passed_over() -> None:
    taken = rasp.Map(lambda x: x, rasp.tokens).named("map_2")
    first = rasp.Map(lambda x: x, rasp.indices)
    second = rasp.SequenceMap(lambda x, y: x, taken, first).named("map")
    third = rasp.SequenceMap(lambda x, y: x, second, rasp.indices).named("map")
    named = variables(third)
    assert list(named) == ["tokens", "map_2", "indices", "map", "map_3", "map_4"]


def test_a_variable_used_twice_is_one_variable() -> None:
    shared = rasp.Map(lambda x: x + 1, rasp.indices).named("shared")
    program = rasp.SequenceMap(lambda x, y: x * y, shared, shared - 1).named("out")
    assert list(variables(program)) == ["indices", "shared", "map", "out"]


@pytest.mark.parametrize("name", REGISTRY)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_interpreter_agrees_with_tracrs_own_on_every_variable(
    name: str, data: st.DataObject
) -> None:
    xs = data.draw(inputs_of(TASKS[name]))
    traced = trace(TASKS[name].variables, xs)
    assert traced == {key: list(sop(xs)) for key, sop in TASKS[name].variables.items()}
    assert list(traced.values())[-1] == list(TASKS[name].program(xs))


@given(xs=st.lists(st.integers(0, 2), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_the_interpreter_agrees_with_tracrs_own_on_every_kind_of_expression(xs: list[int]) -> None:
    interpreter = Interpreter()
    for expression in every_kind_of_expression():
        assert interpreter.evaluate(expression, xs) == expression(xs)


def test_each_s_op_is_evaluated_once_an_input() -> None:
    calls: list[Value] = []

    def note(x: Value) -> Value:
        calls.append(x)
        return x

    shared = rasp.Map(note, rasp.tokens).named("shared")
    selector = rasp.Select(shared, shared, rasp.Comparison.EQ)
    program = rasp.SequenceMap(lambda x, y: (x, y), rasp.SelectorWidth(selector), shared)
    trace(variables(program), ["a", "b", "a"])
    assert calls == ["a", "b", "a"]


def test_an_overridden_length_reverses_the_part_before_it() -> None:
    program, xs = make_reverse(), ["a", "b", "c", "d"]
    named = variables(program)
    interpreter = Interpreter([(named["length"], [3, 3, 3, 3])])
    assert interpreter.evaluate(named["opp_idx"], xs) == [3, 2, 1, 0]
    assert interpreter.evaluate(named["opp_idx-1"], xs) == [2, 1, 0, -1]
    assert interpreter.evaluate(program, xs) == ["c", "b", "a", None]
    assert program(xs) == ["d", "c", "b", "a"], "an override outlived its interpreter"


def test_a_length_overridden_at_one_position_changes_that_position_alone() -> None:
    program = make_reverse()
    interpreter = Interpreter([(variables(program)["length"], [4, 4, 4, 5])])
    assert interpreter.evaluate(program, ["a", "b", "c", "d"]) == ["d", "c", "b", "b"]


def test_an_override_of_the_input_is_another_input() -> None:
    interpreter = Interpreter([(rasp.tokens, ("c", "b", "b"))])
    assert interpreter.evaluate(make_reverse(), ["a", "a", "a"]) == ["b", "b", "c"]


def test_an_expression_that_is_gone_is_not_taken_for_a_new_one() -> None:
    interpreter = Interpreter()
    gc.freeze()  # so that collecting what these few lines leave takes no time
    try:
        for step in range(30):
            gc.collect()  # so that ids are used again
            assert interpreter.evaluate(rasp.indices + step, ["a", "b"]) == [step, step + 1]
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("name", REGISTRY)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_an_override_changes_only_what_depends_on_it(name: str, data: st.DataObject) -> None:
    named = TASKS[name].variables
    xs = data.draw(inputs_of(TASKS[name]))
    tokens = st.sampled_from(TASKS[name].vocabulary)
    donor = trace(named, data.draw(st.lists(tokens, min_size=len(xs), max_size=len(xs))))
    base = trace(named, xs)
    for overridden, sop in named.items():
        same = Interpreter([(sop, base[overridden])])
        other = Interpreter([(sop, donor[overridden])])
        assert list(other.evaluate(sop, xs)) == donor[overridden]
        for key, variable in named.items():
            assert list(same.evaluate(variable, xs)) == base[key]
            if not depends_on(variable, sop):
                assert list(other.evaluate(variable, xs)) == base[key]


def test_a_maker_gets_the_arguments_it_names_and_no_others() -> None:
    def all_of_them(max_length: int, vocabulary: Sequence[Value]) -> Any:
        return max_length, vocabulary

    def one_of_them(vocabulary: Sequence[Value], other: int = 7) -> Any:
        return vocabulary, other

    assert call_maker(all_of_them, ("a", "b"), 5) == (5, ["a", "b"])
    assert call_maker(one_of_them, ("a", "b"), 5) == (["a", "b"], 7)
    assert call_maker(lambda: "none", ("a", "b"), 5) == "none"
