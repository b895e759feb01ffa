"""Input sets: complete or sampled, encoded for both models, and split."""

from __future__ import annotations

import enum
import itertools
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tracr.compiler import compiling
from tracr.rasp import causal_eval, rasp

from algomatch.config.schema import TaskConfig
from algomatch.data import inputs as inputs_module
from algomatch.data.inputs import (
    InputSet,
    RawInputs,
    Variable,
    all_inputs,
    difference,
    encode,
    encode_vocabulary,
    input_set,
    output_of,
    program_outputs,
    split,
)
from algomatch.data.interpreter import Value
from algomatch.data.outputs import IGNORE, Categorical, Numerical
from algomatch.data.programs import make_reverse
from algomatch.data.registered_tasks import REGISTRY
from algomatch.data.tasks import BOS, PAD, Task, make_task
from algomatch.infra.errors import UserError
from algomatch.models.reference import build_reference

Accepts = Callable[[list[Value]], bool]

DEFAULT = make_task(TaskConfig())
SMALL = TaskConfig(max_inputs=300)


def sized(
    size: int, shortest: int, longest: int, unique: bool = False, accepts: Accepts | None = None
) -> Task:
    vocabulary = tuple(range(size))
    return Task(
        "any", make_reverse(), vocabulary, shortest, longest, unique=unique, accepts=accepts
    )


def mapping(
    function: Callable[[Any], Any],
    vocabulary: tuple[Value, ...] = (0, 1, 2),
    numerical: bool = False,
    tolerance: float | None = None,
) -> Task:
    program = rasp.Map(function, rasp.tokens).named("mapped")
    if numerical:
        program = rasp.numerical(program)
    return Task("mapping", program, vocabulary, 1, 2, tolerance=tolerance)


def previous() -> Task:
    before = rasp.Select(rasp.indices, rasp.indices - 1, rasp.Comparison.EQ)
    program = rasp.Aggregate(before, rasp.tokens).named("previous")
    return Task("previous", program, ("a", "b"), 1, 3)


def every_list(task: Task, length: int) -> list[list[Value]]:
    lists = itertools.product(task.vocabulary, repeat=length)
    return [
        list(xs)
        for xs in lists
        if (not task.unique or len(set(xs)) == length)
        and (task.accepts is None or task.accepts(list(xs)))
    ]


def counts(raw: RawInputs) -> dict[int, int]:
    return {length: len(rows) for length, rows in raw.by_length.items()}


def refusal(task: Task) -> str:
    with pytest.raises(UserError) as caught:
        input_set(task, SMALL)
    message = str(caught.value)
    assert "\n" not in message
    return message


sizes = st.tuples(st.integers(2, 4), st.integers(1, 3), st.integers(0, 2))
restrictions = st.sampled_from(
    [(False, None), (True, None), (False, lambda xs: sum(xs) % 2 == 0), (True, lambda xs: 1 in xs)]
)


# Which inputs there are


def test_the_default_task_has_all_its_1364_inputs_each_once() -> None:
    raw = all_inputs(DEFAULT, 20_000, 0)
    listed = [tuple(xs) for xs in raw.lists()]
    assert raw.total == len(raw) == len(listed) == 4 + 16 + 64 + 256 + 1024
    assert listed == [xs for n in range(1, 6) for xs in itertools.product("abcd", repeat=n)]


