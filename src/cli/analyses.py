"""What the commands that analyse checkpoints share: one or several runs, and where results go."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..infra.errors import Interrupted, UserError
from .arguments import (
    TASK_KEYS,
    composed,
    console,
    is_setting,
    need_at_least,
    need_runs,
    parted,
    say_next,
    setting_key,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.results import About, Key, Result
    from ..config.schema import Config, TaskConfig
    from ..runs.loaded_run import Loaded
    from ..runs.run_folder import RunFolder

Value = str | bool | tuple[str, ...] | None


class Keep(Protocol):
    """What writes a result as soon as it is computed."""

    def __call__(self, finding: Any, step: int | None, finished: bool = True) -> None:
        """Write the finding of a step; one that is not finished is what there is so far."""


@dataclass(frozen=True)
class Options:
    """The options of an analysis by name, and its overrides; what is not given is empty."""

    values: dict[str, Value]
    overrides: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The options and overrides as they are given."""
        words: list[str] = [*self.overrides]
        for name, value in self.values.items():
            if value:
                words.append(f"--{name}")
                if isinstance(value, str):
                    words.append(value)
                elif isinstance(value, tuple):
                    words += value
        return tuple(words)

    def given(self, name: str) -> tuple[str, ...]:
        """Return the values of an option that takes several."""
        value = self.values.get(name)
        return value if isinstance(value, tuple) else ()

    @property
    def programs(self) -> tuple[str, ...]:
        """The programs that are named."""
        program = self.values.get("program")
        return (program,) if isinstance(program, str) else self.given("programs")

    def settings(self, config: Config) -> tuple[str, ...]:
        """Return what of the options changes the numbers of a result, and is not the default.

        `config` is the run's own: an override that says the same changes nothing.
        """
        from ..config.composition import with_overrides
        from ..runs.result_store import result_settings

        now, device = with_overrides(config, self.overrides).analysis, self.values.get("device")
        return result_settings(
            config.analysis, replace(now, device=device) if isinstance(device, str) else now,
            programs=self.given("programs"), methods=self.given("methods"),
            kinds=self.given("kinds"), sides=not self.values.get("no-sides"),
        )  # fmt: skip


@dataclass(frozen=True)
class Verb:
    """What one verb does with runs: its name, the kind of its results, and who makes them.

    `compute` calls what it is given with each finding, also with an unfinished one; `result` makes
    the Result of it that is written, for a key. `following` is the verb to go on with.
    """

    verb: str
    kind: str
    compute: Callable[[Sequence[Loaded], Options, Keep, Console], Sequence[Any]]
    result: Callable[[Any, Key, bool], Result]
    show: Callable[[Sequence[Any], Console], None]
    following: str
    of_reference: bool = True
    settings: Callable[[Options], tuple[str, ...]] | None = None  # of the keys, if it has its own
    check: Callable[[Options], None] = lambda options: None  # refuses names that there are not

    @property
    def folder(self) -> str:
        """The folder of a run that its results go to."""
        from ..analysis.results import FOLDERS

        return FOLDERS[self.kind]

    def key_settings(self, options: Options, config: Config) -> tuple[str, ...]:
        """Return the settings of a result's key; `config` is the run's own."""
        from ..config.devices import usual_device

        analysis = config.analysis
        device = usual_device(self.verb, analysis.device)
        usual = replace(config, analysis=replace(analysis, device=device))
        own = () if self.settings is None else self.settings(options)
        return (*own, *options.settings(usual))


def analyse(
    analysis: Verb,
    words: Sequence[str],
    options: Options,
    *,
    reference: bool = False,
    output: Path | None = None,
    jobs: int | None = None,
    again: bool = False,
) -> None:
    """Analyse a run, a checkpoint, a reference, or several runs; print, write and log the results.

    After Ctrl-C what was computed is there; with `--all`, the same command does the rest.

    Raises:
        UserError: what is given is no run and no checkpoint, or an override is wrong.
        FaultError: a result could not be written; it was printed.
        Interrupted: by Ctrl-C.
    """
    from ..infra.files import refuse_file

    device = options.values.get("device")
    check_given_device(device if isinstance(device, str) else None)
    overrides, places = parted(words)
    screen = console()
    several = are_several(places) and not reference
    if not several:
        _need_checkpoint(analysis, words, options, reference)
    if places:
        check_overrides(overrides, analysis.verb)
        options = replace(options, overrides=tuple(overrides))
    refuse_file("--output", output)
    analysis.check(options)
    if several:
        refuse_output(output, analysis.folder)
        need_runs(analysis.verb, places)
        runs = readable_runs(places, screen)
        analyse_each(analysis, runs, options, jobs=jobs, again=again, console=screen)
        say_next(_command("report", *map(Path, places)), screen)
        return
    every = bool(options.values.get("all"))
    refuse_several(jobs, again and not every, "all" in options.values)
    for place in places:
        _check_place(Path(place), options.programs)
    loaded, where, keys = _opened(analysis, words, reference, options, output)
    _analyse(analysis, loaded, where, keys, options, again=again or not every, screen=screen)
    if not places:
        from ..config.printed_commands import task_words

        say_next(_command("train", *task_words(loaded[0].config.task)), screen)
    elif analysis.following != "report":
        say_next(_command(analysis.following, Path(places[0])), screen)
    elif (folder := loaded[0].folder) is not None:  # a page is of a whole run
        say_next(_command("report", folder.path), screen)


