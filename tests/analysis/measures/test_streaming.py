"""Input sets in parts give the same measurements, in bounded memory and one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.models import Rows, rows_of, varied, with_config, with_shape
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis import activations
from algomatch.analysis.activations import (
    PartCache,
    Recording,
    Streamed,
    bytes_per_input,
    observe,
    record,
)
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measures import suite
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.models.bridges import make_bridge

SMALL = (
    "task.max_length=4", "model=2L", "model.d_model=16", "model.n_heads=2",
    "analysis.bootstrap=50", "analysis.random_inits=1", "analysis.other_tasks=1",
)  # fmt: skip
TASKS = {
    "categorical": ("task=reverse", "task.vocabulary=[a,b,c]"),
    "a number": ("task=frac_prevs", "task.vocabulary=[a,b]"),
    "causal": ("task=previous_token", "task.vocabulary=[a,b]"),
    "undefined positions": ("task=shift_by", "task.vocabulary=[a,b]"),
}


@pytest.fixture(scope="module", params=TASKS)
def context(request: pytest.FixtureRequest, small: MeasurementContext) -> MeasurementContext:
    if request.param == "categorical":
        return small
    return prepare(compose([*TASKS[request.param], *SMALL]))


def measured(bridge: Any, context: MeasurementContext) -> Rows:
    """All rows, from a fresh context without cached computations."""
    return rows_of(suite.measure(bridge, with_config(context)))


def same(got: Rows, wanted: Rows, abs_: float = 1e-6) -> None:
    assert set(got) == set(wanted)
    for key, row in got.items():
        other = wanted[key]
        assert row.n == other.n, key
        for figure, two in ((row.value, other.value), (row.ci_low, other.ci_low),
                         (row.ci_high, other.ci_high)):  # fmt: skip
            assert figure == (two if two is None else pytest.approx(two, abs=abs_)), key


def sizes(context: MeasurementContext, bridge: Any) -> tuple[int, int]:
    """The bytes of one input's activations in the model and in the reference."""
    positions = context.inputs.tokens.shape[1]
    model, reference = (
        bytes_per_input(subject, positions) for subject in (bridge, context.reference.bridge)
    )
    return model, reference


