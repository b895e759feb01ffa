"""What the commands that analyse checkpoints share: of one or of several runs, and where to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..infra.errors import UserError
from .arguments import SETTING, TASK_KEYS, composed, key_of, need_at_least, parted

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.results import Key, Result
    from ..config.schema import Config
    from ..runs.run_folder import RunFolder

Value = str | bool | tuple[str, ...] | None


@dataclass(frozen=True)
class Options:
    """What an analysis is asked for, by the options' names; what is not given is empty."""

    values: dict[str, Value]

    @property
    def words(self) -> tuple[str, ...]:
        """The options as they are given."""
        words: list[str] = []
        for name, value in self.values.items():
            if value:
                words.append(f"--{name}")
                if isinstance(value, str):
                    words.append(value)
                elif isinstance(value, tuple):
                    words += value
        return tuple(words)

    def settings(self, device: str) -> tuple[str, ...]:
        """Return what of the options changes the numbers of a result, and is not the default.

        `device` is that of the config.
        """
        from ..analysis.circuits.edge_scores import METHODS
        from ..analysis.measures.rerun import KINDS
        from ..runs.result_store import setting

        settings = []
        for name, known in (("programs", ()), ("methods", METHODS), ("kinds", KINDS)):
            values = self.values.get(name)
            if isinstance(values, tuple) and values and set(values) != set(known):
                settings.append(setting(name, values))
        if self.values.get("no-sides"):
            settings.append(setting("no-sides"))
        own = self.values.get("device")
        if isinstance(own, str) and own != device:
            settings.append(setting("device", [own]))
        return tuple(settings)


def check_given_device(device: str | None) -> None:
    """Refuse a device that is given and is not there.

    Raises:
        UserError: it cannot be used here.
    """
    if device is not None:
        from ..config.devices import check_device

        check_device(device)


def are_several(places: Sequence[str]) -> bool:
    """Return whether these are several runs, or a folder that is no run but holds some."""
    if any(SETTING.match(place) for place in places):
        return False
    holds = (next(Path(place).glob("*/run.json"), None) is not None for place in places)
    return len(places) > 1 or any(holds)


def refuse_several(jobs: int | None, again: bool) -> None:
    """Refuse options of several runs where there is only one.

    Raises:
        UserError: one is given.
    """
    if jobs is not None or again:
        name = "--again" if jobs is None else "--jobs"
        raise UserError(f"{name} is of several runs, and there is only one")


def refuse_output(output: Path | None, folder: str) -> None:
    """Refuse a place for the results of several runs: each has its own.

    Raises:
        UserError: one is given.
    """
    if output is not None:
        raise UserError(f"--output is of one run: of several, results go to RUN/{folder}")


def refuse_settings(words: Sequence[str]) -> None:
    """Refuse settings where a checkpoint has its own.

    Raises:
        UserError: one is given.
    """
    for setting in parted(words)[0]:
        raise UserError(f"'{setting}' has no say here: a checkpoint has its own config")


def readable_runs(places: Sequence[str], console: Console) -> list[RunFolder]:
    """Return the runs at the paths; say of those that cannot be opened why they are left out."""
    from ..runs.run_batches import find_runs

    left_out = list[str]()
    runs = find_runs([Path(place) for place in places], left_out)
    for line in left_out:
        console.print(f"! {line}", soft_wrap=True, highlight=False, markup=False)
    return runs


def each_alone(
    verb: str,
    what: str,
    runs: Sequence[RunFolder],
    folder: str,
    options: Options,
    *,
    jobs: int | None,
    again: bool,
    console: Console,
    settings: tuple[str, ...] | None = None,
) -> None:
    """Do with each of several runs what a command does with one; results go to RUN/FOLDER.

    `what` is the kind of the results. `settings` are of their keys, by default those of the
    options.
    """
    need_at_least(1, jobs=jobs)
    from ..api.many_runs import Work
    from ..api.many_runs import each_alone as work_off
    from ..infra.processes import cores
    from .main import main

    works = [
        Work(run, run.path / folder, options.words, tuple(_keys(run, what, options, settings)))
        for run in runs
    ]
    work_off(verb, works, jobs or cores(), again, main, console)


def _keys(
    run: RunFolder, what: str, options: Options, settings: tuple[str, ...] | None
) -> Iterator[Key]:
    """Yield what the command's results of a run are of."""
    from ..analysis.results import Key
    from ..runs import checkpoints

    steps = [checkpoints.step_of(path) for path in run.checkpoint_folders()]
    own = options.settings(run.config.analysis.device) if settings is None else settings
    for step in steps if options.values.get("all") else steps[-1:]:
        yield Key(what, run.id, step, own)


def analysed(
    verb: str,
    words: Sequence[str],
    reference: bool,
    options: Options,
    output: Path | None,
    folder: str,
) -> tuple[Path | None, Config | None, Path, Key]:
    """Return the checkpoint, the config of the reference if that is to be analysed, and where to.

    Results go to a folder of that name beside the checkpoint, or here with the task's name; the key
    says what they are of.
    """
    settings, places = parted(words)
    if not reference:
        refuse_settings(settings)
    if len(places) > 1 or (not places and not settings) or (places and settings):
        way = "one checkpoint" + (", or task=NAME and KEY=VALUE" if reference else "")
        raise UserError(f"{verb} takes {way}, not {' '.join(words) or 'none'}")
    from ..analysis.results import Key
    from ..runs import checkpoints

    if settings:
        if not any(key_of(setting) in TASK_KEYS for setting in settings):
            raise UserError("name the task whose program is to be analysed, as in task=reverse")
        config = composed(settings)
        where = output or Path(f"{folder}-{config.task.name}")
        own = tuple(sorted(word for word in settings if word != f"task={config.task.name}"))
        given = options.settings(config.analysis.device)
        return None, config, where, Key(folder, f"compiled {config.task.name}", None, given, own)
    path = Path(places[0])
    checkpoint = checkpoints.load(path)
    config = checkpoint.config
    name = f"{folder}-reference" if reference else folder
    where = output or checkpoints.beside(path) / name
    given = options.settings(config.analysis.device)
    if reference:
        from ..config.printed_commands import setting_words
        from ..config.schema import AnalysisConfig

        config = replace(config, task=checkpoint.task)
        usual = vars(AnalysisConfig())
        own = (
            f"inputs={checkpoint.inputs_digest[:8]}",
            *setting_words("analysis", vars(config.analysis), usual),
        )
        return path, config, where, Key(folder, f"compiled {config.task.name}", None, given, own)
    return path, None, where, Key(folder, checkpoint.run, checkpoint.step, given)


def log_result(
    path: Path | None, name: str, result: Result, folder: Path, console: Console
) -> None:
    """Log a result to W&B, where the checkpoint is of a run that is tracked; `folder` has it."""
    from ..runs import checkpoints
    from ..runs.run_folder import RunFolder

    if path is None or not (checkpoints.beside(path) / "run.json").is_file():
        return
    from ..tracking.wandb_log import log_analysis

    run = RunFolder.open(checkpoints.beside(path))
    log_analysis(run, name, result, folder.parent, console.print)


def say_where(folders: Sequence[Path], where: Path, console: Console) -> None:
    """Say where results are, and what of them is gathered."""
    from ..analysis.results import SETTINGS

    names = [path.name for path in sorted(folders[-1].iterdir()) if path.name != SETTINGS]
    more = f" (and {len(folders) - 1} more checkpoints)" if len(folders) > 1 else ""
    line = f"{', '.join(names)}: {folders[-1]}{more}; gathered: {where}"
    console.print(line, soft_wrap=True, highlight=False, markup=False)
