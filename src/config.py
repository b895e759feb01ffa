"""The typed configuration: its schema, its composition, and its rules.

Layers, weakest first: the schema's defaults, the named file of each group, `configs/train.yaml`
(which by itself only names files), the file given by `--config`, and `key=value` arguments.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from .errors import FaultError, UserError, first_line, one_of
from .values import is_null, read_text, resolved, shown, tokens, typed, unclosed, write_text

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
# Settings that change neither a run's weights nor its numbers (except rounding on an accelerator).
FREE_SETTINGS = (
    "run_dir", "runs_dir", "tracking", "trainer.accelerator", "trainer.save_every_seconds",
)  # fmt: skip
# Further settings in which runs of one group may differ, such as how often the loss is logged.
UNGROUPED_SETTINGS = (*FREE_SETTINGS, "trainer.log_every")
NOT_TRAINED = ("alternatives", "allow_inexact")  # task settings that do not affect training
GROUP_LENGTH = 120  # W&B takes 128 characters
NAME_LENGTH = 84  # characters of a run's name without its seed; an id is longer
TITLE_LENGTH = 40  # characters of a value in a title
VALUE_LENGTH = 24  # characters of a value in a name
TEXT = re.compile(r"(?!-?[0-9]+$)[A-Za-z0-9_-]+")  # unambiguous text in a list


def _counting(default: int | None, what: str) -> Any:
    """Return a dataclass field for a whole number, with the name of what it counts."""
    return field(default=default, metadata={"counts": what})


@dataclass
class TaskConfig:
    """The program to be computed, its inputs, and which of them are held out."""

    name: str = "reverse"
    program: str | None = None
    vocabulary: list[Any] | None = None
    min_length: int | None = _counting(None, "tokens of the shortest list")
    max_length: int | None = _counting(None, "tokens of the longest list")
    causal: bool | None = None
    restrict: str | None = None
    tolerance: float | None = None
    alternatives: list[str] | None = None
    allow_inexact: bool = False
    held_out: float = 0.1
    held_out_lengths: list[int] = field(default_factory=list)
    split_seed: int = _counting(0, "it seeds which inputs are held out")
    max_inputs: int = _counting(20_000, "inputs, above which they are sampled")


@dataclass
class ModelConfig:
    """The learned model's architecture."""

    name: str = "2L_attn_only"
    n_layers: int = _counting(2, "blocks")
    attn_only: bool = True
    d_model: int = _counting(64, "dimensions of the residual stream")
    n_heads: int = _counting(4, "attention heads of a block")
    d_head: int | None = _counting(None, "dimensions of a head")
    d_mlp: int | None = _counting(None, "neurons of an MLP")
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

    max_steps: int = _counting(1000, "training steps")
    batch_size: int = _counting(256, "inputs of a training step")
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = _counting(50, "training steps")
    schedule: str = "cosine"
    gradient_clip: float = 1.0
    target_accuracy: float | None = None
    steps_after_target: int = _counting(0, "training steps after the target is reached")
    checkpoints: int = _counting(14, "how many checkpoints are kept besides step 0")
    log_every: int = _counting(10, "training steps between two points of the curve")
    evaluate_every: int = _counting(50, "training steps between two looks at the target")
    save_every_seconds: float = 30.0
    accelerator: str = "auto"


@dataclass
class AnalysisConfig:
    """The measurements at a checkpoint, and their precision."""

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
    batch_size: int = _counting(2048, "inputs that are measured at once")
    bootstrap: int = _counting(1000, "resamples of an interval")
    random_inits: int = _counting(10, "untrained models that are controls")
    other_tasks: int = _counting(2, "compiled programs of other tasks that are controls")
    solved: float = 0.99
    margin: float = 0.01
    match_cases: int = _counting(1000, "cases of each test")
    match_checkpoint_cases: int = _counting(300, "cases of each test at a checkpoint")
    match_realised: float = 0.95
    match_partly: float = 0.5
    match_selector: float = 0.9
    circuit_cases: int = _counting(300, "inputs on which circuits are searched for")
    circuit_threshold: float = 0.01
    circuit_faithful: float = 0.9
    circuit_steps: int = _counting(5, "points at which the gradient is taken")
    explain_at: float = 0.95
    explain_depth: int = _counting(3, "tests in a row of a predicate")
    explain_inputs: int = _counting(2048, "inputs that are looked at")
    seed: int = _counting(0, "it seeds the intervals and controls")


