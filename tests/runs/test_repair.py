"""A damaged record: what is repaired exactly, what is set aside, and the messages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs import TINY, kept_steps, quiet, rows_of, weights_of

from algomatch.api.train import resume, train
from algomatch.config.composition import compose
from algomatch.infra.errors import FaultError
from algomatch.runs.run_folder import DAMAGED, RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    settings = (*TINY, "tracking=disabled", "trainer.checkpoints=4", f"run_dir={folder}")
    train(compose(settings), quiet())
    return folder


@pytest.fixture
def mine(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.*"))
        if path.is_file() and path.suffix in (".csv", ".safetensors")
    }


def repaired(folder: Path) -> list[str]:
    said: list[str] = []
    RunFolder.open(folder).repair(said.append)
    return said


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def changed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"accuracy/exact", b"accuracy/exbct", 1))


@pytest.mark.parametrize("damage", [cut, changed, Path.unlink], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("which", [0, 1, -1])
def test_measurements_of_a_checkpoint_are_taken_from_the_gathered_table(
    mine: Path, whole: Path, damage: Callable[[Path], None], which: int
) -> None:
    damaged = sorted(mine.glob("checkpoints/*/measurements.csv"))[which]
    damage(damaged)
    [line] = repaired(mine)
    assert str(damaged) in line
    assert "restored from measurements.csv" in line
    assert contents(mine) == contents(whole)
    assert repaired(mine) == []


def test_the_gathered_table_is_gathered_again(mine: Path, whole: Path) -> None:
    changed(mine / "measurements.csv")
    [line] = repaired(mine)
    assert "collected again from the checkpoints" in line
    assert contents(mine) == contents(whole)
    cut(mine / "measurements.csv")  # as after a kill before the rest was gathered
    assert repaired(mine) == []
    assert contents(mine) == contents(whole)


def test_what_cannot_be_mended_of_a_finished_run_is_set_aside_and_said(
    mine: Path, whole: Path
) -> None:
    cut(mine / "measurements.csv")
    step = sorted(mine.glob("checkpoints/step-*"))[1]
    changed(step / "measurements.csv")
    with pytest.raises(FaultError, match=rf"{step.name} of the finished run .* cannot be mended"):
        repaired(mine)
    assert (mine / DAMAGED / step.name / "model.safetensors").is_file()
    (mine / "finished.json").unlink()
    resume(mine, quiet())
    assert weights_of(mine) == weights_of(whole)
    assert rows_of(mine) == rows_of(whole)


@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "gone"])
def test_an_unfinished_run_that_lost_a_checkpoint_is_made_again(
    mine: Path, whole: Path, gone: bool
) -> None:
    (mine / "finished.json").unlink()
    step = sorted(mine.glob("checkpoints/step-*"))[2]
    if gone:
        shutil.rmtree(step)
    else:
        cut(step / "model.safetensors")
        [first, second] = repaired(mine)
        assert "not a whole safetensors file" in first
        assert "the run starts again, to the same end" in second
    assert kept_steps(mine) != kept_steps(whole)
    resume(mine, quiet())
    assert weights_of(mine) == weights_of(whole)
    assert rows_of(mine) == rows_of(whole)
