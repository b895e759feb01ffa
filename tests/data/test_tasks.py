"""Tasks: what the registry row sets, what the config overrides, and what is refused."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracr.rasp import rasp

from algomatch.config.composition import compose, group_names
from algomatch.config.schema import TaskConfig
from algomatch.data import programs, tasks
from algomatch.data.registered_tasks import REGISTRY, RegisteredTask
from algomatch.data.tasks import BOS, PAD, Maker, Task, make_task
from algomatch.infra.errors import UserError

PROGRAMS = sorted({*REGISTRY, *(name for row in REGISTRY.values() for name in row.alternatives)})


def refusal(config: TaskConfig) -> str:
    with pytest.raises(UserError) as caught:
        make_task(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def register(
    monkeypatch: pytest.MonkeyPatch, make: Maker, *others: Maker, **registered: Any
) -> None:
    """Register a task `made` by a maker, with other makers' programs as its alternatives."""
    names = [f"other{number}" for number in range(len(others))]
    for name, maker in zip(["made", *names], [make, *others], strict=True):
        monkeypatch.setattr(programs, f"make_{name}", maker, raising=False)
    row = RegisteredTask("", ("a", "b"), lambda xs, _: xs, alternatives=(*names,), **registered)
    monkeypatch.setitem(REGISTRY, "made", row)


