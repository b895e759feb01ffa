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
from algomatch.cli.arguments import parted
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
    assert (
        f"interrupted; the results so far are in '{run / 'matching'}'; the same command continues"
        in capsys.readouterr().err
    )
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


@pytest.mark.parametrize("place", ["run/checkpoints/step-00000001", "lone/alone.safetensors"])
def test_the_next_command_is_of_the_model_that_was_analysed(
    place: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(run.parent)
    Path("lone").mkdir()
    shutil.copy(run / "checkpoints/step-00000001/model.safetensors", "lone/alone.safetensors")
    assert cli.main(["match", place, "--no-sides"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: algomatch circuit {place}"
    assert cli.main(["explain", place]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    if place.startswith("run"):
        assert last == "next: algomatch report run"
    else:
        assert last.endswith("collected: lone/explanation"), "no page is of a file alone"


def test_a_damaged_run_is_told_before_the_work(run: Path, capsys: Capture) -> None:
    (run / "run.json").write_text("{")
    assert cli.main(["match", str(run)]) == 2
    printed = capsys.readouterr()
    assert f"'{run / 'run.json'}' is damaged" in printed.err
    assert printed.out == ""
    assert not (run / "matching").exists()


def test_ctrl_c_while_logging_to_wandb_says_where_the_result_is(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from algomatch.tracking import wandb_log

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb_log, "log_analysis", interrupted)
    assert cli.main(["match", str(run), "--no-sides"]) == 130
    (result,) = (run / "matching").glob("step-*")
    whole = f"interrupted while logging to W&B; the result is complete, in '{result}'"
    assert whole in capsys.readouterr().err


def test_a_folder_named_like_a_setting_is_a_folder(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "lr=0.1")
    Path("analysis.seed=1").mkdir()
    assert parted(["lr=0.1", "analysis.seed=1", "lr=0.2"]) == (
        ["analysis.seed=1", "lr=0.2"], ["lr=0.1"],
    )  # fmt: skip
    assert cli.main(["analyze", "lr=0.1"]) == 0
    assert "equal the recorded ones" in capsys.readouterr().out


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
