"""Progress of a long command: on a terminal, elsewhere, and switched off."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from algomatch.infra.errors import FaultError
from algomatch.infra.progress import Steps, lasting, stage


def lines_of(steps: Steps, out: io.StringIO, seconds: float = 5.0) -> list[str]:
    """Wait for output and return it."""
    until = time.monotonic() + seconds
    while not out.getvalue() and time.monotonic() < until:
        time.sleep(0.01)
    return out.getvalue().splitlines()


def test_without_a_terminal_a_line_says_what_is_done_and_what_is_left() -> None:
    out = io.StringIO()
    with Steps(Console(file=out, width=40), "circuits", 4, every=0.05) as steps:
        with steps.part("first"):
            pass
        with steps.part("acdc, [mean]", 2) as told:
            told(3, 12)
            line = lines_of(steps, out)[0]
    assert line.startswith("circuits: 1 of 4, acdc, [mean] 3 of 12, ")
    assert "gone" in line
    assert steps.done == 3


def test_the_remaining_time_goes_by_what_was_done_here() -> None:
    with Steps(None, "runs", 10, start=5) as steps:
        steps._begun -= 60
        assert steps._left() == ""
        steps.to(7)
        assert steps._left() == "about 1.5 min"


def test_a_terminal_has_a_bar_and_what_failed_leaves_none() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    steps = Steps(console, "matching", 2)

    def fail() -> None:
        with steps, steps.part("step 10") as told:
            told(1, 2)
            assert steps.done == 0.5
            raise FaultError("no space")

    with pytest.raises(FaultError):
        fail()
    assert "matching" in out.getvalue()
    assert steps._ended.is_set()


def test_stages_of_a_part_follow_each_other() -> None:
    seen: list[tuple[int, int]] = []
    for number in (0, 1):
        stage(lambda done, total: seen.append((done, total)), number, 2)(5, 10)
    assert [done / total for done, total in seen] == [0.25, 0.75]


def test_items_are_parts() -> None:
    with Steps(None, "programs", 3) as steps:
        assert [(item, steps.done) for item in steps.each("abc", str)] == [
            ("a", 0), ("b", 1), ("c", 2),
        ]  # fmt: skip
    assert lasting(59.4) == "59 s"
