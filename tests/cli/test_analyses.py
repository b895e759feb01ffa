"""What `match`, `circuit`, `explain` and `subspaces` share: overrides, Ctrl-C, references, W&B."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from support.runs import TINY, quiet

import algomatch.api.match as match_module
from algomatch.api.train import train
from algomatch.cli import main as cli
from algomatch.config.composition import compose
from algomatch.runs.loaded_run import LoadedRun

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(compose([*TINY, f"run_dir={folder}", "tracking=disabled", "trainer.checkpoints=3",
                   "analysis.measures=[accuracy]", "analysis.match_cases=40"]),
          quiet())  # fmt: skip
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_an_override_changes_the_analysis_and_is_recorded(run: Path, capsys: Capture) -> None:
    given = ["circuit", str(run), "--methods", "exact", "--kinds", "mean"]
    assert cli.main([*given, "analysis.circuit_cases=20", "analysis.bootstrap=25"]) == 0
    assert cli.main([*given, "analysis.bootstrap=20"]) == 0, "the run's own value"
    assert cli.main([*given, "analysis.circuit_faithful=0"]) == 0
    names = {path.name for path in (run / "circuit").glob("step-*")}
    one = "step-00000060-methods=exact-kinds=mean"
    assert names == {
        one,
        f"{one}-analysis.bootstrap=25-analysis.circuit_cases=20",
        f"{one}-analysis.circuit_faithful=0.0",
    }
    (empty,) = (run / "circuit").glob("*circuit_faithful*")
    settings = json.loads((empty / "settings.json").read_text())["settings"]
    assert settings == ["methods=exact", "kinds=mean", "analysis.circuit_faithful=0.0"]
    chosen = {int(row["edges"]) for row in table(empty / "circuits.csv") if row["chosen"] == "True"}
    own = {
        int(row["edges"])
        for row in table(run / "circuit" / one / "circuits.csv")
        if row["chosen"] == "True"
    }
    assert max(chosen) < min(own), "less has to be faithful, so fewer edges do"
    gathered = table(run / "circuit" / "circuits.csv")
    assert gathered == table(run / "circuit" / one / "circuits.csv"), (
        "the run's own settings go first"
    )
    capsys.readouterr()


@pytest.mark.parametrize("verb", ["match", "circuit", "explain", "subspaces", "analyze"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("analysis.circuit_treshold=1", "did you mean 'analysis.circuit_threshold'? valid: "),
        ("circuit_threshold=1", "unknown key 'circuit_threshold': did you mean 'analysis.circuit"),
        ("model.d_model=4", "'model.d_model=4': the run was trained with its own model.d_model"),
        ("analysis=light", "'analysis=light': the run was trained with its own analysis"),
        ("analysis.circuit_threshold=-1", "analysis.circuit_threshold=-1.0 must be at least 0"),
    ],
)  # fmt: skip
def test_a_nonsense_override_is_refused_in_one_line(
    verb: str, override: str, message: str, trained: Path, capsys: Capture
) -> None:
    assert cli.main([verb, str(trained), override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_after_ctrl_c_kept_checkpoints_are_not_matched_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    steps = LoadedRun.open(run).steps
    matched = list[int | None]()
    usual = match_module._matched

    def counted(loaded, *more):  # type: ignore[no-untyped-def]
        if len(matched) == 2:
            raise KeyboardInterrupt
        matched.append(loaded.step)
        return usual(loaded, *more)

    given = ["match", str(run), "--all", "--no-sides"]
    with monkeypatch.context() as patched:
        patched.setattr(match_module, "_matched", counted)
        assert cli.main(given) == 130
    assert f"interrupted; the results so far are in '{run / 'matching'}'" in capsys.readouterr().err
    assert matched == steps[:2]
    before = [p.stat().st_mtime_ns for p in sorted((run / "matching").glob("step-*/programs.csv"))]
    assert cli.main(given) == 0
    assert f"2 of {len(steps)} checkpoints are done" in capsys.readouterr().out
    after = [p.stat().st_mtime_ns for p in sorted((run / "matching").glob("step-*/programs.csv"))]
    assert after[:2] == before
    assert len(after) == len(steps)
    rows = table(run / "matching" / "programs.csv")
    assert sorted({int(row["step"]) for row in rows}) == steps
    assert cli.main([*given, "--again"]) == 0
    again = [p.stat().st_mtime_ns for p in sorted((run / "matching").glob("step-*/programs.csv"))]
    assert all(new > old for new, old in zip(again, after, strict=True))


def test_a_reference_is_matched_itself(run: Path, capsys: Capture) -> None:
    assert (
        cli.main(["match", str(run), "--reference", "--no-sides", "analysis.match_cases=1000"]) == 0
    )
    rows = {row["program"]: row for row in table(run / "matching-reference" / "programs.csv")}
    assert rows["reverse"]["run"] == "compiled reverse"
    assert rows["reverse"]["step"] == ""
    assert float(rows["reverse"]["exact"]) == 1
    matches = [row for row in table(run / "matching-reference" / "match.csv") if row["site"]]
    layers = {row["site"].split(".")[1] for row in matches}
    assert layers > {"0"}, "of the compiled model, which has more blocks than the trained one"
    assert f"next: algomatch circuit {run}" in capsys.readouterr().out
