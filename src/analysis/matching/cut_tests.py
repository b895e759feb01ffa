"""Which of a program's cuts a model realises, and where: scrub and interchange of whole residuals.

The hypothesis (site, cut) has two parts. At every position, the residual stream at the site carries
the cut's values there. The rest of the model uses them as the rest of the program does. *Scrub*
replaces the residual at every position by that of another (input, position) with the same values;
the output must not change (Chan et al. 2022). *Interchange* gives one variable other values; the
output must become the program's output with these values (Geiger et al. 2021). Only the part of the
model after the site is run.

Shapes: `inputs` inputs, `pos` positions of an encoded input (BOS, the list, padding), `cases`
interventions: an input and a donor for each of its positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from ...data.donors import SCRUB, CutTrials, Donated, Trial, anywhere
from ...data.inputs import InputSet
from ...data.rasp.cuts import Cut
from ...models.task_model import TaskModel, block_after
from ..statistics import bootstrap_counts, percentile_interval, weighted_sums, wilson_interval

Given = Callable[[Donated], Tensor]  # a model's logits on cases of donated residual streams
TOGETHER = "hook_attn_in"
SIDE_SITES = {  # the hooks whose inputs are replaced at each
    "hook_q_input": ("q",),
    "hook_k_input": ("k",),
    "hook_v_input": ("v",),
    TOGETHER: ("q", "k", "v"),
}


@dataclass(frozen=True)
class Score:
    """The share of a test's cases whose whole output is as required, with interval and chance.

    `chance` is the higher of two levels: that with donors from any input and position, and that of
    the best constant answer. `right` says for each case whether it passed, `bases` which input it
    is a case of.
    """

    test: str
    value: float
    low: float
    high: float
    chance: float
    right: Bool[Tensor, " cases"]
    bases: Int64[Tensor, " cases"]

    @property
    def n(self) -> int:
        """The number of cases."""
        return len(self.right)


@dataclass(frozen=True)
class Match:
    """A cut at a site: the lowest of its tests' scores, with a bootstrap interval over inputs.

    With few cases the bootstrap is too narrow, so the interval is widened to the scores' own.
    """

    site: str
    cut: Cut
    scores: tuple[Score, ...]
    value: float
    low: float
    high: float

    @property
    def chance(self) -> float:
        """The lowest chance level of the tests: the bound on passing all of them by chance."""
        return min(score.chance for score in self.scores)

    def resampled(self, counts: UInt8[Tensor, "draws inputs"]) -> Float64[Tensor, " draws"]:
        """Return the match in resamples of the inputs."""
        return _lowest(self.scores, counts)

    def of(self, variable: str) -> Match:
        """Return the match of one variable: the lower of scrub and its own interchange."""
        scores = tuple(score for score in self.scores if score.test in (SCRUB, variable))
        low, high = min(score.low for score in scores), min(score.high for score in scores)
        return Match(self.site, self.cut, scores, min(score.value for score in scores), low, high)

    @property
    def weakest(self) -> Score:
        """The test with the lowest score."""
        return min(self.scores, key=lambda score: score.value)


@torch.inference_mode()
def matches(
    task_model: TaskModel,
    inputs: InputSet,
    trials: Sequence[CutTrials],
    sites: Sequence[str],
    draws: int,
    seed: int,
) -> Iterator[Match]:
    """Yield each cut's match at each site, the sites in the order given."""
    judge = Judge(inputs, trials, draws, seed)
    for site, residual in task_model.recorded(sites):
        yield from judge.matches(site, given_at(task_model, site, residual))


@torch.inference_mode()
def side_matches(
    task_model: TaskModel,
    inputs: InputSet,
    trials: Sequence[CutTrials],
    draws: int,
    seed: int,
) -> Iterator[Match]:
    """Yield each cut's match at the inputs of each block's attention: queries, keys, values, all.

    The site is the input of that side (`blocks.1.hook_q_input`), or `blocks.1.hook_attn_in` for all
    three together. The rest of the model reads the base's own residual stream. A variable is used
    at a side if it can be interchanged there alone.
    """
    judge = Judge(inputs, trials, draws, seed)
    for site, residual in task_model.recorded(task_model.sites):
        layer = block_after(site, task_model.model)
        if layer is None:
            continue
        read = task_model.attention_inputs(layer)
        for name, sides in SIDE_SITES.items():
            some = {side: read[side] for side in sides}
            given = partial(task_model.donated_sides_logits, site, residual, some)
            yield from judge.matches(f"blocks.{layer}.{name}", given)


