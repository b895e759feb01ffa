"""MLP neurons, on or off: active share, dead and always-on neurons, bimodality.

A neuron is on at a position of an input where its pre-activation is above zero; positions are
the list's own (neither BOS nor padding). The compiled reference's figures, over its real
(unpadded) neurons, stand beside the learned model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from .activations import Recording, has_mlp
from .measurements import Measurement, Metric
from .setting import Setting
from .statistics import mean_interval, wilson_interval

METRICS = (
    Metric("sparsity/active_share", "share of positions", "neither", 0, 1, "how often a neuron "
           "is on, mean over neurons"),
    Metric("sparsity/dead_share", "share of neurons", "neither", 0, 1, "never on"),
    Metric("sparsity/always_on_share", "share of neurons", "neither", 0, 1, "on everywhere"),
    Metric("sparsity/bimodality", "Sarle's coefficient", "higher", 0, 1, "of a neuron's "
           "pre-activations, mean over neurons that vary; 5/9 is a uniform, 1/3 a normal, 1 a "
           "two-valued distribution"),
)  # fmt: skip

MODEL = "model"
REFERENCE = "reference"


@dataclass(frozen=True)
class Neurons:
    """What each neuron of a layer or a model does over all positions."""

    active: Float64[Tensor, " neurons"]
    bimodality: Float64[Tensor, " varying"]


def neurons(pre: Float[Tensor, "positions neurons"]) -> Neurons:
    """Return the statistics of pre-activations; bimodality only of neurons that vary."""
    low, high = pre.aminmax(dim=0)
    varying = high - low > 1e-6 * torch.maximum(low.abs(), high.abs()).clamp(min=1)
    active = (pre > 0).sum(0).double() / len(pre)
    return Neurons(active, sarle_bimodality(pre if varying.all() else pre[:, varying]).double())


def sarle_bimodality(
    values: Float[Tensor, "n neurons"],
) -> Float[Tensor, " coefficients"]:
    """Return Sarle's bimodality coefficient, small-sample corrected (SAS 1990), of each column.

    Fewer than four rows have none.
    """
    n = len(values)
    if n < 4 or values.shape[1] == 0:
        return values.new_empty(0)
    centred = values - values.mean(0)
    squares = centred * centred
    m2, m3, m4 = squares.mean(0), (squares * centred).mean(0), (squares * squares).mean(0)
    skewness: Tensor = m3 / m2**1.5 * (n * (n - 1)) ** 0.5 / (n - 2)
    kurtosis = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (m4 / m2**2 - 3) + 6)
    coefficient: Tensor = (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))
    return coefficient.clamp(0, 1)


def real_neurons(recording: Recording, layer: int) -> Bool[Tensor, " neurons"]:
    """Return which neurons read something and write something: Tracr pads its MLPs with zeros."""
    mlp = recording.bridge.blocks[layer].mlp
    reads = (mlp.W_in != 0).any(0) | (mlp.b_in != 0)
    real: Tensor = reads & (mlp.W_out != 0).any(1)
    return real.cpu()


def measure(recording: Recording, setting: Setting) -> Iterator[Measurement]:
    """Yield each MLP layer's and the whole model's figures, then the reference's."""
    yield from figures(recording, "", setting)
    yield from setting.once(
        "sparsity of the reference",
        lambda: list(figures(setting.reference_recording, f"{REFERENCE}:", setting)),
    )


def figures(recording: Recording, prefix: str, setting: Setting) -> Iterator[Measurement]:
    """Yield the figures of a model, layer by layer and whole; none without MLPs."""
    if not has_mlp(recording.bridge):
        return
    real = recording.inputs.real
    layers = {}
    for layer in range(recording.bridge.cfg.n_layers):
        chosen = real_neurons(recording, layer)
        hook = f"blocks.{layer}.mlp.hook_pre"
        if chosen.any():
            layers[hook] = neurons(recording[hook][real][:, chosen])
    if layers:
        layers[MODEL] = Neurons(
            torch.cat([part.active for part in layers.values()]),
            torch.cat([part.bimodality for part in layers.values()]),
        )
    for subject, part in layers.items():
        yield from _rows(prefix + subject, part, setting)


def _rows(subject: str, part: Neurons, setting: Setting) -> Iterator[Measurement]:
    draws, seed, n = setting.config.bootstrap, setting.config.seed, len(part.active)
    for name, values in (("active_share", part.active), ("bimodality", part.bimodality)):
        if len(values):
            interval = mean_interval(values, draws, seed)
            yield Measurement(
                f"sparsity/{name}", subject, float(values.mean()), len(values), *interval
            )
    for name, flags in (("dead_share", part.active == 0), ("always_on_share", part.active == 1)):
        share = float(flags.double().mean())
        yield Measurement(f"sparsity/{name}", subject, share, n, *wilson_interval(share, n))