@given(sizes=sizes, restriction=restrictions, share=st.floats(0.0, 1.2), seed=st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_inputs_are_all_that_are_accepted_or_an_even_sample_of_them_without_repeats(
    sizes: tuple[int, int, int], restriction: tuple[bool, Accepts | None], share: float, seed: int
) -> None:
    size, shortest, more = sizes
    unique, accepts = restriction
    longest = min(shortest + more, size) if unique else shortest + more
    task = sized(size, min(shortest, longest), longest, unique, accepts)
    every = {length: every_list(task, length) for length in task.lengths}
    total = sum(map(len, every.values()))
    budget = max(len(task.lengths), int(share * total))
    raw = all_inputs(task, budget, seed)
    assert raw.total == total
    assert len(raw) <= budget
    left = budget
    for place, (length, rows) in enumerate(raw.by_length.items()):
        lists = [raw.tokens(row) for row in rows]
        wanted = min(len(every[length]), left // (len(every) - place))
        assert len(lists) == len({tuple(xs) for xs in lists}) == wanted
        assert lists == every[length] or wanted < len(every[length])
        assert all(xs in every[length] for xs in lists)
        left -= wanted
    assert list(raw.lists()) == [raw.tokens(row) for rows in raw.by_length.values() for row in rows]


def test_what_a_short_length_leaves_goes_to_the_longer_ones() -> None:
    assert counts(all_inputs(sized(2, 1, 4), 16, 0)) == {1: 2, 2: 4, 3: 5, 4: 5}
    assert counts(all_inputs(sized(2, 1, 4), 20, 0)) == {1: 2, 2: 4, 3: 7, 4: 7}
    assert counts(all_inputs(sized(2, 1, 4), 23, 0)) == {1: 2, 2: 4, 3: 8, 4: 9}


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("budget", [60, 600])  # drawn at random, and taken from a shuffle of all
def test_a_sample_is_made_again_from_its_seed_and_differs_with_another(
    budget: int, unique: bool
) -> None:
    task = sized(6, 4, 4, unique)
    lists = [list(all_inputs(task, min(budget, 300), seed).lists()) for seed in (3, 3, 4)]
    assert lists[0] == lists[1]
    assert lists[0] != lists[2]


@pytest.mark.parametrize("accepts", [None, lambda xs: True])
@pytest.mark.parametrize("budget", [120, 600, 3000])
def test_a_sample_is_spread_over_all_inputs(budget: int, accepts: Accepts | None) -> None:
    (rows,) = all_inputs(sized(4, 6, 6, accepts=accepts), budget, 0).by_length.values()
    assert len(np.unique(rows, axis=0)) == len(rows) == budget
    spread = 5 * np.sqrt((16 - 1) / 12 / 16 / budget)  # five standard errors of the mean
    assert np.abs(rows.mean(0) / 4 - 1.5 / 4).max() < spread


@pytest.mark.parametrize("unique", [False, True])
def test_30_tokens_at_length_20_are_sampled(unique: bool) -> None:
    raw = all_inputs(sized(30, 1, 20, unique), 2000, 0)
    sizes = counts(raw)
    assert sizes[1] == 30
    assert len(raw) == 2000
    assert {sizes[n] for n in range(2, 21)} <= {103, 104}
    assert raw.total == sum(math.perm(30, n) if unique else 30**n for n in range(1, 21))
    assert len(np.unique(raw.by_length[20], axis=0)) == sizes[20]
    assert raw.by_length[20].max() == 29
    most = max(len(set(row)) for row in raw.by_length[20].tolist())
    assert most == 20 if unique else most < 20


def test_lists_too_many_to_count_are_drawn_until_enough_are_accepted() -> None:
    task = sized(10, 7, 7, accepts=lambda xs: xs[0] == xs[-1])
    raw = all_inputs(task, 500, 0)
    assert raw.total is None
    assert len({tuple(xs) for xs in raw.lists()}) == len(raw) == 500
    assert all(xs[0] == xs[-1] for xs in raw.lists())
    assert list(all_inputs(task, 500, 0).lists()) == list(raw.lists())
    assert list(all_inputs(task, 500, 1).lists()) != list(raw.lists())


def test_a_strict_predicate_leaves_fewer_inputs_and_one_too_strict_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inputs_module, "COUNTED", 10)
    few = all_inputs(sized(3, 3, 3, accepts=lambda xs: xs[0] == xs[1] == xs[2]), 10, 0)
    assert sorted(few.lists()) == [[0] * 3, [1] * 3, [2] * 3]
    assert few.total is None
    message = r"^task 'any': task\.restrict accepts no input at all$"
    for shortest in (1, 3):
        with pytest.raises(UserError, match=message):
            all_inputs(sized(3, shortest, 3, accepts=lambda xs: False), 10, 0)


def test_a_length_of_which_nothing_is_accepted_leaves_its_share_to_the_longer_ones() -> None:
    raw = all_inputs(sized(2, 1, 3, accepts=lambda xs: len(xs) > 1), 10, 0)
    assert counts(raw) == {1: 0, 2: 4, 3: 6}
    assert raw.total == 12
    inputs = input_set(raw.task, SMALL)
    assert inputs.exhaustive
    assert inputs.lengths.tolist() == [2] * 4 + [3] * 8


def test_a_budget_below_one_input_a_length_is_refused() -> None:
    message = r"^task\.max_inputs=4 must be at least the number of lengths, 5$"
    with pytest.raises(UserError, match=message):
        all_inputs(DEFAULT, 4, 0)
    assert counts(all_inputs(DEFAULT, 5, 0)) == dict.fromkeys(range(1, 6), 1)


def test_a_predicate_is_asked_with_lists_that_are_its_own() -> None:
    def greedy(xs: list[Value]) -> bool:
        assert type(xs) is list
        xs.clear()
        return True

    assert len(all_inputs(sized(2, 1, 2, accepts=greedy), 100, 0)) == 6


# The program's outputs


@pytest.mark.parametrize("name", REGISTRY)
def test_an_encoded_input_decodes_to_the_lists_and_to_tracrs_values(name: str) -> None:
    task = make_task(TaskConfig(name=name))
    raw = all_inputs(task, 200, 0)
    inputs = encode(raw, program_outputs(raw), split(raw, 0.1, [], 0))
    ids = encode_vocabulary(task)
    causal, plain = causal_eval.CausalEvaluator, rasp.DefaultRASPEvaluator
    evaluator = causal() if task.causal else plain()
    rows = list(raw.lists())
    assert inputs.tokens.shape == (len(rows), task.max_length + 1)
    for row, xs in enumerate(rows):
        n, padding = len(xs), task.max_length - len(xs)
        names = [BOS, *xs, *[PAD] * padding]
        assert inputs.tokens[row].tolist() == [ids[name] for name in names]
        assert inputs.key_mask[row].tolist() == [True] * (n + 1) + [False] * padding
        assert inputs.real[row].tolist() == [False] + [True] * n + [False] * padding
        assert inputs.lengths[row] == n
        assert inputs.listed(row) == xs
        if row % 4 == 0:
            given_values = evaluator.evaluate(task.program, xs)
            assert inputs.values_at(row) == given_values
            check_targets(inputs, row, [None, *given_values, *[None] * padding])
            for key, sop in task.variables.items():
                values = [None, *evaluator.evaluate(sop, xs), *[None] * padding]
                assert decoded(inputs.variables[key], row) == values
    assert torch.equal(inputs.defined, inputs.variables[list(task.variables)[-1]].defined)


def decoded(variable: Variable, row: int) -> list[Value]:
    codes = variable.codes[row].tolist()
    return [None if code == IGNORE else variable.values[code] for code in codes]


def check_targets(inputs: InputSet, row: int, wanted: Sequence[Value]) -> None:
    targets = inputs.targets[row].tolist()
    if isinstance(inputs.output, Categorical):
        values = inputs.output.values
        assert [None if t == IGNORE else values[t] for t in targets] == wanted
    else:
        assert [math.isnan(t) for t in targets] == [value is None for value in wanted]
        assert [t for t in targets if not math.isnan(t)] == pytest.approx(
            [value for value in wanted if value is not None]
        )


@pytest.mark.parametrize("name", REGISTRY)
def test_values_and_classes_are_those_that_occur_each_once(name: str) -> None:
    inputs = input_set(make_task(TaskConfig(name=name)), SMALL)
    for key, variable in inputs.variables.items():
        occurring = set(variable.codes[variable.defined].tolist())
        assert occurring == set(range(len(variable.values))), key
        assert len(set(variable.values)) == len(variable.values)
        assert variable.numerical == rasp.is_numerical(inputs.task.variables[key])
    if isinstance(inputs.output, Categorical):
        classes = set(inputs.targets[inputs.defined].tolist())
        assert classes == set(range(len(inputs.output.values)))
        assert set(inputs.output.values) == set(inputs.variables[list(inputs.variables)[-1]].values)


def test_where_the_program_is_undefined_there_is_no_target() -> None:
    inputs = input_set(previous(), SMALL)
    assert (inputs.targets[:, :2] == IGNORE).all(), "BOS and the first token have none before"
    assert torch.equal(inputs.defined, inputs.real & (torch.arange(4) >= 2))
    assert inputs.undefined_share == pytest.approx(14 / (2 + 8 + 24))
    numerical = mapping(lambda x: None if x == 0 else x / 2, numerical=True)
    numbers = input_set(numerical, SMALL)
    assert numbers.targets.isnan().tolist() == (~numbers.defined).tolist()
    assert numbers.undefined_share == pytest.approx(1 / 3)
    assert input_set(DEFAULT, SMALL).undefined_share == 0


def test_more_values_than_small_integers_can_count_are_kept_apart() -> None:
    pair = rasp.Aggregate(
        rasp.Select(rasp.indices, rasp.indices, lambda key, query: key + query == 1), rasp.tokens
    )
    program = rasp.SequenceMap(lambda x, y: x * 200 + y, rasp.tokens, pair).named("number")
    raw = all_inputs(Task("number", program, tuple(range(200)), 2, 2), 40_000, 0)
    variable = program_outputs(raw)["number"]
    assert len(variable.values) == 40_000 > np.iinfo(np.int16).max
    for row in range(0, 40_000, 777):
        x, y = divmod(row, 200)
        assert decoded(variable, row) == [None, x * 200 + y, y * 200 + x]


def test_a_chunk_of_the_inputs_is_interpreted_at_a_time_to_the_same_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = all_inputs(make_task(TaskConfig(name="hist")), 300, 0)
    whole = program_outputs(raw)
    monkeypatch.setattr(inputs_module, "CHUNK", 100)
    for key, variable in program_outputs(raw).items():
        for row in range(0, len(raw), 7):
            assert decoded(variable, row) == decoded(whole[key], row)


@pytest.mark.parametrize(
    "vocabulary",
    [("b", "a", "Z", "é", "10", "9"), ("a", 10, 9, -1.5)],
)
def test_token_ids_are_those_of_the_compiled_model(vocabulary: tuple[Value, ...]) -> None:
    program = rasp.Map(lambda x: x, rasp.tokens).named("same")
    model = compiling.compile_rasp_to_model(
        program, set(vocabulary), 2, compiler_bos=BOS, compiler_pad=PAD
    )
    task = Task("same", program, vocabulary, 1, 2)
    assert encode_vocabulary(task) == model.input_encoder.encoding_map
    assert set(encode_vocabulary(task)) == {*vocabulary, BOS, PAD}


# What cannot be learned


def never(x: Any) -> Any:
    raise ValueError(f"no {x}")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (mapping(lambda x: 7), "the program's output is 7 on every input: there is nothing to"),
        (mapping(lambda x: None), "the program's output is undefined on every input: there is"),
        (mapping(lambda x: math.inf if x else 0), "the program's output is inf: outputs must be"),
        (mapping(lambda x: math.nan if x else 0), "the program's output is nan: outputs must be"),
        (
            mapping(lambda x: math.inf * x, numerical=True, vocabulary=(1, -1)),
            "the program's output is numerical, but can be inf: not a finite number",
        ),
        (
            mapping(lambda x: "ab"[x], numerical=True, vocabulary=(0, 1)),
            "the program's output is numerical, but can be 'a': not a finite number",
        ),
        (
            mapping(lambda x: x or never(x)),
            "the program raises on the input [0]: ValueError: no 0; change the program, "
            "task.vocabulary, or what task.restrict lets in",
        ),
        (
            mapping(lambda x: x if x != 2 else 1 // 0, numerical=True),
            "the program raises on the input [2]: ZeroDivisionError: integer division or modulo by "
            "zero; change the program",
        ),
    ],
)
def test_an_output_that_cannot_be_learned_is_refused(task: Task, message: str) -> None:
    assert refusal(task).startswith(f"task 'mapping': {message}")