def exact_share(task_model: TaskModel, inputs: InputSet) -> float:
    """Return the share of the inputs with an output whose whole output is right."""
    answered = inputs.defined.any(-1)
    right = _right(inputs, task_model.logits(), inputs.targets)[answered]
    return float(right.double().mean())


def given_at(task_model: TaskModel, site: str, residual: Tensor) -> Given:
    """Return a function from cases to logits, with donated residual streams at a site."""
    return partial(task_model.donated_logits, site, residual)


class Judge:
    """Judges models by the trials of cuts, with donors for chance and bootstrap resamples."""

    def __init__(self, inputs: InputSet, trials: Iterable[CutTrials], draws: int, seed: int):
        self._inputs = inputs
        self._trials = [cut_trials for cut_trials in trials if cut_trials.trials]
        self._counts = bootstrap_counts(len(inputs), draws, seed)
        bases = [trial.bases for cut_trials in self._trials for trial in cut_trials.trials]
        some = torch.unique(torch.cat(bases)) if bases else torch.empty(0, dtype=torch.int64)
        self._lost = anywhere(inputs, some, np.random.default_rng([seed, 7]))
        self._answers = {
            id(trial): _one_answer(inputs, trial.targets)
            for cut_trials in self._trials
            for trial in cut_trials.trials
        }

    def matches(
        self, site: str, given: Given, chosen: Sequence[Cut] | None = None
    ) -> Iterator[Match]:
        """Yield the matches of all cuts, or of those chosen; `given` maps cases to logits."""
        trials = [
            cut_trials for cut_trials in self._trials if chosen is None or cut_trials.cut in chosen
        ]
        if not trials:
            return
        lost = given(self._lost)
        for cut_trials in trials:
            scores = tuple(self._score(trial, given, lost) for trial in cut_trials.trials)
            yield _match(site, cut_trials.cut, scores, self._counts)

    def _score(self, trial: Trial, given: Given, lost: Tensor) -> Score:
        right = _right(self._inputs, given(trial), trial.targets)
        astray = lost[torch.searchsorted(self._lost.bases, trial.bases)]
        by_chance = float(_right(self._inputs, astray, trial.targets).double().mean())
        chance = max(by_chance, self._answers[id(trial)])
        value = float(right.double().mean())
        low, high = wilson_interval(value, len(right))
        return Score(trial.name, value, low, high, chance, right, trial.bases)


def _right(inputs: InputSet, given: Tensor, targets: Tensor) -> Bool[Tensor, " cases"]:
    """Return whether all outputs equal the targets, where these are defined."""
    defined = inputs.output.defined(targets)
    right: Tensor = (inputs.output.right(given, targets) | ~defined).all(-1)
    return right


def _one_answer(inputs: InputSet, targets: Tensor) -> float:
    """Return the share of cases that the best constant answer gets right everywhere."""
    defined = inputs.output.defined(targets)
    largest = targets[defined].max()
    answers = torch.where(defined, targets, largest).amin(-1)
    uniform = (inputs.output.same(targets, answers[:, None]) | ~defined).all(-1)
    if not uniform.any():
        return 0.0
    return int(torch.unique(answers[uniform], return_counts=True)[1].max()) / len(targets)


def _match(
    site: str, cut: Cut, scores: tuple[Score, ...], counts: UInt8[Tensor, "draws inputs"]
) -> Match:
    """Return the match; its interval is from resamples, and no narrower than its tests'."""
    low, high = percentile_interval(_lowest(scores, counts))
    low = min(low, *(score.low for score in scores))
    high = max(high, min(score.high for score in scores))
    return Match(site, cut, scores, min(score.value for score in scores), low, high)


def _lowest(
    scores: Sequence[Score], counts: UInt8[Tensor, "draws inputs"]
) -> Float64[Tensor, " draws"]:
    """Return the lowest share of the tests, in each resample of the inputs."""
    draws, n = counts.shape
    lowest: Float64[Tensor, " draws"] = torch.full((draws,), torch.inf, dtype=torch.float64)
    for score in scores:
        columns = torch.zeros(n, 2, dtype=torch.float64)
        columns[:, 0].index_add_(0, score.bases, score.right.double())
        columns[:, 1].index_add_(0, score.bases, torch.ones(len(score.bases), dtype=torch.float64))
        sums = weighted_sums(counts, columns)
        lowest = torch.minimum(lowest, sums[:, 0] / sums[:, 1].clamp(min=1))
    return lowest


def by_site(matches: Sequence[Match]) -> Mapping[str, dict[str, Match]]:
    """Return matches by site and cut's name."""
    table: dict[str, dict[str, Match]] = {}
    for match in matches:
        table.setdefault(match.site, {})[match.cut.name] = match
    return table
