"""The fingerprint: equal for equal programs, different for different ones."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from tracr.rasp import rasp

from algomatch.config.schema import TaskConfig
from algomatch.data.programs import make_reverse
from algomatch.data.rasp.fingerprint import fingerprint
from algomatch.data.registered_tasks import REGISTRY
from algomatch.data.tasks import make_task

OFFSET = 1


def add_offset(x: int) -> int:
    return x + OFFSET


def with_global(value: object) -> Callable[[int], int]:
    """Return `add_offset` with another value of its global constant."""
    return FunctionType(add_offset.__code__, {"OFFSET": value})


def mapped(function: Any) -> Any:
    return rasp.Map(function, rasp.indices)


def adding(k: object) -> Any:
    return mapped(lambda x: x + k)


def table(entries: Any) -> Any:
    return mapped(lambda x: entries[x])


def calling(function: Any) -> Any:
    return mapped(lambda x: function(x))


def selecting(predicate: Any, swap: bool = False) -> Any:
    keys, queries = (rasp.indices, rasp.tokens) if swap else (rasp.tokens, rasp.indices)
    return rasp.SelectorWidth(rasp.Select(keys, queries, predicate))


def aggregating(default: int | None, sop: Any = rasp.tokens) -> Any:
    everywhere = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
    return rasp.Aggregate(everywhere, sop, default=default)


def class_doing(what: Callable[[int], int]) -> type:
    return type("Helper", (), {"do": staticmethod(what)})


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "a constant": (mapped(lambda x: x + 1), mapped(lambda x: x + 2)),
    "the type of a constant": (mapped(lambda x: x * 1), mapped(lambda x: x * 1.0)),
    "an operation": (mapped(lambda x: x + 1), mapped(lambda x: x - 1)),
    "a nested constant": (
        mapped(lambda x: (lambda y: y + 1)(x)),
        mapped(lambda x: (lambda y: y + 2)(x)),
    ),
    "a closure value": (adding(1), adding(2)),
    "the type of a closure value": (adding(1), adding(True)),
    "a closed-over table's value": (table({0: "a", 1: "b"}), table({0: "a", 1: "c"})),
    "a closed-over table's key": (table({0: "a", 1: "b"}), table({0: "a", 2: "b"})),
    "a closed-over list's order": (table(["a", "b"]), table(["b", "a"])),
    "a closed-over set": (table({1, 2}), table({1, 3})),
    "a closed-over function": (calling(lambda x: x + 1), calling(lambda x: x + 2)),
    "a default": (mapped(lambda x, k=1: x + k), mapped(lambda x, k=2: x + k)),
    "a keyword default": (mapped(lambda x, *, k=1: x + k), mapped(lambda x, *, k=2: x + k)),
    "a global constant": (mapped(with_global(1)), mapped(with_global(2))),
    "a global of a called function": (calling(with_global(1)), calling(with_global(2))),
    "a built-in": (mapped(lambda x: abs(x)), mapped(lambda x: bool(x))),
    "what a method is bound to": (mapped({0: "a"}.get), mapped({0: "b"}.get)),
    "a name read": (mapped(lambda x: x.real), mapped(lambda x: x.imag)),
    "a comparison": (selecting(rasp.Comparison.LT), selecting(rasp.Comparison.LEQ)),
    "a predicate": (selecting(lambda k, q: k == q), selecting(lambda k, q: k != q)),
    "keys and queries": (
        selecting(rasp.Comparison.EQ),
        selecting(rasp.Comparison.EQ, swap=True),
    ),
    "a name": (rasp.indices.named("a"), rasp.indices.named("b")),
    "an encoding": (adding(1), rasp.numerical(adding(1))),
    "an inner encoding": (
        aggregating(0, rasp.categorical(adding(1))),
        aggregating(0, rasp.numerical(adding(1))),
    ),
    "an aggregate's default": (aggregating(None), aggregating(0)),
    "a fill": (rasp.Full(1), rasp.Full(2)),
    "a constant s-op": (rasp.ConstantSOp([1, 2]), rasp.ConstantSOp([1, 3])),
    "a factor": (
        rasp.LinearSequenceMap(rasp.indices, rasp.length, 1, 2),
        rasp.LinearSequenceMap(rasp.indices, rasp.length, 1, 3),
    ),
    "an input": (aggregating(None, rasp.tokens), aggregating(None, rasp.indices)),
    "an order": (
        rasp.SequenceMap(lambda x, y: x, rasp.tokens, rasp.indices),
        rasp.SequenceMap(lambda x, y: x, rasp.indices, rasp.tokens),
    ),
    "a selector's kind": (
        rasp.SelectorWidth(
            rasp.SelectorAnd(rasp.ConstantSelector([[True]]), rasp.ConstantSelector([[False]]))
        ),
        rasp.SelectorWidth(
            rasp.SelectorOr(rasp.ConstantSelector([[True]]), rasp.ConstantSelector([[False]]))
        ),
    ),
    "which s-op is shared": (
        (lambda first, two: rasp.SequenceMap(lambda x, y: x, first + two, first))(
            adding(1), adding(1)
        ),
        (lambda first, two: rasp.SequenceMap(lambda x, y: x, first + two, two))(
            adding(1), adding(1)
        ),
    ),
}


@pytest.mark.parametrize("change", DIFFERENT)
def test_the_fingerprint_changes_with(change: str) -> None:
    program, other = DIFFERENT[change]
    assert fingerprint(program) is not None
    assert fingerprint(other) is not None
    assert fingerprint(program) != fingerprint(other)


@pytest.mark.parametrize(
    "make",
    [
        make_reverse,
        lambda: adding(3),
        lambda: table({0: "a", 1: ("b", None)}),
        lambda: calling(with_global(frozenset({"a", "b"}))),
        lambda: mapped(lambda x, k=2.5: x in {"a", "b", k}),
        lambda: selecting(lambda k, q: k < q),
    ],
)
def test_two_calls_of_a_maker_give_one_fingerprint(make: Callable[[], Any]) -> None:
    assert fingerprint(make()) == fingerprint(make()) is not None


def test_every_program_has_a_stable_fingerprint_of_its_own() -> None:
    def prints() -> dict[str, str | None]:
        fingerprints: dict[str, str | None] = {}
        for name in REGISTRY:
            task = make_task(TaskConfig(name=name))
            fingerprints |= {key: fingerprint(sop) for key, sop in task.alternatives.items()}
            fingerprints[name] = fingerprint(task.program)
        return fingerprints

    first = prints()
    assert first == prints()
    assert None not in first.values()
    assert len(set(first.values())) == len(first) > 2 * len(REGISTRY)


def test_the_vocabulary_and_the_lengths_that_a_program_holds_are_in_its_fingerprint() -> None:
    def of(**fields: Any) -> str | None:
        return fingerprint(make_task(TaskConfig(name="sort", **fields)).program)

    assert of() == of(min_length=2)
    assert len({of(), of(max_length=6), of(vocabulary=[1, 2, 3]), of(vocabulary=[4, 3, 2, 1])}) == 3


def test_a_deep_program_is_described_in_little_time_and_space() -> None:
    program = rasp.indices
    for step in range(60):
        program = rasp.SequenceMap(lambda x, y: x + y, program, program).named(f"{step}")
    tracemalloc.start()
    try:
        assert fingerprint(program) is not None
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_where_the_source_stands_does_not_matter() -> None:
    here = mapped(lambda x: x + 1)

    elsewhere = mapped(lambda x: x + 1)
    assert fingerprint(here) == fingerprint(elsewhere)


def test_a_function_that_calls_itself_is_described() -> None:
    def countdown(x: int) -> int:
        return countdown(x - 1) if x else 0

    assert fingerprint(mapped(countdown)) is not None


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    script = """
from tracr.rasp import rasp
from algomatch.config.schema import TaskConfig
from algomatch.data.rasp.fingerprint import fingerprint
from algomatch.data.registered_tasks import REGISTRY
from algomatch.data.tasks import make_task