@dataclass
class TrackingConfig:
    """The settings of Weights & Biases for a run."""

    name: str = "offline"
    mode: str = "offline"
    project: str = "algomatch"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    artifacts: str = "best_and_latest"
    unreachable: str = "offline"
    system_stats: bool = False
    init_timeout_seconds: float = 15.0
    finish_timeout_seconds: float = 60.0


@dataclass
class Config:
    """One training run, completely specified: the same config gives the same numbers."""

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = _counting(0, "it seeds initialisation and batches")
    threads: int = _counting(1, "threads of a run")
    runs_dir: str = "runs"
    run_dir: str | None = None


def configs_dir() -> Path:
    """Return the folder of the shipped YAML files, in a wheel or in a checkout."""
    here = Path(__file__).resolve().parent
    return next(p for p in (here / "configs", here.parent / "configs") if p.is_dir())


@cache
def shipped(name: str) -> Mapping[str, Any]:
    """Return the content of a shipped file: `train`, or GROUP/NAME."""
    return read_yaml(configs_dir() / f"{name}.yaml")


def group_names(group: str) -> list[str]:
    """Return the names of the shipped files that `group=NAME` can select."""
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
    layers = [(shipped("train"), "train.yaml")]
    if file is not None:
        layers.append((read_settings(Path(file)), str(file)))
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
    config = _checked([_as_typed(part) for part in parts])
    _make_whole(config.task)
    return config


def from_mapping(values: Mapping[str, Any], source: str) -> Config:
    """Return the Config that a run or checkpoint recorded, without reading group files.

    Raises:
        UserError: an unknown key, a value of the wrong type or a broken rule.
    """
    _check_keys(values, Config, source)
    return _checked([typed(Config, values)])


def flattened(config: Config, leaving_out: Sequence[str] = ()) -> dict[str, Any]:
    """Return a Config's values by dotted key, leaving out some keys or whole groups.

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
    """Refuse settings that differ from those of an existing run and change its numbers.

    Raises:
        UserError: the settings are not those the run was begun with.
    """
    given, begun = (flattened(config, FREE_SETTINGS) for config in (now, then))
    for key in sorted({*given, *begun}):
        if given.get(key) != begun.get(key):
            raise UserError(
                f"run '{folder}' was begun with {key}={begun.get(key)}, not "
                f"{given.get(key)}: choose another folder, or remove that one"
            )


def departures(config: Config) -> dict[str, Any]:
    """Return the settings that differ from the shipped task, model and training, by dotted key.

    The task of a user's own program is defined by its file, so it has no differences.
    """
    root = shipped("train")
    changes: dict[str, Any] = {}
    for group, schema in (
        ("task", TaskConfig(name=config.task.name)),
        ("model", ModelConfig(name=config.model.name)),
        ("trainer", TrainerConfig()),
    ):
        own = getattr(config, group)
        if group == "task" and names_file(config.task.program or ""):
            continue
        preset = dict(root["trainer"]) if group == "trainer" else _preset(group, own.name)
        if group == "model" and not preset:  # its file is gone: no defaults are known
            continue
        usual = dataclasses.asdict(schema) | preset
        for key, value in dataclasses.asdict(own).items():
            if value != usual[key] and f"{group}.{key}" != "trainer.accelerator":
                changes[f"{group}.{key}"] = value
    return changes


def usual_task(task: TaskConfig) -> tuple[str, dict[str, Any]]:
    """Return the argument of `task=` for a task, and the values that this argument implies.

    The argument is the task's name, or the file of a user's own program.
    """
    usual = dataclasses.asdict(TaskConfig(name=task.name))
    if names_file(task.program or ""):
        with suppress(UserError, FaultError):  # the YAML beside it cannot be read
            own = _own_task(str(task.program))
            if own["name"] == task.name:
                return str(task.program), usual | own
    return task.name, usual | _preset("task", task.name)


def _preset(group: str, name: str) -> dict[str, Any]:
    """Return the values of a group's shipped file; none if there is no file of that name."""
    return dict(shipped(f"{group}/{name}")) if name in group_names(group) else {}


