"""When each MLP neuron is on, in a sentence, and what it does to the output.

A neuron is on where its pre-activation is above rounding (`sparsity`). One that is on at some
places of the list and off at others, or so at BOS, is explained by a predicate over what is known
of a place (`places`), fitted on training inputs and judged on the others by balanced accuracy,
beside the same fit to shuffled on/off. BOS counts where the neuron varies there. What it does is
its direct effect (its weights through the unembedding) and what changes where it is switched off.

Shapes: `inputs`, `pos` positions, `neuron` neurons of a layer, `cells` combinations of features,
`classes` outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from transformer_lens.model_bridge.sources.native import NativeModel

from ...config.schema import AnalysisConfig
from ...data.inputs import InputSet
from ...models.bridges import plain_model
from ...models.continuation import continue_from
from ..activations import Recording, has_mlp
from ..measures.accuracy import outcome
from ..measures.sparsity import ACTIVATIONS, real_neurons, rounding
from ..statistics import bootstrap_counts, percentile_intervals, weighted_sums
from .position_features import FeatureCells
from .predicates import Predicate, TreeTests, balanced, columns_of, fit, simplified

VARIES, ALWAYS, NEVER = "varies", "always on", "dead"
SWITCHED = 200  # inputs on which neurons are switched off, every length alike
AT_ONCE = 8  # neurons switched off at once, each on all these inputs


@dataclass(frozen=True)
class NeuronEffect:
    """What a neuron does: to the loss and to each output where it is on.

    `direct` is what it adds to each output directly, less the mean over outputs, mean over the
    places where it is on; `correlation` and `ratio` compare that, place by place, with what is lost
    when it is switched off: 1 and 1 where all of its effect is direct.
    """

    loss: float
    direct: tuple[float, ...]
    correlation: float
    ratio: float


@dataclass(frozen=True, eq=False)
class NeuronExplanation:
    """A neuron, when it is on and how well that is predicted on held-out inputs.

    `floor` is the same fit to shuffled on/off, `on` and `off` the mean activations at the list's
    places, `bos` those at BOS. `untold` is the predicate of a fit that is not told the program's
    output. A `rare` one is never on, or never off, in the held-out inputs: it is judged on all.
    nan where a number is not defined.
    """

    layer: int
    index: int
    state: str
    share: float
    text: str
    depth: int
    accuracy: float
    low: float
    high: float
    floor: float
    on: float
    off: float
    bos: tuple[float, float]
    rare: bool
    bar: float
    effect: NeuronEffect | None = None
    predicate: Predicate | None = field(default=None, repr=False)
    predicate_without_output: Predicate | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Layer and neuron, as in 1.17."""
        return f"{self.layer}.{self.index}"

    @property
    def explained(self) -> bool:
        """Whether the predicate reaches the bar."""
        return self.state == VARIES and self.accuracy >= self.bar


@torch.inference_mode()
def explain_neurons(
    recording: Recording,
    cells: FeatureCells,
    held_out: Bool[Tensor, " inputs"],
    config: AnalysisConfig,
    step: Callable[[], None] = lambda: None,
    effects: bool = True,
) -> list[NeuronExplanation]:
    """Return every neuron of a model, in order; none of a model without MLPs.

    `step` is called after each layer. Without `effects` what a neuron does is left out.
    """
    bridge = recording.bridge
    if not has_mlp(bridge):
        return []
    neurons: list[NeuronExplanation] = []
    model = plain_model(bridge)
    columns = columns_of(cells), columns_of(cells, told=False)
    for layer in range(bridge.cfg.n_layers):
        real = torch.nonzero(real_neurons(bridge, layer))[:, 0]
        if len(real):
            mlp = _Layer(recording, layer, real, cells, columns, held_out, config)
            done = mlp.effects(model) if effects else [None] * len(real)
            neurons += [mlp.explained(at, done[at]) for at in range(len(real))]
        step()
    return neurons


