"""How a config is composed, recorded and read back.

Layers, weakest first: the schema's defaults, the named file of each group, `configs/train.yaml`
(which by itself only names files), the file given by `--config`, and `key=value` arguments.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

from ..infra.errors import FaultError, UserError, first_line, one_of, refuse_texts
from .schema import (
    FREE_SETTINGS,
    GROUPS,
    USED_BY,
    AnalysisConfig,
    Config,
    TaskConfig,
    check_rules,
    groups,
)
from .values import is_null, read_text, resolved, tokens, typed, unclosed, write_text


def configs_dir() -> Path:
    """Return the folder of the shipped YAML files, in a wheel or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(p for p in (package / "configs", package.parent / "configs") if p.is_dir())


@cache
def shipped(name: str) -> Mapping[str, Any]:
    """Return what a shipped file holds: `train`, or GROUP/NAME."""
    return read_yaml(configs_dir() / f"{name}.yaml")


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

    >>> config = compose(["task=sort", "model=1L", "seed=3"])
    >>> config.task.name, config.model.n_layers, config.seed
    ('sort', 1, 3)

    Raises:
        UserError: an unknown key or group file, a value of the wrong type or a broken rule.
    """
    refuse_texts(overrides=overrides)
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
    return dataclasses.replace(config, task=_with_whole_paths(config.task))


def from_mapping(values: Mapping[str, Any], source: str) -> Config:
    """Return the Config that a run or checkpoint recorded, without reading group files.

    Raises:
        UserError: an unknown key, a value of the wrong type or a broken rule.
    """
    _check_keys(values, Config, source)
    return _checked([typed(Config, values)])


def with_overrides(config: Config, overrides: Sequence[str], verb: str | None = None) -> Config:
    """Return the Config of a trained run with other settings of its analysis.

    Overrides are `analysis.key=value`: with everything else the run was trained. With a `verb`,
    they are settings that it uses.

    >>> with_overrides(Config(), ["analysis.circuit_cases=500"]).analysis.circuit_cases
    500

    Raises:
        UserError: an unknown key, one that is not of the analysis or that the verb does not use,
            or a broken rule.
    """
    every = [each.name for each in dataclasses.fields(AnalysisConfig) if each.name != "name"]
    used = every if verb is None else USED_BY[verb]
    for override in overrides:
        key = override.partition("=")[0]
        group, _, name = key.rpartition(".")
        if group == "analysis" and name in used:
            continue
        if group == "analysis" and name in every:
            uses = ", ".join(f"analysis.{own}" for own in used)
            raise UserError(f"{verb} does not use {key}; it uses: {uses}")
        if key in GROUPS or key in flattened(Config()):
            raise UserError(
                f"'{override}': the run was trained with its own {key}. Only settings of the "
                "analysis can be changed, as in analysis.circuit_threshold=0.02"
            )
        raise UserError(f"unknown key '{key}': {one_of(name, used, 'analysis.')}")
    given = _as_typed(_parse_overrides(overrides))
    return _checked([to_mapping(config), given]) if overrides else config


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


def usual_task(task: TaskConfig) -> tuple[str, dict[str, Any]]:
    """Return what `task=` is given for a task, and the values that it gives by itself.

    That is its name, or the file of a program of the user's own.
    """
    usual = dataclasses.asdict(TaskConfig(name=task.name))
    if names_file(task.program or ""):
        with suppress(UserError, FaultError):  # the YAML beside it cannot be read
            own = _own_task(str(task.program))
            if own["name"] == task.name:
                return str(task.program), usual | own
    return task.name, usual | preset_of("task", task.name)


def preset_of(group: str, name: str) -> dict[str, Any]:
    """Return the values of a group's shipped file, none where there is none of that name."""
    return dict(shipped(f"{group}/{name}")) if name in group_names(group) else {}


