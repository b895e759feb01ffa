"""Compiled neurons are explained and noise is not. Effects agree with ablation."""

from __future__ import annotations

import math

import pytest
import torch
from support.compiles import fast_compiles as fast_compiles
from support.models import bridge_of, plain_weights, varied
from support.tasks import small_inputs

from algomatch.analysis.activations import Recording, record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.explain.neurons import (
    ALWAYS,
    NEVER,
    VARIES,
    NeuronExplanation,
    explain_neurons,
    share_explained,
)
from algomatch.analysis.explain.position_features import cells, features, held_out
from algomatch.analysis.measures.sparsity import rounding
from algomatch.config.schema import AnalysisConfig
from algomatch.data.inputs import InputSet
from algomatch.models.bridges import make_bridge
from algomatch.models.reference import build_reference

CONFIG = AnalysisConfig(bootstrap=100)


def explained(recording: Recording, effects: bool = True) -> list[NeuronExplanation]:
    inputs = recording.inputs
    places = cells(inputs, features(inputs))
    return explain_neurons(recording, places, held_out(inputs, 0), CONFIG, effects=effects)


def recorded(inputs: InputSet) -> Recording:
    return record(build_reference(inputs).bridge, inputs, 512)


@pytest.mark.parametrize("program", ["reverse", "hist", "sort"])
def test_every_neuron_of_a_reference_that_varies_is_explained(program: str) -> None:
    recording = recorded(small_inputs(program))
    neurons = explained(recording)
    share, n = share_explained(neurons)
    assert n > 4
    assert share == 1.0
    for neuron in neurons:
        if neuron.state == VARIES:
            assert neuron.accuracy == neuron.low == neuron.high == 1.0
            assert neuron.text
    floors = [neuron.floor for neuron in neurons if not math.isnan(neuron.floor)]
    assert sum(floors) / len(floors) == pytest.approx(0.5, abs=0.08)


def test_one_that_is_too_rare_to_be_held_out_is_judged_on_all_and_marked() -> None:
    inputs = small_inputs("hist")
    four = (inputs.variables["hist"].codes == 3).any(1)  # one token occurs four times
    places, judged = cells(inputs, features(inputs)), held_out(inputs, 0) & ~four
    explanations = explain_neurons(recorded(inputs), places, judged, CONFIG, effects=False)
    neurons = [neuron for neuron in explanations if neuron.state == VARIES]
    rare = [neuron for neuron in neurons if neuron.rare]
    assert {neuron.text for neuron in rare} == {"hist <= 3"}
    assert len(rare) < len(neurons)
    assert all(neuron.explained for neuron in neurons)


@pytest.fixture(scope="module")
def learned(small: MeasurementContext) -> tuple[Recording, list[NeuronExplanation]]:
    recording = record(bridge_of("1L gelu without LN", small), small.inputs, 512)
    return recording, explained(recording)


def test_a_predicate_says_what_the_neuron_does_in_the_reference(small: MeasurementContext) -> None:
    recording = record(small.reference.bridge, small.inputs, 512)
    places = cells(small.inputs, features(small.inputs))
    for neuron in explained(recording, effects=False):
        pre = recording[f"blocks.{neuron.layer}.mlp.hook_pre"][..., neuron.index]
        on = pre > rounding(small.reference.bridge, neuron.layer)[neuron.index]
        listed = on[small.inputs.real]
        assert neuron.share == pytest.approx(float(listed.double().mean()))
        if neuron.state == VARIES:
            assert neuron.predicate is not None
            holds = torch.from_numpy(neuron.predicate.holds(places.codes.numpy()))[places.at]
            assert (holds == on)[small.inputs.real].all()
            post = pre.clamp(min=0)[small.inputs.real]
            assert neuron.on == pytest.approx(float(post[listed].mean()), rel=1e-4)
            assert neuron.off == pytest.approx(0.0, abs=1e-3)
        else:
            assert neuron.state == (ALWAYS if listed.all() else NEVER)
            assert not neuron.explained


def test_in_the_last_layer_without_a_norm_all_effect_is_direct(
    learned: tuple[Recording, list[NeuronExplanation]],
) -> None:
    recording, neurons = learned
    bridge = recording.bridge
    weights = plain_weights(bridge)
    doing = [neuron for neuron in neurons if neuron.state != NEVER]
    assert len(doing) > 10
    for neuron in doing:
        assert neuron.effect is not None
        assert neuron.effect.correlation == pytest.approx(1.0, abs=1e-3)
        assert neuron.effect.ratio == pytest.approx(1.0, abs=1e-3)
        out = weights["layers.0.mlp.fc_out.weight"][:, neuron.index]
        added = weights["head.weight"] @ out
        added = added - added.mean()
        same = torch.nn.functional.cosine_similarity(
            added, torch.tensor(neuron.effect.direct, dtype=torch.float32), dim=0
        )
        assert abs(float(same)) == pytest.approx(1.0, abs=1e-3)