def streamed_by(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the bytes recorded at once, so that this small set is streamed."""
    monkeypatch.setattr(activations, "WHOLE_BYTES", limit)
    monkeypatch.setattr(activations, "PART_BYTES", limit)


@pytest.mark.parametrize("of", ["random init", pytest.param("reference", marks=pytest.mark.slow)])
def test_all_measurements_are_the_same_streamed_and_whole(
    of: str, context: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = context.reference.bridge if of == "reference" else make_bridge(context.shape)
    whole = measured(bridge, context)
    assert isinstance(context.observe(bridge), Recording)
    part = int(0.4 * len(context.inputs))
    streamed_by(part * min(sizes(context, bridge)), monkeypatch)
    source = context.observe(bridge)
    assert isinstance(source, Streamed)
    assert len(list(source.parts())) > 2
    same(measured(bridge, context), whole)


@pytest.mark.parametrize(
    "wide", ["the model", pytest.param("the reference", marks=pytest.mark.slow)]
)
def test_a_streamed_model_and_a_recorded_one_go_together(
    wide: str, small: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = varied(small.shape, d_mlp=512) if wide == "the model" else small.shape
    context = with_shape(small, shape)
    whole = measured(make_bridge(shape), context)
    model, reference = sizes(context, make_bridge(shape))
    assert (model > 1.2 * reference) == (wide == "the model")
    assert (reference > 1.2 * model) == (wide == "the reference")
    limit = int(1.1 * min(model, reference)) * len(small.inputs)
    streamed_by(limit, monkeypatch)
    same(measured(make_bridge(shape), context), whole)


@pytest.mark.parametrize("wide", ["the model", "the reference"])
def test_no_more_is_held_at_once_than_a_part(
    wide: str, small: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = varied(small.shape, d_mlp=512) if wide == "the model" else small.shape
    context = with_shape(small, shape)
    bridge = make_bridge(shape)
    limit = int(1.1 * min(sizes(context, bridge))) * len(small.inputs)
    streamed_by(limit, monkeypatch)
    held = []
    plain = activations.record

    def noted(model: Any, inputs: Any, batch_size: int) -> Recording:
        recording = plain(model, inputs, batch_size)
        every = [value for name, value in recording.activations.items()]
        held.append(sum(value.element_size() * value.nelement() for value in every))
        return recording

    monkeypatch.setattr(activations, "record", noted)
    list(suite.measure(bridge, context))
    assert held
    assert max(held) <= limit


def test_the_batch_size_changes_no_measurement(context: MeasurementContext) -> None:
    bridge = make_bridge(context.shape)
    other = with_config(context, batch_size=7)
    same(rows_of(suite.measure(bridge, other)), measured(bridge, context))


def test_bytes_of_an_input_are_those_of_its_recording(context: MeasurementContext) -> None:
    positions = context.inputs.tokens.shape[1]
    shapes = [context.shape, varied(context.shape, attn_only=True)]
    for bridge in (*map(make_bridge, shapes), context.reference.bridge):
        recording = record(bridge, context.inputs, 2048)
        held = sum(v.element_size() * v.nelement() for v in recording.activations.values())
        assert bytes_per_input(bridge, positions) * len(context.inputs) == held


def test_parts_are_the_rows_of_the_whole_in_order(small: MeasurementContext) -> None:
    bridge, inputs = make_bridge(small.shape), small.inputs
    whole, source = record(bridge, inputs, 2048), Streamed(bridge, inputs, 50)
    parts = list(source.parts())
    assert [rows for rows, _ in parts] == [slice(0, 50), slice(50, 100), slice(100, 120)]
    for rows, part in parts:
        assert torch.equal(part.inputs.tokens, inputs.tokens[rows])
        torch.testing.assert_close(part.logits, whole.logits[rows], atol=1e-6, rtol=0)
        for name, values in part.activations.items():
            torch.testing.assert_close(values, whole[name][rows], atol=1e-6, rtol=0)
    assert [rows for rows, _ in whole.parts()] == [slice(0, 120)]
    assert next(iter(whole.parts()))[1] is whole


def test_chosen_inputs_are_given_in_the_order_asked_for(small: MeasurementContext) -> None:
    bridge, inputs = make_bridge(small.shape), small.inputs
    whole = record(bridge, inputs, 2048)
    chosen = torch.from_numpy(
        np.random.default_rng(0).integers(120, size=30)
    )  # some rows occur twice
    for source in (whole, Streamed(bridge, inputs, 16)):
        part = source.at(chosen)
        assert torch.equal(part.inputs.tokens, inputs.tokens[chosen])
        assert torch.equal(part.inputs.targets, inputs.targets[chosen])
        for name, variable in part.inputs.variables.items():
            assert torch.equal(variable.codes, inputs.variables[name].codes[chosen])
        torch.testing.assert_close(part.logits, whole.logits[chosen], atol=1e-6, rtol=0)
        assert set(part.activations) == set(whole.activations)
        for name in whole.activations:
            torch.testing.assert_close(part[name], whole[name][chosen], atol=1e-6, rtol=0)


def test_a_part_that_several_measures_ask_for_is_run_once(
    small: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, runs = Streamed(make_bridge(small.shape), small.inputs, 50), []
    plain = activations.record

    def counted(*given: Any) -> Recording:
        runs.append(len(given[1]))
        return plain(*given)

    monkeypatch.setattr(activations, "record", counted)
    for rows, part in source.parts():
        assert source.at(rows) is part
        assert source.at(slice(rows.start, rows.stop)) is part
    assert runs == [50, 50, 20]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """The number of inputs of each hooked pass, by bridge."""
    calls: dict[int, list[int]] = {}
    forward = TransformerBridge.forward

    def counted(self: Any, tokens: torch.Tensor, *given: Any, **named: Any) -> Any:
        calls.setdefault(id(self), []).append(len(tokens))
        return forward(self, tokens, *given, **named)

    monkeypatch.setattr(TransformerBridge, "forward", counted)
    return calls


@pytest.mark.parametrize(("batch_size", "wanted"), [(2048, [120]), (50, [50, 50, 20])])
def test_a_model_is_run_once_on_the_inputs_with_hooks(
    batch_size: int, wanted: list[int], small: MeasurementContext, seen: dict[int, list[int]]
) -> None:
    context, bridge = with_config(small, batch_size=batch_size), make_bridge(small.shape)
    list(suite.measure(bridge, context))
    assert seen[id(bridge)] == wanted
    assert seen[id(small.reference.bridge)] == wanted
    second = make_bridge(varied(small.shape, seed=5))
    before = {key: list(calls) for key, calls in seen.items()}
    list(suite.measure(second, context))  # the controls and the reference are not run again
    assert {key: calls for key, calls in seen.items() if calls != before.get(key)} == {
        id(second): wanted
    }


def test_what_fits_is_recorded_and_what_does_not_is_streamed(
    small: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = make_bridge(small.shape)
    each = bytes_per_input(bridge, 5)
    monkeypatch.setattr(activations, "WHOLE_BYTES", 120 * each)
    assert isinstance(observe(bridge, small.inputs, 30), Recording)
    monkeypatch.setattr(activations, "WHOLE_BYTES", 120 * each - 1)
    monkeypatch.setattr(activations, "PART_BYTES", 50 * each - 1)
    source = observe(bridge, small.inputs, 2048)
    assert isinstance(source, Streamed)
    assert source.part_size == 49
    smaller = observe(bridge, small.inputs, 30)
    assert isinstance(smaller, Streamed)
    assert smaller.part_size == 30
    monkeypatch.setattr(activations, "PART_BYTES", 1)
    least = observe(bridge, small.inputs, 30)
    assert isinstance(least, Streamed)
    assert least.part_size == 1


def test_what_is_held_of_the_reference_is_bounded_and_changes_nothing(
    small: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge, made = make_bridge(small.shape), list[slice]()
    streamed_by(int(0.4 * len(small.inputs)) * min(sizes(small, bridge)), monkeypatch)

    def runs(limit: int) -> tuple[int, Rows]:
        monkeypatch.setattr(activations, "HELD_BYTES", limit)
        made.clear()
        rows = measured(bridge, small)
        return len(made), rows

    plain = activations.record

    def noted(model: Any, inputs: Any, batch_size: int) -> Recording:
        made.extend([slice(0)] * (model is small.reference.bridge))
        return plain(model, inputs, batch_size)

    monkeypatch.setattr(activations, "record", noted)
    (most, whole), (fewest, held) = runs(0), runs(2**20)
    assert held == whole
    assert fewest < 0.7 * most
    monkeypatch.setattr(activations, "HELD_BYTES", 100)
    room = PartCache()
    parts = [room.of(slice(n, n + 1), lambda: torch.zeros(10)) for n in (0, 1, 2)]
    again = [room.of(slice(n, n + 1), lambda: torch.ones(10)) for n in (0, 1, 2)]
    assert [kept is other for kept, other in zip(parts, again, strict=True)] == [True, True, False]
