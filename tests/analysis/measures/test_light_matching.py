"""The light realisation measure agrees with full matching on controls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
from support.compiles import fast_compiles as fast_compiles
from support.tasks import small_inputs
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.activations import Recording, observe, taken
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.controls.variants import permuted, rotated
from algomatch.analysis.matching.cut_verdicts import REALISED
from algomatch.analysis.matching.program_ranking import candidate, standing
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures.emergence import summaries
from algomatch.analysis.measures.light_matching import METRICS, Realisation
from algomatch.config.schema import AnalysisConfig
from algomatch.data.rasp.cuts import cuts
from algomatch.models.reference import Reference, build_reference
from algomatch.models.shapes import random_inits
from algomatch.models.task_model import task_model_of

CONFIG = AnalysisConfig(match_cases=300, match_checkpoint_cases=150, bootstrap=100)
PROGRAMS = ("reverse", "sort", "double_hist", "double_hist_by_division")
NOTHING = "previous_token"  # it has no testable cut


@cache
def reference_of(program: str) -> Reference:
    return build_reference(small_inputs(program))


@cache
def setting_of(program: str) -> MeasurementContext:
    reference = reference_of(program)
    return MeasurementContext(small_inputs(program), reference, reference.bridge.cfg, CONFIG)


def rows_of(bridge: TransformerBridge, program: str) -> dict[str, Measurement]:
    context = setting_of(program)
    source = observe(bridge, context.inputs, CONFIG.batch_size)
    return {row.key: row for row in taken(Realisation(source, context), source)}


def named(rows: dict[str, Measurement], name: str) -> dict[str, float]:
    return {r.subject: r.value for r in rows.values() if r.measure == f"matching/{name}"}


def variants(program: str) -> Iterator[TransformerBridge]:
    reference = reference_of(program)
    yield reference.bridge
    for change in (rotated, permuted):
        yield change(reference.compiled, seed=3).bridge(small_inputs(program))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_compiled_program_realises_its_cuts_and_their_variables(program: str) -> None:
    for bridge in variants(program):
        rows = rows_of(bridge, program)
        testable = rows["matching/model/testable_cuts"]
        assert testable.value >= 1
        assert testable.n == len(cuts(small_inputs(program)).all)
        best = named(rows, "best_match")
        assert len(best) == testable.value
        assert set(best.values()) == {1.0}
        assert set(named(rows, "realised").values()) == {1.0}
        assert set(named(rows, "variable_realised").values()) == {1.0}
        assert max(named(rows, "best_match_chance").values()) < 0.6


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_random_init_realises_nothing(program: str) -> None:
    for bridge in random_inits(setting_of(program).shape, 2, 0, "cpu"):
        rows = rows_of(bridge, program)
        assert set(named(rows, "realised").values()) == {0.0}
        assert set(named(rows, "variable_realised").values()) == {0.0}
        assert max(named(rows, "best_match").values()) < 0.5


@pytest.mark.parametrize(("own", "asked"), [PROGRAMS[2:], PROGRAMS[:1:-1]])
def test_it_agrees_with_the_full_version_on_each_others_programs(own: str, asked: str) -> None:
    inputs = small_inputs(asked)
    bridge = reference_of(own).compiled.bridge(inputs)
    program = candidate(asked, inputs, reference_of(asked), CONFIG)
    full = standing(task_model_of(bridge, inputs), program, CONFIG)
    light = named(rows_of(bridge, asked), "realised")
    verdicts = {verdict.cut.name: verdict.verdict for verdict in full.verdict.cuts}
    assert light == {cut.name: float(verdicts[cut.name] == REALISED) for cut in program.testable}
    assert 0.0 in light.values()


@pytest.mark.parametrize(("wrong", "realised"), [(0.005, 1.0), (0.02, 0.0)])
def test_a_model_that_does_not_solve_the_task_realises_nothing(
    wrong: float, realised: float
) -> None:
    context = setting_of("reverse")
    source = observe(context.reference.bridge, context.inputs, CONFIG.batch_size)
    statistic = Realisation(source, context)
    for rows, part in source.parts():
        assert isinstance(part, Recording)
        logits = part.logits.clone()
        logits[: int(wrong * len(context.inputs))] *= -1  # every right output becomes wrong
        statistic.add(replace(part, logits=logits), rows)
    by_key = {row.key: row for row in statistic.rows()}
    assert set(named(by_key, "best_match").values()) == {1.0}
    assert set(named(by_key, "realised").values()) == {realised}


def test_without_a_testable_cut_it_says_so_and_nothing_else() -> None:
    rows = rows_of(reference_of(NOTHING).bridge, NOTHING)
    assert list(rows) == ["matching/model/testable_cuts"]
    assert rows["matching/model/testable_cuts"].value == 0


def test_every_row_is_declared_and_within_bounds() -> None:
    metrics = {metric.name: metric for metric in METRICS}
    for program in ("reverse", "double_hist"):
        for row in rows_of(reference_of(program).bridge, program).values():
            metric = metrics[row.measure]
            assert metric.low <= row.value <= metric.high
            if row.ci_low is not None and row.ci_high is not None:
                assert row.ci_low <= row.value <= row.ci_high


def test_a_variable_emerges_at_the_step_at_which_it_is_surely_realised() -> None:
    (start,) = random_inits(setting_of("reverse").shape, 1, 0, "cpu")
    steps = {0: start, 10: start, 20: reference_of("reverse").bridge}
    rows = [
        replace(row, step=step, run="run")
        for step, bridge in steps.items()
        for row in rows_of(bridge, "reverse").values()
    ]
    by_key = summaries(rows)
    assert by_key["matching/length/variable_realised"].emergence_step == 20
    assert by_key["matching/indices+tokens+length/realised"].emergence_step == 20
