"""The light version of matching: how far a model realises its program's cuts, at a checkpoint.

Only the cuts that the compiled reference shows to be testable are tried after each block, with
fewer cases; a later cut only where one of these matches, for then it may be what the site holds.
A variable's match is the lower of scrub and its own interchange, at the best such site.

Shapes: `inputs` inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from transformer_lens.model_bridge import TransformerBridge

from ...models.task_model import task_model_of
from ..activations import Recording, Source
from ..base import MeasurementContext
from ..matching.cut_tests import Judge, Match, given_at
from ..matching.cut_verdicts import Rule, best_of, clear, held, surely, variable_matches
from ..matching.program_ranking import Candidate, candidate, rule_of
from ..measurements import Measurement, Metric

MODEL = "model"
METRICS = (
    Metric("matching/match", "share of cases", "higher", 0, 1, "a cut of the program at a site: "
           "the lowest of scrub and interchange"),
    Metric("matching/best_match", "share of cases", "higher", 0, 1, "a testable inner cut at the "
           "best site that no later cut explains; 0 where there is none"),
    Metric("matching/best_match_chance", "share of cases", "neither", 0, 1,
        "the share that is right with residuals of any inputs, or with one answer to "
        "everything; the highest of the sites"),
    Metric("matching/variable_match", "share of cases", "higher", 0, 1, "a variable of a testable "
           "cut that is not the input's: the lower of scrub and its interchange, at the best site"),
    Metric("matching/realised", "0 or 1", "higher", 0, 1, "whether a testable inner cut is surely "
           "realised, by a model that solves the task", emerges=1),
    Metric("matching/variable_realised", "0 or 1", "higher", 0, 1,
        "whether a variable is surely realised, by a model that solves the task", emerges=1),
    Metric("matching/testable_cuts", "cuts", "neither", 0, float("inf"),
        "inner cuts that can be tested; n: the program's cuts, including input and output"),
)  # fmt: skip


class Realisation:
    """Matches a source with the reference program's testable cuts, after each block."""

    def __init__(self, source: Source, context: MeasurementContext):
        self._bridge, self._context = source.bridge, context
        self._right = self._answered = 0

    def add(self, part: Recording, rows: slice) -> None:
        """Count the inputs whose whole output is right."""
        inputs = part.inputs
        correct = inputs.output.right(part.logits, inputs.targets)
        answered = inputs.defined.any(-1)
        self._right += int(((correct | ~inputs.defined).all(-1) & answered).sum())
        self._answered += int(answered.sum())

    def rows(self) -> Iterator[Measurement]:
        """Yield each site's matches, then what they amount to for each cut and variable."""
        context, rule = self._context, rule_of(self._context.config)
        program, judge = context.once("matching", lambda: _prepared(context))
        n_cuts = len(program.cuts.all)
        yield Measurement("matching/testable_cuts", MODEL, len(program.testable), n_cuts)
        if not program.testable:
            return
        solved = self._right >= rule.solved * self._answered
        matches = list(_matches(self._bridge, program, judge))
        for match in matches:
            yield _measured("matching/match", f"{match.cut.name}@{match.site}", match)
        own = [match for row in held(matches, rule).values() for match in row]
        for cut in program.testable:
            everywhere = [match for match in matches if match.cut == cut]
            mine = [match for match in own if match.cut == cut]
            best = best_of([m for m in mine if clear(m, matches, rule)] or mine)
            sure = solved and best is not None and clear(best, matches, rule)
            yield from _rows("best_match", "realised", cut.name, best, everywhere, rule, sure)
            chance = max(match.chance for match in everywhere)
            n = everywhere[0].weakest.n
            yield Measurement("matching/best_match_chance", cut.name, chance, n)
        tested = [match for match in matches if match.cut in program.testable]
        variables = variable_matches(matches, program.cuts, program.testable, rule)
        for name, best in variables.items():
            yield from _rows(
                "variable_match", "variable_realised", name, best, tested, rule, solved
            )


def _prepared(context: MeasurementContext) -> tuple[Candidate, Judge]:
    """Return the reference program with its trials, and what judges a model by them."""
    config = dataclasses.replace(context.config, match_cases=context.config.match_checkpoint_cases)
    inputs = context.inputs
    program = candidate(inputs.task.name, inputs, context.reference, config, sides=False)
    return program, Judge(inputs, program.trials[1:], config.bootstrap, config.seed)


@torch.inference_mode()
def _matches(bridge: TransformerBridge, program: Candidate, judge: Judge) -> Iterator[Match]:
    """Yield the testable cuts after each block, and the matches of cuts that may explain theirs."""
    task_model = task_model_of(bridge, program.inputs)
    others = [cut for cut in program.cuts.all[1:] if cut not in program.testable]
    for site, residual in task_model.recorded(task_model.sites[1:]):
        given = given_at(task_model, site, residual)
        matches = list(judge.matches(site, given, program.testable))
        yield from matches
        there = [match.cut for match in matches if match.low > match.chance]
        later = [cut for cut in others if any(cut.later(before) for before in there)]
        yield from judge.matches(site, given, later)


def _rows(
    name: str,
    realised: str,
    subject: str,
    best: Match | None,
    matches: Sequence[Match],
    rule: Rule,
    solved: bool,
) -> Iterator[Measurement]:
    """Yield the best match, 0 where no site has one of its own, and whether it is surely enough."""
    n = (best or matches[0]).weakest.n
    if best is None:
        yield Measurement(f"matching/{name}", subject, 0.0, n)
    else:
        yield _measured(f"matching/{name}", subject, best)
    yield Measurement(f"matching/{realised}", subject, float(solved and surely(best, rule)), n)


def _measured(measure: str, subject: str, match: Match) -> Measurement:
    return Measurement(measure, subject, match.value, match.weakest.n, match.low, match.high)
