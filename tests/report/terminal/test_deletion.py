"""The table of what happens when components are deleted."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console, Group

from algomatch.analysis.ablation_names import KINDS
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measurements import Measurement, whole
from algomatch.analysis.measures.suite import measure
from algomatch.report.terminal.deletion import deletion, verdict


def printed(rows: list[Measurement], failing: dict[str, str] | None = None) -> str:
    out = io.StringIO()
    Console(file=out, width=110).print(Group(*deletion(rows, failing)))
    return out.getvalue()


def line(table: str, label: str) -> str:
    [match] = [row for row in table.splitlines() if row.startswith(f"{label} ")]
    return match


@pytest.fixture(scope="module")
def solved(small: MeasurementContext) -> list[Measurement]:
    """The rows of deletion for the reference, which solves the task."""
    return [
        row for row in measure(small.reference.bridge, small) if row.measure.startswith("ablation/")
    ]


def test_a_model_that_solves_the_task_is_judged_as_its_rows_say(solved: list[Measurement]) -> None:
    table = printed(solved)
    redundant = {r.subject: r.value for r in solved if r.measure == "ablation/redundant"}
    harmless = {r.subject: r for r in solved if r.measure == "ablation/harmless_kinds"}
    seen = set()
    for name, words in (("hook_attn_out", "attention"), ("hook_mlp_out", "MLP")):
        for layer in range(4):
            subject = f"blocks.{layer}.{name}"
            shown = line(table, f"{words} {layer}").partition("  ")[2]
            agreeing = harmless[subject].value
            expected = "redundant" if redundant[subject] == 1 else "disagree"
            expected = expected if agreeing else "needed"
            seen.add(expected)
            said = [word for word in ("redundant", "needed", "disagree") if word in shown]
            assert said == [expected], shown
            if expected == "disagree":
                assert shown.partition("harmless by ")[2].count(",") + 1 == agreeing
    assert {"redundant", "needed"} <= seen
    inside = [r for r in solved if r.measure == "ablation/in_redundant_set"]
    members = sum(row.value == 1 for row in inside)
    assert f"redundant together ({members} of {len(inside)} heads and MLPs)" in table
    assert line(table, "redundant set").rstrip().endswith("redundant")


def test_the_cells_are_changes_with_the_farther_end_of_the_interval(
    solved: list[Measurement],
) -> None:
    by_measure = {r.measure: r for r in solved if r.subject == "blocks.0.hook_attn_out"}
    shown = line(printed(solved), "attention 0")
    for kind in KINDS:
        row = by_measure.get(f"ablation/{kind}_delta_exact")
        if row is not None:
            assert row.ci_low is not None
            assert row.ci_high is not None
            reach = max(row.value - row.ci_low, row.ci_high - row.value)
            assert f"{100 * row.value + 0.0:.1f} ±{100 * reach:.1f}" in shown


def test_the_kinds_that_are_harmless_are_those_the_count_is_of(solved: list[Measurement]) -> None:
    """By the rule: the interval's lower end against the margin in the settings."""
    for component in {row.subject for row in solved if whole(row.subject)}:
        changes = {
            kind: row
            for kind in KINDS
            for row in solved
            if (row.measure, row.subject) == (f"ablation/{kind}_delta_exact", component)
        }
        lows = {kind: row.ci_low for kind, row in changes.items() if row.ci_low is not None}
        by_rule = [kind.removeprefix("resample_") for kind, low in lows.items() if low >= -0.01]
        said = verdict(changes, len(by_rule))
        if 0 < len(by_rule) < len(changes):
            assert said == f"disagree: harmless by {', '.join(by_rule)}"
        elif changes:
            assert said == ("redundant" if by_rule else "needed")


def test_disagreement_lists_the_harmless_kinds_in_order() -> None:
    changes = {
        "zero": Measurement("m", "s", -0.001, 9, -0.005, 0.0),
        "mean": Measurement("m", "s", 0.0, 9, 0.0, 0.0),
        "resample_within": Measurement("m", "s", -0.9, 9, -0.95, -0.8),
        "resample_across": Measurement("m", "s", -0.009, 9, -0.02, -0.001),
    }
    assert verdict(changes, 2) == "disagree: harmless by zero, mean"
    assert verdict(changes, 3) == "disagree: harmless by zero, mean, across"
    assert verdict(changes, 0) == "needed"
    assert verdict(changes, 4) == "redundant"
    assert verdict(changes, None) == "not judged"


def test_without_a_verdict_nothing_is_called_redundant(solved: list[Measurement]) -> None:
    judged = ("ablation/redundant", "ablation/in_redundant_set", "ablation/redundant_share")
    table = printed([row for row in solved if row.measure not in judged])
    assert "not judged: the model does not solve the task" in table
    assert line(table, "attention 0").rstrip().endswith("not judged")
    assert "needed" not in table


def test_kinds_that_were_not_measured_have_no_column_and_nothing_has_no_table(
    solved: list[Measurement],
) -> None:
    rows = [row for row in solved if "resample_across" not in row.measure]
    header = printed(rows).splitlines()[0].split()
    assert header == ["deleted", "zero", "mean", "within", "verdict"]
    assert deletion([]) == []


def test_a_failing_measure_is_marked(solved: list[Measurement]) -> None:
    key = "ablation/blocks.0.hook_attn_out/zero_delta_exact"
    assert line(printed(solved, {key: "why"}), "attention 0").startswith("attention 0 ✗")


def test_an_empty_redundant_set_is_said(solved: list[Measurement]) -> None:
    rows = [
        replace(row, value=0.0) if row.measure == "ablation/in_redundant_set" else row
        for row in solved
        if row.subject != "redundant_set"
    ]
    assert "heads and MLPs is redundant" in printed(rows)
