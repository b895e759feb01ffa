"""A run stopped at any moment and resumed has the weights and rows of an uninterrupted run."""

from __future__ import annotations

import io
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.runs import (
    TINY,
    finish,
    kept_steps,
    quiet,
    rows_of,
    run,
    start,
    wait_until,
    weights_of,
)

from algomatch.api.train import resume, train
from algomatch.config.composition import compose
from algomatch.infra.errors import UserError
from algomatch.runs.run_folder import RunFolder

SETTINGS = (*TINY, "tracking=disabled", "trainer.save_every_seconds=0", "seed=5")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(compose([*SETTINGS, f"run_dir={folder}"]), quiet())
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed by SIGKILL while it was writing a checkpoint."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    process = start("train", *SETTINGS, f"run_dir={folder}")
    wait_until(lambda: len(kept_steps(folder)) >= 4, process)
    wait_until(lambda: any((folder / "checkpoints").glob(".*.partial")), process)
    process.kill()
    code, _, err = finish(process)
    assert code == -signal.SIGKILL, err
    return folder


def same(run: Path, other: Path) -> None:
    assert weights_of(run) == weights_of(other)
    assert rows_of(run) == rows_of(other)


@pytest.fixture
def stopped(killed: Path, tmp_path: Path) -> Path:
    """A copy of the killed run."""
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    return folder


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights_and_rows(stopped: Path, whole: Path) -> None:
    before = kept_steps(stopped)
    resume(stopped, quiet())
    assert 4 <= len(before) < len(kept_steps(stopped))
    same(stopped, whole)
    keys = [(row.step, row.measure, row.subject) for row in rows_of(stopped)]
    assert len(keys) == len(set(keys))
    assert not list(stopped.rglob(".*.partial"))


@pytest.mark.slow
def test_a_run_killed_between_checkpoint_and_state_makes_the_checkpoint_again(
    stopped: Path, whole: Path
) -> None:
    later = kept_steps(whole)[len(kept_steps(stopped))]
    name = f"checkpoints/step-{later:08d}"
    shutil.copytree(whole / name, stopped / name)
    resume(stopped, quiet())
    same(stopped, whole)


@pytest.mark.slow
def test_damaged_training_state_means_starting_again_to_the_same_end(
    stopped: Path, whole: Path
) -> None:
    state = stopped / "resume.ckpt"
    state.write_bytes(state.read_bytes()[:1000])
    out = io.StringIO()
    resume(stopped, Console(file=out, width=200))
    assert f"'{state}' is damaged" in out.getvalue()
    same(stopped, whole)


@pytest.mark.slow
def test_state_saved_on_an_accelerator_is_gone_on_with_without_one(stopped: Path) -> None:
    state = torch.load(stopped / "resume.ckpt", weights_only=True)
    torch.serialization.register_package(1, lambda storage: "cuda:0", lambda storage, tag: None)
    try:
        torch.save(state, stopped / "resume.ckpt")
    finally:
        torch.serialization._package_registry[:] = [
            entry for entry in torch.serialization._package_registry if entry[0] != 1
        ]
    out = io.StringIO()
    resume(stopped, Console(file=out, width=200))
    assert f"continuing from step {state['global_step']}" in out.getvalue()


def test_a_finished_run_whose_checkpoints_are_gone_says_so(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoint"):
        resume(folder, quiet())


def test_runs_started_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    config = compose([*SETTINGS, f"runs_dir={tmp_path}"])
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: RunFolder.create(config, "digest", True), range(8)))
    assert len({folder.path for folder in folders}) == 8
    assert {RunFolder.open(folder.path).id for folder in folders} == {f.id for f in folders}


@pytest.mark.slow
def test_a_run_killed_before_its_first_state_starts_again(stopped: Path, whole: Path) -> None:
    (stopped / "resume.ckpt").unlink()
    shutil.rmtree(stopped / "checkpoints")
    resume(stopped, quiet())
    same(stopped, whole)


def test_a_finished_run_is_left_alone(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    resume(whole, quiet())
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}


def test_a_run_that_another_process_works_on_is_refused(stopped: Path) -> None:
    with RunFolder.open(stopped).lock(), pytest.raises(UserError, match="another process"):
        resume(stopped, quiet())


def test_the_gathered_table_holds_all_rows_once(whole: Path) -> None:
    lines = (whole / "measurements.csv").read_text().splitlines()
    assert len(lines) == 1 + len(rows_of(whole))


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, id="SIGTERM"), pytest.param(signal.SIGINT, id="Ctrl-C")],
)
def test_a_signal_stops_after_the_step_and_says_how_to_go_on(
    number: signal.Signals, stopped: Path, whole: Path
) -> None:
    before = kept_steps(stopped)
    process = start("train", "--resume", os.fspath(stopped))
    wait_until(lambda: len(kept_steps(stopped)) > len(before), process)
    process.send_signal(number)
    code, out, err = finish(process)
    assert code == 128 + number, err
    assert err == f"algomatch: stopped; continue by `algomatch train --resume {stopped}`\n"
    assert len(kept_steps(stopped)) < len(kept_steps(whole)), out
    code, _, err = run("train", "--resume", os.fspath(stopped))
    assert code == 0, err
    same(stopped, whole)
