"""What deleting a component does to the task: zero and mean ablation of heads, layers and MLPs.

An ablated model shares everything before the ablated place with the intact one, so only what
comes after is run again: from the recorded activations, component by component. (The bridge's
own `start_at_layer` runs the earlier blocks all the same.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from .accuracy import changes, outcome
from .activations import Recording, has_mlp
from .measurements import Measurement, Metric
from .setting import Setting
from .statistics import percentile_intervals

EFFECTS = {  # name: (unit, better, low, high, about)
    "exact": ("share of inputs", "higher", -1.0, 1.0, "exact-sequence accuracy"),
    "token": ("share of positions", "higher", -1.0, 1.0, "token accuracy"),
    "loss": (
        "nats, or squared error, per position",
        "lower",
        -float("inf"),
        float("inf"),
        "the loss",
    ),
}
Fill = Callable[[Float[Tensor, "inputs pos *place"], Bool[Tensor, "inputs pos"]], Tensor]


def _zero(values: Tensor, key_mask: Tensor) -> Tensor:
    return torch.zeros_like(values)


def _mean(values: Tensor, key_mask: Tensor) -> Tensor:
    """Return, at each position, the mean over the inputs that reach it (0 where none does)."""
    weights = key_mask.reshape(*key_mask.shape, *[1] * (values.dim() - 2)).to(values.dtype)
    mean = (values * weights).sum(0) / weights.sum(0).clamp(min=1)
    return mean.expand_as(values)


KINDS: dict[str, Fill] = {"zero": _zero, "mean": _mean}

METRICS = tuple(
    Metric(f"ablation/{kind}_delta_{effect}", unit, better, low, high, f"change of {about} when "
           f"a component's output is replaced by {kind}: ablated minus intact")
    for kind in KINDS
    for effect, (unit, better, low, high, about) in EFFECTS.items()
)  # fmt: skip


@dataclass(frozen=True)
class Component:
    """What can be ablated: a head (`head` is its index), an attention layer or an MLP."""

    layer: int
    hook: str
    head: int | None = None

    @property
    def name(self) -> str:
        """The hook name, with a head's index in brackets."""
        index = "" if self.head is None else f"[{self.head}]"
        return f"blocks.{self.layer}.{self.hook}{index}"


def components(bridge: TransformerBridge) -> list[Component]:
    """Return every head, attention layer and MLP, in layer order."""
    found = []
    for layer in range(bridge.cfg.n_layers):
        found += [Component(layer, "attn.hook_z", head) for head in range(bridge.cfg.n_heads)]
        found.append(Component(layer, "hook_attn_out"))
        if has_mlp(bridge):
            found.append(Component(layer, "hook_mlp_out"))
    return found


@torch.inference_mode()
def ablated_logits(
    recording: Recording, component: Component, kind: str, batch_size: int
) -> Float[Tensor, "inputs pos classes"]:
    """Return the logits with a component's output replaced, on all inputs."""
    place = f"blocks.{component.layer}.{component.hook}"
    fill = KINDS[kind](recording[place], recording.inputs.key_mask)
    starts = range(0, len(recording.inputs), batch_size)
    return torch.cat(
        [_rerun(recording, component, fill, slice(at, at + batch_size)) for at in starts]
    )


def _rerun(recording: Recording, component: Component, fill: Tensor, rows: slice) -> Tensor:
    bridge, layer = recording.bridge, component.layer
    device = bridge.cfg.device

    def at(name: str) -> Tensor:
        return recording[f"blocks.{layer}.{name}"][rows].to(device)

    replaced = fill[rows].to(device)
    if component.hook == "hook_mlp_out":
        residual = at("hook_resid_mid") + replaced
        return _from_block(bridge, layer + 1, residual, recording.inputs.key_mask[rows])
    if component.head is not None:
        heads = at("attn.hook_z").clone()
        heads[:, :, component.head] = replaced[:, :, component.head]
        replaced = bridge.blocks[layer].attn.o(heads.flatten(2))
    residual = at("hook_resid_pre") + replaced
    if has_mlp(bridge):
        block = bridge.blocks[layer]
        residual = residual + block.mlp(block.ln2(residual))
    return _from_block(bridge, layer + 1, residual, recording.inputs.key_mask[rows])


def _from_block(
    bridge: TransformerBridge, layer: int, residual: Tensor, key_mask: Tensor
) -> Tensor:
    """Return the logits of the residual stream that enters block `layer`."""
    mask = key_mask.to(residual.device)
    for block in list(bridge.blocks)[layer:]:
        out = block(residual, attention_mask=mask)
        residual = out[0] if isinstance(out, tuple) else out
    logits: Tensor = bridge.unembed(bridge.ln_final(residual))
    return logits.cpu()


def measure(recording: Recording, setting: Setting) -> Iterator[Measurement]:
    """Yield the effect of ablating each component, with a bootstrap interval over inputs."""
    inputs, size = recording.inputs, setting.config.batch_size
    targets, output = inputs.targets, inputs.output
    intact = outcome(recording.logits, targets, output)
    ablations = [(c, kind) for c in components(recording.bridge) for kind in KINDS]
    ablated = [outcome(ablated_logits(recording, *one, size), targets, output) for one in ablations]
    change, answered = changes(ablated, intact), int((intact.count > 0).sum())
    deltas, drawn = change.weighted(change.once), change.weighted(setting.bootstrap)
    intervals = {effect: percentile_intervals(drawn[effect]) for effect in EFFECTS}
    for i, (component, kind) in enumerate(ablations):
        for effect in EFFECTS:
            yield Measurement(
                f"ablation/{kind}_delta_{effect}",
                component.name,
                float(deltas[effect][0, i]),
                answered,
                *intervals[effect][i],
            )
