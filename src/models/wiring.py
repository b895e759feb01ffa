"""A model as a graph: nodes write into the residual stream, and each reader reads a sum of nodes.

An attention head, an MLP or the output reads the sum of the embeddings and of the outputs of all
earlier heads and MLPs. A head has three readers: its queries, its keys and its values. An edge is
one summand of one such sum. The model can be run again with some edges replaced by other values.

Shapes: `inputs` inputs, `pos` positions, `d_model` the residual's width, `node` nodes, `reader`
readers, `head` heads of a block, `e` a head's width, `stack` residual streams side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import NativeModel

from ..infra.errors import UserError
from .continuation import SIDES, without_hooks

EMBED, POSITIONS = "hook_embed", "hook_pos_embed"
HEAD, ATTENTION, MLP = "attn.hook_z", "hook_attn_out", "hook_mlp_out"
OUTPUT, MLP_IN = "hook_resid_post", "hook_mlp_in"
SAME = 1e-3  # largest error of the graph's logits, as a share of the largest logit


class Site(NamedTuple):
    """Where a head, an attention layer, an MLP or an embedding writes; embeddings have layer -1."""

    layer: int
    hook: str
    head: int | None = None

    @property
    def name(self) -> str:
        """The TransformerLens hook name, with a head's index in brackets."""
        at = "" if self.layer < 0 else f"blocks.{self.layer}."
        return f"{at}{self.hook}" + ("" if self.head is None else f"[{self.head}]")

    @property
    def label(self) -> str:
        """A short name: tokens, positions, 0.1 for a head, attention 0, mlp 0."""
        short = {
            EMBED: "tokens",
            POSITIONS: "positions",
            ATTENTION: f"attention {self.layer}",
            MLP: f"mlp {self.layer}",
        }
        return short.get(self.hook, f"{self.layer}.{self.head}")


@dataclass(frozen=True)
class Component:
    """What computes and can be ablated: a head, an attention layer, an MLP, or a set of these.

    `sites` are where its parts write. A single one has the name of its site.
    """

    name: str
    sites: tuple[Site, ...]

    @classmethod
    def of(cls, site: Site) -> Component:
        """Return the head, attention layer or MLP that writes at a site."""
        return cls(site.name, (site,))


def component_sites(bridge: TransformerBridge) -> list[Site]:
    """Return where every head, attention layer and MLP writes, in layer order."""
    sites = []
    for layer in range(bridge.cfg.n_layers):
        sites += [Site(layer, HEAD, head) for head in range(bridge.cfg.n_heads)]
        sites.append(Site(layer, ATTENTION))
        if not bridge.cfg.attn_only:
            sites.append(Site(layer, MLP))
    return sites


class Reader(NamedTuple):
    """A reader of the residual stream: a head's queries, keys or values, an MLP, or the output.

    It reads the first `nodes` nodes.
    """

    layer: int
    hook: str
    nodes: int
    head: int | None = None

    @property
    def name(self) -> str:
        """The hook name, with a head's index in brackets."""
        index = "" if self.head is None else f"[{self.head}]"
        return f"blocks.{self.layer}.{self.hook}{index}"

    @property
    def side(self) -> str:
        """The side of a head, q, k or v; empty for other readers."""
        return self.hook[5] if self.head is not None else ""

    @property
    def node(self) -> Site | None:
        """What it is read for; None for the output."""
        if self.hook == OUTPUT:
            return None
        return Site(self.layer, MLP if self.head is None else HEAD, self.head)

    @property
    def label(self) -> str:
        """A short name: 0.1 q, mlp 0, output."""
        return "output" if self.node is None else f"{self.node.label} {self.side}".rstrip()


class Edge(NamedTuple):
    """An edge of the graph: a reader and a node that it reads, by their numbers."""

    reader: int
    node: int


class _Layer(NamedTuple):
    """A block's parts: input weights [head, e, d_model], output weights [head, d_model, e]."""

    norm: Callable[[Tensor], Tensor]
    weights: dict[str, Tensor]
    biases: dict[str, Tensor]
    write: Tensor
    bias: Tensor
    mlp_norm: Callable[[Tensor], Tensor] | None
    mlp: Callable[[Tensor], Tensor] | None


