"""A program's names, its text and its dataflow graph."""

from __future__ import annotations

import functools
import math
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracr.compiler import lib
from tracr.rasp import rasp

from algomatch.data.rasp.text import describe, edges, variables

tokens, indices = rasp.tokens, rasp.indices
Equal, AtMost, Always = rasp.Comparison.EQ, rasp.Comparison.LEQ, rasp.Comparison.TRUE

OFFSET = 7
FLIPPED_SELECT = rasp.Select(tokens, indices, Equal)


def is_even(x: int) -> bool:
    return x % 2 == 0


def with_offset(x: int) -> int:
    return x + OFFSET


class Table:
    def __init__(self) -> None:
        self.entries = {0: 1}

    def __call__(self, x: int) -> int:
        return self.entries[x]

    def look_up(self, x: int) -> int:
        return self.entries[x]


class Hostile:
    """Every attribute raises."""

    def __call__(self, x: int) -> int:
        return x

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError


def adding(k: object) -> Callable[[Any], Any]:
    return lambda x: x + k


def equal_to(token: object) -> Callable[[Any, Any], Any]:
    return lambda key, query: key == token


def composed(outer: Any, inner: Any) -> Callable[[Any], Any]:
    return lambda x: outer(inner(x))


def from_text(text: str) -> Any:
    made: dict[str, Any] = {}
    exec(compile(f"f = {text}", "<made>", "exec"), made)
    return made["f"]


def width(selector: Any) -> Any:
    return rasp.SelectorWidth(selector)


def last_line(sop: Any) -> str:
    return describe(sop)[-1]


def right_side(sop: Any) -> str:
    return last_line(sop.named("out")).removeprefix("out = ")


def mapped(function: Any) -> str:
    return right_side(rasp.Map(function, tokens))


def selected(predicate: Any) -> str:
    text = right_side(width(rasp.Select(tokens, indices, predicate)))
    return text.removeprefix("selector_width(select(keys=tokens, queries=indices, ")[:-2]


def name_of(sop: Any) -> str:
    return list(variables(sop))[-1]


def test_sort_by_frequency_reads_as_rasp() -> None:
    assert describe(lib.make_sort_freq(10)) == [
        "same_tok = select(keys=tokens, queries=tokens, ==)",
        "hist = selector_width(same_tok)",
        "-1*hist = -1 * hist",
        "sequence_map(-1*hist,indices) = sequence_map((lambda x, i: x + min_key * i / max_seq_len"
        " where max_seq_len = 10, min_key = 1), `-1*hist`, indices)",
        "smaller = select(keys=`sequence_map(-1*hist,indices)`,"
        " queries=`sequence_map(-1*hist,indices)`, <)",
        "target_pos = selector_width(smaller)",
        "sort_freq = aggregate(select(keys=target_pos, queries=indices, ==), tokens)",
    ]


def test_shuffle_dyck_marks_its_numbers_and_numbers_its_repeated_names() -> None:
    assert describe(lib.make_shuffle_dyck2()) == [
        "all_true_selector = select(keys=tokens, queries=tokens, TRUE)",
        "length = selector_width(all_true_selector)",
        "length-1 = length - 1",
        "select_last = select(keys=indices, queries=`length-1`, ==)",
        "bools_open: number = tokens == '('",
        "opens: number = aggregate(select(keys=indices, queries=indices, <=), bools_open,"
        " default=0)",
        "bools_close: number = tokens == ')'",
        "closes: number = aggregate(select(keys=indices, queries=indices, <=), bools_close,"
        " default=0)",
        "balance_(): number = linear_sequence_map(opens, closes, 1, -1)",
        "balance_()==0 = `balance_()` == 0",
        "bools_open_2: number = tokens == '{'",
        "opens_2: number = aggregate(select(keys=indices, queries=indices, <=), bools_open_2,"
        " default=0)",
        "bools_close_2: number = tokens == '}'",
        "closes_2: number = aggregate(select(keys=indices, queries=indices, <=), bools_close_2,"
        " default=0)",
        "balance_{}: number = linear_sequence_map(opens_2, closes_2, 1, -1)",
        "balance_{}==0 = `balance_{}` == 0",
        "(balance_()==0)_and_(balance_{}==0) = `balance_()==0` and `balance_{}==0`",
        "last_zero = aggregate(select_last, `(balance_()==0)_and_(balance_{}==0)`)",
        "select_all = select(keys=indices, queries=indices, TRUE)",
        "balance_()<0 = `balance_()` < 0",
        "balance_{}<0 = `balance_{}` < 0",
        "(balance_()<0)_or_(balance_{}<0) = `balance_()<0` or `balance_{}<0`",
        "any_negative: number = map(lambda x: x, `(balance_()<0)_or_(balance_{}<0)`)",
        "has_neg: number = aggregate(select_all, any_negative, default=0)",
        "not_has_neg = not has_neg",
        "shuffle_dyck2 = last_zero and not_has_neg",
    ]


