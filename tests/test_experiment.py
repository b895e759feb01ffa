"""Whole runs: what they leave, that they repeat, and how they fail."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest
from support.runs import TINY, kept_steps, quiet, rows_of, run, start, weights_of
from support.runs import finish as finish_process

from algomatch.config import compose
from algomatch.errors import NotFiniteError
from algomatch.experiment import analyze, resume, train
from algomatch.tracking import checkpoints
from algomatch.tracking.run_folder import RunFolder

OFF = (*TINY, "tracking=disabled", "trainer.checkpoints=4")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(compose([*OFF, f"run_dir={folder}"]), quiet())
    return folder


def test_a_run_leaves_its_config_checkpoints_table_and_figure(finished: Path) -> None:
    folder = RunFolder.open(finished)
    assert folder.config.model.d_model == 16
    assert kept_steps(finished) == [0, 1, 4, 15, 60]
    assert folder.finished() == {"step": 60, "reason": "max_steps"}
    assert (finished / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert not (finished / "resume.ckpt").exists()
    with open(finished / "measurements.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(folder.measurements())
    assert {int(row["step"]) for row in table} >= {0, 1, 4, 15, 60, 10, 20, 30}
    assert {row["run"] for row in table} == {folder.id}
    groups = {row["measure"].partition("/")[0] for row in table}
    assert groups == {"training", "accuracy", "similarity", "ablation", "sparsity"}


def test_the_same_config_gives_the_same_weights_and_rows(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    train(compose([*OFF, f"run_dir={again}"]), quiet())
    assert weights_of(again) == weights_of(finished)
    assert rows_of(again) == rows_of(finished)


def test_another_seed_gives_other_weights_on_the_same_split(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train(compose([*OFF, "seed=1", f"run_dir={other}"]), quiet())
    assert weights_of(other)[0] != weights_of(finished)[0]
    controls = [
        [row for row in rows_of(folder) if row.measure.endswith("_random_init")]
        for folder in (finished, other)
    ]
    assert controls[0] == controls[1] != []


@pytest.mark.parametrize("step", [0, 15, 60])
def test_a_checkpoint_alone_gives_the_recorded_measurements_exactly(
    step: int, finished: Path, tmp_path: Path
) -> None:
    folder = finished / "checkpoints" / checkpoints.step_folder(step)
    beside = analyze(folder)
    assert beside.differences == []
    assert beside.rows
    lone = tmp_path / "lone.safetensors"
    shutil.copy(folder / checkpoints.WEIGHTS, lone)
    alone = analyze(lone)
    assert alone.differences is None
    assert alone.rows == beside.rows


def test_analysis_says_what_differs_from_the_record(finished: Path, tmp_path: Path) -> None:
    folder = finished / "checkpoints" / checkpoints.step_folder(60)
    saved = checkpoints.load(folder)
    rows = checkpoints.load_rows(folder)
    other = {name: tensor * 1.01 for name, tensor in saved.weights.items()}
    path = checkpoints.save(tmp_path, other, saved.config, saved.run, saved.step, rows)
    found = analyze(path).differences
    assert found
    assert any("accuracy/all/loss: recorded" in line for line in found)


def test_a_run_stops_at_its_target_accuracy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ("trainer.max_steps=2000", "trainer.target_accuracy=1", "trainer.evaluate_every=25")
    quick = ("trainer.learning_rate=0.01", "model.d_model=32", "analysis=accuracy_only")
    train(compose([*OFF, *quick, *settings, f"run_dir={folder}"]), quiet())
    ended = RunFolder.open(folder).finished()
    assert ended is not None
    assert ended["reason"] == "target_accuracy"
    assert ended["step"] % 25 == 0
    assert kept_steps(folder)[-1] == ended["step"] < 2000
    last = {row.key: row.value for row in rows_of(folder) if row.step == ended["step"]}
    assert last["accuracy/all/exact"] == 1.0


def test_diverging_training_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = [*OFF, "trainer.learning_rate=1e30", "trainer.warmup_steps=0"]
    with pytest.raises(NotFiniteError) as caught:
        train(compose([*settings, f"run_dir={folder}"]), quiet())
    assert caught.value.exit_code == 1
    kept = sorted((folder / "checkpoints").iterdir())
    assert str(kept[-1]) in str(caught.value)
    assert "trainer.learning_rate=1e+30" in str(caught.value)
    assert all(v.isfinite().all() for v in checkpoints.load(kept[-1]).weights.values())
    assert RunFolder.open(folder).finished() is None


def test_at_a_fixed_length_the_length_is_no_variable_to_compare_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(compose([*OFF, "task.min_length=3", f"run_dir={folder}"]), quiet())
    compared = {r.subject for r in rows_of(folder) if r.measure.endswith("/best_deconfounded_cka")}
    assert compared == {"reverse"}


def test_held_out_lengths_are_never_trained_on_and_measured_apart(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(compose([*OFF, "task.held_out_lengths=[3]", f"run_dir={folder}"]), quiet())
    subjects = {row.subject for row in rows_of(folder) if row.measure == "accuracy/exact"}
    assert "held_out.length_3" in subjects
    assert "train.length_3" not in subjects


def test_a_full_disk_is_one_line_and_costs_nothing_that_was_written(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    limit = (finished / "measurements.csv").stat().st_size // 2
    process = start("train", *OFF, f"run_dir={folder}", file_size_limit=limit)
    code, _, err = finish_process(process)
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith("algomatch: cannot save the training state")
    assert f"algomatch train --resume {folder}" in err
    assert not list(folder.rglob(".*.partial"))
    before = kept_steps(folder)
    assert before
    assert all(checkpoints.load(path) for path in (folder / "checkpoints").iterdir())
    resume(folder, quiet())
    assert weights_of(folder) == weights_of(finished)
    assert rows_of(folder) == rows_of(finished)


@pytest.mark.timeout(200)
def test_the_commands_as_a_newcomer_types_them(tmp_path: Path) -> None:
    code, out, err = run("train", *OFF, "run_dir=runs/mine", cwd=tmp_path)
    assert (code, err) == (0, ""), err
    assert "exact accuracy, held out" in out
    assert "figure         runs/mine/figure.png" in out
    assert "…" not in out
    code, out, err = run("analyze", "runs/mine", "--output", "rows.csv", cwd=tmp_path)
    assert (code, err) == (0, ""), err
    assert "measurements equal the recorded ones exactly" in out
    assert (tmp_path / "rows.csv").read_text().count("\n") > 50
    assert sorted(os.listdir(tmp_path)) == ["rows.csv", "runs"]