def made_by(make: Maker, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Task:
    """Return the task of a registry row with this maker."""
    register(monkeypatch, make, min_length=2, max_length=3)
    return make_task(TaskConfig(name="made", **changed))


def refused(make: Maker, monkeypatch: pytest.MonkeyPatch) -> str:
    register(monkeypatch, make, min_length=2, max_length=3)
    return refusal(TaskConfig(name="made"))


@pytest.mark.parametrize("name", REGISTRY)
def test_a_row_fills_what_the_config_leaves_open(name: str) -> None:
    row, task = REGISTRY[name], make_task(TaskConfig(name=name))
    assert (task.name, task.about) == (name, row.about)
    assert task.vocabulary == row.vocabulary
    assert (task.min_length, task.max_length) == (row.min_length, row.max_length)
    assert (task.causal, task.unique) == (row.causal, row.unique)
    assert task.accepts is None
    assert task.tolerance is None
    assert isinstance(task.program, rasp.SOp)
    applicable = {*row.alternatives} - {"reverse_by_position"}
    assert set(task.alternatives) == applicable != set()
    assert task.about


@pytest.mark.parametrize("name", REGISTRY)
def test_the_config_overrules_the_row(name: str) -> None:
    row = REGISTRY[name]
    vocabulary = [*row.vocabulary, 8, 9] if row.unique else list(reversed(row.vocabulary))
    task = make_task(
        TaskConfig(
            name=name,
            vocabulary=vocabulary,
            min_length=2,
            max_length=row.max_length + 2,
            causal=not row.causal,
            tolerance=0.25,
            restrict="none" if row.unique else None,
            alternatives=["reverse_by_counting", "rank_by_others"],
        )
    )
    assert task.vocabulary == tuple(vocabulary)
    assert list(task.lengths) == list(range(2, row.max_length + 3))
    assert task.n_ctx == row.max_length + 3
    assert task.causal != row.causal
    assert task.tolerance == 0.25
    assert not task.unique
    assert list(task.alternatives) == ["reverse_by_counting", "rank_by_others"]


@pytest.mark.parametrize("restrict", [None, "none", "unique"])
@pytest.mark.parametrize("name", ["sort", "sort_unique"])
def test_restrict_says_whether_a_token_may_come_twice(name: str, restrict: str | None) -> None:
    task = make_task(TaskConfig(name=name, restrict=restrict, max_length=3))
    assert task.unique == {None: name == "sort_unique", "none": False, "unique": True}[restrict]
    assert task.accepts is None


@given(size=st.integers(2, 4), shortest=st.integers(1, 4), more=st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_lists_of_a_length_are_counted(size: int, shortest: int, more: int) -> None:
    free = Task("any", rasp.tokens, tuple(range(size)), shortest, shortest + more)
    unique = replace(free, unique=True)
    for length in free.lengths:
        lists = list(itertools.product(free.vocabulary, repeat=length))
        assert free.count(length) == len(lists)
        assert unique.count(length) == len([xs for xs in lists if len(set(xs)) == length])
    assert free.n_ctx == 1 + len(lists[-1])


def test_the_number_of_lists_does_not_overflow() -> None:
    assert Task("any", rasp.tokens, tuple(range(30)), 20, 20).count(20) == 30**20


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_can_be_the_reference_and_the_others_are_then_its_alternatives(
    name: str,
) -> None:
    owner = next(task for task, row in REGISTRY.items() if name in (task, *row.alternatives))
    lengths: dict[str, Any] = {"min_length": 4, "max_length": 4} if owner == "reverse" else {}
    task = make_task(TaskConfig(name="mine", program=name, **lengths))
    usual = make_task(TaskConfig(name=owner, **lengths))
    assert task.name == "mine"
    assert task.vocabulary == usual.vocabulary
    assert {name, *task.alternatives} == {owner, *usual.alternatives}
    assert name not in task.alternatives
    wanted = usual.program if name == owner else usual.alternatives[name]
    xs = list(task.vocabulary[: task.max_length])
    assert list(task.variables) == list(replace(usual, program=wanted).variables)
    assert task.program(xs) == wanted(xs)
    assert make_task(TaskConfig(name=name, **lengths)).name == name
    assert set(task.algorithms) == {name, *task.alternatives}
    assert all(task.algorithms.values())


def test_an_alternative_in_the_programs_place_has_none_itself() -> None:
    task = make_task(TaskConfig(name="sort", max_length=4))
    other = task.with_program("sort_by_counting")
    assert other.program is task.alternatives["sort_by_counting"]
    assert (other.name, dict(other.alternatives)) == ("sort_by_counting", {})
    for field in fields(Task):
        if field.name not in ("name", "program", "alternatives"):
            assert getattr(other, field.name) == getattr(task, field.name)
    assert list(other.variables) != list(task.variables)


def test_a_control_condition_has_its_own_name_and_an_algorithm_more_than_its_task() -> None:
    fixed, free = (
        make_task(compose([f"task={name}"]).task) for name in ("reverse_fixed", "reverse")
    )
    assert (fixed.name, free.name) == ("reverse_fixed", "reverse")
    assert list(fixed.variables) == list(free.variables)
    assert list(fixed.lengths) == [5]
    assert set(fixed.alternatives) - set(free.alternatives) == {"reverse_by_position"}
    assert fixed.alternatives["reverse_by_position"]([1, 2, 3, 4, 5]) == [5, 4, 3, 2, 1]


def test_keys_of_the_command_line_reach_the_task() -> None:
    task = make_task(
        compose(
            [
                "task=sort",
                "task.program=sort_by_counting",
                "task.vocabulary=[3,1,2]",
                "task.causal=true",
                "task.restrict=unique",
                "task.max_length=3",
                "task.tolerance=0.125",
                "task.alternatives=[sort,rank]",
            ]
        ).task
    )
    assert (task.name, task.vocabulary, task.max_length) == ("sort", (3, 1, 2), 3)
    assert (task.causal, task.unique, task.tolerance) == (True, True, 0.125)
    assert list(task.alternatives) == ["sort", "rank"]
    assert task.alternatives["rank"]([3, 1, 2]) == [2, 0, 1]


# What is refused

NAMES = ", ".join(sorted({*REGISTRY, *group_names("task")}))
FILE = ", or path/to/file.py:function"

BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "revers"}, f"unknown task 'revers': did you mean 'reverse'? valid: {NAMES}{FILE}"),
    ({"name": "Zqxj"}, f"unknown task 'Zqxj': valid: {NAMES}{FILE}"),
    (
        {"program": "sort_by_couting"},
        "unknown task 'sort_by_couting': did you mean 'sort_by_counting'? valid: "
        f"{', '.join(PROGRAMS)}{FILE}",
    ),
    (
        {"alternatives": ["sort", "make_rank"]},
        "unknown program 'make_rank' (task.alternatives): did you mean 'rank'? valid: "
        f"{', '.join(PROGRAMS)}",
    ),
    (
        {"restrict": "uniq"},
        f"task.restrict=uniq: did you mean 'unique'? valid: none, unique{FILE}",
    ),
    ({"vocabulary": ["a"]}, "task.vocabulary=[a] must have at least 2 tokens"),
    ({"vocabulary": []}, "task.vocabulary=[] must have at least 2 tokens"),
    *(
        (
            {"vocabulary": vocabulary},
            f"task.vocabulary=[{', '.join(map(str, vocabulary))}] must not repeat a token, "
            "not even as a text and as a number",
        )
        for vocabulary in (["a", "b", "a"], [1, 1.0], [True, 1], [1, "1"], ["True", True])
    ),
    (
        {"vocabulary": ["a", None]},
        "task.vocabulary=[a, None]: tokens must be strings or numbers",
    ),
    (
        {"vocabulary": ["a", ["b"]]},
        "task.vocabulary=[a, ['b']]: tokens must be strings or numbers",
    ),
    (
        {"vocabulary": ["a", float("nan")]},
        "task.vocabulary=[a, nan]: a token must not be nan",
    ),
    (
        {"vocabulary": [PAD, "a", BOS]},
        "task.vocabulary=[PAD, a, BOS] must not hold the reserved BOS, PAD",
    ),
    ({"vocabulary": ["a", BOS]}, "task.vocabulary=[a, BOS] must not hold the reserved BOS"),
    ({"min_length": 6}, "task.min_length=6 must not exceed task.max_length=5"),
    (
        {"restrict": "unique"},
        "task.max_length=5 must not exceed the 4 tokens of task.vocabulary, because no token "
        "may come twice (task.restrict=unique)",
    ),
    (
        {"name": "sort_unique", "vocabulary": [2, 3]},
        "task.max_length=5 must not exceed the 2 tokens of task.vocabulary, because no token "
        "may come twice (task.restrict=unique)",
    ),
    (
        {"held_out_lengths": [3, 6, 0]},
        "task.held_out_lengths=[6, 0] must be among the lengths 1 to 5",
    ),
    (
        {"held_out_lengths": [2, 3], "min_length": 2, "max_length": 3},
        "task.held_out_lengths=[2, 3] leaves no length to train on",
    ),
    (
        {"program": "reverse_by_position"},
        "task 'reverse': reverse_by_position returned None: it must return an s-op, here for lists "
        "of 1 to 5 tokens",
    ),
    (
        {"program": "no_such_file.py:make_it"},
        "program file 'no_such_file.py' does not exist; give path/to/file.py:function",
    ),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_what_makes_no_task_is_refused_with_value_rule_and_choices(
    fields: dict[str, Any], message: str
) -> None:
    assert refusal(TaskConfig(**fields)) == message