def test_a_program_that_raises_names_an_input_on_which_it_does() -> None:
    repeats = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ))
    program = rasp.Map(lambda n: 1 // (3 - n), repeats)
    raw = all_inputs(Task("thrice", program, ("a", "b"), 1, 4), 100, 0)
    message = r"task 'thrice': the program raises on the input \['a', 'a', 'a'\]: ZeroDivisionError"
    with pytest.raises(UserError, match=message):
        program_outputs(raw)


BEFORE = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)
PREVIOUS = rasp.Aggregate(BEFORE, rasp.tokens).named("previous")
SAME = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ)
S_OP = (
    "it gives an s-op where a function must give a value, as `a == b` of two s-ops does (on the "
    "input ['a']); write it outside of functions, as rasp.SequenceMap(lambda x, y: x == y, a, b)"
)
VALUE = "a function that gives a text, a number, a truth value, or a tuple of these"

NO_VALUE: dict[str, tuple[Any, str, Any]] = {
    "an s-op": (rasp.Map(lambda token: rasp.tokens, rasp.tokens), S_OP, None),
    "an s-op in a tuple": (rasp.Map(lambda token: (token, PREVIOUS), rasp.tokens), S_OP, None),
    "two s-ops compared": (
        rasp.indices == rasp.SelectorWidth(SAME),
        S_OP,
        rasp.SequenceMap(lambda x, y: x == y, rasp.indices, rasp.SelectorWidth(SAME)),
    ),
    "a predicate that gives an s-op": (
        rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda k, q: rasp.tokens == q)),
        S_OP,
        None,
    ),
    "a list": (
        rasp.Map(lambda token: [token], rasp.tokens),
        f"it gives a value of type list (on the input ['a']); write {VALUE}",
        rasp.Map(lambda token: (token,), rasp.tokens),
    ),
    "a set": (
        rasp.Map(lambda token: {token}, rasp.tokens),
        f"it gives a value of type set (on the input ['a']); write {VALUE}",
        None,
    ),
    "an array": (
        rasp.Map(lambda token: np.array([1, 2]), rasp.tokens),
        f"it gives a value of type ndarray (on the input ['a']); write {VALUE}",
        None,
    ),
    "an undefined key that is compared": (
        rasp.SelectorWidth(rasp.Select(PREVIOUS, rasp.tokens, rasp.Comparison.NEQ)),
        "it selects by rasp.Comparison.NEQ, which raises where the keys are undefined (on the "
        "input ['a']); write the predicate lambda key, query: None not in (key, query) and "
        "key != query",
        rasp.SelectorWidth(
            rasp.Select(
                PREVIOUS, rasp.tokens, lambda key, query: None not in (key, query) and key != query
            )
        ),
    ),
    "an undefined query": (
        rasp.SelectorWidth(rasp.Select(rasp.tokens, PREVIOUS, rasp.Comparison.TRUE)),
        "it selects by rasp.Comparison.TRUE, which raises where the queries are undefined (on the "
        "input ['a']); write the predicate lambda key, query: None not in (key, query) and True",
        rasp.SelectorWidth(
            rasp.Select(rasp.tokens, PREVIOUS, lambda key, query: None not in (key, query) and True)
        ),
    ),
    "several texts": (
        rasp.Aggregate(SAME, rasp.tokens),
        "an aggregate selects several of ['a', 'a'], which have no mean (on the input ['a', 'a']); "
        "write a predicate that selects one position, as key == query - 1 does, or count with "
        "rasp.SelectorWidth",
        PREVIOUS,
    ),
    "a selector of one length": (
        rasp.SelectorWidth(rasp.ConstantSelector([[True]])),
        "ConstantSelector cannot be interpreted (on the input ['a']); write "
        "rasp.Select(rasp.indices, rasp.indices, lambda key, query: ...) for every length",
        rasp.SelectorWidth(rasp.Select(rasp.indices, rasp.indices, lambda key, query: key < query)),
    ),
    "an s-op of one length": (
        rasp.ConstantSOp([1]),
        "ConstantSOp cannot be interpreted (on the input ['a']); write "
        "rasp.Map(lambda index: ..., rasp.indices) for every length",
        rasp.Map(lambda index: (1, 2, 3)[index], rasp.indices),
    ),
}


