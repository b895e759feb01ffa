"""Results are kept by checkpoint and settings, and tables are gathered from them."""

from __future__ import annotations

import csv
import json
import locale
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from algomatch.analysis.circuits.circuit_result import CircuitResult, CircuitRow, EdgeRow
from algomatch.analysis.matching.match_result import MatchResult, ProgramRow
from algomatch.analysis.results import CIRCUIT, MATCH, SETTINGS, About, Key
from algomatch.runs.result_store import (
    adopt,
    collected,
    gather_tables,
    is_gathered,
    is_there,
    save,
    setting,
    stored_results,
)
from algomatch.runs.run_results import RunResults

PROGRAMS = MatchResult.PROGRAMS


def program(run: str, step: int | None, name: str) -> ProgramRow:
    return ProgramRow(
        run=run, step=step, exact=1.0, program=name, verdict="different", score=None,
        shared_with=(), decided=(), why="",
    )  # fmt: skip


def earlier(step: int, *names: str, run: str = "one") -> bytes:
    """A table of programs as earlier versions wrote it, without a format."""
    content = PROGRAMS.to_csv(program(run, step, name) for name in names).decode()
    return re.sub(r",[^,\n]*$", "", content, flags=re.MULTILINE).encode()


def matched(where: Path, step: int, *names: str, run: str = "one", picture: bytes = b"") -> Path:
    settings = () if len(names) == 2 else (setting("programs", names),)
    about = About(Key(MATCH, run, step, settings), fullness=(len(names), 1))
    rows = tuple(program(run, step, name) for name in names)
    pictures = {"match.png": picture} if picture else {}
    return save(where, MatchResult(about=about, programs=rows, pictures=pictures))


def circuit_row(kind: str, method: str, edges: int) -> CircuitRow:
    return CircuitRow(
        model="one", step=10, ablation=kind, method=method, edges=edges, faithfulness=1.0,
        exact=1.0, chosen=True,
    )  # fmt: skip


def table(where: Path, name: str = "programs.csv") -> list[tuple[str, str]]:
    rows = csv.DictReader((where / name).read_text().splitlines())
    return [(row["step"], row["program"]) for row in rows]


def test_a_smaller_result_takes_no_place_of_a_larger_one(tmp_path: Path) -> None:
    for step in (0, 10):
        matched(tmp_path, step, "a", "b", picture=b"%d" % step)
    whole = [("0", "a"), ("0", "b"), ("10", "a"), ("10", "b")]
    assert table(tmp_path) == whole
    small = matched(tmp_path, 10, "a", picture=b"small")
    assert small.name == "step-00000010-programs=a"
    assert table(tmp_path) == whole
    assert (tmp_path / "match.png").read_bytes() == b"10"
    assert table(small) == [("10", "a")]
    matched(tmp_path, 20, "b", picture=b"20")  # the only result of its checkpoint
    assert table(tmp_path) == [*whole, ("20", "b")]
    assert (tmp_path / "match.png").read_bytes() == b"20"


def test_the_same_result_again_is_replaced_and_of_equal_ones_the_newest_is_shown(
    tmp_path: Path,
) -> None:
    first = matched(tmp_path, 10, "a")
    assert matched(tmp_path, 10, "a") == first
    assert len(stored_results(tmp_path)) == 1
    matched(tmp_path, 10, "b")
    assert table(tmp_path) == [("10", "b")]
    assert table(first) == [("10", "a")]


def test_a_file_of_the_users_in_the_folder_of_a_result_stays(tmp_path: Path) -> None:
    first = matched(tmp_path, 10, "a")
    (first / "notes.txt").write_text("mine")
    second = matched(tmp_path, 10, "a")
    assert second.name == f"{first.name}-2"
    assert (first / "notes.txt").read_text() == "mine"
    assert matched(tmp_path, 10, "a") == second
    assert table(tmp_path) == [("10", "a")]


def test_no_old_picture_stays_beside_new_tables(tmp_path: Path) -> None:
    (tmp_path / "emergence.png").write_bytes(b"drawn")
    matched(tmp_path, 10, "a", "b", picture=b"10")
    assert not (tmp_path / "emergence.png").exists()
    matched(tmp_path, 20, "a", "b")
    assert not (tmp_path / "match.png").exists()


