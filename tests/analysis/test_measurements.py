"""The table of measurements: written exactly, and read back in full or refused."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from algomatch.analysis.measurements import (
    MEASUREMENTS,
    Measurement,
    differences,
    from_csv,
    joined_csv,
    to_csv,
)
from algomatch.infra.errors import FaultError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
measurements = st.builds(
    Measurement,
    measure=texts,
    subject=texts,
    value=st.floats(),
    n=st.integers(0, 10**12),
    ci_low=st.none() | st.floats(),
    ci_high=st.none() | st.floats(),
    run=texts,
    step=st.integers(0, 10**9),
)
ROW = Measurement("ablation/zero_delta_exact", "blocks.0.attn.hook_z[1]", -0.5, 120, -0.6, -0.4)


def exact(row: Measurement) -> tuple[object, ...]:
    """Return the row with its floats as bits. All NaNs are equal."""
    values = (getattr(row, column) for column in MEASUREMENTS.columns)
    return tuple(float(v).hex() if isinstance(v, float) else v for v in values)


@settings(max_examples=150, deadline=None)
@given(st.lists(measurements, max_size=4))
@example([replace(ROW, subject="a,\"b\"\n c\r\n,'d'\r", value=5e-324, ci_low=math.inf)])
@example([replace(ROW, value=1.7976931348623157e308, ci_low=-math.inf, ci_high=-0.0)])
@example([replace(ROW, value=math.nan, ci_low=None, ci_high=None)])
@example([replace(ROW, value=0.1 + 0.2, subject="", run="é ☃")])
def test_rows_read_back_as_they_were_written(rows: list[Measurement]) -> None:
    read = from_csv(to_csv(rows), "rows.csv")
    assert [exact(row) for row in read] == [exact(row) for row in rows]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(measurements, max_size=2), max_size=4))
def test_joined_tables_hold_the_rows_of_all_in_order(tables: list[list[Measurement]]) -> None:
    whole = joined_csv(to_csv(rows) for rows in tables)
    assert whole == to_csv(row for rows in tables for row in rows)
    read = from_csv(whole, "rows.csv")
    assert [exact(row) for row in read] == [exact(row) for rows in tables for row in rows]


def test_the_first_line_names_the_columns() -> None:
    assert to_csv([ROW]).splitlines()[0] == b"run,step,measure,subject,value,n,ci_low,ci_high"
    assert from_csv(to_csv([]), "rows.csv") == []


HEADER = ",".join(MEASUREMENTS.columns)
DAMAGED = {
    "empty": "",
    "another header": "run,step,name,subject,value,n,ci_low,ci_high\nr,0,a/b,s,1.0,3,,\n",
    "columns in another order": "step,run,measure,subject,value,n,ci_low,ci_high\n",
    "a column more": f"{HEADER},more\nr,0,a/b,s,1.0,3,,,x\n",
    "no header": "r,0,a/b,s,1.0,3,,\n",
    "text for the value": f"{HEADER}\nr,0,a/b,s,high,3,,\n",
    "text for n": f"{HEADER}\nr,0,a/b,s,1.0,many,,\n",
    "a fraction for n": f"{HEADER}\nr,0,a/b,s,1.0,3.5,,\n",
    "text for a bound": f"{HEADER}\nr,0,a/b,s,1.0,3,low,1.0\n",
    "text for the step": f"{HEADER}\nr,last,a/b,s,1.0,3,,\n",
    "no value": f"{HEADER}\nr,0,a/b,s,,3,,\n",
    "a line that ends before its value": f"{HEADER}\nr,0,a/b,s,1.0,3,,\nr,0,a/b",
    "a line that ends before its n": f"{HEADER}\nr,0,a/b,s,1.0",
    "a line that ends before its interval": f"{HEADER}\nr,0,a/b,s,1.0,3",
    "a line that ends in its interval": f"{HEADER}\nr,0,a/b,s,1.0,3,0.5",
    "a line with a value more": f"{HEADER}\nr,0,a/b,s,1.0,3,0.5,1.0,2.0\n",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_table_is_refused_by_name(content: str) -> None:
    with pytest.raises(FaultError, match=r"the table 'old/rows\.csv' is damaged: ."):
        from_csv(content.encode(), "old/rows.csv")


def test_bytes_that_are_no_text_are_refused_by_name() -> None:
    with pytest.raises(FaultError, match=r"the table 'rows\.csv' is damaged"):
        from_csv(to_csv([ROW])[:-5] + b"\xff\xfe", "rows.csv")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200))
def test_a_table_cut_within_a_line_is_refused(cut: int) -> None:
    whole = to_csv([ROW, replace(ROW, subject="blocks.1.hook_mlp_out")]).rstrip()
    content = whole[: len(whole) - cut]
    if all(line.count(",") == len(MEASUREMENTS.columns) - 1 for line in content.decode().split()):
        return  # cut between lines or within the last number: only the file's digest detects it
    with pytest.raises(FaultError, match=r"'rows\.csv' is damaged"):
        from_csv(content, "rows.csv")


def test_a_short_line_is_refused_in_production_too() -> None:
    # Tests check the types of all arguments, which would hide a missing check in the code.
    code = (
        "from algomatch.analysis.measurements import from_csv\n"
        "from algomatch.infra.errors import FaultError\n"
        "try:\n"
        f"    print(from_csv({DAMAGED['a line that ends before its interval'].encode()!r}, 'a'))\n"
        "except FaultError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_the_key_puts_the_subject_between_group_and_name() -> None:
    assert ROW.key == "ablation/blocks.0.attn.hook_z[1]/zero_delta_exact"
    assert Measurement("a/b/c", "s", 0.0, 1).key == "a/s/b/c"


def test_at_changes_run_and_step_alone() -> None:
    moved = ROW.at("run-7", 300)
    assert (moved.run, moved.step) == ("run-7", 300)
    assert replace(moved, run=ROW.run, step=ROW.step) == ROW
    assert (ROW.run, ROW.step) == ("", 0)


def test_the_same_rows_in_any_order_and_of_any_run_have_no_differences() -> None:
    other = replace(ROW, subject="blocks.0.hook_mlp_out")
    assert differences([ROW, other], [other.at("again", 5), ROW.at("again", 5)]) == []
    assert differences([], []) == []


CHANGES = {
    "value": replace(ROW, value=math.nextafter(ROW.value, 0)),
    "low end": replace(ROW, ci_low=math.nextafter(-0.6, 0)),
    "high end": replace(ROW, ci_high=-0.3),
    "interval gone": replace(ROW, ci_low=None, ci_high=None),
    "n": replace(ROW, n=121),
    "not a number": replace(ROW, value=math.nan),
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_a_change_to_the_last_bit_is_a_difference(changed: Measurement) -> None:
    (line,) = differences([ROW], [changed])
    assert line.startswith(f"{ROW.key}: recorded ")
    assert len(differences([changed], [ROW])) == 1


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_the_line_of_a_difference_shows_what_differs(changed: Measurement) -> None:
    (line,) = differences([ROW], [changed])
    recorded, _, recomputed = line.partition(", recomputed ")
    assert recorded.partition(": recorded ")[2] != recomputed


def test_the_line_of_a_changed_value_shows_both() -> None:
    (line,) = differences([ROW], [replace(ROW, value=-0.25)])
    assert line.startswith(f"{ROW.key}: recorded -0.5")
    assert "recomputed -0.25" in line


def test_a_missing_and_an_extra_row_are_differences() -> None:
    other = replace(ROW, subject="blocks.0.hook_mlp_out")
    assert differences([ROW, other], [ROW]) == [
        "ablation/zero_delta_exact blocks.0.hook_mlp_out: only recorded"
    ]
    assert differences([ROW], [ROW, other]) == [
        "ablation/zero_delta_exact blocks.0.hook_mlp_out: only recomputed"
    ]


def test_nan_is_the_same_as_nan() -> None:
    rows = [replace(ROW, value=math.nan, ci_low=math.nan, ci_high=math.nan)]
    assert differences(rows, from_csv(to_csv(rows), "rows.csv")) == []