@pytest.mark.parametrize(
    ("sop", "name", "text"),
    [
        (tokens < 1, "tokens<1", "tokens < 1"),
        (tokens <= 1, "tokens<=1", "tokens <= 1"),
        (tokens == "a", "tokens==a", "tokens == 'a'"),
        (tokens != "a b", "tokens!=a_b", "tokens != 'a b'"),
        (tokens > 0.5, "tokens>0.5", "tokens > 0.5"),
        (tokens >= -1, "tokens>=-1", "tokens >= -1"),
        (tokens + 1, "tokens+1", "tokens + 1"),
        (1 + tokens, "1+tokens", "1 + tokens"),
        (tokens - np.int64(1), "tokens-1", "tokens - 1"),
        (1 - tokens, "1-tokens", "1 - tokens"),
        (tokens * 2, "tokens*2", "tokens * 2"),
        (np.float64(2) * 1 * tokens, "2.0*tokens", "2.0 * tokens"),
        (tokens / 2, "tokens÷2", "tokens / 2"),
        (2 / tokens, "2÷tokens", "2 / tokens"),
        (tokens & True, "tokens_and_True", "tokens and True"),
        (True & tokens, "True_and_tokens", "True and tokens"),
        (tokens | 0, "tokens_or_0", "tokens or 0"),
        (0 | tokens, "tokens_or_0", "tokens or 0"),
        (~tokens, "not_tokens", "not tokens"),
        (rasp.sop_not(tokens), "not_tokens", "not tokens"),
        (tokens == "", "tokens==''", "tokens == ''"),
        (tokens == (1, "a"), "tokens==(1,'a')", "tokens == (1, 'a')"),
        (tokens + indices, "tokens+indices", "tokens + indices"),
        (tokens.__radd__(indices), "indices+tokens", "indices + tokens"),
        (tokens - indices, "tokens-indices", "tokens - indices"),
        (tokens.__rsub__(indices), "indices-tokens", "indices - tokens"),
        (tokens * indices, "tokens*indices", "tokens * indices"),
        (tokens / indices, "tokens÷indices", "tokens / indices"),
        (tokens & indices, "tokens_and_indices", "tokens and indices"),
        (tokens | indices, "tokens_or_indices", "tokens or indices"),
        (rasp.SequenceMap(AtMost, tokens, indices), "tokens<=indices", "tokens <= indices"),
        (rasp.length, "length", "rasp.length"),
        (rasp.Full("a"), "full(a)", "full('a')"),
        (rasp.ConstantSOp([1, 2]), "constant", "constant_sop([1, 2])"),
        (
            rasp.LinearSequenceMap(tokens, indices, 1, 0.5),
            "linear(tokens,indices)",
            "linear_sequence_map(tokens, indices, 1, 0.5)",
        ),
        (
            width(FLIPPED_SELECT),
            "width(tokens==indices)",
            "selector_width(select(keys=tokens, queries=indices, ==))",
        ),
        (
            width(rasp.Select(tokens, indices, Always)),
            "width(all)",
            "selector_width(select(keys=tokens, queries=indices, TRUE))",
        ),
        (
            rasp.Aggregate(FLIPPED_SELECT.named("same"), indices),
            "aggregate(same,indices)",
            "aggregate(same, indices)",
        ),
        (rasp.Map(is_even, indices - 1), "is_even(indices-1)", "map(is_even, indices - 1)"),
        (rasp.Map(lambda x: x, indices), "map(indices)", "map(lambda x: x, indices)"),
        (rasp.Map(is_even, (indices + 1) * 2), None, "map(is_even, (indices + 1) * 2)"),
        (~(tokens == 1), "not_(tokens==1)", "not (tokens == 1)"),
        (
            rasp.SequenceMap(max, tokens, indices),
            "max(tokens,indices)",
            "sequence_map(max, tokens, indices)",
        ),
    ],
)
def test_each_kind_of_s_op_has_a_name_and_a_text(sop: Any, name: str | None, text: str) -> None:
    assert name is None or name_of(sop) == name
    assert right_side(sop) == text


