"""Every program, alternatives included, gives the outputs of a plain Python oracle of its task."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from tracr.rasp import causal_eval, rasp

from algomatch.config.schema import TaskConfig
from algomatch.data.registered_tasks import REGISTRY
from algomatch.data.tasks import Task, make_task
from algomatch.infra.errors import UserError

MOST_INPUTS = 400  # the oracles see all inputs up to the greatest length that has no more than this

TASKS = {name: make_task(TaskConfig(name=name)) for name in REGISTRY}
CAUSAL_CAPABLE = (
    "frac_prevs",
    "pair_balance",
    "previous_token",
    "shift_by",
    "detect_pattern",
    "first_occurrence",
)
ALTERNATIVES = [(name, other) for name, task in TASKS.items() for other in task.alternatives]


class Remembering(rasp.DefaultRASPEvaluator):  # type: ignore[misc]
    """Tracr's evaluator, which evaluates each expression once per input."""

    def __init__(self, xs: list[Any]) -> None:
        super().__init__()
        self.xs = xs
        self.known: dict[int, Any] = {}

    def evaluate(self, expr: Any, xs: Any) -> Any:
        if id(expr) not in self.known:
            self.known[id(expr)] = super().evaluate(expr, xs)
        return self.known[id(expr)]


class CausallyRemembering(Remembering, causal_eval.CausalEvaluator):  # type: ignore[misc]
    """The same with Tracr's causal mask: its evaluator is next in the method resolution order."""


def run(program: Any, xs: list[Any], causal: bool) -> list[Any]:
    evaluator = (CausallyRemembering if causal else Remembering)(xs)
    return list(evaluator.evaluate(program, xs))


def inputs(task: Task, most: int | None = None) -> Iterator[list[Any]]:
    """Yield every input, shortest first, up to the length that would give too many."""
    total = 0
    for length in range(task.min_length, task.max_length + 1):
        if task.unique:
            lists = [list(xs) for xs in itertools.permutations(task.vocabulary, length)]
        else:
            lists = [list(xs) for xs in itertools.product(task.vocabulary, repeat=length)]
        total += len(lists)
        if most is not None and total > most:
            return
        yield from lists


def expressions(program: Any) -> list[Any]:
    """Return every expression of a program once."""
    seen: dict[int, Any] = {}

    def visit(expression: Any) -> None:
        if id(expression) not in seen:
            seen[id(expression)] = expression
            for child in expression.children:
                visit(child)

    visit(program)
    return list(seen.values())


def programs(task: Task) -> dict[str, Any]:
    return {"reference": task.program, **task.alternatives}


@pytest.mark.parametrize("name", REGISTRY)
def test_a_program_computes_what_a_plain_statement_of_it_says(name: str) -> None:
    task, n_inputs = TASKS[name], 0
    for xs in inputs(task, MOST_INPUTS):
        n_inputs += 1
        outputs, stated = (
            run(task.program, xs, task.causal),
            REGISTRY[name].oracle(xs, task.vocabulary),
        )
        assert outputs == stated, f"{name} on {xs}"
        assert [type(x) is bool for x in outputs] == [type(x) is bool for x in stated]
    assert n_inputs > 50


@pytest.mark.parametrize(("name", "other"), ALTERNATIVES)
def test_an_alternative_equals_its_program_on_every_input(name: str, other: str) -> None:
    task = TASKS[name]
    alternative = task.alternatives[other]
    for xs in inputs(task):
        expected = run(task.program, xs, task.causal)
        assert run(alternative, xs, task.causal) == expected, f"{other} on {xs}"


def test_a_position_map_reverses_lists_of_one_length_only() -> None:
    fixed = make_task(TaskConfig(name="reverse", min_length=4, max_length=4))
    added = set(fixed.alternatives) - set(TASKS["reverse"].alternatives)
    assert len(added) == 1
    for xs in inputs(fixed):
        assert run(fixed.alternatives[min(added)], xs, causal=False) == xs[::-1]


@pytest.mark.parametrize("name", REGISTRY)
def test_every_program_names_its_steps_and_is_named_after_its_task(name: str) -> None:
    unnamed = {"map", "sequence_map", "linear_sequence_map", "aggregate", "selector_width"}
    for label, program in programs(TASKS[name]).items():
        names = [expression.name for expression in expressions(program)]
        assert len(names) == len(set(names)), f"{label} of {name} gives a name twice"
        assert not {*unnamed, "select"} & set(names), f"{label} of {name} leaves a step unnamed"
        assert not any(set("/@\n") & set(step) for step in names)
        assert program.name == name
        assert "tokens" in names


@pytest.mark.parametrize("name", REGISTRY)
def test_an_alternative_shares_no_way_of_computing_with_its_program(name: str) -> None:
    task = TASKS[name]
    samples = list(inputs(task, MOST_INPUTS))[-60:]

    def steps(program: Any) -> set[str]:
        """The values of the steps on some inputs, which tell two algorithms apart."""
        sops = [e for e in expressions(program) if isinstance(e, rasp.SOp)]
        return {
            repr([run(sop, xs, task.causal) for xs in samples])
            for sop in sops
            if sop.name not in ("tokens", "indices", program.name)
        }

    for label, alternative in task.alternatives.items():
        assert steps(alternative) != steps(task.program), f"{label} of {name}"


@pytest.mark.parametrize(
    "name",
    CAUSAL_CAPABLE,
)
def test_a_causal_capable_program_computes_the_same_under_either_mask(name: str) -> None:
    task = TASKS[name]
    for xs in inputs(task, MOST_INPUTS):
        for program in programs(task).values():
            assert run(program, xs, causal=True) == run(program, xs, causal=False)


@pytest.mark.parametrize("name", ["sort", "most_freq", "hist", "first_occurrence"])
def test_vocabularies_of_any_words_and_order_are_taken(name: str) -> None:
    vocabulary = ["/", "b c", "@", "a"]
    config = TaskConfig(name=name, vocabulary=vocabulary, max_length=3)
    task = make_task(config)
    for xs in inputs(task):
        for label, program in programs(task).items():
            assert run(program, xs, causal=False) == REGISTRY[name].oracle(xs, vocabulary), label
    for program in programs(task).values():
        assert not any(set("/@\n") & set(e.name) for e in expressions(program))


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="needs 4 tokens, but the vocabulary has 2"):
        make_task(TaskConfig(name="shuffle_dyck2", vocabulary=["(", ")"]))
