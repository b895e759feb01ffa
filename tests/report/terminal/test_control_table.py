"""The report on a task's controls: the table of measures, failures with reasons, and a figure."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from algomatch.analysis.controls.known_models import (
    DECOY,
    NEGATIVE,
    POSITIVE,
    Control,
    ControlModel,
    NotMadeError,
)
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures.separation import separations
from algomatch.models.training import Progress
from algomatch.report.terminal.control_table import COLUMNS, controls_figure, print_controls

CKA, PLAIN = "similarity/mean_deconfounded_cka", "similarity/matched_plain_cka"
KINDS = {
    **dict.fromkeys(list(COLUMNS)[:6], POSITIVE),
    **dict.fromkeys(list(COLUMNS)[6:10], NEGATIVE),
    "decoy": DECOY,
}
Study = list[tuple[Control, list[Measurement]]]


def control(name: str, group: str) -> Control:
    def make(progress: Progress) -> ControlModel:
        raise NotMadeError("it is made of rows alone")

    return Control(name, KINDS[group], group, make)


def rows(exact: float, cka: float, plain: float, **others: float) -> list[Measurement]:
    names = {"bimodality": "sparsity/bimodality", "dead": "sparsity/dead_share"}
    return [
        Measurement("accuracy/exact", "all", exact, 10),
        Measurement(CKA, "model", cka, 10),
        Measurement("similarity/best_deconfounded_cka", "length", cka, 10),
        Measurement(PLAIN, "model", plain, 10),
        *(Measurement(names[name], "model", value, 10) for name, value in others.items()),
    ]


@pytest.fixture
def study() -> Study:
    """Two controls of every group; plain CKA does not separate them."""
    measured: Study = []
    for i, (group, kind) in enumerate(KINDS.items()):
        for more in (0.0, 0.005):
            exact = 0.25 if kind == NEGATIVE else 1.0
            cka = (0.11 if kind == NEGATIVE else 0.81) + 0.01 * i + more
            name = f"{group.replace(' ', '_')}-{1 if more else 2}"
            measured.append(
                (control(name, group), rows(exact, cka, 0.5, bimodality=cka, dead=0.125))
            )
    return measured


def printed(study: Study, width: int = 80, notes: dict[str, str] | None = None) -> str:
    console = Console(file=io.StringIO(), width=width)
    given = {control.name: "" for control, _ in study} if notes is None else notes
    print_controls("Controls of reverse, 4L", study, given, separations(study), console)
    assert console.width == width
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_of(text: str, start: str) -> str:
    """The text of the lines with this start, from all parts of a table."""
    lines = [line for line in text.splitlines() if line.strip().startswith(start)]
    assert lines
    return " ".join(lines)


@pytest.mark.parametrize("width", [40, 80, 250])
def test_no_column_is_lost_however_narrow_the_terminal(width: int, study: Study) -> None:
    text = printed(study, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    heads = text
    for heading, _ in COLUMNS.values():
        for word in heading.split("\n"):
            assert word in heads, heading
    numbers = re.findall(r"\d\.\d+", line_of(text, "similarity mean dCKA"))
    assert len(numbers) == len(COLUMNS) + 1  # and the gap


def test_the_lowest_positive_and_the_highest_negative_and_decoy_are_shown(study: Study) -> None:
    numbers = re.findall(r" (\d\.\d\d) ", line_of(printed(study), "similarity mean dCKA") + " ")
    shown = [float(number) for number in numbers]
    for i, (group, kind) in enumerate(KINDS.items()):
        values = [row.value for control, measured in study if control.group == group
                  for row in measured if row.measure == CKA]  # fmt: skip
        wanted = min(values) if kind == POSITIVE else max(values)
        assert shown[i] == pytest.approx(wanted, abs=0.00501), group


def test_a_group_without_controls_has_no_column(study: Study) -> None:
    text = printed([pair for pair in study if pair[0].group != "noised"])
    assert "noised" not in text
    assert "compiled" in text


def test_what_separates_and_what_does_not_is_said_with_the_reason(study: Study) -> None:
    text = printed(study)
    assert "separates" in line_of(text, "similarity mean dCKA")
    assert "separates" in line_of(text, "dCKA length")
    assert "✗ fails" in line_of(text, "similarity matched plain cka")
    assert "3 of 4 measures separate" in text
    said = " ".join(text.partition("✗ similarity matched plain cka")[2].split())
    assert "random_init-2 0.500 is not below reference-2 0.500" in said
    assert "untrained networks of this shape show as much" in said


def test_what_tests_no_program_is_a_table_of_its_own(study: Study) -> None:
    first, _, second = printed(study).partition(
        "Measures that describe a model and test no program"
    )
    assert "sparsity dead share" in second
    assert "sparsity dead share" not in first
    assert "sparsity bimodality" in first
    assert "0.12" in line_of(second, "sparsity dead share")


def test_each_control_has_a_line_and_one_that_was_left_out_says_so(study: Study) -> None:
    solver = (control("lucky", "random init"), rows(1.0, 0.9, 0.9))
    notes = {control.name: "" for control, _ in [*study, solver]}
    notes |= {"reference-1": "0 wrong", "implemented-9": "interchange training [reached] 0.5"}
    text = printed([*study, solver], notes=notes)
    assert line_of(text, "positive reference-1:").endswith("exact 1.000; 0 wrong")
    assert line_of(text, "negative compiled_other-1:").endswith("exact 0.250")
    assert line_of(text, "negative lucky:").endswith("LEFT OUT: it solves the task")
    assert line_of(text, "missing:").endswith("implemented-9: interchange training [reached] 0.5")
    assert text.count("LEFT OUT") == 1


def test_the_figure_is_a_picture_whether_or_not_anything_was_found(study: Study) -> None:
    drawn = controls_figure("Controls of reverse, 4L", study, separations(study))
    empty = controls_figure("Controls of reverse, 4L", [], [])
    for picture in (drawn, empty):
        assert picture.startswith(b"\x89PNG")
    assert len(drawn) > len(empty)
