"""The inputs of the hypotheses, from a run's measurements and the results in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..analysis.circuits.circuit_result import (
    MODEL,
    RANDOM_INIT,
    REFERENCE,
    CircuitResult,
)
from ..analysis.matching.cut_verdicts import NOT_TESTABLE
from ..analysis.matching.match_result import CutTestRow, MatchResult
from ..analysis.measurements import Measurement
from ..analysis.measures.emergence import Summary
from ..analysis.measures.registered_measures import measured
from ..config.printed_commands import RunCommands
from ..config.schema import Config
from ..runs.run_results import RunResults
from .failed_controls import Failing
from .row_values import of
from .verdicts import (
    Carried,
    CircuitFound,
    Emergence,
    Hypothesis,
    ProgramVerdict,
    Solved,
    h1,
    h2,
    h3,
)

INPUTS = ("tokens", "indices")


def solved_of(last: Sequence[Measurement], config: Config) -> Solved:
    """Return whether the last checkpoint of a run solves its task."""
    return Solved(of(last, "accuracy/exact").get("all"), config.analysis.solved)


def judged(
    last: Sequence[Measurement],
    results: RunResults,
    config: Config,
    failing: Failing,
    circuit: CircuitFound | None,
    commands: RunCommands,
    curves: Mapping[str, Summary],
    programs: Sequence[str],
) -> list[Hypothesis]:
    """Return the verdicts on H1, H2 and H3 at the last checkpoint of a run.

    `results` are what `match` and `circuit` found. `circuit` is the run's faithful circuit,
    `commands` are its commands, `curves` are the summaries of its headlines, and `programs` are the
    names of the task's programs.
    """
    solved, step = solved_of(last, config), max((row.step for row in last), default=0)
    has_mlp, circuits = not config.model.attn_only, results.circuit
    return [
        h1(last, solved, failing, has_mlp, commands),
        h2(
            last,
            solved,
            failing,
            circuit,
            step,
            commands,
            bool(circuits.curves) and circuits.about.finished,
            "attention" in measured(config.analysis),
            results.overridden(CircuitResult),
        ),
        h3(
            last,
            solved,
            program_verdicts(results.match),
            step,
            commands,
            emergence(curves),
            programs,
            results.overridden(MatchResult),
        ),
    ]


def emergence(curves: Mapping[str, Summary]) -> Emergence:
    """Return the steps from which a run solves its task and realises each testable cut."""
    start, end = "matching/", "/realised"
    exact = curves.get("accuracy/all/exact")
    return Emergence(
        exact.emergence_step if exact is not None else None,
        {
            key.removeprefix(start).removesuffix(end): summary.emergence_step
            for key, summary in curves.items()
            if key.startswith(start) and key.endswith(end)
        },
    )


def program_verdicts(matched: MatchResult) -> list[ProgramVerdict]:
    """Return the verdict of `match` on each program at the last step that was matched."""
    last = max((row.step or 0 for row in matched.programs), default=0)
    chances = _chances(matched.tests, last)
    verdicts = []
    for row in matched.programs:
        if (row.step or 0) == last:
            score = None
            if row.score is not None and row.score_low is not None and row.score_high is not None:
                score = (row.score, row.score_low, row.score_high)
            verdicts.append(
                ProgramVerdict(
                    row.step, row.program, row.verdict, row.why, score, row.testable,
                    row.shared_with, row.decided, chances.get(row.program),
                )
            )  # fmt: skip
    return verdicts


def _chances(rows: Sequence[CutTestRow], step: int) -> dict[str, float]:
    """Return, for each program, the highest chance level of its testable cuts at a step."""
    chances: dict[str, float] = {}
    for row in rows:
        if row.step == step and row.verdict != NOT_TESTABLE:
            chances[row.program] = max(row.chance, chances.get(row.program, 0.0))
    return chances


def circuit_found(
    result: CircuitResult, at_least: float, own: Mapping[str, bool] | None
) -> CircuitFound | None:
    """Return the circuit that `circuit` found, None if none is faithful enough.

    `own` maps the program's steps to whether they move among lists of one length.
    """
    row = result.main
    if row is None:
        return None
    faithful = (row.faithfulness or 0.0, row.faithfulness_low or 0.0, row.faithfulness_high or 0.0)
    inputs, steps = sum(length.inputs for length in result.lengths), own or {}
    within = row.ablation == "resample_within"
    still = [name for name, moves in steps.items() if not moves and within]
    kinds = {each.ablation for each in result.curves} | {kind for _, kind in result.searches}
    return CircuitFound(
        row.step, row.edges, len(result.edges), faithful, at_least, _carried(result, MODEL),
        _carried(result, REFERENCE), _carried(result, RANDOM_INIT), frozenset(steps),
        inputs or None, frozenset(still), row.ablation, result.is_whole(row),
        "resample_across" in kinds,
    )  # fmt: skip


def _carried(result: CircuitResult, of_what: str) -> Carried | None:
    rows = result.inner(of_what)
    if not rows:
        return None
    return Carried(len(rows), tuple(row.carries for row in rows if row.carries))
