"""A model run again with some outputs replaced, from the first replaced site on.

An ablated model shares everything before that site with the intact one, so the recorded
activations stand in for it. What comes after runs on a plain NativeModel, without hooks, a few
inputs at a time, so that they stay in the processor's cache, and those of one length together, so
that there is no padding. (The bridge's own `start_at_layer` runs the earlier blocks all the same.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import NativeModel

from ...data.inputs import InputSet
from ...models.bridges import plain_model
from ...models.wiring import ATTENTION, HEAD, MLP, Component, Site
from ..ablation_names import KINDS
from ..activations import Recording, Source, has_mlp
from .accuracy import Outcome, joined, outcome, side_by_side

POSITIONS_AT_ONCE = 6144  # of a run: small enough for the cache, large enough for the cores
Fill = Callable[[str], Tensor]  # hook name to the values that replace its own
Replacement = tuple[tuple[Site, ...], str]  # what is replaced, and by which kind of ablation


class Means:
    """The mean of what each site gives, at each position over the inputs that reach it."""

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

    def __getitem__(self, name: str) -> Float[Tensor, "pos *site"]:
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
    by_kind = {"resample_within": Donors(torch.from_numpy(within), same)}
    if len(present) > 1:
        across = np.empty(len(inputs), dtype=np.int64)
        for length, rows in of.items():
            others = generator.choice(present[present != length], size=len(rows))
            for other in present[present != length]:
                chosen = rows[others == other]
                across[chosen] = generator.choice(of[int(other)], size=len(chosen))
        drawn = torch.from_numpy(across)
        positions = _wrapped(inputs.lengths, inputs.lengths[drawn], same)
        by_kind["resample_across"] = Donors(drawn, positions)
    return by_kind


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
        amounting = [self._run(component.sites, kind) for component, kind in wanted]
        runs = list(dict.fromkeys(amounting))
        kinds = list(dict.fromkeys(kind for _, kind in runs))
        outcomes, order = [], []
        for rows, part in self._source.parts():
            given = {
                kind: (self._source.at(donors.rows[rows]), donors.positions[rows])
                for kind, donors in self._donors.items()
                if kind in kinds
            }
            for chunk in _chunks(part.inputs):
                fills = {kind: self._fill(kind, chunk, given.get(kind)) for kind in kinds}
                outcomes.append(self._outcomes(runs, part, chunk, fills))
                order.append(chunk.rows + rows.start)
        whole = joined(outcomes).over(torch.argsort(torch.cat(order)))
        return whole.columns([runs.index(run) for run in amounting])

    def _run(self, sites: tuple[Site, ...], kind: str) -> Replacement:
        """Return what an ablation amounts to: all heads of a layer are its attention layer.

        Unless they are put to zero, for the layer has a bias of its own.
        """
        if kind == "zero":
            return sites, kind
        heads = Counter(site.layer for site in sites if site.hook == HEAD)
        full = {layer for layer, n in heads.items() if n == self._model.cfg.n_heads}
        rest = [site for site in sites if not (site.hook == HEAD and site.layer in full)]
        return (*rest, *(Site(layer, ATTENTION) for layer in sorted(full))), kind

    def _outcomes(
        self, runs: Sequence[Replacement], part: Recording, chunk: Chunk, fills: Mapping[str, Fill]
    ) -> Outcome:
        output, targets = part.inputs.output, chunk.of(part.inputs.targets)
        defined = output.defined(targets).any(0)
        asked = torch.nonzero(defined)[:, 0].tolist() or [0]
        wanted = slice(asked[0], asked[-1] + 1)
        recorded = self._kept(lambda name: chunk.of(part[name]))
        return side_by_side(
            outcome(
                rerun(self._model, recorded, sites, fills[kind], wanted).cpu(),
                targets[:, wanted],
                output,
            )
            for sites, kind in runs
        )

    def _fill(
        self, kind: str, chunk: Chunk, given: tuple[Recording, Int64[Tensor, "inputs pos"]] | None
    ) -> Fill:
        def resampled(name: str) -> Tensor:
            assert given is not None
            recording, positions = given
            return recording[name][chunk.rows[:, None], chunk.of(positions)]

        def constant(name: str) -> Tensor:
            mean = self._means[name][: chunk.positions]
            return mean if kind == "mean" else torch.zeros_like(mean)

        return self._kept(constant if given is None else resampled)

    def _kept(self, values: Fill) -> Fill:
        """Return what keeps the values on the model's device."""
        device, kept = self._source.bridge.cfg.device, dict[str, Tensor]()

        def get(name: str) -> Tensor:
            if name not in kept:
                kept[name] = values(name).to(device)
            return kept[name]

        return get