@pytest.mark.parametrize("what", NO_VALUE)
def test_a_program_that_gives_no_value_is_told_the_cause_and_what_to_write(what: str) -> None:
    program, message, instead = NO_VALUE[what]
    said = refusal(Task("mine", program.named("it"), ("a", "b"), 1, 3))
    assert said == f"task 'mine': 'it': {message}"
    if instead is not None:
        outputs = program_outputs(all_inputs(Task("mine", instead, ("a", "b"), 1, 3), 100, 0))
        assert len(list(outputs.values())[-1].values) > 1


class Place(NamedTuple):
    """A token and its position."""

    token: str
    at: int


class Kind(enum.Enum):
    """A kind of token."""

    A, OTHER = "a", "other"


@dataclass(frozen=True)
class Cell:
    """A token."""

    token: str


VALUES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "a NamedTuple": (lambda token: Place(token, 1), lambda place: place.token),
    "a NamedTuple of numpy's": (
        lambda token: Place(token, np.int64(1)),  # type: ignore[arg-type]
        lambda place: place.token * place.at,
    ),
    "a NamedTuple or a tuple": (
        lambda token: Place(token, 1) if token == "a" else (token, 1),
        lambda place: place.token if isinstance(place, Place) else place[0],
    ),
    "an Enum": (lambda token: Kind.A if token == "a" else Kind.OTHER, lambda kind: kind.value),
    "a frozen dataclass": (Cell, lambda cell: cell.token),
    "bytes": (lambda token: token.encode(), lambda text: text.decode()),
    "a fraction": (lambda token: Fraction(1, 1 + ord(token)), lambda part: part.denominator),
    "a frozenset": (lambda token: frozenset({token, np.int64(1)}), lambda some: "a" in some),
}


