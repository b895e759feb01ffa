"""The accuracy of a model whose parts are replaced by their explanations.

Attention patterns are replaced by those of selectors or tables; values stay the model's own.
Neurons are replaced by two means: that of the places where their predicate holds, and that of the
others. Layers are replaced one after another from the first on, and the rest of the model runs on
the result. Baselines are the intact model, uniform attention, neurons at their mean, and the
explanations of a random init.

The variables in a predicate are looked up, not computed by the model, so a predicate that tests the
program's output brings the answer along. Two further variants show how much this helps: neurons
with predicates that may not test the output, and predicates together with uniform attention, where
all accuracy above uniform attention alone comes from the look-up.

Shapes: `inputs`, `pos` positions, `query` and `key` positions, `cells` combinations of features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformer_lens.model_bridge.sources.native import NativeModel

from ...data.inputs import InputSet
from ...models.continuation import embedded
from ..activations import Recording
from ..head_attention import uniform_attention
from ..measures.accuracy import Outcome, outcome
from ..measures.sparsity import ACTIVATIONS
from ..statistics import wilson_interval
from .heads import HeadExplanation
from .neurons import NeuronExplanation
from .position_features import FeatureCells

INTACT, UNIFORM, AT_MEAN, UNTRAINED = (
    "intact", "uniform attention", "neurons at mean", "random init's explanations",
)  # fmt: skip
SELECTORS, TABLES, NEURONS = "selectors", "selectors and tables", "neurons"
UNTOLD = "neurons not told the output"
CONTROLS = (
    INTACT,
    UNIFORM,
    f"{UNIFORM}, {NEURONS}",
    f"{UNIFORM}, {UNTOLD}",
    AT_MEAN,
    UNTRAINED,
)
BATCH = 1024
Patterns = Mapping[tuple[int, int], Float[Tensor, "inputs query key"]]


@dataclass(frozen=True, eq=False)
class NeuronValues:
    """The activations of some neurons of a layer, by the cell of a place."""

    indices: Int64[Tensor, " neurons"]
    by_cell: Float[Tensor, "cells neurons"]
    cell: Int64[Tensor, "inputs pos"]


@dataclass(frozen=True, eq=False)
class Variant:
    """What replaces parts of the model: patterns by (layer, head), neurons by layer."""

    name: str
    patterns: Patterns = field(default_factory=dict, repr=False)
    neurons: Mapping[int, NeuronValues] = field(default_factory=dict, repr=False)

    def up_to(self, layer: int) -> Variant:
        """Return the replacements of the layers up to and including `layer`."""
        patterns = {at: pattern for at, pattern in self.patterns.items() if at[0] <= layer}
        neurons = {at: values for at, values in self.neurons.items() if at <= layer}
        return Variant(self.name, patterns, neurons)


@dataclass(frozen=True)
class InputShare:
    """A share of inputs with its interval; nan if there are no inputs."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class SubstitutedAccuracy:
    """The accuracy of a model with its layers up to `layer` replaced (-1: none)."""

    variant: str
    layer: int
    exact: InputShare
    held_out: InputShare
    token: float
    by_length: Mapping[int, InputShare]