def _analyse(
    analysis: Verb,
    loaded: Sequence[Loaded],
    where: Path,
    keys: Sequence[Key],
    options: Options,
    *,
    again: bool,
    screen: Console,
) -> None:
    """Analyse checkpoints of one run, those that are not done yet unless `again`."""
    folder = loaded[0].folder  # a damaged one is told before the work
    from ..api import keeping
    from ..infra.files import Unwritten
    from ..runs.result_store import is_there

    left = [
        (run, key)
        for run, key in zip(loaded, keys, strict=True)
        if again or not is_there(where, key)
    ]
    if len(left) < len(loaded):
        there = len(loaded) - len(left)
        screen.print(
            f"{there} of {len(loaded)} checkpoints are already done (--again repeats them)"
        )
    key_of_step = {run.step: key for run, key in left}
    stored: dict[int | None, tuple[Path, Result]] = {}
    unwritten = Unwritten()

    def keep(finding: Any, step: int | None, finished: bool = True) -> None:
        with unwritten.noted():
            stored[step] = keeping.keep(
                where, analysis.result(finding, key_of_step[step], finished)
            )

    if left:
        try:
            results = analysis.compute([run for run, _ in left], options, keep, screen)
        except KeyboardInterrupt:
            on = "starts anew" if again else "continues"
            kept = f"; the results so far are in '{where}'; the same command {on}"
            raise Interrupted(f"interrupted{kept * bool(stored)}", signal.SIGINT) from None
        analysis.show(results, screen)
    unwritten.tell()
    keeping.draw_gathered(where, analysis.kind)
    if stored:
        path, result = [*stored.values()][-1]
        say_where([path for path, _ in stored.values()], where, screen, result.about)
        if folder is not None:
            log_result(folder, where.name, result, path, screen)


def _command(*words: object) -> str:
    from ..config.printed_commands import command

    return command(*words)


def check_overrides(overrides: Sequence[str], verb: str) -> None:
    """Refuse overrides that the verb does not use, or nonsense, before anything is loaded.

    Raises:
        UserError: one is not.
    """
    if overrides:
        from ..config.composition import with_overrides
        from ..config.schema import Config

        analysis = with_overrides(Config(), overrides, verb).analysis
        if analysis.measures is not None:
            from ..analysis.measures.registered_measures import check_measures

            check_measures(analysis.measures)


def check_given_device(device: str | None) -> None:
    """Refuse a device that is given and is not there.

    Raises:
        UserError: it cannot be used here.
    """
    if device is not None:
        from ..config.devices import check_device

        check_device(device)


def check_programs(task: TaskConfig, names: Sequence[str]) -> None:
    """Refuse names that are none of a registered task's programs.

    Of a task with programs of the user's own only these programs can tell, later.

    Raises:
        UserError: one is unknown.
    """
    from ..data.registered_tasks import check_programs_of, registered_programs

    known = registered_programs(task)
    if known is not None:
        check_programs_of(task.name, names, known)


def _check_place(place: Path, programs: Sequence[str]) -> None:
    """Refuse a path without a checkpoint, and programs that the task of its run does not have.

    Raises:
        UserError: there is no checkpoint, or no such program.
    """
    from ..runs.places import CONFIG, beside, is_run

    home = beside(place)
    if programs and is_run(home):
        from ..config.composition import from_mapping, read_yaml

        file = home / CONFIG
        check_programs(from_mapping(read_yaml(file), str(file)).task, programs)


def _need_checkpoint(
    analysis: Verb, words: Sequence[str], options: Options, reference: bool
) -> None:
    """Refuse words that do not name one checkpoint, or one task whose reference is meant.

    Raises:
        UserError: they name none, or several.
    """
    settings, places = parted(words)
    if reference and not analysis.of_reference:
        raise UserError(f"{analysis.verb} takes a trained model, not a reference")
    if len(places) == 1 or (reference and settings and not places):
        return
    task = ", or task=NAME and KEY=VALUE" if reference else ""
    if places:
        raise UserError(f"{analysis.verb} takes one checkpoint{task}, not {' '.join(words)}")
    what = f"one checkpoint{task}" if reference else "a checkpoint or run folders"
    taken = [
        f" (--{name} took '{value}')"
        for name in options.values
        for value in options.given(name)
        if os.path.exists(value) or is_setting(value)
    ]
    raise UserError(f"{analysis.verb} takes {what}: none is given{''.join(taken[:1])}")


def are_several(places: Sequence[str]) -> bool:
    """Return whether these are several runs, or a folder that is no run but holds some."""
    from ..infra.files import faults_named

    holds = (next(Path(place).glob("*/run.json"), None) is not None for place in places)
    with faults_named("look for runs"):
        return len(places) > 1 or any(holds)


