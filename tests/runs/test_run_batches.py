"""A run's headlines, read from its folder."""

from __future__ import annotations

from pathlib import Path

from algomatch.runs.run_batches import HIGHEST, load_run
from algomatch.runs.run_folder import RunFolder

CONTROL = "similarity/model/mean_deconfounded_cka_random_init"


def test_the_highest_control_is_the_end_of_the_controls_row(run: Path) -> None:
    folder = RunFolder.open(run)
    loaded = load_run(folder)
    rows = {row.step: row for row in folder.measurements() if row.key == CONTROL}
    assert {step: row.value for step, row in loaded.curves[CONTROL].items()} == {
        step: row.value for step, row in rows.items()
    }
    highest = {step: row.value for step, row in loaded.curves[f"{HIGHEST}/{CONTROL}"].items()}
    assert highest == {step: row.ci_high for step, row in rows.items()}
    assert any(row.ci_high != row.value for row in rows.values())
    assert loaded.last_step == max(rows)
