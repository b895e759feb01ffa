"""`algomatch sweep`: runs on this machine, stopped and resumed, equal to single runs."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from support.runs import TIMEOUT, TINY, finish, rows_of, run, start, wait_until, weights_of

from algomatch.infra.errors import UserError
from algomatch.runs.run_folder import RunFolder
from algomatch.runs.sweep_cells import plan

SETTINGS = (
    *(override for override in TINY if not override.startswith("model=")),
    "tracking=disabled",
)

NAME = "reverse-vocabulary.a.b-max_length3-1L-d_model16-n_heads2"


def sweep_file(folder: Path) -> Path:
    parameters = {
        "seed": {"values": [0, 1]},
        "model": {"parameters": {"name": {"values": ["1L", "1L_attn_only"]}}},
    }
    path = folder / "both.yaml"
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}, sort_keys=False))
    return path


@pytest.mark.slow
@pytest.mark.timeout(4 * TIMEOUT)
def test_a_stopped_sweep_goes_on_and_gives_what_single_runs_give(tmp_path: Path) -> None:
    file, folder = sweep_file(tmp_path), tmp_path / "runs"
    arguments = ("sweep", os.fspath(file), *SETTINGS, "--jobs", "2", "--output", os.fspath(folder))
    process = start(*arguments)
    wait_until(lambda: any(folder.glob("0001-*/checkpoints/step-*")), process)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 128 + signal.SIGTERM, err
    assert err == "algomatch: stopped; the same command continues\n"
    assert "interrupted" in out
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "4 finished" in out
    cells = plan(file, SETTINGS, folder).cells
    assert sorted(path.name for path in folder.glob("0*")) == [c.folder.name for c in cells]
    before = {cell.folder: (cell.folder / "finished.json").stat().st_mtime_ns for cell in cells}
    code, out, _ = run(*arguments)
    assert code == 0
    assert before == {f: (f / "finished.json").stat().st_mtime_ns for f in before}
    alone = tmp_path / "alone"
    code, _, err = run("train", *SETTINGS, "model=1L_attn_only", "seed=1", f"run_dir={alone}")
    assert code == 0, err
    assert weights_of(alone) == weights_of(cells[3].folder)
    assert rows_of(alone) == rows_of(cells[3].folder)
    shutil.rmtree(cells[0].folder / "checkpoints")
    code, out, err = run(*arguments)
    assert code == 0, err
    assert f"! damaged, or its checkpoints are gone: {cells[0].folder.name}" in " ".join(
        out.split()
    )


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_one_run_of_a_sweep_by_its_index(tmp_path: Path) -> None:
    file, folder = sweep_file(tmp_path), tmp_path / "runs"
    arguments = ("sweep", os.fspath(file), *SETTINGS, "--output", os.fspath(folder))
    code, _, err = run(*arguments, "--index", "2")
    assert code == 0, err
    assert [path.name for path in folder.glob("0*")] == [f"0002-{NAME}-seed1"]
    code, out, _ = run(*arguments, "--list")
    assert code == 0
    assert "2  reverse-1L seed=1  (finished)" in out
    assert out.count("(not begun)") == 3
    code, _, err = run(*arguments, "trainer.max_steps=70", "--index", "2")
    assert code == 2
    assert "was begun with trainer.max_steps=60, not 70" in err


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_a_run_that_fails_is_named_with_its_last_words_and_costs_no_other(tmp_path: Path) -> None:
    rates = {"trainer": {"parameters": {"learning_rate": {"values": [1e30, 0.001]}}}}
    file, folder = tmp_path / "rates.yaml", tmp_path / "runs"
    file.write_text(yaml.safe_dump({"method": "grid", "parameters": rates}))
    arguments = (*SETTINGS, "trainer.gradient_clip=0", "model=1L", "--output", os.fspath(folder))
    code, out, err = run("sweep", os.fspath(file), *arguments)
    assert code == 1
    assert err == "algomatch: 1 of 2 runs failed; the same command tries them again\n"
    said = " ".join(out.split())
    assert "1 failed, 1 finished" in said
    assert f"! 0000-{NAME}-seed0: algomatch: training diverged at step" in said
    assert not (folder / f"0000-{NAME}-seed0" / "finished.json").exists()


def begun(folder: Path, *overrides: str) -> Path:
    """The folder of a sweep whose first run was started with the given settings."""
    file = sweep_file(folder)
    cell = plan(file, (*SETTINGS, *overrides), folder / "runs").cells[0]
    RunFolder.create(cell.config, "digest", True)
    return cell.folder


def test_runs_of_other_settings_are_not_shown_as_those_of_a_sweep(tmp_path: Path) -> None:
    first, file, folder = begun(tmp_path), tmp_path / "both.yaml", tmp_path / "runs"
    assert len(plan(file, SETTINGS, folder).cells) == 4
    with pytest.raises(UserError, match=r"was begun with trainer.learning_rate=0.001, not 0.5"):
        plan(file, (*SETTINGS, "trainer.learning_rate=0.5"), folder)
    first.rename(first.with_name("0000-another"))
    with pytest.raises(UserError, match="a run that does not belong to this sweep, '0000-another'"):
        plan(file, SETTINGS, folder)
    (folder / "0000-another").rename(folder / "0007-another")
    assert len(plan(file, SETTINGS, folder, count=2).cells) == 2  # the same but for the count


def test_a_sweep_goes_on_in_the_folders_of_an_earlier_version(tmp_path: Path) -> None:
    first, file, folder = begun(tmp_path), tmp_path / "both.yaml", tmp_path / "runs"
    assert first.name == f"0000-{NAME}-seed0"
    run_id = RunFolder.open(first).id
    earlier = first.rename(first.with_name("0000-reverse-1L-seed0"))
    cells = plan(file, SETTINGS, folder).cells
    assert [cell.folder.name for cell in cells[:2]] == [
        earlier.name, f"0001-{NAME.replace('1L', '1L_attn_only')}-seed0"
    ]  # fmt: skip
    assert RunFolder.open(cells[0].folder).id == run_id


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_while_it_imports_ends_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    file, folder = sweep_file(tmp_path), tmp_path / "runs"
    process = start(
        "sweep", os.fspath(file), *SETTINGS, "trainer.max_steps=5000", "--output", os.fspath(folder)
    )
    wait_until(lambda: (folder / "sweep.yaml").exists(), process)
    time.sleep(1)  # during the imports of the process that forks the runs
    process.send_signal(number)
    started = time.monotonic()
    code, _, err = finish(process)
    assert code == 128 + number
    assert err == "algomatch: stopped; the same command continues\n"
    assert time.monotonic() - started < 60  # 5,000 steps take minutes
    assert not list(folder.glob("0*/finished.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "4"], "the sweep has runs 0 to 3"),
        (["--jobs", "0"], "--jobs 0 must be at least 1"),
        (["seed=3"], "the sweep sets seed itself"),
        (["--jbos", "2"], "did you mean '--jobs'"),
    ],
)
def test_a_mistake_gets_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = run("sweep", os.fspath(sweep_file(tmp_path)), *arguments, cwd=tmp_path)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert out == ""
