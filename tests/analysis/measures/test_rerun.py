"""Reruns with replaced outputs, against full passes with TransformerLens hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.models import SHAPES, bridge_of, trained_looking, varied

from algomatch.analysis.ablation_names import KINDS
from algomatch.analysis.activations import Recording, Streamed, record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measures import rerun as module
from algomatch.analysis.measures.accuracy import Outcome, outcome
from algomatch.analysis.measures.redundancy import joint_sets
from algomatch.analysis.measures.rerun import Donors, Means, Rerun, donors, rerun
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.data.inputs import InputSet
from algomatch.data.tasks import PAD
from algomatch.models.bridges import make_bridge, plain_model
from algomatch.models.wiring import ATTENTION, HEAD, MLP, Component, Site, component_sites

Fill = Callable[[NDArray[Any]], NDArray[Any]]
TASKS: dict[str, tuple[str, ...]] = {
    "a number": ("task=frac_prevs", "task.vocabulary=[a,b]", "task.max_length=4"),
    "causal": ("task=previous_token", "task.vocabulary=[a,b]", "task.max_length=4"),
    "undefined positions": ("task=shift_by", "task.vocabulary=[a,b]", "task.max_length=4"),
}
SMALL = ("model=2L", "model.d_model=16", "model.n_heads=2", "analysis.bootstrap=20")


@pytest.fixture(scope="module")
def of_tasks() -> dict[str, MeasurementContext]:
    return {name: prepare(compose([*task, *SMALL])) for name, task in TASKS.items()}


@pytest.fixture(
    scope="module", params=["reference", *SHAPES, *(f"{task}, {of}" for task in TASKS
                                                    for of in ("reference", "2L with LN"))],
)  # fmt: skip
def recording(
    request: pytest.FixtureRequest,
    small: MeasurementContext,
    of_tasks: dict[str, MeasurementContext],
) -> Recording:
    """A recording of each kind of model, on lists of mixed lengths."""
    task, _, kind = request.param.rpartition(", ") if "," in request.param else ("", "", "")
    if task not in TASKS:
        return record(bridge_of(request.param, small), small.inputs, 2048)
    return record(bridge_of(kind, of_tasks[task]), of_tasks[task].inputs, 2048)


def every_component(bridge: Any) -> list[Component]:
    """Single components, the joint sets, and a set across kinds and layers."""
    components = [*map(Component.of, component_sites(bridge)), *joint_sets(bridge)]
    last = bridge.cfg.n_layers - 1
    mixed = [Site(0, HEAD, 0), Site(last, HEAD, bridge.cfg.n_heads - 1)]
    mixed += [] if bridge.cfg.attn_only else [Site(0, MLP), Site(last, MLP)]
    return [*components, Component("mixed", tuple(dict.fromkeys(mixed)))]


def filled_by_hand(kind: str, inputs: InputSet, given: dict[str, Donors]) -> Fill:
    """Replace recorded values, in loops over inputs and positions."""
    lengths = inputs.lengths.tolist()

    def fill(values: NDArray[Any]) -> NDArray[Any]:
        filled = np.zeros_like(values)
        for row in range(len(values)) if kind.startswith("resample") else ():
            donor = int(given[kind].rows[row])
            for position in range(1, values.shape[1]):
                within = position <= lengths[row]
                if kind == "resample_within":
                    filled[row, position] = values[donor, position]
                else:
                    wrapped = (position - 1) % lengths[donor] + 1 if within else 0
                    filled[row, position] = values[donor, wrapped]
            filled[row, 0] = values[donor, 0]
        for position in range(values.shape[1]) if kind == "mean" else ():
            reach = np.array(lengths) >= position
            filled[:, position] = values[reach, position].astype(np.float64).mean(0)
        return filled

    return fill


def hooked(
    bridge: Any, inputs: InputSet, component: Component, fill: Fill, cache: Any
) -> torch.Tensor:
    """The outputs of a full pass with a hook at each site of a component."""
    hooks = []
    for site in component.sites:
        filled = torch.from_numpy(fill(cache[f"blocks.{site.layer}.{site.hook}"].numpy()))
        hooks.append((f"blocks.{site.layer}.{site.hook}", putting(filled, site.head)))
    with torch.inference_mode():
        outputs: torch.Tensor = bridge.run_with_hooks(
            inputs.tokens, attention_mask=inputs.key_mask, fwd_hooks=hooks
        )
    return outputs


def putting(filled: torch.Tensor, head: int | None) -> Callable[[torch.Tensor, Any], torch.Tensor]:
    def put(value: torch.Tensor, hook: Any) -> torch.Tensor:
        assert value.shape == filled.shape
        if head is None:
            return filled
        value = value.clone()
        value[:, :, head] = filled[:, :, head]
        return value

    return put


def means_of(source: Recording | Streamed) -> Means:
    means = Means(source.bridge)
    for _, part in source.parts():
        means.add(part)
    return means


def outcomes(
    source: Recording | Streamed, seed: int, components: Sequence[Component]
) -> tuple[list[tuple[Component, str]], Outcome]:
    again = Rerun(source, means_of(source), donors(source.inputs, seed))
    runs = [(component, kind) for component in components for kind in again.kinds]
    return runs, again.outcomes(runs)


def test_every_ablation_of_every_kind_is_what_hooks_by_hand_do(recording: Recording) -> None:
    bridge, inputs = recording.bridge, recording.inputs
    _, cache = bridge.run_with_cache(inputs.tokens, attention_mask=inputs.key_mask)
    given = donors(inputs, 3)
    runs, ablations = outcomes(recording, 3, every_component(bridge))
    assert {kind for _, kind in runs} == set(KINDS)
    moved = set()
    for i, (component, kind) in enumerate(runs):
        fill = filled_by_hand(kind, inputs, given)
        wanted = outcome(
            hooked(bridge, inputs, component, fill, cache), inputs.targets, inputs.output
        )
        got = Outcome(*(getattr(ablations, n)[:, i] for n in ("exact", "correct", "loss", "count")))
        assert torch.equal(got.exact, wanted.exact), (component.name, kind)
        assert torch.equal(got.correct, wanted.correct), (component.name, kind)
        assert torch.equal(got.count, wanted.count)
        scale = max(1.0, float(wanted.loss.max()))
        assert float((got.loss - wanted.loss).abs().max()) < 5e-6 * scale, (component.name, kind)
        assert got.means()["loss"] == pytest.approx(wanted.means()["loss"], abs=1e-6 * scale)
        intact = outcome(recording.logits, inputs.targets, inputs.output)
        moved |= {kind} if abs(got.means()["loss"] - intact.means()["loss"]) > 1e-3 else set()
    assert moved == set(KINDS)


def test_whatever_is_put_in_the_outputs_are_those_of_hooks(recording: Recording) -> None:
    bridge, inputs = recording.bridge, recording.inputs
    model, generator = plain_model(bridge), np.random.default_rng(0)
    noise = {
        name: generator.normal(size=value.shape).astype(np.float32)
        for name, value in recording.activations.items()
    }
    changed = 0
    for component in every_component(bridge):
        hooks = [
            (name, putting(torch.from_numpy(noise[name]), site.head))
            for site in component.sites
            if (name := f"blocks.{site.layer}.{site.hook}")
        ]
        with torch.inference_mode():
            outputs = bridge.run_with_hooks(
                inputs.tokens, attention_mask=inputs.key_mask, fwd_hooks=hooks
            )
        scale = max(1.0, float(outputs.abs().max()))
        for length in inputs.task.lengths:
            rows, some = inputs.rows("all", length), slice(0, length + 1)
            values = {name: torch.from_numpy(noise[name])[rows, some] for name in noise}
            for wanted in (slice(None), slice(length // 2, length)):
                with torch.inference_mode():
                    got = rerun(
                        model,
                        lambda name: recording[name][rows, some],  # noqa: B023
                        component.sites,
                        values.__getitem__,
                        wanted,
                    )
                apart = got - outputs[rows, some][:, wanted]
                assert float(apart.abs().max()) < 1e-5 * scale, (component.name, length, wanted)
        real = inputs.key_mask
        changed += not torch.allclose(outputs[real], recording.logits[real], atol=1e-2)
    assert changed > len(every_component(bridge)) // 2  # some components of the reference are empty


def test_streamed_outcomes_are_those_of_the_whole(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    components = every_component(recording.bridge)
    _, whole = outcomes(recording, 1, components)
    monkeypatch.setattr(module, "POSITIONS_AT_ONCE", 40)
    _, parts = outcomes(Streamed(recording.bridge, recording.inputs, 50), 1, components)
    for name in ("exact", "correct", "count"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name
    scale = max(1.0, float(whole.loss.max()))
    assert float((parts.loss - whole.loss).abs().max()) < 5e-6 * scale


def test_the_plain_model_gives_the_bridges_outputs(recording: Recording) -> None:
    model, inputs = plain_model(recording.bridge), recording.inputs
    with torch.inference_mode():
        outputs = model(inputs.tokens, attention_mask=inputs.key_mask)
    scale = max(1.0, float(recording.logits.abs().max()))
    torch.testing.assert_close(outputs, recording.logits, atol=1e-6 * scale, rtol=0)


def test_every_head_attention_layer_and_mlp_has_a_site(recording: Recording) -> None:
    cfg, listed = recording.bridge.cfg, component_sites(recording.bridge)
    wanted = []
    for layer in range(cfg.n_layers):
        wanted += [f"blocks.{layer}.attn.hook_z[{head}]" for head in range(cfg.n_heads)]
        wanted += [f"blocks.{layer}.hook_attn_out"]
        wanted += [] if cfg.attn_only else [f"blocks.{layer}.hook_mlp_out"]
    assert [site.name for site in listed] == wanted
    for site in listed:
        assert site.name.partition("[")[0] in recording.bridge.hook_dict
        assert Component.of(site) == Component(site.name, (site,))


def test_in_a_causal_model_later_tokens_do_not_reach_back_through_an_ablation(
    small: MeasurementContext,
) -> None:
    shape, inputs = varied(small.shape, attention_dir="causal"), small.inputs
    recording = record(make_bridge(shape, trained_looking(shape)), inputs, 2048)
    model, rows = plain_model(recording.bridge), inputs.rows("all", 4)
    first_same = (inputs.tokens[rows][:, None, :3] == inputs.tokens[rows][None, :, :3]).all(-1)
    means = means_of(recording)
    for component in every_component(recording.bridge):
        for fill in (means.__getitem__, lambda name: torch.zeros(recording[name].shape[1:])):
            with torch.inference_mode():
                logits = rerun(
                    model,
                    lambda name: recording[name][rows, :5],
                    component.sites,
                    lambda name: fill(name)[:5],  # noqa: B023
                )[:, :3]
            apart = (logits[:, None] - logits[None]).abs().amax((-1, -2))
            assert apart[first_same].max() < 1e-5
            assert apart.max() > 0.1


def by_hand(
    values: list[list[float]], mask: list[list[bool]], small: MeasurementContext
) -> Recording:
    """A recording of a one-layer model with the given values at every site."""
    shape = varied(small.shape, n_layers=1, n_heads=1, d_head=1)
    held = torch.tensor(values)[..., None]
    inputs = small.inputs.at(slice(0, len(values)))
    inputs = type(inputs)(**{**vars(inputs), "key_mask": torch.tensor(mask)})
    activations = {
        f"blocks.0.{HEAD}": held[..., None], f"blocks.0.{ATTENTION}": held, f"blocks.0.{MLP}": held
    }  # fmt: skip
    return Recording(make_bridge(shape), inputs, torch.zeros(1, 1, 1), activations)


def test_the_mean_is_over_the_inputs_that_reach_a_position(small: MeasurementContext) -> None:
    values = [[1.0, 2, 90, 7, 7], [3.0, 80, 70, 7, 7], [5.0, 4, 60, 7, 7]]
    lengths = [1, 0, 1]
    mask = [[position <= length for position in range(5)] for length in lengths]
    shape = varied(small.shape, n_layers=1, n_heads=1, d_head=1)
    whole, parts = Means(make_bridge(shape)), Means(make_bridge(shape))
    whole.add(by_hand(values, mask, small))
    for row in range(3):
        parts.add(by_hand(values[row : row + 1], mask[row : row + 1], small))
    for means in (whole, parts):
        for hook in (HEAD, ATTENTION, MLP):
            assert means[f"blocks.0.{hook}"].flatten().tolist() == [3, 3, 0, 0, 0]


def test_what_the_padding_holds_does_not_enter_the_mean(small: MeasurementContext) -> None:
    weights = trained_looking(small.shape)
    plain = record(make_bridge(small.shape, weights), small.inputs, 2048)
    padding = small.inputs.token_ids[PAD]
    assert (small.inputs.tokens[~small.inputs.key_mask] == padding).all()
    weights["tok_embed.weight"][padding] *= -5
    other = record(make_bridge(small.shape, weights), small.inputs, 2048)
    real = small.inputs.key_mask
    assert not torch.allclose(plain.logits[~real], other.logits[~real], atol=0.1)
    components = every_component(plain.bridge)
    got, wanted = (outcomes(recording, 0, components)[1] for recording in (other, plain))
    assert torch.equal(got.exact, wanted.exact)
    torch.testing.assert_close(got.loss, wanted.loss, atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.integers(0, 119), min_size=2, max_size=60, unique=True),
    seed=st.integers(0, 2**31),
)
def test_a_donor_is_another_input_of_the_same_length_or_of_another(
    rows: list[int], seed: int, small: MeasurementContext
) -> None:
    inputs = small.inputs.at(torch.tensor(rows))
    lengths, sources = inputs.lengths.tolist(), donors(inputs, seed)
    within = sources["resample_within"]
    assert sorted(within.rows.tolist()) == list(range(len(rows)))  # each input is a donor once
    for row, donor in enumerate(within.rows.tolist()):
        assert lengths[donor] == lengths[row]
        assert donor != row or lengths.count(lengths[row]) == 1
        assert within.positions[row].tolist() == list(range(inputs.tokens.shape[1]))
    assert ("resample_across" in sources) == (len(set(lengths)) > 1)
    if "resample_across" in sources:
        across = sources["resample_across"]
        for row, donor in enumerate(across.rows.tolist()):
            n, theirs = lengths[row], lengths[donor]
            assert theirs != n
            listed = [i % theirs + 1 for i in range(n)]
            padding = inputs.tokens.shape[1] - 1 - n
            assert across.positions[row].tolist() == [0, *listed, *[0] * padding]


def test_donors_depend_on_the_seed_alone(small: MeasurementContext) -> None:
    state = torch.get_rng_state()
    drawn, other = donors(small.inputs, 4), donors(small.inputs, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    np.random.default_rng(1).normal()
    again = donors(small.inputs, 4)
    for kind, given_ in drawn.items():
        assert torch.equal(given_.rows, again[kind].rows)
        assert torch.equal(given_.positions, again[kind].positions)
        assert not torch.equal(given_.rows, other[kind].rows)


def test_every_other_length_and_every_input_of_it_gives_alike(small: MeasurementContext) -> None:
    lengths, counts = small.inputs.lengths, torch.zeros(5, 5)
    of_length_2 = torch.nonzero(lengths == 2)[:, 0]
    given_by = torch.zeros(len(small.inputs))
    for seed in range(300):
        rows = donors(small.inputs, seed)["resample_across"].rows
        counts.index_put_((lengths, lengths[rows]), torch.ones(len(rows)), accumulate=True)
        given_by += torch.bincount(rows, minlength=len(given_by))
    shares = counts[1:, 1:] / counts[1:, 1:].sum(1, keepdim=True)
    wanted = (1 - torch.eye(4)) / 3
    assert float((shares - wanted).abs().max()) < 0.05
    expected = given_by[of_length_2].mean()
    assert float((given_by[of_length_2] / expected - 1).abs().max()) < 0.1


def test_of_one_length_there_is_no_resampling_across(small: MeasurementContext) -> None:
    inputs = small.inputs.at(torch.nonzero(small.inputs.lengths == 3)[:, 0])
    recording = record(bridge_of("2L with LN", small), inputs, 2048)
    given_ = donors(inputs, 0)
    assert set(given_) == {"resample_within"}
    assert Rerun(recording, means_of(recording), given_).kinds == [
        "zero",
        "mean",
        "resample_within",
    ]
