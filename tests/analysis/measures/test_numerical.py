"""All measures on a task with numerical output, against numpy and scikit-learn."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plain import Array, gram_cka, residuals

from algomatch.analysis.activations import Recording, record, residual_sites
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measurements import Measurement, from_csv, to_csv
from algomatch.analysis.measures import accuracy, similarity, sparsity, suite
from algomatch.analysis.measures.accuracy import outcome
from algomatch.analysis.measures.similarity import compare
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.data.inputs import InputSet, Variable
from algomatch.data.outputs import IGNORE, Numerical
from algomatch.models.bridges import make_bridge, make_native
from algomatch.models.shapes import RANDOM_INIT_SEEDS
from algomatch.models.training import exact_accuracy

Rows = dict[tuple[str, str], Measurement]
NUMBER = (
    "task=frac_prevs", "task.vocabulary=[a,b]", "task.max_length=4", "task.held_out=0.2",
    "model=2L", "model.d_model=16", "model.n_heads=2", "analysis.bootstrap=100",
    "analysis.random_inits=2", "analysis.other_tasks=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def shares() -> MeasurementContext:
    """The task: the share of `a` among the tokens so far, at lengths 1 to 4."""
    return prepare(compose(NUMBER))


@pytest.fixture(scope="module")
def recording(shares: MeasurementContext) -> Recording:
    """A random init with outputs moved near the targets, so that some are right."""
    recording = record(make_bridge(shares.shape), shares.inputs, 2048)
    noise = torch.randn(recording.logits.shape, generator=torch.Generator().manual_seed(0))
    numbers = shares.inputs.targets.nan_to_num()[..., None] + 0.03 * noise
    return replace(recording, logits=numbers)


def rows_of(measured: Any) -> Rows:
    """Rows by the measure's short name and subject."""
    return {(row.measure.partition("/")[2], row.subject): row for row in measured}


def errors_of(numbers: torch.Tensor, inputs: InputSet) -> list[Array]:
    """The errors of the defined outputs of each input."""
    off = (numbers[..., 0].double() - inputs.targets.double()).numpy()
    return [row[~np.isnan(row)] for row in off]


def expected(numbers: torch.Tensor, inputs: InputSet, chosen: Any = None) -> dict[str, float]:
    """The three means over the chosen inputs, computed with numpy."""
    assert isinstance(inputs.output, Numerical)
    off = errors_of(numbers, inputs)
    kept = [row for i, row in enumerate(off) if len(row) and (chosen is None or chosen[i])]
    every = np.concatenate(kept)
    return {
        "exact": float(np.mean([(np.abs(row) <= inputs.output.tolerance).all() for row in kept])),
        "token": float(np.mean(np.abs(every) <= inputs.output.tolerance)),
        "loss": float(np.mean(every**2)),
    }


def test_the_tolerance_is_below_half_the_distance_of_two_outputs(
    shares: MeasurementContext,
) -> None:
    output = shares.inputs.output
    assert isinstance(output, Numerical)
    assert shares.shape.d_vocab_out == output.width == 1
    values = sorted({a / n for n in range(1, 5) for a in range(n + 1)})
    assert output.tolerance <= 0.05
    assert output.tolerance < min(np.diff(values)) / 2
    targets = set(shares.inputs.targets[shares.inputs.defined].tolist())
    assert sorted(targets) == pytest.approx(values)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 5), st.floats(1e-3, 2), st.floats(0, 1), st.integers(0, 2**31)
)
def test_a_number_is_right_within_the_tolerance_and_costs_its_squared_error(
    inputs: int, positions: int, tolerance: float, undefined: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    targets = generator.normal(size=(inputs, positions)).astype(np.float32)
    factor = generator.choice([-3, -1.2, -0.8, 0, 0.8, 1.2], size=targets.shape)
    off = tolerance * factor * (generator.random((inputs, 1)) < 0.7)
    numbers = (targets + off).astype(np.float32)
    targets[generator.random(targets.shape) < undefined] = np.nan
    got = outcome(
        torch.from_numpy(numbers)[..., None], torch.from_numpy(targets), Numerical(tolerance)
    )
    for i in range(inputs):
        there = ~np.isnan(targets[i])
        wrong = np.abs(off[i][there]) > tolerance
        apart = numbers[i][there].astype(np.float64) - targets[i][there]
        assert got.count[i] == there.sum()
        assert got.correct[i] == (~wrong).sum()
        assert got.exact[i] == float(there.any() and not wrong.any())
        assert float(got.loss[i]) == pytest.approx((apart**2).sum(), abs=1e-9)


def test_accuracies_of_numbers_are_numpys_in_every_split(
    recording: Recording, shares: MeasurementContext
) -> None:
    rows, inputs = rows_of(accuracy.measure(recording, shares)), shares.inputs
    for split in accuracy.SPLITS:
        for length in (None, *inputs.task.lengths):
            subject = split if length is None else f"{split}.length_{length}"
            chosen = inputs.rows(split, length).numpy()
            assert ("exact", subject) in rows or not chosen.any()
            if chosen.any():
                for name, value in expected(recording.logits, inputs, chosen).items():
                    row = rows[name, subject]
                    assert row.value == pytest.approx(value, abs=1e-9), (name, subject)
                    positions = inputs.lengths.numpy()[chosen].sum()
                    assert row.n == (chosen.sum() if name == "exact" else positions)
    assert 0 < rows["exact", "all"].value < rows["token", "all"].value < 1


def test_the_reference_of_a_numerical_task_is_right_everywhere(shares: MeasurementContext) -> None:
    rows = rows_of(accuracy.measure(shares.reference_source, shares))
    for (name, subject), row in rows.items():
        if name in ("exact", "token", "reference_exact"):
            assert row.value == 1.0, (name, subject)
    assert rows["loss", "all"].value < 1e-6
    exact, undefined = rows["reference_exact", "all"], rows["undefined_share", "all"]
    assert exact.n == 2 + 4 + 8 + 16
    assert (undefined.value, undefined.n) == (0, 2 + 2 * 4 + 3 * 8 + 4 * 16)


@pytest.mark.parametrize("batch_size", [7, 2048])
def test_the_training_loops_accuracy_of_numbers_is_the_measured_one(
    batch_size: int, shares: MeasurementContext
) -> None:
    assert exact_accuracy(shares.reference.bridge.original_model, shares.inputs, batch_size) == 1.0
    shape = copy.copy(shares.shape)
    values = []
    for shape.seed in range(4):
        wide = replace(shares.inputs, output=Numerical(0.5))
        numbers = record(make_bridge(shape), wide, 2048).logits
        values.append(exact_accuracy(make_native(shape).eval(), wide, batch_size))
        assert values[-1] == pytest.approx(expected(numbers, wide)["exact"], abs=1e-12)
    assert 0 < max(values) < 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.none() | st.floats(-9, 9, width=32), min_size=1, max_size=12), st.booleans())
