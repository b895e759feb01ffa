"""The batched interpreter gives the values of Tracr's evaluators, which take one input each."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracr.rasp import causal_eval, rasp

from algomatch.config.schema import TaskConfig
from algomatch.data import interpreter
from algomatch.data.interpreter import Column, Interpreter, ProgramError, Value, trace
from algomatch.data.rasp.text import variables
from algomatch.data.registered_tasks import REGISTRY
from algomatch.data.tasks import make_task

TASKS = {name: make_task(TaskConfig(name=name)) for name in REGISTRY}
EVALUATORS = {False: rasp.DefaultRASPEvaluator, True: causal_eval.CausalEvaluator}
VOCABULARIES: list[tuple[Value, ...]] = [
    (0, 1, 2),
    (True, 2),
    (1, True, 0.5),
    (1, 1.0, False),
    (-1.5, 0.1, 3),
    ("a", "b", "c"),
    ("a", 2),
]

MAPS: dict[str, Callable[[Any], Any]] = {
    "twice": lambda x: x * 2,
    "one more": lambda x: x + 1,
    "half": lambda x: x / 2,
    "type": lambda x: type(x).__name__,
    "true": lambda x: x is True,
    "negated": lambda x: not x,
    "no ones": lambda x: None if x == 1 else x,
    "number": lambda x: len(x) if isinstance(x, (str, tuple)) else x,
    "pair": lambda x: (x, 1),
}
SEQUENCE_MAPS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda x, y: x + y,
    "same": lambda x, y: x == y,
    "same type": lambda x, y: type(x) is type(y),
    "greatest": max,
    "and": lambda x, y: x and y,
    "unless same": lambda x, y: None if x == y else x,
    "pair": lambda x, y: (x, y),
}
PREDICATES: dict[str, Callable[[Any, Any], Any]] = {
    **{comparison.name: comparison for comparison in rasp.Comparison},
    "same": lambda key, query: key == query,
    "undefined key": lambda key, _: key is None,
    "both defined": lambda key, query: key is not None and query is not None,
    "one is undefined": lambda key, query: (key is None) != (query is None),
    "true": lambda key, _: key is True,
    "a query": lambda _, query: query,
    "same type": lambda key, query: type(key) is type(query),
}
DEFAULTS = (None, 0, 0.0, False, -1, "none")


@st.composite
def programs(draw: st.DrawFn) -> list[Any]:
    """Draw expressions, each made from earlier ones."""

    def drawn(choices: Sequence[Any]) -> Any:
        return choices[draw(st.integers(0, len(choices) - 1))]

    def late(choices: Sequence[Any]) -> Any:  # prefer recent expressions, for deeper programs
        return drawn(choices[-3:]) if draw(st.booleans()) else drawn(choices)

    sops: list[Any] = [rasp.tokens, rasp.indices, rasp.length, rasp.Full(drawn((0, 1, True, "a")))]
    selectors: list[Any] = [rasp.Select(rasp.tokens, rasp.indices, drawn([*PREDICATES.values()]))]
    for _ in range(draw(st.integers(1, 10))):
        match draw(st.integers(0, 8)):
            case 0:
                sops.append(rasp.Map(drawn([*MAPS.values()]), late(sops), simplify=False))
            case 1:
                functions = [*SEQUENCE_MAPS.values()]
                sops.append(rasp.SequenceMap(drawn(functions), late(sops), late(sops)))
            case 2:
                sops.append(rasp.LinearSequenceMap(late(sops), drawn(sops), 2, -0.5))
            case 3:
                sops.append(rasp.SelectorWidth(late(selectors)))
            case 4 | 5:
                sops.append(rasp.Aggregate(late(selectors), late(sops), drawn(DEFAULTS)))
            case 6:
                predicate = drawn([*PREDICATES.values()])
                selectors.append(rasp.Select(late(sops), late(sops), predicate))
            case 7:
                kind = drawn([rasp.SelectorAnd, rasp.SelectorOr])
                selectors.append(kind(late(selectors), late(selectors)))
            case 8:
                selectors.append(rasp.SelectorNot(late(selectors)))
    return [*sops, *selectors]


def all_of(vocabulary: Sequence[Value], length: int) -> Column:
    rows = list(itertools.product(range(len(vocabulary)), repeat=length))
    return Column(np.array(rows, dtype=np.int32), tuple(vocabulary))


def typed(values: Sequence[Any]) -> list[Any]:
    return [(type(value), typed(value) if isinstance(value, tuple) else value) for value in values]


def overriding(causal: bool, overrides: Sequence[tuple[Any, list[Value]]] = ()) -> Any:
    """Return one of Tracr's evaluators in which some s-ops have given values."""

    base: Any = EVALUATORS[causal]

    class Evaluator(base):  # type: ignore[misc]
        def evaluate(self, expr: Any, xs: Sequence[Value]) -> Any:
            given = [values for sop, values in overrides if sop is expr]
            return given[0] if given else super().evaluate(expr, xs)

    return Evaluator()