def run_name(config: Config, whole: bool = True) -> str:
    """Return a run's name: task, architecture and seed; safe in a path and in a shell.

    Settings that differ from the named task or model follow that name. With `whole` false they are
    left out, as in earlier versions.

    >>> run_name(compose(["task=sort", "model=1L", "model.normalization=none", "seed=3"]))
    'sort-1L-noLN-seed3'
    >>> run_name(compose(["task.vocabulary=[a,b]", "model.n_layers=3", "model.d_mlp=null"]))
    'reverse-vocabulary.a.b-2L_attn_only-n_layers3-seed0'
    """
    left_out = () if whole else tuple(departures(config))
    return f"{_cut(_trained(config, left_out), NAME_LENGTH)}-seed{config.seed}"


def group_name(config: Config, leaving_out: Collection[str] = ()) -> str:
    """Return the name shared by runs that differ only in their seed, at most GROUP_LENGTH long.

    Settings may be left out, by dotted key.

    >>> group_name(compose(["task=sort", "model=1L", "trainer.learning_rate=0.01", "seed=3"]))
    'sort-1L-learning_rate0.01'
    """
    left = {*UNGROUPED_SETTINGS, *leaving_out}
    return _cut("-".join((_trained(config, left), *_parts(config, "trainer", left))), GROUP_LENGTH)


def group_settings(config: Config) -> dict[str, Any]:
    """Return all settings that affect training, by dotted key; runs of one group share them."""
    left = (
        *UNGROUPED_SETTINGS,
        "analysis",
        "seed",
        "threads",
        *(f"task.{key}" for key in NOT_TRAINED),
    )
    return flattened(config, left)


def model_title(config: Config) -> str:
    """Return the architecture for titles, with the settings that differ from its file.

    >>> model_title(compose(["model.n_layers=3", "model.act_fn=gelu"]))
    '2L_attn_only with n_layers 3, act_fn gelu'
    """
    return _titled(config, "model")


def task_title(config: Config) -> str:
    """Return the task for titles, with the settings that differ from the named task.

    >>> task_title(compose(["task=sort", "task.max_length=4", "task.vocabulary=[1,2]"]))
    'sort with vocabulary [1, 2], max_length 4'
    """
    return _titled(config, "task")


def run_title(config: Config, doing: str) -> str:
    """Return the architecture, the task and the seed of a run, for titles.

    >>> run_title(compose(["model.n_layers=3"]), "on")
    '2L_attn_only with n_layers 3 on reverse, seed 0'
    """
    return f"{model_title(config)} {doing} {task_title(config)}, seed {config.seed}"


def _titled(config: Config, group: str) -> str:
    name, own = getattr(config, group).name, _own(config, group)
    words = [
        "no LayerNorm" if (key, value) == ("normalization", "none") else f"{key} {_brief(value)}"
        for key, value in own.items()
    ]
    return f"{name} with {', '.join(words)}" if words else str(name)


