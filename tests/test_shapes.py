"""Every command on degenerate programs and models: it works, or says why it cannot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.degenerate import REFUSED, SHAPES, config_of
from support.runs import kept_steps

from algomatch.cli.main import main
from algomatch.runs.run_results import RunResults

Capture = pytest.CaptureFixture[str]
QUICK = ("no attention", "no MLP in the program", "length 1 only", "output is the token",
         "undefined on whole lengths")  # fmt: skip
WITH_CONTROLS = ("no attention", "length 1 only", "width 1", "a share")
UNTOLD = ("no attention", "no attention, attn_only", "output is the token", "length 1 only",
          "length 1 only, attention", "undefined for some tokens", "causal")  # fmt: skip

WITHOUT_MLP = ("no MLP in the program", "undefined on whole lengths")


def said(capsys: Capture, *arguments: str, code: int = 0) -> str:
    """The output of a command; its exit code must be right, without NaN or traceback."""
    ended = main(arguments)
    seen = capsys.readouterr()
    assert ended == code, seen.err
    assert not re.search(r"\b(nan|inf)\b|Traceback", seen.out + seen.err)
    if code:
        assert seen.err.startswith("algomatch: ")
        assert seen.err.count("\n") == 1
    return " ".join(f"{seen.out} {seen.err}".split())


def trained(name: str, folder: Path, *more: str) -> tuple[Path, list[str]]:
    """A short run of a shape, and its overrides."""
    overrides = config_of(SHAPES[name], folder)
    run = folder / re.sub(r"\W+", "-", name)
    assert main(["train", *overrides, f"run_dir={run}", *more]) == 0
    return run, overrides


def taken(overrides: Sequence[str], *groups: str) -> list[str]:
    return [override for override in overrides if override.startswith(groups)]


@pytest.mark.parametrize("name", QUICK)
def test_a_run_is_trained_measured_and_compared(name: str, tmp_path: Path, capsys: Capture) -> None:
    run, _ = trained(name, tmp_path, "tracking=disabled")
    shown = " ".join(capsys.readouterr().out.split())
    assert ("attention the reference has no active heads" in shown) == (name in UNTOLD)
    assert ("MLP neurons the reference has none" in shown) == (name in WITHOUT_MLP)
    assert "measurements equal the recorded ones exactly" in said(capsys, "analyze", str(run))
    said(capsys, "compare", str(run), "--output", str(tmp_path))


@pytest.mark.parametrize(("name", "why"), REFUSED.items())
def test_what_cannot_be_compiled_or_learned_is_refused(
    name: str, why: str, tmp_path: Path, capsys: Capture
) -> None:
    overrides = taken(config_of(SHAPES[name], tmp_path), "task")
    assert why in said(capsys, "tasks", *overrides, code=2)


def test_no_program_is_told_where_there_is_no_cut_between_input_and_output(
    tmp_path: Path, capsys: Capture
) -> None:
    run, _ = trained("no attention", tmp_path, "tracking=disabled")
    capsys.readouterr()
    shown = said(capsys, "match", str(run))
    assert "exact accuracy 1.0000" in shown
    assert "verdict: undecided: the program has no inner cut that can be tested" in shown
    assert "no selector to compare attention with: next_token" in shown
    assert "overlap interval" not in shown
    (row,) = RunResults(run).match.programs
    assert (row.verdict, row.testable) == ("undecided", 0)
    page = said_by_report(run, tmp_path, capsys)
    assert "every head of the reference attends uniformly" in page
    assert "`attention` in analysis.measures" not in page


def test_neurons_are_not_said_to_be_unmeasured_where_the_reference_has_none(
    tmp_path: Path, capsys: Capture
) -> None:
    run, _ = trained("no MLP in the program", tmp_path, "tracking=disabled")
    capsys.readouterr()
    page = said_by_report(run, tmp_path, capsys)
    assert "has no MLP neurons to compare with" in page
    assert "neurons were not measured" not in page


def said_by_report(run: Path, folder: Path, capsys: Capture) -> str:
    said(capsys, "report", str(run), "--output", str(folder / "page.html"))
    text = (folder / "page.html").read_text()
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHAPES if name not in REFUSED])
def test_every_command(
    name: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, overrides = trained(name, tmp_path, "tracking=disabled")
    assert kept_steps(run)
    capsys.readouterr()
    of_task = taken(overrides, "task")
    reference = [*of_task, *taken(overrides, "analysis")]
    task = of_task[0].partition("=")[2]
    said(capsys, "tasks", *of_task)
    said(capsys, "tasks", "--check", task, *of_task[1:])
    said(capsys, "analyze", str(run), "--all")
    said(capsys, "compare", str(run))
    said(capsys, "match", str(run), "--all")
    said(capsys, "subspaces", str(run))
    said(capsys, "circuit", str(run))
    said(capsys, "circuit", "--reference", *reference)
    said(capsys, "explain", str(run))
    said(capsys, "explain", "--reference", *reference)
    said(capsys, "report", str(run), "--output", "page.html")
    page = re.sub(r"base64,[\w+/=]*", "", Path("page.html").read_text())
    assert "NaN" not in page.partition("<body")[2].partition("<script")[0]
    (row, *_) = RunResults(run).match.programs
    if name in UNTOLD:
        assert row.verdict in ("undecided", "does not solve the task")


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_CONTROLS)
def test_the_controls_of(
    name: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = said(capsys, "controls", *config_of(SHAPES[name], tmp_path), "trainer.max_steps=4")
    assert "measures separate" in shown


@pytest.mark.slow
def test_a_folder_of_all_shapes_is_compared_matched_and_reported(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("one head", *QUICK):
        run, _ = trained(name, tmp_path, "tracking=disabled")
        run.rename(tmp_path / "runs" / run.name)
    (tmp_path / "runs" / "length-1-only" / "checkpoints").rename(tmp_path / "gone")
    capsys.readouterr()
    shown = said(capsys, "compare", "runs")
    assert re.search(r"reverse .*over seeds", " ".join(shown.split()))
    assert "! left out: 'runs/length-1-only' has no checkpoint" in shown
    shown = said(capsys, "match", "runs", code=1)
    assert "verdicts on reverse" in shown
    assert "1 of 6 runs failed" in shown
    said(capsys, "report", "runs", "--output", "page.html", "--tables", "tables")
