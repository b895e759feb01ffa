"""What a W&B run says of its curves and of its measures' controls."""

from __future__ import annotations

from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures.emergence import summaries
from algomatch.analysis.measures.separation import Separation
from algomatch.tracking.wandb_log import controls_table, run_summary

EXACT = "accuracy/exact"
CURVE = {0: 0.1, 10: 0.9, 20: 0.5}  # the best is not the last


def test_final_best_and_emergence_are_those_of_the_curve() -> None:
    rows = [
        Measurement(EXACT, split, value / scale, 100, value / scale - 0.05, value / scale + 0.05)
        .at("run", step)
        for step, value in CURVE.items()
        for split, scale in (("all", 1), ("held_out", 2))
    ]  # fmt: skip
    loss = [Measurement("accuracy/loss", "all", 1 - value, 100).at("run", step)
            for step, value in CURVE.items()]  # fmt: skip
    summary = run_summary(summaries([*rows, *loss]).values())
    assert summary["final/accuracy/all/exact"] == 0.5
    assert summary["best/accuracy/all/exact"] == 0.9
    assert summary["final/accuracy/held_out/exact"] == 0.25
    assert summary["best/accuracy/held_out/exact"] == 0.45
    assert summary["final/accuracy/all/loss"] == 0.5
    assert summary["best/accuracy/all/loss"] == 1 - 0.9
    first = summaries(row for row in rows if row.step == 0)
    assert run_summary(summaries((r for r in rows if r.step), first).values()) == {
        key: value for key, value in summary.items() if "loss" not in key
    }


def test_the_table_of_controls_has_each_verdict() -> None:
    verdicts = [
        Separation("a", 0.75, "rotated-1", 0.5, "random_init-2", ""),
        Separation("b", 0.25, "noised-1", 1.0, "compiled_sort", "overlap"),
    ]
    table = controls_table(verdicts)
    rows = [dict(zip(table.columns, values, strict=True)) for values in table.data]
    for row, verdict in zip(rows, verdicts, strict=True):
        for column in ("key", "lowest_positive", "positive", "highest_negative", "negative", "why"):
            assert row[column] == getattr(verdict, column)
        assert row["gap"] == verdict.lowest_positive - verdict.highest_negative
        assert row["separates"] == (verdict.key == "a")
