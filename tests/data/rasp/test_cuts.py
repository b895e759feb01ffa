"""Cuts: every one is a cut, equivalent ones are merged, and later ones follow earlier ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from support.overriding import values_of
from support.tasks import TASK_OF, small_inputs, small_task
from tracr.rasp import rasp

from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.rasp import cuts as module
from algomatch.data.rasp.cuts import Cuts, cuts, labels

PROGRAMS = list(TASK_OF)
Names = tuple[str, ...]


@cache
def cuts_of(program: str) -> Cuts:
    return cuts(small_inputs(program))


def names_of(program: str) -> Iterator[Names]:
    """The variables of every cut, merged cuts included."""
    for cut in cuts_of(program).all:
        yield from (cut.variables, *cut.same)


def read_by(sop: Any) -> Iterator[Any]:
    """The s-ops that an s-op reads, directly or by its selectors."""
    for child in sop.children:
        if isinstance(child, rasp.SOp):
            yield child
        else:
            yield from read_by(child)


@cache
def reads(program: str) -> dict[str, set[str]]:
    """The variables that each variable reads, by a separate walk over the expressions."""
    named = small_task(program).variables
    names = {id(sop): name for name, sop in named.items()}
    return {name: {names[id(source)] for source in read_by(sop)} for name, sop in named.items()}


def reached(program: str, blocked: Iterable[str]) -> set[str]:
    """The variables that can be reached from the inputs without passing a blocked one."""
    graph, blocked = reads(program), set(blocked)
    variables = {name for name, sources in graph.items() if not sources} - blocked
    while (
        more := {
            name for name, sources in graph.items() if sources & variables and name not in blocked
        }
        - variables
    ):
        variables |= more
    return variables


def partition(inputs: InputSet, names: Names) -> list[tuple[Any, ...]]:
    """The values of some variables at every position of every list, with their types."""
    table: list[tuple[Any, ...]] = []
    for row in range(len(inputs)):
        columns = [values_of(inputs, name, row) for name in names]
        table += [tuple((type(x), x) for x in place) for place in zip(*columns, strict=True)]
    return table


def determines(values: list[Any], other: list[Any]) -> bool:
    known: dict[Any, Any] = {}
    return all(known.setdefault(x, y) == y for x, y in zip(values, other, strict=True))


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_path_from_input_to_output_misses_a_cut(program: str) -> None:
    output = list(reads(program))[-1]
    assert output in reached(program, ())
    for names in names_of(program):
        assert output not in reached(program, names)


@pytest.mark.parametrize("program", PROGRAMS)
def test_cuts_are_named_once_in_program_order(program: str) -> None:
    order, program_cuts = list(reads(program)), list(names_of(program))
    assert len(set(program_cuts)) == len(program_cuts)
    assert all(sorted(names, key=order.index) == list(names) for names in program_cuts)
    assert all(cut.name == "+".join(cut.variables) for cut in cuts_of(program).all)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_first_cut_is_the_inputs_and_the_last_the_output(program: str) -> None:
    first, *_, last = cuts_of(program).all
    graph = reads(program)
    assert all(not graph[name] for name in first.variables)
    assert last.variables == (list(graph)[-1],)
    assert all(cut.later(first) for cut in cuts_of(program).all[1:])
    assert all(last.later(cut) for cut in cuts_of(program).all[:-1])
    assert cuts_of(program).inner == cuts_of(program).all[1:-1]


@pytest.mark.parametrize("program", PROGRAMS)
def test_merged_cuts_determine_each_other_and_others_do_not(program: str) -> None:
    inputs = small_inputs(program)
    values = {names: partition(inputs, names) for names in names_of(program)}
    kinds = []
    for cut in cuts_of(program).all:
        kinds.append(values[cut.variables])
        for names in cut.same:
            assert determines(values[names], values[cut.variables])
            assert determines(values[cut.variables], values[names])
    for kind, other in itertools.combinations(kinds, 2):
        assert not (determines(kind, other) and determines(other, kind))


@pytest.mark.parametrize("program", PROGRAMS)
def test_later_is_a_strict_partial_order(program: str) -> None:
    everything = cuts_of(program).all
    later = {(a.name, b.name) for a in everything for b in everything if a.later(b)}
    assert not any(a == b or (b, a) in later for a, b in later)
    assert all((a, d) in later for a, b in later for c, d in later if b == c)


@pytest.mark.parametrize("program", PROGRAMS)
def test_labels_number_the_combinations_of_values(program: str) -> None:
    inputs = small_inputs(program)
    for cut in cuts_of(program).all:
        numbered = labels(inputs, cut.variables)
        assert torch.equal(numbered == -1, ~inputs.real)
        numbers, values = numbered[inputs.real].tolist(), partition(inputs, cut.variables)
        assert determines(numbers, values)
        assert determines(values, numbers)


def test_how_long_the_list_is_is_a_step_however_it_is_written() -> None:
    """`rasp.length` reads nothing, but a position knows it only after it has seen the others."""
    mirror = (rasp.length - rasp.indices - 1).named("mirror")
    selector = rasp.Select(rasp.indices, mirror, rasp.Comparison.EQ)
    program = rasp.Aggregate(selector, rasp.tokens).named("reverse")
    task = replace(small_task("reverse"), program=program)
    program_cuts = cuts(input_set(task, TaskConfig("reverse", held_out=0.0)))
    assert [cut.name for cut in program_cuts.all] == [
        "indices+tokens",
        "indices+length+tokens",
        "reverse",
    ]
    assert program_cuts.inner[0].same == (
        ("indices", "length-indices", "tokens"),
        ("indices", "mirror", "tokens"),
    )


def test_reverse_has_one_inner_cut_whatever_tells_the_length() -> None:
    program_cuts = cuts_of("reverse")
    assert [cut.name for cut in program_cuts.all] == [
        "indices+tokens",
        "indices+tokens+length",
        "reverse",
    ]
    assert program_cuts.inner[0].same == (
        ("indices", "tokens", "opp_idx"),
        ("indices", "tokens", "opp_idx-1"),
    )
    assert program_cuts.complete


@pytest.mark.parametrize(
    ("program", "inner"),
    [
        ("hist", []),
        ("sort", ["tokens+indices+place"]),
        ("shift_by_by_steps", ["indices+previous_token"]),
        ("double_hist_by_division", ["hist", "hist+n_as_frequent"]),
        ("detect_pattern", ["tokens+previous_token"]),
    ],
)
def test_a_programs_inner_cuts_are_what_its_later_steps_read(
    program: str, inner: list[str]
) -> None:
    assert [cut.name for cut in cuts_of(program).inner] == inner


def test_steps_that_need_not_wait_for_each_other_give_cuts_of_no_order() -> None:
    by_name = {cut.name: cut for cut in cuts_of("rank_by_others").all}
    branch, other = by_name["tokens+length"], by_name["tokens+n_not_smaller"]
    assert not branch.later(other)
    assert not other.later(branch)
    assert by_name["length+n_not_smaller"].later(branch)
    assert by_name["length+n_not_smaller"].later(other)


@pytest.mark.parametrize("limit", ["MOST", "FEW"])
def test_of_too_many_cuts_those_of_program_order_are_kept(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cuts_of("rank_by_others")
    monkeypatch.setattr(module, limit, 1)
    kept = cuts(small_inputs("rank_by_others"))
    assert whole.complete
    assert not kept.complete
    names = [cut.name for cut in kept.all]
    assert names == [cut.name for cut in whole.all if cut.name in names]
    assert len(names) < len(whole.all)
    assert all(a.later(b) for b, a in itertools.pairwise(kept.all))
