"""Which measures separate positives from negatives, on hand-made rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algomatch.analysis.controls.known_models import (
    DECOY,
    NEGATIVE,
    POSITIVE,
    Control,
    ControlModel,
    NotMadeError,
)
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures import separation
from algomatch.analysis.measures.separation import (
    SEPARATIONS,
    Separation,
    failing,
    qualifies,
    separations,
)
from algomatch.infra.errors import FaultError
from algomatch.models.training import Progress

CKA, PLAIN = "similarity/mean_deconfounded_cka", "similarity/matched_plain_cka"
CKA_KEY, PLAIN_KEY = "similarity/model/mean_deconfounded_cka", "similarity/model/matched_plain_cka"
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
Study = list[tuple[Control, list[Measurement]]]


def control(name: str, kind: str, group: str = "") -> Control:
    def make(progress: Progress) -> ControlModel:
        raise NotMadeError("it is made of rows alone")

    return Control(name, kind, group or name, make)


def rows(exact: float | None, **values: float) -> list[Measurement]:
    accuracy = [] if exact is None else [Measurement("accuracy/exact", "all", exact, 10)]
    names = {"cka": CKA, "plain": PLAIN}
    return [*accuracy, *(Measurement(names[name], "model", v, 10) for name, v in values.items())]


STUDY: Study = [
    (control("reference", POSITIVE), rows(1, cka=1.0, plain=1.0)),
    (control("noised-1", POSITIVE, "noised"), rows(1, cka=0.8, plain=0.9)),
    (control("random_init-1", NEGATIVE, "random init"), rows(0.2, cka=0.1, plain=0.95)),
    (control("compiled_sort", NEGATIVE, "compiled other"), rows(0.1, cka=0.3, plain=0.5)),
    (control("by_counting", DECOY, "decoy"), rows(1, cka=0.0, plain=2.0)),
]


def by_key(study: Study) -> dict[str, Separation]:
    return {row.key: row for row in separations(study)}


def test_the_gap_is_between_the_lowest_positive_and_the_highest_negative() -> None:
    table = by_key(STUDY)
    assert table[CKA_KEY] == Separation(CKA_KEY, 0.8, "noised-1", 0.3, "compiled_sort", "")
    assert table[CKA_KEY].gap == pytest.approx(0.5)
    assert table[CKA_KEY].separates
    plain = table[PLAIN_KEY]
    assert (plain.positive, plain.negative) == ("noised-1", "random_init-1")
    assert plain.gap == pytest.approx(-0.05)
    assert not plain.separates
    assert plain.why == (
        "untrained networks of this shape show as much; "
        "the same program with a little noise shows less"
    )
    assert set(table) == {CKA_KEY, PLAIN_KEY}  # accuracy does not measure the program


@pytest.mark.parametrize(
    ("group", "why"),
    [
        ("random init", "untrained networks of this shape show as much"),
        ("shuffled labels", "a network that learns labels by heart shows as much"),
        ("trained other", "a network trained on another task shows as much"),
        ("compiled other", "a compiled program of another task shows as much"),
    ],
)
def test_why_a_measure_fails_is_which_negative_shows_as_much(group: str, why: str) -> None:
    study = [*STUDY[:1], (control("one", NEGATIVE, group), rows(0.5, cka=1.0))]
    assert by_key(study)[CKA_KEY].why == why
    assert failing(separations(study)) == {CKA_KEY: why}  # no negative has the other measure


@pytest.mark.parametrize(
    ("group", "why"),
    [
        ("implemented", "a learned model can run the program and show less"),
        ("reparametrised", "the same program in another basis shows less"),
        ("noised", "the same program with a little noise shows less"),
    ],
)
def test_why_a_measure_fails_is_which_positive_shows_less_too(group: str, why: str) -> None:
    study = [(control("one", POSITIVE, group), rows(1, cka=0.2)), *STUDY]
    row = by_key(study)[CKA_KEY]
    assert (row.positive, row.negative) == ("one", "compiled_sort")
    assert row.why == f"a compiled program of another task shows as much; {why}"


def test_equal_values_are_no_gap() -> None:
    study = [*STUDY[:1], (control("same", NEGATIVE), rows(0.5, cka=1.0))]
    (row,) = (row for row in separations(study) if row.key == CKA_KEY)
    assert row.gap == 0
    assert not row.separates
    assert failing([row]) == {CKA_KEY: "controls overlap"}  # its group has no reason of its own


def test_a_control_that_is_not_what_it_is_meant_to_be_is_left_out() -> None:
    unsolved = (control("half_reference", POSITIVE), rows(0.99, cka=0.0))
    solver = (control("lucky_init", NEGATIVE), rows(1, cka=1.0))
    assert not qualifies(*unsolved)
    assert not qualifies(*solver)
    assert qualifies(control("unmeasured", POSITIVE), rows(None, cka=1.0))
    assert not qualifies(control("half_decoy", DECOY), rows(0.5))
    assert by_key([unsolved, *STUDY, solver]) == by_key(STUDY)


def test_a_decoy_decides_nothing() -> None:
    assert by_key(STUDY[:-1]) == by_key(STUDY)


def test_a_missing_value_counts_as_nothing() -> None:
    study = [*STUDY, (control("silent", POSITIVE), rows(1, plain=1.0))]
    row = by_key(study)[CKA_KEY]
    assert (row.lowest_positive, row.positive) == (0, "silent")
    assert not row.separates
    negative = [*STUDY, (control("silent", NEGATIVE), rows(0.1))]
    assert by_key(negative) == by_key(STUDY)


def test_what_has_nothing_that_a_measure_is_taken_of_decides_nothing() -> None:
    """For example, a network without MLPs has no neurons."""
    without = (control("no neurons", POSITIVE), rows(1))
    assert not separation.tested(without[1])
    assert by_key([*STUDY, without]) == by_key(STUDY)


@pytest.mark.parametrize("kind", [POSITIVE, NEGATIVE])
def test_one_side_alone_gives_no_verdict(kind: str) -> None:
    assert separations([pair for pair in STUDY if pair[0].kind == kind]) == []
    assert separations([]) == []


def test_what_is_tested_are_headlines_that_are_meant_to_speak_for_the_program() -> None:
    values = separation.tested([
        Measurement("accuracy/exact", "all", 1.0, 10),
        Measurement(CKA, "model", 0.7, 10),
        Measurement(f"{CKA}_random_init", "model", 0.2, 10),
        Measurement("similarity/deconfounded_cka", "length@blocks.0.hook_resid_post", 0.7, 10),
        Measurement("sparsity/bimodality", "model", 0.6, 10),
        Measurement("sparsity/bimodality", "reference:model", 0.9, 10),
        Measurement("sparsity/dead_share", "model", 0.1, 10),
    ])  # fmt: skip
    assert values == {CKA_KEY: 0.7, "sparsity/model/bimodality": 0.6}


@given(
    st.lists(
        st.builds(
            Separation,
            st.text("abc/_", min_size=1, max_size=9),
            st.floats(-2, 2),
            TEXTS,
            st.floats(-2, 2),
            st.sampled_from(["random_init-1", 'a "quoted", name']),
            st.sampled_from(["", "because; it is, so"]),
        ),
        max_size=4,
    )
)
def test_a_table_reads_back_exactly(table: list[Separation]) -> None:
    assert SEPARATIONS.from_csv(SEPARATIONS.to_csv(table), "separation.csv") == table


def test_a_table_says_the_verdict_too() -> None:
    lines = SEPARATIONS.to_csv(separations(STUDY)).decode().splitlines()
    assert lines[0].startswith("key,lowest_positive,")
    assert lines[0].endswith("gap,separates,format")
    assert lines[1].startswith(f"{CKA_KEY},0.8,noised-1,0.3,compiled_sort,")
    assert lines[1].endswith(",0.5,True,1")
    assert ",False,1" in lines[2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: table.replace(b"0.8", b"o.8"),
        lambda table: table.replace(b"lowest_positive", b"lowest"),
        lambda table: table[: table.index(b"noised-1")],
        lambda table: table[: table.index(b",compiled_sort")],
        lambda table: table[: table.index(b",compiled_sort") + len(b",compiled_sort")],
        lambda table: b"",
        lambda table: table + b"\xff\n",
        lambda table: table + b"similarity/model/x,True\r\n",
    ],
)
def test_a_damaged_table_is_one_line_that_names_it(damage: object) -> None:
    table = SEPARATIONS.to_csv(separations(STUDY))
    assert callable(damage)
    with pytest.raises(FaultError, match=r"^the table 'here\.csv' is damaged") as refused:
        SEPARATIONS.from_csv(damage(table), "here.csv")
    assert "\n" not in str(refused.value)