@dataclass
class GraphRun:
    """What a run gave: the nodes' outputs, and the logits."""

    written: Float[Tensor, "node inputs pos d_model"]
    logits: Float[Tensor, "inputs pos classes"]


class Wiring:
    """A model's graph, and the model run with edges replaced.

    An attention layer's output bias belongs to no head and is never replaced.
    """

    def __init__(self, model: NativeModel | TransformerBridge):
        model = without_hooks(model)
        cfg = model.cfg
        self.n_heads, self.d_head, self.d_model = cfg.n_heads, cfg.d_head, cfg.d_model
        self.causal = cfg.attention_dir == "causal"
        native = isinstance(model, NativeModel)
        blocks = model.layers if native else model.blocks
        self._model = model
        self._read = _native if native else _bridged
        with torch.no_grad():
            self._layers = [self._read(block, self) for block in blocks]
        self.nodes, self.readers = self._graph()
        self.edges = [
            Edge(r, u) for r, reader in enumerate(self.readers) for u in range(reader.nodes)
        ]

    def _graph(self) -> tuple[list[Site], list[Reader]]:
        nodes = [Site(-1, EMBED)]
        if self._positions() is not None:
            nodes.append(Site(-1, POSITIONS))
        readers: list[Reader] = []
        for layer, block in enumerate(self._layers):
            count, heads = len(nodes), range(self.n_heads)
            readers += [
                Reader(layer, f"hook_{side}_input", count, head) for head in heads for side in SIDES
            ]
            nodes += [Site(layer, HEAD, head) for head in heads]
            if block.mlp is not None:
                readers.append(Reader(layer, MLP_IN, len(nodes)))
                nodes.append(Site(layer, MLP))
        readers.append(Reader(len(self._layers) - 1, OUTPUT, len(nodes)))
        return nodes, readers

    @cached_property
    def first_reader(self) -> list[int]:
        """The number of each block's first reader."""
        return [
            next(i for i, reader in enumerate(self.readers) if reader.layer == layer)
            for layer in range(len(self._layers))
        ]

    @cached_property
    def idle(self) -> list[bool]:
        """Whether each reader is idle: the weights after it are all zero."""
        unused = []
        for reader in self.readers:
            block, parts = self._layers[reader.layer], list[Tensor]()
            if reader.head is not None:
                parts = [block.weights[reader.side][reader.head], block.write[reader.head]]
            elif reader.hook == MLP_IN and isinstance(self._model, NativeModel):
                mlp: Any = self._model.layers[reader.layer].mlp
                parts = [mlp.fc_in.weight, mlp.fc_out.weight] if hasattr(mlp, "fc_in") else []
            unused.append(any(not bool(part.any()) for part in parts))
        return unused

    @property
    def native(self) -> NativeModel:
        """The model itself, which must be a NativeModel, whose weights have known names."""
        assert isinstance(self._model, NativeModel)
        return self._model

    def edge_label(self, edge: Edge) -> str:
        """Return an edge's short name: its node's and its reader's."""
        return f"{self.nodes[edge.node].label} -> {self.readers[edge.reader].label}"

    def edge_name(self, edge: Edge) -> str:
        """Return an edge's name: its node's and its reader's."""
        return f"{self.nodes[edge.node].name} -> {self.readers[edge.reader].name}"

    def _positions(self) -> Tensor | None:
        if isinstance(self._model, NativeModel):
            return None if self._model.pos is None else self._model.pos.weight
        embedding = getattr(self._model, "pos_embed", None)
        return None if embedding is None else self._model.W_pos

    def embedded(
        self, tokens: Int64[Tensor, "inputs pos"]
    ) -> Float[Tensor, "embedding inputs pos d_model"]:
        """Return the embeddings' outputs: of tokens, and of positions if the model has them."""
        native = isinstance(self._model, NativeModel)
        embed = self._model.tok_embed.weight if native else self._model.W_E
        parts, positions = [embed[tokens]], self._positions()
        if positions is not None:
            parts.append(positions[: tokens.shape[1]].expand_as(parts[0]))
        return torch.stack(parts)

    def run(
        self,
        tokens: Int64[Tensor, "inputs pos"],
        key_mask: Bool[Tensor, "inputs pos"],
        removed: Bool[Tensor, "reader node"] | None = None,
        other: Float[Tensor, "node inputs pos d_model"] | None = None,
        *,
        start: int = 0,
        before: Float[Tensor, "before inputs pos d_model"] | None = None,
        added: Float[Tensor, "reader inputs pos d_model"] | None = None,
        embeddings: Float[Tensor, "embedding inputs pos d_model"] | None = None,
    ) -> GraphRun:
        """Return what the model gives where readers get `other` values over the removed edges.

        The run begins at block `start`, with `before` as the outputs of all earlier nodes. `added`
        is added to the readers' inputs; `embeddings` replace the model's own.
        """
        mask = _attention_mask(key_mask, self.causal)
        own = self.embedded(tokens) if embeddings is None else embeddings
        written = [*own] if before is None else [*before]
        stream = torch.stack(written).sum(0)
        for block in self._layers[:start]:
            stream = stream + block.bias
        for layer, block in list(enumerate(self._layers))[start:]:
            first = self.first_reader[layer]
            readers = range(first, first + 3 * self.n_heads)
            given = self._reads(readers, stream, written, removed, other, added)
            heads = _heads(block, given, mask, self.d_head)
            written += [*heads]
            stream = stream + heads.sum(0) + block.bias
            if block.mlp is not None and block.mlp_norm is not None:
                mlp_reader = range(readers.stop, readers.stop + 1)
                (read,) = self._reads(mlp_reader, stream, written, removed, other, added)
                out = block.mlp(block.mlp_norm(read))
                written.append(out)
                stream = stream + out
        last = range(len(self.readers) - 1, len(self.readers))
        (read,) = self._reads(last, stream, written, removed, other, added)
        return GraphRun(torch.stack(written), self.unembedded(read))

    def _reads(
        self,
        readers: range,
        stream: Float[Tensor, "inputs pos d_model"],
        written: Sequence[Tensor],
        removed: Bool[Tensor, "reader node"] | None,
        other: Float[Tensor, "node inputs pos d_model"] | None,
        added: Float[Tensor, "reader inputs pos d_model"] | None,
    ) -> Float[Tensor, "stack inputs pos d_model"]:
        some = slice(readers.start, readers.stop)
        chosen = None if removed is None else removed[some, : len(written)]
        if chosen is not None and (other is None or not chosen.any()):
            chosen = None
        if chosen is None and added is None:
            return stream[None]  # all readers read the same
        reads = stream.expand(len(readers), *stream.shape)
        if chosen is not None and other is not None:
            asked = torch.nonzero(chosen.any(0))[:, 0].tolist()
            change = torch.stack([other[u] - written[u] for u in asked])
            reads = reads + torch.einsum("ru,unpd->rnpd", chosen[:, asked].to(change), change)
        return reads if added is None else reads + added[some]

    def stream(
        self, reader: int, written: Float[Tensor, "node inputs pos d_model"]
    ) -> Float[Tensor, "inputs pos d_model"]:
        """Return what a reader reads where nothing is removed."""
        entry = self.readers[reader]
        before = entry.layer + (entry.hook in (MLP_IN, OUTPUT))
        residual: Tensor = written[: entry.nodes].sum(0)
        for block in self._layers[:before]:
            residual = residual + block.bias
        return residual

    def unembedded(
        self, stream: Float[Tensor, "*stack pos d_model"]
    ) -> Float[Tensor, "*stack pos classes"]:
        """Return the logits of a residual stream after the last block."""
        if isinstance(self._model, NativeModel):
            native_logits: Tensor = self._model.head(self._model.ln_out(stream))
            return native_logits
        flat = stream.flatten(0, -3)
        logits: Tensor = self._model.unembed(self._model.ln_final(flat))
        return logits.reshape(*stream.shape[:-1], -1)

    def patched(
        self,
        reader: int,
        stream: Float[Tensor, "inputs pos d_model"],
        change: Float[Tensor, "stack inputs pos d_model"],
        intact: GraphRun,
        key_mask: Bool[Tensor, "inputs pos"],
    ) -> Float[Tensor, "stack inputs pos classes"]:
        """Return the logits for each of several changes of one reader's input.

        `stream` is the reader's input in the intact model. Only the later part is run.
        """
        given = self.changed_outputs(reader, stream, change, key_mask)
        return self.after(reader, stream, given, intact, key_mask)

    def after(
        self,
        reader: int,
        stream: Float[Tensor, "inputs pos d_model"],
        given: Float[Tensor, "stack inputs pos width"],
        intact: GraphRun,
        key_mask: Bool[Tensor, "inputs pos"],
    ) -> Float[Tensor, "stack inputs pos classes"]:
        """Return the logits where a reader's node writes something else."""
        entry = self.readers[reader]
        if entry.hook == OUTPUT:
            return given
        if entry.head is None:
            return self._rest(stream + given, entry.layer + 1, key_mask)
        first = entry.nodes  # of the nodes, the block's first head
        heads = intact.written[first : first + self.n_heads].sum(0)
        block = self._layers[entry.layer]
        middle = stream + heads + block.bias + (given - intact.written[first + entry.head])
        if block.mlp is not None and block.mlp_norm is not None:
            middle = middle + block.mlp(block.mlp_norm(middle))
        return self._rest(middle, entry.layer + 1, key_mask)

    def changed_outputs(
        self,
        reader: int,
        stream: Float[Tensor, "inputs pos d_model"],
        change: Float[Tensor, "stack inputs pos d_model"],
        key_mask: Bool[Tensor, "inputs pos"],
    ) -> Float[Tensor, "stack inputs pos width"]:
        """Return the output of a reader's node when the reader's input is changed.

        For the output reader, these are the logits. A head's other readers keep their intact input.
        """
        entry = self.readers[reader]
        if entry.hook == OUTPUT:
            return self.unembedded(stream + change)
        block = self._layers[entry.layer]
        if entry.head is None:
            assert block.mlp is not None
            assert block.mlp_norm is not None
            return block.mlp(block.mlp_norm(stream + change))

        def project(values: Tensor, side: str) -> Tensor:
            return values @ block.weights[side][entry.head].T + block.biases[side][entry.head]

        own, other = block.norm(stream), project(block.norm(stream + change), entry.side)
        sides = {side: project(own, side)[None] for side in SIDES}
        mask = _attention_mask(key_mask, self.causal)[:, 0]
        moved = (other != sides[entry.side]).flatten(1).any(1)  # the rest writes what it did
        sides[entry.side] = torch.cat([sides[entry.side], other[moved]])
        z = _attended(sides["q"], sides["k"], sides["v"], mask, self.d_head)
        given = z @ block.write[entry.head].T
        written = given[:1].repeat(len(change), 1, 1, 1)
        written[moved] = given[1:]
        return written

    def _rest(
        self,
        streams: Float[Tensor, "stack inputs pos d_model"],
        start: int,
        key_mask: Bool[Tensor, "inputs pos"],
    ) -> Float[Tensor, "stack inputs pos classes"]:
        """Return the logits of residual streams before a block."""
        mask = _attention_mask(key_mask, self.causal)
        for block in self._layers[start:]:
            normed = block.norm(streams)
            q, k, v = (
                torch.einsum("snpd,hed->snhpe", normed, block.weights[side])
                + block.biases[side][:, None]
                for side in SIDES
            )
            z = _attended(q, k, v, mask, self.d_head)
            streams = streams + torch.einsum("snhpe,hde->snpd", z, block.write) + block.bias
            if block.mlp is not None and block.mlp_norm is not None:
                streams = streams + block.mlp(block.mlp_norm(streams))
        return self.unembedded(streams)