def check(
    expression: Any, tokens: Column, causal: bool, overrides: Sequence[tuple[Any, Column]] = ()
) -> bool:
    """Compare with Tracr on every input; return whether the expression has a value on all."""
    batched = Interpreter(tokens, causal, overrides)
    is_selector = isinstance(expression, rasp.Selector)
    try:
        ours: Any = (batched.selection if is_selector else batched.column)(expression)
    except ProgramError as error:
        xs = tokens.row(error.row)
        theirs = overriding(causal, [(sop, given.row(error.row)) for sop, given in overrides])
        with pytest.raises((TypeError, ValueError)):
            theirs.evaluate(expression, xs)
        return False
    for row in range(len(tokens.codes)):
        theirs = overriding(causal, [(sop, given.row(row)) for sop, given in overrides])
        stated = theirs.evaluate(expression, tokens.row(row))
        if is_selector:
            assert ours[row].tolist() == stated
        else:
            assert typed(ours.row(row)) == typed(stated)
    return True


@given(
    program=programs(),
    vocabulary=st.sampled_from(VOCABULARIES),
    length=st.integers(1, 3),
    causal=st.booleans(),
    direct=st.sampled_from([0, 6, interpreter.DIRECT]),
)
@settings(max_examples=150, deadline=None)
def test_every_expression_of_a_random_program_is_what_tracr_says(
    program: list[Any], vocabulary: tuple[Value, ...], length: int, causal: bool, direct: int
) -> None:
    tokens = all_of(vocabulary, length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "DIRECT", direct)
        for expression in program[4:]:
            check(expression, tokens, causal)


@given(
    program=programs(),
    vocabulary=st.sampled_from(VOCABULARIES[:2]),
    causal=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_an_overridden_s_op_counts_as_if_the_program_computed_it(
    program: list[Any], vocabulary: tuple[Value, ...], causal: bool, data: st.DataObject
) -> None:
    tokens = all_of(vocabulary, 2)
    sops = [expression for expression in program if isinstance(expression, rasp.SOp)]
    overridden = data.draw(st.lists(st.sampled_from(sops), min_size=1, max_size=2))
    given_values = data.draw(
        st.lists(st.sampled_from([None, 0, 1, True, 0.5, "a"]), min_size=1, max_size=4)
    )
    codes = data.draw(
        st.lists(
            st.integers(0, len(given_values) - 1),
            min_size=tokens.codes.size,
            max_size=tokens.codes.size,
        )
    )
    column = Column(np.array(codes).reshape(tokens.codes.shape), tuple(given_values))
    for expression in program:
        check(expression, tokens, causal, [(sop, column) for sop in overridden])


@pytest.mark.parametrize("name", REGISTRY)
def test_every_variable_of_every_task_is_what_tracr_says(name: str) -> None:
    task = TASKS[name]
    length = 4 if task.unique else 3
    tokens = all_of(task.vocabulary[:4], length)
    for program in (task.program, *task.alternatives.values()):
        assert all(check(sop, tokens, task.causal) for sop in variables(program).values())


@pytest.mark.parametrize("name", REGISTRY)
def test_an_override_changes_what_depends_on_it_as_tracr_says(name: str) -> None:
    task = TASKS[name]
    tokens = all_of(task.vocabulary[:3], 3)
    plain = Interpreter(tokens, task.causal)
    for sop in task.variables.values():
        column = plain.column(sop)
        donated = Column(np.roll(column.codes, 5, axis=0), column.values)
        assert Interpreter(tokens, task.causal, [(sop, donated)]).column(sop) is donated
        check(task.program, tokens, task.causal, [(sop, donated)])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("values", "means"),
    [
        ((1, 2, 4), [1.5, 3.0, 2.5, 7 / 3]),
        ((True, False), [0.5, 1.0, 0.0, 2 / 3]),
        ((True, 2, 0.5), [1.5, 0.75, 3.5 / 3]),
        ((0.1, 0.2, 0.3), [0.15000000000000002, (0.1 + 0.2 + 0.3) / 3]),
        ((2**40, 1), [(2**40 + 1) / 2]),
        ((2**31 - 1, 1 - 2**31, 4), [0.0, 4 / 3, (2**32 + 2) / 3]),
        ((2**62, 2**62 - 1, -3), [(2**62 + 2**62 - 1 - 3) / 3]),
    ],
)
def test_an_aggregate_of_several_numbers_is_their_mean(
    values: tuple[Value, ...], means: list[float], causal: bool
) -> None:
    everything = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
    mean = rasp.Aggregate(everything, rasp.tokens, default=None)
    tokens = all_of(values, 3)
    assert check(mean, tokens, causal)
    pair = Interpreter(all_of(values, 2)).column(mean)
    computed = {pair.row(row)[0] for row in range(len(pair.codes))}
    triple = Interpreter(tokens).column(mean)
    computed |= {triple.row(row)[0] for row in range(len(triple.codes))}
    assert set(means) <= computed


