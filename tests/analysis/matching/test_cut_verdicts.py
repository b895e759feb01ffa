"""Verdicts on hand-made tables of matches."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algomatch.analysis.matching import cut_verdicts as verdicts
from algomatch.analysis.matching.cut_tests import Match, Score
from algomatch.analysis.matching.cut_verdicts import (
    DIFFERENT,
    FOLLOWS,
    FUSES,
    NOT_REALISED,
    NOT_SOLVED,
    NOT_TESTABLE,
    PARTLY,
    REALISED,
    UNDECIDED,
    Rule,
    Verdict,
    held,
    judge,
    realised,
)
from algomatch.data.donors import SCRUB
from algomatch.data.rasp.cuts import Cut, Cuts

RULE = Rule(realised=0.9, partly=0.5, solved=0.99)
SITES = ("embedding", "first", "second", "last")


def cut(name: str, *steps: str) -> Cut:
    return Cut((name,), (), frozenset({frozenset(steps)}))


INPUT, LEFT, RIGHT = cut("input"), cut("left", "l"), cut("right", "r")
BOTH, OUTPUT = cut("both", "l", "r"), cut("output", "l", "r", "o")
ALL = Cuts((INPUT, LEFT, RIGHT, BOTH, OUTPUT), True)
CHAIN = Cuts((INPUT, LEFT, BOTH, OUTPUT), True)

Table = Mapping[str, Mapping[Cut, float]]


def match(site: str, of: Cut, value: float, margin: float = 0.02, chance: float = 0.1) -> Match:
    """A match with one score. The interval is the value plus or minus the margin."""
    low, high = max(0.0, value - margin), min(1.0, value + margin)
    right = torch.ones(1, dtype=torch.bool)
    score = Score(SCRUB, value, low, high, chance, right, torch.zeros(1, dtype=torch.int64))
    return Match(site, of, (score,), value, low, high)


def made(cuts: Cuts, table: Table, margin: float = 0.02, chance: float = 0.1) -> list[Match]:
    """The matches of all cuts at all sites. The default value is 0."""
    return [
        match(site, of, table.get(site, {}).get(of, 0.0), margin, chance)
        for site in SITES
        for of in cuts.all
    ]


PERFECT: Table = {
    "embedding": {INPUT: 1.0},
    "first": {LEFT: 1.0},
    "second": {BOTH: 1.0},
    "last": {OUTPUT: 1.0},
}


def judged(table: Table, exact: float = 1.0, margin: float = 0.02) -> Verdict:
    return judge(CHAIN, (LEFT, BOTH), made(CHAIN, table, margin), exact, RULE)


def path_of(verdict: Verdict) -> dict[str, Cut | None]:
    return {site: match.cut if match else None for site, match in verdict.path.items()}


def changed(site: str, row: Mapping[Cut, float]) -> Table:
    return {**PERFECT, site: row}


# Realised cuts


def test_a_cut_is_realised_where_it_matches_and_no_later_cut_does() -> None:
    table = {
        "embedding": {INPUT: 1.0},
        "first": {INPUT: 1.0, LEFT: 0.95},
        "second": {LEFT: 1.0, BOTH: 1.0},
        "last": {LEFT: 1.0, BOTH: 1.0, OUTPUT: 0.9},
    }
    assert realised(made(CHAIN, table), RULE) == {
        "input": ("embedding",),
        "left": ("first",),
        "both": ("second",),
        "output": ("last",),
    }


def test_a_later_cut_that_does_not_match_explains_nothing() -> None:
    table = {"first": {LEFT: 1.0, BOTH: 0.89, OUTPUT: 0.5}}
    assert realised(made(CHAIN, table), RULE) == {"left": ("first",)}
    rows = {match.cut.name for match in held(made(CHAIN, table), RULE)["first"]}
    assert rows == {"left", "both", "output"}  # the input cut is explained by the later cut left


def test_cuts_of_no_order_are_realised_side_by_side() -> None:
    table = {"first": {LEFT: 1.0, RIGHT: 1.0}, "second": {LEFT: 1.0, RIGHT: 1.0, BOTH: 1.0}}
    sites = realised(made(ALL, table), RULE)
    assert sites == {"left": ("first",), "right": ("first",), "both": ("second",)}


@pytest.mark.parametrize(("value", "there"), [(0.9, True), (0.8999, False)])
def test_the_threshold_itself_is_enough(value: float, there: bool) -> None:
    sites = realised(made(CHAIN, {"first": {LEFT: value}}), RULE)
    assert ("left" in sites) == there


# Testable cuts


def test_testable_are_the_inner_cuts_that_the_reference_realises() -> None:
    table = {**PERFECT, "second": {}, "last": {BOTH: 1.0, OUTPUT: 1.0}}
    assert verdicts.testable(CHAIN, made(CHAIN, PERFECT), RULE) == (LEFT, BOTH)
    assert verdicts.testable(CHAIN, made(CHAIN, table), RULE) == (LEFT,)
    assert verdicts.testable(CHAIN, [], RULE) == ()


def test_what_the_embedding_holds_is_not_testable() -> None:
    table = changed("embedding", {INPUT: 1.0, LEFT: 1.0})
    assert verdicts.testable(CHAIN, made(CHAIN, table), RULE) == (BOTH,)


def test_what_its_cases_leave_undecided_is_not_testable() -> None:
    assert verdicts.testable(CHAIN, made(CHAIN, PERFECT, margin=0.1), RULE) == (LEFT, BOTH)
    assert verdicts.testable(CHAIN, made(CHAIN, PERFECT, margin=0.11), RULE) == ()


def test_what_chance_could_reach_is_not_testable() -> None:
    assert verdicts.testable(CHAIN, made(CHAIN, PERFECT, chance=0.97), RULE) == (LEFT, BOTH)
    assert verdicts.testable(CHAIN, made(CHAIN, PERFECT, chance=0.98), RULE) == ()


# Verdicts


def test_cuts_realised_in_another_order_are_another_program() -> None:
    verdict = judged({**PERFECT, "first": {BOTH: 1.0}, "second": {LEFT: 1.0}})
    assert [cut.verdict for cut in verdict.cuts[1:3]] == [REALISED, REALISED]
    assert (verdict.verdict, verdict.missing) == (DIFFERENT, ())
    assert verdict.why == "every testable inner cut is realised, but in another order"
    both = {**PERFECT, "first": {LEFT: 1.0}, "second": {BOTH: 1.0}, "last": {LEFT: 1.0}}
    assert judged(both).verdict == FOLLOWS


def test_what_a_later_cut_may_explain_is_undecided() -> None:
    verdict = judged({**PERFECT, "first": {LEFT: 1.0, BOTH: 0.89}})
    assert verdict.cuts[1].verdict == UNDECIDED
    assert verdict.verdict == UNDECIDED
    assert judged({**PERFECT, "first": {LEFT: 1.0, BOTH: 0.87}}).verdict == FOLLOWS


def test_a_model_that_realises_every_testable_cut_follows_the_program() -> None:
    verdict = judged(PERFECT)
    assert verdict.verdict == FOLLOWS
    assert verdict.why.startswith("every testable inner cut is realised; 2 of its ")
    assert [cut.verdict for cut in verdict.cuts] == [NOT_TESTABLE, REALISED, REALISED, NOT_TESTABLE]
    assert [cut.sites for cut in verdict.cuts] == [(site,) for site in SITES]
    assert path_of(verdict) == dict(zip(SITES, CHAIN.all, strict=True))
    assert (verdict.missing, verdict.fused) == ((), ())


def test_a_model_that_jumps_from_input_to_output_fuses_steps() -> None:
    table = {
        "embedding": {INPUT: 1.0},
        "first": {INPUT: 1.0},
        "second": {OUTPUT: 1.0},
        "last": {OUTPUT: 1.0},
    }
    verdict = judged(table)
    assert (verdict.verdict, verdict.missing) == (FUSES, (LEFT, BOTH))
    assert verdict.fused == ("l", "r", "o")
    assert verdict.why == "l, r, o in one go: every site holds a cut, but none holds left; both"
    assert [cut.verdict for cut in verdict.cuts][1:3] == [NOT_REALISED, NOT_REALISED]
    assert list(path_of(verdict).values()) == [INPUT, INPUT, OUTPUT, OUTPUT]


def test_one_cut_that_is_passed_over_is_enough_to_fuse() -> None:
    verdict = judged(changed("second", {LEFT: 1.0}))
    assert (verdict.verdict, verdict.missing, verdict.fused) == (FUSES, (BOTH,), ("r", "o"))


def test_a_cut_that_only_a_later_one_explains_is_not_realised() -> None:
    verdict = judged(changed("first", {LEFT: 1.0, BOTH: 1.0}))
    assert (verdict.verdict, verdict.missing, verdict.fused) == (FUSES, (LEFT,), ("l", "r"))
    assert path_of(verdict)["first"] == BOTH


def test_a_model_with_a_site_that_holds_no_cut_is_different() -> None:
    verdict = judged(changed("second", {LEFT: 0.3, BOTH: 0.2, OUTPUT: 0.1}))
    assert (verdict.verdict, verdict.missing, verdict.fused) == (DIFFERENT, (BOTH,), ())
    assert verdict.why == "both: not realised, and no cut is held at second"
    assert path_of(verdict)["second"] is None
    assert verdict.cuts[2].best is not None
    assert verdict.cuts[2].best.value == 0.2


def test_a_model_that_does_not_solve_the_task_gets_no_other_verdict() -> None:
    assert judged(PERFECT, exact=0.99).verdict == FOLLOWS
    verdict = judged(PERFECT, exact=0.9899)
    assert verdict.verdict == NOT_SOLVED
    assert verdict.why == "exact accuracy 0.990 is below 0.99"
    assert [(cut.verdict, cut.sites) for cut in verdict.cuts[1:3]] == [(NOT_SOLVED, ())] * 2


def test_without_testable_cuts_nothing_is_decided() -> None:
    verdict = judge(CHAIN, (), made(CHAIN, PERFECT), 1.0, RULE)
    assert verdict.verdict == UNDECIDED
    assert verdict.why == "the program has no inner cut that can be tested"
    assert {cut.verdict for cut in verdict.cuts} == {NOT_TESTABLE}


@pytest.mark.parametrize("value", [0.89, 0.9, 0.92])
def test_an_interval_that_holds_the_threshold_decides_nothing(value: float) -> None:
    verdict = judged(changed("second", {BOTH: value}), margin=0.021)
    assert verdict.verdict == UNDECIDED
    assert verdict.why == "the interval of both, or of a later cut there, contains 0.9 or chance"
    assert verdict.cuts[2].verdict == UNDECIDED


def test_a_match_that_chance_could_reach_decides_nothing() -> None:
    table = made(CHAIN, PERFECT, chance=0.98)
    assert judge(CHAIN, (LEFT, BOTH), table, 1.0, RULE).verdict == UNDECIDED


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.53, PARTLY), (0.52, PARTLY), (0.51, NOT_REALISED), (0.87, PARTLY), (0.1, NOT_REALISED)],
)
def test_a_cut_is_partly_realised_where_its_whole_interval_is_above_the_rule(
    value: float, verdict: str
) -> None:
    judgement = judged(changed("second", {BOTH: value}))
    assert judgement.cuts[2].verdict == verdict
    assert judgement.verdict == DIFFERENT


def test_a_cut_is_not_partly_realised_by_chance() -> None:
    table = made(CHAIN, changed("second", {BOTH: 0.6}), chance=0.59)
    assert judge(CHAIN, (LEFT, BOTH), table, 1.0, RULE).cuts[2].verdict == NOT_REALISED


def test_the_best_match_is_at_a_site_that_no_later_cut_explains() -> None:
    table = {**PERFECT, "first": {LEFT: 0.7}, "second": {LEFT: 1.0, BOTH: 1.0}}
    verdict = judged(table)
    assert verdict.cuts[1].best is not None
    assert (verdict.cuts[1].best.site, verdict.cuts[1].best.value) == ("first", 0.7)
    assert verdict.cuts[1].verdict == PARTLY


def test_a_cut_that_later_ones_explain_everywhere_has_no_best_match() -> None:
    verdict = judged({site: {OUTPUT: 1.0} for site in SITES})
    assert verdict.cuts[1].best is None
    assert verdict.cuts[1].verdict == NOT_REALISED


def test_the_embedding_holds_the_input_whatever_its_match() -> None:
    verdict = judged(changed("embedding", {}))
    assert path_of(verdict)["embedding"] == INPUT
    assert verdict.verdict == FOLLOWS


def test_the_path_never_goes_back() -> None:
    table = {**PERFECT, "first": {BOTH: 0.8}, "second": {LEFT: 1.0}, "last": {OUTPUT: 1.0}}
    path = verdicts.best_path(CHAIN, made(CHAIN, table), RULE)
    assert [match and match.cut for match in path.values()] == [INPUT, None, LEFT, OUTPUT]
    table["last"] = {BOTH: 0.7}
    path = verdicts.best_path(CHAIN, made(CHAIN, table), RULE)
    assert [match and match.cut for match in path.values()] == [INPUT, None, LEFT, BOTH]
    table["second"] = {LEFT: 0.6}
    path = verdicts.best_path(CHAIN, made(CHAIN, table), RULE)
    assert [match and match.cut for match in path.values()] == [INPUT, BOTH, None, BOTH]


tables = st.dictionaries(
    st.sampled_from(SITES),
    st.dictionaries(st.sampled_from(ALL.all), st.floats(0, 1), max_size=5),
)


@given(tables)
def test_the_path_is_the_best_of_all_monotone_ones(table: Table) -> None:
    matches = made(ALL, table)
    good = [
        [None, *(m for m in row if m.value >= RULE.partly and m.low > m.chance)]
        for row in held(matches, RULE).values()
    ]
    if good[0] == [None]:  # the embedding holds the input
        good[0] = [None, next(m for m in matches if m.site == SITES[0] and m.cut == INPUT)]

    def monotone(path: tuple[Match | None, ...]) -> bool:
        kept = [match.cut for match in path if match]
        return all(b == a or b.later(a) for a, b in itertools.combinations(kept, 2))

    best = max(
        sum(match.value for match in path if match)
        for path in itertools.product(*good)
        if monotone(path)
    )
    chosen = tuple(verdicts.best_path(ALL, matches, RULE).values())
    assert monotone(chosen)
    assert sum(match.value for match in chosen if match) == pytest.approx(best)


def test_the_path_names_one_of_the_cuts_that_a_site_holds() -> None:
    table = {**PERFECT, "first": {LEFT: 0.95, RIGHT: 1.0}}
    verdict = judge(ALL, (LEFT, RIGHT, BOTH), made(ALL, table), 1.0, RULE)
    assert path_of(verdict)["first"] == RIGHT
    assert verdict.verdict == FOLLOWS