def test_a_numerical_aggregate_is_a_mean() -> None:
    sop = rasp.numerical(rasp.Aggregate(FLIPPED_SELECT, indices, default=0))
    assert last_line(sop) == (
        "mean(tokens==indices,indices): number ="
        " aggregate(select(keys=tokens, queries=indices, ==), indices, default=0)"
    )


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: (x, x % 2), "lambda x: (x, x % 2)"),
        (lambda x: x if x else 0, "lambda x: x if x else 0"),
        (lambda x: x and x > 2, "lambda x: x and x > 2"),
        (lambda x: None, "lambda x: None"),
        (lambda x: (lambda y: y)(x), "lambda x: (lambda y: y)(x)"),
        ((lambda x: lambda y: x)(1), "(lambda y: x where x = 1)"),
        ([lambda x: x, lambda x: -x][1], "lambda x: -x"),
        (
            lambda x: {  # over several lines
                "a": x,
            },
            "lambda x: {'a': x}",
        ),
        (lambda x, y="a": "é" + x + y, 'lambda x, y="a": "é" + x + y'),
        (
            lambda x, y=OFFSET, *, z=3: x + y + z,
            "(lambda x, y=OFFSET, *, z=3: x + y + z where y = 7)",
        ),
        (lambda x: x + OFFSET, "(lambda x: x + OFFSET where OFFSET = 7)"),
        (lambda x: math.sqrt(x), "lambda x: math.sqrt(x)"),
        (adding(3), "(lambda x: x + k where k = 3)"),
        (adding({"b", "a"}), "(lambda x: x + k where k = {'a', 'b'})"),
        (adding({1: (2,)}), "(lambda x: x + k where k = {1: (2,)})"),
        (adding(np.arange(2)), "(lambda x: x + k where k = [0, 1])"),
        (adding(Table()), "(lambda x: x + k where k = <Table>)"),
        (adding(tokens), "(lambda x: x + k where k = tokens)"),
        (adding(Equal), "(lambda x: x + k where k = Comparison.EQ)"),
        (
            composed(adding(1), is_even),
            "(lambda x: outer(inner(x)) where inner = is_even,"
            " outer = (lambda x: x + k where k = 1))",
        ),
        (is_even, "is_even"),
        (with_offset, "(with_offset where OFFSET = 7)"),
        (abs, "abs"),
        (int, "int"),
        (np.sign, "sign"),
        ({"a": 1}.get, "{'a': 1}.get"),
        (Table().look_up, "<Table>.look_up"),
        (Table(), "<Table>"),
        (operator.itemgetter(1), "operator.itemgetter(1)"),
        (functools.partial(max, 3, key=is_even), "partial(max, 3, key=is_even)"),
        (from_text("lambda x: x"), "<function lambda>"),
        (from_text("lambda x, k=2: x"), "(<function lambda> where k = 2)"),
    ],
)
def test_each_kind_of_function_has_a_text(function: Any, text: str) -> None:
    assert mapped(function) == f"map({text}, tokens)"


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (~rasp.Select(tokens, indices, Equal), "not =="),
        (~~rasp.Select(tokens, indices, Equal), "not (not ==)"),
        (
            rasp.Select(tokens, indices, equal_to("a")),
            "lambda key, query: key == token where token = 'a'",
        ),
        (
            rasp.Select(tokens, indices, AtMost) & rasp.Select(tokens, indices, equal_to("a")),
            "<= and (lambda key, query: key == token where token = 'a')",
        ),
        (
            rasp.Select(tokens, indices, AtMost) | ~rasp.Select(tokens, indices, Equal),
            "<= or (not ==)",
        ),
        (
            rasp.Select(rasp.Full(1), indices, AtMost) & rasp.Select(tokens, indices, Equal),
            "(<= with key=1) and ==",
        ),
        (
            rasp.Select(tokens, indices, AtMost) & rasp.Select(tokens, rasp.Full("b"), Equal),
            "<= and (== with query='b')",
        ),
    ],
)
def test_simplified_selectors_show_what_they_were_made_of(selector: Any, text: str) -> None:
    assert selected(selector.predicate) == text


