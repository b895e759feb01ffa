"""Explanations substituted into the model: right ones change nothing, wrong ones break it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.compiles import fast_compiles as fast_compiles
from support.models import SHAPES, bridge_of
from support.tasks import small_inputs

from algomatch.analysis.activations import record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.explain.attention_patterns import of_programs
from algomatch.analysis.explain.heads import HeadComparison, explain_heads
from algomatch.analysis.explain.neurons import explain_neurons
from algomatch.analysis.explain.position_features import cells, features, held_out
from algomatch.analysis.explain.substitution import (
    AT_MEAN,
    INTACT,
    NEURONS,
    SELECTORS,
    TABLES,
    UNIFORM,
    UNTOLD,
    UNTRAINED,
    NeuronValues,
    SubstitutedAccuracy,
    Variant,
    by_predicates,
    explained,
    logits_of,
    variants,
)
from algomatch.analysis.head_attention import PATTERN
from algomatch.analysis.measures.sparsity import ACTIVATIONS
from algomatch.config.schema import AnalysisConfig
from algomatch.models.bridges import plain_model
from algomatch.models.reference import build_reference
from algomatch.models.shapes import random_inits

CONFIG = AnalysisConfig(bootstrap=100)


@pytest.mark.parametrize("kind", ["reference", *SHAPES])
def test_own_patterns_and_activations_put_back_give_the_same_outputs(
    small: MeasurementContext, kind: str
) -> None:
    bridge, inputs = bridge_of(kind, small), small.inputs
    recording = record(bridge, inputs, 512)
    cfg = bridge.cfg
    patterns = {
        (layer, head): recording[f"blocks.{layer}.{PATTERN}"][:, head]
        for layer in range(cfg.n_layers)
        for head in range(cfg.n_heads)
    }
    neurons = {}
    if not cfg.attn_only:
        place = torch.arange(inputs.tokens.numel()).reshape(inputs.tokens.shape)
        for layer in range(cfg.n_layers):
            post = ACTIVATIONS[cfg.act_fn](recording[f"blocks.{layer}.mlp.hook_pre"])
            indices = torch.arange(post.shape[-1])
            neurons[layer] = NeuronValues(indices, post.flatten(0, 1), place)
    model = plain_model(bridge)
    for variant in (Variant("own", patterns), Variant("own", {}, neurons), Variant("nothing")):
        given = logits_of(model, inputs, variant)
        wanted = recording.logits[inputs.real]
        assert torch.allclose(given[inputs.real], wanted, atol=2e-4, rtol=1e-4)


def test_only_the_first_layers_are_replaced_up_to_one(small: MeasurementContext) -> None:
    anything = torch.zeros(1, 1, 1)
    values = NeuronValues(torch.arange(1), torch.zeros(1, 1), torch.zeros(1, 1).long())
    patterns = {(0, 0): anything, (1, 1): anything, (2, 0): anything}
    whole = Variant("all", patterns, {0: values, 2: values})
    assert [*whole.up_to(1).patterns] == [(0, 0), (1, 1)]
    assert [*whole.up_to(1).neurons] == [0]
    assert not whole.up_to(-1).patterns


def rows_of(program: str) -> dict[tuple[str, int], SubstitutedAccuracy]:
    inputs = small_inputs(program)
    bridge = build_reference(inputs).bridge
    recording = record(bridge, inputs, 512)
    known, judged = features(inputs), held_out(inputs, 0)
    places = cells(inputs, known)
    search = HeadComparison(inputs, known, judged, of_programs([(program, inputs)]), CONFIG)
    heads = explain_heads(recording, [], search)
    neurons = explain_neurons(recording, places, judged, CONFIG, effects=False)
    (untrained,) = (record(init, inputs, 512) for init in random_inits(bridge.cfg, 1, 0, "cpu"))
    theirs = (
        explain_heads(untrained, [], search).heads,
        explain_neurons(untrained, places, judged, CONFIG, effects=False),
        untrained,
    )
    chosen = variants(heads.heads, neurons, theirs, recording, places, judged)
    rows = explained(plain_model(bridge), inputs, judged, chosen)
    return {(row.variant, row.layer): row for row in rows}


@pytest.mark.parametrize("program", ["reverse", "hist", "sort"])
def test_an_explained_reference_is_right_on_every_input(program: str) -> None:
    rows = rows_of(program)
    last = max(layer for _, layer in rows)
    assert rows[INTACT, -1].exact.value == 1.0
    names = [SELECTORS, TABLES, NEURONS, f"{SELECTORS}, {NEURONS}", f"{TABLES}, {NEURONS}"]
    for name in names:
        for layer in range(last + 1):
            row = rows[name, layer]
            assert row.exact.value == row.held_out.value == row.token == 1.0, (name, layer)
            assert {share.value for share in row.by_length.values()} == {1.0}
            assert row.exact.low < 1.0 == row.exact.high
    for name in (UNIFORM, AT_MEAN, UNTRAINED):
        assert rows[name, last].exact.value < 0.5
    untold, looked_up = rows[f"{TABLES}, {UNTOLD}", last], rows[f"{UNIFORM}, {NEURONS}", last]
    if program == "hist":  # its neurons hold the output itself, a lookup table
        assert untold.exact.value < 0.5
        assert looked_up.exact.value == 1.0
    else:
        assert untold.exact.value == 1.0
        assert looked_up.exact.value < 0.5
    asked = small_inputs(program)
    assert rows[INTACT, -1].exact.n == len(asked)
    assert rows[INTACT, -1].held_out.n == int(held_out(asked, 0).sum())


def test_a_neuron_gives_its_mean_where_its_predicate_holds_and_where_not(
    small: MeasurementContext,
) -> None:
    inputs = small.inputs
    recording = record(bridge_of("1L gelu without LN", small), inputs, 512)
    places, judged = cells(inputs, features(inputs)), held_out(inputs, 0)
    neurons = explain_neurons(recording, places, judged, CONFIG, effects=False)
    values = by_predicates(neurons, recording, places, ~judged)[0]
    post = ACTIVATIONS["gelu"](recording["blocks.0.mlp.hook_pre"]).double().numpy()
    train = inputs.real.numpy() & ~judged.numpy()[:, None]
    given = values.by_cell[places.at.clamp(min=0)].numpy()
    for column, neuron in enumerate(neurons):
        assert values.indices[column] == neuron.index
        where = np.ones(train.shape, dtype=bool)
        if neuron.predicate is not None:
            where = neuron.predicate.holds(places.codes.numpy())[places.at.numpy()]
        for rows in (where & train, ~where & train):
            if rows.any():
                mean = post[rows, neuron.index].mean()
                assert given[rows, column] == pytest.approx(mean, abs=1e-5)
        bos = post[~judged.numpy(), 0, neuron.index].mean()
        if len({*where[:, 0].tolist()}) == 1:
            assert given[:, 0, column] == pytest.approx(bos, abs=1e-5)


def test_variants_have_the_means_of_the_inputs_that_are_not_judged(
    small: MeasurementContext,
) -> None:
    inputs = small.inputs
    recording = record(bridge_of("1L gelu without LN", small), inputs, 512)
    known, judged = features(inputs), held_out(inputs, 0)
    places = cells(inputs, known)
    search = HeadComparison(inputs, known, judged, (), CONFIG)
    heads = explain_heads(recording, [], search).heads
    neurons = explain_neurons(recording, places, judged, CONFIG, effects=False)
    (untrained,) = (record(init, inputs, 512) for init in random_inits(small.shape, 1, 0, "cpu"))
    theirs = explain_neurons(untrained, places, judged, CONFIG, effects=False)
    chosen = variants(heads, neurons, (heads, theirs, untrained), recording, places, judged)
    by_name = {variant.name: variant for variant in chosen}
    for name, explained_neurons, of, told in (
        (NEURONS, neurons, recording, True),
        (f"{TABLES}, {UNTOLD}", neurons, recording, False),
        (UNTRAINED, theirs, untrained, True),
    ):
        given = by_name[name].neurons[0].by_cell
        wanted = by_predicates(explained_neurons, of, places, ~judged, told)[0].by_cell
        everything = torch.ones_like(judged)
        others = by_predicates(explained_neurons, of, places, everything, told)[0].by_cell
        assert torch.equal(given, wanted)
        assert not torch.allclose(given, others, atol=1e-4)
