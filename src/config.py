"""The typed configuration: its schema, how it is composed, and the rules it must satisfy.

Layers, weakest first: the schema's defaults, the named file of each group, `configs/train.yaml`
(which by itself only names files), the file given by `--config`, and `key=value` arguments.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import FaultError, UserError, first_line, one_of

GROUPS = ("task", "model", "analysis", "tracking")
ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu")
NORMALIZATIONS = ("LN", "none")
SCHEDULES = ("constant", "cosine")
ACCELERATORS = ("auto", "cpu", "gpu", "mps")
SHARES = (
    "solved", "margin", "match_realised", "match_partly", "match_selector", "circuit_faithful",
    "explain_at",
)  # fmt: skip
TRACKING_MODES = ("disabled", "offline", "online")
ARTIFACTS = ("none", "best_and_latest", "all")
UNREACHABLE = ("offline", "stop")
# What changes neither a run's weights nor its numbers (but for rounding on an accelerator).
FREE_SETTINGS = (
    "run_dir", "runs_dir", "tracking", "trainer.accelerator", "trainer.save_every_seconds",
)  # fmt: skip
# What runs of one group may differ in, too: how often the loss is logged says nothing of a model.
UNGROUPED_SETTINGS = (*FREE_SETTINGS, "trainer.log_every")
GROUP_LENGTH = 120  # W&B takes 128 characters


@dataclass
class TaskConfig:
    """What is to be computed, over which inputs, and which of them are held out."""

    name: str = "reverse"
    program: Optional[str] = None  # noqa: UP045
    vocabulary: Optional[list[Any]] = None  # noqa: UP045 (OmegaConf reads Optional)
    min_length: Optional[int] = None  # noqa: UP045
    max_length: Optional[int] = None  # noqa: UP045
    causal: Optional[bool] = None  # noqa: UP045
    restrict: Optional[str] = None  # noqa: UP045
    tolerance: Optional[float] = None  # noqa: UP045
    alternatives: Optional[list[str]] = None  # noqa: UP045
    allow_inexact: bool = False
    held_out: float = 0.1
    held_out_lengths: list[int] = field(default_factory=list)
    split_seed: int = 0
    max_inputs: int = 20_000


@dataclass
class ModelConfig:
    """The learned model's architecture."""

    name: str = "2L_attn_only"
    n_layers: int = 2
    attn_only: bool = True
    d_model: int = 64
    n_heads: int = 4
    d_head: Optional[int] = None  # noqa: UP045
    d_mlp: Optional[int] = None  # noqa: UP045
    act_fn: str = "relu"
    normalization: str = "LN"

    @property
    def head_width(self) -> int:
        """`d_head`, by default `d_model / n_heads`."""
        return self.d_model // self.n_heads if self.d_head is None else self.d_head

    @property
    def mlp_width(self) -> int:
        """`d_mlp`, by default `4 * d_model`."""
        return 4 * self.d_model if self.d_mlp is None else self.d_mlp


@dataclass
class TrainerConfig:
    """Optimiser, schedule, and when to evaluate, log and keep a checkpoint."""

    max_steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    schedule: str = "cosine"
    gradient_clip: float = 1.0
    target_accuracy: Optional[float] = None  # noqa: UP045
    steps_after_target: int = 0
    checkpoints: int = 14
    log_every: int = 10
    evaluate_every: int = 50
    save_every_seconds: float = 30.0
    accelerator: str = "auto"


@dataclass
class AnalysisConfig:
    """What is measured at a checkpoint, and how finely."""

    name: str = "full"
    measures: list[str] = field(
        default_factory=lambda: [
            "accuracy",
            "similarity",
            "attention",
            "ablation",
            "sparsity",
            "matching",
        ]
    )
    device: str = "cpu"
    batch_size: int = 2048
    bootstrap: int = 1000
    random_inits: int = 10
    other_tasks: int = 2
    solved: float = 0.99
    margin: float = 0.01
    match_cases: int = 1000
    match_checkpoint_cases: int = 300
    match_realised: float = 0.95
    match_partly: float = 0.5
    match_selector: float = 0.9
    circuit_cases: int = 300
    circuit_threshold: float = 0.01
    circuit_faithful: float = 0.9
    circuit_steps: int = 5
    explain_at: float = 0.95
    explain_depth: int = 3
    explain_inputs: int = 2048
    seed: int = 0


