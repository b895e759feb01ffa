"""Results of `match`, `circuit` and `explain`: each in a folder of its own, and gathered tables.

FOLDER/step-00000052/             a result: its tables, its pictures, and settings.json
FOLDER/step-00000052-no-sides/    another result for the same checkpoint, with other settings
FOLDER/NAME.csv                   the gathered tables: each checkpoint's fullest result; for
                                  circuits, all its results joined, by ablation and method
FOLDER/NAME.png                   the last checkpoint's pictures
FOLDER/NAME.csv.old               a table that could not be read, set aside
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..infra.files import faults_named, write_file, write_folder
from .checkpoints import step_folder

SETTINGS = "settings.json"
MATCH, SUBSPACES, CIRCUIT, EXPLANATION = "match", "subspaces", "circuit", "explanation"
FILES = {  # the files that each kind of result may contain
    MATCH: ("match.csv", "programs.csv", "selectors.csv", "emergence.csv", "match.png"),
    SUBSPACES: ("subspaces.csv", "subspaces.safetensors"),
    CIRCUIT: (
        "circuits.csv", "edges.csv", "nodes.csv", "lengths.csv", "carried.csv", "curves.png",
        "circuit.png",
    ),
    EXPLANATION: (
        "heads.csv", "neurons.csv", "neurons-random-init.csv", "explained.csv", "explanation.png",
    ),
}  # fmt: skip
DRAWN = {MATCH: ("emergence.png",)}  # drawn from the gathered tables
OLD_MARK = "done.json"  # mark of results of earlier versions, which lie in the folder itself
LONGEST = 120  # most characters of a folder's name

Files = Mapping[str, bytes]
Fullness = tuple[int, ...]


@dataclass(frozen=True)
class Key:
    """The identity of a result: its kind, its model, the step (None: the model has none), settings.

    `model` is a run's id, or the name of a model from elsewhere. `of` identifies model and task
    further, where the name does not. `settings` are a command's non-default options that change the
    numbers. Results with the same key are the same; results that differ only in settings are about
    the same model.
    """

    what: str
    model: str
    step: int | None
    settings: tuple[str, ...] = ()
    of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the result's folder.

        >>> Key(MATCH, "run", 52, ("programs=reverse", "no-sides")).name
        'step-00000052-programs=reverse-no-sides'
        """
        base = "result" if self.step is None else step_folder(self.step)
        whole = "-".join([base, *self.of, *self.settings])
        name = re.sub(r"[^\w.=+,-]", "_", whole)
        if len(name) <= LONGEST:
            return name
        return f"{name[: LONGEST - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Result:
    """A result on disk: its folder and its key.

    Of two results for one checkpoint, the one with the higher `fullness` holds more. A result that
    is not `finished` was left by an interrupted command.
    """

    path: Path
    key: Key
    fullness: Fullness
    finished: bool
    written: float

    @property
    def overrides(self) -> tuple[str, ...]:
        """Its settings of the analysis that are not the run's own."""
        return tuple(word for word in self.key.settings if word.startswith("analysis."))

    @property
    def rank(self) -> tuple[bool, bool, Fullness, float]:
        """The rank by fullness; of equally full results, the newest ranks highest.

        Results with the run's own settings, by which they are judged, rank before all others.
        """
        return self.finished, not self.overrides, self.fullness, self.written


def results(where: Path) -> list[Result]:
    """Return the results in a folder; unreadable ones are left out."""
    readings = (_read(path.parent) for path in sorted(where.glob(f"*/{SETTINGS}")))
    return [result for result in readings if result is not None]


