"""MLP neurons, on or off: how often, how two-valued, how sparse; and the reference's beside them.

A neuron is on at a position of an input where its pre-activation is above zero, by more than
rounding may be: compiled neurons often are at zero exactly. Positions are the list's own (neither
BOS nor padding). H1 says that a compiled model's neurons are more on/off:
so the reference's figures, over its real (unpadded) neurons, less the learned model's, each
difference with its interval.

Shapes: `positions` (input, position) pairs, `sample` one of them for each of some inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import diptest
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import false_discovery_control
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from ...data.inputs import InputSet
from ..activations import Recording, Source, has_mlp, taken
from ..base import MeasurementContext
from ..measurements import Measurement, Metric
from ..statistics import (
    mean_interval,
    means_of_resamples,
    percentile_interval,
    shares_difference,
    wilson_interval,
)

SAMPLED = 400  # inputs, of each of which one position is in the sample of dip and Gini
SIGNIFICANT = 0.05
ROUNDING = 1e-5  # of the size of a neuron's weights
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}
UNITS = "mean over neurons"
MEANS = {  # name: (unit, better, about)
    "active_share": ("share of positions", "neither", f"how often a neuron is on, {UNITS}"),
    "bimodality": ("Sarle's coefficient", "higher", f"of pre-activations, {UNITS} that vary; 5/9 "
                   "is a uniform, 1/3 a normal, 1 a two-valued distribution"),
    "dip": ("dip statistic", "higher", "distance of the pre-activations from the nearest "
            f"distribution with one mode (Hartigan and Hartigan 1985), {UNITS} that vary"),
    "hoyer": ("Hoyer's sparsity", "higher", f"of activations over positions, {UNITS} that are "
              "ever active; 0: the same everywhere, 1: at one position only (Hoyer 2004)"),
    "gini": ("Gini index", "higher", f"of activations over a sample of positions, {UNITS} that "
             "are active in it (Hurley and Rickard 2009)"),
}  # fmt: skip
SHARES = {
    "dead_share": ("neither", "never on"),
    "always_on_share": ("neither", "on everywhere"),
    "bimodal_share": ("higher", "of the neurons that vary, those whose pre-activations have more "
                      "than one mode: the null hypothesis of the dip test, that those of a random "
                      "input have one, is rejected at a false discovery rate of 5% (Benjamini and "
                      "Hochberg 1995)"),
}  # fmt: skip
METRICS = (
    *(Metric(f"sparsity/{name}", unit, better, 0, 1, about, match=better == "higher")
      for name, (unit, better, about) in MEANS.items()),
    *(Metric(f"sparsity/{name}", "share of neurons", better, 0, 1, about, match=better == "higher")
      for name, (better, about) in SHARES.items()),
    *(Metric(f"sparsity/h1_{name}", "difference", "neither", -1, 1,
        f"{name}: the reference's minus the model's") for name in (*MEANS, *SHARES)),
    Metric("sparsity/dip_p", "adjusted p-value", "lower", 0, 1, "of a neuron's dip test"),
)  # fmt: skip
PER_NEURON = ("active_share", "bimodality", "dip", "dip_p", "hoyer", "gini")

MODEL = "model"
REFERENCE = "reference"


@dataclass(frozen=True)
class Neurons:
    """What each neuron of a layer or a model does; nan where a figure is not defined."""

    names: tuple[str, ...]
    values: Mapping[str, Float64[Tensor, " neurons"]]
    n: Mapping[str, int]

    def defined(self, name: str) -> Float64[Tensor, " some"]:
        """Return the figures of the neurons that have one."""
        values = self.values[name]
        return values[~values.isnan()]

    def flags(self, name: str) -> Bool[Tensor, " some"]:
        """Return which neurons a share is of."""
        if name == "bimodal_share":
            return self.defined("dip_p") < SIGNIFICANT
        return self.values["active_share"] == (0 if name == "dead_share" else 1)


class Sums:
    """What is added up of a layer's pre-activations, part by part."""

    def __init__(self, rounding: Float[Tensor, " neurons"], act: str) -> None:
        self._rounding, self._act = rounding, ACTIVATIONS[act]
        self._pivot: Tensor | None = None
        self._powers: Tensor | float = 0.0
        self._post: Tensor | float = 0.0
        self._active: Tensor | float = 0.0
        self._low: Tensor | None = None
        self._high: Tensor | None = None
        self._samples: list[Tensor] = []
        self._count = 0

    def add(
        self, pre: Float[Tensor, "positions neurons"], sample: Float[Tensor, "sample neurons"]
    ) -> None:
        """Take in the positions of a part, and those of them that are sampled."""
        if self._pivot is None:
            self._pivot = pre.mean(0)
        centred = pre.double() - self._pivot
        squares = centred * centred
        parts = (centred, squares, squares * centred, squares * squares)
        self._powers = self._powers + torch.stack([part.sum(0) for part in parts])
        post = self._post_activations(pre)
        norms = (post.abs().sum(0, dtype=torch.float64), post.double().square().sum(0))
        self._post = self._post + torch.stack(norms)
        self._active = self._active + (pre > self._rounding).sum(0).double()
        low, high = pre.aminmax(dim=0)
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)
        self._samples.append(sample)
        self._count += len(pre)

    def _post_activations(self, pre: Float[Tensor, "n neurons"]) -> Float[Tensor, "n neurons"]:
        post = self._act(pre)
        return post.masked_fill_(post.abs() <= self._rounding, 0.0)

    def neurons(self, name: str, real: Bool[Tensor, " neurons"]) -> Neurons:
        """Return what the real neurons of the layer do."""
        assert self._low is not None
        assert self._high is not None
        varying = self._high - self._low > 2 * self._rounding
        sample = torch.cat(self._samples)
        values = {
            "active_share": torch.as_tensor(self._active) / self._count,
            "bimodality": _sarle(torch.as_tensor(self._powers), self._count),
            "hoyer": _hoyer(torch.as_tensor(self._post), self._count),
            "gini": gini(self._post_activations(sample).abs().double()),
        }
        nothing = torch.full_like(values["active_share"], torch.nan)
        values["bimodality"] = torch.where(varying, values["bimodality"], nothing)
        step = self._rounding.clamp(min=torch.finfo(torch.float32).tiny)
        ties = (sample / step).round() * step  # values that differ by rounding are one value
        values["dip"], values["dip_p"] = dips(ties, varying & real)
        chosen = torch.nonzero(real)[:, 0].tolist()
        of_sample = dict.fromkeys(("gini", "dip", "dip_p"), len(sample))
        return Neurons(
            tuple(f"{name}[{index}]" for index in chosen),
            {key: value[real] for key, value in values.items()},
            {**dict.fromkeys(PER_NEURON, self._count), **of_sample},
        )


