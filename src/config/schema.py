"""The schema of a config: each setting is one field, with its bounds and what it is beside it.

A new setting is a new field: checks, errors and the table in `docs/configuration.md` follow.
"""

# ruff: noqa: RUF009 (a field is made by one call, which says its bounds too)

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..infra.errors import UserError, one_of

GROUPS = ("task", "model", "analysis", "tracking")  # whose values a named file gives
SEEDS = 2**63  # a seed is below it
A_CONFIG = "a config, as algomatch.compose(['task=reverse'])"  # where another kind is given
A_TASK = "a config's task, as algomatch.compose(['task=reverse']).task"


@dataclass(frozen=True)
class Bounds:
    """The numbers that a setting can be; an end is None where there is none."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Return whether a value is finite and within the bounds."""
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        ends = (("at least", self.least), ("above", self.above), ("at most", self.most),
                ("below", self.below))  # fmt: skip
        return " and ".join(f"{words} {_number(end)}" for words, end in ends if end is not None)


def _number(value: float) -> str:
    return "2**63" if value == SEEDS else f"{value:g}"


@dataclass(frozen=True)
class Setting:
    """What is known of a setting besides its type and default.

    `about` says what it is, in a whole number's error too. The documentation goes on with `more`,
    in Markdown, and shows `unset` as the default where that is null. A `free` setting changes
    neither a run's weights nor its numbers, but for rounding on an accelerator.
    """

    about: str = ""
    more: str = ""
    unset: str = ""
    bounds: Bounds | None = None
    choices: Sequence[str] = ()
    free: bool = False


