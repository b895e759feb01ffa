"""Results of `match`, `circuit` and `explain`: each whole in a folder, and collected.

FOLDER/step-00000052/             a result: its tables and pictures, and settings.json
FOLDER/step-00000052-no-sides/    another one of the same checkpoint, with other settings
FOLDER/NAME.csv                   the tables, collected: of every checkpoint the fullest result with
                                  the run's own settings of the analysis, of circuits what all
                                  these results found, by ablation and method
FOLDER/NAME.png                   the pictures of the last checkpoint's
FOLDER/NAME.csv.old               a table that could not be read, put aside
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..analysis.ablation_names import KINDS, METHODS
from ..analysis.circuits.circuit_result import CircuitResult
from ..analysis.explain.explanation_result import ExplanationResult
from ..analysis.matching.match_result import MatchResult
from ..analysis.matching.subspace_result import SubspaceResult
from ..analysis.measures.registered_measures import default_measures, with_measures
from ..analysis.results import FOLDERS, SETTINGS, About, Key, Result
from ..analysis.states.states_result import StatesResult
from ..config.printed_commands import setting_words, task_words
from ..config.schema import AnalysisConfig
from ..infra.errors import FaultError
from ..infra.files import faults_named, write_file
from .loaded_run import Loaded, LoadedReference, LoadedRun

RESULTS: Mapping[str, type[Result]] = {
    result.KIND: result
    for result in (MatchResult, SubspaceResult, StatesResult, CircuitResult, ExplanationResult)
}
OLD_MARK = "done.json"  # of results of earlier versions, which lie in the folder itself


@dataclass(frozen=True)
class StoredResult:
    """A result that is there: its folder, and what it is of."""

    path: Path
    about: About

    @property
    def key(self) -> Key:
        """What the result is of."""
        return self.about.key

    def read(self) -> Result:
        """Return the result without the tables that cannot be read."""
        return RESULTS[self.about.kind].read(self.path, tolerant=True)


def stored_results(where: Path, problems: list[str] | None = None) -> list[StoredResult]:
    """Return the results in a folder; `problems` gets a line for each that cannot be read."""
    stored = list[StoredResult]()
    for path in sorted(where.glob(f"*/{SETTINGS}")):
        if path.parent.name.startswith("."):  # being written
            continue
        try:
            with faults_named(f"read '{path}'"):
                about = About.from_json(path.read_bytes(), str(path))
        except FaultError as error:
            if problems is not None:
                problems.append(str(error))
            continue
        if about.kind in RESULTS:
            stored.append(StoredResult(path.parent, about))
    return stored


def is_there(where: Path, key: Key) -> bool:
    """Return whether a finished result of the key is in a folder."""
    return any(stored.about.finished and stored.key == key for stored in stored_results(where))


def save(where: Path, result: Result) -> Path:
    """Write a result whole or not at all, collect the tables anew, and return its folder.

    What is not finished stays beside a finished result of the same key, until there is a new one.

    Raises:
        FaultError: the file system failed; the results that were there are untouched.
    """
    key = result.about.key
    with faults_named(f"write into '{where}'"):
        where.mkdir(parents=True, exist_ok=True)
        adopt(where, key.kind)
        path = _save(where, result)
        if result.about.finished:
            for stored in stored_results(where):
                if stored.key == key and not stored.about.finished:
                    shutil.rmtree(stored.path)
        gather_tables(where, key)
    return path


def _save(where: Path, result: Result) -> Path:
    key, finished = result.about.key, result.about.finished
    same = [
        stored.path
        for stored in stored_results(where)
        if stored.key == key and stored.about.finished == finished
    ]
    same = [path for path in same if not result.others_in(path)]  # files of the user's stay
    path = same[0] if same else _free(where, key.name + "-unfinished" * (not finished))
    result.write(path)
    return path


def _free(where: Path, name: str) -> Path:
    """Return a path that no other result has: of another run, where it is the same step."""
    path, number = where / name, 1
    while path.exists():
        number += 1
        path = where / f"{name}-{number}"
    return path


def is_gathered(where: Path, key: Key) -> bool:
    """Return whether the tables of a result's model are collected since the last was written."""
    for same_step in _by_step(stored_results(where), key):
        for stored in same_step:
            for table in RESULTS[key.kind].TABLES.values():
                if (stored.path / table.name).exists():
                    gathered = where / table.name
                    written = stored.about.written
                    if not gathered.is_file() or gathered.stat().st_mtime < written:
                        return False
    return True


