"""A run with an inexact reference: it is refused, or marked wherever it is shown."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from support.programs import MOSTLY, write_program
from support.runs import TIMEOUT, TINY, run
from support.wandb_server import ServerRun, WandbServer

from algomatch.analysis.measurements import from_csv
from algomatch.api.train import train
from algomatch.cli.main import main
from algomatch.config.composition import compose
from algomatch.report.figures.run_figure import run_figure
from algomatch.report.terminal.summary import full_table, inexact_note, summary_table
from algomatch.runs import checkpoints
from algomatch.runs.run_folder import INEXACT, RunFolder

pytestmark = pytest.mark.slow

TASK = (
    *TINY, "task=mostly.py:make_mostly", "task.vocabulary=[0,1]", "trainer.max_steps=10",
    "trainer.checkpoints=2", "analysis.random_inits=1",
)  # fmt: skip
ALLOWED = (*TASK, "task.allow_inexact=true")
NOTE = "[INEXACT REFERENCE: right on 78.6% of the inputs]"  # 11 of 14
Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Marked:
    """An inexact run: its folder, its output, and its record on the server."""

    folder: RunFolder
    out: str
    seen: ServerRun


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder, with the program in it."""
    folder = tmp_path_factory.mktemp("inexact")
    write_program(folder, "mostly", MOSTLY)
    with chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def marked(home: Path) -> Marked:
    """The run that is allowed, by the real command, with W&B online."""
    with WandbServer() as server:
        settings = (*ALLOWED, "tracking=online", "tracking.tags=[mine]")
        code, out, err = run("train", *settings, environment=server.environment(), cwd=home)
        assert code == 0, err
        [seen] = server.runs.values()
    [path] = (home / "runs").iterdir()
    return Marked(RunFolder.open(path), out, seen)


def flat(text: str) -> str:
    return " ".join(text.split())


def printed(table: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=250).print(table)
    return out.getvalue()


