"""What `algomatch train` does: it trains and measures a run, or continues an interrupted one."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.profilers import PassThroughProfiler
from rich.console import Console

from ..analysis.base import MeasurementContext
from ..analysis.measures.registered_measures import measured, with_measures
from ..analysis.measures.similarity import confounded
from ..config.composition import check_same_settings
from ..config.devices import check_accelerator
from ..config.naming import model_title, task_title
from ..config.schema import A_CONFIG, Config, TrainerConfig
from ..data.datamodule import TaskDataModule
from ..data.program_copies import copied_files
from ..infra.environment import hidden, is_of_a_launcher
from ..infra.errors import (
    FaultError,
    FolderExistsError,
    Interrupted,
    NotFiniteError,
    need_kind,
)
from ..infra.signals import Stop
from ..models.bridges import make_native
from ..models.training import AlgorithmicTask, checkpoint_steps
from ..report.figures.run_figure import save_run_figure
from ..report.terminal.summary import how_many, output_text, print_summary, reference_text
from ..report.terminal.tables import say as printed
from ..runs import checkpoints
from ..runs.control_record import failing
from ..runs.loaded_run import check_same_inputs
from ..runs.places import refuse_existing
from ..runs.run_folder import RunFolder
from ..tracking.callbacks import GracefulStop, ProgressBar, Recorder, StepReport
from ..tracking.wandb_log import WandbLog
from .preparation import prepare

StepProgress = Callable[[int], None]  # called with the number of steps done


def train(
    config: Config,
    console: Console | None = None,
    report: StepProgress | None = None,
    wandb_id: str | None = None,
    stop: Stop | None = None,
) -> RunFolder:
    """Train and measure a new run; return its folder.

    Without a console nothing is printed. `report` is told the steps done, in place of a bar on the
    console. W&B has the run by `wandb_id`, where its server chose one. `stop` may have been asked
    to before the run begins.

    Example:
        run = algomatch.train(algomatch.compose(["task=reverse", "model=2L", "tracking=disabled"]))

    Raises:
        UserError: the config is impossible, or the run folder exists.
        FaultError: training diverged, or the file system failed.
        Interrupted: stopped by a signal, to be resumed.
    """
    need_kind(config, Config, f"train takes {A_CONFIG}")
    console = console or Console(quiet=True)
    config = with_measures(config)
    refuse_existing(config)
    check_accelerator(config.trainer.accelerator)
    context = prepare(config)
    datamodule = _datamodule(config, context)
    folder = RunFolder.create(config, context.inputs.digest(), context.reference.exact, wandb_id)
    if left_out := copied_files(config.task).left_out:
        named = ", ".join(map(str, left_out))
        console.print(
            f"! imported but not copied into the run, because it is not beside or below the "
            f"program: {named}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    return _run(folder, context, datamodule, console, report, stop)


def train_or_resume(
    config: Config,
    console: Console | None = None,
    report: StepProgress | None = None,
    wandb_id: str | None = None,
    stop: Stop | None = None,
) -> RunFolder:
    """Train the run of `run_dir`, or resume it; a finished run is left alone.

    Raises:
        UserError: as in `train` and `resume`, or the run was begun with other settings.
        FaultError: as in `train`.
        Interrupted: stopped by a signal, to be resumed.
    """
    path = Path(str(config.run_dir))
    if not path.exists():
        try:
            return train(config, console, report, wandb_id, stop)
        except FolderExistsError:  # another process was faster
            pass
    check_same_settings(path, with_measures(config), RunFolder.open(path).config)
    return resume(path, console, report, stop)


def resume(
    path: str | Path,
    console: Console | None = None,
    report: StepProgress | None = None,
    stop: Stop | None = None,
) -> RunFolder:
    """Resume an interrupted run; it ends exactly like an uninterrupted one.

    Without a console nothing is printed.

    Example:
        run = algomatch.resume("runs/RUN")

    Raises:
        UserError: `path` is not a run folder.
        BusyError: another process works on it.
    """
    need_kind(path, (str, Path), "resume takes the path of a run's folder")
    console = console or Console(quiet=True)
    folder = RunFolder.open(Path(path))
    if folder.finished():
        with folder.lock():
            folder.repair(partial(console.print, highlight=False, markup=False, soft_wrap=True))
        _say_finished(folder, console)
        return folder
    check_accelerator(folder.config.trainer.accelerator)
    context = prepare(replace(folder.config, task=folder.task))
    check_same_inputs(folder.inputs_digest, context.inputs, f"run '{path}'")
    return _run(folder, context, _datamodule(folder.config, context), console, report, stop)


def _say_finished(folder: RunFolder, console: Console) -> None:
    ended = folder.finished()
    assert ended is not None, "it is asked of a finished run"
    told = f"'{folder.path}' finished at step {ended['step']} ({ended['reason']})"
    console.print(told, highlight=False, markup=False, soft_wrap=True)
    print_summary(folder, None, console, failing(folder.inputs_digest))


def _datamodule(config: Config, context: MeasurementContext) -> TaskDataModule:
    settings = config.trainer
    return TaskDataModule(context.inputs, settings.batch_size, config.seed, settings.max_steps)


@dataclass(frozen=True)
class _State:
    """The progress of an interrupted run, from its saved training state."""

    path: Path
    step: int
    finished: str | None


def _run(
    folder: RunFolder,
    context: MeasurementContext,
    datamodule: TaskDataModule,
    console: Console,
    report: StepProgress | None,
    stop: Stop | None,
) -> RunFolder:
    say = partial(printed, console=console)
    started = time.monotonic()
    stop = stop or Stop(say)
    with folder.lock(), stop.taken():
        folder.repair(say)
        if folder.finished():  # another process finished it a moment ago
            _say_finished(folder, console)
            return folder
        state = _read_state(folder, say)
        if state and (gone := _gone(folder, state.step)):
            steps = ", ".join(map(str, gone))
            say(
                f"the checkpoints of steps {steps} are missing: the run starts again, "
                "to the same end"
            )
            state = None
        _announce(folder, context, state, say)
        wandb_log = WandbLog(folder, say)
        recorder = Recorder(folder, context, wandb_log, say)
        last = folder.config.trainer.max_steps
        bar = StepReport(report) if report else ProgressBar(console, last)
        callbacks: list[pl.Callback] = [bar, recorder, GracefulStop(stop, recorder, wandb_log)]
        try:
            wandb_log.start(folder.measurements(up_to=state.step) if state else ())
        except FaultError as error:
            raise FaultError(
                f"{error}, and tracking.unreachable=stop: fix the connection, then "
                f"continue by `{folder.commands.resume}`"
            ) from error
        reason = state.finished if state else None
        try:
            if reason is None:
                _fit(folder, context, datamodule, recorder, state, callbacks, stop)
                reason = recorder.finished
        except BaseException:
            wandb_log.close(exit_code=1)
            raise
        assert reason is not None, "a run that was not interrupted has a reason to end"
        seconds = time.monotonic() - started
        say(
            f"training took {recorder.seconds_training:.1f} s, "
            f"measuring {recorder.seconds_measuring:.1f} s, of {seconds:.1f} s"
        )
        rows = folder.measurements()
        try:
            save_run_figure(folder, rows, failing(folder.inputs_digest))
        except OSError as error:
            say(f"the figure was not drawn: {error}")
        wandb_log.finish(rows)
        folder.finish(max(row.step for row in rows), reason, wandb_log.problem)
        print_summary(folder, wandb_log, console, failing(folder.inputs_digest))
    return folder


class _NoProfiler(PassThroughProfiler):
    """A profiler that does nothing and makes no context objects.

    Lightning's own makes some fifty of them per step, a noticeable cost for a small model.
    """

    _NOTHING: ClassVar[AbstractContextManager[None]] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._NOTHING


def make_trainer(settings: TrainerConfig, callbacks: list[pl.Callback], folder: Path) -> pl.Trainer:
    """Return a trainer that leaves logging, checkpoints and progress to the callbacks."""
    return pl.Trainer(
        max_steps=settings.max_steps,
        accelerator=settings.accelerator,
        devices=1,
        gradient_clip_val=settings.gradient_clip or None,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        profiler=_NoProfiler(),
        plugins=[LightningEnvironment()],  # otherwise it would join SLURM's tasks
    )


def _fit(
    folder: RunFolder,
    context: MeasurementContext,
    datamodule: TaskDataModule,
    recorder: Recorder,
    state: _State | None,
    callbacks: list[pl.Callback],
    stop: Stop,
) -> None:
    settings = folder.config.trainer
    module = AlgorithmicTask(make_native(context.shape), context.inputs.output, settings)
    with quiet_lightning():
        trainer = make_trainer(settings, callbacks, folder.path)
        try:
            trainer.fit(
                module,
                datamodule=datamodule,
                ckpt_path=state.path if state else None,
                weights_only=True,
            )
        except NotFiniteError as error:
            raise NotFiniteError(
                f"training diverged at step {trainer.global_step} "
                f"(trainer.learning_rate={settings.learning_rate}): {error}; lower the learning "
                "rate or trainer.gradient_clip, or lengthen trainer.warmup_steps; "
                f"{_last_good(folder)}"
            ) from error
        except FaultError as error:
            again = f"then continue by `{folder.commands.resume}`"
            raise FaultError(f"{error}; fix that, {again}") from error
        except (KeyboardInterrupt, SystemExit):  # Lightning exits on Ctrl-C
            raise _interrupted(folder, signal.SIGINT) from None
    if stop.received is not None and not recorder.finished:
        raise _interrupted(folder, stop.received)


def _read_state(folder: RunFolder, say: Callable[[str], None]) -> _State | None:
    path = folder.resume_path
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        finished = saved["callbacks"][Recorder.__qualname__]["finished"]
        return _State(path, int(saved["global_step"]), finished)
    except OSError as error:
        raise FaultError(f"cannot read '{path}': {error.strerror or error}") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        say(f"'{path}' is damaged ({type(error).__name__}): the run starts again, to the same end")
        return None


def _gone(folder: RunFolder, up_to: int) -> list[int]:
    """Return the steps whose checkpoints an interrupted run should have but lacks."""
    there = {checkpoints.step_of(path) for path in folder.checkpoint_folders()}
    return [s for s in checkpoint_steps(folder.config.trainer) if s <= up_to and s not in there]


def _announce(
    folder: RunFolder, context: MeasurementContext, state: _State | None, say: Callable[[str], None]
) -> None:
    inputs, reference, shape = context.inputs, context.reference, context.shape
    task = inputs.task
    say(
        f"task {task_title(folder.config)}: {how_many(inputs)} of length {task.min_length} to "
        f"{task.max_length} "
        f"over {len(task.vocabulary)} tokens, {int(inputs.held_out.sum()):,} held out"
    )
    say(f"output: {output_text(inputs)}")
    say(f"reference: {reference_text(reference)}")
    if "similarity" in measured(context.config) and (names := confounded(context)):
        say(
            f"no dCKA for {' and '.join(names)}: on these inputs, token and position determine them"
        )
    mlps = "no MLP" if shape.attn_only else f"d_mlp {shape.d_mlp}"
    say(
        f"model {model_title(folder.config)}: n_layers {shape.n_layers}, n_heads {shape.n_heads}, "
        f"d_model {shape.d_model}, {mlps}, seed {folder.config.seed}"
    )
    say(f"run folder: {folder.path}" + (f", continuing from step {state.step}" if state else ""))


def _interrupted(folder: RunFolder, signal_number: int) -> Interrupted:
    how = f"stopped; continue by `{folder.commands.resume}`"
    return Interrupted(how, signal_number)


def _last_good(folder: RunFolder) -> str:
    kept = folder.checkpoint_folders()
    return f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's general advice from the terminal, and launchers' ranks from Lightning.

    Errors are still shown. Training is one process, no matter how it was started.
    """
    LightningEnvironment().set_global_rank(0)  # Lightning read the rank at import
    loggers = [logging.getLogger(f"{name}.utilities.rank_zero") for name in _LIGHTNING]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with hidden(is_of_a_launcher), warnings.catch_warnings():
        for message in _ADVICE:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


_LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")
_ADVICE = (
    r".*does not have many workers.*",  # not needed: batches are ready-made tensors
    r".*GPU available but not used.*",
    r".*The `srun` command is available on your system but is not used.*",
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own, with torch 2.13
)
