"""A task's programs, each matched with the same model, and ranked.

Programs are ranked by their testable inner cuts alone: whatever solves the task passes the tests of
its output. Interventions show what a model goes by, so two programs whose rest goes by the same at
their testable cuts cannot be told apart by cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import torch
from transformer_lens.model_bridge import TransformerBridge

from ...config.schema import AnalysisConfig, TaskConfig
from ...data.donors import CutTrials, cut_trials
from ...data.inputs import InputSet, input_set
from ...data.program_selectors import Selection, selections
from ...data.rasp.cuts import Cut, Cuts, cuts, effect
from ...data.registered_tasks import check_programs_of
from ...data.tasks import Task
from ...infra.errors import UserError, first_line
from ...models.bridges import narrowed
from ...models.reference import Reference, build_reference
from ...models.task_model import TaskModel, task_model_of
from ..statistics import bootstrap_counts, percentile_interval
from .cut_tests import Match, exact_share, matches, side_matches
from .cut_verdicts import FOLLOWS, NOT_SOLVED, Rule, Verdict, held, judge, testable
from .head_selectors import SelectorComparison, SelectorDecision, SelectorReach, Untrained

Progress = Callable[[int, int], None]  # told what is done, and of how much


@dataclass(frozen=True)
class Candidate:
    """A program of a task: its cuts, their tests, and which its compiled reference realises.

    Without a reference nothing is known to be testable, and `why` says why there is none. `sides`
    are the testable cuts' matches at what the reference's attention reads.
    """

    name: str
    inputs: InputSet
    cuts: Cuts
    trials: tuple[CutTrials, ...]
    reference: Reference | None
    testable: tuple[Cut, ...]
    sides: tuple[Match, ...] = ()
    why: str = ""

    @cached_property
    def effects(self) -> frozenset[bytes]:
        """What the program's rest goes by at the testable cuts, whatever they are called."""
        return frozenset(effect(self.inputs, cut.variables, 0) for cut in self.testable)

    @cached_property
    def selections(self) -> list[Selection]:
        """What its selectors select."""
        return selections(self.inputs)

    @cached_property
    def all_effects(self) -> frozenset[bytes]:
        """The same of all its cuts, testable or not."""
        return frozenset(effect(self.inputs, cut.variables, 0) for cut in self.cuts.all)


@dataclass(frozen=True)
class Standing:
    """How a program stands with a model of an exact accuracy: its matches, verdict and score.

    `sides` are the testable cuts' matches at what the model's attention reads.
    The score is the mean over its testable inner cuts of the best match that no later cut explains,
    with a bootstrap interval over inputs; None where there is no such cut.
    """

    candidate: Candidate
    matches: tuple[Match, ...]
    sides: tuple[Match, ...]
    exact: float
    verdict: Verdict
    score: tuple[float, float, float] | None

    def best_of(self, chosen: Iterable[Cut]) -> dict[str, float]:
        """Return cuts' best matches at sites that no later cut explains, 0 where there is none."""
        best = {cut_verdict.cut.name: cut_verdict.best for cut_verdict in self.verdict.cuts}
        return {cut.name: there.value if (there := best[cut.name]) else 0.0 for cut in chosen}


def rule_of(config: AnalysisConfig) -> Rule:
    """Return the thresholds that a config declares."""
    return Rule(config.match_realised, config.match_partly, config.solved)


def program_names(task: Task) -> list[str]:
    """Return the names of a task's programs, its own first."""
    return [next(iter(task.algorithms), task.name), *task.alternatives]


def programs_of(task: Task, names: Sequence[str] = ()) -> Iterator[tuple[str, Task]]:
    """Yield a task's programs by name, its own first; those named, where names are given.

    Raises:
        UserError: a name is none of the task's programs.
    """
    own, *_ = known = program_names(task)
    check_programs_of(task.name, names, known)
    for name in known:
        if not names or name in names:
            yield name, task if name == own else task.with_program(name)


