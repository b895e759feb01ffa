"""The LightningModule: loss, optimiser, schedule, and a stop where the loss is not finite."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from transformer_lens.model_bridge.sources.native import NativeModel

from ..config import TrainerConfig
from ..data.datamodule import Batch
from ..data.outputs import Output
from ..errors import NotFiniteError


class AlgorithmicTask(pl.LightningModule):
    """Trains a NativeModel to give the program's output at every defined position.

    The plain NativeModel is trained, not a bridge: hooks cost time, and measuring on a copy
    cannot disturb training.
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
        count = self.output.defined(batch.targets).sum().clamp(min=1)
        loss = self.output.loss(given, batch.targets).sum() / count
        if not torch.isfinite(loss):
            raise NotFiniteError(f"the loss is {loss.item()}")
        self.loss = loss.detach()
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW and its per-step schedule."""
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, settings)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


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
    """Return the steps at which a checkpoint is kept: 0, log-spaced ones, the last.

    >>> checkpoint_steps(TrainerConfig(max_steps=1000, checkpoints=4))
    [0, 1, 10, 100, 1000]
    """
    last, count = settings.max_steps, settings.checkpoints
    spaced = (round(last ** (i / (count - 1))) for i in range(count - 1))
    return sorted({0, *spaced, last})