class Chunk(NamedTuple):
    """Inputs of one length, and how many positions they have without padding."""

    rows: Int64[Tensor, " inputs"]
    positions: int

    def of(self, values: Shaped[Tensor, "all all_pos *site"]) -> Shaped[Tensor, "inputs pos *site"]:
        """Return these inputs' values."""
        return values[self.rows, : self.positions]


def _chunks(inputs: InputSet) -> Iterator[Chunk]:
    """Yield the inputs of each length, a few at a time."""
    for length in torch.unique(inputs.lengths).tolist():
        rows = torch.nonzero(inputs.lengths == length)[:, 0]
        for some in torch.split(rows, max(1, POSITIONS_AT_ONCE // (length + 1))):
            yield Chunk(some, length + 1)


def rerun(
    model: NativeModel,
    recorded: Fill,
    sites: tuple[Site, ...],
    fill: Fill,
    wanted: slice = slice(None),
) -> Float[Tensor, "inputs wanted classes"]:
    """Return the logits at the wanted positions with some sites' outputs replaced by `fill`.

    `recorded` gives the intact model's activations by hook name, on inputs of one length and
    without padding; `fill` gives as many, or one for all inputs. The last block does the wanted
    positions alone.
    """
    first = min(site.layer for site in sites)
    residual = torch.empty(0)
    for layer, block in list(enumerate(model.layers))[first:]:
        intact, at = layer == first, f"blocks.{layer}."
        here = [site for site in sites if site.layer == layer]
        hooks = {site.hook for site in here}
        heads = [site.head for site in here if site.hook == HEAD]
        some = wanted if block is model.layers[-1] else slice(None)
        before = recorded(f"{at}hook_resid_pre") if intact else residual
        if ATTENTION in hooks:
            middle = before[:, some] + fill(f"{at}{ATTENTION}")[..., some, :]
        elif intact:  # what the heads give is recorded: only what they give else is added
            after = "hook_resid_post" if model.cfg.attn_only else "hook_resid_mid"
            middle = recorded(f"{at}{after}")[:, some]
            if heads:
                z, other = recorded(f"{at}{HEAD}"), fill(f"{at}{HEAD}")
                change = other[..., some, heads, :] - z[:, some, heads]
                middle = middle + change.flatten(-2) @ _columns(block.attn, heads).T
        else:
            z = _heads(block, before, some, model.cfg.attention_dir == "causal")
            if heads:
                z[:, :, heads] = fill(f"{at}{HEAD}")[..., some, heads, :]
            middle = before[:, some] + block.attn.o(z.flatten(-2))
        if MLP in hooks:
            residual = middle + fill(f"{at}{MLP}")[..., some, :]
        elif model.cfg.attn_only:
            residual = middle
        else:
            residual = middle + _mlp(block, middle)
    logits: Tensor = model.head(model.ln_out(residual))
    return logits


def _columns(attention: Any, heads: Sequence[int | None]) -> Float[Tensor, "d_model site"]:
    """Return the output weights of some heads."""
    weights = attention.o.weight.unflatten(1, (attention.n_heads, attention.d_head))
    columns: Tensor = weights[:, heads].flatten(1)
    return columns


def _mlp(block: Any, middle: Float[Tensor, "inputs pos d_model"]) -> Tensor:
    hidden = block.mlp.fc_in(block.ln2(middle))
    hidden = hidden.relu_() if block.mlp.act is F.relu else block.mlp.act(hidden)
    out: Tensor = block.mlp.fc_out(hidden)
    return out


def _heads(
    block: Any, before: Float[Tensor, "inputs pos d_model"], wanted: slice, causal: bool
) -> Float[Tensor, "inputs wanted head d_head"]:
    """Return what the heads of a block give at the wanted positions, before they are joined.

    Spelt out, for torch's softmax over a handful of keys takes longer than all the rest.
    """
    attention, normed = block.attn, block.ln1(before)

    def by_head(project: Any, values: Tensor) -> Tensor:
        split: Tensor = project(values).unflatten(-1, (attention.n_heads, attention.d_head))
        return split.transpose(1, 2)

    q = by_head(attention.q, normed[:, wanted].contiguous())
    k, v = by_head(attention.k, normed), by_head(attention.v, normed)
    scores = (q @ k.mT).div_(attention.scale)
    if causal:
        n_pos = before.shape[1]
        later = torch.ones(n_pos, n_pos, dtype=torch.bool, device=before.device).triu(1)
        scores.masked_fill_(later[wanted], -torch.inf)
    weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    z: Tensor = (weights @ v).div_(weights.sum(-1, keepdim=True))
    return z.transpose(1, 2)