def refuse_several(jobs: int | None, again: bool, has_all: bool = False) -> None:
    """Refuse options of several runs where there is only one; `has_all` says that --all is one.

    Raises:
        UserError: one is given.
    """
    if jobs is not None:
        raise UserError("--jobs needs several runs, and there is only one")
    if again:
        if has_all:
            raise UserError(
                "--again needs several runs, or --all: one checkpoint is done anew anyway"
            )
        raise UserError("--again needs several runs, and there is only one: it is done anew anyway")


def refuse_output(output: Path | None, folder: str) -> None:
    """Refuse a place for the results of several runs: each has its own.

    Raises:
        UserError: one is given.
    """
    if output is not None:
        raise UserError(f"--output is for one run; with several, results go to RUN/{folder}")


def readable_runs(places: Sequence[str], console: Console) -> list[RunFolder]:
    """Return the runs at the paths; say of those that cannot be opened why they are left out."""
    from ..runs.run_batches import find_runs

    left_out = list[str]()
    runs = find_runs([Path(place) for place in places], left_out)
    for line in left_out:
        console.print(f"! {line}", soft_wrap=True, highlight=False, markup=False)
    return runs


def analyse_each(
    analysis: Verb,
    runs: Sequence[RunFolder],
    options: Options,
    *,
    jobs: int | None,
    again: bool,
    console: Console,
) -> None:
    """Do with each of several runs what the command does with one; results go to RUN/FOLDER."""
    need_at_least(1, jobs=jobs)
    from ..api.many_runs import Work, call_for_each
    from ..infra.processes import cores
    from .main import main

    # In a run that is done in part, what is there is left too, unless it is to be done again.
    said = (*options.words, *(["--again"] if again and options.values.get("all") else []))
    works = [
        Work(run, run.path / analysis.folder, said, tuple(_keys(run, analysis, options)))
        for run in runs
    ]
    call_for_each(analysis.verb, works, jobs or cores(), again, main, console)


def _keys(run: RunFolder, analysis: Verb, options: Options) -> Iterator[Key]:
    """Yield the keys of the command's results of a run."""
    from ..analysis.results import Key
    from ..runs import checkpoints

    steps = [checkpoints.step_of(path) for path in run.checkpoint_folders()]
    settings = analysis.key_settings(options, run.config)
    for step in steps if options.values.get("all") else steps[-1:]:
        yield Key(analysis.kind, run.id, step, settings)


def _opened(
    analysis: Verb,
    words: Sequence[str],
    reference: bool,
    options: Options,
    output: Path | None,
) -> tuple[list[Loaded], Path, list[Key]]:
    """Return what is to be analysed, the folder of the results, and their keys.

    Results go to the analysis's folder beside the checkpoint, or here with the task's name.
    """
    settings, places = parted(words)
    config: Config | None = None
    if not places:
        if not any(setting_key(setting) in TASK_KEYS for setting in settings):
            raise UserError("name the task whose program is to be analysed, as in task=reverse")
        config = composed(settings)
        check_programs(config.task, options.programs)
    from ..config.devices import usual_overrides
    from ..runs.loaded_run import LoadedReference, LoadedRun
    from ..runs.result_store import result_key, where_of

    given = options.values.get("device")
    device = given if isinstance(given, str) else None
    usual = usual_overrides(analysis.verb)
    runs: list[Loaded]
    if config is not None:
        runs, own = [LoadedReference.open(config, usual, device=device)], config
    else:
        run = LoadedRun.open(places[0], [*usual, *options.overrides], device=device)
        every = bool(options.values.get("all"))
        runs = [*map(run.at, run.steps)] if every else [run]
        runs, own = [LoadedReference.of(run)] if reference else runs, run.checkpoint.config
    chosen = analysis.key_settings(options, own)
    keys = [result_key(analysis.kind, each, chosen) for each in runs]
    return runs, output or where_of(runs[0], analysis.kind), keys


def log_result(run: RunFolder, name: str, result: Result, path: Path, console: Console) -> None:
    """Log a result to W&B, if the run is tracked; it lies at `path`.

    Raises:
        Interrupted: by Ctrl-C.
    """
    from ..tracking.wandb_log import log_analysis

    try:
        log_analysis(run, name, result, path.parent, console.print)
    except KeyboardInterrupt:
        told = f"interrupted while logging to W&B; the result is complete, in '{path}'"
        raise Interrupted(told, signal.SIGINT) from None


def say_where(folders: Sequence[Path], where: Path, console: Console, about: About) -> None:
    """Say where results are: their own folder, and that of the collected tables.

    `about` is that of the last result.
    """
    from ..analysis.results import SETTINGS

    names = [path.name for path in sorted(folders[-1].iterdir()) if path.name != SETTINGS]
    more = f" (and {len(folders) - 1} more checkpoints)" if len(folders) > 1 else ""
    collected = f"collected: {where}"
    if overrides := about.overrides:
        own = "only results with the run's own settings are"
        collected = f"not collected, since {' '.join(overrides)}: {own}"
    line = f"{', '.join(names)}: {folders[-1]}{more}; {collected}"
    console.print(line, soft_wrap=True, highlight=False, markup=False)