def variants(
    heads: Sequence[HeadExplanation],
    neurons: Sequence[NeuronExplanation],
    untrained: tuple[Sequence[HeadExplanation], Sequence[NeuronExplanation], Recording],
    recording: Recording,
    cells: FeatureCells,
    held_out: Bool[Tensor, " inputs"],
) -> list[Variant]:
    """Return the variants to test, explanations first, then controls.

    `untrained` holds the explanations of a random init, and its recording.
    """
    active = [head for head in heads if head.active]
    hard = {(head.layer, head.head): head.hard.pattern for head in active}
    best = {(head.layer, head.head): head.best.pattern for head in active}
    uniform = uniform_attention(recording.inputs)
    everywhere = dict.fromkeys(best, uniform)
    theirs = {(head.layer, head.head): head.best.pattern for head in untrained[0]}
    theirs = {at: pattern for at, pattern in theirs.items() if at in best}
    by_heads = [Variant(SELECTORS, hard), Variant(TABLES, best)]
    if not neurons:
        return [*by_heads, Variant(UNIFORM, everywhere), Variant(UNTRAINED, theirs)]
    train = ~held_out
    said = by_predicates(neurons, recording, cells, train)
    untold = by_predicates(neurons, recording, cells, train, told=False)
    return [
        *by_heads,
        Variant(NEURONS, {}, said),
        Variant(f"{SELECTORS}, {NEURONS}", hard, said),
        Variant(f"{TABLES}, {NEURONS}", best, said),
        Variant(f"{TABLES}, {UNTOLD}", best, untold),
        Variant(UNIFORM, everywhere),
        Variant(f"{UNIFORM}, {NEURONS}", everywhere, said),
        Variant(f"{UNIFORM}, {UNTOLD}", everywhere, untold),
        Variant(AT_MEAN, {}, at_mean(neurons, recording, cells)),
        Variant(UNTRAINED, theirs, by_predicates(untrained[1], untrained[2], cells, train)),
    ]


def by_predicates(
    neurons: Sequence[NeuronExplanation],
    recording: Recording,
    cells: FeatureCells,
    train: Bool[Tensor, " inputs"],
    told: bool = True,
) -> dict[int, NeuronValues]:
    """Return neurons' activations by their predicates: the mean where it holds, and where not.

    Means are over training inputs, separately for the list's places and BOS. A neuron that does not
    vary has its mean. If `told`, the predicates may test the program's output.
    """
    inputs, codes, at_bos = recording.inputs, cells.codes.numpy(), _at_bos(cells)
    act = ACTIVATIONS[recording.bridge.cfg.act_fn]

    def holds(neuron: NeuronExplanation) -> Bool[Tensor, " cells"]:
        predicate = neuron.predicate if told else neuron.predicate_without_output
        if predicate is None:
            return torch.ones_like(at_bos)
        return torch.from_numpy(predicate.holds(codes))

    by_layer = {}
    for layer in sorted({neuron.layer for neuron in neurons}):
        some = [neuron for neuron in neurons if neuron.layer == layer]
        indices = torch.tensor([neuron.index for neuron in some])
        post = act(recording[f"blocks.{layer}.mlp.hook_pre"][..., indices])
        where = torch.stack([holds(neuron) for neuron in some], dim=1)
        bos = torch.zeros_like(inputs.real)
        bos[:, 0] = True
        means = [
            _means_by(post[rows], where[cells.at[rows]])
            for rows in (inputs.real & train[:, None], bos & train[:, None])
        ]
        listed, first = (torch.where(where, mean[1], mean[0]) for mean in means)
        values = torch.where(at_bos[:, None], first, listed)
        by_layer[layer] = NeuronValues(indices, values.float(), cells.at)
    return by_layer


def at_mean(
    neurons: Sequence[NeuronExplanation], recording: Recording, cells: FeatureCells
) -> dict[int, NeuronValues]:
    """Return neurons at their means: one for the list's places and one for BOS."""
    inputs, at_bos = recording.inputs, _at_bos(cells)
    act = ACTIVATIONS[recording.bridge.cfg.act_fn]
    by_layer = {}
    for layer in sorted({neuron.layer for neuron in neurons}):
        post = act(recording[f"blocks.{layer}.mlp.hook_pre"])
        means = torch.stack([post[inputs.real].mean(0), post[:, 0].mean(0)])
        indices = torch.arange(means.shape[1])
        by_layer[layer] = NeuronValues(indices, means[at_bos.long()], cells.at)
    return by_layer