def test_compound_selectors_are_written_with_their_parts() -> None:
    same, before = FLIPPED_SELECT, rasp.Select(indices, indices, AtMost)
    fixed = rasp.ConstantSelector([[True]])
    assert right_side(width(rasp.SelectorNot((same & before) | fixed))) == (
        "selector_width(selector_not(selector_or(selector_and("
        "select(keys=tokens, queries=indices, ==), select(keys=indices, queries=indices, <=)),"
        " constant_selector([[True]]))))"
    )


def test_a_selector_used_twice_has_a_line_of_its_own() -> None:
    assert describe(
        (width(FLIPPED_SELECT) + rasp.Aggregate(FLIPPED_SELECT, tokens)).named("x")
    ) == [
        "tokens==indices = select(keys=tokens, queries=indices, ==)",
        "width(tokens==indices) = selector_width(`tokens==indices`)",
        "aggregate(tokens==indices,tokens) = aggregate(`tokens==indices`, tokens)",
        "x = `width(tokens==indices)` + `aggregate(tokens==indices,tokens)`",
    ]


def test_a_selector_never_takes_a_variables_name() -> None:
    selector = FLIPPED_SELECT.named("same")
    assert describe(width(selector).named("same")) == [
        "same_2 = select(keys=tokens, queries=indices, ==)",
        "same = selector_width(same_2)",
    ]


def test_a_lambda_whose_file_has_changed_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "user.py"
    file.write_text("f = lambda x: x + 1\n")
    made: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), made)
    file.write_text("f = lambda x: x + 2\n")
    assert mapped(made["f"]) == "map(<function lambda>, tokens)"


def test_a_lambda_is_found_in_its_file(tmp_path: Path) -> None:
    file = tmp_path / "user.py"
    file.write_text("f = lambda x: x + 1\n")
    made: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), made)
    assert mapped(made["f"]) == "map(lambda x: x + 1, tokens)"


def self_referring() -> Any:
    def twice(x: int) -> int:
        return twice(x - 1) if x else 0

    return twice


def unbound() -> Any:
    function = lambda x: x + later  # noqa: E731
    if OFFSET < 0:
        later: int = 1
    return function


def odd_functions() -> list[Any]:
    called = {"__call__": lambda self, x: x}
    hostile: Any = Hostile()
    return [
        Hostile(),
        adding(Hostile()),
        adding(10**5000),
        adding("\ud800\n"),
        adding("x" * 10**6),
        adding(list(range(10**5))),
        adding(np.zeros(10**6)),
        adding(sys),
        functools.partial(hostile, hostile),
        self_referring(),
        unbound(),
        functools.lru_cache(is_even),
        rasp.sop_not,
        rasp.selector_and,
        functools.cmp_to_key(lambda a, b: 0),
        type("Odd", (), {"__name__": 3, **called})(),
        type("Odd", (), {"__name__": "a\nb/@ c", **called})(),
    ]


def test_no_function_is_too_odd() -> None:
    for function in odd_functions():
        for program in (rasp.Map(function, tokens), rasp.SequenceMap(function, tokens, indices)):
            check_names(program)
            assert all(line.isprintable() and len(line) < 1000 for line in describe(program))


def test_a_users_own_s_op_is_written_with_its_inputs() -> None:
    class Shift(rasp.SOp):  # type: ignore[misc]
        children = (FLIPPED_SELECT, tokens)

    assert last_line(Shift()) == (
        "Shift(tokens==indices,tokens) = Shift(select(keys=tokens, queries=indices, ==), tokens)"
    )
    assert edges(Shift())[-1] == ("tokens", "Shift(tokens==indices,tokens)", "value")


def test_a_program_may_be_a_selector_or_an_input() -> None:
    assert describe(FLIPPED_SELECT) == [
        "tokens==indices = select(keys=tokens, queries=indices, ==)"
    ]
    assert list(variables(FLIPPED_SELECT)) == ["tokens", "indices"]
    assert (list(variables(tokens)), describe(tokens), edges(tokens)) == (["tokens"], [], [])


def chain(n: int, step: Callable[[Any, int], Any], start: Any) -> Any:
    return functools.reduce(step, range(n), start)


