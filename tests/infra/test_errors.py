"""Error messages name the near and the valid choices; each kind of error has its exit code."""

from __future__ import annotations

import signal

import pytest

from algomatch.infra.errors import FaultError, Interrupted, UserError, one_of


@pytest.mark.parametrize(
    ("value", "choices", "text"),
    [
        ("revers", ["sort", "reverse"], "did you mean 'reverse'? valid: reverse, sort"),
        ("x", ["sort", "reverse"], "valid: reverse, sort"),
        ("reverse", ["reverse"], "did you mean 'reverse'? valid: reverse"),
        ("a", [], "valid: "),
        (5, [10, 9], "valid: 10, 9"),
        (55, ["556"], "did you mean '556'? valid: 556"),
        (None, ["None", "b"], "did you mean 'None'? valid: None, b"),
    ],
)
def test_one_of_names_the_nearest_choice_and_all_in_order(
    value: object, choices: list[object], text: str
) -> None:
    assert one_of(value, choices) == text
    assert one_of(value, iter(choices)) == text


def test_a_prefix_is_told_and_not_compared() -> None:
    assert one_of("sed", ["seed", "solved"], "analysis.") == (
        "did you mean 'analysis.seed'? valid: analysis.seed, analysis.solved"
    )
    assert one_of("foo", ["solved"], "analysis.") == "valid: analysis.solved"


def test_only_one_near_choice_is_suggested() -> None:
    assert one_of("2L_attn", ["2L_attn_only", "1L_attn_only"]).startswith(
        "did you mean '2L_attn_only'? valid: 1L"
    )


def test_exit_codes_tell_a_mistake_from_a_fault_and_from_a_signal() -> None:
    assert (UserError.exit_code, FaultError.exit_code) == (2, 1)
    stopped = Interrupted("stopped; go on", signal.SIGTERM)
    assert (stopped.exit_code, str(stopped)) == (143, "stopped; go on")
    assert Interrupted("", signal.SIGINT).exit_code == 130