def _sarle(powers: Float64[Tensor, "4 neurons"], n: int) -> Float64[Tensor, " neurons"]:
    """Return Sarle's bimodality coefficient, small-sample corrected (SAS 1990), from power sums.

    nan where there are fewer than four positions, or nothing varies.
    """
    if n < 4:
        return torch.full_like(powers[0], torch.nan)
    mean, second, third, fourth = powers / n
    m2 = second - mean**2
    m3 = third - 3 * mean * second + 2 * mean**3
    m4 = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    skewness = m3 / m2**1.5 * (n * (n - 1)) ** 0.5 / (n - 2)
    kurtosis = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (m4 / m2**2 - 3) + 6)
    coefficient: Tensor = (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))
    return coefficient.clamp(0, 1)


def sarle_bimodality(values: Float[Tensor, "n neurons"]) -> Float64[Tensor, " neurons"]:
    """Return Sarle's bimodality coefficient of each column, nan where there is none."""
    centred = (values - values.mean(0)).double()
    return _sarle(torch.stack([(centred**k).sum(0) for k in (1, 2, 3, 4)]), len(values))


def _hoyer(norms: Float64[Tensor, "2 neurons"], n: int) -> Float64[Tensor, " neurons"]:
    """Return Hoyer's sparsity of activations from their sums and sums of squares."""
    if n < 2:
        return torch.full_like(norms[0], torch.nan)
    ratio = norms[0] / norms[1].sqrt()  # nan where never active
    sparsity: Tensor = ((n**0.5 - ratio) / (n**0.5 - 1)).clamp(0, 1)
    return sparsity


