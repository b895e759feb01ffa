"""Accuracies and loss against a plain loop, numpy and torchmetrics."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassExactMatch

from algomatch.analysis.activations import Recording, Source, record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures import accuracy
from algomatch.analysis.measures.accuracy import Outcome, outcome
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.data.outputs import IGNORE, Categorical
from algomatch.models.bridges import make_bridge, make_native
from algomatch.models.training import exact_accuracy

Case = tuple[torch.Tensor, torch.Tensor, Categorical]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw logits and targets. Some positions, at times a whole input, are ignored."""
    inputs, positions, classes = (draw(st.integers(a, b)) for a, b in ((1, 8), (1, 6), (2, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = 3 * torch.randn(inputs, positions, classes, generator=generator)
    targets = torch.randint(classes, (inputs, positions), generator=generator)
    easy = torch.rand(inputs, 1, generator=generator) < 0.5
    targets = torch.where(easy, logits.argmax(-1), targets)
    ignored = torch.rand(inputs, positions, generator=generator) < draw(st.floats(0, 1))
    return logits, torch.where(ignored, IGNORE, targets), Categorical(tuple(range(classes)))


def looped(
    logits: torch.Tensor, targets: torch.Tensor, output: Categorical
) -> list[tuple[float, int, float, int]]:
    """Return exactness, right positions, summed loss and position count of each input."""
    tallies = []
    for rows, wanted in zip(logits.double().tolist(), targets.tolist(), strict=True):
        right, loss, count = 0, 0.0, 0
        for scores, target in zip(rows, wanted, strict=True):
            if target != IGNORE:
                count += 1
                right += scores.index(max(scores)) == target
                loss += math.log(sum(math.exp(score) for score in scores)) - scores[target]
        tallies.append((float(right == count > 0), right, loss, count))
    return tallies


@settings(max_examples=60, deadline=None)
@given(cases())
def test_an_outcome_is_what_a_plain_loop_counts(case: Case) -> None:
    got = outcome(*case)
    exact, correct, loss, count = map(list, zip(*looped(*case), strict=True))
    assert got.exact.tolist() == exact
    assert got.correct.tolist() == correct
    assert got.count.tolist() == count
    assert got.loss.tolist() == pytest.approx(loss, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_means_are_those_of_torchmetrics_classes(case: Case) -> None:
    logits, targets, output = case
    means, classes = outcome(*case).means(), output.width
    some = (targets != IGNORE).any(1)  # torchmetrics calls an input without targets right
    exact = MulticlassExactMatch(num_classes=classes, ignore_index=IGNORE)
    if some.any():
        wanted = exact(logits[some].argmax(-1), targets[some])
        assert means["exact"] == pytest.approx(float(wanted), abs=1e-6)
        token = MulticlassAccuracy(num_classes=classes, average="micro", ignore_index=IGNORE)
        assert means["token"] == pytest.approx(float(token(logits.argmax(-1), targets)), abs=1e-6)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE
        )
        assert means["loss"] == pytest.approx(float(loss), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(0, 1000))
def test_a_weighted_mean_is_the_mean_of_the_inputs_so_often_repeated(case: Case, seed: int) -> None:
    whole, n = outcome(*case), len(case[0])
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=3)
    weighted = whole.weighted(torch.from_numpy(counts).double())
    for draw, often in enumerate(counts):
        rows = torch.from_numpy(np.repeat(np.arange(n), often))
        repeated = Outcome(*(part[rows] for part in parts(whole))).means()
        for name, values in weighted.items():
            assert float(values[draw]) == pytest.approx(repeated[name], abs=1e-9)


def parts(whole: Outcome) -> tuple[torch.Tensor, ...]:
    return whole.exact, whole.correct, whole.loss, whole.count


@settings(max_examples=20, deadline=None)
@given(cases())
def test_once_each_is_the_mean(case: Case) -> None:
    whole = outcome(*case)
    once = whole.weighted(torch.ones(2, len(whole.exact), dtype=torch.float64))
    for name, value in whole.means().items():
        assert once[name].tolist() == [value, value]


def rows_of(recording: Source, context: MeasurementContext) -> dict[tuple[str, str], Measurement]:
    return {(row.measure, row.subject): row for row in accuracy.measure(recording, context)}


@pytest.fixture(scope="module")
def recording(small: MeasurementContext) -> Recording:
    return record(make_bridge(small.shape), small.inputs, 2048)


@pytest.mark.parametrize("measure", ["accuracy/exact", "accuracy/token", "accuracy/loss"])
def test_the_lengths_partition_a_split_and_the_splits_the_inputs(
    measure: str, recording: Recording, small: MeasurementContext
) -> None:
    rows = rows_of(recording, small)
    for split in accuracy.SPLITS:
        lengths = [
            rows[measure, f"{split}.length_{length}"]
            for length in small.inputs.task.lengths
            if (measure, f"{split}.length_{length}") in rows
        ]
        whole = rows[measure, split]
        assert sum(row.n for row in lengths) == whole.n
        assert sum(row.n * row.value for row in lengths) == pytest.approx(whole.n * whole.value)
    train, held_out, every = (rows[measure, name] for name in ("train", "held_out", "all"))
    assert train.n + held_out.n == every.n
    of_parts = train.n * train.value + held_out.n * held_out.value
    assert of_parts == pytest.approx(every.n * every.value)


def test_n_counts_inputs_or_defined_positions(
    recording: Recording, small: MeasurementContext
) -> None:
    rows = rows_of(recording, small)
    assert rows["accuracy/exact", "all"].n == 120 == 3 + 9 + 27 + 81
    assert rows["accuracy/token", "all"].n == 426 == 3 + 2 * 9 + 3 * 27 + 4 * 81
    assert rows["accuracy/loss", "all.length_3"].n == 81


def test_a_split_without_inputs_of_a_length_has_no_row_for_it(
    recording: Recording, small: MeasurementContext
) -> None:
    assert not small.inputs.rows("held_out", 1).any()
    subjects = {subject for _, subject in rows_of(recording, small)}
    assert "held_out.length_1" not in subjects
    assert "train.length_1" in subjects


def test_the_reference_is_right_everywhere(small: MeasurementContext) -> None:
    rows = rows_of(small.reference_source, small)
    for (measure, subject), row in rows.items():
        if measure in ("accuracy/exact", "accuracy/token", "accuracy/reference_exact"):
            assert row.value == 1.0, subject
            assert row.ci_high in (1.0, None), subject


def test_shuffled_targets_are_near_chance(small: MeasurementContext) -> None:
    inputs = small.inputs
    order = np.arange(len(inputs))
    for length in inputs.task.lengths:
        rows = np.flatnonzero(inputs.rows("all", length).numpy())
        order[rows] = np.random.default_rng(length).permutation(rows)
    shuffled = replace(inputs, targets=inputs.targets[torch.from_numpy(order)])
    rows_ = rows_of(
        replace(small.reference_source.at(slice(0, len(inputs))), inputs=shuffled), small
    )
    token, exact = rows_["accuracy/token", "all"], rows_["accuracy/exact", "all"]
    assert token.value == pytest.approx(1 / 3, abs=3 * (2 / 9 / token.n) ** 0.5)
    chance = sum(1 for _ in inputs.task.lengths) / len(inputs)  # 1/3^length, over 3^length inputs
    assert exact.value == pytest.approx(chance, abs=0.05)


def test_intervals_contain_their_values(recording: Recording, small: MeasurementContext) -> None:
    for key, row in rows_of(recording, small).items():
        if row.ci_low is not None:
            assert row.ci_high is not None
            assert row.ci_low <= row.value <= row.ci_high, key


def test_resamples_without_a_position_of_a_subset_say_nothing_of_it(
    small: MeasurementContext,
) -> None:
    inputs = small.inputs
    first = small.bootstrap[:, inputs.lengths == 1]
    assert (first.sum(1) == 0).double().mean() > 0.025  # enough of them to move an interval
    targets = torch.where(inputs.defined, inputs.targets, 0)
    wrong = torch.nn.functional.one_hot((targets + 1) % inputs.output.width, inputs.output.width)
    nowhere_right = Recording(make_bridge(small.shape), inputs, wrong.float(), {})
    rows = rows_of(nowhere_right, small)
    row, loss = (rows[f"accuracy/{name}", "all.length_1"] for name in ("token", "loss"))
    assert (row.value, row.ci_low, row.ci_high) == (0, 0, 0)
    assert (loss.ci_low, loss.ci_high) == pytest.approx((loss.value, loss.value), abs=1e-9)


def test_one_input_has_no_bootstrap_interval(
    recording: Recording, small: MeasurementContext
) -> None:
    assert int(small.inputs.rows("held_out", 2).sum()) == 1
    rows = rows_of(recording, small)
    for measure in ("accuracy/token", "accuracy/loss"):
        row = rows[measure, "held_out.length_2"]
        assert (row.ci_low, row.ci_high) == (None, None)


@pytest.mark.parametrize("batch_size", [7, 120, 2048])
def test_the_training_loops_accuracy_is_the_measured_one(
    batch_size: int, small: MeasurementContext
) -> None:
    native, reference = make_native(small.shape).eval(), small.reference.bridge.original_model
    measured = rows_of(record(make_bridge(small.shape), small.inputs, 2048), small)
    value = exact_accuracy(native, small.inputs, batch_size)
    assert value == pytest.approx(measured["accuracy/exact", "all"].value, abs=1e-12)
    assert 0 < value < 0.2
    assert exact_accuracy(reference, small.inputs, batch_size) == 1.0


BLIND = {
    "the length alone": ("task=length", "task.vocabulary=[a,b]", "task.max_length=3"),
    "a category": ("task=first_occurrence", "task.vocabulary=[a,b,c]", "task.max_length=4"),
    "a number": ("task=frac_prevs", "task.vocabulary=[a,b,c]", "task.max_length=3"),
    "undefined positions": ("task=shift_by", "task.vocabulary=[a,b,c]", "task.max_length=3"),
}


@pytest.mark.parametrize("kind", BLIND)
def test_the_blind_control_is_the_best_answer_to_length_and_position_alone(kind: str) -> None:
    context = prepare(compose([*BLIND[kind], "model=1L", "analysis.bootstrap=20"]))
    inputs, every = context.inputs, dict[int, list[list[object]]]()
    for i in range(len(inputs)):
        if inputs.defined[i].any():
            every.setdefault(int(inputs.lengths[i]), []).append(list(inputs.values_at(i)))
    rows = rows_of(record(make_bridge(context.shape), inputs, 2048), context)
    blind = {s: row for (measure, s), row in rows.items() if measure == "accuracy/blind_exact"}
    assert set(blind) == {"all", *(f"all.length_{length}" for length in every)}
    hits = 0.0
    for length, lists in every.items():
        counts = [Counter(v for v in place if v is not None) for place in zip(*lists, strict=True)]
        likeliest = [  # several in case of a tie
            {None, *(v for v, n in count.items() if n == max(count.values()))} for count in counts
        ]
        answers = set(itertools.product(*likeliest))
        shares = [
            sum(
                all(v is None or v == a for v, a in zip(outputs, answer, strict=True))
                for outputs in lists
            )
            / len(lists)
            for answer in answers
        ]
        row = blind[f"all.length_{length}"]
        assert row.n == len(lists)
        assert any(row.value == pytest.approx(share) for share in shares)
        hits += row.value * row.n
    assert blind["all"].n == sum(map(len, every.values()))
    assert blind["all"].value == pytest.approx(hits / blind["all"].n)
    assert 0 < blind["all"].value <= 1
    assert (blind["all"].value == 1) == (kind == "the length alone")
