"""Builds everything from one config, and runs it: train, resume, analyze and controls."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.profilers import PassThroughProfiler
from rich.console import Console
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from .analysis.controls import (
    Control,
    NotMadeError,
    controls,
)
from .analysis.measurements import Measurement, differences
from .analysis.other_tasks import other_references
from .analysis.separation import separations
from .analysis.setting import Setting
from .analysis.similarity import confounded
from .analysis.suite import check_names, measure
from .config import (
    Config,
    TaskConfig,
    TrainerConfig,
    check_same_settings,
    model_title,
    task_title,
)
from .data.copies import carried
from .data.datamodule import TaskDataModule
from .data.inputs import InputSet, input_set
from .data.tasks import make_task
from .devices import check_accelerator, check_device
from .environment import hidden, is_of_a_launcher
from .errors import (
    FaultError,
    FolderExistsError,
    Interrupted,
    NotFiniteError,
    UserError,
)
from .files import Unwritten
from .models.bridges import make_bridge, make_native
from .models.learned import learned_shape
from .models.reference import build_reference
from .models.training import AlgorithmicTask, checkpoint_steps
from .progress import Steps
from .report.control_table import controls_figure, print_controls
from .report.figures import save_run_figure
from .report.summary import how_many, output_text, print_summary, reference_text
from .report.tables import say as printed
from .stopping import Stop
from .tracking import checkpoints
from .tracking.callbacks import GracefulStop, ProgressBar, Recorder, StepReport
from .tracking.control_record import ControlRecord, Kept, failing
from .tracking.run_folder import RunFolder, refuse_existing
from .tracking.wandb_log import WandbLog

StepProgress = Callable[[int], None]  # called with the number of steps done


def prepare(config: Config, task: TaskConfig | None = None) -> Setting:
    """Return the inputs, the validated reference and the shape of the learned model.

    `task` is the config's, with its files' current paths.

    Raises:
        UserError: the task, its program or the measures are not valid.
    """
    check_names(config.analysis.measures)
    check_device(config.analysis.device)
    torch.set_num_threads(config.threads)  # the number affects the last bits of sums
    task = task or config.task
    inputs = input_set(make_task(task), task)
    reference = build_reference(inputs, task.allow_inexact)
    shape = learned_shape(config.model, inputs, config.seed)

    def others() -> list[TransformerBridge]:
        references = other_references(inputs, task, config.analysis.other_tasks)
        return [other.bridge for other in references]

    return Setting(inputs, reference, shape, config.analysis, others)


def train(
    config: Config,
    console: Console,
    report: StepProgress | None = None,
    wandb_id: str | None = None,
    stop: Stop | None = None,
) -> RunFolder:
    """Train and measure a new run; return its folder.

    `report` is called with the steps done, instead of a bar on the console. `wandb_id` is the run's
    W&B id, if a server chose one. `stop` may have been requested before the run begins.

    Raises:
        UserError: the config is impossible, or the run folder exists.
        FaultError: training diverged, or the file system failed.
        Interrupted: stopped by a signal, to be resumed.
    """
    refuse_existing(config)
    check_accelerator(config.trainer.accelerator)
    setting = prepare(config)
    datamodule = _datamodule(config, setting)
    folder = RunFolder.create(config, setting.inputs.digest(), setting.reference.exact, wandb_id)
    if left_out := carried(config.task).left_out:
        named = ", ".join(map(str, left_out))
        console.print(
            f"! imported, but not copied into the run, since it does not lie beside or below the "
            f"program: {named}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    return _run(folder, setting, datamodule, console, report, stop)


def train_or_resume(
    config: Config,
    console: Console,
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
    check_same_settings(path, config, RunFolder.open(path).config)
    return resume(path, console, report, stop)


def resume(
    path: Path, console: Console, report: StepProgress | None = None, stop: Stop | None = None
) -> RunFolder:
    """Resume an interrupted run; it ends exactly like an uninterrupted one.

    Raises:
        UserError: `path` is not a run folder.
        BusyError: another process works on it.
    """
    folder = RunFolder.open(path)
    if folder.finished():
        with folder.lock():
            folder.repair(partial(console.print, highlight=False, markup=False, soft_wrap=True))
        _say_finished(folder, console)
        return folder
    check_accelerator(folder.config.trainer.accelerator)
    setting = prepare(folder.config, folder.task)
    _check_same(folder.inputs_digest, setting.inputs, f"run '{path}'")
    return _run(folder, setting, _datamodule(folder.config, setting), console, report, stop)


def _say_finished(folder: RunFolder, console: Console) -> None:
    ended = folder.finished()
    assert ended is not None, "it is asked of a finished run"
    told = f"'{folder.path}' finished at step {ended['step']} ({ended['reason']})"
    console.print(told, highlight=False, markup=False, soft_wrap=True)
    print_summary(folder, None, console, failing(folder.inputs_digest))


@dataclass(frozen=True)
class Analysis:
    """A checkpoint measured again: its rows, and their differences from the recorded ones.

    `differences` is None if the file lies alone, without a record to compare with.
    """

    checkpoint: checkpoints.Checkpoint
    rows: list[Measurement]
    differences: list[str] | None


def analyze(path: Path, device: str | None = None) -> Analysis:
    """Measure a checkpoint from its file alone, and compare with the record beside it.

    `device` is the config's unless given.

    Raises:
        UserError: `path` is not a checkpoint.
        FaultError: the record beside it is damaged.
    """
    checkpoint = checkpoints.load(path)
    config = checkpoint.config
    config.analysis.device = device or config.analysis.device
    setting = prepare(config, checkpoint.task)
    bridge = bridge_of(checkpoint, path, setting.inputs, setting.shape)
    rows = [row.at(checkpoint.run, checkpoint.step) for row in measure(bridge, setting)]
    record = checkpoints.find(path).parent
    if not (record / checkpoints.ROWS).is_file():
        return Analysis(checkpoint, rows, None)
    recorded = [
        row
        for row in checkpoints.load_rows(record, checkpoint.rows_digest)
        if not row.measure.startswith("training/")
    ]
    return Analysis(checkpoint, rows, differences(recorded, rows))


def bridge_of(
    checkpoint: checkpoints.Checkpoint, path: Path, inputs: InputSet, shape: TransformerBridgeConfig
) -> TransformerBridge:
    """Return a checkpoint's model; refuse it if the task or the model's shape has changed."""
    _check_same(checkpoint.inputs_digest, inputs, f"checkpoint '{path}'")
    try:
        return make_bridge(shape, checkpoint.weights, checkpoint.config.analysis.device)
    except RuntimeError as error:
        raise UserError(
            f"checkpoint '{path}': its weights do not fit its own config: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def study_controls(config: Config, again: bool, console: Console) -> ControlRecord:
    """Measure a task's controls; print which measures separate the program from other models.

    Controls that were measured before with the same config are measured again only if `again`.

    Raises:
        UserError: the config is impossible.
        FaultError: the file system failed.
    """
    check_accelerator(config.trainer.accelerator)
    setting = prepare(config)
    record = ControlRecord(config, setting.inputs.digest())
    record.begin()
    planned = controls(setting.inputs, setting.reference, setting.shape, config)
    measured, notes = list[tuple[Control, Sequence[Measurement]]](), dict[str, str]()
    kept, unwritten = list[Kept](), Unwritten()
    with Steps(console, "controls", len(planned)) as steps:
        for control in planned:
            entry = None if again else record.kept(control.name)
            with steps.part(control.name) as told:
                if entry is None:
                    entry = _measured(control, setting, told)
                    with unwritten.noted():
                        record.keep(control.name, entry)
            notes[control.name] = entry.note
            if entry.rows:
                measured.append((control, entry.rows))
                kept.append(entry)
    verdicts = separations(measured)
    title = f"Controls of {task_title(config)}, {model_title(config)}"
    print_controls(title, measured, notes, verdicts, console)
    unwritten.tell()
    record.finish(kept, verdicts, controls_figure(title, measured, verdicts))
    where = f"measurements, verdicts and figure: {record.path}"
    console.print(where, highlight=False, markup=False, soft_wrap=True)
    return record


def _measured(control: Control, setting: Setting, progress: Callable[[int, int], None]) -> Kept:
    """Return a control's measurements; none, with the reason, if it cannot be made."""
    try:
        made = control.make(progress)
        rows = [row.at(control.name, 0) for row in measure(made.bridge, setting)]
    except (NotMadeError, NotFiniteError) as error:
        return Kept((), str(error))
    return Kept(rows, made.note)