def writing_sites(model: NativeModel | TransformerBridge, layer: int) -> list[Site]:
    """Return where every head, and the MLP if there is one, of a block writes."""
    sites = [Site(layer, HEAD, head) for head in range(model.cfg.n_heads)]
    return sites if model.cfg.attn_only else [*sites, Site(layer, MLP)]


def written_at(
    model: NativeModel | TransformerBridge,
    tokens: Int64[Tensor, "inputs pos"],
    key_mask: Bool[Tensor, "inputs pos"],
    sites: Sequence[Site],
) -> dict[str, Float[Tensor, "inputs pos d_model"]]:
    """Return what heads and MLPs write into the residual stream, by their sites' names."""
    wiring = Wiring(model)
    written = wiring.run(tokens, key_mask).written
    return {site.name: written[wiring.nodes.index(site)] for site in sites}


def wired(bridge: NativeModel | TransformerBridge, tokens: Tensor, key_mask: Tensor) -> Wiring:
    """Return the graph of a model, checked to give the model's own logits on some inputs.

    Raises:
        UserError: the model is not a transformer of plain pre-norm blocks, whose parts add up.
    """
    model = without_hooks(bridge)
    try:
        wiring = Wiring(model)
        with torch.inference_mode():
            ours = wiring.run(tokens, key_mask).logits
            theirs = model(tokens, attention_mask=key_mask)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise UserError(
            f"the model cannot be read as a graph ({type(error).__name__}: {error}): it must have "
            "plain blocks of attention and an MLP, and learned positions or none"
        ) from error
    off = (ours - theirs)[key_mask].abs().max()
    if not off <= SAME * theirs[key_mask].abs().max().clamp(min=1):
        raise UserError(
            f"the model's parts do not add up to its logits (off by {float(off):.2g}): it has "
            "parts other than plain attention heads, MLPs and learned positions"
        )
    return wiring