@dataclass
class TrackingConfig:
    """Where Weights & Biases puts the run."""

    name: str = "offline"
    mode: str = "offline"
    project: str = "algomatch"
    entity: Optional[str] = None  # noqa: UP045
    group: Optional[str] = None  # noqa: UP045
    tags: list[str] = field(default_factory=list)
    artifacts: str = "best_and_latest"
    unreachable: str = "offline"
    system_stats: bool = False
    init_timeout_seconds: float = 15.0
    finish_timeout_seconds: float = 60.0


@dataclass
class Config:
    """One training run, whole: the same config gives the same numbers."""

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    threads: int = 1
    runs_dir: str = "runs"
    run_dir: Optional[str] = None  # noqa: UP045


def configs_dir() -> Path:
    """Return the folder of the shipped YAML files, in a wheel or in a checkout."""
    here = Path(__file__).resolve().parent
    return next(p for p in (here / "configs", here.parent / "configs") if p.is_dir())


def group_names(group: str) -> list[str]:
    """Return the names that `group=NAME` can pick from the shipped files."""
    return sorted(path.stem for path in (configs_dir() / group).glob("*.yaml"))


def compose(
    overrides: Sequence[str] = (),
    file: str | os.PathLike[str] | None = None,
    given: Mapping[str, Any] | None = None,
    source: str = "given",
) -> Config:
    """Compose and check a Config from the shipped files, `file`, `given` values and overrides.

    `given` is nested, as in a file, and `source` names it in errors; overrides are `key=value`.

    Raises:
        UserError: an unknown key or group file, a value of the wrong type or a broken rule.
    """
    layers: list[tuple[Mapping[str, Any], str]]
    layers = [(read_yaml(configs_dir() / "train.yaml"), "train.yaml")]
    if file is not None:
        layers.append((read_yaml(Path(file)), str(file)))
    if given is not None:
        layers.append((given, source))
    layers.append((_parse_overrides(overrides), "command line"))
    parts: list[Mapping[str, Any]] = []
    for group in GROUPS:
        parts += _group_layers(group, layers)
    for layer, source in layers:
        rest = {key: value for key, value in layer.items() if key not in GROUPS}
        _check_keys(rest, Config, source)
        parts.append(rest)
    config = _checked(parts)
    _make_whole(config.task)
    return config


def from_mapping(values: Mapping[str, Any], source: str) -> Config:
    """Return the Config that a run or checkpoint recorded, without reading group files.

    Raises:
        UserError: an unknown key, a value of the wrong type or a broken rule.
    """
    _check_keys(values, Config, source)
    return _checked([values])


