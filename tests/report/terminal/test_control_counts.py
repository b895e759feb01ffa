"""The table and the CSV of controls that were matched."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from algomatch.analysis.matching.known_answers import CHECKS, KnownAnswer, with_earlier
from algomatch.report.terminal.known_answer_table import print_checked, print_counts

ONE = KnownAnswer("sort", "random_init-1", "negative", "sort", 0.01, "does not solve", 0.02, True)
ROWS = [
    KnownAnswer("sort", "reference", "positive", "sort", 1.0, "follows the program", 0.97, True),
    ONE,
    replace(ONE, control="random_init-12", match=0.31),
    replace(ONE, control="trained_on_hist", match=0.2),
    replace(ONE, control="trained_on_rank", match=0.1, right=False, verdict="undecided"),
    replace(ONE, control="by_counting", kind="decoy", match=1.0, right=None, note="it has all"),
]


def printed(show: Callable[..., None], *given: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    show(*given, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_controls_that_differ_in_seed_or_task_are_one_line_with_their_range() -> None:
    text = printed(print_checked, "sort", ROWS)
    (inits,) = [line for line in text.splitlines() if "random_init (2)" in line]
    assert "0.020..0.310" in inits
    assert "does not solve 2" in inits
    (others,) = [line for line in text.splitlines() if "trained on other tasks (2)" in line]
    assert "1 WRONG" in others
    assert "does not solve 1, undecided 1" in others


def test_counts_say_what_lies_between_and_name_every_exception() -> None:
    text = " ".join(printed(print_counts, ROWS).split())
    assert "1 of 1 positives follow their program" in text
    assert "3 of 4 negatives realise no inner cut" in text
    assert "a positive on a testable cut: 0.970 (sort: reference); highest of a negative: " in text
    assert "0.310 (sort: random_init-12)" in text
    assert "4 negatives and decoys were judged" in text
    assert "exception: sort: negative trained_on_rank, program sort: undecided, match 0.100" in text
    assert "not judged: sort: 1 rows: it has all" in text


def test_rows_of_other_tasks_stay_and_those_of_the_same_are_replaced() -> None:
    other = replace(ONE, task="hist", note='a "quoted", note')
    both = with_earlier([other], [ONE])
    assert both == [ONE, other]
    replaced = replace(ONE, match=0.5)
    again = with_earlier([replaced], both)
    assert again == [other, replaced]
    assert CHECKS.from_csv(CHECKS.to_csv(again), "match-controls.csv") == again