def test_a_number_is_one_column_and_where_it_is_undefined_another(
    values: list[float | None], numerical: bool
) -> None:
    taken = tuple(dict.fromkeys(value for value in values if value is not None))
    codes = [IGNORE if value is None else taken.index(value) for value in values]
    variable = Variable(torch.tensor([[IGNORE, *codes]], dtype=torch.int32), taken, numerical)
    cases = torch.tensor([[False, *[True] * len(values)]])
    got = similarity.as_columns(variable, cases).tolist()
    if numerical:
        wanted = [[value or 0.0, float(value is None)] for value in values]
        assert got == wanted
    else:  # one column for each value and one for undefined
        kinds = [*taken, None] if None in values else [*taken]
        assert [row[: len(kinds)] for row in got] == [
            [float(value == kind) for kind in kinds] for value in values
        ]
        assert not any(any(row[len(kinds) :]) for row in got)


def test_the_similarity_of_a_number_is_the_cka_of_its_value(
    recording: Recording, shares: MeasurementContext
) -> None:
    inputs, rows = shares.inputs, rows_of(similarity.measure(recording, shares))
    assert set(similarity.confounded(shares)) == {"tokens", "indices", "is_first"}
    value = residuals(inputs.targets[inputs.defined].double().numpy()[:, None], inputs)
    for site in residual_sites(recording.bridge):
        rest = residuals(recording[site][inputs.defined].double().numpy(), inputs)
        row = rows["deconfounded_cka", f"frac_prevs@{site}"]
        assert row.value == pytest.approx(gram_cka(value, rest), abs=1e-6)
        assert row.n == len(value) == 98
    best = max(row.value for (name, _), row in rows.items() if name == "deconfounded_cka")
    assert rows["best_deconfounded_cka", "frac_prevs"].value == best


def test_a_number_with_gaps_is_compared_with_its_value_and_its_gaps(
    recording: Recording, shares: MeasurementContext
) -> None:
    inputs, generator = shares.inputs, np.random.default_rng(0)
    codes = torch.from_numpy(generator.integers(3, size=tuple(inputs.tokens.shape)))
    gaps = torch.from_numpy(generator.random(tuple(inputs.tokens.shape)) < 0.3)
    codes = torch.where(gaps | ~inputs.real, IGNORE, codes).to(torch.int32)
    values = (-1.0, 0.25, 2.0)
    other = replace(inputs, variables={"drawn": Variable(codes, values, True)})
    kept = codes[inputs.defined].numpy()
    columns = np.stack([np.array([*values, 0.0])[np.where(kept == IGNORE, 3, kept)],
                        (kept == IGNORE).astype(float)], axis=1)  # fmt: skip
    context = MeasurementContext(other, shares.reference, shares.shape, shares.config)
    similarities = compare(replace(recording, inputs=other), context).variables
    for site in residual_sites(recording.bridge):
        rest = residuals(recording[site][inputs.defined].double().numpy(), inputs)
        got = similarities["drawn", site][0]
        assert got == pytest.approx(gram_cka(residuals(columns, inputs), rest), abs=1e-6)


