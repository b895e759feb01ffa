"""Whole runs: their files, their reproducibility, and their failures."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from support.programs import HALF, HALF_YAML, LARGER, LARGER_YAML, write_program
from support.runs import TINY, kept_steps, quiet, rows_of, run, start, weights_of
from support.runs import finish as finish_process

from algomatch.analysis.measures.registered_measures import REGISTRY
from algomatch.api import train as train_module
from algomatch.api.analyze import analyze
from algomatch.api.train import resume, train, train_or_resume
from algomatch.cli.main import main
from algomatch.config.composition import compose, read_yaml
from algomatch.config.schema import Config
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.outputs import Numerical
from algomatch.data.tasks import make_task
from algomatch.infra.errors import Interrupted, NotFiniteError
from algomatch.runs import checkpoints
from algomatch.runs.places import WEIGHTS
from algomatch.runs.run_folder import RunFolder
from algomatch.tracking.callbacks import ProgressBar

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
    assert groups == {"training", *REGISTRY}


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
    shutil.copy(folder / WEIGHTS, lone)
    alone = analyze(lone)
    assert alone.differences is None
    assert alone.rows == beside.rows


def test_analysis_says_what_differs_from_the_record(finished: Path, tmp_path: Path) -> None:
    folder = finished / "checkpoints" / checkpoints.step_folder(60)
    saved = checkpoints.load(folder)
    rows = checkpoints.load_rows(folder)
    other = {name: tensor * 1.01 for name, tensor in saved.weights.items()}
    path = checkpoints.save(
        tmp_path, other, saved.config, saved.run, saved.step, rows, saved.inputs_digest
    )
    differences = analyze(path).differences
    assert differences
    assert any("accuracy/all/loss: recorded" in line for line in differences)


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


def test_the_target_accuracy_is_of_all_inputs_held_out_ones_too(tmp_path: Path) -> None:
    target, folder = 0.7, tmp_path / "run"
    config = compose([
        *OFF, "trainer.max_steps=1000", f"trainer.target_accuracy={target}",
        "trainer.evaluate_every=1", "trainer.checkpoints=1", "task.held_out=0.4",
        "trainer.learning_rate=0.01", "model.d_model=32", "analysis=accuracy_only",
        f"run_dir={folder}",
    ])  # fmt: skip
    train(config, quiet())
    ended = RunFolder.open(folder).finished()
    assert ended is not None
    assert ended["reason"] == "target_accuracy"
    last = {row.key: row.value for row in rows_of(folder) if row.step == ended["step"]}
    assert last["accuracy/all/exact"] >= target > last["accuracy/held_out/exact"]


def test_a_run_trains_on_after_its_target(tmp_path: Path) -> None:
    """The run equals one without it, plus the added steps; also if it is resumed in between."""
    settings = ("trainer.max_steps=2000", "trainer.target_accuracy=1", "trainer.evaluate_every=25")
    quick = ("trainer.learning_rate=0.01", "model.d_model=32", "analysis=accuracy_only")
    ends = {}
    for steps in (0, 30):
        folder = tmp_path / f"run{steps}"
        more = (f"trainer.steps_after_target={steps}", f"run_dir={folder}")
        train(compose([*OFF, *quick, *settings, *more]), quiet())
        ended = RunFolder.open(folder).finished()
        assert ended is not None
        assert ended["reason"] == "target_accuracy"
        ends[steps] = ended["step"]
        assert kept_steps(folder)[-1] == ended["step"]
    assert ends[30] == ends[0] + 30

    def interrupt(step: int) -> None:
        if step == ends[0] + 10:
            raise KeyboardInterrupt

    folder = tmp_path / "interrupted"
    config = compose([
        *OFF, *quick, *settings, "trainer.steps_after_target=30",
        "trainer.save_every_seconds=0", f"run_dir={folder}",
    ])  # fmt: skip
    with suppress(KeyboardInterrupt, Interrupted):
        train_or_resume(config, quiet(), interrupt)
    assert RunFolder.open(folder).finished() is None
    train_or_resume(config, quiet())
    ended = RunFolder.open(folder).finished()
    assert ended is not None
    assert ended["step"] == ends[30]


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


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_costs_nothing_that_was_written(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    limit = (finished / "measurements.csv").stat().st_size // 2
    process = start("train", *OFF, f"run_dir={folder}", file_size_limit=limit)
    code, _, err = finish_process(process)
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith("algomatch: cannot write measurements.csv: File too large")
    assert f"algomatch train --resume {folder}" in err
    assert not list(folder.rglob(".*.partial"))
    before = kept_steps(folder)
    assert before
    assert all(checkpoints.load(path) for path in (folder / "checkpoints").iterdir())
    resume(folder, quiet())
    assert weights_of(folder) == weights_of(finished)
    assert rows_of(folder) == rows_of(finished)


@pytest.mark.slow
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


KINDS_OF_TASK = {
    "a number": ("task=frac_prevs",),
    "causal": ("task=induction", "task.max_length=4"),
    "undefined positions": ("task=shift_by", "task.max_length=4"),
}


class StoppedAtStep20(ProgressBar):
    """A progress bar at whose 20th step the process gets SIGTERM."""

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        super().on_train_batch_end(trainer, *rest)
        if trainer.global_step == 20:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("kind", KINDS_OF_TASK)
@pytest.mark.slow
def test_a_run_of_every_kind_of_task_is_stopped_resumed_and_measured_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = (*OFF, *KINDS_OF_TASK[kind], "trainer.max_steps=40", "trainer.log_every=7")
    train(compose([*settings, f"run_dir={whole}"]), quiet())
    with monkeypatch.context() as patched:
        patched.setattr(train_module, "ProgressBar", StoppedAtStep20)
        with pytest.raises(Interrupted):
            train(compose([*settings, f"run_dir={parts}"]), quiet())
    assert kept_steps(parts)[-1] < 20 < kept_steps(whole)[-1] == 40
    resume(parts, quiet())
    assert weights_of(parts) == weights_of(whole)
    assert rows_of(parts) == rows_of(whole)
    for step in (0, 40):
        path = parts / "checkpoints" / checkpoints.step_folder(step)
        assert main(["analyze", str(path)]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "measurements equal the recorded ones exactly" in printed
    losses = [row.value for row in rows_of(parts) if row.measure == "training/loss"]
    assert losses[-1] < losses[0]
    last = {row.key: row for row in rows_of(parts) if row.step == 40}
    assert (last["accuracy/all/undefined_share"].value > 0) == (kind != "a number")
    # Of 14 and of 30 lists: those of all different tokens, and those of one or two, have no output.
    answered = {"a number": 14, "causal": 30 - 4, "undefined positions": 30 - 6}
    assert last["accuracy/all/exact"].n == answered[kind]


def test_a_number_is_learned_to_the_target_accuracy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    quick = (
        "task=frac_prevs", "task.held_out=0", "task.max_length=2", "trainer.learning_rate=0.01",
        "model.d_model=32", "trainer.max_steps=3000", "trainer.target_accuracy=1",
        "trainer.evaluate_every=25", "analysis=accuracy_only",
    )  # fmt: skip
    train(compose([*OFF, *quick, f"run_dir={folder}"]), quiet())
    ended = RunFolder.open(folder).finished()
    assert ended is not None
    assert ended["reason"] == "target_accuracy"
    last = {row.key: row.value for row in rows_of(folder) if row.step == ended["step"]}
    assert last["accuracy/all/exact"] == 1.0
    assert last["accuracy/all/loss"] <= 0.05**2


BROUGHT = (
    "model=1L", "model.d_model=8", "model.n_heads=2", "trainer.max_steps=10",
    "trainer.checkpoints=2", "analysis.bootstrap=20", "analysis.random_inits=1",
    "tracking=disabled", "task.vocabulary=[0,1,2]", "task.max_length=3",
)  # fmt: skip


def inputs_of(config: Config) -> InputSet:
    """The inputs of a config's task."""
    return input_set(make_task(config.task), config.task)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with two programs, each with its YAML file."""
    folder = tmp_path_factory.mktemp("user") / "programs"
    write_program(folder, "ranks", LARGER, LARGER_YAML)
    write_program(folder, "halves", HALF, HALF_YAML)
    return folder


@pytest.fixture(scope="module")
def larger(programs: Path) -> tuple[Path, str]:
    """A run of the categorical program by the command, and its output."""
    home, out = programs.parent, io.StringIO()
    place = "task=programs/ranks.py:make_larger"
    with chdir(home), redirect_stdout(out):
        assert main(["train", place, *BROUGHT, "run_dir=larger"]) == 0
    return home / "larger", out.getvalue()


def test_a_program_of_ones_own_is_trained_on_and_measured_again_from_anywhere(
    larger: tuple[Path, str], programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = larger
    # 3 + 3*2 + 3*2*2 lists without equal neighbours; a quarter of each length is held out
    assert "task ranks.larger: all 21 inputs of length 1 to 3 over 3 tokens, 6 held out" in out
    assert "output: one of 3 values: 0, 1, 2\n" in out
    assert "equal to the RASP interpreter on 21 inputs" in out
    assert (folder / "program" / "ranks.py").read_text() == LARGER
    recorded = read_yaml(folder / "config.yaml")["task"]
    assert recorded["program"] == f"{programs}/ranks.py:make_larger"
    task = inputs_of(RunFolder.open(folder).config).task
    assert list(task.alternatives) == ["larger_by_pairs"]
    with chdir(tmp_path):
        assert main(["analyze", str(folder)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "measurements equal the recorded ones exactly" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_numerical_program_of_ones_own_is_trained_on_and_measured_again_from_anywhere(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("task=halves.py:make_half_before", *BROUGHT, f"run_dir={tmp_path / 'run'}")
    code, out, err = run("train", *arguments, cwd=programs)
    assert (code, err) == (0, ""), err
    # 2 + 2*3 + 2*9 lists that start with 0 or 1; the first position of each has no output
    assert "task halves.half_before: all 26 inputs of length 1 to 3 over 3 tokens" in out
    assert "output: a number, right within 0.1 (different outputs are 0.5 apart); undefined" in out
    assert "largest error" in out
    folder = RunFolder.open(tmp_path / "run")
    assert (folder.path / "program" / "halves.py").read_text() == HALF
    inputs = inputs_of(folder.config)
    assert inputs.output == Numerical(0.1)
    last = {row.key: row for row in folder.last_rows()}
    assert last["accuracy/all/exact"].n == 24
    assert last["accuracy/all/undefined_share"].value == 26 / (2 + 12 + 54)
    assert last["accuracy/all/reference_exact"].value == 1.0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with chdir(elsewhere):
        assert main(["analyze", str(folder.path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "measurements equal the recorded ones exactly" in printed


@pytest.fixture
def unfinished(larger: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the categorical run, as it was before its end."""
    shutil.copytree(larger[0], tmp_path / "run")
    (tmp_path / "run" / "finished.json").unlink()
    return tmp_path / "run"


