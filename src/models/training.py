"""Training: loss, optimiser, schedule, and a stop if the loss is not finite.

Runs train with a LightningModule; controls train with a plain loop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import NativeModel

from ..config.schema import TrainerConfig
from ..data.datamodule import Batch, StratifiedBatches
from ..data.inputs import InputSet
from ..data.outputs import Output
from ..infra.errors import NotFiniteError
from .bridges import make_native

EVALUATED = 4096  # inputs per batch of an evaluation
Progress = Callable[[int, int], None]  # called with the step and the number of steps


class AlgorithmicTask(pl.LightningModule):
    """Trains a NativeModel to give the program's output at every defined position.

    It trains the plain NativeModel, not a bridge: hooks cost time, and measuring on a copy cannot
    disturb training.
    """

    def __init__(self, model: NativeModel, output: Output, settings: TrainerConfig):
        super().__init__()
        self.model = model
        self.output = output
        self.settings = settings
        self.loss: Tensor | None = None

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the mean loss over the batch's defined positions: cross-entropy or squared error.

        Raises:
            NotFiniteError: the loss is infinite or not a number.
        """
        given = self.model(batch.tokens, attention_mask=batch.key_mask)
        loss = mean_loss(self.output, given, batch.targets)
        self.loss = loss.detach()
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW and its per-step schedule."""
        optimizer, schedule = _optimizer(self.model, self.settings)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def mean_loss(
    output: Output,
    given: Float[Tensor, "batch pos width"],
    targets: Int64[Tensor, "batch pos"] | Float32[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    """Return the mean loss over the defined positions: cross-entropy in nats or squared error.

    Raises:
        NotFiniteError: the loss is infinite or not a number.
    """
    count = output.defined(targets).sum().clamp(min=1)
    loss: Tensor = output.loss(given, targets).sum() / count
    if not torch.isfinite(loss):
        raise NotFiniteError(f"the loss is {loss.item()}")
    return loss


def _optimizer(
    model: NativeModel, settings: TrainerConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, settings)
    )


def optimise(
    model: NativeModel,
    loss_at: Callable[[int], Tensor],
    settings: TrainerConfig,
    progress: Progress | None = None,
    solved: Callable[[], bool] | None = None,
) -> int:
    """Train a model in place on the loss of each step; return the number of steps taken.

    Every `settings.evaluate_every` steps, `progress` is called, and training stops if `solved()`.

    Raises:
        NotFiniteError: the loss is infinite or not a number.
    """
    optimizer, schedule = _optimizer(model, settings)
    model.train()
    for step in range(settings.max_steps):
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss_at(step))
        if settings.gradient_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
        schedule.step()
        done = step + 1
        if done % settings.evaluate_every == 0 or done == settings.max_steps:
            if progress:
                progress(done, settings.max_steps)
            if solved and solved():
                return done
    return settings.max_steps


def fit(
    inputs: InputSet,
    shape: TransformerBridgeConfig,
    settings: TrainerConfig,
    seed: int,
    progress: Progress | None = None,
    stop_when_solved: bool = True,
) -> tuple[dict[str, Tensor], float, int]:
    """Train a new model; return its weights, its exact accuracy on all inputs, and the steps taken.

    The seed fixes the initialisation and the batches of training inputs. The settings of
    accelerator, checkpoints and target accuracy are ignored.

    Raises:
        UserError: the batch has fewer places than there are lengths.
        NotFiniteError: the loss is infinite or not a number.
    """
    model = make_native(with_seed(shape, seed))
    batches = StratifiedBatches(inputs, settings.batch_size, seed, range(settings.max_steps))

    def loss_at(step: int) -> Tensor:
        tokens, key_mask, targets = batches.batch(step)
        return mean_loss(inputs.output, model(tokens, attention_mask=key_mask), targets)

    def solved() -> bool:
        return exact_accuracy(model, inputs) == 1

    steps = optimise(model, loss_at, settings, progress, solved if stop_when_solved else None)
    return weights_of(model), exact_accuracy(model, inputs), steps


def with_seed(shape: TransformerBridgeConfig, seed: int) -> TransformerBridgeConfig:
    """Return a copy of a model's shape whose weights are drawn with another seed."""
    seeded = copy.copy(shape)  # dataclasses.replace would lose attention_dir
    seeded.seed = seed
    return seeded


def weights_of(model: NativeModel) -> dict[str, Tensor]:
    """Return a copy of a model's state dict."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.inference_mode()
def exact_accuracy(model: torch.nn.Module, inputs: InputSet, batch_size: int = EVALUATED) -> float:
    """Return the share of inputs whose defined outputs are all right; 1 without inputs.

    The model may be on any device; its training mode is kept.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    right = total = 0
    for rows in torch.split(torch.arange(len(inputs)), batch_size):
        tokens, key_mask = inputs.tokens[rows].to(device), inputs.key_mask[rows].to(device)
        given = model(tokens, attention_mask=key_mask).cpu()
        defined = inputs.defined[rows]
        correct = inputs.output.right(given, inputs.targets[rows])
        counted = defined.any(-1)
        right += int(((correct | ~defined).all(-1) & counted).sum())
        total += int(counted.sum())
    model.train(training)
    return right / total if total else 1.0


def learning_rate_factor(step: int, settings: TrainerConfig) -> float:
    """Return the share of the learning rate at a step: linear warm-up, then the schedule.

    >>> settings = TrainerConfig(max_steps=110, warmup_steps=10, schedule="cosine")
    >>> [round(learning_rate_factor(step, settings), 2) for step in (0, 9, 10, 60, 110)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    rest = max(1, settings.max_steps - settings.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - settings.warmup_steps) / rest)))


def checkpoint_steps(settings: TrainerConfig) -> list[int]:
    """Return the steps at which a checkpoint is kept: 0, log-spaced steps, the last.

    >>> checkpoint_steps(TrainerConfig(max_steps=1000, checkpoints=4))
    [0, 1, 10, 100, 1000]
    """
    last, count = settings.max_steps, settings.checkpoints
    spaced = (round(last ** (i / (count - 1))) for i in range(count - 1))
    return sorted({0, *spaced, last})