def test_the_reference_holds_the_number_whole_where_tracr_writes_it(
    shares: MeasurementContext,
) -> None:
    inputs = shares.inputs
    reference = shares.reference_source.at(slice(0, len(inputs)))
    column = shares.reference.compiled.residual_labels.index("frac_prevs")
    similarities = compare(reference, shares).variables
    rows = rows_of(similarity.measure(reference, shares))
    holds = [
        site
        for site in residual_sites(reference.bridge)
        if torch.allclose(
            reference[site][..., column][inputs.defined], inputs.targets[inputs.defined], atol=1e-4
        )
    ]
    assert holds
    for site in residual_sites(reference.bridge):
        if site in holds:  # the rest of the residual is token and position
            assert similarities["frac_prevs", site][0] == pytest.approx(1, abs=1e-3)
        else:
            assert ("frac_prevs", site) not in similarities
    assert rows["best_deconfounded_cka_reference", "frac_prevs"].value == pytest.approx(1, abs=1e-3)


def test_the_random_inits_of_a_numerical_task_give_numbers_too(
    recording: Recording, shares: MeasurementContext
) -> None:
    rows, inputs = rows_of(similarity.measure(recording, shares)), shares.inputs
    bests = []
    for i in range(2):
        shape = copy.copy(shares.shape)
        shape.seed = RANDOM_INIT_SEEDS + i
        control = record(make_bridge(shape), inputs, 2048)
        assert control.logits.shape[-1] == 1
        sites = residual_sites(control.bridge)
        similarities = compare(control, shares).variables
        bests.append(max(similarities["frac_prevs", site][0] for site in sites))
    row = rows["best_deconfounded_cka_random_init", "frac_prevs"]
    assert row.value == pytest.approx(np.mean(bests), abs=1e-9)
    assert (row.ci_low, row.ci_high) == pytest.approx((min(bests), max(bests)), abs=1e-9)


def test_neurons_of_a_numerical_task_are_counted_over_the_lists_positions(
    shares: MeasurementContext,
) -> None:
    bridge, inputs = make_bridge(shares.shape), shares.inputs
    rows = rows_of(sparsity.measure(record(bridge, inputs, 2048), shares))
    for prefix, model in (("", bridge), ("reference:", shares.reference.bridge)):
        _, cache = model.run_with_cache(inputs.tokens, attention_mask=inputs.key_mask)
        for layer in range(model.cfg.n_layers):
            hook = f"blocks.{layer}.mlp.hook_pre"
            real = ((model.blocks[layer].mlp.W_in != 0).any(0)).numpy()
            parts = [cache[hook][i, 1 : n + 1] for i, n in enumerate(inputs.lengths.tolist())]
            on = (torch.cat(parts).numpy() > 0).mean(0)[real]
            if len(on):
                row = rows["active_share", f"{prefix}{hook}"]
                assert row.value == pytest.approx(on.mean(), abs=1e-6)
                assert row.n == len(on)
                dead = rows["dead_share", f"{prefix}{hook}"]
                assert dead.value == pytest.approx((on == 0).mean())


TASKS: Mapping[str, tuple[str, ...]] = {
    "a number": NUMBER,
    "causal": ("task=previous_token", "task.vocabulary=[a,b,c]", "task.max_length=3"),
    "causal, of tuples": ("task=induction", "task.vocabulary=[a,b]", "task.max_length=3"),
    "undefined positions": ("task=shift_by", "task.vocabulary=[a,b]", "task.max_length=4"),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_measure_of_every_kind_of_task_is_declared_bounded_and_repeats(task: str) -> None:
    config = compose([*NUMBER[3:], *TASKS[task]])
    context, metrics = prepare(config), suite.declared_metrics()
    rows = list(suite.measure(make_bridge(context.shape), context))
    training = {metric.name for metric in suite.TRAINING_METRICS}
    if_solved = {name for name in metrics if "redundant" in name}
    if_there = {
        name for name in metrics if "/h1_" in name
    }  # absent if the reference has no neurons
    measured = {row.measure for row in rows}
    of_cuts = {name for name in metrics if name.startswith("matching/")}
    testable = next(row.value for row in rows if row.measure == "matching/testable_cuts")
    if not testable:
        if_there |= of_cuts - {"matching/testable_cuts"}
    assert measured - if_there == set(metrics) - training - if_solved - if_there
    neurons = any(row.subject == "reference:model" for row in rows)
    assert bool({name for name in measured if "/h1_" in name}) == neurons
    for row in rows:
        metric = metrics[row.measure]
        assert metric.low <= row.value <= metric.high, row
        assert row.n > 0, row
        if row.ci_low is not None:
            assert row.ci_high is not None
            assert row.ci_low <= row.ci_high, row
    assert len({row.key for row in rows}) == len(rows)
    assert list(suite.measure(make_bridge(context.shape), prepare(config))) == rows
    assert from_csv(to_csv(rows), "rows.csv") == rows


def test_every_loss_is_declared_as_what_it_is_of_a_number_too() -> None:
    losses = {n: m for n, m in suite.declared_metrics().items() if n.endswith("loss")}
    assert set(losses) >= {"accuracy/loss", "training/loss", "ablation/zero_delta_loss"}
    for name, metric in losses.items():
        assert metric.unit == "nats, or squared error, per position", name
