"""Verdicts on H1, H2 and H3: they need support by intervals, controls and seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from algomatch.analysis.matching.cut_verdicts import (
    DIFFERENT,
    FOLLOWS,
    FUSES,
    NOT_SOLVED,
    UNDECIDED,
)
from algomatch.analysis.measurements import Measurement
from algomatch.config.composition import compose
from algomatch.config.printed_commands import RunCommands
from algomatch.data.inputs import input_set
from algomatch.data.tasks import make_task
from algomatch.hypotheses import verdicts as hy
from algomatch.hypotheses.seed_groups import Estimate, estimate
from algomatch.hypotheses.verdicts import Carried, CircuitFound, Hypothesis, ProgramVerdict, Solved
from algomatch.report.html.run_page import own_steps

RUN = RunCommands(Path("runs/RUN"), compose(), compose().task)
EXACT = Measurement("accuracy/exact", "all", 1.0, 100, 0.96, 1.0)
SOLVED = Solved(EXACT, 0.99)
UNSOLVED = Solved(replace(EXACT, value=0.98), 0.99)
UNKNOWN = Solved(None, 0.99)
ON_OFF = ("bimodal_share", "dip", "bimodality")


def row(measure: str, value: float, low: float | None, high: float | None) -> Measurement:
    return Measurement(measure, "model", value, 28, low, high)


def differences(*intervals: tuple[float | None, float | None]) -> list[Measurement]:
    return [
        row(f"sparsity/h1_{name}", 0.1, low, high)
        for name, (low, high) in zip(ON_OFF, intervals, strict=False)
    ]


ABOVE, BELOW, ACROSS = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.3)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (differences(ABOVE, ABOVE, ABOVE), hy.SUPPORTED),
        (differences(BELOW, BELOW, BELOW), hy.NOT_SUPPORTED),
        (differences(ABOVE, BELOW, ABOVE), hy.MIXED),
        (differences(ABOVE, ABOVE, ACROSS), hy.UNDECIDED),
        (differences(ACROSS, ACROSS, ACROSS), hy.UNDECIDED),
        (differences(ABOVE, ABOVE, (None, None)), hy.UNDECIDED),
        (differences(ABOVE, ABOVE, (float("nan"), float("nan"))), hy.UNDECIDED),
        (differences(ABOVE, ABOVE, (0.0, 0.3)), hy.UNDECIDED),  # touches zero, so not above
        (differences(ABOVE, ABOVE), hy.UNDECIDED),  # one of the three is missing
        ([row("sparsity/h1_hoyer", 0.5, 0.4, 0.6)], hy.NOT_MEASURED),  # decides nothing
        ([], hy.NOT_MEASURED),
    ],
)
def test_h1_needs_every_interval_on_one_side(rows: list[Measurement], verdict: str) -> None:
    judged = hy.h1(rows, SOLVED, {}, True, RUN)
    assert judged.verdict == verdict
    assert judged.scope == hy.ONE_SEED
    assert judged.change
    assert bool(judged.lacking) == (verdict == hy.NOT_MEASURED)


def test_h1_is_not_judged_of_what_does_not_solve_the_task_or_has_no_neurons() -> None:
    rows = differences(ABOVE, ABOVE, ABOVE)
    for solved in (UNSOLVED, UNKNOWN):
        assert hy.h1(rows, solved, {}, True, RUN).verdict == hy.NOT_JUDGED
    assert "0.980" in hy.h1(rows, UNSOLVED, {}, True, RUN).why
    judged = hy.h1(rows, SOLVED, {}, False, RUN)
    assert judged.verdict == hy.NOT_JUDGED
    assert "no MLP" in judged.why


def test_h1_marks_what_fails_the_controls() -> None:
    failing = {"sparsity/model/dip": "gap -0.1"}
    judged = hy.h1(differences(ABOVE, ABOVE, ABOVE), SOLVED, failing, True, RUN)
    assert [evidence.failing for evidence in judged.evidence] == [False, True, False]
    assert [evidence.why for evidence in judged.evidence] == [
        "",
        "fails the task's controls: gap -0.1",
        "",
    ]
    assert "the result is about compiling" in judged.why
    unknown = hy.h1(differences(ABOVE, ABOVE, ABOVE), SOLVED, None, True, RUN)
    assert [missing.command for missing in unknown.lacking] == ["algomatch controls task=reverse"]


OWN = frozenset({"length", "opp_idx", "opp_idx-1"})
CIRCUIT = CircuitFound(
    step=300, edges=40, of_edges=500, faithful=(0.97, 0.95, 0.99), at_least=0.9,
    model=Carried(50, ("length",) * 20 + ("opp_idx = opp_idx-1",) * 20),
    reference=Carried(8, ("length", "opp_idx = opp_idx-1", "tokens", "reverse")),
    untrained=Carried(50, ()), own=OWN, inputs=1364,
)  # fmt: skip
OVERLAP = [
    row("attention/matched_overlap", 0.8, 0.75, 0.85),
    row("attention/matched_overlap_random_init", 0.3, 0.2, 0.4),
    row("attention/matched_overlap_other_task", 0.3, 0.2, 0.5),
]


def h2(
    rows: list[Measurement] = OVERLAP,
    circuit: CircuitFound | None = CIRCUIT,
    solved: Solved = SOLVED,
    failing: dict[str, str] | None = {},  # noqa: B006
) -> Hypothesis:
    return hy.h2(rows, solved, failing, circuit, 300, RUN)


def test_h2_is_supported_where_all_comparisons_are_beyond_their_controls() -> None:
    judged = h2()
    assert judged.verdict == hy.SUPPORTED
    assert [evidence.says for evidence in judged.evidence if evidence.decides] == [hy.FOR] * 3
    assert not judged.lacking


def test_evidence_has_the_number_of_its_control_and_one_name_for_all_seeds() -> None:
    levels = {evidence.over_seeds: evidence.level for evidence in h2().evidence}
    assert levels == {
        "attention in common with the reference's heads": 0.5,
        "faithfulness of the circuit": 0.9,
        "share of inner edges that carry one variable": 0.0,
        "steps of the program carried by inner edges of both": 1.0,
    }
    steps = frozenset({"length", "opp_idx = opp_idx-1"})
    assert CIRCUIT.steps == (steps, steps)
    assert replace(CIRCUIT, reference=None).steps is None


@pytest.mark.parametrize("solved", [UNSOLVED, UNKNOWN])
def test_h2_is_not_judged_of_what_does_not_solve_the_task(solved: Solved) -> None:
    assert h2(solved=solved).verdict == hy.NOT_JUDGED


def test_h2_is_undecided_by_attention_alone_or_by_another_checkpoints_circuit() -> None:
    assert h2(circuit=None).verdict == hy.UNDECIDED
    assert [missing.command for missing in h2(circuit=None).lacking] == [
        "algomatch circuit runs/RUN"
    ]
    for step in (200, None):
        assert h2(circuit=replace(CIRCUIT, step=step)).verdict == hy.UNDECIDED
    assert h2(rows=[], circuit=None).verdict == hy.NOT_MEASURED
    none = hy.h2(OVERLAP, SOLVED, {}, None, 300, RUN, searched=True)
    assert none.verdict == hy.UNDECIDED
    assert "none is surely faithful" in none.why
    assert not none.lacking


def test_h2_does_not_count_attention_that_fails_its_controls_or_has_none() -> None:
    failing = h2(failing={"attention/model/matched_overlap": "gap -0.1"})
    assert failing.evidence[0].failing
    assert failing.evidence[0].says == hy.NEITHER
    assert failing.verdict == hy.UNDECIDED  # although the other two comparisons support it
    assert "attention in common fails the task's controls" in failing.why
    assert h2(failing=None).verdict != hy.SUPPORTED  # its controls are unknown
    assert h2(failing=None).evidence[0].says == hy.NEITHER
    assert "algomatch controls task=reverse" in [
        missing.command for missing in h2(failing=None).lacking
    ]
    assert h2(rows=OVERLAP[:1]).verdict != hy.SUPPORTED
    without = h2(rows=[])
    assert without.verdict == hy.UNDECIDED
    assert any("attention" in missing.what for missing in without.lacking)


def test_h2_is_not_supported_by_as_much_as_a_random_init_has() -> None:
    as_much = replace(CIRCUIT, untrained=CIRCUIT.model)
    assert h2(circuit=as_much).verdict == hy.UNDECIDED
    more = replace(CIRCUIT, model=Carried(50, ("length", "length")), untrained=CIRCUIT.model)
    assert h2(circuit=more).verdict == hy.MIXED
    within = [replace(OVERLAP[0], value=0.3, ci_low=0.25, ci_high=0.35), *OVERLAP[1:]]
    nothing = replace(CIRCUIT, model=Carried(50, ()))
    assert h2(rows=within, circuit=nothing).verdict == hy.NOT_SUPPORTED
    for failing in (None, {"attention/model/matched_overlap": "gap -0.1"}):
        judged = h2(rows=within, circuit=nothing, failing=failing)
        assert judged.verdict == hy.UNDECIDED  # attention without controls decides nothing
    of_few = replace(CIRCUIT, model=Carried(2, ()))  # 0 of 2 is not surely fewer
    assert h2(rows=within, circuit=of_few).verdict == hy.UNDECIDED


def test_h2_counts_steps_of_the_program_alone() -> None:
    given = replace(CIRCUIT, model=Carried(50, ("tokens",) * 20 + ("reverse",) * 20))
    steps = next(evidence for evidence in h2(circuit=given).evidence if "steps" in evidence.what)
    assert steps.says == hy.AGAINST  # input and output do not count
    unsure = replace(CIRCUIT, model=Carried(50, ("length or opp_idx = opp_idx-1",) * 40))
    steps = next(evidence for evidence in h2(circuit=unsure).evidence if "steps" in evidence.what)
    assert steps.says == hy.AGAINST  # nor does an ambiguous edge


def test_h2_holds_against_a_model_no_step_that_no_edge_could_have_been_found_for() -> None:
    within = replace(
        CIRCUIT, ablation="resample_within", model=Carried(50, ("tokens",) * 40), still=OWN
    )
    judged = h2(circuit=within)
    steps = next(evidence for evidence in judged.evidence if "steps" in evidence.what)
    assert steps.says == hy.NEITHER
    assert "resample_within does not change length, opp_idx = opp_idx-1, so" in steps.why
    assert judged.verdict == hy.UNDECIDED
    assert [missing.command for missing in judged.lacking] == [
        "algomatch circuit runs/RUN --kinds resample_across"
    ]
    assert not h2(circuit=replace(within, across=True)).lacking
    part = replace(within, still=frozenset({"length"}))  # the other step could have been found
    steps = next(evidence for evidence in h2(circuit=part).evidence if "steps" in evidence.what)
    assert steps.says == hy.AGAINST
    across = replace(within, ablation="resample_across", still=frozenset())
    assert h2(circuit=across).verdict == hy.MIXED


@pytest.mark.parametrize(
    ("task", "moving", "still"),
    [("reverse", set(), {"length", "opp_idx", "opp_idx-1"}), ("sort", {"key", "place"}, set())],
)
def test_a_step_moves_within_a_length_if_it_follows_from_more_than_the_place(
    task: str, moving: set[str], still: set[str]
) -> None:
    config = compose([f"task={task}", "task.max_length=3"]).task
    steps = own_steps(input_set(make_task(config), config))
    assert steps is not None
    assert {name for name, moves in steps.items() if moves} >= moving
    assert {name for name, moves in steps.items() if not moves} == still


def test_h2_without_controls_of_what_edges_carry_is_not_supported() -> None:
    for circuit in (
        replace(CIRCUIT, model=None),
        replace(CIRCUIT, untrained=None),
        replace(CIRCUIT, reference=None),
    ):
        judged = h2(circuit=circuit)
        assert judged.verdict == hy.UNDECIDED
        assert judged.lacking


def program(name: str, verdict: str, **more: object) -> ProgramVerdict:
    judged = ProgramVerdict(300, name, verdict, "why", (0.9, 0.8, 1.0), 1)
    return replace(judged, **more)  # type: ignore[arg-type]


def h3(*programs: ProgramVerdict, solved: Solved = SOLVED, rows: object = ()) -> Hypothesis:
    return hy.h3(list(rows), solved, programs, 300, RUN)  # type: ignore[call-overload]


def test_h3_is_supported_where_one_program_alone_is_followed() -> None:
    judged = h3(program("a", FOLLOWS), program("b", DIFFERENT))
    assert judged.verdict == hy.SUPPORTED
    assert "follows a" in judged.why
    alone = h3(program("a", FOLLOWS))
    assert alone.verdict == hy.UNDECIDED
    assert "no other program to test" in alone.why


@pytest.mark.parametrize("verdict", [FOLLOWS, DIFFERENT])
def test_h3_needs_a_verdict_on_every_program_of_the_task(verdict: str) -> None:
    asked = [program("a", verdict), program("b", DIFFERENT)]
    whole = hy.h3([], SOLVED, asked, 300, RUN, of_task=("a", "b"))
    assert whole.verdict == (hy.SUPPORTED if verdict == FOLLOWS else hy.NOT_SUPPORTED)
    assert not whole.lacking
    part = hy.h3([], SOLVED, asked, 300, RUN, of_task=("a", "b", "c"))
    assert part.verdict == hy.UNDECIDED
    assert "c was not tested" in part.why
    assert [missing.command for missing in part.lacking] == ["algomatch match runs/RUN"]


@pytest.mark.parametrize("solved", [UNSOLVED, UNKNOWN])
def test_h3_is_not_judged_of_what_does_not_solve_the_task(solved: Solved) -> None:
    assert h3(program("a", FOLLOWS), solved=solved).verdict == hy.NOT_JUDGED
    assert h3(program("a", NOT_SOLVED)).verdict == hy.NOT_JUDGED


@pytest.mark.parametrize(
    "programs",
    [
        (program("a", FOLLOWS), program("b", FOLLOWS)),  # nothing separates them
        (program("a", FOLLOWS, shared_with=("b",)), program("b", UNDECIDED)),
        (program("a", FOLLOWS), program("b", UNDECIDED)),  # it may be b as well
        (program("a", UNDECIDED), program("b", DIFFERENT)),
        (program("a", FUSES), program("b", FUSES)),  # no site to test
        (program("a", FOLLOWS, step=200),),  # of another checkpoint
        (program("a", FOLLOWS, step=None),),
        (program("a", "of another version"),),
    ],
)
def test_h3_is_undecided_where_something_else_may_be_so(
    programs: tuple[ProgramVerdict, ...],
) -> None:
    assert h3(*programs).verdict == hy.UNDECIDED


def test_h3_takes_what_selectors_decide_between_programs_of_the_same_cuts() -> None:
    a = program("a", FOLLOWS, shared_with=("b",), decided=("b",))
    b = program("b", FOLLOWS, shared_with=("a",))
    assert h3(a, b).verdict == hy.SUPPORTED
    assert h3(a, b, program("c", UNDECIDED)).verdict == hy.UNDECIDED


def test_h3_is_not_supported_where_no_program_is_followed() -> None:
    judged = h3(program("a", DIFFERENT), program("b", FUSES))
    assert judged.verdict == hy.NOT_SUPPORTED
    assert "no program was identified" in judged.why


def test_h3_does_not_take_the_lighter_measure_for_a_verdict() -> None:
    rows = [
        row("matching/testable_cuts", 1, None, None),
        replace(row("matching/best_match", 1.0, 0.98, 1.0), subject="indices+length"),
        replace(row("matching/realised", 1.0, None, None), subject="indices+length"),
    ]
    judged = h3(rows=rows)
    assert judged.verdict == hy.NOT_MEASURED
    assert [missing.command for missing in judged.lacking] == ["algomatch match runs/RUN --all"]
    assert h3(rows=[row("matching/testable_cuts", 0, None, None)]).verdict == hy.UNDECIDED
    assert h3().verdict == hy.NOT_MEASURED


OTHER = ("analysis.match_realised=0.01", "analysis.seed=1")
WORDS = (
    "with analysis.match_realised=0.01, and with analysis.seed=1, not with the run's own settings"
)


def test_results_of_other_settings_are_named_and_decide_nothing() -> None:
    judged = hy.h3([], SOLVED, [], 300, RUN, otherwise=OTHER)
    assert (judged.verdict, judged.why) == (hy.NOT_MEASURED, f"the model was matched {WORDS}")
    light = [row("matching/testable_cuts", 1, None, None)]
    assert hy.h3(light, SOLVED, [], 300, RUN, otherwise=OTHER).why == judged.why
    own = [program("a", FOLLOWS), program("b", DIFFERENT)]
    assert hy.h3([], SOLVED, own, 300, RUN, otherwise=OTHER).verdict == hy.SUPPORTED
    circuit = hy.h2([], SOLVED, {}, None, 300, RUN, otherwise=OTHER)
    assert (circuit.verdict, circuit.why) == (
        hy.NOT_MEASURED, f"the circuit was searched for {WORDS}",
    )  # fmt: skip
    beside = hy.h2(OVERLAP, SOLVED, {}, None, 300, RUN, otherwise=OTHER)
    assert beside.verdict == hy.UNDECIDED
    assert beside.why.endswith(f"; the circuit was searched for {WORDS}")


def each(*verdicts: str) -> dict[int, Hypothesis]:
    return {
        seed: Hypothesis("H1", verdict, "why", hy.ONE_SEED) for seed, verdict in enumerate(verdicts)
    }


S, N = hy.SUPPORTED, hy.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((S, S, S), S),
        ((N, N, N), N),
        ((S, S, N), hy.MIXED),
        ((S, S), hy.UNDECIDED),  # too few seeds
        ((S, S, S, hy.UNDECIDED), hy.UNDECIDED),
        ((S, S, S, hy.NOT_JUDGED), hy.UNDECIDED),  # one seed does not solve the task
        ((hy.NOT_JUDGED,) * 3, hy.NOT_JUDGED),
        ((hy.NOT_MEASURED,) * 3, hy.NOT_MEASURED),
    ],
)
def test_seeds_have_to_agree(verdicts: tuple[str, ...], expected: str) -> None:
    assert hy.over_seeds("H1", each(*verdicts)).verdict == expected


def test_one_seed_says_nothing_about_the_architecture() -> None:
    judged = hy.over_seeds("H1", each(S))
    assert judged.verdict == hy.UNDECIDED
    assert judged.scope == hy.ONE_SEED
    assert hy.ONE_SEED in judged.why


def test_runs_of_the_same_seed_are_no_seeds() -> None:
    assert hy.over_seeds("H1", each(S, S, S), repeated=True).verdict == hy.UNDECIDED


def test_over_seeds_an_interval_that_reaches_zero_decides_nothing() -> None:
    def over(*values: float) -> str:
        mean: Estimate = estimate("sparsity/model/h1_dip", values, "neither")
        return hy.over_seeds("H1", each(S, S, S), estimates=[mean]).verdict

    assert over(0.3, 0.31, 0.32) == S
    assert over(0.3, 0.01, 0.9) == hy.UNDECIDED
