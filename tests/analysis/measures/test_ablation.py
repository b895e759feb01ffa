"""Ablation rows: deltas against hand-written hooks, their intervals, and controls."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from support.models import Rows, bridge_of, rows_of, trained_looking, varied, with_config

from algomatch.analysis.ablation_names import KINDS
from algomatch.analysis.activations import Recording, record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures import ablation
from algomatch.analysis.measures.accuracy import Outcome, outcome
from algomatch.analysis.measures.redundancy import REDUNDANT_SET, joint_sets
from algomatch.analysis.measures.rerun import Means, Rerun, donors
from algomatch.models.bridges import make_bridge
from algomatch.models.wiring import Component, component_sites

EMPTY = ("blocks.1.attn.hook_z[0]", "blocks.1.hook_attn_out", "blocks.2.attn.hook_z[0]",
         "blocks.2.hook_attn_out", "blocks.3.hook_mlp_out")  # fmt: skip


@pytest.fixture(scope="module")
def recording(small: MeasurementContext) -> Recording:
    return record(bridge_of("2L with LN", small), small.inputs, 2048)


@pytest.fixture(scope="module")
def rows(recording: Recording, small: MeasurementContext) -> Rows:
    return rows_of(ablation.measure(recording, small))


@pytest.fixture(scope="module")
def unsolved_too(small: MeasurementContext) -> MeasurementContext:
    """A context that counts every model as solving the task, so sets are always ablated."""
    return with_config(small, solved=0.0)


@pytest.fixture(scope="module")
def with_sets(recording: Recording, unsolved_too: MeasurementContext) -> Rows:
    return rows_of(ablation.measure(recording, unsolved_too))


@pytest.fixture(scope="module")
def of_reference(small: MeasurementContext) -> Rows:
    return rows_of(ablation.measure(small.reference_source, small))


def ablated(recording: Recording, context: MeasurementContext) -> dict[tuple[str, str], Outcome]:
    """The outcome of each ablation of each component, input by input."""
    means = Means(recording.bridge)
    means.add(recording)
    again = Rerun(recording, means, donors(context.inputs, context.config.seed))
    components = [
        *map(Component.of, component_sites(recording.bridge)),
        *joint_sets(recording.bridge),
    ]
    runs = [(component, kind) for component in components for kind in again.kinds]
    outcomes = again.outcomes(runs)
    parts = ("exact", "correct", "loss", "count")
    return {
        (kind, component.name): Outcome(*(getattr(outcomes, part)[:, i] for part in parts))
        for i, (component, kind) in enumerate(runs)
    }


def intact_of(recording: Recording) -> Outcome:
    return outcome(recording.logits, recording.inputs.targets, recording.inputs.output)


def test_deltas_are_ablated_minus_intact_overall_and_of_each_length(
    recording: Recording, with_sets: Rows, small: MeasurementContext
) -> None:
    intact, outcomes = intact_of(recording), ablated(recording, small)
    assert {kind for kind, _ in outcomes} == set(KINDS)
    for (kind, name), after in outcomes.items():
        for length in (None, *small.inputs.task.lengths):
            chosen = small.inputs.rows("all", length)
            before = intact.over(chosen).means()
            subject = name if length is None else f"{name}.length_{length}"
            for effect, value in after.over(chosen).means().items():
                row = with_sets[f"{kind}_delta_{effect}", subject]
                assert row.value == pytest.approx(value - before[effect], abs=1e-9), subject
                assert row.n == int(chosen.sum())
    deltas = [key for key in with_sets if "_delta_" in key[0] and REDUNDANT_SET not in key[1]]
    assert len(deltas) == len(outcomes) * 5 * len(ablation.EFFECTS)


def test_the_lengths_make_up_the_whole(rows: Rows, small: MeasurementContext) -> None:
    lengths = list(small.inputs.task.lengths)
    for (name, subject), row in rows.items():
        if name.endswith("_delta_exact") and ".length_" not in subject:
            parts = [rows[name, f"{subject}.length_{length}"] for length in lengths]
            assert sum(part.n for part in parts) == row.n
            total = sum(part.n * part.value for part in parts)
            assert total == pytest.approx(row.n * row.value, abs=1e-9)


def test_replacing_a_constant_output_by_its_mean_changes_nothing(small: MeasurementContext) -> None:
    weights = trained_looking(small.shape)
    weights["layers.0.attn.o.weight"].zero_()
    weights["layers.1.mlp.fc_out.weight"].zero_()
    recording = record(make_bridge(small.shape, weights), small.inputs, 2048)
    rows = rows_of(ablation.measure(recording, small))
    for name in ("blocks.0.hook_attn_out", "blocks.1.hook_mlp_out"):
        for kind in ("mean", "resample_within", "resample_across"):
            for effect in ("exact", "token"):
                assert rows[f"{kind}_delta_{effect}", name].value == 0
            assert rows[f"{kind}_delta_loss", name].value == pytest.approx(0, abs=1e-6)
        assert abs(rows["zero_delta_loss", name].value) > 1e-3
    for head in range(small.shape.n_heads):  # no later component reads these heads
        for kind in KINDS:
            row = rows[f"{kind}_delta_loss", f"blocks.0.attn.hook_z[{head}]"]
            assert row.value == pytest.approx(0, abs=1e-6)


def test_what_tracr_left_empty_can_be_deleted_without_any_effect(
    small: MeasurementContext, of_reference: Rows
) -> None:
    recording = small.reference_source
    assert isinstance(recording, Recording)
    silent = {
        site.name
        for site in component_sites(recording.bridge)
        if not recording[site.name.partition("[")[0]].any()  # it writes nothing on any input
    }
    assert silent == set(EMPTY)
    for name in EMPTY:
        for kind in KINDS:
            for effect in ("exact", "token", "loss"):
                row = of_reference[f"{kind}_delta_{effect}", name]
                assert (row.value, row.ci_low, row.ci_high) == (0, 0, 0)


def test_the_reference_needs_everything_that_tracr_wrote(
    small: MeasurementContext, of_reference: Rows
) -> None:
    for site in component_sites(small.reference.bridge):
        if site.name not in EMPTY:
            row = of_reference["zero_delta_exact", site.name]
            assert row.ci_high is not None
            assert row.value <= -0.2
            assert row.ci_high < 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_last_attention_layer_the_reference_cannot_reverse(
    kind: str, of_reference: Rows
) -> None:
    last, alone = "blocks.3.hook_attn_out", 0.4 if kind == "resample_across" else 0.3
    assert of_reference[f"{kind}_delta_exact", last].value < -0.8
    assert of_reference[f"{kind}_delta_token", last].value < -0.4
    assert of_reference[f"{kind}_delta_loss", last].value > alone


def test_resampling_within_a_length_hides_what_carries_the_length_alone(
    of_reference: Rows,
) -> None:
    counting = "blocks.0.hook_attn_out"  # writes 1/n, equal for all lists of one length
    assert of_reference["resample_within_delta_exact", counting].value == 0
    assert of_reference["resample_across_delta_exact", counting].value < -0.2
    assert of_reference["harmless_kinds", counting].value < len(KINDS)
    assert of_reference["redundant", counting].value == 0


def test_the_intervals_of_the_deltas_contain_them(rows: Rows, of_reference: Rows) -> None:
    for measured in (rows, of_reference):
        for (name, subject), row in measured.items():
            if "_delta_" in name:
                assert row.ci_low is not None, subject
                assert row.ci_high is not None, subject
                assert row.ci_low <= row.value <= row.ci_high, (name, subject)


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_of_a_delta_is_a_paired_bootstrap_over_inputs(
    kind: str, recording: Recording, rows: Rows, small: MeasurementContext
) -> None:
    name, generator = "blocks.0.hook_attn_out", np.random.default_rng(0)
    after, before = ablated(recording, small)[kind, name], intact_of(recording)
    change, count = (after.loss - before.loss).numpy(), after.count.numpy()
    chosen = generator.integers(len(change), size=(4000, len(change)))
    drawn = change[chosen].sum(1) / count[chosen].sum(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    row = rows[f"{kind}_delta_loss", name]
    assert (row.ci_low, row.ci_high) == pytest.approx((low, high), abs=0.6 * drawn.std())


def test_the_batch_size_of_the_setting_changes_no_measurement(
    rows: Rows, small: MeasurementContext
) -> None:
    bridge = bridge_of("2L with LN", small)
    other = with_config(small, batch_size=50)
    again = rows_of(ablation.measure(other.observe(bridge), other))
    assert set(again) == set(rows)
    for key, row in again.items():
        assert row.value == pytest.approx(rows[key].value, abs=1e-6), key


def test_another_seed_gives_other_donors_and_nothing_else(
    recording: Recording, rows: Rows, small: MeasurementContext
) -> None:
    other = rows_of(ablation.measure(recording, with_config(small, seed=1)))
    values = {key: row.value for key, row in other.items() if "_delta_loss" in key[0]}
    moved = {key for key, value in values.items() if value != rows[key].value}
    assert {key for key in values if not key[0].startswith("resample")}.isdisjoint(moved)
    assert {kind for kind, _ in moved} == {f"{k}_delta_loss" for k in KINDS if "resample" in k}


def test_fixed_lengths_are_not_resampled_across(
    recording: Recording, small: MeasurementContext
) -> None:
    inputs = small.inputs.at(torch.nonzero(small.inputs.lengths == 4)[:, 0])
    context = MeasurementContext(inputs, small.reference, small.shape, small.config)
    rows = rows_of(ablation.measure(record(recording.bridge, inputs, 2048), context))
    kinds = {name.partition("_delta_")[0] for name, _ in rows if "_delta_" in name}
    assert kinds == {"zero", "mean", "resample_within"}
    assert {row.n for (name, _), row in rows.items() if name == "harmless_kinds"} == {3}


def test_what_is_surely_lost_is_the_lower_end_of_the_interval(
    small: MeasurementContext, of_reference: Rows
) -> None:
    counting = "blocks.0.hook_attn_out"
    deltas = [of_reference[f"{kind}_delta_exact", counting] for kind in KINDS]
    across = deltas[list(KINDS).index("resample_across")]
    assert across.ci_low is not None
    assert across.ci_high is not None
    assert across.ci_low < across.value < across.ci_high
    context = with_config(small, margin=-across.value, solved=2.0)
    rows = rows_of(ablation.measure(small.reference_source, context))
    wanted = sum((delta.ci_low or 0) >= across.value for delta in deltas)
    assert 0 < wanted < len(KINDS)
    assert rows["harmless_kinds", counting].value == wanted


def test_resamples_without_an_input_of_a_length_say_nothing_of_it(
    small: MeasurementContext, of_reference: Rows
) -> None:
    first = small.bootstrap[:, small.inputs.lengths == 1]
    assert (first.sum(1) == 0).double().mean() > 0.025  # enough of them to move an interval
    all_lost = [
        row
        for (name, subject), row in of_reference.items()
        if name.endswith("_delta_exact") and subject.endswith(".length_1") and row.value == -1
    ]
    assert all_lost
    assert {(row.ci_low, row.ci_high) for row in all_lost} == {(-1, -1)}


def test_a_single_input_has_no_interval(recording: Recording, small: MeasurementContext) -> None:
    lengths = small.inputs.lengths
    inputs = small.inputs.at(
        torch.nonzero((lengths == 4) | (torch.arange(len(lengths)) == 0))[:, 0]
    )
    assert inputs.lengths.tolist().count(1) == 1
    context = MeasurementContext(inputs, small.reference, small.shape, small.config)
    rows = rows_of(ablation.measure(record(recording.bridge, inputs, 2048), context))
    deltas = {key: row for key, row in rows.items() if "_delta_" in key[0]}
    for (_, subject), row in deltas.items():
        assert (row.n == 1) == subject.endswith(".length_1")
        assert (row.ci_low is None, row.ci_high is None) == (row.n == 1, row.n == 1)


def ablated_subjects(rows: Rows) -> set[str]:
    return {s for name, s in rows if name == "zero_delta_exact" and ".length_" not in s}


def test_every_component_and_joint_set_has_rows(with_sets: Rows, small: MeasurementContext) -> None:
    bridge = make_bridge(small.shape)
    assert ablated_subjects(with_sets) - {REDUNDANT_SET} == {
        *(site.name for site in component_sites(bridge)),
        "blocks.0.attn.hook_z.all",
        "blocks.1.attn.hook_z.all",
    }
    assert "redundant_share" in {name for name, _ in with_sets}


def test_no_sets_are_ablated_of_a_model_that_does_not_solve_the_task(
    recording: Recording, rows: Rows, with_sets: Rows, small: MeasurementContext
) -> None:
    assert intact_of(recording).means()["exact"] < small.config.solved
    assert ablated_subjects(rows) == {site.name for site in component_sites(recording.bridge)}
    assert not [name for name, _ in rows if "redundant" in name]
    for key, row in rows.items():  # single components have the same rows
        if "_delta_" in key[0]:
            assert with_sets[key] == row


def test_sets_are_ablated_from_the_accuracy_at_which_a_model_solves_the_task(
    recording: Recording, small: MeasurementContext
) -> None:
    exact = intact_of(recording).means()["exact"]
    for bound, wanted in ((exact, True), (exact + 1e-9, False)):
        rows = rows_of(ablation.measure(recording, with_config(small, solved=bound, bootstrap=2)))
        assert ("blocks.0.attn.hook_z.all" in ablated_subjects(rows)) == wanted


def test_all_heads_at_once_are_the_layer_but_for_its_bias(small: MeasurementContext) -> None:
    weights = trained_looking(small.shape)
    for layer in range(2):
        weights[f"layers.{layer}.attn.o.bias"].zero_()
    recording = record(make_bridge(small.shape, weights), small.inputs, 2048)
    rows = rows_of(ablation.measure(recording, with_config(small, solved=0.0)))
    for layer in range(2):
        for kind in KINDS:
            heads = rows[f"{kind}_delta_loss", f"blocks.{layer}.attn.hook_z.all"].value
            whole = rows[f"{kind}_delta_loss", f"blocks.{layer}.hook_attn_out"].value
            assert heads == pytest.approx(whole, abs=1e-6)
            assert abs(whole) > 1e-4


def test_an_attention_only_model_has_no_mlp_to_ablate(small: MeasurementContext) -> None:
    shape = varied(small.shape, attn_only=True)
    rows: Mapping[tuple[str, str], Measurement] = rows_of(
        ablation.measure(record(make_bridge(shape), small.inputs, 2048), small)
    )
    assert rows
    assert not [subject for _, subject in rows if "mlp" in subject]