def to_mapping(config: Config) -> dict[str, Any]:
    """Return a Config as plain nested values, for YAML, JSON and W&B."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """Return a Config as YAML that `from_mapping` reads back."""
    return write_text(to_mapping(config))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping of a YAML file that is shipped or that `to_yaml` wrote.

    Raises:
        UserError: the file is missing, is no YAML or is no mapping.
        FaultError: the file cannot be read.
    """
    return cast(dict[str, Any], resolved(_read(path, lambda values: values)))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the mapping of a user's YAML or JSON file, unquoted values as they were typed.

    A `${...}` is a reference to another key, but in what a run recorded it is the text.

    Raises:
        UserError: the file is missing, is no YAML or is no mapping.
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
    """Return nested values, the stronger ones over the weaker; lists are replaced."""
    merged = dict(weaker)
    for key, value in stronger.items():
        there = merged.get(key)
        both = isinstance(there, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(cast(Mapping[str, Any], there), value) if both else value
    return merged


def _interpolated(values: Any) -> Any:
    """Return values with each text that holds a `${...}` as OmegaConf resolves it."""

    def replaced(value: Any, resolution: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: replaced(inner, resolution[str(key)]) for key, inner in value.items()}
        if isinstance(value, list):
            return [replaced(*both) for both in zip(value, resolution, strict=True)]
        return resolution if isinstance(value, str) and "${" in value else value

    plain = resolved(values)
    if "${" not in str(plain):
        return values
    from omegaconf import OmegaConf  # few configs have a reference, and it takes a while to load

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
    """Return whether a program is named by its file, `path.py:function`, not by a registered name.

    >>> names_file("own/program.py:make_it"), names_file("sort")
    (True, False)
    """
    return place.endswith(".py") or ".py:" in place


def split_place(place: str) -> tuple[Path, str]:
    """Return the file and the function of `path.py:function`."""
    path, separator, function = place.rpartition(".py:")
    return (Path(f"{path}.py"), function) if separator else (Path(place), "")


def _with_whole_paths(task: TaskConfig) -> TaskConfig:
    """Return a task with whole paths, so that a run can be measured again from another folder.

    Beside a program of the user's own, other files are looked for where it is.
    """

    def whole(place: str) -> str:
        path, function = split_place(place)
        return f"{path.resolve()}:{function}" if names_file(place) else place

    program = task.program and whole(task.program)
    if names_file(program or ""):
        return dataclasses.replace(task, program=program)
    return dataclasses.replace(
        task,
        program=program,
        restrict=task.restrict and whole(task.restrict),
        alternatives=task.alternatives and [whole(place) for place in task.alternatives],
    )


def _own_task(place: str) -> dict[str, Any]:
    """Return the fields of a task from a user's file, and from the YAML file beside it."""
    path, function = split_place(place)
    short = function.removeprefix("make_")
    name = path.stem if short in ("", path.stem) else f"{path.stem}.{short}"
    name = re.sub(r"[^\w.-]+", "_", name)
    beside = path.with_suffix(".yaml")
    fields = read_settings(beside) if beside.is_file() else {}
    _check_keys({"task": fields}, Config, str(beside))
    if "program" in fields:
        raise UserError(f"leave 'program' out of {beside}: the program is already {place}")
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
                f"'{prefix}{key}' ({source}) takes a value, not keys: {resolved(value)}"
            )


def _as_typed(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a user's values, each of its key's type, and tokens as they were typed."""
    values = typed(Config, part)
    if vocabulary := values.get("task", {}).get("vocabulary"):
        values["task"]["vocabulary"] = tokens("task.vocabulary", vocabulary)
    return values


def _checked(parts: Sequence[Mapping[str, Any]]) -> Config:
    values = dict[str, Any]()
    for part in parts:
        values = _merged(values, part)
    by_group = groups()
    config = Config(**{
        key: by_group[key](**value) if key in by_group else value for key, value in values.items()
    })  # fmt: skip
    check_rules(config)
    return config
