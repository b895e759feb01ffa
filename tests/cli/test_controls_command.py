"""The `algomatch controls` command, in its own process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.runs import TINY, finish, run, start, wait_until

from algomatch.analysis.measurements import from_csv
from algomatch.cli.main import main
from algomatch.report.terminal.control_table import COLUMNS
from algomatch.runs import control_record

pytestmark = pytest.mark.slow

FEW = (
    *TINY,
    "trainer.max_steps=20",
    "analysis.measures=[accuracy,similarity]",
    "analysis.other_tasks=1",
)
EVERY = 10 + 5 + 1 + 2 + 1  # positives, random inits, shuffled labels, one other task, a decoy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("controls")


@pytest.fixture(scope="module")
def environment(place: Path) -> Iterator[Mapping[str, str]]:
    """A separate cache without studied controls, and 80 columns."""
    cache = str(place / "cache")
    before = os.environ.get("ALGOMATCH_CACHE", "")
    os.environ["ALGOMATCH_CACHE"] = cache  # to look up the verdicts that the command kept
    yield {"ALGOMATCH_CACHE": cache, "COLUMNS": "80"}
    os.environ["ALGOMATCH_CACHE"] = before


@pytest.fixture(scope="module")
def printed(place: Path, environment: Mapping[str, str]) -> str:
    """The output of a study that was killed in the middle and started again."""
    arguments = ("controls", *FEW, f"runs_dir={place}")
    process = start(*arguments, environment=environment)
    try:
        wait_until(lambda: len(kept(place)) >= 3, process)
    finally:
        process.kill()
    finish(process)
    before = kept(place)
    assert 3 <= len(before) < EVERY
    code, out, err = run(*arguments, environment=environment)
    assert (code, err) == (0, "")
    after = kept(place)
    assert {name: after[name] for name in before} == before  # these were not measured again
    assert len(after) == EVERY
    return out


def kept(place: Path) -> dict[str, int]:
    """The time at which each control was written, in nanoseconds."""
    paths = place.glob("controls/*/each/[!.]*/about.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in paths}


def test_a_study_that_was_killed_goes_on_and_leaves_its_record(printed: str, place: Path) -> None:
    (folder,) = (place / "controls").iterdir()
    assert f"measurements, verdicts and figure: {folder}" in printed
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "each", "measurements.csv", "separation.csv", "controls.png"
    }  # fmt: skip
    assert not [*folder.glob("**/.*.partial")]
    rows = from_csv((folder / "measurements.csv").read_bytes(), "measurements.csv")
    assert {row.run for row in rows} == set(kept(place))
    exact = {row.run: row.value for row in rows if row.key == "accuracy/all/exact"}
    assert exact["reference"] == exact["implemented"] == exact["reverse_by_counting"] == 1
    assert max(exact["random_init-1"], exact["compiled_hist"], exact["shuffled_labels"]) < 1


def test_the_table_has_every_column_at_80_columns(printed: str) -> None:
    title = "Controls of reverse with vocabulary [a, b], max_length 3, 1L with d_model 16"
    assert title in " ".join(printed.split())
    assert "…" not in printed
    heads = printed
    for heading, _ in COLUMNS.values():
        for word in heading.split("\n"):
            assert word in heads, heading
    lines = [line for line in printed.splitlines() if "similarity mean dCKA" in line[:30]]
    assert len(re.findall(r"\d\.\d+", " ".join(lines))) == len(COLUMNS) + 1
    for line in printed.splitlines():
        assert len(line) <= 80 or "/" in line or line.startswith("next: "), line
    assert re.search(r"\n\d+ of \d+ measures separate\n", printed)
    for name in ("positive reference: exact 1.000; 0 wrong", "negative trained_on_hist: exact 0."):
        assert name in printed


def test_a_second_study_measures_nothing_anew(
    printed: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    before = kept(place)
    assert main(["controls", *FEW, f"runs_dir={place}"]) == 0
    assert capsys.readouterr().out == printed
    assert kept(place) == before


def test_again_measures_everything_anew_to_the_same_end(
    printed: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    before, (folder,) = kept(place), (place / "controls").iterdir()
    table = (folder / "measurements.csv").read_bytes()
    assert main(["controls", *FEW, f"runs_dir={place}", "--again"]) == 0
    assert capsys.readouterr().out == printed
    after = kept(place)
    assert set(after) == set(before)
    assert all(after[name] > before[name] for name in before)
    assert (folder / "measurements.csv").read_bytes() == table


def test_a_run_of_the_same_task_knows_the_verdicts(
    printed: str, place: Path, environment: Mapping[str, str]
) -> None:
    (inputs,) = (place / "cache" / "controls").iterdir()
    failing = control_record.failing(inputs.name)
    assert failing is not None
    verdicts = control_record.verdicts(inputs.name) or []
    said = re.search(r"\n(\d+) of (\d+) measures separate\n", printed)
    assert said is not None
    assert int(said[2]) == len(verdicts)
    assert int(said[1]) == len(verdicts) - len(failing)
    folder = place / "run"
    code, _, err = run(
        "train", *FEW, "tracking=offline", "trainer.checkpoints=1", f"run_dir={folder}",
        environment=environment,
    )  # fmt: skip
    assert code == 0, err  # W&B warns of its own cleaning up
    (record,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert b"Do not separate the program from other models on this task: " in content
    assert b"Controls were not run for this task" not in content
    for key in failing:
        assert f"{key} (".encode() in content
    assert [*folder.glob("wandb/offline-run-*/files/media/table/tables/controls_*.table.json")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agian"], "algomatch: unknown option '--agian': did you mean '--again'?"),
        (["task=sort", "--force"], "algomatch: unknown option '--force': valid: --again, --help"),
        (["task=nosuchtask"], "algomatch: unknown task 'nosuchtask'"),
        (["model=9L"], "algomatch: unknown model '9L'"),
        (["reverse"], "algomatch: argument 'reverse' is not of the form key=value"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["controls", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert not [*tmp_path.iterdir()]
