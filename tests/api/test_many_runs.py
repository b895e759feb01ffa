"""Commands with several runs: equal to each run alone, without repeated work, resumable."""

from __future__ import annotations

import csv
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.runs import TINY, finish, quiet, run, start

from algomatch.analysis.circuits.circuit_result import CircuitResult, CircuitRow
from algomatch.analysis.results import SETTINGS, About, Key
from algomatch.api.many_runs import LOG
from algomatch.api.train import train
from algomatch.cli import main as cli
from algomatch.config.composition import compose
from algomatch.runs.result_store import save, stored_results
from algomatch.runs.run_folder import RunFolder
from algomatch.runs.run_results import RunResults

RUNS = {"one": ("model=1L", "seed=0"), "two": ("model=1L", "seed=1"), "three": ("model=2L",)}
CIRCUIT = ("--methods", "eap", "--kinds", "mean")
SECONDS = 120


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs of two architectures."""
    folder = tmp_path_factory.mktemp("several")
    for name, settings in RUNS.items():
        given = [*TINY, "tracking=disabled", "analysis=accuracy_only", "trainer.checkpoints=2"]
        train(compose([*given, *settings, f"run_dir={folder / name}"]), quiet())
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of the runs, without analyses."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def done(runs: Path, folder: str) -> dict[str, list[tuple[int | None, tuple[str, ...]]]]:
    """The step and settings of each run's finished results."""
    steps = {
        path.name: [
            (result.key.step, result.key.settings)
            for result in stored_results(path / folder)
            if result.about.finished
        ]
        for path in runs.iterdir()
    }
    return {name: some for name, some in steps.items() if some}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "folder", "options", "settings", "tables"),
    [
        (
            "circuit", "circuit", CIRCUIT, ("methods=eap", "kinds=mean"),
            ("circuits.csv", "edges.csv", "carried.csv"),
        ),
        ("explain", "explanation", (), (), ("heads.csv", "neurons.csv", "explained.csv")),
        (
            "match", "matching", ("--no-sides",), ("no-sides",),
            ("match.csv", "programs.csv", "selectors.csv"),
        ),
    ],
)  # fmt: skip
def test_each_run_has_what_it_has_alone(
    command: str,
    folder: str,
    options: Sequence[str],
    settings: Sequence[str],
    tables: Sequence[str],
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Existing results are kept; other options, or --again, make new ones."""
    monkeypatch.chdir(tmp_path)  # the verdicts of `match` are written here
    assert cli.main([command, str(runs), *options, "--jobs", "2"]) == 0
    assert "3 runs: 3 done, 0 already done" in capsys.readouterr().out
    assert done(runs, folder) == {key: [(60, settings)] for key in RUNS}
    for name in RUNS:
        alone = tmp_path / "alone" / name
        assert cli.main([command, str(runs / name), *options, "--output", str(alone)]) == 0
        for table in tables:
            assert (runs / name / folder / table).read_bytes() == (alone / table).read_bytes()
        printed = capsys.readouterr().out.replace(str(alone), str(runs / name / folder))
        log = (runs / name / folder / LOG).read_text()
        assert log.splitlines()[-1].split(": ")[0] == printed.splitlines()[-1].split(": ")[0]
    assert cli.main([command, str(runs), *options]) == 0
    assert "3 runs: 0 done, 3 already done" in capsys.readouterr().out
    shutil.rmtree(next((runs / "one" / folder).glob("step-*")))
    assert cli.main([command, str(runs), *options]) == 0
    assert "3 runs: 1 done, 2 already done" in capsys.readouterr().out
    assert cli.main([command, str(runs / "one"), str(runs / "two"), *options, "--again"]) == 0
    assert "2 runs: 2 done, 0 already done" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_fails_keeps_no_others_from_being_done(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for weights in (runs / "one").glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])
    assert cli.main(["circuit", str(runs), *CIRCUIT]) == 1
    told = capsys.readouterr()
    assert "3 runs: 2 done, 0 already done, 1 failed" in told.out
    assert f"! one: algomatch: '{runs / 'one'}" in told.out
    assert "1 of 3 runs failed; the same command tries them again" in told.err
    assert set(done(runs, "circuit")) == {"two", "three"}


def left_by_circuit(run: Path) -> Key:
    """Write a result of `circuit` into a run's folder; return its key."""
    key = Key("circuit", RunFolder.open(run).id, 60, ("methods=eap", "kinds=mean"))
    row = CircuitRow(
        model=key.model, step=60, ablation="mean", method="eap", edges=1, faithfulness=0.5,
        exact=0.5, chosen=False,
    )  # fmt: skip
    save(run / "circuit", CircuitResult(about=About(key, fullness=(1,)), curves=(row,)))
    return key


@pytest.mark.slow
def test_a_run_that_fails_again_is_named_and_what_was_there_stays(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [runs / name for name in ("one", "two")]
    for path in given:
        left_by_circuit(path)
    for weights in (runs / "one").glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])
    assert cli.main(["circuit", *map(str, given), *CIRCUIT, "--again"]) == 1
    told = capsys.readouterr()
    assert "2 runs: 1 done, 0 already done, 1 failed" in told.out
    assert f"! one: algomatch: '{runs / 'one'}" in told.out
    old, new = (RunResults(path).circuit.curves for path in given)
    assert [row.edges for row in old] == [1]
    assert new != old


