"""Results of analyses: the key, typed tables and pictures of each, written and read as files."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

from .. import __version__
from ..infra.errors import FaultError, UserError
from ..infra.files import faults_named, write_folder
from ..infra.typed_tables import Cells, TypedTable

MATCH, SUBSPACES, STATES = "match", "subspaces", "states"  # kinds
CIRCUIT, EXPLANATION = "circuit", "explanation"
FOLDERS = {  # of a run, for the results of each kind
    MATCH: "matching", SUBSPACES: "matching", STATES: "states", CIRCUIT: "circuit",
    EXPLANATION: "explanation",
}  # fmt: skip
SETTINGS = "settings.json"  # the file that says what a result is of
LONGEST = 120  # characters of a folder's name
MOST_TOLD = 5  # names of files in an error
LIBRARIES = ("numpy", "torch", "transformer-lens", "tracr-pypi")

Checkpoint = tuple[str, int | None]  # a model and its step; None if it has no steps


@dataclass(frozen=True)
class Key:
    """What a result is of: its kind, the model, the step (None if there is none), the settings.

    `model` is a run's id, or the name of a model from elsewhere. `of` says further which model and
    task it is, if the name does not. `settings` are the options and overrides that change the
    numbers and are not the defaults. Results with the same key are the same; those that differ
    only in settings are of the same thing.
    """

    kind: str
    model: str
    step: int | None
    settings: tuple[str, ...] = ()
    of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the result's folder.

        >>> Key("match", "run", 52, ("programs=reverse", "no-sides")).name
        'step-00000052-programs=reverse-no-sides'
        """
        base = "result" if self.step is None else f"step-{self.step:08d}"
        whole = "-".join([base, *self.of, *self.settings])
        name = re.sub(r"[^\w.=+,-]", "_", whole)
        if len(name) <= LONGEST:
            return name
        return f"{name[: LONGEST - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that make the numbers."""
    return {"algomatch": __version__} | {name: version(name) for name in LIBRARIES}


