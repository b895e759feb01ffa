"""A model run again with some outputs replaced, from the first replaced place on.

An ablated model shares everything before that place with the intact one, so the recorded
activations stand in for it. What comes after runs on a plain NativeModel, without hooks, a few
inputs at a time, so that they stay in the processor's cache. (The bridge's own `start_at_layer`
runs the earlier blocks all the same.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import NativeModel

from ..data.inputs import InputSet
from ..models.bridges import plain_model
from .accuracy import Outcome, joined, outcome, side_by_side
from .activations import Recording, Source, has_mlp

HEAD, ATTENTION, MLP = "attn.hook_z", "hook_attn_out", "hook_mlp_out"
KINDS = {  # name: what the output is replaced by
    "zero": "zero",
    "mean": "its mean over the inputs that reach the position",
    "resample_within": "that of another input of the same length, at the same position",
    "resample_across": "that of an input of another length (positions beyond its end from its "
    "start again)",
}
POSITIONS_AT_ONCE = 3072  # of a run: small enough for the cache, large enough for the cores
Fill = Callable[[str], Tensor]  # hook name to the values that replace its own


class Place(NamedTuple):
    """One output that can be replaced: a head's, an attention layer's or an MLP's."""

    layer: int
    hook: str
    head: int | None = None

    @property
    def name(self) -> str:
        """The hook name, with a head's index in brackets."""
        index = "" if self.head is None else f"[{self.head}]"
        return f"blocks.{self.layer}.{self.hook}{index}"


Run = tuple[tuple[Place, ...], str]  # what is replaced, and by which kind of ablation


@dataclass(frozen=True)
class Component:
    """What is ablated at once: a head, an attention layer, an MLP, or a set of these."""

    name: str
    places: tuple[Place, ...]


def places(bridge: TransformerBridge) -> list[Place]:
    """Return every head, attention layer and MLP, in layer order."""
    found = []
    for layer in range(bridge.cfg.n_layers):
        found += [Place(layer, HEAD, head) for head in range(bridge.cfg.n_heads)]
        found.append(Place(layer, ATTENTION))
        if has_mlp(bridge):
            found.append(Place(layer, MLP))
    return found


def single(place: Place) -> Component:
    """Return a place as a component of its own."""
    return Component(place.name, (place,))


class Means:
    """The mean of what each place gives, at each position over the inputs that reach it."""

    def __init__(self, bridge: TransformerBridge):
        hooks = [ATTENTION, HEAD, *([MLP] if has_mlp(bridge) else [])]
        self._names = [f"blocks.{n}.{hook}" for n in range(bridge.cfg.n_layers) for hook in hooks]
        self._sums: dict[str, Tensor] = {}
        self._counts: Tensor | float = 0.0

    def add(self, part: Recording) -> None:
        """Take in some inputs."""
        reached = part.inputs.key_mask.double()
        self._counts = self._counts + reached.sum(0)
        for name in self._names:
            values = part[name]
            shaped = reached.reshape(*reached.shape, *[1] * (values.dim() - 2))
            total = (values * shaped).sum(0)
            self._sums[name] = self._sums.get(name, 0.0) + total

    def __getitem__(self, name: str) -> Float[Tensor, "pos *place"]:
        sums = self._sums[name]
        counts = torch.as_tensor(self._counts).clamp(min=1)
        return (sums / counts.reshape(-1, *[1] * (sums.dim() - 1))).float()


@dataclass(frozen=True)
class Donors:
    """For each input another one, and which of its positions goes to which of the input's."""

    rows: Int64[Tensor, " inputs"]
    positions: Int64[Tensor, "inputs pos"]


def donors(inputs: InputSet, seed: int) -> dict[str, Donors]:
    """Return the inputs whose activations replace each input's, by kind of resampling.

    Within a length every input gives to one other (itself only where it is alone). Across
    lengths, another length is drawn, each with the same chance, and then one of its inputs; there
    is no such kind where all inputs have the same length.
    """
    generator = np.random.default_rng([seed, len(inputs), 1])
    lengths = inputs.lengths.numpy()
    present = np.unique(lengths)
    of = {int(n): np.flatnonzero(lengths == n) for n in present}
    within = np.empty(len(inputs), dtype=np.int64)
    for rows in of.values():
        cycle = generator.permutation(rows)
        within[cycle] = np.roll(cycle, 1)
    n_pos = inputs.tokens.shape[1]
    same = torch.arange(n_pos).expand(len(inputs), n_pos)
    found = {"resample_within": Donors(torch.from_numpy(within), same)}
    if len(present) > 1:
        across = np.empty(len(inputs), dtype=np.int64)
        for length, rows in of.items():
            others = generator.choice(present[present != length], size=len(rows))
            for other in present[present != length]:
                chosen = rows[others == other]
                across[chosen] = generator.choice(of[int(other)], size=len(chosen))
        drawn = torch.from_numpy(across)
        positions = _wrapped(inputs.lengths, inputs.lengths[drawn], same)
        found["resample_across"] = Donors(drawn, positions)
    return found