def _means_by(
    values: Float[Tensor, "places neurons"], where: Bool[Tensor, "places neurons"]
) -> Float[Tensor, "2 neurons"]:
    """Return each neuron's means over places where `where` is false and true.

    A mean over no place is replaced by that over all places.
    """
    whole = values.double().mean(0)
    parts = [(values.double() * rows).sum(0) / rows.sum(0) for rows in (~where, where)]
    return torch.stack([torch.where(part.isnan(), whole, part) for part in parts])


def _at_bos(cells: FeatureCells) -> Bool[Tensor, " cells"]:
    place = next(at for at, feature in enumerate(cells.features) if feature.name == "index")
    values: tuple[object, ...] = cells.features[place].values
    at_bos: Tensor = cells.codes[:, place] == values.index(-1)
    return at_bos


@torch.inference_mode()
def logits_of(
    model: NativeModel, inputs: InputSet, variant: Variant
) -> Float[Tensor, "inputs pos classes"]:
    """Return the logits of a model with a variant's replacements."""
    device, logits = model.cfg.device, list[Tensor]()
    for start in range(0, len(inputs), BATCH):
        rows = slice(start, start + BATCH)
        mask = inputs.key_mask[rows].to(device)
        residual = embedded(model, inputs.tokens[rows].to(device))
        for layer, block in enumerate(model.layers):
            heads = {
                head: given[rows].to(device)
                for (at, head), given in variant.patterns.items()
                if at == layer
            }
            residual = (
                residual
                + block.attn(block.ln1(residual), attention_mask=mask, pattern_fn=_put(heads))[0]
            )
            if not model.cfg.attn_only:
                hidden = block.mlp.act(block.mlp.fc_in(block.ln2(residual)))
                if (given := variant.neurons.get(layer)) is not None:
                    cell = given.cell[rows].clamp(min=0)
                    hidden[..., given.indices.to(device)] = given.by_cell[cell].to(device)
                residual = residual + block.mlp.fc_out(hidden)
        logits.append(model.head(model.ln_out(residual)).cpu())
    return torch.cat(logits)


def _put(heads: Mapping[int, Float[Tensor, "inputs query key"]]) -> Callable[[Tensor], Tensor]:
    """Return a function that replaces the patterns of some heads."""

    def put(pattern: Tensor) -> Tensor:
        pattern = pattern.clone()
        for head, given in heads.items():
            pattern[:, head] = given
        return pattern

    return put


def explained(
    model: NativeModel,
    inputs: InputSet,
    held_out: Bool[Tensor, " inputs"],
    chosen: Sequence[Variant],
    step: Callable[[], None] = lambda: None,
) -> list[SubstitutedAccuracy]:
    """Return the accuracy of the intact model, and of each variant, layer by layer.

    `step` is called after each run.
    """
    rows = []
    runs = [(Variant(INTACT), -1)]
    runs += [(variant, layer) for variant in chosen for layer in range(model.cfg.n_layers)]
    for variant, layer in runs:
        logits = logits_of(model, inputs, variant.up_to(layer))
        whole = outcome(logits, inputs.targets, inputs.output)
        rows.append(_row(variant.name, layer, whole, inputs, held_out))
        step()
    return rows


def _row(
    name: str, layer: int, given: Outcome, inputs: InputSet, held_out: Bool[Tensor, " inputs"]
) -> SubstitutedAccuracy:
    asked = given.count > 0
    lengths = {
        length: _share(given.over(asked & (inputs.lengths == length)))
        for length in inputs.task.lengths
    }
    return SubstitutedAccuracy(
        name, layer, _share(given.over(asked)), _share(given.over(asked & held_out)),
        given.means()["token"], lengths,
    )  # fmt: skip


def _share(given: Outcome) -> InputShare:
    n = len(given.exact)
    if not n:
        return InputShare(float("nan"), float("nan"), float("nan"), 0)
    value = float(given.exact.mean())
    return InputShare(value, *wilson_interval(value, n), n)
