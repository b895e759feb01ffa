"""A learned architecture trained to hold a program's cuts: interchange training of whole residuals.

At the site of each cut, the residual of every position is replaced by another input's, as in the
trials of matching; the model is trained to give the program's output for that case (Geiger et al.
2022, arXiv:2112.00826). The trained model is a positive control: its residual stream is known to
carry one cut after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import NativeModel

from ...config.schema import TrainerConfig
from ...data.donors import CutTrials, Trial, cut_trials, joined
from ...data.inputs import InputSet
from ...data.rasp.cuts import Cut
from ...infra.errors import UserError
from ...models.bridges import make_native
from ...models.continuation import continue_from, residual_stream, residuals
from ...models.task_model import task_model_of
from ...models.training import Progress, exact_accuracy, mean_loss, optimise, weights_of, with_seed
from .interchange_training import drawn

POOL = 256  # inputs, at most, whose trials are trained on in one step
POOLS, NEW = 16, 64  # largest number of pools; inputs per further pool
CASES = 4096  # cases of a trial, drawn from a pool
MEASURED, FRESH = 2048, 1024  # inputs, and cases of a trial, to measure on
SOLVED = 0.99  # share of right cases of every trial at which training ends
WEIGHT = 3.0  # weight of the trials' loss
OWN_SEEDS = 2_000_000  # far from matching's seeds: training and measuring use different cases
SETTINGS = TrainerConfig(
    max_steps=1500, batch_size=128, learning_rate=2e-3, warmup_steps=50, evaluate_every=100
)


@dataclass(frozen=True)
class CutImplementation:
    """A model trained to hold cuts, and how well it does.

    `sites` is the site of each cut, by the cut's name. `exact` is the share of inputs whose outputs
    are all right; `held` is, for each cut, the lowest share of right cases over its fresh trials.
    """

    weights: dict[str, Tensor]
    sites: dict[str, str]
    exact: float
    held_shares: dict[str, float]
    steps: int

    @property
    def solved(self) -> bool:
        """Whether it meets all training targets."""
        return self.exact == 1 and min(self.held_shares.values(), default=1) >= SOLVED


def implement_cuts(
    inputs: InputSet,
    shape: TransformerBridgeConfig,
    cuts: Sequence[Cut],
    seed: int,
    settings: TrainerConfig = SETTINGS,
    progress: Progress | None = None,
) -> CutImplementation:
    """Return a new model of a shape, trained to hold the cuts, which are given in program order.

    `settings.batch_size` is the number of cases of each cut. All inputs are trained on, including
    the held-out ones. Training ends early once every input is right and the share of right cases
    of every trial is at least 0.99.

    Raises:
        UserError: the model has too few blocks, or no order of the program's steps has all cuts.
        NotFiniteError: the loss is infinite or not a number.
    """
    sites = cut_sites(shape, cuts)
    first = OWN_SEEDS * (seed + 1)
    count = min(POOLS, 1 + len(inputs) // NEW)
    pools = [_pool(inputs, cuts, POOL, CASES, first + at) for at in range(count)]
    measured, fresh = _pool(inputs, cuts, MEASURED, FRESH, first + POOLS)
    model = make_native(with_seed(shape, seed))
    last = residual_stream(model)[-1]

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng([seed, step])
        some, tests = pools[step % count]
        streams = residuals(model, some.tokens, some.key_mask, [*sites.values(), last])
        given = continue_from(model, last, streams[last], some.key_mask)
        loss = mean_loss(some.output, given, some.targets)
        for test in tests:
            if test.trials:
                site, trial = sites[test.cut.name], _drawn(test, settings.batch_size, generator)
                donated = streams[site][trial.rows, trial.positions]
                given = continue_from(model, site, donated, some.key_mask[trial.bases])
                share = WEIGHT / len(tests)
                loss = loss + share * mean_loss(some.output, given, trial.targets)
        return loss

    def solved() -> bool:
        shares = _held(model, sites, measured, fresh).values()
        return min(shares, default=1) >= SOLVED and exact_accuracy(model, inputs) == 1

    steps = optimise(model, loss_at, settings, progress, solved)
    held = _held(model, sites, measured, fresh)
    return CutImplementation(weights_of(model), sites, exact_accuracy(model, inputs), held, steps)


def cut_sites(shape: TransformerBridgeConfig, cuts: Sequence[Cut]) -> dict[str, str]:
    """Return the site of each cut, by name: after evenly spread blocks, never after the last.

    Raises:
        UserError: the model has too few blocks, or no order of the program's steps has all cuts.
    """
    count, blocks = len(cuts), shape.n_layers
    if count >= blocks:
        raise UserError(
            f"{count} cuts are held after {count} blocks, and the output after another: the model "
            f"has {blocks}"
        )
    for before, after in pairwise(cuts):
        if not after.later(before):
            raise UserError(f"no order of the program's steps has {before.name}, then {after.name}")
    return {
        cut.name: f"blocks.{(at + 1) * blocks // (count + 1) - 1}.hook_resid_post"
        for at, cut in enumerate(cuts)
    }


def _pool(
    inputs: InputSet, cuts: Sequence[Cut], size: int, count: int, seed: int
) -> tuple[InputSet, list[CutTrials]]:
    """Return inputs, half of them drawn evenly over the lengths, and trials on them."""
    pairs = drawn(inputs, size // 2, np.random.default_rng(seed))
    some = inputs.at(torch.from_numpy(np.unique(pairs)))
    return some, cut_trials(some, cuts, count, seed)


def _drawn(tests: CutTrials, count: int, generator: np.random.Generator) -> Trial:
    """Return cases from all trials of a cut, equally many from each."""
    sizes = map(len, np.array_split(np.arange(count), len(tests.trials)))
    parts = [
        trial.at(torch.from_numpy(generator.integers(len(trial), size=size)))
        for trial, size in zip(tests.trials, sizes, strict=True)
    ]
    return joined(parts, count)


def _held(
    model: NativeModel, sites: Mapping[str, str], inputs: InputSet, tests: Sequence[CutTrials]
) -> dict[str, float]:
    """Return the lowest share of each cut's trials whose outputs all become the targets."""
    task_model, held = task_model_of(model, inputs), dict[str, float]()
    streams = dict(task_model.recorded(list(sites.values())))
    for test in tests:
        site, shares = sites[test.cut.name], list[float]()
        for trial in test.trials:
            right = inputs.output.right(
                task_model.donated_logits(site, streams[site], trial), trial.targets
            )
            whole = (right | ~inputs.output.defined(trial.targets)).all(-1)
            shares.append(float(whole.double().mean()))
        held[test.cut.name] = min(shares, default=1.0)
    return held
