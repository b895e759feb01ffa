"""Random small programs: each is refused in one line, or its reference equals the evaluator."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support.references import decoded, interpreted, make_inputs
from support.references import fast_compiles as fast_compiles
from support.references import one_level as one_level
from tracr.rasp import rasp

from algomatch.data.tasks import Task
from algomatch.infra.errors import UserError
from algomatch.models.reference import build_reference

COMPARISONS = (rasp.Comparison.EQ, rasp.Comparison.NEQ, rasp.Comparison.TRUE, rasp.Comparison.LEQ)
VOCABULARIES: tuple[tuple[Any, ...], ...] = (("a", "b"), (1, 2, 3), ("x", 2), (0, 1), (1.5, -1))

ONE_TO_ONE: dict[str, Callable[[Any], Any]] = {
    "text": str,
    "is a number": lambda x: isinstance(x, (int, float)),
    "truth": bool,
    "pair": lambda x: (x, x),
    "None for some": lambda x: None if x in (1, "a") else x,
    "more": lambda x: x + 1 if isinstance(x, (int, float)) else "more",
    "inverse": lambda x: 1 / x,  # raises on a text and on 0
}
TWO_TO_ONE: dict[str, Callable[[Any, Any], Any]] = {
    "pair": lambda x, y: (x, y),
    "same": operator.eq,
    "first unless equal": lambda x, y: "equal" if x == y else x,
    "sum": lambda x, y: len(str(x)) + len(str(y)),
    "both": lambda x, y: bool(x) and bool(y),
}
TO_NUMBER: dict[str, Callable[[Any], float]] = {
    "flag": lambda x: 1.0 if x in (1, "a", True, 0) else 0.0,
    "other flag": lambda x: 0.0 if isinstance(x, str) else 1.0,
    "size": lambda x: float(len(str(x))),
}
OF_NUMBER: dict[str, Callable[[Any], Any]] = {
    "none": lambda x: x == 0,
    "some": lambda x: x > 0,
    "most": lambda x: x > 0.6,
    "rounded": lambda x: round(x, 2),
}
PREDICATES: tuple[Callable[[Any, Any], bool], ...] = (
    lambda key, query: key == query,
    lambda key, query: key != query,
    lambda key, query: str(key) <= str(query),
    lambda key, query: True,
    lambda key, query: False,
)

COMBINATIONS: tuple[Callable[[Any, Any], Any], ...] = (
    lambda left, other: left & other,
    lambda left, other: left | other,
    lambda left, other: ~(left & other),
    lambda left, other: rasp.SelectorNot(left) & other,
)

Make = Callable[[], Any]  # made outside hypothesis: making s-ops draws random numbers


@st.composite
def categories(draw: st.DrawFn, depth: int) -> Make:
    """Draw a categorical s-op."""
    kind = draw(
        st.sampled_from(["map", "pair", "width", "width", "move", "move", "of number"])
        if depth
        else st.sampled_from(["tokens", "tokens", "tokens", "indices", "indices", "length"])
    )
    below = categories(depth - 1)
    match kind:
        case "tokens":
            return lambda: rasp.tokens
        case "indices":
            return lambda: rasp.indices
        case "length":
            return lambda: rasp.length
        case "map":
            mapping, inner = ONE_TO_ONE[draw(st.sampled_from(sorted(ONE_TO_ONE)))], draw(below)
            return lambda: rasp.Map(mapping, inner())
        case "pair":
            two = TWO_TO_ONE[draw(st.sampled_from(sorted(TWO_TO_ONE)))]
            first, second = draw(below), draw(below)
            return lambda: rasp.SequenceMap(two, first(), second())
        case "width":
            selector = draw(selectors(depth))
            return lambda: rasp.SelectorWidth(selector())
        case "move":
            selector, moved = draw(selectors(depth)), draw(below)
            return lambda: rasp.Aggregate(selector(), moved())
    function, number = OF_NUMBER[draw(st.sampled_from(sorted(OF_NUMBER)))], draw(numbers(depth - 1))
    return lambda: rasp.Map(function, number())


@st.composite
def selectors(draw: st.DrawFn, depth: int) -> Make:
    """Draw a selector; some select one position only, so that they can move a category."""
    if depth > 1 and draw(st.integers(0, 3)) == 0:
        first, second = draw(selectors(depth - 1)), draw(selectors(depth - 1))
        combine = draw(st.sampled_from(COMBINATIONS))
        return lambda: combine(first(), second())
    if draw(st.booleans()):
        step = draw(st.sampled_from([-1, 1]))
        return lambda: rasp.Select(
            rasp.indices, rasp.indices, lambda key, query: key == query + step
        )
    keys, queries = draw(categories(depth - 1)), draw(categories(depth - 1))
    predicate = draw(st.sampled_from((*PREDICATES, *COMPARISONS)))
    return lambda: rasp.Select(keys(), queries(), predicate)


@st.composite
def numbers(draw: st.DrawFn, depth: int) -> Make:
    """Draw a numerical s-op."""
    function = TO_NUMBER[draw(st.sampled_from(sorted(TO_NUMBER)))]
    inner = draw(categories(max(0, depth - 1)))

    def flag() -> Any:
        return rasp.numerical(rasp.Map(function, inner()))

    if not depth:
        return flag
    selector = draw(selectors(max(1, depth - 1)))

    def share() -> Any:
        return rasp.numerical(rasp.Aggregate(selector(), flag(), default=0))

    if draw(st.booleans()):
        return share
    factors = draw(st.sampled_from([(1, -1), (1, 1), (0.5, 2)]))
    return lambda: rasp.numerical(rasp.LinearSequenceMap(share(), flag(), *factors))


PROGRAMS = st.one_of(categories(2), categories(3), categories(2), numbers(1), numbers(2))


def outcome(task: Task) -> str:
    """Return how a task ends; check its reference if there is one."""
    try:
        made = build_reference(make_inputs(task))
    except UserError as error:
        text = str(error)
        assert text.startswith("task 'random': ")
        assert "\n" not in text
        if "cannot compile" in text:
            return "not compilable"
        return "inexact" if "disagrees" in text else "not a task"
    assert made.exact
    inputs = made.inputs
    tolerance = getattr(inputs.output, "tolerance", 0)
    for row, said in enumerate(decoded(made.bridge, inputs)):
        wanted = interpreted(task, inputs.listed(row))
        for output, other in zip(said, wanted, strict=True):
            if other is not None:
                same = abs(output - other) <= tolerance if tolerance else output == other
                assert same, (inputs.listed(row), said, wanted)
    return "numerical" if tolerance else "categorical"


@pytest.mark.usefixtures("one_level")
def test_a_random_program_is_refused_in_one_line_or_its_reference_is_right() -> None:
    seen: Counter[str] = Counter()

    @seed(0)
    @given(make=PROGRAMS, vocabulary=st.sampled_from(VOCABULARIES), causal=st.booleans())
    @settings(
        max_examples=80,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(make: Make, vocabulary: tuple[Any, ...], causal: bool) -> None:
        seen[outcome(Task("random", make(), vocabulary, 1, 3, causal))] += 1

    check()
    assert seen["categorical"] >= 5, seen
    assert seen["numerical"] >= 2, seen
    assert seen["inexact"] >= 2, seen
    assert seen["not compilable"] >= 1, seen
    assert seen["not a task"] >= 1, seen


ALL = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)


@pytest.mark.usefixtures("one_level")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("wanted", "program"),
    [
        ("categorical", rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, COMPARISONS[0]))),
        ("numerical", rasp.numerical(rasp.Map(TO_NUMBER["flag"], rasp.tokens))),
        ("not a task", rasp.Map(lambda x: 7, rasp.tokens)),
        ("not a task", rasp.Map(ONE_TO_ONE["inverse"], rasp.tokens)),
        ("not compilable", rasp.Aggregate(ALL, rasp.numerical(rasp.Map(float, rasp.indices)))),
        (
            "inexact",
            rasp.Aggregate(
                rasp.Select(rasp.tokens, rasp.tokens, COMPARISONS[2]),
                rasp.Map(
                    len, rasp.SequenceMap(lambda x, i: x * (i + 1), rasp.tokens, rasp.indices)
                ),
            ),
        ),
    ],
)
def test_each_outcome_is_told_apart(wanted: str, program: Any, causal: bool) -> None:
    assert outcome(Task("random", program, ("a", "b"), 1, 3, causal)) == wanted