def test_what_an_interrupted_command_had_takes_no_place_of_what_is_finished(
    tmp_path: Path,
) -> None:
    key = Key(CIRCUIT, "one", 10)

    def saved(edges: int, finished: bool) -> list[str]:
        about = About(key, finished=finished, fullness=(edges,))
        save(tmp_path, CircuitResult(about=about, curves=(circuit_row("zero", "eap", edges),)))
        return [row["edges"] for row in rows_of(tmp_path / "circuits.csv")]

    assert saved(1, finished=False) == ["1"]
    assert not is_there(tmp_path, key)
    assert saved(2, finished=True) == ["2"]
    assert [stored.path.name for stored in stored_results(tmp_path)] == ["step-00000010"]
    assert is_there(tmp_path, key)
    assert saved(3, finished=False) == ["2"]


def test_results_of_two_runs_in_one_folder_are_both_kept(tmp_path: Path) -> None:
    first = matched(tmp_path, 10, "a", "b")
    second = matched(tmp_path, 10, "a", "b", run="two")
    assert first != second
    assert table(first) == table(second)
    assert {row.partition(",")[0] for row in
            (tmp_path / "programs.csv").read_text().splitlines()[1:]} == {"two"}  # fmt: skip


@pytest.mark.parametrize("broken", ["", "{}", '{"what": 1'])
def test_a_folder_that_is_no_result_is_left_alone(broken: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / SETTINGS).write_text(broken)
    matched(tmp_path, 10, "a", "b")
    assert len(stored_results(tmp_path)) == 1
    assert (tmp_path / "mine" / SETTINGS).read_text() == broken


def test_tables_of_an_earlier_version_are_kept_as_results(tmp_path: Path) -> None:
    first, second = earlier(0, "a", "b"), earlier(10, "a", "b")
    (tmp_path / "programs.csv").write_bytes(first + second.partition(b"\n")[2])
    (tmp_path / "match.png").write_bytes(b"old")
    (tmp_path / "emergence.png").write_bytes(b"old")
    (tmp_path / "done.json").write_text(json.dumps({"step": 10, "options": ["--all"]}))
    matched(tmp_path, 10, "a")
    assert table(tmp_path) == [("0", "a"), ("0", "b"), ("10", "a"), ("10", "b")]
    assert (tmp_path / "match.png").read_bytes() == b"old"
    assert not (tmp_path / "emergence.png").exists()
    assert (tmp_path / "step-00000010" / "emergence.png").read_bytes() == b"old"
    assert is_there(tmp_path, Key(MATCH, "one", 0))
    assert not (tmp_path / "done.json").exists()


@pytest.mark.parametrize("damaged", [b"", b"\xff\xfe\xff", b"run,step\none,x\n"])
def test_a_damaged_table_of_an_earlier_version_is_in_no_ones_way(
    damaged: bytes, tmp_path: Path
) -> None:
    (tmp_path / "programs.csv").write_bytes(damaged)
    matched(tmp_path, 10, "a")
    assert table(tmp_path) == [("10", "a")]


def test_options_of_an_earlier_version_are_known_again(tmp_path: Path) -> None:
    (tmp_path / "circuits.csv").write_text(
        "model,ablation,method,edges,faithfulness,exact,chosen\n"
        '"one, step 10",zero,eap,3,nan,0.5,False\n'
    )
    options = ["--methods", "exact", "eap", "--kinds", "zero"]
    (tmp_path / "done.json").write_text(json.dumps({"step": 10, "options": options}))
    adopt(tmp_path, CIRCUIT)
    assert is_there(tmp_path, Key(CIRCUIT, "one", 10, ("methods=eap+exact", "kinds=zero")))
    (stored,) = stored_results(tmp_path)
    result = stored.read()
    assert isinstance(result, CircuitResult)
    (row,) = result.curves
    assert (row.model, row.step, row.edges, row.faithfulness, row.chosen) == (
        "one", 10, 3, None, False,
    )  # fmt: skip