def _read(path: Path) -> Result | None:
    if path.name.startswith("."):  # still being written
        return None
    try:
        about = json.loads((path / SETTINGS).read_bytes())
        step = None if about["step"] is None else int(about["step"])
        settings = tuple(map(str, about["settings"]))
        of = tuple(map(str, about.get("of", ())))
        key = Key(str(about["what"]), str(about["model"]), step, settings, of)
        fullness = tuple(map(int, about["fullness"]))
        return Result(path, key, fullness, bool(about["finished"]), float(about["written"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_there(where: Path, key: Key) -> bool:
    """Return whether a finished result of the key is in a folder."""
    return any(result.finished and result.key == key for result in results(where))


def save(where: Path, key: Key, files: Files, fullness: Fullness, finished: bool = True) -> Path:
    """Write a result atomically, gather the tables again, and return the result's folder.

    An unfinished result stays beside a finished one of the same key, until a new one is finished.

    Raises:
        FaultError: the file system failed; earlier results are untouched.
    """
    with faults_named(f"write into '{where}'"):
        where.mkdir(parents=True, exist_ok=True)
        adopt(where, key.what)
        path = _save(where, key, files, fullness, finished)
        if finished:
            for result in results(where):
                if result.key == key and not result.finished:
                    shutil.rmtree(result.path)
        gather(where, key)
    return path


def _save(where: Path, key: Key, files: Files, fullness: Fullness, finished: bool) -> Path:
    there = results(where)
    same = [result.path for result in there if result.key == key and result.finished == finished]
    path = same[0] if same else _free(where, key.name + "-unfinished" * (not finished))
    about: dict[str, Any] = {
        "what": key.what, "model": key.model, "step": key.step, "settings": list(key.settings),
        "of": list(key.of), "finished": finished, "fullness": list(fullness),
        "written": time.time(), "version": __version__,
    }  # fmt: skip
    write_folder(path, {**files, SETTINGS: (json.dumps(about, indent=1) + "\n").encode()})
    return path


def _free(where: Path, name: str) -> Path:
    """Return a path that no other result has, such as the same step of another run."""
    path, number = where / name, 1
    while path.exists():
        number += 1
        path = where / f"{name}-{number}"
    return path


def is_gathered(where: Path, key: Key) -> bool:
    """Return whether the gathered tables are newer than all results of a key's model."""
    for some in _by_step(results(where), key):
        for result in some:
            for name in _tables(key.what):
                if (result.path / name).exists():
                    table = where / name
                    if not table.is_file() or table.stat().st_mtime < result.written:
                        return False
    return True


def gather(where: Path, key: Key) -> None:
    """Write the tables of all checkpoints of a result's model, and the last one's pictures.

    Raises:
        OSError: the file system refused.
    """
    names = FILES[key.what]
    parts = [
        _found_circuits(some) if key.what == CIRCUIT else (some[0], _texts(some[0]))
        for some in _by_step(results(where), key)
    ]
    tables = {
        name: joined([texts[name] for _, texts in parts if texts[name]])
        for name in _tables(key.what)
    }
    made = {name: text.encode() for name, text in tables.items() if text}
    last = parts[-1][0].path
    for name in names:
        if not name.endswith(".csv") and (last / name).exists():
            made[name] = (last / name).read_bytes()
    for name in tables:  # if a result's table got damaged, the gathered one is the only copy
        damaged = any(_decoded(result.path / name) is None for result, _ in parts)
        if damaged and not _aside(where / name).exists():
            _put_aside(where / name)
    for name in (*names, *DRAWN.get(key.what, ())):
        if name not in made:  # remove files of earlier results
            (where / name).unlink(missing_ok=True)
    for name, content in made.items():
        write_file(where / name, content)


def _tables(what: str) -> list[str]:
    return [name for name in FILES[what] if name.endswith(".csv")]


def _texts(result: Result) -> dict[str, str]:
    return {name: _decoded(result.path / name) or "" for name in _tables(result.key.what)}


def _decoded(path: Path) -> str | None:
    """Return a table's text; empty if there is none, None if it is damaged."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        return None


def _aside(path: Path, number: int = 1) -> Path:
    return path.with_name(f"{path.name}.old{'' if number == 1 else f'-{number}'}")


def _put_aside(path: Path) -> None:
    """Rename a table, so that it is not overwritten."""
    if not path.exists():
        return
    number = 1
    while _aside(path, number).exists():
        number += 1
    path.rename(_aside(path, number))


def _by_step(all_results: Iterable[Result], key: Key) -> list[list[Result]]:
    """Return the results of a key's model by checkpoint, in step order, the fullest result first.

    Unfinished results are left out if there is a finished one, and so are those with other settings
    of the analysis than the first: their numbers mean something else.
    """
    steps: dict[int, list[Result]] = {}
    for result in all_results:
        if (result.key.what, result.key.model, result.key.of) == (key.what, key.model, key.of):
            steps.setdefault(-1 if result.key.step is None else result.key.step, []).append(result)
    ranked = [
        sorted(steps[step], key=lambda result: result.rank, reverse=True) for step in sorted(steps)
    ]
    alike = [[r for r in some if r.overrides == some[0].overrides] for some in ranked]
    return [[result for result in some if result.finished] or some[:1] for some in alike]


def _found_circuits(some: Sequence[Result]) -> tuple[Result, dict[str, str]]:
    """Return one checkpoint's results joined, and the result that has its circuit.

    If several results have the same ablation and method, the fullest one counts.
    """
    texts = [_texts(result) for result in some]
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    source: dict[tuple[str, str], int] = {}
    for at, own in enumerate(texts):
        for row in _rows(own["circuits.csv"]):
            pair = (row.get("ablation", ""), row.get("method", ""))
            if source.setdefault(pair, at) == at:
                rows.setdefault(pair, []).append(row)
    main = _smallest([row for part in rows.values() for row in part])
    at = 0 if main is None else source[main]
    whole = dict(texts[at])
    if len(some) > 1:
        whole["circuits.csv"] = _csv([row for part in rows.values() for row in part])
        for name, of in (("edges.csv", "edge"), ("nodes.csv", "node")):
            whole[name] = _with_scores(whole[name], [own[name] for own in texts], of)
    return some[at], whole


def _smallest(rows: Sequence[Mapping[str, str]]) -> tuple[str, str] | None:
    """Return the ablation and method of the circuit, chosen as a search of all would."""
    chosen = [
        row for row in rows if row.get("chosen") == "True" and row.get("edges", "").isdecimal()
    ]
    kinds = dict.fromkeys(("resample_across", "resample_within",
                           *(row["ablation"] for row in chosen)))  # fmt: skip
    for kind in kinds:
        if own := [row for row in chosen if row["ablation"] == kind]:
            best = min(own, key=lambda row: int(row["edges"]))
            return best["ablation"], best["method"]
    return None


def _with_scores(text: str, others: Sequence[str], of: str) -> str:
    """Return a table of edges or nodes, with the METHOD/KIND scores of other tables added."""
    rows = _rows(text)
    for other in map(_rows, others):
        own = {row.get(of): row for row in other}
        more = [name for name in (other[0] if other else ()) if "/" in name]
        for name in [name for name in more if rows and name not in rows[0]]:
            for row in rows:
                row[name] = own.get(row.get(of), {}).get(name, "")
    return _csv(rows)


def _rows(text: str) -> list[dict[str, str]]:
    """Return a table's rows, without lines that have a wrong number of cells."""
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error:
        return []
    return [row for row in rows if None not in row and None not in row.values()]


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as a CSV table with the columns of all rows; empty without rows."""
    if not rows:
        return ""
    out = io.StringIO(newline="")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def joined(texts: Sequence[str]) -> str:
    r"""Return CSV tables as one, with the columns of all tables; empty without tables.

    >>> joined(["a,b\n1,2\n", "a,c\n3,4\n"])
    'a,b,c\n1,2,\n3,,4\n'
    """
    if len({text.partition("\n")[0] for text in texts}) <= 1:
        return "".join(
            text if at == 0 else text.partition("\n")[2] for at, text in enumerate(texts)
        )
    tables = [csv.DictReader(io.StringIO(text, newline="")) for text in texts]
    rows = [list(table) for table in tables]
    columns = dict.fromkeys(name for table in tables for name in table.fieldnames or ())
    out = io.StringIO(newline="")
    writer = csv.DictWriter(
        out, list(columns), restval="", extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    for part in rows:
        writer.writerows(part)
    return out.getvalue()


def adopt(where: Path, what: str) -> None:
    """Convert the tables that an earlier version left in the folder itself into results.

    Raises:
        OSError: the file system refused.
    """
    if any(result.key.what == what for result in results(where)):
        return
    there = [name for name in (*FILES[what], *DRAWN.get(what, ())) if (where / name).is_file()]
    tables = {name: _by_checkpoint(where / name) for name in there if name.endswith(".csv")}
    keys = sorted(dict.fromkeys(key for parts in tables.values() for key in parts), key=_order)
    for model, step in keys:
        files = {
            name: parts[model, step] for name, parts in tables.items() if (model, step) in parts
        }
        content = {name: text.encode() for name, text in files.items()}
        if (model, step) == keys[-1]:
            content |= {n: (where / n).read_bytes() for n in there if not n.endswith(".csv")}
        key = Key(what, model, step, _old_settings(where, step))
        _save(where, key, content, (_old_fullness(what, files),), True)
    for name, parts in tables.items():
        text = _decoded(where / name)
        if not parts and (text is None or len(text.splitlines()) > 1):  # damaged
            _put_aside(where / name)
    (where / OLD_MARK).unlink(missing_ok=True)


def _order(checkpoint: tuple[str, int | None]) -> tuple[int, str]:
    model, step = checkpoint
    return (-1 if step is None else step, model)


def _by_checkpoint(path: Path) -> dict[tuple[str, int | None], str]:
    """Return the parts of a table by model and step; nothing if the table is damaged."""
    try:
        header, *rows = list(csv.reader(io.StringIO(_decoded(path) or "", newline=""))) or [[]]
    except csv.Error:
        return {}
    parts: dict[tuple[str, int | None], io.StringIO] = {}
    for row in rows:
        cells = dict(zip(header, row, strict=False))
        model, step = cells.get("run", cells.get("model", "")), cells.get("step", "")
        if told := re.fullmatch(r"(.*), step (\d+)", model):
            model, step = told.groups()
        if step and not step.isdecimal():
            return {}
        key = (model, int(step) if step else None)
        if key not in parts:
            parts[key] = io.StringIO(newline="")
            csv.writer(parts[key], lineterminator="\n").writerow(header)
        csv.writer(parts[key], lineterminator="\n").writerow(row)
    return {key: part.getvalue() for key, part in parts.items()}


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
        ValueError: they are not options.
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
    """Return a setting as text for a key, independent of the order of its values.

    >>> setting("kinds", ["zero", "mean", "zero"]), setting("no-sides")
    ('kinds=mean+zero', 'no-sides')
    """
    some = sorted(set(values))
    return f"{name}={'+'.join(some)}" if some else name


def _old_fullness(what: str, files: Mapping[str, str]) -> int:
    """Return the number of programs, circuits or tables in an earlier version's result."""
    columns = {MATCH: ("programs.csv", ("program",)),
               CIRCUIT: ("circuits.csv", ("ablation", "method"))}  # fmt: skip
    if what not in columns or columns[what][0] not in files:
        return len(files)
    name, wanted = columns[what]
    rows = csv.DictReader(io.StringIO(files[name], newline=""))
    return len({tuple(row.get(column, "") for column in wanted) for row in rows})