def gini(values: Float64[Tensor, "n neurons"]) -> Float64[Tensor, " neurons"]:
    """Return the Gini index of each column of non-negative values; nan where all are 0."""
    n = len(values)
    ranked = values.sort(0).values
    weights = (n - torch.arange(1, n + 1, dtype=torch.float64) + 0.5) / n
    index: Tensor = 1 - 2 * (weights @ ranked) / ranked.sum(0)
    return index


def dips(
    sample: Float[Tensor, "sample neurons"], tested: Bool[Tensor, " neurons"]
) -> tuple[Float64[Tensor, " neurons"], Float64[Tensor, " neurons"]]:
    """Return the dip statistics of the tested columns and their p-values, nan for the others.

    The null hypothesis is that the values are a sample of a distribution with one mode (Hartigan
    and Hartigan 1985). The p-values are as tabulated, not yet adjusted. Fewer than four values
    have none.
    """
    statistics = torch.full((sample.shape[1],), torch.nan, dtype=torch.float64)
    p_values = statistics.clone()
    if len(sample) >= 4:
        for index in torch.nonzero(tested)[:, 0].tolist():
            column = sample[:, index].double().numpy()
            statistics[index], p_values[index] = diptest.diptest(column)
    return statistics, p_values


def adjusted(p_values: Float64[Tensor, " neurons"]) -> Float64[Tensor, " neurons"]:
    """Return p-values adjusted for how many there are (Benjamini and Hochberg 1995)."""
    corrected = p_values.clone()
    there = ~corrected.isnan()
    if there.any():
        corrected[there] = torch.from_numpy(
            false_discovery_control(corrected[there].clamp(0, 1).numpy())
        )
    return corrected


def real_neurons(bridge: TransformerBridge, layer: int) -> Bool[Tensor, " neurons"]:
    """Return which neurons read something and write something: Tracr pads its MLPs with zeros."""
    mlp = bridge.blocks[layer].mlp
    reads = (mlp.W_in != 0).any(0) | (mlp.b_in != 0)
    real: Tensor = reads & (mlp.W_out != 0).any(1)
    return real.cpu()


def rounding(bridge: TransformerBridge, layer: int) -> Float[Tensor, " neurons"]:
    """Return how far from zero a pre-activation may be by rounding alone, for each neuron.

    In proportion to its weights, and to what enters the residual stream where that is longer
    than 1: a rotation of the stream leaves both as long as they are, a stretching does not.
    """
    mlp = bridge.blocks[layer].mlp
    entering = bridge.W_E.norm(dim=1).max() + bridge.W_pos.norm(dim=1).max()
    size: Tensor = ROUNDING * (mlp.W_in.norm(dim=0) * entering.clamp(min=1) + mlp.b_in.abs())
    return size.cpu()


def sampled(inputs: InputSet, seed: int) -> Int64[Tensor, " inputs"]:
    """Return at which position each input is in the sample, 0 (BOS) where it is not."""
    generator = np.random.default_rng([seed, len(inputs), 2])
    at = torch.zeros(len(inputs), dtype=torch.int64)
    rows = generator.permutation(len(inputs))[:SAMPLED]
    at[rows] = torch.from_numpy(generator.integers(1, inputs.lengths[rows].numpy() + 1))
    return at


