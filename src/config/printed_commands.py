"""Commands to be printed: complete, quoted for a shell, with a run's own settings."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .composition import usual_task
from .schema import Config, TaskConfig
from .values import escape_references

BARE = re.compile(r"[A-Za-z_][\w.-]*")  # text that YAML reads as itself, except its keywords


def command(*words: object) -> str:
    """Return an `algomatch` command that can be pasted into a shell.

    >>> command("match", Path("my runs/one"), "task.vocabulary=[a,b]")
    "algomatch match 'my runs/one' 'task.vocabulary=[a,b]'"
    """
    return quoted("algomatch", *words)


def quoted(*words: object) -> str:
    """Return words as a shell command; a path is never taken for an option.

    >>> quoted("wandb", "sync", Path("-run"))
    'wandb sync ./-run'
    """
    return shlex.join(
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
        for word in words
    )


def task_words(task: TaskConfig) -> list[str]:
    """Return the arguments that recreate a task with its settings, and so the same inputs.

    >>> task_words(TaskConfig("sort", max_length=4))
    ['task=sort', 'task.max_length=4']
    """
    place, usual = usual_task(task)
    return [f"task={place}", *setting_words("task", vars(task), usual)]


def setting_words(group: str, values: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """Return the arguments `group.key=value` for values that differ from the usual ones."""
    return [
        f"{group}.{key}={_value(value)}" for key, value in values.items() if value != usual.get(key)
    ]


@dataclass(frozen=True)
class RunCommands:
    """Commands for a run in its folder; `task` is the config's, with its files' current paths."""

    path: Path
    config: Config
    task: TaskConfig

    def of(self, name: str, *more: object) -> str:
        """Return a command on the run."""
        return command(name, self.path, *more)

    @property
    def resume(self) -> str:
        """The command that resumes the run."""
        return command("train", "--resume", self.path)

    @property
    def controls(self) -> str:
        """The command that runs the controls of the run's task, on its own inputs."""
        return command("controls", *task_words(self.task))

    def measure_all(self, measures: Sequence[str]) -> str:
        """The command that trains the run again, with all measures, into a new folder."""
        own, words = self.config.analysis.measures or [], list[object]()
        words += setting_words("task", vars(self.task), vars(self.config.task))
        if lacking := [measure for measure in measures if measure not in own]:
            words.append(f"analysis.measures={_value([*own, *lacking])}")
        if self.config.run_dir is not None:
            words.append("run_dir=null")
        return command("train", "--config", self.path / "config.yaml", *words)


def _value(value: Any) -> str:
    """Return a value as an argument's text: YAML without blanks."""
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, str) and BARE.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(escape_references(value) if isinstance(value, str) else value)
