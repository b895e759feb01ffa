"""The plain training loop: it learns, and the seed fixes the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.references import make_inputs
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import NativeModel

from algomatch.config.composition import compose
from algomatch.config.schema import TrainerConfig
from algomatch.data.datamodule import StratifiedBatches
from algomatch.data.inputs import InputSet, shuffled
from algomatch.data.programs import make_frac_prevs, make_previous_token, make_reverse
from algomatch.data.tasks import Task
from algomatch.infra.errors import NotFiniteError, UserError
from algomatch.models.bridges import make_native
from algomatch.models.shapes import learned_shape
from algomatch.models.training import exact_accuracy, fit, mean_loss, optimise, weights_of

SETTINGS = TrainerConfig(
    max_steps=400, batch_size=32, learning_rate=3e-3, warmup_steps=10, evaluate_every=20
)


@pytest.fixture(scope="module")
def inputs() -> InputSet:
    return make_inputs(Task("reverse", make_reverse(), ("a", "b"), 1, 3))


def shape_of(inputs: InputSet, *overrides: str) -> TransformerBridgeConfig:
    model = compose(["model=1L", "model.d_model=16", "model.n_heads=2", *overrides]).model
    return learned_shape(model, inputs, 0)


def with_steps(count: int, **others: float) -> TrainerConfig:
    return replace(SETTINGS, max_steps=count, **others)  # type: ignore[arg-type]


def test_a_task_is_learned_and_the_weights_returned_have_the_accuracy_returned(
    inputs: InputSet,
) -> None:
    weights, accuracy, steps = fit(inputs, shape_of(inputs), SETTINGS, seed=0)
    assert accuracy == 1
    assert 0 < steps < SETTINGS.max_steps
    assert steps % SETTINGS.evaluate_every == 0
    model = make_native(shape_of(inputs))
    assert exact_accuracy(model, inputs) < 1
    model.load_state_dict(weights)
    given = model(inputs.tokens, attention_mask=inputs.key_mask).argmax(-1)
    assert (given[inputs.real] == inputs.targets[inputs.real]).all()


def test_a_number_is_learned_too() -> None:
    inputs = make_inputs(Task("frac", make_frac_prevs(("a", "b")), ("a", "b"), 1, 2))
    _, accuracy, _ = fit(inputs, shape_of(inputs), SETTINGS, seed=0)
    assert accuracy == 1


def test_all_steps_are_taken_where_training_need_not_stop_and_progress_is_told(
    inputs: InputSet,
) -> None:
    told: list[tuple[int, int]] = []
    shape, settings = shape_of(inputs), with_steps(50)
    _, _, steps = fit(
        inputs, shape, settings, 0, lambda *at: told.append(at), stop_when_solved=False
    )
    assert steps == 50
    assert told == [(20, 50), (40, 50), (50, 50)]


def test_the_seed_fixes_the_weights(inputs: InputSet) -> None:
    shape, settings = shape_of(inputs), with_steps(5)
    torch.manual_seed(1)
    weights, other, third = (fit(inputs, shape, settings, seed)[0] for seed in (3, 3, 4))
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    assert any(not torch.equal(weights[name], third[name]) for name in weights)
    assert shape.seed == 0


def test_labels_without_a_rule_are_learned_worse(inputs: InputSet) -> None:
    """At equal accuracy they would be no control: they can only be learned by heart."""
    true = fit(inputs, shape_of(inputs), with_steps(60), 0)[1]
    labels = shuffled(inputs, 0)
    assert fit(labels, shape_of(labels), with_steps(60), 0)[1] < true


def test_exact_accuracy_counts_inputs_with_any_output(inputs: InputSet) -> None:
    causal = make_inputs(Task("prev", make_previous_token(), ("a", "b"), 1, 3, causal=True))
    model = make_native(shape_of(causal))
    given = model(causal.tokens, attention_mask=causal.key_mask).argmax(-1)
    wanted = [
        all(a == b for a, b, there in zip(row, targets, defined, strict=True) if there)
        for row, targets, defined in zip(
            given.tolist(), causal.targets.tolist(), causal.defined.tolist(), strict=True
        )
        if any(defined)
    ]
    assert len(wanted) == 4 + 8  # no token stands before the first position
    assert exact_accuracy(model, causal) == pytest.approx(sum(wanted) / len(wanted))


def test_the_loop_is_adamw_with_clipping_and_the_schedule(inputs: InputSet) -> None:
    settings = with_steps(6, gradient_clip=0.05)
    model, twin = make_native(shape_of(inputs)), make_native(shape_of(inputs))
    batches = StratifiedBatches(inputs, 32, 0, range(6))

    def loss_of(model: NativeModel, step: int) -> Tensor:
        tokens, key_mask, targets = batches.batch(step)
        return mean_loss(inputs.output, model(tokens, attention_mask=key_mask), targets)

    assert optimise(model, lambda step: loss_of(model, step), settings) == 6
    optimizer = torch.optim.AdamW(
        twin.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    for step in range(6):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (step + 1) / 10  # warm-up
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(twin, step))
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
        optimizer.step()
    for name, weight in weights_of(twin).items():
        torch.testing.assert_close(weights_of(model)[name], weight)


def test_no_such_batch_and_no_such_loss(inputs: InputSet) -> None:
    settings = with_steps(5, batch_size=2)
    with pytest.raises(UserError, match=r"trainer\.batch_size=2 must be at least 3"):
        fit(inputs, shape_of(inputs), settings, 0)
    settings = with_steps(200, learning_rate=1e30, gradient_clip=0.0)
    with pytest.raises(NotFiniteError):
        fit(inputs, shape_of(inputs, "model.normalization=none"), settings, 0)