def _setting(
    default: Any,
    about: str,
    *,
    more: str = "",
    unset: str = "",
    choices: Sequence[str] = (),
    free: bool = False,
    **bounds: float,
) -> Any:
    """Return the field of a setting, with its bounds: `least`, `above`, `most`, `below`."""
    limits = Bounds(**bounds) if bounds else None
    metadata = {"setting": Setting(about, more, unset, limits, choices, free)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _share(default: float, about: str, more: str = "") -> Any:
    return _setting(default, about, more=more, least=0, most=1)


def _group(schema: type, free: bool = False) -> Any:
    return field(default_factory=schema, metadata={"setting": Setting(free=free)})


@dataclass(frozen=True)
class TaskConfig:
    """What is to be computed, over which inputs, and which of them are held out."""

    name: str = _setting(
        "reverse",
        "the task: a registered task or alternative, a file of `configs/task/`, or "
        "`path.py:function` with the YAML file beside it",
        more=" ([tasks](tasks.md)); `task=` is short for it",
    )
    program: str | None = _setting(
        None,
        "the program, if the task's name does not say it: a registered program's name, or "
        "`path.py:function`",
        more=" (`reverse_fixed` has `reverse`)",
        unset="the task's name",
    )
    vocabulary: list[Any] | None = _setting(
        None, "the tokens of a list: texts or numbers", unset="the task's own"
    )
    min_length: int | None = _setting(
        None, "tokens of the shortest list", unset="the task's own", least=1
    )
    max_length: int | None = _setting(
        None, "tokens of the longest list", unset="the task's own", least=1
    )
    causal: bool | None = _setting(
        None,
        "whether no position may see later ones, in the program, the reference and the model",
        unset="the task's own",
    )
    restrict: str | None = _setting(
        None,
        "which lists are inputs: `unique` (no token twice), `none` (no restriction), or a function "
        "of the list, `path.py:function`",
        unset="the task's own",
    )
    tolerance: float | None = _setting(
        None,
        "how far off a numerical output may be and still count as right",
        more="; numbers are never exactly right",
        unset="from the outputs",
        above=0,
    )
    alternatives: list[str] | None = _setting(
        None, "other programs that compute the same outputs", unset="the task's own"
    )
    allow_inexact: bool = _setting(
        False, "continue with a reference that differs from its program, and mark every result"
    )
    held_out: float = _setting(
        0.1, "share of each length's inputs that is never trained on", least=0, below=1
    )
    held_out_lengths: list[int] = _setting([], "lengths that are never trained on")
    split_seed: int = _setting(
        0, "seed of the choice of held-out inputs", more=", and of sampled inputs", least=0
    )
    max_inputs: int = _setting(
        20_000,
        "largest number of inputs",
        more="; if there are more, a sample stratified by length",
        least=1,
    )


@dataclass(frozen=True)
class ModelConfig:
    """The learned model's architecture."""

    name: str = _setting(
        "2L_attn_only", "the architecture: a file of `configs/model/`",
        more="; `model=` is short for it",
    )  # fmt: skip
    n_layers: int = _setting(2, "blocks", least=1)
    attn_only: bool = _setting(True, "whether the blocks have no MLP")
    d_model: int = _setting(64, "dimensions of the residual stream", least=1)
    n_heads: int = _setting(4, "attention heads of a block", least=1)
    d_head: int | None = _setting(
        None, "dimensions of a head", unset="d_model / n_heads", least=1
    )  # fmt: skip
    d_mlp: int | None = _setting(None, "neurons of an MLP", unset="4 d_model", least=1)
    act_fn: str = _setting(
        "relu", "activation of the MLPs' neurons", choices=("relu", "gelu", "gelu_new", "silu")
    )
    normalization: str = _setting("LN", "LayerNorm, or no normalization", choices=("LN", "none"))

    @property
    def head_width(self) -> int:
        """`d_head`, by default `d_model / n_heads`."""
        return self.d_model // self.n_heads if self.d_head is None else self.d_head

    @property
    def mlp_width(self) -> int:
        """`d_mlp`, by default `4 * d_model`."""
        return 4 * self.d_model if self.d_mlp is None else self.d_mlp


@dataclass(frozen=True)
class TrainerConfig:
    """Optimiser, schedule, and when to evaluate, log and keep a checkpoint."""

    max_steps: int = _setting(1000, "training steps", least=1)
    batch_size: int = _setting(
        256, "inputs of a training step", more=": equally many of each length", least=1
    )
    learning_rate: float = _setting(1e-3, "learning rate of AdamW", least=0)
    weight_decay: float = _setting(0.01, "weight decay of AdamW", least=0)
    warmup_steps: int = _setting(
        50, "training steps", more=" over which the learning rate rises", least=0
    )
    schedule: str = _setting(
        "cosine", "the learning rate after the warmup", choices=("constant", "cosine")
    )
    gradient_clip: float = _setting(1.0, "largest norm of a gradient; 0 for none", least=0)
    target_accuracy: float | None = _setting(
        None, "exact accuracy on all inputs at which training stops", above=0, most=1
    )
    steps_after_target: int = _setting(
        0,
        "training steps after the target is reached",
        more=", for a circuit that has settled",
        least=0,
    )
    checkpoints: int = _setting(
        14,
        "how many checkpoints are kept besides step 0",
        more=", log-spaced from step 1 to the last",
        least=1,
    )
    log_every: int = _setting(10, "training steps between two points of the curve", least=1)
    evaluate_every: int = _setting(50, "training steps between two checks of the target", least=1)
    save_every_seconds: float = _setting(
        30.0,
        "seconds between two saves of the training state: what a kill can cost",
        free=True,
        least=0,
    )
    accelerator: str = _setting(
        "auto",
        "the device that the model is trained on",
        choices=("auto", "cpu", "gpu", "mps"),
        free=True,
    )


@dataclass(frozen=True)
class AnalysisConfig:
    """What is measured at a checkpoint, and how finely."""

    name: str = _setting(
        "full", "a file of `configs/analysis/`", more="; `analysis=` is short for it"
    )
    measures: list[str] | None = _setting(
        None,
        "what is measured at every checkpoint",
        more=" ([measures](measures.md))",
        unset="all that are on by default",
    )
    device: str = _setting(
        "cpu",
        "the device that the model is measured on",
        more="; on the CPU the numbers are the same wherever the model was trained",
    )
    batch_size: int = _setting(2048, "inputs that are measured at once", least=1)
    bootstrap: int = _setting(1000, "bootstrap resamples for an interval", least=20)
    random_inits: int = _setting(10, "untrained models used as controls", least=1)
    other_tasks: int = _setting(
        2, "compiled programs of other tasks used as controls", more="; 0 for none", least=0
    )
    solved: float = _share(0.99, "lowest exact accuracy of a model that solves its task")
    margin: float = _share(
        0.01,
        "most exact accuracy that a redundant component may cost",
        " ([ablation](measures.md#ablation))",
    )
    match_cases: int = _setting(
        1000, "largest number of cases of each test",
        more=" of `algomatch match` ([matching](matching.md))",
        least=20,
    )  # fmt: skip
    match_checkpoint_cases: int = _setting(
        300,
        "largest number of cases of each test at a checkpoint",
        more=", of the measure `matching`",
        least=20,
    )
    match_realised: float = _share(0.95, "lowest match of a realised cut")
    match_partly: float = _share(0.5, "lowest match of a partially realised cut")
    match_selector: float = _share(
        0.9,
        "lowest overlap of a head that meets a selector",
        " ([matching](matching.md#selectors))",
    )
    state_sufficient: float = _share(
        0.95,
        "share of whole outputs that a state must surely keep",
        " ([states](states.md))",
    )
    state_cases: int = _setting(
        400, "inputs on which states are searched for", more=" (they are judged on all)", least=40
    )
    state_inits: int = _setting(
        3, "untrained models whose states are controls", more="; 0 for none", least=0
    )
    state_expressions: int = _setting(
        4000, "expressions of the library that are tried, at most", least=10
    )
    state_seconds: float = _setting(
        60.0, "seconds in which they are tried, at most", more="; the library says if it was short",
        above=0,
    )  # fmt: skip
    circuit_cases: int = _setting(
        300, "inputs on which circuits are searched for", more=" (judged on all)", least=20
    )
    circuit_threshold: float = _setting(
        0.01,
        "nats by which an edge must move the outputs for `acdc` to keep it, and for it to be "
        "called needed",
        least=0,
    )
    circuit_faithful: float = _share(0.9, "lowest faithfulness that a circuit must surely have")
    circuit_steps: int = _setting(
        5, "points at which the gradient is taken", more=" by `eap_ig`", least=1
    )
    explain_at: float = _share(
        0.95,
        "lowest overlap of an explained head, and balanced accuracy of an explained neuron",
        " ([reverse-engineering](reverse-engineering.md))",
    )
    explain_depth: int = _setting(
        3, "largest number of tests in a row", more=" in a neuron's predicate", least=1
    )
    explain_inputs: int = _setting(
        2048, "largest number of inputs", more=" that `algomatch explain` uses", least=20
    )
    seed: int = _setting(0, "seed of the intervals and controls", least=0, below=SEEDS)


_BY_ALL = ("device", "bootstrap", "solved", "seed")
USED_BY = {  # the settings of the analysis that change what a verb finds
    "match": (
        *_BY_ALL, "batch_size", "random_inits", "match_cases", "match_realised", "match_partly",
        "match_selector",
    ),
    "subspaces": (*_BY_ALL, "match_cases", "match_realised"),
    "states": (
        *_BY_ALL, "state_sufficient", "state_cases", "state_inits", "state_expressions",
        "state_seconds",
    ),
    "circuit": (
        *_BY_ALL, "match_cases", "match_realised", "match_partly", "circuit_cases",
        "circuit_threshold", "circuit_faithful", "circuit_steps",
    ),
    "explain": (*_BY_ALL, "batch_size", "explain_at", "explain_depth", "explain_inputs"),
    "analyze": (
        *_BY_ALL, "measures", "batch_size", "random_inits", "other_tasks", "margin",
        "match_checkpoint_cases", "match_realised",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class TrackingConfig:
    """Where Weights & Biases puts the run."""

    name: str = _setting(
        "offline", "a file of `configs/tracking/`", more="; `tracking=` is short for it"
    )
    mode: str = _setting(
        "offline", "whether W&B is off, writes into the run folder, or uploads",
        choices=("disabled", "offline", "online"),
    )  # fmt: skip
    project: str = _setting("algomatch", "W&B's project")
    entity: str | None = _setting(None, "W&B's user or team", unset="the account's own")
    group: str | None = _setting(None, "W&B's group of the run", unset="all but the seed")
    tags: list[str] = _setting([], "W&B's tags of the run")
    artifacts: str = _setting(
        "best_and_latest",
        "checkpoints that become W&B artifacts",
        more=" ([sweeps](sweeps.md#artifacts))",
        choices=("none", "best_and_latest", "all"),
    )
    unreachable: str = _setting(
        "offline",
        "what a run does if the server cannot be reached at the start",
        choices=("offline", "stop"),
    )
    system_stats: bool = _setting(False, "whether W&B records statistics of the machine")
    init_timeout_seconds: float = _setting(
        15.0,
        "seconds to wait for the server at the start",
        more="; after that the run continues offline, or stops (`tracking.unreachable`)",
        least=1,
    )
    finish_timeout_seconds: float = _setting(
        60.0,
        "seconds to wait for uploads at the end",
        more="; after that the run ends without them",
        least=1,
    )


@dataclass(frozen=True)
class Config:
    """One training run, whole: the same config gives the same numbers."""

    task: TaskConfig = _group(TaskConfig)
    model: ModelConfig = _group(ModelConfig)
    trainer: TrainerConfig = _group(TrainerConfig)
    analysis: AnalysisConfig = _group(AnalysisConfig)
    tracking: TrackingConfig = _group(TrackingConfig, free=True)
    seed: int = _setting(0, "seed of the initialisation and the batches", least=0, below=SEEDS)
    threads: int = _setting(
        1, "threads of a run", more="; their number changes the last bits", least=1
    )
    runs_dir: str = _setting("runs", "the folder of new runs", free=True)
    run_dir: str | None = _setting(
        None, "the run's folder", unset="a new one in `runs_dir`", free=True
    )


def groups() -> dict[str, type]:
    """Return the schema of each group of a Config, by the group's name."""
    factories = ((own.name, own.default_factory) for own in dataclasses.fields(Config))
    return {name: cast(type, of) for name, of in factories if dataclasses.is_dataclass(of)}


def setting_of(own: dataclasses.Field[Any]) -> Setting:
    """Return what is known of a field's setting."""
    return cast(Setting, own.metadata["setting"])


def settings() -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yield the field of each setting with its dotted key, those of a group together."""
    by_group = groups()
    for own in dataclasses.fields(Config):
        if own.name in by_group:
            for inner in dataclasses.fields(by_group[own.name]):
                yield f"{own.name}.{inner.name}", inner
        else:
            yield own.name, own


def _free() -> Iterator[str]:
    """Yield the keys, and the groups, that change neither a run's weights nor its numbers."""
    for own in dataclasses.fields(Config):
        if setting_of(own).free:
            yield own.name
    for key, own in settings():
        if "." in key and setting_of(own).free:
            yield key


FREE_SETTINGS = tuple(_free())


def check_rules(config: Config) -> None:
    """Refuse a config that breaks a rule within or between its values.

    Raises:
        UserError: the key, the value and the rule.
    """
    for key, own in settings():
        group, _, name = key.rpartition(".")
        value, setting = getattr(getattr(config, group) if group else config, name), setting_of(own)
        optional = own.default is None
        if value is None and optional:
            continue
        if setting.bounds is not None and not setting.bounds.hold(value):
            null = ", or null" if optional else ""
            raise UserError(f"{key}={value} must be {setting.bounds}{null}")
        if setting.choices and value not in setting.choices:
            raise UserError(f"{key}={value}: {one_of(value, setting.choices)}")
    for holds, message in _rules_between(config):
        if not holds:
            raise UserError(message)


def _rules_between(config: Config) -> Iterator[tuple[bool, str]]:
    """Yield (holds, message) for each rule that no field can say by itself."""
    task, model = config.task, config.model
    divisors = [n for n in range(1, min(model.d_model, 1024) + 1) if model.d_model % n == 0]
    yield (
        model.d_head is not None or model.d_model % model.n_heads == 0,
        f"model.n_heads={model.n_heads} must divide model.d_model={model.d_model} "
        f"(one of {', '.join(map(str, divisors))}), or set model.d_head",
    )
    yield (
        task.min_length is None or task.max_length is None or task.min_length <= task.max_length,
        f"task.min_length={task.min_length} must not exceed task.max_length={task.max_length}",
    )
    yield (
        re.fullmatch(r"[\w.-]+", task.name) is not None,
        f"task.name={task.name} must be letters, digits, '_', '.' and '-' only: it names files",
    )
