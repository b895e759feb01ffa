"""What runs are called: their names, groups and titles, and what sets them off from their files."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Collection
from typing import Any

from .composition import compose, flattened, names_file, preset_of, shipped  # noqa: F401 (examples)
from .schema import FREE_SETTINGS, Config, ModelConfig, TaskConfig, TrainerConfig
from .values import shown

# What runs of one group may differ in, too: how often the loss is logged says nothing of a model.
UNGROUPED_SETTINGS = (*FREE_SETTINGS, "trainer.log_every")
NOT_TRAINED = ("alternatives", "allow_inexact")  # of a task: they change nothing of what is trained
GROUP_LENGTH = 120  # W&B takes 128 characters
NAME_LENGTH = 84  # of a run without its seed: an id has more
TITLE_LENGTH = 40  # of a value in a title
VALUE_LENGTH = 24  # of a value in a name
TEXT = re.compile(r"(?!-?[0-9]+$)[A-Za-z0-9_-]+")  # in a list, it is taken for nothing else


def departures(config: Config) -> dict[str, Any]:
    """Return what sets a run off from the shipped task, model and training it names, by dotted key.

    Of a program of the user's own the task is whatever its file says, and departs from nothing.
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
        preset = dict(root["trainer"]) if group == "trainer" else preset_of(group, own.name)
        if group == "model" and not preset:  # of a file that is gone: nothing is known
            continue
        usual = dataclasses.asdict(schema) | preset
        for key, value in dataclasses.asdict(own).items():
            if value != usual[key] and f"{group}.{key}" != "trainer.accelerator":
                changes[f"{group}.{key}"] = value
    return changes


def run_name(config: Config, whole: bool = True) -> str:
    """Return task, architecture and seed, as runs are called; safe in a path and in a shell.

    What departs from the task and the model that are named is in it, each setting after the name
    that it departs from; unless it is not to be `whole`, as earlier versions called runs.

    >>> run_name(compose(["task=sort", "model=1L", "model.normalization=none", "seed=3"]))
    'sort-1L-noLN-seed3'
    >>> run_name(compose(["task.vocabulary=[a,b]", "model.n_layers=3", "model.d_mlp=null"]))
    'reverse-vocabulary.a.b-2L_attn_only-n_layers3-seed0'
    """
    left_out = () if whole else tuple(departures(config))
    return f"{_cut(_trained(config, left_out), NAME_LENGTH)}-seed{config.seed}"


def group_name(config: Config, leaving_out: Collection[str] = ()) -> str:
    """Return what runs that differ in their seed alone have in common, in at most GROUP_LENGTH.

    Settings may be left out, by their dotted keys.

    >>> group_name(compose(["task=sort", "model=1L", "trainer.learning_rate=0.01", "seed=3"]))
    'sort-1L-learning_rate0.01'
    """
    left = {*UNGROUPED_SETTINGS, *leaving_out}
    return _cut("-".join((_trained(config, left), *_parts(config, "trainer", left))), GROUP_LENGTH)


def group_settings(config: Config) -> dict[str, Any]:
    """Return all settings of what is trained, by dotted key: runs of one group have the same."""
    left = (
        *UNGROUPED_SETTINGS,
        "analysis",
        "seed",
        "threads",
        *(f"task.{key}" for key in NOT_TRAINED),
    )
    return flattened(config, left)


def model_title(config: Config) -> str:
    """Return the architecture as titles have it, with what departs from its file.

    >>> model_title(compose(["model.n_layers=3", "model.act_fn=gelu"]))
    '2L_attn_only with n_layers 3, act_fn gelu'
    """
    return _titled(config, "model")


def task_title(config: Config) -> str:
    """Return the task as titles have it, with what departs from the one that is named.

    >>> task_title(compose(["task=sort", "task.max_length=4", "task.vocabulary=[1,2]"]))
    'sort with vocabulary [1, 2], max_length 4'
    """
    return _titled(config, "task")


def run_title(config: Config, doing: str) -> str:
    """Return what was trained on what, from which seed, as titles have it.

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
    """Return what departs in a group from what it names, by the fields' own names.

    Other programs that a task is told apart from, and its tolerance of an inexact reference, are
    left out: they change nothing of what is trained.
    """
    pairs = (key.split(".") for key in departures(config))
    return {
        name: getattr(getattr(config, group), name)
        for of, name in pairs
        if of == group and name not in NOT_TRAINED
    }


def _trained(config: Config, leaving_out: Collection[str] = ()) -> str:
    """Return task and architecture, each with what departs from it."""
    mark = [] if config.model.normalization == "LN" else ["noLN"]
    left = {"model.normalization", *leaving_out}  # the mark says it
    return "-".join((
        config.task.name, *_parts(config, "task", left), config.model.name, *mark,
        *_parts(config, "model", left),
    ))  # fmt: skip


def _parts(config: Config, group: str, leaving_out: Collection[str]) -> list[str]:
    own = _own(config, group).items()
    return [f"{key}{_short(value)}" for key, value in own if f"{group}.{key}" not in leaving_out]


def _short(value: Any) -> str:
    """Return a value in letters that every shell, file system and server takes.

    A list that may be taken for another one by these letters alone has a digest.

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