def _native(block: Any, wiring: Wiring) -> _Layer:
    """Return the parts of a NativeModel's block."""
    attention, heads = block.attn, (wiring.n_heads, wiring.d_head)
    sides = {side: getattr(attention, side) for side in SIDES}
    has_mlp = hasattr(block, "mlp")
    return _Layer(
        block.ln1,
        {side: module.weight.unflatten(0, heads) for side, module in sides.items()},
        {side: module.bias.unflatten(0, heads) for side, module in sides.items()},
        attention.o.weight.unflatten(1, heads).permute(1, 0, 2),
        attention.o.bias,
        block.ln2 if has_mlp else None,
        block.mlp if has_mlp else None,
    )


def _bridged(block: Any, wiring: Wiring) -> _Layer:
    """Return the parts of a block of any bridge; its modules take [batch, pos, d_model]."""
    attention = block.attn

    def stacked(module: Any) -> Callable[[Tensor], Tensor]:
        def run(values: Tensor) -> Tensor:
            output: Tensor = module(values.flatten(0, -3))
            return output.view_as(values)

        return run

    has_mlp = hasattr(block, "mlp")
    return _Layer(
        stacked(block.ln1),
        {side: getattr(attention, f"W_{side.upper()}").mT for side in SIDES},
        {side: getattr(attention, f"b_{side.upper()}") for side in SIDES},
        attention.W_O.mT,
        attention.b_O,
        stacked(block.ln2) if has_mlp else None,
        stacked(block.mlp) if has_mlp else None,
    )


