"""What a downloaded artifact may hold, and the messages about it."""

from __future__ import annotations

from pathlib import Path

from algomatch.tracking.artifacts import brought_files


def test_every_file_that_came_with_a_checkpoint_is_listed(tmp_path: Path) -> None:
    own = ("model.safetensors", "measurements.csv", "config.yaml")
    brought = ("beside.py", "program/helper.pyc", "program/lib/fast.so", "program/mine.py",
               "program/model.safetensors", "run.json")  # fmt: skip
    for name in (*own, *brought):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in brought_files(tmp_path)] == [*brought]