def test_an_inexact_reference_is_refused_with_counterexamples_and_their_cause(
    home: Path, capsys: Capture
) -> None:
    before = sorted(home.rglob("*"))
    assert main(["train", *TASK, "tracking=disabled"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for part in (
        "algomatch: task 'mostly': the compiled reference disagrees with the RASP interpreter on "
        "3 of 14 inputs",
        "[1, 1, 0] gives [True, True, False], the program [True, True, True]",
        "the first variable to be wrong is 'mostly': it reads the number 'share'",
        "task.allow_inexact=true",
    ):
        assert part in err
    assert sorted(home.rglob("*")) == before


@pytest.mark.timeout(TIMEOUT)
def test_the_mark_is_on_the_run_folder_the_id_and_every_measurement(marked: Marked) -> None:
    folder = marked.folder
    assert INEXACT in folder.path.name
    assert INEXACT in folder.id
    assert not folder.exact
    assert json.loads((folder.path / "run.json").read_text())["exact"] is False
    tables = [folder.path / "measurements.csv", *folder.path.glob("checkpoints/*/measurements.csv")]
    assert len(tables) == 1 + len(folder.checkpoint_folders())
    for table in tables:
        rows = from_csv(table.read_bytes(), str(table))
        assert rows
        assert all(INEXACT in row.run for row in rows)
    for path in folder.checkpoint_folders():
        assert INEXACT in checkpoints.load(path).run


def test_the_share_on_which_the_reference_is_right_is_a_measurement(marked: Marked) -> None:
    rows = [r for r in marked.folder.measurements() if r.measure == "accuracy/reference_exact"]
    assert len(rows) == len(marked.folder.checkpoint_folders())
    for row in rows:
        assert (row.subject, row.n) == ("all", 14)
        assert row.value == pytest.approx(11 / 14)
        assert row.ci_low is not None
        assert row.ci_high is not None
        assert 0.4 < row.ci_low < row.value < row.ci_high < 1


def test_the_mark_is_in_wandb_as_name_tag_id_and_curve(marked: Marked) -> None:
    seen = marked.seen
    assert seen.name == marked.folder.name == f"mostly-1L-d_model16-n_heads2-seed0-{INEXACT}"
    assert seen.tags == ["mine", INEXACT]
    assert seen.id == marked.folder.id
    assert seen.summary["accuracy/all/reference_exact"] == pytest.approx(11 / 14)
    assert seen.config["task"]["allow_inexact"] is True


def test_the_mark_is_printed_at_the_start_and_over_the_summary(marked: Marked) -> None:
    out = flat(marked.out)
    assert "INEXACT, wrong on 3 of 14 inputs (the first variable to be wrong is 'mostly'" in out
    assert "every result of this run is measured against an inexact reference" in out
    assert f"1L with d_model 16, n_heads 2 on mostly, seed 0, step 10 {NOTE}" in out
    assert NOTE in printed(summary_table(marked.folder.last_rows(), "x"))


def test_the_mark_is_over_the_figure_and_the_full_table(marked: Marked) -> None:
    rows = marked.folder.measurements()
    assert run_figure(marked.folder, rows).get_suptitle().endswith(NOTE)
    assert NOTE in printed(full_table(marked.folder.last_rows(), "all"))


def test_without_the_accuracy_rows_the_runs_id_still_marks_the_tables(marked: Marked) -> None:
    rows = [r for r in marked.folder.last_rows() if not r.measure.startswith("accuracy/")]
    assert rows
    assert inexact_note(rows) == " [INEXACT REFERENCE]"
    assert "[INEXACT REFERENCE]" in printed(full_table(rows, "all"))
    assert run_figure(marked.folder, rows).get_suptitle().endswith(" [INEXACT REFERENCE]")


@pytest.mark.parametrize("options", [[], ["--all"]], ids=["summary", "all"])
def test_the_mark_is_on_a_checkpoint_measured_again(
    options: list[str], marked: Marked, home: Path, capsys: Capture, tmp_path: Path
) -> None:
    table = tmp_path / "rows.csv"
    assert main(["analyze", str(marked.folder.path), "--output", str(table), *options]) == 0
    out = flat(capsys.readouterr().out)
    assert NOTE in out
    assert INEXACT in out
    assert "measurements equal the recorded ones exactly" in out
    assert all(INEXACT in row.run for row in from_csv(table.read_bytes(), "rows.csv"))


def test_going_on_with_an_inexact_run_keeps_the_mark(
    marked: Marked, home: Path, capsys: Capture, tmp_path: Path
) -> None:
    assert main(["train", "--resume", str(marked.folder.path)]) == 0
    assert NOTE in flat(capsys.readouterr().out)


def test_an_exact_reference_carries_no_mark_although_an_inexact_one_was_allowed(
    tmp_path: Path, capsys: Capture
) -> None:
    settings = ("trainer.max_steps=2", "trainer.checkpoints=1", "tracking=disabled")
    out = io.StringIO()
    config = compose([*TINY, *settings, "task.allow_inexact=true", f"runs_dir={tmp_path}"])
    folder = train(config, Console(file=out, width=200))
    rows = folder.measurements()
    assert folder.exact
    assert RunFolder.open(folder.path).exact
    assert folder.name == "reverse-vocabulary.a.b-max_length3-1L-d_model16-n_heads2-seed0"
    everything = [
        folder.id, folder.path.name, out.getvalue(), run_figure(folder, rows).get_suptitle(),
        printed(summary_table(rows, "x")), printed(full_table(folder.last_rows(), "x")),
    ]  # fmt: skip
    assert main(["analyze", str(folder.path)]) == 0
    everything.append(capsys.readouterr().out)
    for text in everything:  # except in commands, which repeat the setting
        assert "inexact" not in text.replace("task.allow_inexact=true", "").lower()
    shares = {row.value for row in rows if row.measure == "accuracy/reference_exact"}
    assert shares == {1.0}