def test_a_last_norm_is_kept_at_its_scale(small: MeasurementContext) -> None:
    recording = record(bridge_of("2L with LN", small), small.inputs, 512)
    inputs, weights = small.inputs, plain_weights(recording.bridge)
    last = [
        neuron for neuron in explained(recording) if neuron.layer == 1 and neuron.effect is not None
    ]
    assert len(last) > 10
    stream = recording["blocks.1.hook_resid_post"].double()
    scale = (stream.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    for neuron in last[:8]:
        pre = recording["blocks.1.mlp.hook_pre"][..., neuron.index]
        change = pre.clamp(min=0) - (neuron.off if neuron.state == VARIES else 0.0)
        out = change[..., None] * weights["layers.1.mlp.fc_out.weight"][:, neuron.index]
        without = (stream - out) - (stream - out).mean(-1, keepdim=True)
        intact = stream - stream.mean(-1, keepdim=True)
        lost = (intact - without) / scale * weights["ln_out.weight"]
        logits = lost @ weights["head.weight"].double().T
        where = (pre > rounding(recording.bridge, 1)[neuron.index]) & inputs.defined
        wanted = (logits - logits.mean(-1, keepdim=True))[where].mean(0)
        assert neuron.effect is not None
        assert neuron.effect.direct == pytest.approx(tuple(wanted.tolist()), abs=1e-4)
    assert len(inputs) <= 200  # few enough that all inputs are used
    figures = sorted(neuron.effect.correlation for neuron in last if neuron.effect is not None)
    assert figures[len(figures) // 2] > 0.9


def test_what_switching_off_costs_is_the_loss_of_the_model_without_the_neuron(
    learned: tuple[Recording, list[NeuronExplanation]],
) -> None:
    recording, neurons = learned
    inputs, bridge = recording.inputs, recording.bridge
    neuron = max(neurons, key=lambda each: abs(each.effect.loss) if each.effect else 0.0)
    assert neuron.effect is not None
    weights = plain_weights(bridge)
    bias = weights["layers.0.mlp.fc_out.bias"]
    off = 0.0 if math.isnan(neuron.off) or neuron.state == ALWAYS else neuron.off
    bias += off * weights["layers.0.mlp.fc_out.weight"][:, neuron.index]
    weights["layers.0.mlp.fc_out.weight"][:, neuron.index] = 0.0
    without = record(make_bridge(varied(bridge.cfg), weights), inputs, 512)

    def loss(of: Recording) -> float:
        given = inputs.output.loss(of.logits.double(), inputs.targets)
        return float(given.sum() / inputs.defined.sum())

    assert len(inputs) <= 200  # few enough that all inputs are used
    assert neuron.effect.loss == pytest.approx(loss(without) - loss(recording), abs=1e-4)


def test_always_on_and_dead_neurons_are_named(small: MeasurementContext) -> None:
    bridge = bridge_of("1L gelu without LN", small)
    weights = plain_weights(bridge)
    weights["layers.0.mlp.fc_in.bias"][:2] = torch.tensor([100.0, -100.0])
    neurons = explained(record(make_bridge(varied(bridge.cfg), weights), small.inputs, 512))
    assert [neuron.state for neuron in neurons[:2]] == [ALWAYS, NEVER]
    assert [neuron.text for neuron in neurons[:2]] == ["always", "never"]
    assert neurons[1].effect is None
    assert not any(neuron.explained for neuron in neurons[:2])


def test_what_varies_at_bos_only_is_explained_by_what_is_known_there() -> None:
    inputs = small_inputs("most_freq")
    recording = recorded(inputs)
    name = "blocks.0.mlp.hook_pre"
    pre = recording[name].clone()
    index = 0
    assert explained(recording, effects=False)[index].index == index
    pre[..., index] = -1.0
    pre[inputs.lengths >= 3, 0, index] = 1.0
    made = Recording(
        recording.bridge, inputs, recording.logits, {**recording.activations, name: pre}
    )
    neuron = explained(made, effects=False)[index]
    assert neuron.state == VARIES
    assert neuron.share == 0
    assert neuron.explained
    assert "length > 2" in neuron.text
    assert neuron.bos[0] > 0


def test_a_model_with_attention_only_has_none(small: MeasurementContext) -> None:
    assert explained(record(bridge_of("attn_only", small), small.inputs, 512)) == []


def test_noise_is_not_explained(small: MeasurementContext) -> None:
    recording = record(bridge_of("1L gelu without LN", small), small.inputs, 512)
    generator = torch.Generator().manual_seed(3)
    name = "blocks.0.mlp.hook_pre"
    noise = torch.randn(recording[name].shape, generator=generator)
    made = Recording(
        recording.bridge, small.inputs, recording.logits, {**recording.activations, name: noise}
    )
    neurons = explained(made, effects=False)
    assert share_explained(neurons) == (0.0, len(neurons))
    assert sum(neuron.accuracy for neuron in neurons) / len(neurons) == pytest.approx(0.5, abs=0.05)
