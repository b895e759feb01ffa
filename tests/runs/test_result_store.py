"""Results are kept by checkpoint and settings, and tables are gathered from them."""

from __future__ import annotations

import csv
import json
import locale
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from algomatch.runs.result_store import (
    CIRCUIT,
    MATCH,
    SETTINGS,
    Key,
    adopt,
    gather,
    is_gathered,
    is_there,
    joined,
    results,
    save,
    setting,
)

HEADER = "run,step,program,verdict\n"


def programs(step: int, *names: str, run: str = "one") -> bytes:
    rows = "".join(f"{run},{step},{name},different\n" for name in names)
    return (HEADER + rows).encode()


def matched(where: Path, step: int, *names: str, run: str = "one", picture: bytes = b"") -> Path:
    settings = () if len(names) == 2 else (setting("programs", names),)
    files = {"programs.csv": programs(step, *names, run=run)}
    files |= {"match.png": picture} if picture else {}
    return save(where, Key(MATCH, run, step, settings), files, (len(names), 1))


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
    assert len(results(tmp_path)) == 1
    matched(tmp_path, 10, "b")
    assert table(tmp_path) == [("10", "b")]
    assert table(first) == [("10", "a")]


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
    title = b'model,edges\n"one, step 10",%d\n'
    save(tmp_path, key, {"circuits.csv": title % 1}, (1,), finished=False)
    assert not is_there(tmp_path, key)
    assert b",1\n" in (tmp_path / "circuits.csv").read_bytes()
    save(tmp_path, key, {"circuits.csv": title % 2}, (2,))
    assert [result.path.name for result in results(tmp_path)] == ["step-00000010"]
    assert is_there(tmp_path, key)
    save(tmp_path, key, {"circuits.csv": title % 3}, (3,), finished=False)
    assert b",2\n" in (tmp_path / "circuits.csv").read_bytes()


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
    assert len(results(tmp_path)) == 1
    assert (tmp_path / "mine" / SETTINGS).read_text() == broken


def test_tables_of_an_earlier_version_are_kept_as_results(tmp_path: Path) -> None:
    both = programs(0, "a", "b").decode() + programs(10, "a", "b").decode().removeprefix(HEADER)
    (tmp_path / "programs.csv").write_text(both)
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
    (tmp_path / "circuits.csv").write_text('model,ablation,method\n"one, step 10",zero,eap\n')
    options = ["--methods", "exact", "eap", "--kinds", "zero"]
    (tmp_path / "done.json").write_text(json.dumps({"step": 10, "options": options}))
    adopt(tmp_path, CIRCUIT)
    assert is_there(tmp_path, Key(CIRCUIT, "one", 10, ("methods=eap+exact", "kinds=zero")))


def test_a_long_name_is_cut_off_and_stays_its_own() -> None:
    keys = [Key(MATCH, "one", 1, (f"programs={'x' * 300}{end}",)) for end in "ab"]
    assert len({key.name for key in keys}) == 2
    assert all(len(key.name) <= 120 for key in keys)


def test_tables_of_different_columns_are_joined() -> None:
    assert joined([]) == ""
    assert joined(["a,b\n1,2\n", "b,a\n3,4\n"]) == "a,b\n1,2\n4,3\n"


def with_circuits(
    where: Path, sizes: dict[tuple[str, str], int], in_circuit: str, settings: Sequence[str] = ()
) -> Path:
    """A result of a search with an ablation and a method, with a circuit of each size."""
    title = '"one, step 10"'
    circuits = "model,ablation,method,edges,chosen\n" + "".join(
        f"{title},{kind},{method},{size},True\n" for (kind, method), size in sizes.items()
    )
    scores = [f"{method}/{kind}" for kind, method in sizes]
    edges = f"model,edge,{','.join(scores)},in_circuit\n" + "".join(
        f"{title},{edge},{','.join(edge for _ in scores)},{edge == in_circuit}\n" for edge in "12"
    )
    files = {
        "circuits.csv": circuits.encode(),
        "edges.csv": edges.encode(),
        "circuit.png": in_circuit.encode(),
    }
    return save(where, Key(CIRCUIT, "one", 10, tuple(settings)), files, (len(sizes),))


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
    assert [row["exact/zero"] + row["eap/resample_across"] for row in edges] == ["11", "22"]
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
        files = {"programs.csv": programs(0, *names, run=task)}
        paths.append(save(tmp_path, Key(MATCH, "gpt2", None, (), (task,)), files, (count, 1)))
        assert rows_of(tmp_path / "programs.csv") == rows_of(paths[-1] / "programs.csv")
    assert paths[0] != paths[1]
    assert {result.key.of for result in results(tmp_path)} == {(task,) for task in tasks}


def test_tables_that_are_no_utf8_are_put_aside_and_others_read_as_it(tmp_path: Path) -> None:
    old = HEADER.encode() + b"one,10,\xe9,different\n"  # Latin-1
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
    (tmp_path / "programs.csv").write_bytes(programs(10, "é", "ü"))
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
    gather(tmp_path, key)
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
    (tmp_path / "programs.csv").write_bytes(programs(10, "a"))
    (tmp_path / "done.json").write_text(json.dumps(damaged))
    adopt(tmp_path, MATCH)
    assert [result.key for result in results(tmp_path)] == [Key(MATCH, "one", 10, ("earlier",))]