def _wrapped(
    lengths: Int64[Tensor, " inputs"],
    theirs: Int64[Tensor, " inputs"],
    positions: Int64[Tensor, "inputs pos"],
) -> Int64[Tensor, "inputs pos"]:
    """Return a donor's position for each position: BOS for BOS and padding, else modulo length."""
    wrapped = (positions - 1).remainder(theirs[:, None]) + 1
    listed = (positions >= 1) & (positions <= lengths[:, None])
    return torch.where(listed, wrapped, 0)


class Rerun:
    """Runs a source's model again on all its inputs with components ablated.

    `means` must have seen every part before anything is run.
    """

    def __init__(self, source: Source, means: Means, given: Mapping[str, Donors]):
        self._source, self._means, self._donors = source, means, given
        self._model = plain_model(source.bridge)
        self.kinds = [kind for kind in KINDS if not kind.startswith("resample") or kind in given]

    @torch.inference_mode()
    def outcomes(self, wanted: Sequence[tuple[Component, str]]) -> Outcome:
        """Return how the model does on each input under each (component, kind), side by side."""
        found = []
        amounting = [self._run(component.places, kind) for component, kind in wanted]
        runs = list(dict.fromkeys(amounting))
        kinds = list(dict.fromkeys(kind for _, kind in runs))
        for rows, part in self._source.parts():
            given = {
                kind: (self._source.at(donors.rows[rows]), donors.positions[rows])
                for kind, donors in self._donors.items()
                if kind in kinds
            }
            size = max(1, POSITIONS_AT_ONCE // part.inputs.tokens.shape[1])
            for start in range(0, len(part.inputs), size):
                chunk = slice(start, min(start + size, len(part.inputs)))
                here = part.at(chunk)
                fills = {kind: self._fill(kind, here, given.get(kind), chunk) for kind in kinds}
                found.append(self._outcomes(runs, here, fills))
        return joined(found).columns([runs.index(run) for run in amounting])

    def _run(self, places: tuple[Place, ...], kind: str) -> Run:
        """Return what an ablation amounts to: all heads of a layer are its attention layer.

        Unless they are put to zero, for the layer has a bias of its own.
        """
        if kind == "zero":
            return places, kind
        heads = Counter(place.layer for place in places if place.hook == HEAD)
        full = {layer for layer, n in heads.items() if n == self._model.cfg.n_heads}
        rest = [place for place in places if not (place.hook == HEAD and place.layer in full)]
        return (*rest, *(Place(layer, ATTENTION) for layer in sorted(full))), kind

    def _outcomes(
        self,
        runs: Sequence[Run],
        here: Recording,
        fills: Mapping[str, Fill],
    ) -> Outcome:
        device = self._source.bridge.cfg.device
        targets, output = here.inputs.targets, here.inputs.output
        kept = dict[str, Tensor]()

        def recorded(name: str) -> Tensor:
            if name not in kept:
                kept[name] = here[name].to(device)
            return kept[name]

        barred = barred_keys(self._model, here.inputs.key_mask.to(device))
        wanted = here.inputs.defined.to(device)
        return side_by_side(
            outcome(
                rerun(self._model, recorded, barred, places, fills[kind], wanted).cpu(),
                targets,
                output,
            )
            for places, kind in runs
        )

    def _fill(
        self,
        kind: str,
        here: Recording,
        given: tuple[Recording, Int64[Tensor, "inputs pos"]] | None,
        chunk: slice,
    ) -> Fill:
        device, kept = self._source.bridge.cfg.device, dict[str, Tensor]()

        def values(name: str) -> Tensor:
            if given is not None:
                recording, positions = given[0], given[1][chunk]
                return recording[name][chunk][torch.arange(len(positions))[:, None], positions]
            mean = self._means[name] if kind == "mean" else torch.zeros(())
            return mean.expand_as(here[name])

        def fill(name: str) -> Tensor:
            if name not in kept:
                kept[name] = values(name).to(device)
            return kept[name]

        return fill


def rerun(
    model: NativeModel,
    recorded: Fill,
    barred: Float[Tensor, "inputs 1 q k"],
    places: tuple[Place, ...],
    fill: Fill,
    wanted: Bool[Tensor, "inputs pos"] | None = None,
) -> Float[Tensor, "inputs pos classes"]:
    """Return the logits with the outputs of some places replaced by `fill`.

    `recorded` gives the intact model's activations by hook name, `barred` is of `barred_keys`.
    Where only some positions are `wanted`, the last block does those alone, and the others' logits
    are 0.
    """
    first = min(place.layer for place in places)
    residual = torch.empty(0)
    for layer, block in list(enumerate(model.layers))[first:]:
        intact, at = layer == first, f"blocks.{layer}."
        here = [place for place in places if place.layer == layer]
        hooks = {place.hook for place in here}
        heads = [place.head for place in here if place.hook == HEAD]
        some = wanted if block is model.layers[-1] else None
        if intact and hooks == {MLP}:
            middle = _those(recorded(f"{at}hook_resid_mid"), some)
        else:
            before = recorded(f"{at}hook_resid_pre") if intact else residual
            if ATTENTION in hooks:
                out = _those(fill(f"{at}{ATTENTION}"), some)
            else:
                z = recorded(f"{at}{HEAD}") if intact else _heads(block, before, barred)
                z = _those(z, some)
                if heads:
                    z = z.clone()
                    z[..., heads, :] = _those(fill(f"{at}{HEAD}"), some)[..., heads, :]
                out = block.attn.o(z.flatten(-2))
            middle = _those(before, some) + out
        if MLP in hooks:
            residual = middle + _those(fill(f"{at}{MLP}"), some)
        elif model.cfg.attn_only:
            residual = middle
        else:
            residual = middle + _mlp(block, middle)
    logits: Tensor = model.head(model.ln_out(residual))
    if wanted is None:
        return logits
    whole = logits.new_zeros(*wanted.shape, logits.shape[-1])
    whole[wanted] = logits
    return whole


def _those(
    values: Shaped[Tensor, "inputs pos *place"], wanted: Bool[Tensor, "inputs pos"] | None
) -> Shaped[Tensor, "*positions_and_place"]:
    return values if wanted is None else values[wanted]


def _mlp(block: Any, middle: Float[Tensor, "*positions d_model"]) -> Tensor:
    hidden = block.mlp.fc_in(block.ln2(middle))
    hidden = hidden.relu_() if block.mlp.act is F.relu else block.mlp.act(hidden)
    out: Tensor = block.mlp.fc_out(hidden)
    return out


def _heads(
    block: Any, before: Float[Tensor, "inputs pos d_model"], barred: Float[Tensor, "inputs 1 q k"]
) -> Float[Tensor, "inputs pos head d_head"]:
    """Return what the heads of a block give, before they are joined.

    Spelt out, for torch's softmax over a handful of keys takes longer than all the rest.
    """
    attention, normed = block.attn, block.ln1(before)
    shape = (*before.shape[:2], attention.n_heads, attention.d_head)
    q, k, v = (
        project(normed).view(shape).transpose(1, 2)
        for project in (attention.q, attention.k, attention.v)
    )
    scores = (q @ k.mT).div_(attention.scale).add_(barred)
    weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    z: Tensor = (weights @ v).div_(weights.sum(-1, keepdim=True))
    return z.transpose(1, 2)


def barred_keys(
    model: NativeModel, key_mask: Bool[Tensor, "inputs pos"]
) -> Float[Tensor, "inputs 1 q k"]:
    """Return what is added to attention scores: -inf where a query may not attend, else 0."""
    n_pos = key_mask.shape[1]
    may = key_mask[:, None, None, :]
    if model.cfg.attention_dir == "causal":
        may = may & torch.ones(n_pos, n_pos, dtype=torch.bool, device=key_mask.device).tril()
    return torch.zeros(may.shape, device=key_mask.device).masked_fill_(~may, -torch.inf)
