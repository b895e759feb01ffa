"""A model's graph of edges, against the model itself and against TransformerLens's hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import padded_tokens, saved_gpt2
from support.models import SHAPES, bridge_of
from torch import Tensor

from algomatch.analysis.base import MeasurementContext
from algomatch.infra.errors import UserError
from algomatch.models.foreign import load_gpt2
from algomatch.models.wiring import HEAD, MLP_IN, OUTPUT, Wiring, wired

KINDS = ["reference", *SHAPES]


@pytest.fixture(scope="module", params=KINDS)
def model(
    request: pytest.FixtureRequest, small: MeasurementContext
) -> tuple[Any, Wiring, MeasurementContext]:
    bridge = bridge_of(request.param, small)
    return bridge, wired(bridge, small.inputs.tokens, small.inputs.key_mask), small


def test_parts_add_up_to_the_models_logits(model: tuple[Any, Wiring, MeasurementContext]) -> None:
    bridge, wiring, small = model
    tokens, mask = small.inputs.tokens, small.inputs.key_mask
    run = wiring.run(tokens, mask)
    torch.testing.assert_close(run.logits[mask], bridge(tokens, attention_mask=mask)[mask])
    assert len(run.written) == len(wiring.nodes)
    assert len(wiring.edges) == sum(reader.nodes for reader in wiring.readers)


def test_what_nodes_write_is_what_the_hooks_see(
    model: tuple[Any, Wiring, MeasurementContext],
) -> None:
    bridge, wiring, small = model
    tokens, mask = small.inputs.tokens, small.inputs.key_mask
    run = wiring.run(tokens, mask)
    _, cache = bridge.run_with_cache(tokens, attention_mask=mask)
    for node, written in zip(wiring.nodes, run.written, strict=True):
        if node.hook == HEAD:
            z = cache[f"blocks.{node.layer}.attn.hook_z"][:, :, node.head]
            expected = z @ bridge.blocks[node.layer].attn.W_O[node.head]
        elif node.layer < 0:
            expected = cache[node.hook].expand_as(written)
        else:
            expected = cache[node.name]
        torch.testing.assert_close(written[mask], expected[mask], atol=1e-4, rtol=1e-4)


def by_hooks(
    bridge: Any, wiring: Wiring, reader: int, change: Tensor, small: MeasurementContext
) -> Tensor:
    """The logits where one reader's input is changed, by hooks on the reader's output."""
    chosen, tokens, mask = wiring.readers[reader], small.inputs.tokens, small.inputs.key_mask
    site = f"blocks.{chosen.layer}."
    _, cache = bridge.run_with_cache(tokens, attention_mask=mask)
    if chosen.hook == OUTPUT:
        logits: Tensor = bridge.unembed(bridge.ln_final(cache["ln_final.hook_in"] + change))
        return logits
    block = bridge.blocks[chosen.layer]
    if chosen.hook == MLP_IN:
        out: Tensor = block.mlp(block.ln2(cache[f"{site}ln2.hook_in"] + change))

        def replace(value: Tensor, hook: Any) -> Tensor:
            return out

        name = f"{site}mlp.hook_out"
    else:
        assert chosen.head is not None
        at = chosen.head
        weights = getattr(block.attn, f"W_{chosen.side.upper()}")[at]
        bias = getattr(block.attn, f"b_{chosen.side.upper()}")[at]
        read = block.ln1(cache[f"{site}ln1.hook_in"] + change) @ weights + bias
        width = weights.shape[1]

        def replace(value: Tensor, hook: Any) -> Tensor:
            value = value.clone()
            flat = value.flatten(2)  # heads side by side, for any shape that the hook sees
            flat[:, :, at * width : (at + 1) * width] = read
            return flat.reshape(value.shape)

        name = f"{site}attn.{chosen.side}.hook_out"
    hooked: Tensor = bridge.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=[(name, replace)])
    return hooked


def test_one_reader_that_reads_something_else_does_as_with_hooks(
    model: tuple[Any, Wiring, MeasurementContext],
) -> None:
    bridge, wiring, small = model
    tokens, mask = small.inputs.tokens, small.inputs.key_mask
    intact = wiring.run(tokens, mask)
    generator = torch.Generator().manual_seed(2)
    for reader in range(len(wiring.readers)):
        stream = wiring.stream(reader, intact.written)
        change = torch.randn(2, *stream.shape, generator=generator)
        patched = wiring.patched(reader, stream, change, intact, mask)
        for i in range(2):
            expected = by_hooks(bridge, wiring, reader, change[i], small)
            torch.testing.assert_close(
                patched[i][mask],
                expected[mask],
                atol=2e-3,
                rtol=1e-3,
                msg=str(wiring.readers[reader]),
            )


def test_removed_edges_are_what_patching_each_alone_is(
    model: tuple[Any, Wiring, MeasurementContext],
) -> None:
    _, wiring, small = model
    tokens, mask = small.inputs.tokens, small.inputs.key_mask
    intact = wiring.run(tokens, mask)
    other = intact.written.roll(1, dims=1)
    for edge in wiring.edges[::3]:
        removed = torch.zeros(len(wiring.readers), len(wiring.nodes), dtype=torch.bool)
        removed[edge] = True
        whole = wiring.run(tokens, mask, removed, other).logits
        stream = wiring.stream(edge.reader, intact.written)
        change = (other - intact.written)[edge.node][None]
        (alone,) = wiring.patched(edge.reader, stream, change, intact, mask)
        torch.testing.assert_close(whole[mask], alone[mask], atol=2e-3, rtol=1e-3)
        layer = wiring.readers[edge.reader].layer
        count = wiring.readers[wiring.first_reader[layer]].nodes
        later = wiring.run(
            tokens, mask, removed, other, start=layer, before=intact.written[:count]
        ).logits
        torch.testing.assert_close(later[mask], whole[mask], atol=2e-3, rtol=1e-3)


def test_with_every_edge_removed_only_what_replaces_them_counts(
    model: tuple[Any, Wiring, MeasurementContext],
) -> None:
    _, wiring, small = model
    tokens, mask = small.inputs.tokens, small.inputs.key_mask
    every = torch.ones(len(wiring.readers), len(wiring.nodes), dtype=torch.bool)
    other = torch.randn(
        len(wiring.nodes), *tokens.shape, wiring.d_model,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    removed = wiring.run(tokens, mask, every, other).logits
    two = wiring.run(tokens.roll(1, 0), mask, every, other).logits
    torch.testing.assert_close(removed[mask], two[mask], atol=1e-3, rtol=1e-3)


def test_a_gpt2_is_a_graph_too(tmp_path: Path) -> None:
    saved_gpt2(tmp_path)
    bridge = load_gpt2(tmp_path)
    tokens, mask = padded_tokens()
    wiring = wired(bridge, tokens, mask)
    torch.testing.assert_close(
        wiring.run(tokens, mask).logits[mask], bridge(tokens, attention_mask=mask)[mask],
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip
    assert [node.label for node in wiring.nodes[:3]] == ["tokens", "positions", "0.0"]


def test_a_model_whose_parts_do_not_add_up_is_refused(small: MeasurementContext) -> None:
    bridge = bridge_of("2L with LN", small)
    bridge.cfg.output_logits_soft_cap = 1.0
    model = bridge.original_model
    model.output_logits_soft_cap = 1.0
    with pytest.raises(UserError, match="do not add up to its logits"):
        wired(bridge, small.inputs.tokens, small.inputs.key_mask)


def test_names_are_hook_names_and_labels_are_short(small: MeasurementContext) -> None:
    wiring = wired(bridge_of("2L with LN", small), small.inputs.tokens, small.inputs.key_mask)
    names = {wiring.edge_label(edge): wiring.edge_name(edge) for edge in wiring.edges}
    assert names["tokens -> 0.1 q"] == "hook_embed -> blocks.0.hook_q_input[1]"
    assert names["1.0 -> mlp 1"] == "blocks.1.attn.hook_z[0] -> blocks.1.hook_mlp_in"
    assert names["mlp 0 -> output"] == "blocks.0.hook_mlp_out -> blocks.1.hook_resid_post"
