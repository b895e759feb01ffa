"""Training: the loss, the schedule, divergence, and equality with a loop without Lightning."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.references import fit, make_inputs
from tracr.rasp import rasp
from transformer_lens.config import TransformerBridgeConfig

from algomatch.api.train import train
from algomatch.config.composition import compose
from algomatch.config.schema import TrainerConfig
from algomatch.data.datamodule import Batch, TaskDataModule
from algomatch.data.inputs import InputSet
from algomatch.data.outputs import IGNORE
from algomatch.data.programs import make_reverse
from algomatch.data.tasks import Task
from algomatch.infra.errors import NotFiniteError
from algomatch.models.bridges import make_native
from algomatch.models.shapes import learned_shape
from algomatch.models.training import (
    AlgorithmicTask,
    checkpoint_steps,
    learning_rate_factor,
)


def make_shape(task: Task, *overrides: str, seed: int = 0) -> TransformerBridgeConfig:
    model = compose(["model=1L", "model.d_model=16", "model.n_heads=2", *overrides]).model
    return learned_shape(model, make_inputs(task), seed)


@pytest.fixture(scope="module")
def task() -> Task:
    return Task("reverse", make_reverse(), ("a", "b", "c"), 1, 3)


@pytest.fixture(scope="module")
def inputs(task: Task) -> InputSet:
    return make_inputs(task, held_out=0.1)


def test_the_loss_is_the_mean_over_defined_positions() -> None:
    before = rasp.Select(rasp.indices, rasp.indices - 1, rasp.Comparison.EQ)
    task = Task("previous", rasp.Aggregate(before, rasp.tokens), ("a", "b"), 1, 3)
    inputs = make_inputs(task)
    model = make_native(make_shape(task))
    batch = Batch(inputs.tokens, inputs.key_mask, inputs.targets)
    module = AlgorithmicTask(model, inputs.output, TrainerConfig())
    loss = module.training_step(batch, 0)
    logits = model(batch.tokens, attention_mask=batch.key_mask).tolist()
    surprises = [
        math.log(sum(map(math.exp, scores))) - scores[target]
        for row, targets in zip(logits, batch.targets.tolist(), strict=True)
        for scores, target in zip(row, targets, strict=True)
        if target != IGNORE
    ]
    assert len(surprises) == 1 * 2**2 + 2 * 2**3
    assert loss.item() == pytest.approx(sum(surprises) / len(surprises), rel=1e-5)
    assert loss.requires_grad
    assert module.loss is not None
    assert not module.loss.requires_grad


def test_what_stands_at_undefined_positions_has_no_gradient(task: Task, inputs: InputSet) -> None:
    model = make_native(make_shape(task))
    gradients = []
    for token in (0, 4):
        tokens = torch.where(inputs.key_mask, inputs.tokens, token)
        module = AlgorithmicTask(model, inputs.output, TrainerConfig())
        loss = module.training_step(Batch(tokens, inputs.key_mask, inputs.targets), 0)
        torch.autograd.backward(loss)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        model.zero_grad()
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_at_once(
    value: float, task: Task, inputs: InputSet
) -> None:
    model = make_native(make_shape(task, "model.normalization=none"))
    with torch.no_grad():
        model.head.weight[0] = value
    module = AlgorithmicTask(model, inputs.output, TrainerConfig(learning_rate=0.5))
    with pytest.raises(NotFiniteError, match=r"^the loss is nan$"):
        module.training_step(Batch(inputs.tokens, inputs.key_mask, inputs.targets), 0)
    assert module.loss is None


def test_a_run_that_diverges_stops(task: Task, inputs: InputSet, tmp_path: Path) -> None:
    config = TrainerConfig(
        max_steps=20, batch_size=12, learning_rate=1e30, warmup_steps=0, accelerator="cpu"
    )
    with pytest.raises(NotFiniteError, match=r"^the loss is (nan|inf)$") as caught:
        fit(make_native(make_shape(task)), inputs, config, tmp_path)
    assert caught.value.exit_code == 1


def test_a_run_that_diverges_names_its_step_and_learning_rate(tmp_path: Path) -> None:
    config = compose(
        [
            "task.vocabulary=[a,b,c]",
            "task.max_length=4",
            "model=1L",
            "trainer.max_steps=20",
            "trainer.warmup_steps=0",
            "trainer.learning_rate=1e30",
            "trainer.accelerator=cpu",
            "analysis=accuracy_only",
            "tracking=disabled",
            f"run_dir={tmp_path / 'run'}",
        ]
    )
    message = (
        r"^training diverged at step [1-3] \(trainer\.learning_rate=1e\+30\): .*; lower the "
        r"learning rate or trainer\.gradient_clip, or lengthen trainer\.warmup_steps; "
    )
    with pytest.raises(NotFiniteError, match=message):
        train(config, Console(file=io.StringIO()))


schedules = st.builds(
    TrainerConfig,
    max_steps=st.integers(1, 500),
    warmup_steps=st.integers(0, 600),
    schedule=st.sampled_from(["constant", "cosine"]),
)


@given(config=schedules)
@settings(max_examples=60, deadline=None)
def test_the_learning_rate_warms_up_linearly_and_then_never_rises(config: TrainerConfig) -> None:
    last, warmup = config.max_steps, config.warmup_steps
    factors = [learning_rate_factor(step, config) for step in range(last + 1)]
    assert all(0 <= factor <= 1 for factor in factors)
    for step, factor in enumerate(factors[:warmup]):
        assert factor == pytest.approx((step + 1) / warmup)
    rest = factors[warmup:]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rest))
    if rest:
        assert rest[0] == 1 or warmup == last
    if config.schedule == "constant":
        assert set(rest) <= {1.0}
    elif warmup < last:
        assert rest[-1] == pytest.approx(0, abs=1e-12)
        half = [a + b for a, b in zip(rest, reversed(rest), strict=True)]
        assert half == pytest.approx([1.0] * len(half)), "a cosine is symmetric"


@given(last=st.integers(1, 10**6), count=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_checkpoints_are_the_first_the_last_and_ever_further_apart(last: int, count: int) -> None:
    steps = checkpoint_steps(TrainerConfig(max_steps=last, checkpoints=count))
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert steps[-1] == last
    assert len(steps) <= count + 1
    if count > 1:
        assert steps[1] == 1
        ratio = last ** (1 / (count - 1))
        assert all(b <= (a + 0.5) * ratio + 0.5 for a, b in itertools.pairwise(steps[1:]))


@pytest.mark.parametrize("digits", range(1, 7))
def test_checkpoints_of_a_power_of_ten_are_the_powers_of_ten(digits: int) -> None:
    config = TrainerConfig(max_steps=10**digits, checkpoints=digits + 1)
    assert checkpoint_steps(config) == [0, *(10**n for n in range(digits + 1))]


def test_one_layer_learns_to_reverse_lists_of_one_length(tmp_path: Path) -> None:
    task = Task("reverse", make_reverse(), ("a", "b", "c"), 3, 3)
    inputs = make_inputs(task, held_out=0.1)
    config = TrainerConfig(
        max_steps=250, batch_size=24, learning_rate=0.01, warmup_steps=10, accelerator="cpu"
    )
    shape = make_shape(task, "model.normalization=none")
    model = fit(make_native(shape), inputs, config, tmp_path).model.eval()
    predicted = model(inputs.tokens, attention_mask=inputs.key_mask).argmax(-1)
    assert inputs.held_out.any()
    assert (predicted == inputs.targets)[inputs.defined].all()


@pytest.mark.parametrize("clip", [1.0, 0.0])
@pytest.mark.parametrize("architecture", ["1L", "2L_attn_only"])
def test_lightning_gives_a_bare_loops_weights_to_the_last_bit(
    architecture: str, clip: float, task: Task, inputs: InputSet, tmp_path: Path
) -> None:
    config = TrainerConfig(
        max_steps=25,
        batch_size=20,
        learning_rate=0.01,
        warmup_steps=5,
        gradient_clip=clip,
        accelerator="cpu",
    )
    shape = make_shape(task, f"model={architecture}")
    trained = fit(make_native(shape), inputs, config, tmp_path).model.state_dict()
    model = make_native(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=config.weight_decay)
    rates: list[float] = []
    norms: list[float] = []
    for batch in TaskDataModule(inputs, 20, 0, 25).batches(range(25)):
        rates.append(0.01 * learning_rate_factor(len(rates), config))
        optimizer.param_groups[0]["lr"] = rates[-1]
        optimizer.zero_grad()
        logits = model(batch.tokens, attention_mask=batch.key_mask)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE
        )
        torch.autograd.backward(loss)
        bound = clip or float("inf")
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), bound)))
        optimizer.step()
    assert max(norms) > 1 > min(norms), "clipping must bite at some steps and not at others"
    assert len(set(rates)) > 20
    for key, tensor in model.state_dict().items():
        assert torch.equal(trained[key], tensor), key