class Sparsity:
    """The figures of a source's MLP neurons: each one's, each layer's, the model's, and H1."""

    def __init__(self, source: Source, context: MeasurementContext):
        self._bridge, self._context = source.bridge, context
        self._sums = (
            {
                layer: Sums(rounding(source.bridge, layer), source.bridge.cfg.act_fn)
                for layer in range(source.bridge.cfg.n_layers)
            }
            if has_mlp(source.bridge)
            else {}
        )
        self._sampled = context.once(
            "sampled positions", lambda: sampled(context.inputs, context.config.seed)
        )

    def add(self, part: Recording, rows: slice) -> None:
        """Take in the pre-activations of a part."""
        real, at = part.inputs.real, self._sampled[rows]
        chosen = torch.nonzero(at)[:, 0]
        for layer, sums in self._sums.items():
            pre = part[f"blocks.{layer}.mlp.hook_pre"]
            sums.add(pre[real], pre[chosen, at[chosen]])

    def layers(self) -> dict[str, Neurons]:
        """Return the neurons of each layer that has real ones, then of the whole model."""
        by_name = {}
        for layer, sums in self._sums.items():
            name, real = f"blocks.{layer}.mlp.hook_pre", real_neurons(self._bridge, layer)
            if real.any():
                by_name[name] = sums.neurons(name, real)
        if not by_name:
            return {}
        every = list(by_name.values())
        p_values = adjusted(torch.cat([neurons.values["dip_p"] for neurons in every]))
        for neurons, part in zip(
            every, torch.split(p_values, [len(neurons.names) for neurons in every]), strict=True
        ):
            neurons.values["dip_p"].copy_(part)
        whole = {
            key: torch.cat([neurons.values[key] for neurons in every]) for key in every[0].values
        }
        return {
            **by_name,
            MODEL: Neurons(tuple(n for o in every for n in o.names), whole, every[0].n),
        }

    def rows(self) -> Iterator[Measurement]:
        """Yield each layer's and the model's figures, the reference's, H1, and each neuron's."""
        context, layers = self._context, self.layers()
        reference = context.once("neurons of the reference", lambda: _of_reference(context))
        for subject, part in layers.items():
            yield from _summary(subject, part, context)
        for subject, part in reference.items():
            yield from _summary(f"{REFERENCE}:{subject}", part, context)
        if layers and reference:
            yield from _h1(reference[MODEL], layers[MODEL], context)
        if layers:
            yield from _each(layers[MODEL])


def measure(source: Source, context: MeasurementContext) -> Iterator[Measurement]:
    """Yield the figures of a source's MLP neurons; none of its own without MLPs."""
    return taken(Sparsity(source, context), source)


def _of_reference(context: MeasurementContext) -> dict[str, Neurons]:
    source = context.reference_source
    statistic = Sparsity(source, context)
    for rows, part in source.parts():
        statistic.add(part, rows)
    return statistic.layers()


def _summary(subject: str, part: Neurons, context: MeasurementContext) -> Iterator[Measurement]:
    draws, seed = context.config.bootstrap, context.config.seed
    for name in MEANS:
        values = part.defined(name)
        if len(values):
            interval = mean_interval(values, draws, seed)
            yield Measurement(
                f"sparsity/{name}", subject, float(values.mean()), len(values), *interval
            )
    for name in SHARES:
        flags = part.flags(name)
        if len(flags):
            share, n = float(flags.double().mean()), len(flags)
            yield Measurement(f"sparsity/{name}", subject, share, n, *wilson_interval(share, n))


def _h1(reference: Neurons, model: Neurons, context: MeasurementContext) -> Iterator[Measurement]:
    """Yield the reference's figures less the model's; n is of the smaller group of neurons."""
    draws, seed = context.config.bootstrap, context.config.seed
    for name in MEANS:
        compiled, other = reference.defined(name), model.defined(name)
        if min(len(compiled), len(other)) > 1:
            drawn = [
                means_of_resamples(values, draws, seed + i)
                for i, values in enumerate((compiled, other))
            ]
            interval = percentile_interval(drawn[0] - drawn[1])
            value = float(compiled.mean() - other.mean())
            n = min(len(compiled), len(other))
            yield Measurement(f"sparsity/h1_{name}", MODEL, value, n, *interval)
    for name in SHARES:
        flags, others = reference.flags(name), model.flags(name)
        if len(flags) and len(others):
            value, low, high = shares_difference(
                float(flags.double().mean()), len(flags), float(others.double().mean()), len(others)
            )
            n = min(len(flags), len(others))
            yield Measurement(f"sparsity/h1_{name}", MODEL, value, n, low, high)


def _each(part: Neurons) -> Iterator[Measurement]:
    for name in PER_NEURON:
        for neuron, value in zip(part.names, part.values[name].tolist(), strict=True):
            if value == value:  # not nan: it is defined
                yield Measurement(f"sparsity/{name}", neuron, value, part.n[name])
