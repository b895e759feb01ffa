"""The hypotheses' evidence is of the right model, edges, step and program."""

from __future__ import annotations

import pytest

from algomatch.analysis.circuits.circuit_result import (
    MODEL,
    RANDOM_INIT,
    REFERENCE,
    CarriedRow,
    CircuitResult,
    CircuitRow,
    LengthRow,
)
from algomatch.analysis.matching.cut_verdicts import NOT_TESTABLE
from algomatch.analysis.matching.match_result import CutTestRow, MatchResult, ProgramRow
from algomatch.analysis.measures.emergence import Summary
from algomatch.analysis.results import CIRCUIT, MATCH, About, Key
from algomatch.hypotheses.evidence import circuit_found, emergence, program_verdicts
from algomatch.hypotheses.verdicts import Carried, Emergence


def circuit_row(ablation: str, edges: int, *, step: int = 70, chosen: bool = True) -> CircuitRow:
    return CircuitRow(
        model="one", step=step, ablation=ablation, method="exact", edges=edges,
        faithfulness=0.9 + edges / 1000, faithfulness_low=0.8 + edges / 1000,
        faithfulness_high=0.95 + edges / 1000, exact=1.0, chosen=chosen, whole=False,
    )  # fmt: skip


def carried(of: str, *names: str, inner: bool = True) -> list[CarriedRow]:
    return [
        CarriedRow(model="one", step=70, of=of, edge=f"e{at}", inner=inner, carries=name,
                   share=None, chance=None)
        for at, name in enumerate(names)
    ]  # fmt: skip


CIRCUITS = CircuitResult(
    about=About(Key(CIRCUIT, "one", 70)),
    curves=(
        circuit_row("resample_within", 3), circuit_row("resample_across", 9),
        circuit_row("resample_across", 7), circuit_row("resample_across", 2, chosen=False),
        circuit_row("zero", 1),
    ),
    lengths=tuple(
        LengthRow(model="one", step=70, length=length, inputs=inputs, faithfulness=None,
                  completeness=None, exact=None)
        for length, inputs in ((1, 20), (2, 300))
    ),
    carried=(
        *carried(MODEL, "length", "", "", "hist"), *carried(MODEL, "tokens", inner=False),
        *carried(REFERENCE, "length", "length", ""), *carried(RANDOM_INIT, "", "indices"),
    ),
)  # fmt: skip


def test_h2_compares_the_models_edges_with_the_references_and_a_random_inits() -> None:
    circuit = circuit_found(CIRCUITS, 0.9, {"length": False, "hist": True})
    assert circuit is not None
    assert circuit.model == Carried(4, ("length", "hist"))
    assert circuit.reference == Carried(3, ("length", "length"))
    assert circuit.untrained == Carried(2, ("indices",))
    assert circuit.steps == (frozenset({"length"}), frozenset({"length"}))


def test_the_circuit_is_the_smallest_chosen_one_of_the_most_telling_kind() -> None:
    circuit = circuit_found(CIRCUITS, 0.9, {"length": False, "hist": True})
    assert circuit is not None
    assert (circuit.step, circuit.edges, circuit.ablation) == (70, 7, "resample_across")
    assert circuit.faithful == pytest.approx((0.907, 0.807, 0.957))
    assert (circuit.inputs, circuit.across, circuit.still) == (320, True, frozenset())


def program(step: int, name: str, verdict: str, score: float) -> ProgramRow:
    return ProgramRow(
        step=step, exact=1.0, program=name, verdict=verdict, score=score, score_low=score - 0.1,
        score_high=score + 0.1, testable=1, shared_with=(), decided=(), why="",
    )  # fmt: skip


def cut(step: int, name: str, chance: float, verdict: str = "realised") -> CutTestRow:
    return CutTestRow(
        step=step, program=name, cut="c", site="s", match=1.0, match_low=1.0, match_high=1.0,
        chance=chance, n=10, verdict=verdict,
    )  # fmt: skip


def test_h3_judges_by_the_last_step_that_was_matched_and_by_chance_there() -> None:
    matched = MatchResult(
        about=About(Key(MATCH, "one", 70)),
        programs=(
            program(0, "own", "different", 0.1), program(0, "other", "follows", 0.2),
            program(70, "own", "follows", 0.8), program(70, "other", "different", 0.3),
        ),
        tests=(
            cut(0, "own", 0.9), cut(70, "own", 0.2), cut(70, "own", 0.4),
            cut(70, "own", 0.7, NOT_TESTABLE), cut(70, "other", 0.6),
        ),
    )  # fmt: skip
    verdicts = {verdict.program: verdict for verdict in program_verdicts(matched)}
    assert {name: (row.step, row.verdict) for name, row in verdicts.items()} == {
        "own": (70, "follows"),
        "other": (70, "different"),
    }
    assert verdicts["own"].score == pytest.approx((0.8, 0.7, 0.9))
    assert {name: row.chance for name, row in verdicts.items()} == {"own": 0.4, "other": 0.6}


def test_emergence_is_of_exact_accuracy_on_all_inputs_and_of_cuts() -> None:
    steps = {
        "accuracy/all/exact": 30, "accuracy/held_out/exact": 40, "matching/c/realised": 20,
        "matching/c/best_match": 10, "matching/v/variable_realised": 5,
    }  # fmt: skip
    curves = {key: Summary(key, 1.0, 1.0, step, 0.9) for key, step in steps.items()}
    assert emergence(curves) == Emergence(30, {"c": 20})