def candidate(
    name: str,
    inputs: InputSet,
    reference: Reference | None,
    config: AnalysisConfig,
    why: str = "",
    sides: bool = True,
) -> Candidate:
    """Return a program with its cuts, their tests, and those that its reference realises.

    `sides` says whether to look too at what the reference's attention reads.
    """
    program_cuts = cuts(inputs)
    trials = tuple(cut_trials(inputs, program_cuts.all, config.match_cases, config.seed))
    if reference is None:
        return Candidate(name, inputs, program_cuts, trials, None, (), (), why)
    task_model = task_model_of(narrowed(reference.bridge), inputs)
    there = testable(program_cuts, matched(task_model, inputs, trials, config), rule_of(config))
    read = side_matched(task_model, inputs, trials, there, config) if sides else ()
    return Candidate(name, inputs, program_cuts, trials, reference, there, read, why)


def candidates(
    task: Task,
    settings: TaskConfig,
    config: AnalysisConfig,
    names: Sequence[str] = (),
    sides: bool = True,
) -> Iterator[Candidate]:
    """Yield a task's programs, compiled and with their tests; `sides` as in `candidate`.

    Raises:
        UserError: a name is none of the task's programs, or a program fails on its inputs.
    """
    for name, program in programs_of(task, names):
        inputs = input_set(program, settings)
        try:
            yield candidate(name, inputs, build_reference(inputs), config, sides=sides)
        except UserError as error:  # Tracr cannot compile it
            yield candidate(name, inputs, None, config, first_line(error))


def matched(
    task_model: TaskModel,
    inputs: InputSet,
    trials: Iterable[CutTrials],
    config: AnalysisConfig,
) -> tuple[Match, ...]:
    """Return the matches of a program's cuts at every site of a model."""
    some, sites = list(trials), task_model.sites
    return tuple(matches(task_model, inputs, some, sites, config.bootstrap, config.seed))


def side_matched(
    task_model: TaskModel,
    inputs: InputSet,
    trials: Iterable[CutTrials],
    chosen: Sequence[Cut],
    config: AnalysisConfig,
) -> tuple[Match, ...]:
    """Return the matches of some cuts at what each block's attention reads."""
    some = [tests for tests in trials if tests.cut in chosen]
    return tuple(side_matches(task_model, inputs, some, config.bootstrap, config.seed))


def standing(
    task_model: TaskModel, program: Candidate, config: AnalysisConfig, sides: bool = True
) -> Standing:
    """Return how a program stands with a model; with `sides`, also where attention reads it."""
    rule, exact = rule_of(config), exact_share(task_model, program.inputs)
    matches = matched(task_model, program.inputs, program.trials, config)
    verdict = judge(program.cuts, program.testable, matches, exact, rule)
    read = (
        side_matched(task_model, program.inputs, program.trials, program.testable, config)
        if sides
        else ()
    )
    return Standing(program, matches, read, exact, verdict, _score(matches, program, config, rule))


def _score(
    matches: Sequence[Match], program: Candidate, config: AnalysisConfig, rule: Rule
) -> tuple[float, float, float] | None:
    if not program.testable:
        return None
    counts = bootstrap_counts(len(program.inputs), config.bootstrap, config.seed)
    own = [match for row in held(matches, rule).values() for match in row]
    total, value = torch.zeros(config.bootstrap, dtype=torch.float64), 0.0
    for cut in program.testable:
        there = [match for match in own if match.cut == cut]
        if there:
            best = max(there, key=lambda match: match.value)
            total += best.resampled(counts)
            value += best.value
    count = len(program.testable)
    return value / count, *percentile_interval(total / count)


def ranked(standings: Iterable[Standing]) -> list[Standing]:
    """Return the programs by their scores, the highest first, those without one last."""
    return sorted(standings, key=lambda row: -row.score[0] if row.score else 1.0)


