"""The inputs of the hypotheses, from a run's measurements and the results in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..analysis.matching.cut_verdicts import NOT_TESTABLE
from ..analysis.measurements import Measurement
from ..analysis.measures.emergence import Summary
from ..analysis.measures.registered_measures import measured
from ..config.printed_commands import RunCommands
from ..config.schema import Config
from ..report.html.stored_tables import Results, Row, step_in, value, whole
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
    results: Results,
    config: Config,
    failing: Failing,
    circuit: CircuitFound | None,
    commands: RunCommands,
    curves: Mapping[str, Summary],
    programs: Sequence[str],
) -> list[Hypothesis]:
    """Return the verdicts on H1, H2 and H3 at the last checkpoint of a run.

    `circuit` is the run's faithful circuit, `commands` are its commands, `curves` are the summaries
    of its headlines, and `programs` are the names of the task's programs.
    """
    solved, step = solved_of(last, config), max((row.step for row in last), default=0)
    has_mlp = not config.model.attn_only
    return [
        h1(last, solved, failing, has_mlp, commands),
        h2(
            last,
            solved,
            failing,
            circuit,
            step,
            commands,
            _searched(results),
            "attention" in measured(config.analysis),
        ),
        h3(last, solved, program_verdicts(results), step, commands, emergence(curves), programs),
    ]


def _searched(results: Results) -> bool:
    """Return whether a search for circuits was finished."""
    left = results.circuit_left
    return results.circuits.there and (left is None or left.finished)


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


def program_verdicts(results: Results) -> list[ProgramVerdict]:
    """Return the verdict of `match` on each program at the last step that was matched."""
    rows = results.programs.rows
    last = max((whole(row, "step") or 0 for row in rows), default=0)
    chances = _chances(results.matches.rows, last)
    verdicts = []
    for row in rows:
        step = whole(row, "step")
        if (step or 0) == last:
            score = value(row, "score")
            low, high = value(row, "score_low"), value(row, "score_high")
            whole_score = (
                None if score is None or low is None or high is None else (score, low, high)
            )
            verdicts.append(
                ProgramVerdict(
                    step, row["program"], row["verdict"], row["why"], whole_score,
                    whole(row, "testable") or 0, tuple(row["shared_with"].split()),
                    tuple(row["decided"].split()), chances.get(row["program"]),
                )
            )  # fmt: skip
    return verdicts


def _chances(rows: Sequence[Row], step: int) -> dict[str, float]:
    """Return, for each program, the highest chance level of its testable cuts at a step."""
    chances: dict[str, float] = {}
    for row in rows:
        chance = value(row, "chance")
        if whole(row, "step") == step and row["verdict"] != NOT_TESTABLE and chance is not None:
            chances[row["program"]] = max(chance, chances.get(row["program"], 0.0))
    return chances


def circuit_found(
    results: Results, at_least: float, own: Mapping[str, bool] | None
) -> CircuitFound | None:
    """Return the circuit that `circuit` found, None if none is faithful enough.

    `own` maps the program's steps to whether they move among lists of one length.
    """
    chosen = [row for row in results.circuits.rows if row["chosen"] == "True"]
    kinds = dict.fromkeys(("resample_across", "resample_within",
                           *(row["ablation"] for row in chosen)))  # fmt: skip
    for kind in kinds:
        some = [row for row in chosen if row["ablation"] == kind]
        if some:
            return _found(min(some, key=_size), results, at_least, own)
    return None


def is_whole(row: Row, results: Results) -> bool:
    """Return whether a circuit is the whole model.

    Tables of earlier versions do not record it: there, a circuit of all edges is the whole model.
    """
    return row.get("whole", str(row["edges"] == str(len(results.edges.rows)))) == "True"


def _size(row: Row) -> float:
    return value(row, "edges") or 0.0


def _found(
    row: Row, results: Results, at_least: float, own: Mapping[str, bool] | None
) -> CircuitFound:
    faithful = [value(row, f"faithfulness{end}") or 0.0 for end in ("", "_low", "_high")]
    inputs = [whole(length, "inputs") or 0 for length in results.lengths.rows]
    steps, kind = own or {}, row["ablation"]
    still = [name for name, moves in steps.items() if not moves and kind == "resample_within"]
    return CircuitFound(
        step_in(row["model"]), whole(row, "edges") or 0, len(results.edges.rows),
        (faithful[0], faithful[1], faithful[2]), at_least, _carried(results, "model"),
        _carried(results, "reference"), _carried(results, "random init"),
        frozenset(steps), sum(inputs) or None, frozenset(still), kind, is_whole(row, results),
        _is_across(results),
    )  # fmt: skip


def _is_across(results: Results) -> bool:
    """Return whether circuits were searched by resampling across lengths, even without success."""
    kinds = {row["ablation"] for row in results.circuits.rows}
    kinds |= {name.partition("/")[2] for row in results.edges.rows[:1] for name in row}
    return "resample_across" in kinds


def _carried(results: Results, of_what: str) -> Carried | None:
    rows = [row for row in results.carried.rows if row["of"] == of_what and row["inner"] == "True"]
    if not rows:
        return None
    return Carried(len(rows), tuple(row["carries"] for row in rows if row["carries"]))