def test_an_aggregate_of_nothing_is_its_default_and_of_one_value_that_value() -> None:
    before = rasp.Select(rasp.indices, rasp.indices - 1, rasp.Comparison.EQ)
    tokens = all_of(("a", "b"), 3)
    for default in DEFAULTS:
        column = Interpreter(tokens).column(rasp.Aggregate(before, rasp.tokens, default))
        for row in range(8):
            assert typed(column.row(row)) == typed([default, *tokens.row(row)[:2]])


@pytest.mark.parametrize("direct", [0, interpreter.DIRECT])
def test_a_function_is_called_once_for_each_distinct_argument(
    direct: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "DIRECT", direct)
    calls: dict[str, list[Any]] = {"map": [], "sequence map": [], "predicate": []}

    def note(x: Any) -> Any:
        calls["map"].append(x)
        return x == "a"

    def note_pair(x: Any, y: Any) -> Any:
        calls["sequence map"].append((x, y))
        return x, y

    def note_keys(key: Any, query: Any) -> bool:
        calls["predicate"].append((key, query))
        return bool(key == query)

    noted = rasp.Map(note, rasp.tokens)
    pair = rasp.SequenceMap(note_pair, noted, rasp.indices)
    width = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.indices, note_keys))
    batched = Interpreter(all_of(("a", "b", "c"), 3))
    for sop in (rasp.SequenceMap(lambda x, y: (x, y), pair, width), pair, width, noted):
        batched.column(sop)
    assert sorted(calls["map"]) == ["a", "b", "c"]
    assert sorted(calls["sequence map"]) == list(itertools.product([False, True], range(3)))
    assert sorted(calls["predicate"]) == list(itertools.product("abc", range(3)))


def test_values_that_are_equal_but_of_two_types_are_kept_apart() -> None:
    kind = rasp.Map(lambda x: type(x).__name__, rasp.tokens)
    nested = rasp.Map(lambda x: type(x[0]).__name__, rasp.Map(lambda x: (x,), rasp.tokens, False))
    for sop in (kind, nested):
        column = Interpreter(all_of((1, True, 1.0), 1)).column(sop)
        assert [column.row(row) for row in range(3)] == [["int"], ["bool"], ["float"]]
    one_or_true = rasp.Map(lambda x: 1 if x == "a" else True, rasp.tokens)
    told = rasp.Map(lambda x: x is True, one_or_true, simplify=False)
    column = Interpreter(all_of(("a", "b"), 2)).column(told)
    assert [column.row(row) for row in range(4)] == [
        [x == "b", y == "b"] for x, y in itertools.product("ab", repeat=2)
    ]


def fails(x: Any) -> Any:
    raise KeyError(x)