# A maker's parameters and return values


def given_tokens(given_arguments: Any) -> Any:
    """Return an s-op that gives the arguments of its maker."""
    return rasp.Map(lambda _: str(given_arguments), rasp.tokens)


class AsClass:
    def __new__(cls, vocabulary: list[str]) -> Any:
        return given_tokens(vocabulary)


class AsObject:
    def __call__(self, max_length: int) -> Any:
        return given_tokens(max_length)


def asks_for_all(max_length: int, vocabulary: list[str], min_length: int) -> Any:
    return given_tokens((vocabulary, min_length, max_length))


def asks_by_keyword(*, min_length: int, other: int = 7) -> Any:
    return given_tokens((min_length, other))


def takes_anything(*values: Any, vocabulary: list[str], **more: Any) -> Any:
    return given_tokens((values, vocabulary, more))


def is_open_ended(*vocabulary: Any, **max_length: Any) -> Any:
    return given_tokens((vocabulary, max_length))


def has_a_default_by_position(vocabulary: Any = "own", /, max_length: int = 0) -> Any:
    return given_tokens((vocabulary, max_length))


def spoils_its_list(vocabulary: list[str]) -> Any:
    vocabulary.clear()
    return rasp.tokens


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: given_tokens("nothing"), "nothing"),
        (lambda vocabulary: given_tokens(vocabulary), "['a', 'b']"),
        (asks_for_all, "(['a', 'b'], 2, 3)"),
        (asks_by_keyword, "(2, 7)"),
        (takes_anything, "((), ['a', 'b'], {})"),
        (functools.partial(asks_for_all, min_length=9), "(['a', 'b'], 2, 3)"),
        (functools.partial(lambda suffix, max_length: given_tokens(suffix), "own"), "own"),
        (AsClass, "['a', 'b']"),
        (AsObject(), "3"),
    ],
)
def test_a_maker_gets_the_arguments_it_names_and_no_others(
    make: Maker, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made_by(make, monkeypatch).program(["a"]) == [said]


@pytest.mark.parametrize(
    ("make", "said"), [(is_open_ended, "((), {})"), (has_a_default_by_position, "('own', 3)")]
)
def test_a_name_that_no_keyword_can_reach_is_not_asked_for(
    make: Maker, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made_by(make, monkeypatch).program(["a"]) == [said]


def test_a_maker_cannot_change_the_tasks_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made_by(spoils_its_list, monkeypatch).vocabulary == ("a", "b")


def test_a_makers_list_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, spoils_its_list, asks_for_all)
    task = make_task(TaskConfig(name="made"))
    assert task.alternatives["asks_for_all"](["a"]) == ["(['a', 'b'], 1, 5)"]


def asks_too_much(vocabulary: list[str], size: int) -> Any:
    return rasp.tokens


def asks_by_position(vocabulary: list[str], /) -> Any:
    return rasp.tokens


def raises_an_error() -> Any:
    raise RuntimeError("of several\nlines")


def returns_a(value: Any) -> Callable[[], Any]:
    def returning() -> Any:
        return value

    return returning


ASKS = "it may only take vocabulary, min_length, max_length"
SOP = "it must return an s-op"
SEVERAL = ": one program; others that compute the same are named in task.alternatives"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (asks_too_much, f"the function 'asks_too_much' takes the argument 'size': {ASKS}"),
        (
            asks_by_position,
            f"the function 'asks_by_position' takes the argument 'vocabulary': {ASKS}",
        ),
        (
            returns_a(None),
            f"task 'made': returning returned None: {SOP}, here for lists of 2 to 3 tokens",
        ),
        *(
            (returns_a(value), f"the function 'returning' returned {kind}: {SOP} (rasp.SOp){more}")
            for value, kind, more in (
                (
                    rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ),
                    "a Select",
                    ", as rasp.SelectorWidth(selector) and rasp.Aggregate(selector, s_op) are",
                ),
                (3, "an int", ""),
                ([rasp.tokens], "a list", SEVERAL),
                ({"one": rasp.tokens}, "a dict", SEVERAL),
                (rasp.SOp, "an ABCMeta", ", and not a function of it"),
                (asks_for_all, "a function", ", and not a function of it"),
            )
        ),
    ],
)
def test_a_maker_that_makes_no_program_is_refused(
    make: Maker, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(make, monkeypatch) == message


def test_a_maker_that_raises_is_refused_with_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = raises_an_error.__code__.co_firstlineno + 1
    message = f"the function 'raises_an_error' raises (line {line}): RuntimeError: of several"
    assert refused(raises_an_error, monkeypatch).startswith(message)


@pytest.mark.parametrize("make", [dict, int, functools.partial(int)])
def test_a_callable_whose_arguments_are_not_known_is_refused(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(make, monkeypatch).startswith("the parameters of the function ")


def test_a_maker_that_leaves_the_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaves() -> Any:
        raise SystemExit("bye")

    assert refused(leaves, monkeypatch).startswith("the function 'leaves' raises (line ")


def test_a_program_that_needs_more_tokens_is_refused() -> None:
    message = refusal(TaskConfig(name="shuffle_dyck2", vocabulary=["(", ")"]))
    assert message.startswith("the function 'make_shuffle_dyck2' raises")
    assert message.endswith("ValueError: the program needs 4 tokens, but the vocabulary has 2")


def test_an_alternative_that_does_not_apply_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, asks_for_all, returns_a(None), AsClass)
    assert list(make_task(TaskConfig(name="made")).alternatives) == ["AsClass"]


def test_what_a_maker_may_ask_for_is_what_the_message_says() -> None:
    assert ", ".join(tasks.ASKED_FOR) in ASKS