@pytest.mark.parametrize("what", VALUES)
def test_any_value_that_has_a_hash_may_lie_between_two_maps(what: str) -> None:
    into, out = VALUES[what]
    program = rasp.Map(out, rasp.Map(into, rasp.tokens).named("between"), simplify=False)
    task = Task("mine", program.named("it"), ("a", "b"), 1, 2)
    inputs = input_set(task, SMALL)
    assert isinstance(inputs.output, Categorical)
    assert set(inputs.output.values) == {out(into(token)) for token in "ab"}
    assert build_reference(inputs).exact


def test_a_value_without_a_hash_is_refused_wherever_it_lies() -> None:
    for function in (lambda x: Cell([x]), lambda x: Place(x, [1]), lambda x: {x: 1}):  # type: ignore[arg-type]
        assert "it gives a value of type" in refusal(mapping(function, ("a", "b")))


def test_values_of_numpy_are_pythons_own() -> None:
    function = lambda x: (np.int64(x), np.bool_(x > 1), np.float32(0.5), np.str_("x"))  # noqa: E731
    inputs = input_set(mapping(function), SMALL)
    assert inputs.output == Categorical(tuple((x, x > 1, 0.5, "x") for x in (0, 1, 2)))
    values = list(inputs.variables.values())[-1].values
    kinds = {tuple(map(type, value)) for value in values if isinstance(value, tuple)}
    assert kinds == {(int, bool, float, str)}