def _attention_mask(
    key_mask: Bool[Tensor, "inputs pos"], causal: bool
) -> Bool[Tensor, "inputs 1 query key"]:
    """Return the keys that each query must not attend to."""
    n_pos = key_mask.shape[1]
    hidden = ~key_mask[:, None, None, :].expand(-1, 1, n_pos, -1)
    if causal:
        hidden = hidden | torch.ones(n_pos, n_pos, dtype=torch.bool, device=hidden.device).triu(1)
    return hidden


def _attended(
    q: Tensor, k: Tensor, v: Tensor, hidden: Bool[Tensor, "inputs *one query key"], width: int
) -> Tensor:
    """Return the heads' attended values, before the output projection."""
    scores = (q @ k.mT / width**0.5).masked_fill(hidden, -torch.inf)
    attended: Tensor = scores.softmax(-1) @ v
    return attended


def _heads(
    block: _Layer,
    given: Float[Tensor, "stack inputs pos d_model"],
    hidden: Bool[Tensor, "inputs 1 query key"],
    width: int,
) -> Float[Tensor, "head inputs pos d_model"]:
    """Return the outputs of a block's heads.

    `given` is one input for all heads, or one for each head's q, k and v.
    """
    normed = block.norm(given)
    shared = len(given) == 1
    reads = normed if shared else normed.view(-1, len(SIDES), *normed.shape[1:])
    pattern = "npd,hed->hnpe" if shared else "hnpd,hed->hnpe"
    q, k, v = (
        torch.einsum(pattern, reads[0] if shared else reads[:, i], block.weights[side])
        + block.biases[side][:, None, None]
        for i, side in enumerate(SIDES)
    )
    z = _attended(q, k, v, hidden[:, 0], width)
    return torch.einsum("hnpe,hde->hnpd", z, block.write)