class _Layer:
    """The real neurons of a layer."""

    def __init__(
        self,
        recording: Recording,
        layer: int,
        real: Tensor,
        cells: FeatureCells,
        columns: tuple[TreeTests, TreeTests],
        held_out: Bool[Tensor, " inputs"],
        config: AnalysisConfig,
    ):
        self._recording, self._layer, self._real = recording, layer, real
        self._cells, self._config = cells, config
        self._columns, self._untold = columns
        self._held_out = held_out
        inputs = recording.inputs
        pre = recording[f"blocks.{layer}.mlp.hook_pre"][..., real]
        self._post = ACTIVATIONS[recording.bridge.cfg.act_fn](pre)
        self._on = pre > rounding(recording.bridge, layer)[real]
        listed = self._on[inputs.real]
        self.share = listed.double().mean(0)
        at_bos = self._on[:, 0].double().mean(0)
        self.bos_varies = (at_bos > 0) & (at_bos < 1)
        self.varies = ((self.share > 0) & (self.share < 1)) | self.bos_varies
        self._means = {
            on: _mean_where(self._post[inputs.real], listed == on) for on in (True, False)
        }
        bos = self._on[:, 0]
        self._bos = {on: _mean_where(self._post[:, 0], bos == on) for on in (True, False)}

    def explained(self, at: int, effect: NeuronEffect | None) -> NeuronExplanation:
        """Return one neuron's explanation."""
        state = VARIES if self.varies[at] else ALWAYS if self.share[at] == 1 else NEVER
        predicate, untold, depth, numbers, rare = None, None, 0, (math.nan,) * 4, False
        text = {ALWAYS: "always", NEVER: "never"}.get(state, "")
        if state == VARIES:
            predicate, untold, depth, numbers, rare = self._predicted(at)
            text = predicate.text(self._cells.features)
        accuracy, low, high, floor = numbers
        on, off = float(self._means[True][at]), float(self._means[False][at])
        return NeuronExplanation(
            self._layer, int(self._real[at]), state, float(self.share[at]), text, depth, accuracy,
            low, high, floor, on, off, (float(self._bos[True][at]), float(self._bos[False][at])),
            rare, self._config.explain_at, effect, predicate, untold,
        )  # fmt: skip

    def _predicted(
        self, at: int
    ) -> tuple[Predicate, Predicate, int, tuple[float, float, float, float], bool]:
        inputs, depth = self._recording.inputs, self._config.explain_depth
        counted = inputs.key_mask.clone()
        counted[:, 0] = self.bos_varies[at]
        train, test = (counted & rows[:, None] for rows in (~self._held_out, self._held_out))
        on, cell = self._on[..., at], self._cells.at
        size = len(self._cells.codes)

        def counts(rows: Tensor, states: Tensor) -> tuple[np.ndarray, np.ndarray]:
            every = torch.bincount(cell[rows], minlength=size)
            ons = torch.bincount(cell[rows][states], minlength=size)
            return ons.double().numpy(), (every - ons).double().numpy()

        occurring = self._cells.codes[torch.unique(cell[counted])].numpy()
        fitted_to = counts(train, on[train])
        predicate, levels = fit(self._cells, self._columns, *fitted_to, depth)
        untold = predicate = simplified(predicate, occurring)
        if any(
            predicate.asks(k) for k, feature in enumerate(self._cells.features) if feature.output
        ):
            untold, _ = fit(self._cells, self._untold, *fitted_to, depth)
        holds = predicate.holds(self._cells.codes.numpy())
        accuracy = balanced(*counts(test, on[test]), holds)
        if rare := math.isnan(accuracy):
            test = counted
            accuracy = balanced(*counts(test, on[test]), holds)
        low, high = self._interval(on, torch.from_numpy(holds)[cell], test)
        seed = [self._config.seed, 23, self._layer, int(self._real[at])]
        generator = np.random.default_rng(seed)
        shuffled = [
            counts(rows, torch.from_numpy(generator.permutation(on[rows].numpy())))
            for rows in (train, test)
        ]
        other, _ = fit(self._cells, self._columns, *shuffled[0], depth)
        floor = balanced(*shuffled[1], other.holds(self._cells.codes.numpy()))
        return predicate, untold, levels, (accuracy, low, high, floor), rare

    def _interval(
        self,
        on: Bool[Tensor, "inputs pos"],
        holds: Bool[Tensor, "inputs pos"],
        test: Bool[Tensor, "inputs pos"],
    ) -> tuple[float, float]:
        """Return the bootstrap interval of a balanced accuracy, over held-out inputs."""
        parts = (on & holds & test, on & test, ~on & ~holds & test, ~on & test)
        sums = torch.stack([part.sum(-1) for part in parts], dim=1).double()[test.any(1)]
        draws = bootstrap_counts(len(sums), self._config.bootstrap, self._config.seed)
        hits, ons, rejected, offs = weighted_sums(draws, sums).unbind(1)
        both = (ons > 0) & (offs > 0)
        if not both.any():
            return math.nan, math.nan
        drawn = (hits[both] / ons[both] + rejected[both] / offs[both]) / 2
        return percentile_intervals(drawn[:, None])[0]

    def effects(self, model: NativeModel) -> list[NeuronEffect | None]:
        """Return what each neuron that is ever on does, on a sample of inputs."""
        inputs = self._recording.inputs
        rows = _sample(inputs, self._config.seed)
        some, weights = inputs.at(rows), model.layers[self._layer].mlp.fc_out.weight.T[self._real]
        site = f"blocks.{self._layer}.hook_resid_post"
        residual, intact = self._recording[site][rows], self._recording.logits[rows]
        loss = outcome(intact, some.targets, some.output)
        last = self._recording[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"][rows]
        off = torch.where(self.varies, self._means[False].nan_to_num(0.0), 0.0).float()
        change = self._post[rows] - off
        effects: list[NeuronEffect | None] = [None] * len(self._real)
        doing = torch.nonzero(self.varies | (self.share == 1))[:, 0]
        mask, device = some.key_mask, model.cfg.device
        for part in torch.split(doing, AT_ONCE):
            lost = change[..., part].movedim(-1, 0)[..., None] * weights[part, None, None].cpu()
            without = residual - lost
            logits = continue_from(
                model, site, without.flatten(0, 1).to(device), mask.repeat(len(part), 1).to(device)
            ).cpu()  # fmt: skip
            each = logits.view(len(part), len(rows), *logits.shape[1:])
            for at, given in zip(part.tolist(), each, strict=True):
                after = outcome(given, some.targets, some.output)
                lost = float((after.loss - loss.loss).sum() / loss.count.sum())
                where = self._on[rows][..., at] & some.defined
                direct = _direct(model, last, change[..., at], weights[at].cpu())
                effects[at] = _effect(lost, direct[where], (intact - given)[where])
        return effects


def _direct(
    model: NativeModel,
    last: Float[Tensor, "inputs pos d_model"],
    change: Float[Tensor, "inputs pos"],
    weights: Float[Tensor, " d_model"],
) -> Float[Tensor, "inputs pos classes"]:
    """Return what a neuron adds to the outputs directly; a last LayerNorm has its own scale."""
    head: Tensor = model.head.weight.cpu()
    if isinstance(model.ln_out, torch.nn.LayerNorm):
        scale = (last.var(-1, unbiased=False) + model.ln_out.eps).sqrt()
        weights = (weights - weights.mean()) * model.ln_out.weight.cpu()
        change = change / scale
    return change[..., None] * (head @ weights)


def _effect(
    loss: float,
    direct: Float[Tensor, "places classes"],
    real: Float[Tensor, "places classes"],
) -> NeuronEffect:
    if direct.shape[1] > 1:  # what is added to all of them changes nothing
        direct, real = (values - values.mean(1, keepdim=True) for values in (direct, real))
    expected, other = direct.double().flatten(), real.double().flatten()
    both, own = float(expected @ other), float(expected @ expected)
    size = math.sqrt(own * float(other @ other))
    return NeuronEffect(
        loss,
        tuple(direct.double().mean(0).tolist()) if len(direct) else (math.nan,) * direct.shape[1],
        both / size if size > 0 else math.nan,
        both / own if own > 0 else math.nan,
    )


def _sample(inputs: InputSet, seed: int) -> Tensor:
    """Return the rows of at most `SWITCHED` inputs, every length alike."""
    generator, lengths = np.random.default_rng([seed, 24]), inputs.lengths.numpy()
    order = generator.permutation(len(inputs))
    turn = np.empty(len(inputs), dtype=np.int64)
    for length in np.unique(lengths):  # the first of each length, then the second of each, ...
        rows = order[lengths[order] == length]
        turn[rows] = np.arange(len(rows))
    return torch.from_numpy(np.sort(np.lexsort((lengths, turn))[:SWITCHED]))


def _mean_where(
    values: Float[Tensor, "places neuron"], where: Bool[Tensor, "places neuron"]
) -> Float64[Tensor, " neuron"]:
    """Return each neuron's mean over some places, nan over none."""
    means: Tensor = (values.double() * where).sum(0) / where.sum(0)
    return means


def share_explained(neurons: Sequence[NeuronExplanation]) -> tuple[float, int]:
    """Return the share of the neurons that vary that are explained, and how many vary."""
    varying = [neuron for neuron in neurons if neuron.state == VARIES]
    share = sum(neuron.explained for neuron in varying) / len(varying) if varying else math.nan
    return share, len(varying)