def gather_tables(where: Path, key: Key) -> None:
    """Write the tables of all checkpoints of a result's model, and the last one's pictures.

    Results with other settings of the analysis than the run's own are not collected.

    Raises:
        OSError, FaultError: the file system failed.
    """
    kind, gathered = RESULTS[key.kind], collected(where, key)
    if gathered is None:
        return
    made = gathered.files()
    for name in gathered.problems:  # what was gathered of a table damaged since is the only copy
        if not _aside(where / name).exists():
            _put_aside(where / name)
    for name in kind.names():
        if name not in made:  # of earlier results: no old one stays beside new ones
            (where / name).unlink(missing_ok=True)
    for name, content in made.items():
        write_file(where / name, content)


def collected(where: Path, key: Key, overrides: Sequence[str] = ()) -> Result | None:
    """Return what the results of all checkpoints of a key's model say; None if there are none.

    `overrides` are the settings of the analysis that they were made with, if not the run's own.
    """
    kind = RESULTS[key.kind]
    parts = [
        kind.together([stored.read() for stored in (same_step if kind.JOINS else same_step[:1])])
        for same_step in _by_step(stored_results(where), key, overrides)
    ]
    return kind.over_steps(parts) if parts else None


def _aside(path: Path, number: int = 1) -> Path:
    return path.with_name(f"{path.name}.old{'' if number == 1 else f'-{number}'}")


def _put_aside(path: Path) -> None:
    """Give a table that is not to be lost another name."""
    if not path.exists():
        return
    number = 1
    while _aside(path, number).exists():
        number += 1
    path.rename(_aside(path, number))


def _by_step(
    all_results: Iterable[StoredResult], key: Key, overrides: Sequence[str] = ()
) -> list[list[StoredResult]]:
    """Return the results of each checkpoint of a key's model, first step first, the fullest first.

    Those with other overrides are left out: their numbers mean something else. Unfinished results
    are left out if there is a finished one.
    """
    steps: dict[int, list[StoredResult]] = {}
    for stored in all_results:
        own = stored.key
        same_model = (own.kind, own.model, own.of) == (key.kind, key.model, key.of)
        if same_model and stored.about.overrides == tuple(overrides):
            steps.setdefault(-1 if own.step is None else own.step, []).append(stored)
    ranked = [
        sorted(steps[step], key=lambda stored: stored.about.rank, reverse=True)
        for step in sorted(steps)
    ]
    return [
        [stored for stored in same_step if stored.about.finished] or same_step[:1]
        for same_step in ranked
    ]


def adopt(where: Path, kind: str) -> None:
    """Make results of the tables that an earlier version left in the folder itself.

    Raises:
        OSError, FaultError: the file system failed.
    """
    if any(stored.about.kind == kind for stored in stored_results(where)):
        return
    old = RESULTS[kind].of_files(where, About(Key(kind, "", None)), tolerant=True)
    others = {
        name: (where / name).read_bytes()
        for name in RESULTS[kind].OTHERS
        if (where / name).is_file()
    }
    checkpoints = old.checkpoints()
    for model, step in checkpoints:
        part, last = old.at((model, step)), (model, step) == checkpoints[-1]
        key = Key(kind, model, step, _old_settings(where, step))
        about = About(key, fullness=(_old_fullness(part),))
        pictures = {**old.pictures, **others} if last else {}
        _save(where, replace(part, about=about, pictures=pictures, problems={}))
    for name in old.problems:
        _put_aside(where / name)
    with suppress(OSError):  # it says nothing any more: the results are there
        (where / OLD_MARK).unlink()


def _old_settings(where: Path, step: int | None) -> tuple[str, ...]:
    """Return the settings of an earlier version's result, as far as they are known."""
    try:
        mark = json.loads((where / OLD_MARK).read_bytes())
        options = list(map(str, mark["options"]))
        if mark["step"] == step or "--all" in options:
            return tuple(_as_settings(options))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return ("earlier",)


