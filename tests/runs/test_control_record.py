"""What is kept of a study of controls, and how it is read again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.runs import TINY

from algomatch.analysis.measurements import Measurement, from_csv
from algomatch.analysis.measures.separation import SEPARATIONS, Separation
from algomatch.config.composition import compose, from_mapping, read_yaml
from algomatch.config.schema import Config
from algomatch.infra.errors import FaultError
from algomatch.runs.control_record import ControlRecord, Kept, failing, verdicts

ROWS = (
    Measurement("accuracy/exact", "all", 1.0, 14, 0.78, 1.0, "reference", 0),
    Measurement("similarity/mean_deconfounded_cka", "model", 1 / 3, 40, None, None, "reference", 0),
)
KEY = "similarity/model/mean_deconfounded_cka"
PLAIN = "similarity/model/matched_plain_cka"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ALGOMATCH_CACHE", str(folder))
    return folder


def config_of(folder: Path, *overrides: str) -> Config:
    return compose([*TINY, f"runs_dir={folder}", *overrides])


def record_of(folder: Path, *overrides: str, inputs: str = "inputs") -> ControlRecord:
    record = ControlRecord(config_of(folder, *overrides), inputs)
    record.begin()
    return record


def separation(key: str, positive: float, negative: float, why: str = "") -> Separation:
    return Separation(key, positive, "noised-1", negative, "random_init-1", why)


def finish(record: ControlRecord, *separations: Separation, every: Sequence[Kept] = ()) -> None:
    record.finish(every, separations, b"a figure")


def test_a_control_that_was_kept_is_found_by_the_same_config(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    assert record.stored("reference") is None
    record.keep("reference", Kept(ROWS, "0 wrong"))
    for again in (record, record_of(tmp_path)):
        kept = again.stored("reference")
        assert kept is not None
        assert (tuple(kept.rows), kept.note) == (ROWS, "0 wrong")
        assert again.stored("rotated-1") is None


def test_a_control_that_could_not_be_made_is_kept_with_its_reason(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    record.keep("noised-1", Kept((), "it survives no noise"))
    kept = record_of(tmp_path).stored("noised-1")
    assert kept is not None
    assert (list(kept.rows), kept.note) == ([], "it survives no noise")


def test_a_control_that_is_kept_again_takes_the_earlier_ones_place(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    record.keep("reference", Kept(ROWS, "0 wrong"))
    record.keep("reference", Kept(ROWS[:1], "anew"))
    kept = record.stored("reference")
    assert kept is not None
    assert (tuple(kept.rows), kept.note) == (ROWS[:1], "anew")
    assert sorted(path.name for path in (record.path / "each").iterdir()) == ["reference"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("about.json", None),
        ("about.json", b""),
        ("about.json", b'{"note": "0 wro'),
        ("about.json", b"null"),
        ("about.json", b'{"digest": "00000000", "note": ""}'),
        ("measurements.csv", None),
        ("measurements.csv", b""),
        ("measurements.csv", b"\xff\xfe\x00"),
        ("measurements.csv", b"run,step,measure,subject,value,n,ci_low,ci_high\r\nreference,0,acc"),
    ],
)
def test_a_control_whose_files_are_damaged_is_measured_again(
    file: str, content: bytes | None, tmp_path: Path
) -> None:
    record = record_of(tmp_path)
    record.keep("reference", Kept(ROWS, "0 wrong"))
    path = record.path / "each" / "reference" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert record.stored("reference") is None
    record.keep("reference", Kept(ROWS, "0 wrong"))
    assert record.stored("reference") is not None


@pytest.mark.parametrize(
    "override",
    ["seed=1", "trainer.max_steps=61", "model.n_heads=4", "analysis.bootstrap=21",
     "task.max_length=2"],
)  # fmt: skip
def test_other_settings_are_another_study(override: str, tmp_path: Path) -> None:
    record, other = record_of(tmp_path), record_of(tmp_path, override)
    assert record.path != other.path
    record.keep("reference", Kept(ROWS, ""))
    assert other.stored("reference") is None
    assert record_of(tmp_path, inputs="others").path != record.path


def test_in_a_folder_that_is_given_other_settings_are_not_taken_for_the_same(
    tmp_path: Path,
) -> None:
    folder = f"run_dir={tmp_path / 'study'}"
    record = record_of(tmp_path, folder)
    record.keep("reference", Kept(ROWS, ""))
    other = record_of(tmp_path, folder, "seed=1")
    assert record.path == other.path == tmp_path / "study"
    assert other.stored("reference") is None


def test_where_it_lies_and_how_it_is_tracked_make_no_other_study(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    other = record_of(tmp_path / "elsewhere", "tracking=disabled")
    assert record.digest == other.digest
    assert record.path.name == other.path.name
    assert record.path.parent == tmp_path / "controls"


def test_the_folder_says_its_config_and_holds_all_in_one_table(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    leftover = record.path / "each" / ".rotated-1.0000.partial"
    leftover.mkdir()
    record.begin()
    assert not leftover.exists()
    other = [dataclasses.replace(row, run="rotated-1") for row in ROWS]
    verdict = separation(KEY, 0.9, 0.2)
    finish(record, verdict, every=[Kept(ROWS, ""), Kept(other, "")])
    read = from_mapping(read_yaml(record.path / "config.yaml"), "config.yaml")
    assert read == config_of(tmp_path)
    table = from_csv((record.path / "measurements.csv").read_bytes(), "measurements.csv")
    assert table == [*ROWS, *other]
    kept = SEPARATIONS.from_csv((record.path / "separation.csv").read_bytes(), "separation.csv")
    assert kept == [verdict]
    assert (record.path / "controls.png").read_bytes() == b"a figure"


def test_verdicts_are_found_by_the_inputs(tmp_path: Path) -> None:
    assert verdicts("inputs") is None
    assert failing("inputs") is None
    fails = separation(PLAIN, 0.5, 0.9, "untrained networks of this shape show as much")
    finish(record_of(tmp_path), separation(KEY, 0.9, 0.2), fails)
    assert verdicts("inputs") == [separation(KEY, 0.9, 0.2), fails]
    assert failing("inputs") == {PLAIN: "untrained networks of this shape show as much"}
    assert verdicts("others") is None
    finish(record_of(tmp_path, inputs="others"))
    assert verdicts("others") == []
    assert failing("others") is None  # nothing was tested


def test_of_several_architectures_the_smallest_gap_counts(tmp_path: Path) -> None:
    narrow, wide = separation(KEY, 0.5, 0.4), separation(KEY, 0.9, 0.2)
    only = separation(PLAIN, 0.3, 0.4, "why")
    finish(record_of(tmp_path, "model=2L"), narrow)
    finish(record_of(tmp_path, "model=1L"), wide, only)
    by_key = {separation.key: separation for separation in verdicts("inputs") or ()}
    assert by_key == {KEY: narrow, PLAIN: only}
    finish(record_of(tmp_path, "model=4L"), separation(KEY, 0.1, 0.4, "worse"))
    assert failing("inputs") == {KEY: "worse", PLAIN: "why"}


def test_the_same_study_again_takes_its_own_place(tmp_path: Path) -> None:
    finish(record_of(tmp_path), separation(KEY, 0.1, 0.4, "worse"))
    finish(record_of(tmp_path), separation(KEY, 0.9, 0.2))
    assert failing("inputs") == {}


def test_a_damaged_verdict_is_as_if_it_were_not_there(tmp_path: Path, cache: Path) -> None:
    finish(record_of(tmp_path), separation(KEY, 0.9, 0.2))
    (path,) = (cache / "controls" / "inputs").glob("*.csv")
    (path.parent / "other.csv").write_bytes(b"\xff\xfe")
    assert verdicts("inputs") == [separation(KEY, 0.9, 0.2)]
    path.write_bytes(path.read_bytes().replace(b"0.9", b"?"))
    assert verdicts("inputs") is None


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path, cache: Path) -> None:
    cache.write_bytes(b"a file where the folder would be")
    record = record_of(tmp_path)
    finish(record, separation(KEY, 0.9, 0.2))
    assert (record.path / "separation.csv").is_file()
    assert verdicts("inputs") is None
    assert failing("inputs") is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "controls").write_bytes(b"a file where the folder would be")
    with pytest.raises(FaultError, match=r"^cannot make the folder '.*/controls/reverse-"):
        record_of(tmp_path)


def test_a_control_that_cannot_be_written_is_named_and_the_earlier_one_stays(
    tmp_path: Path,
) -> None:
    record = record_of(tmp_path)
    record.keep("reference", Kept(ROWS, "0 wrong"))
    (record.path / "each" / "rotated-1").write_bytes(b"a file where a folder would be")
    with pytest.raises(FaultError, match=r"^cannot write the control 'rotated-1'"):
        record.keep("rotated-1", Kept(ROWS, ""))
    assert record.stored("reference") is not None
    assert not [name for name in os.listdir(record.path / "each") if name.endswith(".partial")]
