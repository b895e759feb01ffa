"""What the summary of a W&B run says of its curves."""

from __future__ import annotations

from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures.emergence import summaries
from algomatch.tracking.wandb_log import run_summary

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
