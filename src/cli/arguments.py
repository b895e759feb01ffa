"""The words of a command line: settings KEY=VALUE among others, and what they compose."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..infra.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ..config.schema import Config

SETTING = re.compile(r"[\w.]+=")
OPENED = re.compile(r"[a-z][\w.]*=\s*[\[{]")  # an argument that begins a list
TASK_KEYS = ("task", "task.name", "task.program")
MODEL_KEYS = ("model", "model.name")
TAKE_NAMES = ("match", "match-model", "circuit")  # verbs with an option that takes several names
CONTROLS_MODEL = "4L"  # with MLPs, and deep enough to implement most programs


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with a list that a shell took apart at its blanks in one piece.

    >>> joined(["train", "task.vocabulary=[a,", "b]", "seed=1"])
    ['train', 'task.vocabulary=[a, b]', 'seed=1']
    """
    words: list[str] = []
    for word in arguments:
        if words and OPENED.match(words[-1]) and not re.match(r"-[-a-z]|[a-z][\w.]*=", word):
            from ..config.values import unclosed

            if unclosed(words[-1]):
                words[-1] += f" {word}"
                continue
        words.append(word)
    return words


def overrides_first(words: Sequence[str]) -> list[str]:
    """Return the words with settings of the analysis right after a verb that takes names.

    Otherwise an option that takes several names would take them too.

    >>> overrides_first(["circuit", "RUN", "--kinds", "mean", "analysis.seed=1"])
    ['circuit', 'analysis.seed=1', 'RUN', '--kinds', 'mean']
    """
    if words[0] not in TAKE_NAMES:
        return list(words)
    overrides = [word for word in words if word.startswith("analysis.") and SETTING.match(word)]
    return [*words[:1], *overrides, *(word for word in words[1:] if word not in overrides)]


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings KEY=VALUE among the words, and the other words.

    >>> parted(["runs/RUN", "analysis.seed=1"])
    (['analysis.seed=1'], ['runs/RUN'])
    """
    settings = [word for word in words if is_setting(word)]
    return settings, [word for word in words if word not in settings]


def is_setting(word: str) -> bool:
    """Return whether a word is a setting KEY=VALUE.

    A path of such a name is a path, unless its key is one of the config's.

    >>> is_setting("analysis.seed=1"), is_setting("seed=1"), is_setting("runs/RUN")
    (True, True, False)
    """
    if SETTING.match(word) is None:
        return False
    if not os.path.exists(word):  # also one that is too long for a path
        return True
    from ..config.schema import Config

    return setting_key(word).partition(".")[0] in {field.name for field in fields(Config)}


def setting_key(setting: str) -> str:
    """Return the key of a setting KEY=VALUE."""
    return setting.partition("=")[0]


def composed(settings: Sequence[str], file: Path | None = None) -> Config:
    """Return the config that settings compose, refused for what can be told of it at once.

    Raises:
        UserError: a setting is wrong, the task or a measure is unknown, or a device is not there.
    """
    from ..analysis.measures.registered_measures import check_measures, measured
    from ..config.composition import compose
    from ..config.devices import check_devices
    from ..data.registered_tasks import check_program

    config = compose(settings, file)
    check_program(config.task)
    check_measures(measured(config.analysis))
    check_devices(config)
    return config


def need_at_least(least: int, **values: int | None) -> None:
    """Refuse an option's number that is too small.

    Raises:
        UserError: it is below `least`.
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise UserError(f"--{name} {value} must be at least {least}")


def need_runs(verb: str, runs: Sequence[str]) -> None:
    """Refuse a command without the runs that it is about.

    Raises:
        UserError: none is given, a path holds none, or a run is given twice.
    """
    if not runs:
        raise UserError(f"{verb} takes run folders, or a folder of them: none is given")
    from ..runs.places import run_folders

    run_folders(map(Path, runs))


def say_next(command: str, screen: Console) -> None:
    """Print what to do next: a command that can be pasted."""
    screen.print(f"next: {command}", markup=False, highlight=False, soft_wrap=True)


def console() -> Console:
    """Return the console that a command prints on."""
    from rich.console import Console  # --help and --version do without

    return Console()