def flattened(config: Config, leaving_out: Sequence[str] = ()) -> dict[str, Any]:
    """Return a Config's values by dotted key, without some keys or whole groups.

    >>> flattened(Config(), FREE_SETTINGS)["model.n_layers"]
    2
    """

    def pairs(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if prefix + key in leaving_out:
                continue
            if isinstance(value, Mapping):
                yield from pairs(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(pairs(to_mapping(config)))


def check_same_settings(folder: Path, now: Config, then: Config) -> None:
    """Refuse to take a run for another one, but for what does not change its numbers.

    Raises:
        UserError: the settings are not those it was begun with.
    """
    given, begun = (flattened(config, FREE_SETTINGS) for config in (now, then))
    for key in sorted({*given, *begun}):
        if given.get(key) != begun.get(key):
            raise UserError(
                f"run '{folder}' was begun with {key}={begun.get(key)}, not "
                f"{given.get(key)}: choose another folder, or remove that one"
            )


def departures(config: Config) -> dict[str, Any]:
    """Return what sets a run off from the shipped task, model and training it names, by dotted key.

    Of a program of the user's own the task is whatever its file says, and departs from nothing.
    """
    root = read_yaml(configs_dir() / "train.yaml")
    found: dict[str, Any] = {}
    for group, shipped in (
        ("task", TaskConfig(name=config.task.name)),
        ("model", ModelConfig(name=config.model.name)),
        ("trainer", TrainerConfig()),
    ):
        own = getattr(config, group)
        if group == "task" and names_file(config.task.program or ""):
            continue
        preset = root["trainer"] if group == "trainer" else {}
        if group != "trainer" and own.name in group_names(group):
            preset = read_yaml(configs_dir() / group / f"{own.name}.yaml")
        usual = dataclasses.asdict(shipped) | preset
        for key, value in dataclasses.asdict(own).items():
            if value != usual[key] and f"{group}.{key}" != "trainer.accelerator":
                found[f"{group}.{key}"] = value
    return found


def run_name(config: Config) -> str:
    """Return task, architecture and seed, as runs are called.

    >>> run_name(compose(["task=sort", "model=1L", "model.normalization=none", "seed=3"]))
    'sort-1L-noLN-seed3'
    """
    return f"{_architecture(config)}-seed{config.seed}"


def group_name(config: Config, leaving_out: Collection[str] = ()) -> str:
    """Return what runs that differ in their seed alone have in common, in at most GROUP_LENGTH.

    Settings may be left out, by their dotted keys.

    >>> group_name(compose(["task=sort", "model=1L", "trainer.learning_rate=0.01", "seed=3"]))
    'sort-1L learning_rate=0.01'
    """
    left = {"model.normalization", *UNGROUPED_SETTINGS, *leaving_out}  # the architecture says it
    own = {key: value for key, value in departures(config).items() if key not in left}
    parts = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in own.items()]
    name = " ".join((_architecture(config), *parts))
    if len(name) <= GROUP_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: GROUP_LENGTH - 9]} {digest}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _architecture(config: Config) -> str:
    mark = "" if config.model.normalization == "LN" else "-noLN"
    return f"{config.task.name}-{config.model.name}{mark}"


def to_mapping(config: Config) -> dict[str, Any]:
    """Return a Config as plain nested values, for YAML, JSON and W&B."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """Return a Config as YAML that `from_mapping` reads back."""
    return str(OmegaConf.to_yaml(OmegaConf.create(to_mapping(config))))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML or JSON file's mapping, safely loaded.

    Raises:
        UserError: the file is missing, is no YAML or is no mapping.
        FaultError: the file cannot be read.
    """
    try:
        loaded = OmegaConf.load(path)
        values = OmegaConf.to_container(loaded, resolve=True)
    except FileNotFoundError:
        raise UserError(f"config file '{path}' does not exist") from None
    except IsADirectoryError:
        raise UserError(f"config file '{path}' is a folder; give a YAML or JSON file") from None
    except OSError as error:
        if error.errno is None:  # OmegaConf's own, of a file that holds a bare number
            raise UserError(f"config file '{path}' must hold `key: value` pairs") from error
        reason = error.strerror or first_line(error)
        raise FaultError(f"cannot read config file '{path}': {reason}") from error
    except Exception as error:
        message = f"config file '{path}' is not valid YAML or JSON: {first_line(error)}"
        raise UserError(message) from error
    if not isinstance(values, dict):
        raise UserError(f"config file '{path}' must hold `key: value` pairs, not a list")
    return {str(key): value for key, value in values.items()}


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    merged, values = OmegaConf.create(), dict[str, Any]()
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key:
            raise UserError(f"argument '{override}' is not of the form key=value")
        try:
            one = OmegaConf.from_dotlist([override])
            if key in GROUPS and not OmegaConf.is_dict(one[key]):
                one = OmegaConf.create({key: {"name": one[key]}})
            merged = cast(DictConfig, OmegaConf.merge(merged, one))
            values = cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True))
        except Exception as error:
            message = f"argument '{override}' cannot be read: {first_line(error)}"
            raise UserError(message) from error
    return values