def test_a_long_name_is_cut_off_and_stays_its_own() -> None:
    keys = [Key(MATCH, "one", 1, (f"programs={'x' * 300}{end}",)) for end in "ab"]
    assert len({key.name for key in keys}) == 2
    assert all(len(key.name) <= 120 for key in keys)


def with_circuits(
    where: Path, sizes: dict[tuple[str, str], int], in_circuit: str, settings: Sequence[str] = ()
) -> Path:
    """A result of a search with an ablation and a method, with a circuit of each size."""
    edges = tuple(
        EdgeRow(
            model="one", step=10, edge=edge,
            scores={f"{method}/{kind}": float(edge) for kind, method in sizes},
            in_circuit=edge == in_circuit, needed=None, carries="", share=None, chance=None,
        )
        for edge in "12"
    )  # fmt: skip
    about = About(Key(CIRCUIT, "one", 10, tuple(settings)), fullness=(len(sizes),))
    curves = tuple(circuit_row(kind, method, size) for (kind, method), size in sizes.items())
    pictures = {"circuit.png": in_circuit.encode()}
    return save(where, CircuitResult(about=about, curves=curves, edges=edges, pictures=pictures))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_what_several_searches_of_a_checkpoint_found_is_gathered_together(tmp_path: Path) -> None:
    """The circuit is the one that one search over all of them would choose."""
    more = {("resample_within", "eap"): 5, ("zero", "eap"): 2, ("zero", "exact"): 3}
    with_circuits(tmp_path, more, "1", ["kinds=resample_within+zero"])
    assert (tmp_path / "circuit.png").read_bytes() == b"1"
    with_circuits(tmp_path, {("resample_across", "eap"): 9}, "2", ["kinds=resample_across"])
    pairs = [
        (row["ablation"], row["method"], row["edges"]) for row in rows_of(tmp_path / "circuits.csv")
    ]
    assert pairs == [
        ("resample_within", "eap", "5"), ("zero", "eap", "2"), ("zero", "exact", "3"),
        ("resample_across", "eap", "9"),
    ]  # fmt: skip
    edges = rows_of(tmp_path / "edges.csv")
    assert [row["in_circuit"] for row in edges] == ["False", "True"]
    assert [row["exact/zero"] + row["eap/resample_across"] for row in edges] == [
        "1.01.0", "2.02.0",
    ]  # fmt: skip
    assert (tmp_path / "circuit.png").read_bytes() == b"2"
    with_circuits(tmp_path, {("zero", "eap"): 1}, "1", ["kinds=zero", "methods=eap"])
    assert len(rows_of(tmp_path / "circuits.csv")) == 4  # a smaller search changes nothing
    assert (tmp_path / "circuit.png").read_bytes() == b"2"


def test_results_of_another_task_take_no_place_of_what_was_just_written(tmp_path: Path) -> None:
    """They replace nothing: only the model's name is the same."""
    tasks = {"task=induction": 3, "task=reverse": 1}
    paths = []
    for task, count in tasks.items():
        names = "abc"[:count]
        about = About(Key(MATCH, "gpt2", None, (), (task,)), fullness=(count, 1))
        rows = tuple(program(task, None, name) for name in names)
        paths.append(save(tmp_path, MatchResult(about=about, programs=rows)))
        assert rows_of(tmp_path / "programs.csv") == rows_of(paths[-1] / "programs.csv")
    assert paths[0] != paths[1]
    assert {result.key.of for result in stored_results(tmp_path)} == {(task,) for task in tasks}


def test_tables_that_are_no_utf8_are_put_aside_and_others_read_as_it(tmp_path: Path) -> None:
    old = earlier(10, "e").replace(b",e,", b",\xe9,")  # Latin-1
    (tmp_path / "programs.csv").write_bytes(old)
    matched(tmp_path, 20, "é", "b")
    assert (tmp_path / "programs.csv.old").read_bytes() == old
    assert [row["program"] for row in rows_of(tmp_path / "programs.csv")] == ["é", "b"]
    before = (tmp_path / "programs.csv").read_bytes()
    (tmp_path / "step-00000020" / "programs.csv").write_bytes(old)
    (tmp_path / "programs.csv.old").unlink()
    matched(tmp_path, 30, "a", "b")
    assert (tmp_path / "programs.csv.old").read_bytes() == before
    assert table(tmp_path) == [("30", "a"), ("30", "b")]