N = 600
DEEP = {
    "a chain of s-ops": chain(N, lambda sop, _: sop + indices, tokens),
    "a chain that doubles": chain(N, lambda sop, _: rasp.SequenceMap(max, sop, sop + 1), tokens),
    "aggregates": chain(N, lambda sop, _: rasp.Aggregate(FLIPPED_SELECT, sop), tokens),
    "merged maps": chain(N, lambda sop, _: sop + 1, tokens),
    "merged maps that double": chain(N, lambda sop, _: rasp.Map(sop.f, sop), tokens + 1),
    "closures": rasp.Map(chain(N, lambda f, _: composed(f, abs), abs), tokens),
    "closures that double": rasp.Map(chain(N, lambda f, _: composed(f, f), abs), tokens),
    "negations": width(chain(N, lambda selector, _: ~selector, FLIPPED_SELECT)),
    "conjunctions": width(chain(N, lambda selector, _: selector & FLIPPED_SELECT, FLIPPED_SELECT)),
    "conjunctions that double": width(
        chain(N, lambda selector, _: selector & selector, FLIPPED_SELECT)
    ),
    "compound selectors": width(
        chain(N, lambda selector, _: selector | rasp.Select(tokens, tokens, Equal), FLIPPED_SELECT)
    ),
    "compound selectors that double": width(
        chain(N, lambda selector, _: rasp.SelectorAnd(selector, selector), FLIPPED_SELECT)
    ),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("shape", DEEP)
def test_depth_and_sharing_cost_neither_recursion_nor_time(shape: str) -> None:
    check_names(DEEP[shape])
    assert sum(map(len, describe(DEEP[shape]))) < 10**6
    assert len(edges(DEEP[shape])) <= 3 * N


def test_a_long_merged_map_is_written_in_full() -> None:
    assert last_line(DEEP["merged maps"]) == f"map = {'(' * (N - 1)}tokens{' + 1)' * (N - 1)} + 1"


def check_names(program: Any) -> None:
    named = variables(program)
    place = {id(sop): i for i, sop in enumerate(named.values())}
    assert len(place) == len(named)
    assert not isinstance(program, rasp.SOp) or list(named.values())[-1] is program
    for name, sop in named.items():
        assert 0 < len(name) <= 60
        assert name.isprintable()
        assert not set(name) & set("/@` ")
        assert not any(c.isspace() for c in name)
        assert all(place.get(id(child), -1) < place[id(sop)] for child in sop.children)
    for primitive in (tokens, indices):
        assert named.get(primitive.name, primitive) is primitive


def test_a_name_that_several_s_ops_carry_is_numbered_around_those_that_exist() -> None:
    first, second, third = ((indices + i).named("x") for i in range(3))
    other = (tokens * 2).named("x_2")
    program = first + second + third + other
    named = [name for name in variables(program.named("x")) if "+" not in name]
    assert [n for n in named if n not in ("tokens", "indices")] == ["x", "x_3", "x_4", "x_2", "x_5"]


def test_a_name_the_user_gave_is_kept_where_a_derived_one_is_the_same() -> None:
    derived, named = indices + 1, (tokens * 2).named("indices+1")
    assert list(variables(derived & named))[1:4:2] == ["indices+1_2", "indices+1"]


def test_only_the_inputs_are_called_tokens_and_indices() -> None:
    copied = rasp.numerical(tokens)
    program = ((indices + 1).named("tokens") + copied).named("indices")
    assert describe(program) == [
        "tokens_2 = indices + 1",
        "tokens_3: number = rasp.tokens",
        "indices_2 = tokens_2 + tokens_3",
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a/b", "a÷b"),
        ("user@host", "user_at_host"),
        ("my name", "my_name"),
        ("f(['a', 'b'])", "f(['a','b'])"),
        ("a\x00\u200b\ud800`", "a___'"),
        ("x" * 99, "x" * 60),
        (" \t", "tokens+1"),
        (object, "<class'object'>"),
    ],
)
def test_names_the_user_gave_are_made_safe(given: Any, kept: str) -> None:
    assert name_of((tokens + 1).named(given)) == kept


def test_long_derived_names_fall_back_to_the_kind() -> None:
    long = (tokens + indices).named("l" * 40)
    program = (long + 1) + (long + 2)
    assert list(variables(program))[-3:] == ["map", "map_2", "map+map_2"]