def _group_layers(
    group: str, layers: Sequence[tuple[Mapping[str, Any], str]]
) -> Iterator[Mapping[str, Any]]:
    """Yield one group's values, weakest first, each as {group: values}.

    A layer that names a file drops what weaker layers said beside another name: those
    fields belonged to the other one.
    """
    name, kept = None, []
    for layer, source in layers:
        if group not in layer:
            continue
        values = layer[group]
        values = dict(values) if isinstance(values, Mapping) else {"name": values}
        _check_keys({group: values}, Config, source)
        chosen = values.pop("name", None)
        if chosen is not None and name is not None and str(chosen) != name:
            kept = [(fields, named) for fields, named in kept if named is None]
        if chosen is not None:
            name = str(chosen)
        kept.append((values, chosen))
    assert name is not None, "train.yaml names a file for every group"
    available = group_names(group)
    if group == "task" and names_file(name):
        yield {group: _own_task(name)}
    elif name in available:
        preset = read_yaml(configs_dir() / group / f"{name}.yaml")
        yield {group: {"name": name, **preset}}
    elif group == "task":  # any other name is looked up in the task registry
        yield {group: {"name": name}}
    else:
        raise UserError(f"unknown {group} '{name}': {one_of(name, available)}")
    for fields, _ in kept:
        yield {group: fields}


def names_file(place: str) -> bool:
    """Return whether a program is named by its file, `path.py:function`, not by a registered name.

    >>> names_file("own/program.py:make_it"), names_file("sort")
    (True, False)
    """
    return place.endswith(".py") or ".py:" in place


def split_place(place: str) -> tuple[Path, str]:
    """Return the file and the function of `path.py:function`."""
    path, found, function = place.rpartition(".py:")
    return (Path(f"{path}.py"), function) if found else (Path(place), "")


def _make_whole(task: TaskConfig) -> None:
    """Make relative paths whole, so that a run can be measured again from another folder.

    Beside a program of the user's own, other files are looked for where it is.
    """

    def whole(place: str) -> str:
        path, function = split_place(place)
        return f"{path.resolve()}:{function}" if names_file(place) else place

    own = names_file(task.program or "")
    task.program = task.program and whole(task.program)
    if not own:
        task.restrict = task.restrict and whole(task.restrict)
        task.alternatives = task.alternatives and [whole(place) for place in task.alternatives]


def _own_task(place: str) -> dict[str, Any]:
    """Return the fields of a task from a user's file, and from the YAML file beside it."""
    path, function = split_place(place)
    short = function.removeprefix("make_")
    name = path.stem if short in ("", path.stem) else f"{path.stem}.{short}"
    name = re.sub(r"[^\w.-]+", "_", name)
    beside = path.with_suffix(".yaml")
    fields = read_yaml(beside) if beside.is_file() else {}
    _check_keys({"task": fields}, Config, str(beside))
    if "program" in fields:
        raise UserError(f"'program' in {beside}: the program is {place} already; leave it out")
    return {"name": name, "program": f"{path}:{function}", **fields}