@pytest.fixture
def source(programs: Path) -> Iterator[Path]:
    """The file of the categorical program, for a test to change."""
    path = programs / "ranks.py"
    yield path
    path.write_text(LARGER)


def refusals(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The messages of analysing and resuming, each one line with exit code 2."""
    said = []
    for arguments in (["analyze", str(folder)], ["train", "--resume", str(folder)]):
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert "Traceback" not in printed.err
        said.append(printed.err)
    return said


CHANGES = {
    "the output": ("Comparison.GT", "Comparison.LT"),
    "an input that is accepted": ("a != b", "a >= b"),
    "a variable's name": ('.named("larger")', '.named("bigger")'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_whose_copy_of_the_program_was_changed_is_refused(
    change: str, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = unfinished / "program" / "ranks.py"
    copy.write_text(LARGER.replace(*CHANGES[change]))
    assert copy.read_text() != LARGER
    before = {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()}
    for line in refusals(unfinished, capsys):
        assert "the task 'ranks.larger' is not the one it was trained on" in line
    assert before == {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()}


@pytest.mark.parametrize("change", ["edited", "gone"])
def test_a_run_goes_on_with_its_own_copy_of_the_program(
    change: str, unfinished: Path, source: Path, larger: tuple[Path, str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if change == "gone":
        source.unlink()
    else:
        source.write_text(LARGER.replace("Comparison.GT", "Comparison.LT"))
    assert main(["analyze", str(unfinished)]) == 0
    assert "equal the recorded ones exactly" in " ".join(capsys.readouterr().out.split())
    assert main(["train", "--resume", str(unfinished)]) == 0
    assert rows_of(unfinished) == rows_of(larger[0])
    assert weights_of(unfinished) == weights_of(larger[0])


def test_a_change_is_seen_though_the_files_size_and_time_are_the_same(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    config = compose([f"task={source}:make_larger", *BROUGHT])
    before, times = inputs_of(config), source.stat()
    source.write_text(LARGER.replace("Comparison.GT", "Comparison.LT"))
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = inputs_of(config)
    assert before.digest() != after.digest()


def test_a_run_leaves_nothing_beside_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    source = write_program(tmp_path, "ranks", LARGER)
    inputs_of(compose([f"task={source}:make_larger", *BROUGHT]))
    assert list(tmp_path.rglob("*")) == [source]


BY_PATH = {
    "the program": (
        "task.name=mine", "task.program=ranks.py:make_larger", "task.restrict=no_twins",
    ),
    "what restricts a registered task": ("task=rank", "task.restrict=ranks.py:no_twins"),
    "an alternative of a registered task": (
        "task=rank", "task.alternatives=[ranks.py:make_larger]"
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "what",
    [
        "the program",
        *(
            pytest.param(source, marks=pytest.mark.slow)
            for source in BY_PATH
            if source != "the program"
        ),
    ],
)
def test_a_run_with_a_relative_path_is_measured_again_from_anywhere(
    what: str, programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chdir(programs):
        config = compose([*BROUGHT, *BY_PATH[what], f"run_dir={tmp_path / 'run'}"])
        train(config, quiet())
    with chdir(tmp_path):
        assert main(["analyze", "run"]) == 0, capsys.readouterr().err
