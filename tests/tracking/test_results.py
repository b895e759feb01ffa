"""Results kept by checkpoint and settings, and the tables gathered from them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from algomatch.tracking.results import (
    CIRCUIT,
    MATCH,
    SETTINGS,
    Key,
    adopt,
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
    matched(tmp_path, 20, "b", picture=b"20")  # the only one of its checkpoint
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
    assert [one.path.name for one in results(tmp_path)] == ["step-00000010"]
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