def test_what_was_never_gathered_is_gathered_where_all_is_done(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [runs / name for name in ("one", "two")]
    for path in given:
        left_by_circuit(path)
    table = runs / "one" / "circuit" / "circuits.csv"
    table.unlink()
    assert cli.main(["circuit", *map(str, given), *CIRCUIT]) == 0
    assert "2 runs: 0 done, 2 already done" in capsys.readouterr().out
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert row["edges"] == "1", "as the result says"
    table.unlink()
    table.mkdir()  # it cannot be written
    (table / "mine").touch()
    assert cli.main(["circuit", *map(str, given), *CIRCUIT]) == 1
    assert "! one: its tables cannot be collected" in capsys.readouterr().out


@pytest.mark.slow
def test_old_tables_that_cannot_be_kept_hold_up_no_other_run(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_by_circuit(runs / "two")
    (runs / "one" / "circuit").mkdir()
    (runs / "one" / "circuit" / "circuits.csv").write_text('model,edges\n"one, step 60",1\n')
    (runs / "one" / "circuit" / "done.json").mkdir()  # it cannot be removed as a file
    code = cli.main(["circuit", str(runs / "two"), str(runs / "one"), *CIRCUIT])
    told = capsys.readouterr()
    assert "1 already done" in told.out, told.err
    assert code == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_the_same_command_goes_on(runs: Path, number: signal.Signals) -> None:
    for copy in range(6):
        shutil.copytree(runs / "three", runs / f"three-{copy}")
    process = start("circuit", str(runs), *CIRCUIT, "--jobs", "1")
    until = time.monotonic() + SECONDS
    while not done(runs, "circuit") and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    code, out, error = finish(process)
    assert code == 128 + number, error
    count = len(done(runs, "circuit"))
    assert 1 <= count < 9
    assert f"{count} done" in out
    code, out, error = run("circuit", str(runs), *CIRCUIT, "--jobs", "2")
    assert code == 0, error
    assert f"9 runs: {9 - count} done, {count} already done" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["circuit", "RUNS", "--output", "x"],
            "--output is for one run; with several, results go to",
        ),
        (["circuit", "RUNS", "--jobs", "0"], "--jobs 0 must be at least 1"),
        (["circuit", "RUNS/one", "--jobs", "2"], "--jobs needs several runs, and there is only"),
        (["explain", "RUNS/one", "--again"], "--again needs several runs, and there is only one"),
        (["match", "RUNS/one", "--jobs", "2"], "--jobs needs several runs"),
        (["explain", "RUNS/one", "RUNS/none"], "RUNS/none"),
        (["circuit", "RUNS", "seed=1"], "'seed=1': the run was trained with its own seed"),
    ],
)
def test_a_mistake_gives_one_line(
    given: Sequence[str], message: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([argument.replace("RUNS", str(trained)) for argument in given]) == 2
    error = capsys.readouterr().err
    assert message.replace("RUNS", str(trained)) in error
    assert error.count("\n") == 1
    assert not list(trained.glob(f"*/*/*/{SETTINGS}"))