@dataclass(frozen=True)
class About:
    """What a result is of, whether it is finished, and what made it.

    Of two results of one checkpoint the one with the higher `fullness` holds more. One that is not
    `finished` is what an interrupted command had. `written` is in seconds since 1970.
    """

    key: Key
    task: str = ""
    finished: bool = True
    fullness: tuple[int, ...] = ()
    written: float = field(default_factory=time.time, compare=False)
    versions: Mapping[str, str] = field(default_factory=versions, compare=False)

    @property
    def kind(self) -> str:
        """The kind of the result."""
        return self.key.kind

    @property
    def model(self) -> str:
        """The run's id, or the model's name."""
        return self.key.model

    @property
    def step(self) -> int | None:
        """The checkpoint's step; None if the model has none."""
        return self.key.step

    @property
    def settings(self) -> tuple[str, ...]:
        """The options and overrides that change the numbers and are not the defaults."""
        return self.key.settings

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings of the analysis that are not the run's own."""
        return tuple(word for word in self.settings if word.startswith("analysis."))

    @property
    def rank(self) -> tuple[bool, tuple[int, ...], float]:
        """By how much the result holds; of equally full ones the newest is the highest."""
        return self.finished, self.fullness, self.written

    def to_json(self) -> bytes:
        """Return the text of the file that says what a result is of."""
        key = self.key
        told: dict[str, Any] = {
            "kind": key.kind, "model": key.model, "task": self.task, "step": key.step,
            "settings": list(key.settings), "of": list(key.of), "finished": self.finished,
            "fullness": list(self.fullness), "written": self.written,
            "versions": dict(self.versions),
        }  # fmt: skip
        return (json.dumps(told, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, source: str) -> Self:
        """Return what `to_json`, of this or an earlier version, wrote.

        Raises:
            FaultError: it is damaged; `source` names it.
        """
        try:
            told = json.loads(content)
            step = None if told["step"] is None else int(told["step"])
            settings, of = tuple(map(str, told["settings"])), tuple(map(str, told.get("of", ())))
            kind = str(told["kind"] if "kind" in told else told["what"])
            made_by = told.get("versions", {"algomatch": told.get("version", "")})
            return cls(
                Key(kind, str(told["model"]), step, settings, of), str(told.get("task", "")),
                bool(told["finished"]), tuple(map(int, told["fullness"])), float(told["written"]),
                {str(name): str(number) for name, number in made_by.items()},
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FaultError(f"'{source}' is damaged: {error!r}") from error


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an analysis found: typed tables and pictures, and what they are of.

    `problems` says, by file, why a table could not be read. A subclass has a field for each table.
    """

    about: About
    pictures: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    problems: Mapping[str, str] = field(default_factory=dict)

    KIND: ClassVar[str]
    TABLES: ClassVar[Mapping[str, TypedTable[Any]]]  # by field
    PICTURES: ClassVar[tuple[str, ...]] = ()
    OTHERS: ClassVar[tuple[str, ...]] = ()  # files beside tables and pictures
    JOINS: ClassVar[bool] = False  # whether results of one checkpoint say more together

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all files that a result may have."""
        return [*(table.name for table in cls.TABLES.values()), *cls.PICTURES, *cls.OTHERS]

    def tables(self) -> dict[str, tuple[TypedTable[Any], Sequence[Any]]]:
        """Return each table that has rows, with its rows, by the name of its file."""
        each = {table.name: (table, getattr(self, name)) for name, table in self.TABLES.items()}
        return {name: (table, rows) for name, (table, rows) in each.items() if rows}

    def files(self) -> dict[str, bytes]:
        """Return the result as files by name; a table without rows is no file."""
        made = {name: table.to_csv(rows) for name, (table, rows) in self.tables().items()}
        return {**made, **self.pictures}

    def write(self, folder: str | Path) -> None:
        """Write the result as a folder, whole or not at all.

        A folder that is empty or holds a result of the same kind, and nothing else, is replaced.

        Raises:
            UserError: the folder holds something else.
            FaultError: the file system failed; what was there is untouched.
        """
        folder = Path(folder)
        if others := self.others_in(folder):
            more = f" and {len(others) - MOST_TOLD} more" if len(others) > MOST_TOLD else ""
            raise UserError(
                f"'{folder}' holds {', '.join(others[:MOST_TOLD])}{more}, and would be replaced: "
                f"give a folder that is new, empty or of a result of kind '{self.KIND}'"
            )
        with faults_named(f"write '{folder}'"):
            write_folder(folder, {**self.files(), SETTINGS: self.about.to_json()})

    @classmethod
    def others_in(cls, folder: Path) -> list[str]:
        """Return the names of what a folder holds that is not a result of this kind.

        Raises:
            FaultError: the file system failed.
        """
        with faults_named(f"look into '{folder}'"):
            inside = sorted(folder.iterdir()) if folder.is_dir() else []
            try:
                about = About.from_json((folder / SETTINGS).read_bytes(), str(folder / SETTINGS))
                own = {SETTINGS, *cls.names()} if about.kind == cls.KIND else set[str]()
            except (OSError, FaultError):
                own = set()
            return [path.name for path in inside if path.name not in own or path.is_dir()]

    @classmethod
    def read(cls, folder: str | Path, *, tolerant: bool = False) -> Self:
        """Return the result that a folder holds.

        If `tolerant`, a table that cannot be read is left out, and `problems` says why.

        Raises:
            UserError: the result is of another kind.
            FaultError: a file is damaged, or of another version; or the file system failed.
        """
        folder = Path(folder)
        with faults_named(f"read '{folder}'"):
            content = (folder / SETTINGS).read_bytes()
        about = About.from_json(content, str(folder / SETTINGS))
        if about.kind != cls.KIND:
            raise UserError(f"'{folder}' holds a result of kind '{about.kind}', not '{cls.KIND}'")
        return cls.of_files(folder, about, tolerant=tolerant)

    @classmethod
    def of_files(cls, folder: Path, about: About, *, tolerant: bool = False) -> Self:
        """Return the tables and pictures in a folder as a result; as in `read`."""
        problems: dict[str, str] = {}
        rows = {name: cls._rows(table, folder, problems) for name, table in cls.TABLES.items()}
        if problems and not tolerant:
            raise FaultError("; ".join(problems.values()))
        pictures = {}
        for name in cls.PICTURES:
            with faults_named(f"read '{folder / name}'"):
                if (folder / name).is_file():
                    pictures[name] = (folder / name).read_bytes()
        return cls(about=about, pictures=pictures, problems=problems, **rows)

    @staticmethod
    def _rows(table: TypedTable[Any], folder: Path, problems: dict[str, str]) -> tuple[Any, ...]:
        path = folder / table.name
        try:
            with faults_named(f"read '{path}'"):
                content = path.read_bytes() if path.exists() else None
            return () if content is None else tuple(table.from_csv(content, str(path)))
        except FaultError as error:
            problems[table.name] = str(error)
            return ()

    @classmethod
    def together(cls, results: Sequence[Self]) -> Self:
        """Return what results of one checkpoint, the fullest first, say together: the first."""
        return results[0]

    @classmethod
    def over_steps(cls, results: Sequence[Self]) -> Self:
        """Return results of several checkpoints as one, with the pictures of the last."""
        last = results[-1]
        rows: dict[str, Any] = {
            name: tuple(row for result in results for row in getattr(result, name))
            for name in cls.TABLES
        }
        problems = {name: told for result in results for name, told in result.problems.items()}
        return replace(last, problems=problems, **rows)

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints that the tables are of, first step first."""
        rows = (row for _, some in self.tables().values() for row in some)
        known = dict.fromkeys((row.model, row.step) for row in rows)
        return sorted(known, key=lambda at: (-1 if at[1] is None else at[1], at[0]))

    def at(self, *checkpoints: Checkpoint) -> Self:
        """Return the rows of some checkpoints."""
        rows: dict[str, Any] = {
            name: tuple(row for row in getattr(self, name) if (row.model, row.step) in checkpoints)
            for name in self.TABLES
        }
        return replace(self, **rows)

    def problem(self, *tables: TypedTable[Any]) -> list[str]:
        """Return why these tables could not be read, a line each."""
        return [self.problems[table.name] for table in tables if table.name in self.problems]


def split_title(title: str | None) -> tuple[str, str]:
    """Return the model and the step in a result's title, as earlier versions wrote it.

    >>> split_title("reverse-2L-seed0-1a2b, step 300"), split_title("compiled reverse")
    (('reverse-2L-seed0-1a2b', '300'), ('compiled reverse', ''))
    """
    model, step = re.fullmatch(r"(.*?)(?:, step (\d+))?", title or "", re.DOTALL).groups("")  # type: ignore[union-attr]
    return model, step


def untitled(row: Cells) -> Cells:
    """Return a row of an earlier version with model and step apart, and nothing for NaN."""
    model, step = split_title(row.get("model"))
    cells = {name: "" if cell == "nan" else cell for name, cell in row.items()}
    return {**cells, "model": model, "step": step}


def share_columns(name: str, share: Any) -> dict[str, Any]:
    """Return a share with its interval, as the columns NAME, NAME_low and NAME_high.

    What is not a number is None.
    """
    values = (share.value, share.low, share.high) if share is not None else (None,) * 3
    ends = ("", "_low", "_high")
    return {f"{name}{end}": known(value) for end, value in zip(ends, values, strict=True)}


def known(value: float | None) -> float | None:
    """Return a number; None for what is not one."""
    return None if value is None or value != value else float(value)