@pytest.mark.parametrize(
    ("raises_at", "advice"),
    [
        ({1}, "; it does not raise on lists of 2 to 4 tokens: task.min_length=2"),
        ({1, 2}, "; it does not raise on lists of 3 to 4 tokens: task.min_length=3"),
        ({4}, "; it does not raise on lists of 1 to 3 tokens: task.max_length=3"),
        ({2}, ""),
        ({1, 4}, ""),
        ({1, 2, 3, 4}, ""),
    ],
)
def test_a_program_that_raises_at_some_lengths_is_told_of_the_others(
    raises_at: set[int], advice: str
) -> None:
    program = rasp.Map(lambda n: 1 // 0 if n in raises_at else n % 2, rasp.length)
    task = Task("mine", program, ("a", "b"), 1, 4)
    tokens = ["a"] * min(raises_at)
    said = refusal(task)
    assert said == (
        f"task 'mine': the program raises on the input {tokens}: ZeroDivisionError: integer "
        "division or modulo by zero; change the program, task.vocabulary, or what task.restrict "
        f"lets in{advice}"
    )
    if advice:
        key, value = advice.rpartition("task.")[2].split("=")
        assert len(input_set(replace(task, **dict[str, Any]({key: int(value)})), SMALL)) > 1


def test_an_inner_number_that_is_none_is_refused_by_its_name() -> None:
    number = rasp.numerical(rasp.Map(lambda token: token, rasp.tokens).named("letter"))
    program = rasp.Map(lambda x: x == "a", number, simplify=False)
    said = refusal(Task("mine", program, ("a", "b"), 1, 2))
    assert said == "task 'mine': 'letter' is numerical, but can be 'a': not a finite number"


def test_a_number_that_is_computed_to_be_nan_is_refused_as_such() -> None:
    task = mapping(lambda x: x * 1e308 * 10 - x * 1e308 * 10 if x else 1.0)
    assert "the program's output is nan: outputs must be finite" in refusal(task)


def test_an_error_of_several_lines_is_reported_on_one() -> None:
    def fails(x: Any) -> Any:
        raise ValueError("first line\nsecond line")

    assert "ValueError: first line" in refusal(mapping(fails))


@pytest.mark.parametrize("value", [10**400, 1e300, -1e39], ids=["int", "float", "negative"])
def test_numbers_too_large_for_single_precision_are_refused(value: float) -> None:
    message = refusal(mapping(lambda x: x * value, numerical=True))
    assert f"is numerical, but can be {value!r}" in message


def test_integers_of_any_size_are_classes() -> None:
    inputs = input_set(mapping(lambda x: (-(10**400), 0.5, 10**400)[x]), SMALL)
    assert inputs.output == Categorical((-(10**400), 0.5, 10**400))


def drawing() -> Callable[[Any], Any]:
    generator = random.Random(0)
    return lambda _: generator.random()


def counting() -> Callable[[Any], Any]:
    counter = itertools.count()
    return lambda _: next(counter)


def remembering() -> Callable[[Any], Any]:
    met: set[Any] = set()
    return lambda x: x in met or bool(met.add(x))  # type: ignore[func-returns-value]


@pytest.mark.parametrize("make", [drawing, counting, remembering])
def test_a_program_that_is_no_function_of_its_input_is_refused(
    make: Callable[[], Callable[[Any], Any]],
) -> None:
    message = refusal(mapping(make()))
    assert message.startswith("task 'mapping': 'mapped' on the input [0")
    assert message.endswith("]: the program's functions must depend on their arguments alone")


def test_a_program_that_raises_the_second_time_is_refused() -> None:
    values = iter([0, 1, 2])
    message = refusal(mapping(lambda x: next(values)))
    assert message.startswith("task 'mapping': the program raises on the input [0, 0]: StopIter")


@given(
    values=st.lists(
        st.integers(-4000, 4000).map(lambda n: n / 1000), min_size=2, max_size=6, unique=True
    )
)
@settings(deadline=None)
def test_the_tolerance_left_open_is_below_half_of_the_smallest_gap(values: list[float]) -> None:
    variable = Variable(torch.zeros(1, 1, dtype=torch.int32), tuple(values), True)
    output = output_of(mapping(abs), variable)
    assert isinstance(output, Numerical)
    gaps = [abs(a - b) for a, b in itertools.combinations(values, 2)]
    assert 0 < output.tolerance < min(gaps) / 2
    assert output.tolerance == pytest.approx(min(0.05, 0.4 * min(gaps)), rel=1e-2)
    assert output_of(mapping(abs, tolerance=0.75), variable) == Numerical(0.75)


def test_the_order_of_classes_is_no_matter_of_the_order_in_which_they_occur() -> None:
    forth = input_set(mapping(lambda x: "cab"[x]), SMALL)
    back = input_set(mapping(lambda x: "cab"[x], (2, 1, 0)), SMALL)
    mixed = input_set(mapping(lambda x: ("b", 2, False)[x]), SMALL)
    assert forth.output == back.output == Categorical(("a", "b", "c"))
    assert mixed.output == Categorical((False, 2, "b"))


# Splits


@given(
    sizes=sizes,
    unique=st.booleans(),
    share=st.floats(0.0, 0.99),
    seed=st.integers(0, 99),
    budget=st.integers(10, 60),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_split_holds_out_its_share_of_each_length_and_whole_lengths_and_leaks_no_list(
    sizes: tuple[int, int, int],
    unique: bool,
    share: float,
    seed: int,
    budget: int,
    data: st.DataObject,
) -> None:
    size, shortest, more = sizes
    longest = min(shortest + more, size) if unique else shortest + more
    task = sized(size, min(shortest, longest), longest, unique)
    raw = all_inputs(task, budget, 0)
    whole = data.draw(st.lists(st.sampled_from(task.lengths), unique=True))
    held_out = split(raw, share, whole, seed)
    assert torch.equal(held_out, split(raw, share, whole, seed))
    lists = [tuple(xs) for xs in raw.lists()]
    held = {xs for xs, out in zip(lists, held_out.tolist(), strict=True) if out}
    trained = {xs for xs, out in zip(lists, held_out.tolist(), strict=True) if not out}
    assert not held & trained
    assert len(held) + len(trained) == len(raw)
    for length, count in counts(raw).items():
        n_held = sum(len(xs) == length for xs in held)
        if length in whole:
            assert n_held == count
        else:
            assert n_held == min(int(share * count + 0.5), count - 1)


def test_sampled_inputs_are_held_out_by_rows_that_the_encoding_tells_apart() -> None:
    config = TaskConfig(vocabulary=list("abcdefghij"), max_length=12, max_inputs=3000, held_out=0.3)
    inputs = input_set(make_task(config), config)
    train, held = inputs.rows("train"), inputs.rows("held_out")
    lists = [tuple(inputs.listed(row)) for row in range(len(inputs))]
    parts = [{lists[i] for i in torch.nonzero(rows)[:, 0].tolist()} for rows in (train, held)]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == len(inputs)
    assert not inputs.exhaustive
    for n in inputs.task.lengths:
        there = int(inputs.rows("all", n).sum())
        assert int(inputs.rows("held_out", n).sum()) == int(0.3 * there + 0.5)


@pytest.mark.parametrize(("share", "held"), [(0.99, 3), (0.5, 2), (0.2, 1), (0.1, 0)])
def test_of_four_inputs_one_at_least_is_trained_on(share: float, held: int) -> None:
    assert int(split(all_inputs(sized(4, 1, 1), 4, 0), share, [], 0).sum()) == held


def test_another_split_seed_holds_out_other_inputs() -> None:
    raw = all_inputs(DEFAULT, 20_000, 0)
    held, other = (split(raw, 0.1, [], seed) for seed in (0, 1))
    assert held.sum() == other.sum() == 0 + 2 + 6 + 26 + 102
    assert not torch.equal(held, other)


def test_a_held_out_length_leaves_the_split_of_the_others_alone() -> None:
    config = TaskConfig(held_out_lengths=[3])
    without, with_length = (
        input_set(DEFAULT, task_config) for task_config in (TaskConfig(), config)
    )
    assert torch.equal(with_length.held_out, without.held_out | (without.lengths == 3))
    assert not with_length.rows("train", 3).any()


def test_rows_are_told_apart_by_split_and_length() -> None:
    config = TaskConfig(held_out=0.3, held_out_lengths=[2])
    inputs = input_set(sized(3, 1, 3), config)
    train, held_out = inputs.rows("train"), inputs.rows("held_out")
    assert torch.equal(train, ~held_out)
    assert inputs.rows("all").all()
    assert Counter(inputs.lengths[held_out].tolist()) == {1: 1, 2: 9, 3: 8}
    for length in inputs.task.lengths:
        assert torch.equal(inputs.rows("train", length), train & (inputs.lengths == length))


# Digests and differences


def digest(**fields: Any) -> str:
    config = TaskConfig(**{"name": "pair_balance", "max_length": 3, **fields})
    return input_set(make_task(config), config).digest()


@pytest.mark.parametrize(
    "fields",
    [
        {"program": "frac_prevs"},
        {"program": "pair_balance_by_counting"},
        {"tolerance": 0.03},
        {"vocabulary": ["(", ")", "b", "c"]},
        {"vocabulary": [")", "(", "a"]},
        {"max_length": 4},
        {"min_length": 2},
        {"causal": True},
        {"restrict": "unique"},
        {"max_inputs": 20},
    ],
)
def test_the_digest_changes_with(fields: dict[str, Any]) -> None:
    assert digest(**fields) != digest()


@pytest.mark.parametrize(
    "fields",
    [{"split_seed": 7}, {"held_out": 0.5}, {"held_out_lengths": [2]}, {"alternatives": []}],
)
def test_the_digest_of_all_inputs_does_not_change_with(fields: dict[str, Any]) -> None:
    assert digest(**fields) == digest()


def test_the_digest_and_the_order_of_classes_are_the_same_in_every_process() -> None:
    script = """
import hashlib
from tracr.rasp import rasp
from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import input_set
from algomatch.data.registered_tasks import REGISTRY
from algomatch.data.tasks import Task, make_task

for name in REGISTRY:
    config = TaskConfig(name=name, max_inputs=100)
    inputs = input_set(make_task(config), config)
    print(name, inputs.digest(), inputs.output)
kinds = {"a": "one", "b": ("two", 2), "c": 3, "d": False, "e": ("one", 1)}
program = rasp.Map(lambda x: kinds[x], rasp.tokens).named("kinds")
inputs = input_set(Task("kinds", program, tuple(sorted(set(kinds))), 1, 2), config)
print(inputs.digest(), inputs.output, [v.values for v in inputs.variables.values()])
"""
    printed = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        printed.add(done.stdout)
    (lines,) = printed
    assert len(lines.splitlines()) == len(REGISTRY) + 1
    config = TaskConfig(name="reverse", max_inputs=100)
    inputs = input_set(make_task(config), config)
    assert lines.splitlines()[0] == f"reverse {inputs.digest()} {inputs.output}"


@pytest.mark.parametrize("name", REGISTRY)
def test_an_alternative_differs_from_its_program_on_no_input(name: str) -> None:
    task = make_task(TaskConfig(name=name))
    inputs = input_set(task, SMALL)
    for other in task.alternatives:
        assert difference(inputs, input_set(task.with_program(other), SMALL)) is None


@pytest.mark.parametrize(
    ("task", "other", "wanted"),
    [
        (mapping(abs), mapping(lambda x: x % 2), "[2] gives [2] and [0]"),
        (mapping(lambda x: x % 2), mapping(lambda x: x > 1), "[1] gives [1] and [False]"),
        (mapping(abs), mapping(lambda x: x or None), "[0] gives [0] and [None]"),
        (
            mapping(lambda x: x / 3, numerical=True),
            mapping(lambda x: x / 2, numerical=True),
            "[1] gives [0.3333333333333333] and [0.5]",
        ),
        (mapping(abs), mapping(abs, numerical=True), None),
        (
            mapping(lambda x: x / 3 if x else None, numerical=True),
            mapping(lambda x: x / 3 + 1e-9 if x else None, numerical=True),
            None,
        ),
    ],
)
def test_the_first_input_on_which_two_programs_differ_is_named(
    task: Task, other: Task, wanted: str | None
) -> None:
    assert difference(input_set(task, SMALL), input_set(other, SMALL)) == wanted