def _as_settings(options: Sequence[str]) -> Iterator[str]:
    """Yield an earlier version's options as settings.

    Raises:
        ValueError: they are no options.
    """
    values: dict[str, list[str]] = {}
    for option in options:
        if option.startswith("--"):
            name = option.removeprefix("--")
            values[name] = []
        elif not values:
            raise ValueError(f"'{option}' is of no option")
        else:
            values[name].append(option)
    for name, some in values.items():
        if name not in ("all", "subspaces"):
            yield setting(name, some)


def setting(name: str, values: Iterable[str] = ()) -> str:
    """Return a setting as a key has it, whatever the order of its values.

    >>> setting("kinds", ["zero", "mean", "zero"]), setting("no-sides")
    ('kinds=mean+zero', 'no-sides')
    """
    some = sorted(set(values))
    return f"{name}={'+'.join(some)}" if some else name


def result_settings(
    own: AnalysisConfig,
    now: AnalysisConfig,
    *,
    programs: Sequence[str] = (),
    methods: Sequence[str] = (),
    kinds: Sequence[str] = (),
    sides: bool = True,
) -> tuple[str, ...]:
    """Return what changes the numbers of a result and is not the default, as its key has it.

    `own` are the run's own settings of the analysis, `now` those of this result.
    """
    settings = []
    for name, given, known in (
        ("programs", programs, ()), ("methods", methods, METHODS), ("kinds", kinds, KINDS),
    ):  # fmt: skip
        if given and set(given) != set(known):
            settings.append(setting(name, given))
    if not sides:
        settings.append(setting("no-sides"))
    if now.device != own.device:
        settings.append(setting("device", [now.device]))
    return (*settings, *changed_settings(own, now))


def changed_settings(own: AnalysisConfig, now: AnalysisConfig) -> tuple[str, ...]:
    """Return the settings of the analysis that change numbers and are not the run's `own`.

    >>> changed_settings(AnalysisConfig(), AnalysisConfig(device="cuda", seed=1))
    ('analysis.seed=1',)
    """
    changed = setting_words("analysis", vars(now), vars(own))
    return tuple(word for word in changed if not word.startswith("analysis.device="))


def result_key(kind: str, run: Loaded, settings: Sequence[str]) -> Key:
    """Return the key of a result on a run, or on a task's reference.

    `settings` are as `result_settings` returns them. What a reference is analysed with is part of
    what it is.
    """
    if isinstance(run, LoadedRun):
        return Key(kind, run.run, run.step, tuple(settings))
    options = (word for word in settings if not word.startswith("analysis."))
    return Key(kind, run.run, None, tuple(options), _reference_words(run))


def _reference_words(reference: LoadedReference) -> tuple[str, ...]:
    """Return which reference it is: its inputs or its task's settings, and those of the analysis.

    The device is that of the run or the config.
    """
    now = replace(with_measures(reference.config).analysis, device=reference.usual.device)
    usual = AnalysisConfig(measures=default_measures())
    words = setting_words("analysis", vars(now), vars(usual))
    if reference.checkpoint is not None:
        return (f"inputs={reference.checkpoint.inputs_digest[:8]}", *words)
    task = reference.config.task
    words += [word for word in task_words(task) if word != f"task={task.name}"]
    return tuple(sorted(words))


def where_of(run: Loaded, kind: str) -> Path:
    """Return the folder of the results of a kind: beside the checkpoint, or here without a run."""
    if run.home is None:
        return Path(f"{FOLDERS[kind]}-{run.config.task.name}")
    return run.home / (
        FOLDERS[kind] if isinstance(run, LoadedRun) else f"{FOLDERS[kind]}-reference"
    )


def _old_fullness(result: Result) -> int:
    """Return how many programs, circuits or tables an earlier version's result holds."""
    if isinstance(result, MatchResult):
        return len({row.program for row in result.programs})
    if isinstance(result, CircuitResult):
        return len({(row.ablation, row.method) for row in result.curves})
    return len(result.tables())
