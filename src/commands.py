"""Commands as they are printed: whole, quoted for a shell, with a run's own settings."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from .config import Config, TaskConfig, usual_task

BARE = re.compile(r"[A-Za-z_][\w.-]*")  # a text that YAML reads as itself, if it is no word of its


def command(*words: object) -> str:
    """Return an `algomatch` command that can be pasted into a shell.

    >>> command("match", Path("my runs/one"), "task.vocabulary=[a,b]")
    "algomatch match 'my runs/one' 'task.vocabulary=[a,b]'"
    """
    return quoted("algomatch", *words)


def quoted(*words: object) -> str:
    """Return a command of words as a shell reads it; a path is not taken for an option.

    >>> quoted("wandb", "sync", Path("-run"))
    'wandb sync ./-run'
    """
    return shlex.join(
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
        for word in words
    )


def task_words(task: TaskConfig) -> list[str]:
    """Return the arguments that make a task with its own settings, and so the same inputs.

    >>> task_words(TaskConfig("sort", max_length=4))
    ['task=sort', 'task.max_length=4']
    """
    place, usual = usual_task(task)
    return [f"task={place}", *setting_words("task", vars(task), usual)]


def setting_words(group: str, values: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """Return the arguments `group.key=value` for values that are not the usual ones."""
    return [
        f"{group}.{key}={_value(value)}" for key, value in values.items() if value != usual.get(key)
    ]


def again_words(config: Config, task: TaskConfig, path: Path, *measures: str) -> list[object]:
    """Return the command that trains a run again with measures that it lacks, in a new folder.

    `task` is the config's, where its files lie now.
    """
    lacking = [one for one in measures if one not in config.analysis.measures]
    words: list[object] = ["train", "--config", path / "config.yaml"]
    words += setting_words("task", vars(task), vars(config.task))
    if lacking:
        words.append(f"analysis.measures={_value([*config.analysis.measures, *lacking])}")
    return [*words, *(["run_dir=null"] if config.run_dir is not None else [])]


def _value(value: Any) -> str:
    """Return a value as an argument gives it: as YAML reads it, without blanks."""
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, str) and BARE.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value)
