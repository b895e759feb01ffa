"""A run opened to be analysed: its config, task, inputs and reference, and a checkpoint's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ..config.composition import with_overrides
from ..config.devices import check_device, usual_overrides
from ..config.naming import task_title
from ..config.printed_commands import RunCommands, setting_words
from ..config.schema import AnalysisConfig, Config, TaskConfig
from ..data.inputs import InputSet, input_set
from ..data.tasks import Task, make_task
from ..infra.errors import UserError, need_kind, refuse_texts
from ..models.bridges import make_bridge
from ..models.reference import Reference, build_reference
from ..models.shapes import learned_shape
from ..models.task_model import TaskModel, task_model_of
from . import checkpoints
from .checkpoints import Checkpoint
from .places import is_run
from .run_folder import RunFolder

A_PATH = "the path of its folder or of a checkpoint"


@dataclass(frozen=True)
class TaskInputs:
    """A task with its inputs and its proven reference, made when they are first asked for."""

    settings: TaskConfig

    @cached_property
    def task(self) -> Task:
        """The task."""
        return make_task(self.settings)

    @cached_property
    def inputs(self) -> InputSet:
        """Its inputs, with the values of the program's variables on them."""
        return input_set(self.task, self.settings)

    @cached_property
    def reference(self) -> Reference:
        """Its compiled program."""
        return build_reference(self.inputs, self.settings.allow_inexact)


@dataclass(frozen=True)
class LoadedRun:
    """A run's checkpoint with all that is needed to analyse it; nothing of it changes.

    `path` is what was opened. `config` is the checkpoint's with the overrides applied, and its task
    as that task's files lie now.
    """

    path: Path
    checkpoint: Checkpoint
    config: Config
    shared: TaskInputs

    @classmethod
    def open(
        cls, path: str | Path, overrides: Sequence[str] = (), *, device: str | None = None
    ) -> LoadedRun:
        """Return the checkpoint at `path`: a run folder's last, a checkpoint folder's, or a file's.

        Overrides are `analysis.key=value`; `device` is analysis.device, the run's own unless given.

        Raises:
            UserError: there is no checkpoint, its task's program is gone, an override is not one of
                the analysis, or the device is not there.
            FaultError: the file cannot be read.
        """
        need_kind(path, (str, Path), f"a run is opened by {A_PATH}")
        refuse_texts(overrides=overrides)
        path = Path(path)
        checkpoint = checkpoints.load(path)
        config = with_overrides(checkpoint.config, _words(overrides, device))
        config = replace(config, task=checkpoint.task)
        check_device(config.analysis.device)
        return cls(path, checkpoint, config, TaskInputs(config.task))

    def at(self, step: int) -> LoadedRun:
        """Return another checkpoint of the run, with the same settings, inputs and reference.

        Raises:
            UserError: the run has no such step.
            FaultError: the file cannot be read.
        """
        if step == self.step:
            return self
        path = self.home / "checkpoints" / checkpoints.step_folder(step)
        if not path.is_dir():
            raise UserError(f"'{self.home}' has no checkpoint of step {step}")
        return replace(self, path=path, checkpoint=checkpoints.load(path))

    @property
    def steps(self) -> list[int]:
        """The steps of the run's checkpoints; of a checkpoint that lies alone its own."""
        if self.folder is None:
            return [self.step]
        return [checkpoints.step_of(path) for path in self.folder.checkpoint_folders()]

    @property
    def home(self) -> Path:
        """Where results on it go: the run's folder, or its own where it lies alone."""
        return self.checkpoint.home

    @cached_property
    def folder(self) -> RunFolder | None:
        """The run's folder; None where the checkpoint lies alone.

        Raises:
            UserError: its config is damaged.
        """
        return folder_of(self.checkpoint)

    @property
    def run(self) -> str:
        """The run's id, as measurements carry it."""
        return self.checkpoint.run

    @property
    def step(self) -> int:
        """The training steps behind the checkpoint."""
        return self.checkpoint.step

    @property
    def title(self) -> str:
        """The run and the step."""
        return f"{self.run}, step {self.step}"

    @property
    def commands(self) -> RunCommands:
        """What to say of the run: its commands, as they can be pasted."""
        if self.folder is not None:
            return self.folder.commands
        return RunCommands(self.path, self.config, self.config.task)

    @property
    def usual(self) -> AnalysisConfig:
        """The run's own settings of the analysis."""
        return self.checkpoint.config.analysis

    @property
    def changed(self) -> tuple[str, ...]:
        """The settings of the analysis that are not the run's own, as `analysis.key=value`."""
        return _changed(self.config.analysis, self.usual)

    @property
    def task(self) -> Task:
        """The task."""
        return self.shared.task

    @cached_property
    def inputs(self) -> InputSet:
        """The inputs that the model was trained on and those held out.

        Raises:
            UserError: they are not what they were when the run was begun.
        """
        inputs = self.shared.inputs
        check_same_inputs(self.checkpoint.inputs_digest, inputs, f"checkpoint '{self.path}'")
        return inputs

    @property
    def reference(self) -> Reference:
        """The task's compiled program."""
        return self.shared.reference

    @cached_property
    def shape(self) -> TransformerBridgeConfig:
        """The shape of the learned model, from which untrained ones are made too."""
        return learned_shape(self.config.model, self.inputs, self.config.seed)

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The learned model, on the device of the analysis.

        Raises:
            UserError: the weights do not fit the config.
        """
        try:
            return make_bridge(self.shape, self.checkpoint.weights, self.config.analysis.device)
        except RuntimeError as error:
            raise UserError(
                f"checkpoint '{self.path}': its weights do not fit its own config: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error

    @cached_property
    def task_model(self) -> TaskModel:
        """The learned model as the task's inputs meet it."""
        return task_model_of(self.bridge, self.inputs)


