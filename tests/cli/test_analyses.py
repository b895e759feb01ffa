"""What `match`, `circuit`, `explain` and `subspaces` share: overrides, Ctrl-C, references, W&B."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from support.runs import TINY, quiet

import algomatch.api.match as match_module
from algomatch.analysis.explain.attention_view import AttentionPatterns
from algomatch.analysis.matching.match_result import MatchResult, ProgramRow
from algomatch.analysis.results import About, Key
from algomatch.api.circuit import circuit
from algomatch.api.train import train
from algomatch.cli import main as cli
from algomatch.cli.arguments import parted
from algomatch.config.composition import compose
from algomatch.infra.errors import UserError
from algomatch.report.html.blocks import Table
from algomatch.report.html.run_page import run_page
from algomatch.runs.loaded_run import LoadedRun
from algomatch.runs.result_store import save
from algomatch.runs.run_folder import RunFolder

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
    where = run / "circuit"
    assert cli.main([*given, "analysis.circuit_cases=20", "analysis.bootstrap=25"]) == 0
    words = "analysis.bootstrap=25 analysis.circuit_cases=20"
    told = f"; not collected, since {words}: only results with the run's own settings are"
    assert told in capsys.readouterr().out
    assert not (where / "circuits.csv").exists()
    assert cli.main([*given, "analysis.bootstrap=20"]) == 0, "the run's own value"
    assert f"; collected: {where}" in capsys.readouterr().out
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
    assert gathered == table(run / "circuit" / one / "circuits.csv"), "the run's own settings"
    capsys.readouterr()


@pytest.mark.parametrize("verb", ["match", "circuit", "explain", "subspaces", "analyze"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("analysis.botstrap=30", "did you mean 'analysis.bootstrap'? valid: analysis."),
        ("bootstrap=30", "unknown key 'bootstrap': did you mean 'analysis.bootstrap'? valid: "),
        ("foo=1", "unknown key 'foo': valid: analysis."),
        ("analysis.foo=1", "unknown key 'analysis.foo': valid: analysis."),
        ("model.d_model=4", "'model.d_model=4': the run was trained with its own model.d_model"),
        ("analysis=light", "'analysis=light': the run was trained with its own analysis"),
        ("analysis.bootstrap=1", "analysis.bootstrap=1 must be at least 20"),
    ],
)  # fmt: skip
def test_a_nonsense_override_is_refused_in_one_line(
    verb: str, override: str, message: str, trained: Path, capsys: Capture
) -> None:
    assert cli.main([verb, str(trained), override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "override", "message"),
    [
        ("match", "analysis.circuit_threshold=0.8", "match does not use analysis.circuit_threshold;"
         " it uses: analysis.device, analysis.bootstrap, analysis.solved, analysis.seed, "),
        ("match", "analysis.measures=[nope]", "match does not use analysis.measures; it uses: "),
        ("subspaces", "analysis.random_inits=1", "subspaces does not use analysis.random_inits"),
        ("circuit", "analysis.explain_at=0.5", "circuit does not use analysis.explain_at"),
        ("explain", "analysis.match_cases=30", "explain does not use analysis.match_cases"),
        ("analyze", "analysis.match_cases=30", "analyze does not use analysis.match_cases"),
        ("analyze", "analysis.measures=[nope]", "unknown measure 'nope' (analysis.measures): "),
    ],
)  # fmt: skip
def test_a_setting_that_a_verb_does_not_use_is_refused_in_one_line(
    verb: str, override: str, message: str, trained: Path, capsys: Capture
) -> None:
    assert cli.main([verb, str(trained), override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_function_refuses_what_its_verb_does_not_use(trained: Path) -> None:
    with pytest.raises(UserError, match=r"^circuit does not use analysis\.match_selector; it uses"):
        circuit(trained, overrides=["analysis.match_selector=0.5"])


OVERRIDE = "analysis.match_realised=0.01"


def left_by_match(run: Path, verdict: str, *settings: str) -> None:
    """What `match` would have left of the last checkpoint, with settings that are not its own."""
    folder = RunFolder.open(run)
    key = Key(MatchResult.KIND, folder.id, LoadedRun.open(run).step, settings)
    program = ProgramRow(
        run=folder.id, step=key.step, exact=1.0, program="reverse", verdict=verdict, score=0.5,
        shared_with=(), decided=(), why="",
    )  # fmt: skip
    save(run / "matching", MatchResult(about=About(key), programs=(program,)))


def test_verdicts_on_several_runs_are_of_the_overrides_that_are_given(
    trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    runs = [shutil.copytree(trained, tmp_path / "runs" / name) for name in ("one", "two")]
    for run in runs:
        left_by_match(run, "different")
        left_by_match(run, "follows", OVERRIDE)
    given = ["match", *map(str, runs), "--output", str(tmp_path)]
    for more, verdict in ((), "different"), ((OVERRIDE,), "follows"):
        assert cli.main([*given, *more]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "2 runs: 0 done, 2 already done" in out
        assert f"{verdict} 2/2" in out
        assert (f", with {OVERRIDE}" in out) == bool(more)
        rows = [(row["verdict"], row["overrides"]) for row in table(tmp_path / "verdicts.csv")]
        assert rows == [(verdict, "".join(more))] * 2


def test_a_page_says_which_results_are_not_of_the_runs_own_settings(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    left_by_match(run, "follows", OVERRIDE)
    damaged = run / "circuit" / "mine" / "settings.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    page = run_page(
        RunFolder.open(run), None, lambda inputs: AttentionPatterns("", ""), lambda told: None
    )
    warned = (
        f"Results of `match` with {OVERRIDE} are not shown and decide nothing: these are not the "
        "run's own settings."
    )
    assert warned in page.warnings
    assert any(line.startswith(f"Left out: '{damaged}' is damaged") for line in page.warnings)
    why = f"the model was matched with {OVERRIDE}, not with the run's own settings"
    assert [(each.verdict, each.why) for each in page.cards if each.name == "H3"] == [
        ("not measured", why)
    ]
    (section,) = (each for each in page.sections if each.name == "matching")
    assert not any(isinstance(block, Table) for block in section.blocks)
    other = shutil.copytree(run, tmp_path / "other")
    left_by_match(other, "different")
    tables = tmp_path / "tables"
    page_file = str(tmp_path / "page.html")
    assert cli.main(["report", str(run), str(other), "-o", page_file, "--tables", str(tables)]) == 0
    assert "Results of `match` of 2 runs with analysis.match_r" in capsys.readouterr().out
    (row,) = table(tables / "programs.csv")
    assert (row["seeds"], row["by_verdict"]) == ("1", "different 1")


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
    assert f"2 of {len(steps)} checkpoints are already done" in capsys.readouterr().out
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