def test_edges_say_by_which_way_a_value_comes() -> None:
    program = lib.make_reverse(tokens)
    assert edges(program) == [
        ("tokens", "length", "key"),
        ("tokens", "length", "query"),
        ("length", "opp_idx", "value"),
        ("indices", "opp_idx", "value"),
        ("opp_idx", "opp_idx-1", "value"),
        ("indices", "reverse", "key"),
        ("opp_idx-1", "reverse", "query"),
        ("tokens", "reverse", "value"),
    ]


def test_edges_pass_through_compound_selectors_once() -> None:
    both = rasp.SelectorAnd(FLIPPED_SELECT, rasp.SelectorNot(FLIPPED_SELECT))
    assert edges(width(both).named("w")) == [("tokens", "w", "key"), ("indices", "w", "query")]


NAMES = st.sampled_from(
    ["", "x", "x_2", "tokens", "indices", "map", "a b", "a/b", "y" * 80, "indices+1"]
)
STEPS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 99), st.integers(0, 99), NAMES), max_size=12
)


def program_of(steps: list[tuple[int, int, int, str]]) -> Any:
    """Return a program that uses random earlier results at every step."""
    sops, selectors = [tokens, indices], [FLIPPED_SELECT]
    for kind, i, j, name in steps:
        sop, other, selector = (
            sops[-1 - i % len(sops)],
            sops[j % len(sops)],
            selectors[j % len(selectors)],
        )
        if kind < 4:
            made = (
                sop + 1,
                rasp.Map(lambda x: x, sop, simplify=False),
                sop - other,
                rasp.SequenceMap(lambda x, y: y, sop, other),
            )[kind]
        elif kind < 7:
            made = (rasp.Select(sop, other, AtMost), ~selector, width(selector))[kind - 4]
        else:
            made = rasp.Aggregate(selector, sop)
            made = rasp.numerical(made) if kind == 8 else made
        made = made.named(name) if name else made
        (selectors if isinstance(made, rasp.Selector) else sops).append(made)
    return sops[-1]


@given(STEPS)
def test_names_are_unique_safe_and_in_order_in_any_program(
    steps: list[tuple[int, int, int, str]],
) -> None:
    check_names(program_of(steps))


@given(STEPS)
def test_a_program_made_again_has_the_same_text_and_edges(
    steps: list[tuple[int, int, int, str]],
) -> None:
    first, second = program_of(steps), program_of(steps)
    assert list(variables(first)) == list(variables(second))
    assert describe(first) == describe(second)
    assert edges(first) == edges(second)


@given(STEPS)
def test_every_line_is_a_variables_or_a_selectors_and_edges_point_forward(
    steps: list[tuple[int, int, int, str]],
) -> None:
    program = program_of(steps)
    order = list(variables(program))
    heads = [line.split(" = ")[0].removesuffix(": number") for line in describe(program)]
    assert len(heads) == len(set(heads))
    assert [head for head in heads if head in order] == [
        n for n in order if n not in ("tokens", "indices")
    ]
    assert all(order.index(source) < order.index(target) for source, target, _ in edges(program))


STABLE = """
import sys, types
sys.path.insert(0, sys.argv[1])
from test_rasp_text_program import program
from algomatch.data.rasp.text import describe, edges, variables
print(list(variables(program)), *describe(program), edges(program), sep="\\n")
"""
PROGRAM = """
from tracr.rasp import rasp
kept = {"a", "b", "c", "d", "e"}
class Table:
    def __call__(self, x): return x
def make(k):
    return lambda x: x in kept and x in k
same = rasp.Select(rasp.tokens, rasp.tokens, lambda k, q: k in {"x", "y", "z"} and q == k)
program = rasp.Map(make(frozenset("vwxyz")), rasp.tokens) + rasp.SelectorWidth(same)
program = program + rasp.Map(Table(), rasp.indices) + (rasp.tokens == frozenset("pqr"))
"""


def test_another_process_gives_the_same_names_and_text(tmp_path: Path) -> None:
    (tmp_path / "test_rasp_text_program.py").write_text(PROGRAM)
    printed = {
        subprocess.run(
            [sys.executable, "-c", STABLE, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(printed) == 1
    assert "kept = {'a', 'b', 'c', 'd', 'e'}" in printed.pop()
