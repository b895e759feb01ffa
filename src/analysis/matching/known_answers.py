"""Checks of matching on a task's controls: positives, negatives and decoys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from transformer_lens.model_bridge import TransformerBridge

from ...infra.errors import NotFiniteError, UserError, first_line
from ...infra.typed_tables import TypedTable
from ...models.bridges import make_bridge
from ...models.task_model import TaskModel, task_model_of
from ...models.training import Progress
from ..base import MeasurementContext
from ..controls.cut_training import SOLVED, CutImplementation, implement_cuts
from ..controls.known_models import (
    DECOY,
    NEGATIVE,
    POSITIVE,
    TRIES,
    Control,
    ControlModel,
    NotMadeError,
)
from .cut_verdicts import FOLLOWS, Rule, realised
from .head_selectors import untrained_of
from .program_ranking import (
    Candidate,
    Standing,
    rule_of,
    selector_evidence,
    selectors_of,
    standing,
    told_by_cuts,
)

MATCHED_INITS = 10  # random inits that are matched; each takes a second


@dataclass(frozen=True)
class KnownAnswer:
    """A control matched with a program.

    `match` is the lowest match of the testable inner cuts for a positive, the highest for another
    control; None if there is no such cut. `right` is None if no answer is known: for a decoy that
    has all the program's testable cuts, or a control that could not be made. `recognised` says for
    a decoy or the reference whether cuts or selectors tell its own program from every other one of
    the task. It is False if another program is preferred, and None (with the reason) if it cannot
    be decided.
    """

    task: str
    control: str
    kind: str
    program: str
    exact: float | None
    verdict: str
    match: float | None
    right: bool | None
    note: str = ""
    recognised: bool | None = None
    recognised_note: str = ""


CHECKS = TypedTable(KnownAnswer, "match-controls.csv")


def with_earlier(
    checks: Sequence[KnownAnswer], earlier: Sequence[KnownAnswer]
) -> list[KnownAnswer]:
    """Return checks after earlier ones of other tasks."""
    tasks = {check.task for check in checks}
    return [*(check for check in earlier if check.task not in tasks), *checks]


def of_matching(
    planned: Sequence[Control], own: Candidate, context: MeasurementContext
) -> list[Control]:
    """Return a task's controls, with the implemented one trained to hold the program's cuts.

    A model that holds variables beside other information does not hold a cut, so it is no positive.
    """
    make = partial(_implemented, own=own, context=context)
    return [
        replace(control, make=make) if control.name == "implemented" else control
        for control in planned
    ]


def _implemented(progress: Progress, own: Candidate, context: MeasurementContext) -> ControlModel:
    if not own.testable:
        raise NotMadeError(f"{own.name} has no inner cut that can be tested, so none to hold")
    config, tried = context.config, list[CutImplementation]()
    for i in range(TRIES):
        try:
            implementation = implement_cuts(
                own.inputs, context.shape, own.testable, config.seed + i, progress=progress
            )
        except UserError as error:
            raise NotMadeError(first_line(error)) from error
        tried.append(implementation)
        if implementation.solved:
            note = ", ".join(
                f"{name} {share:.3f}" for name, share in implementation.held_shares.items()
            )
            return ControlModel(
                make_bridge(context.shape, implementation.weights, config.device), f"holds {note}"
            )
    best = max(tried, key=lambda implementation: min(implementation.held_shares.values()))
    raise NotMadeError(
        f"interchange training reached {min(best.held_shares.values()):.3f} of its trials, "
        f"not {SOLVED}, and exact accuracy {best.exact:.4f}"
    )


def check(
    control: Control,
    known: Sequence[Candidate],
    context: MeasurementContext,
    progress: Callable[[int, int], None],
) -> Iterator[KnownAnswer]:
    """Yield a control's standing with the programs for which the right answer is known.

    The first of `known` is the task's own program. A positive follows it. A negative realises no
    inner cut of it or of its alternatives. A decoy follows its own program and not this one.
    """
    task, config = context.inputs.task.name, context.config
    try:
        bridge = control.make(progress).bridge
    except (NotMadeError, NotFiniteError) as error:
        yield KnownAnswer(
            task, control.name, control.kind, "", None, "not made", None, None, str(error)
        )
        return
    task_model = task_model_of(bridge, context.inputs)
    all_of_them = control.kind != POSITIVE or control.group == "reference"
    standings = [
        standing(task_model, candidate, config, sides=False)
        for candidate in known
        if all_of_them or candidate is known[0]
    ]
    own_name = control.name if control.kind == DECOY else known[0].name
    for row in standings:
        program, own = row.candidate, row.candidate.name == own_name
        if not (own or control.kind == NEGATIVE or (control.kind == DECOY and row is standings[0])):
            continue
        matched = row.best_of(program.testable)
        right, note = _as_known(control, program, own, row, known, rule_of(config))
        low = min if own and control.kind != NEGATIVE else max
        told = own and all_of_them and control.kind != NEGATIVE
        said = recognised(bridge, task_model, row, standings, context) if told else (None, "")
        yield KnownAnswer(
            task, control.name, control.kind, program.name, row.exact, row.verdict.verdict,
            low(matched.values(), default=None), right, note, *said,
        )  # fmt: skip


def recognised(
    bridge: TransformerBridge,
    task_model: TaskModel,
    own: Standing,
    standings: Sequence[Standing],
    context: MeasurementContext,
) -> tuple[bool | None, str]:
    """Return whether a model's own program is told from all others, and how or why not."""
    name = own.candidate.name
    untrained = untrained_of(bridge.cfg, context.inputs, context.config)
    compare = selectors_of([rival.candidate for rival in standings], untrained, context.config)
    said: list[tuple[bool | None, str]] = []
    for rival in standings:
        theirs = rival.candidate.name
        follow = [each.verdict.verdict == FOLLOWS for each in (own, rival)]
        if theirs == name:
            continue
        if not told_by_cuts(own, rival):
            (decision,) = selector_evidence(
                compare, bridge, task_model, [own, rival]
            ).decisions or (None,)
            decided = None if decision is None else decision.decided
            why = "the task is not solved" if decision is None else decision.text
            said.append((None if decided is None else decided == name, why))
        elif follow[0] == follow[1]:
            said.append((None, f"the model follows neither {name} nor {theirs} by cuts"))
        else:
            winner, loser = (name, theirs) if follow[0] else (theirs, name)
            said.append((follow[0], f"decided by cuts: {winner} over {loser}"))
    for answer in (False, None):
        if notes := [note for told, note in said if told is answer]:
            return answer, "; ".join(notes)
    return True, "; ".join(note for _, note in said)


def _as_known(
    control: Control,
    program: Candidate,
    own: bool,
    there: Standing,
    known: Sequence[Candidate],
    rule: Rule,
) -> tuple[bool | None, str]:
    """Return whether a control's verdict is right; None, and why, if no answer is known."""
    if not program.testable:
        return None, f"{program.name} has no inner cut that can be tested"
    if control.kind == NEGATIVE:
        there_too = realised(there.matches, rule)
        return not any(cut.name in there_too for cut in program.testable), ""
    follows = there.verdict.verdict == FOLLOWS
    if own:
        return follows, ""
    theirs = next((each for each in known if each.name == control.name), None)
    if theirs is None:
        return None, "it cannot be compiled"
    if program.effects <= theirs.all_effects:
        return (
            None,
            f"its remaining steps use everything that the testable cuts of {program.name} hold",
        )
    return not follows, ""