def _check_keys(values: Mapping[Any, Any], schema: type, source: str, prefix: str = "") -> None:
    fields = {f.name: f for f in dataclasses.fields(schema)}
    for key, value in values.items():
        if key not in fields:
            owner = f" of {prefix[:-1]}" if prefix else ""
            meant = one_of(key, fields).replace("valid:", f"valid keys{owner}:")
            raise UserError(f"unknown key '{prefix}{key}' ({source}): {meant}")
        default: Any = fields[key].default_factory
        if dataclasses.is_dataclass(default):
            if not isinstance(value, Mapping):
                raise UserError(f"'{prefix}{key}' ({source}) must hold keys, not {value!r}")
            _check_keys(value, cast(type, default), source, f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            raise UserError(
                f"'{prefix}{key}' ({source}) holds no keys, but {dict(value)} was given"
            )


def _checked(parts: Sequence[Mapping[str, Any]]) -> Config:
    merged = OmegaConf.structured(Config)
    for part in parts:
        try:
            merged = OmegaConf.unsafe_merge(merged, part)  # without a copy for each part
        except OmegaConfBaseException as error:
            reason = first_line(error)
            if "ListConfig" in reason:
                reason = "must be a list, as in [a,b,c]"
            raise UserError(f"{error.full_key}: {reason}") from error
    try:
        config = cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:  # a value that OmegaConf reads: '???' or '${...}'
        raise UserError(f"{error.full_key}: {first_line(error)}") from error
    for holds, message in _rules(config):
        if not holds:
            raise UserError(message)
    return config


def _rules(config: Config) -> Iterator[tuple[bool, str]]:
    """Yield (holds, message) for each rule between and within the values."""
    task, model, trainer = config.task, config.model, config.trainer

    def at_least(key: str, bound: float) -> tuple[bool, str]:
        group, _, name = key.rpartition(".")
        value = getattr(getattr(config, group) if group else config, name)
        holds = value is None or (math.isfinite(value) and value >= bound)
        return holds, f"{key}={value} must be at least {bound}"

    def choice(key: str, choices: Sequence[str]) -> tuple[bool, str]:
        group, _, name = key.partition(".")
        value = getattr(getattr(config, group), name)
        return value in choices, f"{key}={value}: {one_of(value, choices)}"

    bounds: dict[str, float] = {
        "task.min_length": 1,
        "task.max_length": 1,
        "task.tolerance": 0,
        "task.split_seed": 0,
        "task.max_inputs": 1,
        "model.n_layers": 1,
        "model.d_model": 1,
        "model.n_heads": 1,
        "model.d_head": 1,
        "model.d_mlp": 1,
        "trainer.max_steps": 1,
        "trainer.batch_size": 1,
        "trainer.learning_rate": 0,
        "trainer.weight_decay": 0,
        "trainer.warmup_steps": 0,
        "trainer.gradient_clip": 0,
        "trainer.steps_after_target": 0,
        "trainer.checkpoints": 1,
        "trainer.log_every": 1,
        "trainer.evaluate_every": 1,
        "trainer.save_every_seconds": 0,
        "analysis.batch_size": 1,
        "analysis.bootstrap": 20,
        "analysis.random_inits": 1,
        "analysis.other_tasks": 0,
        "analysis.solved": 0,
        "analysis.margin": 0,
        "analysis.match_cases": 20,
        "analysis.match_checkpoint_cases": 20,
        "analysis.match_realised": 0,
        "analysis.match_partly": 0,
        "analysis.match_selector": 0,
        "analysis.circuit_cases": 20,
        "analysis.circuit_threshold": 0,
        "analysis.circuit_faithful": 0,
        "analysis.circuit_steps": 1,
        "analysis.explain_at": 0,
        "analysis.explain_depth": 1,
        "analysis.explain_inputs": 20,
        "analysis.seed": 0,
        "tracking.init_timeout_seconds": 1,
        "tracking.finish_timeout_seconds": 1,
        "seed": 0,
        "threads": 1,
    }
    yield from (at_least(key, bound) for key, bound in bounds.items())
    for key, seed in (("seed", config.seed), ("analysis.seed", config.analysis.seed)):
        yield seed < 2**63, f"{key}={seed} must be below 2**63"
    for key in SHARES:
        share = getattr(config.analysis, key)
        yield share <= 1, f"analysis.{key}={share} must be a share, at most 1"
    yield choice("model.act_fn", ACTIVATIONS)
    yield choice("model.normalization", NORMALIZATIONS)
    yield choice("trainer.schedule", SCHEDULES)
    yield choice("trainer.accelerator", ACCELERATORS)
    yield choice("tracking.mode", TRACKING_MODES)
    yield choice("tracking.artifacts", ARTIFACTS)
    yield choice("tracking.unreachable", UNREACHABLE)
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
        f"task.name={task.name} must be letters, digits, '_', '.' and '-' only: files are named so",
    )
    yield task.tolerance != 0, "task.tolerance=0 must be above 0: numbers are never exactly right"
    yield (
        0 <= task.held_out < 1,
        f"task.held_out={task.held_out} must be a share from 0 up to, not including, 1",
    )
    target = trainer.target_accuracy
    yield (
        target is None or 0 < target <= 1,
        f"trainer.target_accuracy={target} must be above 0 and at most 1, or null",
    )