@dataclass(frozen=True)
class LoadedReference:
    """The compiled program of a task, to be analysed as a run is.

    `checkpoint` is of the run whose task it is, where it was opened by one.
    """

    path: Path | None
    checkpoint: Checkpoint | None
    config: Config
    shared: TaskInputs
    usual: AnalysisConfig

    @classmethod
    def open(
        cls, of: str | Path | Config, overrides: Sequence[str] = (), *, device: str | None = None
    ) -> LoadedReference:
        """Return the reference of a run's task, or of a config's.

        Overrides are `analysis.key=value`; `device` is analysis.device.

        Raises:
            UserError: as of `LoadedRun.open`.
            FaultError: the file cannot be read.
        """
        refuse_texts(overrides=overrides)
        if not isinstance(of, Config):
            return cls.of(LoadedRun.open(of, overrides, device=device))
        config = with_overrides(of, _words(overrides, device))
        check_device(config.analysis.device)
        return cls(None, None, config, TaskInputs(config.task), of.analysis)

    @classmethod
    def of(cls, run: LoadedRun) -> LoadedReference:
        """Return the reference of a run's task, with the run's settings of the analysis."""
        usual = run.checkpoint.config.analysis
        return cls(run.path, run.checkpoint, run.config, run.shared, usual)

    @property
    def step(self) -> None:
        """None: it was not trained."""
        return

    @property
    def run(self) -> str:
        """What stands for a run's id."""
        return f"compiled {self.config.task.name}"

    @property
    def title(self) -> str:
        """What it is, with what departs from the task that is named."""
        return f"the compiled reference of {task_title(self.config)}"

    @property
    def folder(self) -> RunFolder | None:
        """The folder of the run whose task it is."""
        return None if self.checkpoint is None else folder_of(self.checkpoint)

    @property
    def home(self) -> Path | None:
        """The folder of that run, or of its checkpoint where it lies alone."""
        return None if self.checkpoint is None else self.checkpoint.home

    @property
    def changed(self) -> tuple[str, ...]:
        """The settings of the analysis that are not the config's own, as `analysis.key=value`."""
        return _changed(self.config.analysis, self.usual)

    @property
    def task(self) -> Task:
        """The task."""
        return self.shared.task

    @property
    def inputs(self) -> InputSet:
        """The task's inputs."""
        return self.shared.inputs

    @property
    def reference(self) -> Reference:
        """The compiled program."""
        return self.shared.reference

    @property
    def shape(self) -> TransformerBridgeConfig:
        """The shape of the compiled model."""
        return self.bridge.cfg

    @property
    def bridge(self) -> TransformerBridge:
        """The compiled model."""
        return self.reference.bridge

    @cached_property
    def task_model(self) -> TaskModel:
        """The compiled model as the task's inputs meet it."""
        return task_model_of(self.bridge, self.inputs)


Loaded = LoadedRun | LoadedReference
Openable = Loaded | RunFolder | str | Path


def opened(path: Openable, overrides: Sequence[str], verb: str) -> Loaded:
    """Return what is to be analysed: a path or a run's folder is opened, with the overrides.

    It is opened on the device where the verb runs unless the overrides say otherwise.

    Raises:
        UserError: as of `LoadedRun.open`; or overrides are given for what is open, or are none
            that the verb uses.
        FaultError: the file cannot be read.
    """
    refuse_texts(overrides=overrides)
    if isinstance(path, RunFolder):
        path = path.path
    if isinstance(path, str | Path):
        with_overrides(Config(), overrides, verb)
        return LoadedRun.open(path, [*usual_overrides(verb), *overrides])
    need_kind(path, (LoadedRun, LoadedReference), f"give a run: {A_PATH}, or an open one")
    if overrides:
        load = "load" if isinstance(path, LoadedRun) else "load_reference"
        raise UserError(
            f"overrides are given where it is opened: algomatch.{load}(PATH, overrides)"
        )
    return path


def folder_of(checkpoint: Checkpoint) -> RunFolder | None:
    """Return the folder of a checkpoint's run; None where it lies alone.

    Raises:
        UserError: the run's config is damaged.
    """
    return RunFolder.open(checkpoint.home) if is_run(checkpoint.home) else None


def check_same_inputs(digest: str, inputs: InputSet, what: str) -> None:
    """Refuse to go on where a task's inputs are not those of which `digest` was taken.

    Raises:
        UserError: they differ.
    """
    if digest and digest != inputs.digest():
        raise UserError(
            f"{what}: the task '{inputs.task.name}' is not the one it was trained on "
            "(since then its program, inputs or tolerance changed, or a library that draws inputs)"
        )


def _words(overrides: Sequence[str], device: str | None) -> list[str]:
    return [*overrides, *([] if device is None else [f"analysis.device={device}"])]


def _changed(now: AnalysisConfig, usual: AnalysisConfig) -> tuple[str, ...]:
    return tuple(setting_words("analysis", vars(now), vars(usual)))