shared = ("x", "y")
tagged = {(letter, shared) for letter in "pqrstuv"}
known = {"one": 1, "two": 2}
for program in [
    *(make_task(TaskConfig(name=name)).program for name in REGISTRY),
    rasp.Map(lambda x: x in {"a", "b", "c", "d"}, rasp.tokens),
    rasp.Map(lambda x: (known, frozenset(known)), rasp.tokens),
    rasp.SequenceMap(lambda x, y: (x, y) in tagged, rasp.tokens, rasp.indices),
]:
    print(fingerprint(program))
"""
    printed = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        printed.add(done.stdout)
    (lines,) = printed
    assert len(lines.split()) == len(REGISTRY) + 3
    assert "None" not in lines


def test_what_has_no_stable_description_has_no_fingerprint(tmp_path: Path) -> None:
    class Stateful:
        def shift(self, x: int) -> int:
            return x

    with (tmp_path / "table.txt").open("w") as file:
        assert fingerprint(adding(file)) is None
    assert fingerprint(adding(threading.Lock())) is None
    assert fingerprint(adding({"deep": [threading.Lock()]})) is None
    assert fingerprint(mapped(with_global(threading.Lock()))) is None
    assert fingerprint(mapped(FunctionType(add_offset.__code__, {}, argdefs=(iter([1]),)))) is None
    assert fingerprint(mapped(functools.partial(add_offset))) is None
    assert fingerprint(mapped(Stateful().shift)) is None
    assert fingerprint(calling(ModuleType("helpers"))) is None


def test_two_classes_of_one_name_never_share_a_fingerprint() -> None:
    program = calling(class_doing(lambda x: x + 1))
    other = calling(class_doing(lambda x: x + 2))
    assert fingerprint(program) is None or fingerprint(program) != fingerprint(other)


def test_an_unbound_closure_has_no_fingerprint() -> None:
    def later(x: int) -> int:
        return helper(x)

    program = mapped(later)
    digest = fingerprint(program)

    def helper(x: int) -> int:
        return x

    assert digest is None
    assert fingerprint(program) is not None


def test_a_program_of_any_length_has_a_fingerprint() -> None:
    def chain(steps: int) -> Any:
        sop = rasp.tokens
        for _ in range(steps):
            sop = rasp.Map(lambda token: token, sop, simplify=False)
        return sop

    program, again, other = chain(1500), chain(1500), chain(1499)
    assert fingerprint(program) == fingerprint(again) != fingerprint(other)
    assert fingerprint(program) is not None