def _check_same(digest: str, inputs: InputSet, what: str) -> None:
    """Refuse to resume a run whose task has changed since its start."""
    if digest and digest != inputs.digest():
        raise UserError(
            f"{what}: the task '{inputs.task.name}' is not the one it was trained on (its program, "
            "inputs or tolerance changed since, or a library that draws them)"
        )


def _datamodule(config: Config, setting: Setting) -> TaskDataModule:
    settings = config.trainer
    return TaskDataModule(setting.inputs, settings.batch_size, config.seed, settings.max_steps)


@dataclass(frozen=True)
class _State:
    """The progress of an interrupted run, from its saved training state."""

    path: Path
    step: int
    finished: str | None


def _run(
    folder: RunFolder,
    setting: Setting,
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
            say(f"the checkpoints of steps {steps} are gone: the run starts again, to the same end")
            state = None
        _announce(folder, setting, state, say)
        wandb_log = WandbLog(folder, say)
        recorder = Recorder(folder, setting, wandb_log, say)
        last = folder.config.trainer.max_steps
        bar = StepReport(report) if report else ProgressBar(console, last)
        callbacks: list[pl.Callback] = [bar, recorder, GracefulStop(stop, recorder, wandb_log)]
        try:
            wandb_log.start(folder.measurements(up_to=state.step) if state else ())
        except FaultError as error:
            raise FaultError(
                f"{error}, and tracking.unreachable=stop: mend that, then "
                f"`{folder.commands.resume}` goes on"
            ) from error
        reason = state.finished if state else None
        try:
            if reason is None:
                _fit(folder, setting, datamodule, recorder, state, callbacks, stop)
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
    setting: Setting,
    datamodule: TaskDataModule,
    recorder: Recorder,
    state: _State | None,
    callbacks: list[pl.Callback],
    stop: Stop,
) -> None:
    settings = folder.config.trainer
    module = AlgorithmicTask(make_native(setting.shape), setting.inputs.output, settings)
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
            again = f"then `{folder.commands.resume}` goes on"
            raise FaultError(f"{error}; mend that, {again}") from error
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
    folder: RunFolder, setting: Setting, state: _State | None, say: Callable[[str], None]
) -> None:
    inputs, reference, shape = setting.inputs, setting.reference, setting.shape
    task = inputs.task
    say(
        f"task {task_title(folder.config)}: {how_many(inputs)} of length {task.min_length} to "
        f"{task.max_length} "
        f"over {len(task.vocabulary)} tokens, {int(inputs.held_out.sum()):,} held out"
    )
    say(f"output: {output_text(inputs)}")
    say(f"reference: {reference_text(reference)}")
    if "similarity" in setting.config.measures and (names := confounded(setting)):
        say(f"no dCKA of {', '.join(names)}: functions of token and position on these inputs")
    mlps = "no MLP" if shape.attn_only else f"d_mlp {shape.d_mlp}"
    say(
        f"model {model_title(folder.config)}: n_layers {shape.n_layers}, n_heads {shape.n_heads}, "
        f"d_model {shape.d_model}, {mlps}, seed {folder.config.seed}"
    )
    say(f"run folder: {folder.path}" + (f", going on from step {state.step}" if state else ""))


def _interrupted(folder: RunFolder, signal_number: int) -> Interrupted:
    how = f"stopped; go on with `{folder.commands.resume}`"
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