def test_tables_are_read_the_same_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "programs.csv").write_bytes(earlier(10, "é", "ü"))
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        matched(tmp_path, 20, "a")
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert [row["program"] for row in rows_of(tmp_path / "programs.csv")] == ["é", "ü", "a"]


def test_what_was_not_gathered_is_known(tmp_path: Path) -> None:
    key = Key(MATCH, "one", 10)
    matched(tmp_path, 10, "a", "b")
    assert is_gathered(tmp_path, key)
    (tmp_path / "programs.csv").unlink()
    assert not is_gathered(tmp_path, key)
    gather_tables(tmp_path, key)
    assert is_gathered(tmp_path, key)
    assert table(tmp_path) == [("10", "a"), ("10", "b")]
    earlier = (tmp_path / "step-00000010" / SETTINGS).stat().st_mtime - 60
    os.utime(tmp_path / "programs.csv", (earlier, earlier))
    assert not is_gathered(tmp_path, key)


@pytest.mark.parametrize(
    "damaged", [{"step": 10, "options": ["x"]}, {"step": 10, "options": "--all"}, [], {}]
)
def test_damaged_options_of_an_earlier_version_are_unknown_ones(
    damaged: object, tmp_path: Path
) -> None:
    (tmp_path / "programs.csv").write_bytes(earlier(10, "a"))
    (tmp_path / "done.json").write_text(json.dumps(damaged))
    adopt(tmp_path, MATCH)
    assert [result.key for result in stored_results(tmp_path)] == [
        Key(MATCH, "one", 10, ("earlier",))
    ]


OTHER = "analysis.match_realised=0.01"


def overridden(where: Path, step: int, *names: str) -> Path:
    """A result with another threshold than the run's own, newer and fuller than any before."""
    about = About(Key(MATCH, "one", step, (OTHER,)), fullness=(len(names), 9))
    rows = tuple(program("one", step, name) for name in names)
    return save(where, MatchResult(about=about, programs=rows, pictures={"match.png": b"other"}))


def test_results_with_other_settings_than_the_runs_own_are_kept_and_not_gathered(
    tmp_path: Path,
) -> None:
    where = tmp_path / "matching"
    other = overridden(where, 10, "a", "b")
    assert not (where / "programs.csv").exists()
    assert table(other) == [("10", "a"), ("10", "b")]
    matched(where, 0, "a", picture=b"own")
    overridden(where, 0, "a", "b")
    assert table(where) == [("0", "a")]
    assert (where / "match.png").read_bytes() == b"own"
    assert RunResults(tmp_path).overridden(MatchResult) == (OTHER,)
    again = RunResults(tmp_path).match_with((OTHER,)).programs
    assert [(row.step, row.program) for row in again] == [(0, "a"), (0, "b"), (10, "a"), (10, "b")]
    assert RunResults(tmp_path).match_with(("analysis.seed=1",)).programs == ()
    assert collected(where, Key(MATCH, "one", None), ("analysis.seed=1",)) is None


def test_what_an_earlier_version_gathered_of_other_settings_is_not_shown(tmp_path: Path) -> None:
    where = tmp_path / "matching"
    matched(where, 0, "a")
    own = rows_of(where / "programs.csv")
    other = overridden(where, 10, "b")
    lines = (other / "programs.csv").read_text().partition("\n")[2]
    with (where / "programs.csv").open("a") as gathered:
        gathered.write(lines)
    (where / "match.png").write_bytes(b"other")
    assert len(rows_of(where / "programs.csv")) == len(own) + 1
    result = RunResults(tmp_path).match
    assert [(row.step, row.program) for row in result.programs] == [(0, "a")]
    assert result.pictures == {}


def test_a_result_whose_settings_are_damaged_is_named(tmp_path: Path) -> None:
    damaged = matched(tmp_path / "matching", 10, "a", "b") / SETTINGS
    assert RunResults(tmp_path).problems == []
    damaged.write_text("{")
    (line,) = RunResults(tmp_path).problems
    assert line.startswith(f"'{damaged}' is damaged: ")