def indistinguishable(programs: Sequence[Candidate]) -> list[tuple[Candidate, ...]]:
    """Return the programs that share all their testable cuts, and that no cut tells apart."""
    groups: dict[frozenset[bytes], list[Candidate]] = {}
    for program in programs:
        if program.testable:
            groups.setdefault(program.effects, []).append(program)
    return [tuple(group) for group in groups.values() if len(group) > 1]


@dataclass(frozen=True)
class SelectorEvidence:
    """How a model's heads meet each program's selectors, and what they decide where cuts do not."""

    reaches: Mapping[str, Sequence[SelectorReach]]
    decisions: tuple[SelectorDecision, ...]


def told_by_cuts(first: Standing, other: Standing) -> bool:
    """Return whether cuts can tell two programs apart, and the model does not follow both."""
    if not (first.candidate.testable and other.candidate.testable):
        return False
    both = first.verdict.verdict == other.verdict.verdict == FOLLOWS
    return not both and first.candidate.effects != other.candidate.effects


def selectors_of(
    known: Sequence[Candidate], untrained: Untrained, config: AnalysisConfig
) -> SelectorComparison:
    """Return what compares models of a shape with the programs' selectors."""
    programs = {program.name: program.selections for program in known}
    return SelectorComparison(known[0].inputs, programs, untrained, config)


def selector_evidence(
    selectors: SelectorComparison,
    bridge: TransformerBridge,
    task_model: TaskModel,
    standings: Sequence[Standing],
) -> SelectorEvidence:
    """Return what the heads of a model decide between the programs that cuts do not tell apart.

    By a model that does not solve the task nothing is decided, and never against cuts.
    """
    met, decisions = selectors.reaches(bridge, task_model), list[SelectorDecision]()
    for first, other in combinations(standings, 2):
        if first.verdict.verdict != NOT_SOLVED and not told_by_cuts(first, other):
            decision = selectors.decide(met, first.candidate.name, other.candidate.name)
            decisions.append(_by_cuts_too(decision, (first, other)))
    return SelectorEvidence(met, tuple(decisions))


def _by_cuts_too(decision: SelectorDecision, pair: tuple[Standing, Standing]) -> SelectorDecision:
    """Return the decision, or none where the decided program follows less by cuts."""
    for row, other in (pair, pair[::-1]):
        if decision.decided == row.candidate.name:
            if row.candidate.testable and row.verdict.verdict != FOLLOWS:
                why = f"the cuts of {row.candidate.name} say: {row.verdict.verdict}"
                return replace(decision, decided=None, why=why)
            if other.verdict.verdict == FOLLOWS != row.verdict.verdict:
                why = f"by its cuts the model follows {other.candidate.name}"
                return replace(decision, decided=None, why=why)
    return decision


def order(standings: Iterable[Standing], decisions: Sequence[SelectorDecision]) -> list[Standing]:
    """Return the programs ranked by cuts, and by selectors where these do not tell them apart."""
    table = ranked(standings)
    better = {decision.preferred for decision in decisions if decision.preferred is not None}

    def misplaced(first: Standing, second: Standing) -> bool:
        only = first.verdict.verdict == FOLLOWS != second.verdict.verdict
        return not only and (second.candidate.name, first.candidate.name) in better

    for _ in table:  # neighbours change places until none is before one that is better
        for at in range(len(table) - 1):
            if misplaced(*table[at : at + 2]):
                table[at : at + 2] = table[at : at + 2][::-1]
    return table


def compared(
    bridge: TransformerBridge,
    task_model: TaskModel,
    known: Sequence[Candidate],
    selectors: SelectorComparison,
    config: AnalysisConfig,
    sides: bool = True,
    progress: Progress = lambda done, total: None,
) -> tuple[list[Standing], SelectorEvidence]:
    """Return how programs stand with a model, the best first, and what its heads decide.

    `sides` as in `standing`; `progress` is told after each program.
    """
    standings = []
    for number, program in enumerate(known, start=1):
        standings.append(standing(task_model, program, config, sides))
        progress(number, len(known))
    heads = selector_evidence(selectors, bridge, task_model, standings)
    return order(standings, heads.decisions), heads
