"""Programs with numerical output: the reference, the tolerance, and learning."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.references import (
    compile_with_tracr,
    corrupted,
    fit,
    given_by,
    interpreted,
    make_inputs,
    make_share,
)
from support.references import fast_compiles as fast_compiles
from tracr.rasp import rasp

from algomatch.config.composition import compose
from algomatch.config.schema import TaskConfig, TrainerConfig
from algomatch.data.datamodule import Batch
from algomatch.data.inputs import InputSet
from algomatch.data.outputs import Numerical
from algomatch.data.tasks import BOS, Task, make_task
from algomatch.models import reference
from algomatch.models.bridges import make_native
from algomatch.models.compiling import Compiled, compile_program
from algomatch.models.reference import (
    Reference,
    build_reference,
    validate,
)
from algomatch.models.shapes import learned_shape
from algomatch.models.training import AlgorithmicTask


def make_half_before(shortest: int = 1) -> Any:
    """Return half of the previous token: a number, undefined before the position `shortest`."""
    before = rasp.Select(
        rasp.indices, rasp.indices, lambda key, query: key == query - 1 and query >= shortest
    )
    token = rasp.Aggregate(before, rasp.tokens).named("before")
    return rasp.numerical(rasp.Map(lambda x: x / 2, token)).named("half_before")


def half_task(shortest: int = 1) -> Task:
    return Task("half", make_half_before(shortest), (1, 2, 3), 1, 3)


@dataclass(frozen=True)
class Case:
    """A numerical task's reference, and Tracr's haiku model of the same program."""

    reference: Reference
    haiku: Any


@pytest.fixture(
    scope="module",
    params=[(name, causal) for name in ("frac_prevs", "pair_balance") for causal in (False, True)],
    ids=lambda param: f"{param[0]}-{'causal' if param[1] else 'bidirectional'}",
)
def case(request: pytest.FixtureRequest) -> Case:
    name, causal = request.param
    task = make_task(TaskConfig(name=name, max_length=4, causal=causal))
    made = build_reference(make_inputs(task))
    return Case(made, compile_with_tracr(task, made.compiled.mlp_exactness))


def test_the_bridge_gives_haikus_numbers(case: Case) -> None:
    inputs = case.reference.inputs
    given = given_by(case.reference.bridge, inputs)
    assert given.shape == (len(inputs), 5, 1)
    rows = torch.nonzero(inputs.lengths == 4)[:, 0]
    for row in rows[:: max(1, len(rows) // 8)].tolist():
        theirs = case.haiku.apply([BOS, *inputs.listed(row)]).decoded[1:]
        assert given[row, 1:, 0].tolist() == pytest.approx(theirs, abs=1e-5)


def test_the_bridge_gives_the_evaluators_numbers_on_every_input(case: Case) -> None:
    inputs = case.reference.inputs
    given = given_by(case.reference.bridge, inputs)
    assert case.reference.exact
    assert case.reference.bridge.cfg.attention_dir == (
        "causal" if inputs.task.causal else "bidirectional"
    )
    for row in range(len(inputs)):
        listed = inputs.listed(row)
        wanted = interpreted(inputs.task, listed)
        assert given[row, 1 : len(listed) + 1, 0].tolist() == pytest.approx(wanted, abs=1e-5)


def test_the_largest_error_is_that_of_the_numbers(case: Case) -> None:
    inputs = case.reference.inputs
    given = given_by(case.reference.bridge, inputs)[..., 0]
    error = (given - inputs.targets)[inputs.defined].abs().max()
    assert case.reference.validation.largest_error == pytest.approx(float(error), abs=1e-6)
    assert case.reference.validation.largest_error is not None
    assert case.reference.validation.largest_error < 1e-5


@pytest.mark.parametrize("name", ["a_share", "share", "zzz", "indices_", "tokens", "one"])
def test_the_number_is_read_by_its_label_wherever_it_stands(name: str) -> None:
    task = Task("share", make_share("a", name), ("a", "b"), 1, 3)
    made = build_reference(make_inputs(task))
    (place,) = torch.nonzero(made.compiled.weights["head.weight"][0])[:, 0].tolist()
    assert made.exact
    assert made.compiled.residual_labels[place] == list(task.variables)[-1]
    assert made.compiled.outputs is None
    if name not in ("zzz", "tokens"):
        assert place < len(made.compiled.residual_labels) - 1
    both = [made.compiled.weights["head.weight"].sum(), made.compiled.shape["d_vocab_out"]]
    assert both == [1, 1]


def test_a_number_that_is_undefined_somewhere_has_an_exact_reference() -> None:
    inputs = make_inputs(half_task())
    made = build_reference(inputs)
    assert made.exact
    assert inputs.targets[:, :2].isnan().all(), "there is no token before the first"
    given = given_by(made.bridge, inputs)[..., 0]
    for row in range(len(inputs)):
        listed = inputs.listed(row)
        wanted = interpreted(inputs.task, listed)[1:]
        assert given[row, 2 : len(listed) + 1].tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 12, 4096])
def test_a_batch_without_any_defined_position_is_no_trouble(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, compiled = make_inputs(half_task(2)), compile_program(half_task(2), 100)
    whole = validate(compiled, inputs)
    monkeypatch.setattr(reference, "BATCH", batch)
    assert validate(compiled, inputs) == whole
    assert whole.exact


# What is right


@pytest.fixture(scope="module")
def inputs() -> InputSet:
    return make_inputs(half_task())


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_program(half_task(), 100)


@given(
    factor=st.floats(0.5, 1.5, width=32),
    tolerance=st.sampled_from([0.001, 0.01, 0.02, 0.04, 0.05]),
)
@settings(max_examples=40, deadline=None)
def test_a_number_is_wrong_where_it_is_off_by_more_than_the_tolerance(
    inputs: InputSet, compiled: Compiled, factor: float, tolerance: float
) -> None:
    scaled = corrupted(compiled, "head.weight", lambda w: w * factor)
    validation = validate(scaled, replace(inputs, output=Numerical(tolerance)))
    tolerance = min(tolerance, 0.05)  # the task's tolerance does not make a reference exact
    wanted = inputs.targets.numpy()
    off = np.abs(wanted * (factor - 1))
    near = np.abs(off - tolerance) < 1e-6  # rounding decides the side
    surely = (off > tolerance) & ~near & ~np.isnan(wanted)
    possibly = surely | (near & ~np.isnan(wanted))
    assert surely.any(1).sum() <= validation.n_wrong <= possibly.any(1).sum()
    assert validation.largest_error == pytest.approx(np.nanmax(off), abs=1e-5)
    assert validation.exact == (validation.n_wrong == 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_output_that_is_no_number_is_wrong_within_any_tolerance(
    value: float, inputs: InputSet, compiled: Compiled
) -> None:
    broken = corrupted(compiled, "head.weight", lambda w: w * value)
    validation = validate(broken, replace(inputs, output=Numerical(math.inf)))
    assert validation.n_wrong == int(inputs.defined.any(1).sum()) == len(inputs) - 3


def test_counterexamples_are_readable_numbers(inputs: InputSet, compiled: Compiled) -> None:
    wrong = corrupted(compiled, "head.weight", lambda w: w * 1.5)
    validation = validate(wrong, inputs)
    assert validation.counterexamples[:2] == (
        "[1, 1] gives [0.75], the program [0.5]",
        "[1, 2] gives [0.75], the program [0.5]",
    )
    assert len(validation.counterexamples) == 5


def test_a_small_error_in_a_number_is_said_to_be_one() -> None:
    """It is below the threshold used in the residual stream, and above the tolerance."""
    task = replace(half_task(), tolerance=1e-4)
    made = make_inputs(task)
    compiled = compile_program(task, 100)
    name = next(n for n in compiled.weights if n.endswith("fc_out.weight"))
    wrong = validate(corrupted(compiled, name, lambda w: w * 1.0005), made)
    assert not wrong.exact
    assert "Tracr does not foresee" not in wrong.cause


# Learning


def test_a_numerical_task_gives_a_regression_head(inputs: InputSet) -> None:
    shape = learned_shape(compose().model, inputs, 0)
    assert shape.d_vocab_out == 1
    assert make_native(shape).head.weight.shape[0] == 1


def test_the_loss_is_the_mean_squared_error_over_defined_positions(inputs: InputSet) -> None:
    model = make_native(learned_shape(compose(["model.d_model=16"]).model, inputs, 3))
    module = AlgorithmicTask(model, inputs.output, TrainerConfig())
    loss = module.training_step(Batch(inputs.tokens, inputs.key_mask, inputs.targets), 0)
    given = model(inputs.tokens, attention_mask=inputs.key_mask).detach().numpy()[..., 0]
    wanted = inputs.targets.numpy()
    there = ~np.isnan(wanted)
    assert there.sum() == 9 * 1 + 27 * 2
    mean = np.mean((given[there].astype(np.float64) - wanted[there]) ** 2)
    assert loss.item() == pytest.approx(mean, rel=1e-5)
    torch.autograd.backward(loss)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.head.weight.grad.abs().sum() > 0


def test_undefined_positions_have_no_gradient(inputs: InputSet) -> None:
    model = make_native(learned_shape(compose(["model.d_model=16"]).model, inputs, 3))
    module = AlgorithmicTask(model, inputs.output, TrainerConfig())
    gradients = []
    for token in (0, 4):  # the values at BOS and padding
        tokens = torch.where(inputs.key_mask, inputs.tokens, token)
        torch.autograd.backward(
            module.training_step(Batch(tokens, inputs.key_mask, inputs.targets), 0)
        )
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        model.zero_grad()
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-7)


def test_a_batch_without_targets_costs_nothing(inputs: InputSet) -> None:
    model = make_native(learned_shape(compose(["model.d_model=16"]).model, inputs, 3))
    module = AlgorithmicTask(model, inputs.output, TrainerConfig())
    nothing = torch.full_like(inputs.targets, math.nan)
    loss = module.training_step(Batch(inputs.tokens, inputs.key_mask, nothing), 0)
    assert loss.item() == 0


def test_a_tiny_model_learns_shares_better_than_their_mean(tmp_path: Path) -> None:
    inputs = make_inputs(
        make_task(TaskConfig(name="frac_prevs", vocabulary=["a", "b"], max_length=4)),
        held_out=0.2,
    )
    settings = TrainerConfig(
        max_steps=150, batch_size=16, learning_rate=0.01, warmup_steps=10, accelerator="cpu"
    )
    shape = learned_shape(
        compose(["model=1L", "model.d_model=16", "model.n_heads=2"]).model, inputs, 0
    )
    model = fit(make_native(shape), inputs, settings, tmp_path).model.eval()
    there = inputs.defined & inputs.rows("held_out")[:, None]
    assert there.any()
    with torch.inference_mode():
        given = model(inputs.tokens, attention_mask=inputs.key_mask)[..., 0]
    error = ((given - inputs.targets)[there] ** 2).mean()
    assert error < 0.25 * inputs.targets[there].var(correction=0)