def _brief(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= TITLE_LENGTH else f"{text[: TITLE_LENGTH - 3]}..."


def _own(config: Config, group: str) -> dict[str, Any]:
    """Return a group's settings that differ from the named file, by field name.

    A task's alternatives and `allow_inexact` are left out, since they do not affect training.
    """
    pairs = (key.split(".") for key in departures(config))
    return {
        name: getattr(getattr(config, group), name)
        for of, name in pairs
        if of == group and name not in NOT_TRAINED
    }


def _trained(config: Config, leaving_out: Collection[str] = ()) -> str:
    """Return task and architecture, each with the settings that differ from it."""
    mark = [] if config.model.normalization == "LN" else ["noLN"]
    left = {"model.normalization", *leaving_out}  # the mark shows it
    return "-".join((
        config.task.name, *_parts(config, "task", left), config.model.name, *mark,
        *_parts(config, "model", left),
    ))  # fmt: skip


def _parts(config: Config, group: str, leaving_out: Collection[str]) -> list[str]:
    own = _own(config, group).items()
    return [f"{key}{_short(value)}" for key, value in own if f"{group}.{key}" not in leaving_out]


def _short(value: Any) -> str:
    """Return a value in characters that every shell, file system and server accepts.

    A digest is added to lists that would be ambiguous in these characters.

    >>> _short(3), _short("gelu"), _short(["a", "b"]), _short(["1", 2])
    ('3', '.gelu', '.a.b', '1.2.888964ae')
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = f"{value:.10g}" if number else shown(value)
    text, readable = whole, bool(whole)
    if isinstance(value, list):
        text, whole = ".".join(map(str, value)), repr(value)
        readable = bool(value) and (
            all(type(inner) is int for inner in value)
            or all(isinstance(inner, str) and TEXT.fullmatch(inner) for inner in value)
        )
    safe = re.sub(r"[^A-Za-z0-9_.-]", "", text)[:VALUE_LENGTH]
    digest = "" if safe == text and readable else f".{_digest(whole)}"
    return f"{'' if safe[:1].isdecimal() else '.'}{safe}{digest}"


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 9]}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def to_mapping(config: Config) -> dict[str, Any]:
    """Return a Config as plain nested values, for YAML, JSON and W&B."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """Return a Config as YAML that `from_mapping` reads back."""
    return write_text(to_mapping(config))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping of a YAML file that is shipped or that `to_yaml` wrote.

    Raises:
        UserError: the file is missing, or is not YAML or not a mapping.
        FaultError: the file cannot be read.
    """
    return cast(dict[str, Any], resolved(_read(path, lambda values: values)))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the mapping of a user's YAML or JSON file, with unquoted values as they were typed.

    A `${...}` is a reference to another key; in a run's recorded config it is plain text.

    Raises:
        UserError: the file is missing, or is not YAML or not a mapping.
        FaultError: the file cannot be read.
    """
    recorded = path.name == "config.yaml" and (path.parent / "run.json").is_file()
    return _read(path, (lambda values: values) if recorded else _interpolated)


def _read(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    try:
        values: Any = read_text(path.read_text(encoding="utf-8"))
        values = {} if values is None else change(values)
    except FileNotFoundError:
        raise UserError(f"config file '{path}' does not exist") from None
    except IsADirectoryError:
        raise UserError(f"config file '{path}' is a folder; give a YAML or JSON file") from None
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise FaultError(f"cannot read config file '{path}': {reason}") from error
    except Exception as error:
        message = f"config file '{path}' is not valid YAML or JSON: {first_line(error)}"
        raise UserError(message) from error
    if not isinstance(values, dict):
        kind = ", not a list" if isinstance(values, list) else ""
        raise UserError(f"config file '{path}' must hold `key: value` pairs{kind}")
    return {str(key): value for key, value in values.items()}


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    values = dict[str, Any]()
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"argument '{override}' is not of the form key=value")
        try:
            value = read_text(text)
            if key in GROUPS and not isinstance(value, Mapping):
                key, value = f"{key}.name", value
            for name in reversed(key.split(".")):
                value = {name: value}
            _interpolated(merged := _merged(values, value))
        except Exception as error:
            reason = first_line(error)
            if unclosed(override):
                reason = f"its bracket is not closed: quote a list, as in '{key}=[a, b]'"
            raise UserError(f"argument '{override}' cannot be read: {reason}") from error
        values = merged
    return cast(dict[str, Any], _interpolated(values))


def _merged(weaker: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values merged, the stronger over the weaker; lists are replaced."""
    merged = dict(weaker)
    for key, value in stronger.items():
        there = merged.get(key)
        both = isinstance(there, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(cast(Mapping[str, Any], there), value) if both else value
    return merged


def _interpolated(values: Any) -> Any:
    """Return values with each text that contains a `${...}` resolved by OmegaConf."""

    def replaced(value: Any, resolution: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: replaced(inner, resolution[str(key)]) for key, inner in value.items()}
        if isinstance(value, list):
            return [replaced(*both) for both in zip(value, resolution, strict=True)]
        return resolution if isinstance(value, str) and "${" in value else value

    plain = resolved(values)
    if "${" not in str(plain):
        return values
    try:
        resolution = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
    except Exception as error:
        raise UserError(
            f"{first_line(error)}: `${{...}}` is read as a reference to another key; the text is "
            r"`\${...}`, without quotes or in single ones"
        ) from error
    return replaced(values, resolution)


def _group_layers(
    group: str, layers: Sequence[tuple[Mapping[str, Any], str]]
) -> Iterator[Mapping[str, Any]]:
    """Yield one group's values, weakest first, each as {group: values}.

    If a layer names another file, weaker layers' fields are dropped, since they belonged to the
    file named before.
    """
    name, kept = None, []
    for layer, source in layers:
        if group not in layer:
            continue
        values = layer[group]
        values = dict(values) if isinstance(values, Mapping) else {"name": values}
        _check_keys({group: values}, Config, source)
        chosen = values.pop("name", None)
        chosen = None if is_null(chosen) else str(chosen)
        if chosen is not None and name is not None and chosen != name:
            kept = [(fields, named) for fields, named in kept if named is None]
        if chosen is not None:
            name = chosen
        kept.append((values, chosen))
    assert name is not None, "train.yaml names a file for every group"
    available = group_names(group)
    if group == "task" and names_file(name):
        yield {group: _own_task(name)}
    elif name in available:
        preset = shipped(f"{group}/{name}")
        yield {group: {"name": name, **preset}}
    elif group == "task":  # any other name is looked up in the task registry
        yield {group: {"name": name}}
    else:
        raise UserError(f"unknown {group} '{name}': {one_of(name, available)}")
    for fields, _ in kept:
        yield {group: fields}


def names_file(place: str) -> bool:
    """Return whether a program is named by a file, `path.py:function`, not by a registered name.

    >>> names_file("own/program.py:make_it"), names_file("sort")
    (True, False)
    """
    return place.endswith(".py") or ".py:" in place


def split_place(place: str) -> tuple[Path, str]:
    """Return the file and the function of `path.py:function`."""
    path, separator, function = place.rpartition(".py:")
    return (Path(f"{path}.py"), function) if separator else (Path(place), "")


def _make_whole(task: TaskConfig) -> None:
    """Make relative paths absolute, so that a run can be measured again from another folder.

    With a user's own program, other files are looked for in the program's folder.
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
    """Return a task's fields from a user's program file and the YAML file beside it."""
    path, function = split_place(place)
    short = function.removeprefix("make_")
    name = path.stem if short in ("", path.stem) else f"{path.stem}.{short}"
    name = re.sub(r"[^\w.-]+", "_", name)
    beside = path.with_suffix(".yaml")
    fields = read_settings(beside) if beside.is_file() else {}
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
                given = resolved(value)
                raise UserError(f"'{prefix}{key}' ({source}) must hold keys, not {given!r}")
            _check_keys(value, cast(type, default), source, f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            raise UserError(
                f"'{prefix}{key}' ({source}) holds no keys, but {resolved(value)} was given"
            )


def _as_typed(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a user's values, each in its key's type, with tokens as they were typed."""
    values = typed(Config, part)
    if vocabulary := values.get("task", {}).get("vocabulary"):
        values["task"]["vocabulary"] = tokens("task.vocabulary", vocabulary)
    return values


def _checked(parts: Sequence[Mapping[str, Any]]) -> Config:
    values = dict[str, Any]()
    for part in parts:
        values = _merged(values, part)
    groups = {f.name: f.default_factory for f in dataclasses.fields(Config)}
    config = Config(**{
        key: cast(Any, groups[key])(**value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    })  # fmt: skip
    for holds, message in _rules(config):
        if not holds:
            raise UserError(message)
    return config


def _rules(config: Config) -> Iterator[tuple[bool, str]]:
    """Yield (holds, message) for each rule on the values."""
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