@pytest.mark.parametrize("direct", [0, interpreter.DIRECT])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda x: rasp.Map(lambda t: 1 // t, x), "ZeroDivisionError: integer.*by zero"),
        (lambda x: rasp.SequenceMap(lambda t, i: 1 // (t + i), x, rasp.indices), "ZeroDivision"),
        (
            lambda x: rasp.SelectorWidth(rasp.Select(x, x, lambda key, query: 1 // (key * query))),
            "ZeroDivisionError",
        ),
        (lambda x: rasp.Map(lambda t: t or fails(t), x), "KeyError: 0"),
        (lambda x: rasp.Map(lambda t: t or ([t],), x), "it gives a value of type list"),
        (
            lambda x: rasp.Aggregate(
                rasp.Select(x, x, rasp.Comparison.EQ), rasp.Map(lambda t: t or "zero", x), 1
            ),
            r"an aggregate selects several of \['zero', 'zero'\]",
        ),
    ],
)
def test_an_error_names_its_reason_and_the_first_row_that_raises(
    make: Callable[[Any], Any], reason: str, direct: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "DIRECT", direct)
    rows = np.array([[1, 1], [2, 1], [2, 2], [0, 0], [1, 2], [0, 0]])
    batched = Interpreter(Column(rows, (0, 1, 2)))
    with pytest.raises(ProgramError, match=f"^{reason}") as caught:
        batched.column(make(rasp.tokens))
    assert caught.value.row == 3


def test_what_has_no_meaning_on_other_inputs_is_refused() -> None:
    batched = Interpreter(all_of((0, 1), 2))
    with pytest.raises(ProgramError, match=r"^ConstantSOp cannot be interpreted$"):
        batched.column(rasp.ConstantSOp([1, 2]))
    with pytest.raises(ProgramError, match=r"^ConstantSelector cannot be interpreted$"):
        batched.selection(rasp.ConstantSelector([[True, False], [False, True]]))


def test_a_chain_of_1500_s_ops_is_evaluated() -> None:
    sop: Any = rasp.tokens
    for step in range(1500):
        if step % 3:
            sop = rasp.Map(lambda x: (x + 1) % 7, sop, simplify=False)
        else:
            selector = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.EQ)
            sop = rasp.Aggregate(selector, sop)
    tokens = all_of((0, 1, 2), 2)
    column = Interpreter(tokens).column(sop)
    assert [column.row(row) for row in range(9)] == [
        [(x + 1000) % 7, (y + 1000) % 7] for x, y in itertools.product(range(3), repeat=2)
    ]


def test_what_is_shared_sixty_times_over_is_evaluated_once() -> None:
    shared: Any = rasp.tokens
    for _ in range(60):
        shared = rasp.SequenceMap(lambda x, y: (x + y) % 1000, shared, rasp.Map(abs, shared, False))
    column = Interpreter(all_of((1, 3), 1)).column(shared)
    assert [column.row(row) for row in range(2)] == [[2**60 % 1000], [3 * 2**60 % 1000]]
    assert trace({"shared": shared}, [3]) == {"shared": [3 * 2**60 % 1000]}


def test_an_expression_that_is_gone_is_not_taken_for_a_new_one() -> None:
    batched = Interpreter(all_of(("a", "b"), 2))
    gc.freeze()  # so that collecting the garbage of these lines takes no time
    try:
        for step in range(30):
            gc.collect()  # so that ids are reused
            assert batched.column(rasp.indices + step).row(0) == [step, step + 1]
            selector = rasp.Select(rasp.indices, rasp.indices + step, rasp.Comparison.EQ)
            assert batched.selection(selector)[0].sum() == max(0, 2 - step)
    finally:
        gc.unfreeze()


def test_no_inputs_have_no_values() -> None:
    empty = Column(np.empty((0, 3), dtype=np.int32), ("a", "b"))
    for task in TASKS.values():
        assert Interpreter(empty, task.causal).column(task.program).codes.shape == (0, 3)


@pytest.mark.parametrize("name", REGISTRY)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_a_trace_is_tracrs_own_value_of_each_variable(name: str, data: st.DataObject) -> None:
    task = TASKS[name]
    tokens = st.sampled_from(task.vocabulary)
    xs = data.draw(st.lists(tokens, min_size=1, max_size=task.max_length, unique=task.unique))
    evaluate = EVALUATORS[task.causal]().evaluate
    stated = {key: list(evaluate(sop, xs)) for key, sop in task.variables.items()}
    assert trace(task.variables, xs, task.causal) == stated


def test_a_trace_calls_a_function_anew_for_each_position_but_evaluates_an_s_op_once() -> None:
    calls: list[Value] = []

    def note(x: Value) -> Value:
        calls.append(x)
        return x

    shared = rasp.Map(note, rasp.tokens).named("shared")
    selector = rasp.Select(shared, shared, rasp.Comparison.EQ)
    program = rasp.SequenceMap(lambda x, y: (x, y), rasp.SelectorWidth(selector), shared)
    assert trace({"end": program}, ["a", "b", "a"]) == {"end": [(2, "a"), (1, "b"), (2, "a")]}
    assert calls == ["a", "b", "a"]
