"""Thin Lightning callbacks: they decide when; the analysis and the run folder do the work."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from ..analysis.base import MeasurementContext
from ..analysis.measurements import Measurement, from_csv, to_csv
from ..analysis.measures.suite import measure
from ..config.schema import TrainerConfig
from ..infra.errors import NotFiniteError
from ..infra.files import faults_named, replacing
from ..infra.signals import Stop
from ..models.bridges import make_bridge
from ..models.training import (
    AlgorithmicTask,
    checkpoint_steps,
    exact_accuracy,
    learning_rate_factor,
)
from ..runs.run_folder import RunFolder
from .wandb_log import WandbLog

SECONDS_SHOWN = 0.5  # between two redraws of the bar: one costs as much as a training step


class Recorder(pl.Callback):
    """Keeps the training curve, and measures and saves at every checkpoint step.

    Rows that are in no checkpoint yet are kept in the training state. So a run that was killed at
    any moment ends with the same rows as an uninterrupted one.
    """

    def __init__(
        self,
        folder: RunFolder,
        context: MeasurementContext,
        wandb_log: WandbLog,
        say: Callable[[str], None],
    ):
        self._folder, self._context, self._wandb, self._say = folder, context, wandb_log, say
        self._settings: TrainerConfig = folder.config.trainer
        self._steps = set(checkpoint_steps(self._settings))
        self._pending: list[Measurement] = []
        self._saved_at = time.monotonic()
        self.finished: str | None = None
        self._reached: int | None = None  # the step at which the target was reached
        self.seconds_measuring = self.seconds_training = 0.0
        self._trained_from = self._saved_at

    def state_dict(self) -> dict[str, Any]:
        """Return the state a resumed run needs: rows in no checkpoint yet, and its progress."""
        return {
            "pending": to_csv(self._pending).decode(),
            "finished": self.finished,
            "reached": self._reached,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over an interrupted run's state."""
        self._pending = from_csv(state_dict["pending"].encode(), str(self._folder.resume_path))
        self.finished = state_dict["finished"]
        self._reached = state_dict.get("reached")  # states of earlier versions have none

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the model as it was initialised."""
        if trainer.ckpt_path is None:
            self._checkpoint(trainer, pl_module)
        self._trained_from = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log, evaluate, measure and save, each at its steps."""
        self.seconds_training += time.monotonic() - self._trained_from
        settings, step = self._settings, trainer.global_step
        if step % settings.log_every == 0 or step in self._steps:
            self._pending += self._training_rows(step, pl_module, len(batch.tokens))
        if step >= settings.max_steps:
            self.finished = "max_steps"
        elif self._is_past_target(step, pl_module):
            self.finished = "target_accuracy"
            trainer.should_stop = True
        if step in self._steps or self.finished:
            self._checkpoint(trainer, pl_module)
        elif time.monotonic() - self._saved_at >= settings.save_every_seconds:
            self.save_state(trainer)
        self._trained_from = time.monotonic()

    def save_state(self, trainer: pl.Trainer) -> None:
        """Write the training state, whole or not at all.

        Raises:
            FaultError: it could not be written; the earlier state is untouched.
        """
        with (
            faults_named(f"save the training state at step {trainer.global_step}"),
            replacing(self._folder.resume_path) as path,
        ):
            trainer.save_checkpoint(path, weights_only=False)
        self._saved_at = time.monotonic()

    def _training_rows(
        self, step: int, module: pl.LightningModule, batch_size: int
    ) -> list[Measurement]:
        assert isinstance(module, AlgorithmicTask)
        assert module.loss is not None
        rate = self._settings.learning_rate * learning_rate_factor(step - 1, self._settings)
        rows = (
            Measurement("training/loss", "batch", float(module.loss), batch_size),
            Measurement("training/learning_rate", "batch", rate, 1),
        )
        return [row.at(self._folder.id, step) for row in rows]

    def _is_past_target(self, step: int, module: pl.LightningModule) -> bool:
        """Return whether the target was reached and the further steps are done."""
        settings = self._settings
        if self._reached is None:
            if settings.target_accuracy is None or step % settings.evaluate_every:
                return False
            assert isinstance(module, AlgorithmicTask)
            size = self._context.config.batch_size
            exact = exact_accuracy(module.model, self._context.inputs, size)
            if exact < settings.target_accuracy:
                return False
            self._reached = step
        return step >= self._reached + settings.steps_after_target

    def _checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, AlgorithmicTask)
        step = trainer.global_step
        weights = {name: value.detach().cpu() for name, value in module.model.state_dict().items()}
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise NotFiniteError("a weight is not a finite number")
        started = time.monotonic()
        bridge = make_bridge(self._context.shape, weights, self._context.config.device)
        rows = [row.at(self._folder.id, step) for row in measure(bridge, self._context)]
        self.seconds_measuring += time.monotonic() - started
        new = [*self._pending, *rows]
        self._folder.save_checkpoint(weights, step, new)
        self._pending = []
        self.save_state(trainer)
        self._wandb.log(new)
        self._say(_line(step, new))


def _line(step: int, rows: list[Measurement]) -> str:
    values = {row.key: row.value for row in rows}
    parts = [f"step {step:>6}"]
    for label, key in (
        ("loss", "accuracy/all/loss"),
        ("exact", "accuracy/all/exact"),
        ("held out", "accuracy/held_out/exact"),
    ):
        if key in values:
            parts.append(f"{label} {values[key]:.3f}")
    return "  ".join(parts)


class GracefulStop(pl.Callback):
    """Stops a run on request, after the current step, and saves its state.

    After SIGUSR1, W&B is told that another agent may resume the run.
    """

    def __init__(self, stop: Stop, recorder: Recorder, wandb_log: WandbLog):
        self._stop, self._recorder, self._wandb = stop, recorder, wandb_log

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning, which restores them at its end."""
        self._stop.take()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save the state and stop if a signal came."""
        if self._stop.received is not None and not self._recorder.finished:
            self._recorder.save_state(trainer)
            if self._stop.received == signal.SIGUSR1:
                self._wandb.preempted()
            trainer.should_stop = True


class StepReport(pl.Callback):
    """Reports the number of steps done."""

    def __init__(self, report: Callable[[int], None]):
        self._report = report

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report the step."""
        self._report(trainer.global_step)


class ProgressBar(pl.Callback):
    """A rich bar over the run's steps, with the remaining time and the last batch's loss."""

    def __init__(self, console: Console, max_steps: int):
        self._max_steps = max_steps
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, loss {task.fields[loss]}, remaining"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=1 / SECONDS_SHOWN,
        )
        self._shown_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar from the step the run starts at."""
        self._progress.start()
        self._task = self._progress.add_task(
            "", total=self._max_steps, completed=trainer.global_step, loss="-"
        )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the bar now and then."""
        if time.monotonic() - self._shown_at < SECONDS_SHOWN:
            return
        self._shown_at = time.monotonic()
        assert isinstance(pl_module, AlgorithmicTask)
        loss = "-" if pl_module.loss is None else f"{float(pl_module.loss):.3f}"
        self._progress.update(self._task, completed=trainer.global_step, loss=loss)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the bar."""
        self._progress.stop()
