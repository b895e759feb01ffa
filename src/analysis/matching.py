"""Which of a program's cuts a model realises, and where: interchange and scrub of whole residuals.

The hypothesis (site, cut) says that at every position the residual stream at the site carries the
cut's values there, and that the rest of the model does with them what the rest of the program does.
*Scrub* replaces the residual at every position by that of another input, at whatever position, with
the same values: the output must not change (Chan et al. 2022). *Interchange* gives one variable
other values: the output must become the program's with these (Geiger et al. 2021). What comes
before the site does not matter, so only the rest of the model is run.

Shapes: `inputs` inputs, `pos` positions of an encoded input (BOS, the list, padding), `cases` what
is replaced at once: an input and a donor for each of its positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import NativeModel

from ..data.cuts import Cut
from ..data.donors import CutTrials, anywhere
from ..data.inputs import InputSet
from ..models.continuation import continue_from, residual_stream, residuals, without_hooks
from .statistics import bootstrap_counts, percentile_interval, weighted_sums, wilson_interval

AT_ONCE = 1024  # cases that are run together


@dataclass(frozen=True)
class Score:
    """How often a test's whole output became what it must, with interval and chance level.

    `chance` is the same with residuals of any inputs at any positions, or of the best one answer
    at all positions of all cases, whichever is higher; `right` says of each case whether it did,
    `bases` of which input it was.
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
        """How many cases there were."""
        return len(self.right)


@dataclass(frozen=True)
class Match:
    """A cut at a site: the lowest of its tests' scores, with a bootstrap interval over inputs.

    Of few cases the bootstrap is too sure: the interval is no narrower than the scores' own.
    """

    site: str
    cut: Cut
    scores: tuple[Score, ...]
    value: float
    low: float
    high: float

    @property
    def chance(self) -> float:
        """The lowest chance level of the tests: what passes them all by chance passes that one."""
        return min(score.chance for score in self.scores)

    def resampled(self, counts: UInt8[Tensor, "draws inputs"]) -> Float64[Tensor, " draws"]:
        """Return the match in resamples of the inputs."""
        return _lowest(self.scores, counts)

    @property
    def weakest(self) -> Score:
        """The test that says least."""
        return min(self.scores, key=lambda score: score.value)


@torch.inference_mode()
def matches(
    bridge: TransformerBridge,
    inputs: InputSet,
    tests: Sequence[CutTrials],
    sites: Sequence[str],
    draws: int,
    seed: int,
) -> Iterator[Match]:
    """Yield each cut's match at each site, the sites in the order given."""
    held = residuals(bridge, inputs.tokens, inputs.key_mask, sites)
    model = without_hooks(bridge)
    counts = bootstrap_counts(len(inputs), draws, seed)
    generator = np.random.default_rng([seed, 7])
    lost_to = anywhere(inputs, generator)
    for site in sites:
        residual = held[site]
        everything = torch.arange(len(inputs))
        lost = _outputs(model, site, residual, inputs, everything, *lost_to)
        for one in tests:
            if not one.trials:
                continue
            scores = []
            for test in one.trials:
                given = _outputs(
                    model, site, residual, inputs, test.bases, test.rows, test.positions
                )
                right = _right(inputs, given, test.targets)
                astray = _right(inputs, lost[test.bases], test.targets)
                chance = max(float(astray.double().mean()), _one_answer(inputs, test.targets))
                value, n = float(right.double().mean()), len(right)
                low, high = wilson_interval(value, n)
                scores.append(Score(test.name, value, low, high, chance, right, test.bases))
            yield _match(site, one.cut, tuple(scores), counts)


def _outputs(
    model: NativeModel | TransformerBridge,
    site: str,
    residual: Tensor,
    inputs: InputSet,
    bases: Int64[Tensor, " cases"],
    rows: Int64[Tensor, "cases pos"],
    positions: Int64[Tensor, "cases pos"],
) -> Tensor:
    return torch.cat(
        [
            continue_from(
                model, site, residual[rows[some], positions[some]], inputs.key_mask[bases[some]]
            )
            for some in torch.split(torch.arange(len(bases)), AT_ONCE)
        ]
    )


def _right(inputs: InputSet, given: Tensor, targets: Tensor) -> Bool[Tensor, " cases"]:
    """Return whether all outputs are the targets, where these are defined."""
    defined = inputs.output.defined(targets)
    right: Tensor = (inputs.output.right(given, targets) | ~defined).all(-1)
    return right


def _one_answer(inputs: InputSet, targets: Tensor) -> float:
    """Return the share of cases in which the best one answer is right at all positions."""
    defined = inputs.output.defined(targets)
    largest = targets[defined].max()
    answers = torch.where(defined, targets, largest).amin(-1)
    one = (inputs.output.same(targets, answers[:, None]) | ~defined).all(-1)
    if not one.any():
        return 0.0
    return int(torch.unique(answers[one], return_counts=True)[1].max()) / len(targets)


def _match(
    site: str, cut: Cut, scores: tuple[Score, ...], counts: UInt8[Tensor, "draws inputs"]
) -> Match:
    """Return the match, its interval from resamples of the inputs, no surer than its tests'."""
    low, high = percentile_interval(_lowest(scores, counts))
    low = min(low, *(score.low for score in scores))
    high = max(high, min(score.high for score in scores))
    return Match(site, cut, scores, min(score.value for score in scores), low, high)


def _lowest(
    scores: Sequence[Score], counts: UInt8[Tensor, "draws inputs"]
) -> Float64[Tensor, " draws"]:
    """Return the lowest of the tests' shares in each resample of the inputs."""
    draws, n = counts.shape
    lowest: Float64[Tensor, " draws"] = torch.full((draws,), torch.inf, dtype=torch.float64)
    for score in scores:
        columns = torch.zeros(n, 2, dtype=torch.float64)
        columns[:, 0].index_add_(0, score.bases, score.right.double())
        columns[:, 1].index_add_(0, score.bases, torch.ones(len(score.bases), dtype=torch.float64))
        sums = weighted_sums(counts, columns)
        lowest = torch.minimum(lowest, sums[:, 0] / sums[:, 1].clamp(min=1))
    return lowest


def matching_sites(bridge: TransformerBridge) -> list[str]:
    """Return the embedding and the residual stream after each block, in order.

    Before a block's MLP the tests have the same outcomes as after it, for it maps each position's
    residual by itself: the donors' go in and come out together.
    """
    first, *rest = residual_stream(bridge)
    return [first, *(site for site in rest if site.endswith("hook_resid_post"))]


def by_site(found: Sequence[Match]) -> Mapping[str, dict[str, Match]]:
    """Return matches by site and cut's name."""
    table: dict[str, dict[str, Match]] = {}
    for one in found:
        table.setdefault(one.site, {})[one.cut.name] = one
    return table
