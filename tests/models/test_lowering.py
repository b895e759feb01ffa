"""Expressions that Tracr rejects are lowered, or refused with advice on what to write instead."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from support.references import EQ, LEQ, TRUE, decoded, interpreted, make_inputs, make_share
from support.references import one_level as one_level
from support.references import own_cache as own_cache
from tracr.rasp import rasp

from algomatch.data.inputs import InputSet
from algomatch.data.interpreter import Value
from algomatch.data.overridden_variables import overridden_targets
from algomatch.data.program_selectors import selections
from algomatch.data.rasp.cuts import cuts
from algomatch.data.rasp.text import describe
from algomatch.data.tasks import Task
from algomatch.infra.errors import UserError
from algomatch.models.lowering import lowered
from algomatch.models.reference import Reference, build_reference

LETTERS, DIGITS = ("a", "b", "c"), (0, 1, 2, 5)
LT, GEQ, NEQ = rasp.Comparison.LT, rasp.Comparison.GEQ, rasp.Comparison.NEQ

same = rasp.Select(rasp.tokens, rasp.tokens, EQ).named("same")
before = rasp.Select(rasp.indices, rasp.indices, LT).named("before")
so_far = rasp.Select(rasp.indices, rasp.indices, LEQ).named("so_far")
everywhere = rasp.Select(rasp.tokens, rasp.tokens, TRUE)
is_a = rasp.Map(lambda token: token == "a", rasp.tokens).named("is_a")
one_before = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)
previous = rasp.Aggregate(one_before, rasp.tokens).named("previous")
repeats = rasp.SelectorWidth(same).named("repeats")
mirror = (rasp.length - rasp.indices - 1).named("mirror")


def width(selector: Any) -> Any:
    return rasp.SelectorWidth(selector).named("n")


def number(function: Callable[[Any], Any], sop: Any = rasp.tokens) -> Any:
    return rasp.numerical(rasp.Map(function, sop)).named("number")


def mean(selector: Any, sop: Any, **default: Any) -> Any:
    return rasp.numerical(rasp.Aggregate(selector, sop, **default)).named("mean")


def linear(first: Any, second: Any, *factors: float) -> Any:
    return rasp.numerical(rasp.LinearSequenceMap(first, second, *factors)).named("linear")


def relabelled() -> Any:
    """Return a number and a category with one label: Tracr read it before the copy was made."""
    zero_or_one = rasp.Map(lambda token: 1 if token == "a" else 0, rasp.tokens).named("x")
    assert zero_or_one.label == rasp.numerical(zero_or_one).label
    some = rasp.Map(lambda share: share > 0, mean(so_far, rasp.numerical(zero_or_one), default=0))
    return rasp.SequenceMap(lambda left, other: (left, other), zero_or_one, some)


at_mirror = rasp.Select(rasp.indices, mirror, EQ)
with_a = rasp.Select(rasp.indices, is_a, lambda key, query: key == 0 and query)
longer = rasp.Select(rasp.indices, rasp.length, lambda key, query: 2 * key < query)


@dataclass(frozen=True)
class Written:
    """A program as a user writes it, and the vocabulary and lengths of its lists."""

    program: Any
    vocabulary: tuple[Value, ...] = LETTERS
    lengths: tuple[int, int] = (1, 4)
    causal: bool = False

    @property
    def task(self) -> Task:
        return Task("mine", self.program, self.vocabulary, *self.lengths, causal=self.causal)

    @property
    def inputs(self) -> InputSet:
        return make_inputs(self.task)


LOWERED: dict[str, Written] = {
    "and": Written(width(same & before)),
    "or": Written(width(same | before)),
    "not, kept": Written(width(rasp.SelectorNot(same))),
    "not of a composite": Written(width(~(same & before))),
    "nested": Written(width((same & ~so_far) | (with_a & ~before))),
    "three different keys": Written(
        width(same & before & rasp.Select(repeats, rasp.tokens, lambda key, _: key > 1))
    ),
    "one of a full s-op": Written(width(rasp.Select(rasp.tokens, rasp.Full("a"), EQ) & before)),
    "all of full s-ops": Written(
        width(rasp.SelectorNot(rasp.Select(rasp.Full(1), rasp.Full(2), EQ)) & same)
    ),
    "aggregated": Written(
        rasp.Aggregate(at_mirror & ~rasp.SelectorNot(everywhere), rasp.tokens).named("back")
    ),
    "a mean by a composite": Written(mean(same & so_far, number(float, is_a), default=0)),
    "read twice, and a part by itself": Written(
        rasp.SequenceMap(
            lambda n, several: (n, several),
            width(same & before),
            rasp.SequenceMap(
                lambda n, m: n > m, rasp.SelectorWidth((same & before) | so_far), repeats
            ).named("several"),
        ).named("both")
    ),
    "causal and": Written(width(same & before), causal=True),
    "causal not": Written(width(~(same & before)), causal=True),
    "length": Written(rasp.length),
    "length in a map": Written(rasp.Map(lambda n: n % 2, rasp.length).named("odd")),
    "length in a sequence map": Written(rasp.Aggregate(at_mirror, rasp.tokens).named("back")),
    "length in a select": Written(width(longer)),
    "length as a number": Written(rasp.numerical(rasp.length)),
    "length, causal, of one length": Written(
        rasp.SequenceMap(lambda n, i: n - i, rasp.length, rasp.indices).named("left"),
        lengths=(3, 3),
        causal=True,
    ),
    "a full s-op": Written(
        rasp.SequenceMap(lambda token, other: token == other, rasp.tokens, rasp.Full("a"))
    ),
    "a full s-op in a select": Written(width(rasp.Select(rasp.tokens, rasp.Full("a"), EQ))),
    "no tokens": Written(rasp.Map(lambda index: index % 2, rasp.indices).named("odd")),
    "tokens under another name": Written(
        rasp.SequenceMap(lambda token, n: (token, n), rasp.tokens.named("letters"), repeats)
    ),
    "numerical tokens": Written(mean(everywhere, rasp.numerical(rasp.tokens), default=0), DIGITS),
    "negative numbers": Written(number(lambda token: -1.0 if token == "a" else 0.5)),
    "a negative number everywhere": Written(
        linear(rasp.numerical(rasp.Full(-2)), number(float, is_a), 1, 3)
    ),
    "the mean of a negative number": Written(
        mean(before, rasp.numerical(rasp.Full(-2)), default=0)
    ),
    "the mean of negative numbers": Written(
        mean(before, number(lambda token: -1.0 if token == "a" else 0.5), default=0)
    ),
    "the mean of categories": Written(mean(so_far, is_a, default=0)),
    "a number's mean without a default": Written(mean(before, number(float, is_a))),
    "a default that is never used": Written(
        rasp.Aggregate(rasp.Select(rasp.indices, rasp.indices, EQ), rasp.tokens, default="a")
    ),
    "numbers of two categories": Written(
        rasp.numerical(rasp.SequenceMap(lambda n, i: n / (i + 1) - 1, repeats, rasp.indices))
    ),
    "a linear map of categories": Written(rasp.LinearSequenceMap(repeats, rasp.indices, 1, -1)),
    "a number that is not 0 at 0, read by an aggregate that selects nothing": Written(
        mean(before, number(lambda share: 1 - share, make_share("a")), default=0),
        ("a", "b"),
        (1, 2),
    ),
    "a number of a category that a number of 0 has": Written(
        mean(
            before,
            number(lambda none: 2.0 if none else 1.0, rasp.Map(lambda x: x == 0, make_share("a"))),
            default=0,
        )
    ),
    "a key that a number of 0 has": Written(
        width(rasp.Select(rasp.Map(lambda x: x == 0, make_share("a")), is_a, lambda k, q: k or q))
    ),
    "values that are foreseen, never occur, and raise": Written(
        rasp.Map(lambda n: "xyzw"[n - 1] if n else 1 // 0, repeats)
    ),
    "a pair of values that never occurs and raises": Written(
        rasp.SequenceMap(lambda n, i: 10 // n + i, repeats, rasp.indices)
    ),
    "a predicate that raises on what never occurs": Written(
        width(rasp.Select(repeats, rasp.tokens, lambda key, _: {1: 1, 2: 2, 3: 3, 4: 4}[key] > 1))
    ),
    "one label for a category and a number": Written(relabelled()),
    "one name for several": Written(
        rasp.SequenceMap(
            lambda first, second: (first, second),
            rasp.Map(lambda token: token == "a", rasp.tokens).named("x"),
            rasp.Map(lambda token: token == "b", rasp.tokens).named("x"),
        ).named("x")
    ),
}


@pytest.mark.parametrize("what", LOWERED)
def test_what_is_lowered_gives_what_tracrs_evaluator_says_of_the_program_as_written(
    what: str,
) -> None:
    inputs = LOWERED[what].inputs
    made = build_reference(inputs)
    assert made.exact
    assert inputs.exhaustive
    said = decoded(made.bridge, inputs)
    for row in range(0, len(inputs), 7):
        wanted = interpreted(inputs.task, inputs.listed(row))
        for output, other in zip(said[row], wanted, strict=True):
            if isinstance(other, (bool, int, float)) and rasp.is_numerical(inputs.task.program):
                assert output == pytest.approx(float(other), abs=1e-5), inputs.listed(row)
            else:
                assert other in (None, output), inputs.listed(row)


def nth(selector: Any) -> Reference:
    return build_reference(make_inputs(Task("nth", width(selector), LETTERS, 1, 4)))


def test_the_variables_stay_those_of_the_program() -> None:
    made = nth((same & before).named("same_before"))
    inputs = made.inputs
    assert list(inputs.variables) == ["tokens", "indices", "n"]
    assert describe(inputs.task.program)[-2:] == [
        "same_before = selector_and(same, before)",
        "n = selector_width(same_before)",
    ]
    assert [selection.names for selection in selections(inputs)] == [("same_before",)]
    assert [cut.variables for cut in cuts(inputs).all] == [("tokens", "indices"), ("n",)]
    held = {label.partition(":")[0] for label in made.compiled.residual_labels}
    assert {*inputs.variables} <= held
    assert {name for name in held if " " in name} == {
        "keys of same_before",
        "queries of same_before",
    }


def test_a_variable_of_a_composite_program_is_overridden_as_any_other() -> None:
    inputs = nth(same & before).inputs
    base = (inputs.lengths == 3).nonzero()[:1, 0]
    codes = inputs.variables["indices"].codes[base].clone()
    codes[0, 1:4] = codes[0, 1:4].flip(0)
    given = overridden_targets(inputs, base, {"indices": codes})
    assert inputs.listed(int(base)) == ["a", "a", "a"]
    assert given[0, 1:4].tolist() == inputs.targets[base[0], 1:4].flip(0).tolist() == [2, 1, 0]


def test_parts_that_read_the_same_need_no_pairs() -> None:
    twice = rasp.SelectorOr(same, rasp.Select(rasp.tokens, rasp.tokens, NEQ))
    select = lowered(Task("n", width(twice), LETTERS, 1, 3)).program.selector
    assert (select.keys.label, select.queries.label) == ("tokens", "tokens")
    select = lowered(
        Task("n", width(rasp.SelectorNot(twice) | before), LETTERS, 1, 3)
    ).program.selector
    assert [child.label for child in select.keys.children] == ["tokens", "indices"]


def test_a_program_is_lowered_to_itself_where_tracr_takes_it() -> None:
    task = LOWERED["length in a map"].task
    low = lowered(replace(task, program=repeats))
    assert low.program.label == repeats.label
    assert low.program.selector.keys.label == "tokens"
    assert low.names == {repeats.label: "repeats"}


# Long programs


def chain(steps: int) -> Any:
    sop = rasp.tokens
    for _ in range(steps):
        sop = rasp.Map(lambda token: token, sop, simplify=False)
    return sop


def doubling(steps: int) -> Any:
    """Read the previous step twice in each step: two to the power of `steps` paths."""
    sop = rasp.Map(lambda token: 0 if token == "a" else 1, rasp.tokens)
    for _ in range(steps):
        other = rasp.Map(lambda x: (x + 1) % 3, sop, simplify=False)
        sop = rasp.SequenceMap(lambda x, y: (x + y) % 3, sop, other)
    return sop


LONG = {
    "a chain deeper than Python's recursion": chain(250),
    "as many merged maps": sum([1] * 250, rasp.Map(lambda index: index, rasp.indices)),
    "a billion paths": doubling(30),
}


@pytest.mark.parametrize("what", LONG)
def test_a_long_program_is_compiled_in_time(what: str) -> None:
    started = time.process_time()
    assert build_reference(make_inputs(Task("long", LONG[what], ("a", "b"), 2, 2))).exact
    assert time.process_time() - started < 20


def tuples(count: int) -> Any:
    """Return `count` copies of the pair of token and index, as separate s-ops."""
    return [
        rasp.SequenceMap(lambda token, index: (token, index), rasp.tokens, rasp.indices)
        for _ in range(count)
    ]


def test_pairs_of_too_many_values_are_refused_at_once() -> None:
    left, other = tuples(2)
    wide = rasp.Select(left, rasp.indices, TRUE) & rasp.Select(other, rasp.indices, EQ)
    task = Task("wide", width(wide), tuple(range(10)), 8, 8)
    message = (
        "^task 'wide': 'n' selects by 80 x 80 pairs of values; above 2,500 Tracr takes minutes and "
        "gigabytes: lower task.max_length=8 or shorten the 10-token task.vocabulary$"
    )
    with pytest.raises(UserError, match=message):
        lowered(task)


def test_a_sum_that_grows_with_every_step_is_refused_before_it_is_foreseen() -> None:
    sop = rasp.Map(lambda token: int(token == "a"), rasp.tokens)
    for step in range(8):
        other = rasp.Map(lambda x, step=step: 10**step * x + step, sop, simplify=False)
        sop = rasp.SequenceMap(lambda x, y: x + y, sop, other).named(f"sum_{step}")
    with pytest.raises(
        UserError, match=r"^task 'sum': 'sum_.' maps 81 x 81 pairs of values; above"
    ):
        lowered(Task("sum", sop, LETTERS, 1, 3))


# What is refused, and what to write instead


@dataclass(frozen=True)
class Refused:
    """A refused program, the message, and the program that the message advises."""

    written: Written
    message: str
    instead: Written | None = field(default=None)


share = make_share("a")
flag = number(lambda token: 1.0 if token == "a" else 0.0)
CANNOT = "Tracr cannot compile the program: "
REFUSED: dict[str, Refused] = {
    "tokens": Refused(
        Written(rasp.tokens),
        f"{CANNOT}it is tokens itself, and computes nothing; write a map of it, as in "
        "rasp.Map(lambda x: x, rasp.tokens)",
        Written(rasp.Map(lambda x: x, rasp.tokens)),
    ),
    "length, causal": Refused(
        Written(rasp.Map(lambda n: n % 2, rasp.length), causal=True),
        f"{CANNOT}no position of a causal task sees how long the list is (rasp.length); write "
        "rasp.indices + 1 for the length so far, or task.causal=false",
        Written(rasp.Map(lambda n: n % 2, rasp.indices + 1), causal=True),
    ),
    "a number among the keys": Refused(
        Written(width(rasp.Select(flag, rasp.tokens, lambda key, _: key == 1))),
        f"{CANNOT}'number' is a number, and the keys of a select; write the s-op that selects "
        "without rasp.numerical, or rasp.Map(lambda x: x, number) in its place",
        Written(
            width(
                rasp.Select(
                    rasp.Map(lambda x: x, flag, simplify=False),
                    rasp.tokens,
                    lambda key, _: key == 1,
                )
            )
        ),
    ),
    "a number among the queries": Refused(
        Written(width(rasp.Select(rasp.tokens, flag, lambda _, query: query == 1))),
        f"{CANNOT}'number' is a number, and the queries of a select; write the s-op that selects",
        Written(
            width(
                rasp.Select(
                    rasp.tokens,
                    rasp.Map(lambda t: 1.0 if t == "a" else 0.0, rasp.tokens),
                    lambda _, query: query == 1,
                )
            )
        ),
    ),
    "a sequence map of numbers": Refused(
        Written(rasp.numerical(share - make_share("b", "other")).named("less")),
        f"{CANNOT}'less' is a sequence map that reads a number; write rasp.numerical("
        "rasp.LinearSequenceMap(x, y, a, b)) for a * x + b * y of two numbers x and y, or compute "
        "with categories and make the result a number last: rasp.numerical(rasp.Map(lambda x: x, "
        "category))",
        Written(linear(share, make_share("b", "other"), 1, -1)),
    ),
    "a linear map that is no number": Refused(
        Written(rasp.LinearSequenceMap(share, make_share("b", "other"), 1, -1).named("less")),
        f"{CANNOT}'less' is a sequence map that reads a number; write rasp.numerical(",
        Written(linear(share, make_share("b", "other"), 1, -1)),
    ),
    "a product of numbers": Refused(
        Written(rasp.numerical(rasp.SequenceMap(lambda x, y: x * y, flag, share)).named("product")),
        f"{CANNOT}'product' is a sequence map that reads a number; write",
        Written(
            number(lambda x: x, rasp.SequenceMap(lambda n, i: n / (i + 1), repeats, rasp.indices))
        ),
    ),
    "a category that is a mean of numbers": Refused(
        Written(rasp.Aggregate(everywhere, flag, default=0).named("some")),
        f"{CANNOT}'some' is a category, but aggregates a number; write rasp.numerical("
        "rasp.Aggregate(selector, number, default=0)), and rasp.Map(lambda x: x, ...) of it for a "
        "category",
        Written(rasp.Map(lambda x: x, mean(everywhere, flag, default=0)), lengths=(1, 2)),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_program_that_tracr_cannot_compile_is_refused_with_what_to_write(what: str) -> None:
    with pytest.raises(UserError) as caught:
        build_reference(REFUSED[what].written.inputs)
    assert str(caught.value).startswith(f"task 'mine': {REFUSED[what].message}")
    assert "\n" not in str(caught.value)


KINDS = {"a": "True", "b": "1", "c": "2"}
flag_or_number = rasp.Map({"a": True, "b": 1, "c": 2}.get, rasp.tokens).named("flag_or_number")
WRONG: dict[str, Refused] = {
    "a category's default": Refused(
        Written(rasp.Aggregate(one_before, rasp.tokens, default="a").named("last")),
        "'last': it selects nothing at some positions, where Tracr gives no category and not its "
        "default 'a': write no default, and it is undefined there, which counts in no loss",
        Written(rasp.Aggregate(one_before, rasp.tokens).named("last")),
    ),
    "a number's default": Refused(
        Written(mean(before, flag, default=1)),
        "'mean': it selects nothing at some positions, where Tracr gives 0 and not its default 1: "
        "write default=0",
        Written(mean(before, flag, default=0)),
    ),
    "a select of what is undefined": Refused(
        Written(width(rasp.Select(previous, rasp.tokens, lambda key, query: key != query))),
        "'n': it reads 'previous', which is undefined on some inputs, where Tracr selects nothing: "
        "write a predicate that is False for None, as in lambda key, query: None not in (key, "
        "query) and key != query",
        Written(
            width(
                rasp.Select(
                    previous,
                    rasp.tokens,
                    lambda key, query: None not in (key, query) and key != query,
                )
            )
        ),
    ),
    "a composite of what is undefined": Refused(
        Written(
            width(rasp.Select(previous, rasp.tokens, lambda key, query: key == query) | before)
        ),
        "'n': it reads 'previous', which is undefined on some inputs, where Tracr selects nothing "
        "by a composite selector: let it select a position everywhere, as in lambda key, query: "
        "key == max(query - 1, 0)",
        Written(
            width(
                rasp.Select(
                    rasp.Aggregate(
                        rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == max(q - 1, 0)),
                        rasp.tokens,
                    ),
                    rasp.tokens,
                    lambda key, query: key == query,
                )
                | before
            )
        ),
    ),
    "the negation of a select of what is undefined": Refused(
        Written(width(~rasp.Select(previous, rasp.tokens, lambda key, query: key == query))),
        "'n': it reads 'previous', which is undefined on some inputs, where Tracr selects nothing "
        "and a negated selector (~) may select all: put the negation inside, as in lambda key, "
        "query: None not in (key, query) and not (...)",
        Written(
            width(
                rasp.Select(
                    previous,
                    rasp.tokens,
                    lambda key, query: None not in (key, query) and not key == query,  # noqa: SIM201
                )
            )
        ),
    ),
    "a map of values that are equal": Refused(
        Written(rasp.Map(lambda x: type(x).__name__, flag_or_number, False).named("kind")),
        "'kind': it reads 'flag_or_number', whose values True, 1 are equal, and one to Tracr: let "
        "it have values that are not equal, as texts",
        Written(rasp.Map(lambda x: x[0], rasp.Map(KINDS.get, rasp.tokens), False).named("kind")),
    ),
    "a share that is compared": Refused(
        Written(rasp.Map(lambda x: x > 0.6, share).named("mostly")),
        "'mostly': it reads the number 'share', of which Tracr foresees the shares 0 and 1/n only "
        "(inexact numerical MLP): write it with counts, by rasp.SelectorWidth",
        Written(
            rasp.SequenceMap(
                lambda n, length: n > 0.6 * length,
                rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.Full("a"), EQ)),
                rasp.length,
            )
        ),
    ),
    "flags that are averaged": Refused(
        Written(rasp.Aggregate(so_far, is_a).named("some")),
        "'some': an aggregate, which in Tracr cannot select several positions of a category: write "
        "rasp.numerical(rasp.Aggregate(selector, numbers, default=0)) for a mean, numbers being "
        "rasp.numerical(rasp.Map(float, category)), or count by rasp.SelectorWidth",
        Written(mean(so_far, rasp.numerical(rasp.Map(float, is_a)), default=0)),
    ),
    "flags of which there is any": Refused(
        Written(rasp.Map(bool, rasp.Aggregate(so_far, is_a).named("some"), simplify=False)),
        "'some': an aggregate, which in Tracr cannot select several positions of a category: write",
        Written(rasp.Map(bool, width(so_far & rasp.Select(is_a, rasp.tokens, lambda key, _: key)))),
    ),
}


@pytest.mark.usefixtures("one_level")
@pytest.mark.parametrize("what", WRONG)
def test_a_program_that_is_compiled_wrongly_is_refused_with_what_to_write(what: str) -> None:
    with pytest.raises(UserError) as caught:
        build_reference(WRONG[what].written.inputs)
    assert f"the first variable to be wrong is {WRONG[what].message}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", [*REFUSED, *WRONG])
def test_what_a_refusal_tells_to_write_is_compiled_and_exact(what: str) -> None:
    instead = {**REFUSED, **WRONG}[what].instead
    assert instead is not None
    assert build_reference(instead.inputs).exact
