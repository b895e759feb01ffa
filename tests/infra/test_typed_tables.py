"""Typed tables: what is written reads back as it was."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from algomatch.infra.errors import FaultError
from algomatch.infra.typed_tables import TypedTable, separated, spread


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A row with two fields of several columns, of which one's pattern fits all of the other's."""

    name: str
    scores: dict[str, float] = field(default_factory=dict, metadata=spread("{}", "/"))
    visible: dict[str, bool] = field(default_factory=dict, metadata=spread("visible/{}"))


def test_a_column_belongs_to_the_field_that_says_most_of_its_name() -> None:
    table = TypedTable(Scored, "scored.csv")
    rows = [
        Scored(name="a", scores={"exact/zero": 0.5}, visible={"zero": True, "mean": False}),
        Scored(name="b", scores={"exact/zero": -1.0}, visible={"zero": False, "mean": True}),
    ]
    content = table.to_csv(rows)
    assert content.decode().startswith("name,exact/zero,visible/zero,visible/mean,format\n")
    assert table.from_csv(content, "scored.csv") == rows


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A row with tuples: separated by blanks, and by what is declared, from format 2 on."""

    name: str
    places: tuple[float, ...] = ()
    words: tuple[str, ...] = ()
    steps: tuple[str, ...] = field(default=(), metadata=separated("; ", since=2))


LISTED = TypedTable(Listed, "listed.csv", version=2)


def test_a_tuple_separated_by_what_is_declared_reads_back_with_its_blanks() -> None:
    rows = [
        Listed(name="a", places=(0.1, -2.0), words=("x", "y"), steps=("length - 1", "max;")),
        Listed(name="b", steps=("opp index",)),
        Listed(name="c"),
    ]
    content = LISTED.to_csv(rows)
    assert content.decode().splitlines()[1] == "a,0.1 -2.0,x y,length - 1; max;,2"
    assert LISTED.from_csv(content, "listed.csv") == rows


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Listed(name="a", words=("x y", "z")), "'x y' in its column words: .* has no ' '"),
        (Listed(name="a", words=("",)), "'' in its column words: an item is not empty"),
        (Listed(name="a", steps=("a; b",)), "'a; b' in its column steps: .* has no '; '"),
    ],
)
def test_an_item_that_would_not_read_back_is_refused(row: Listed, text: str) -> None:
    with pytest.raises(FaultError, match=f"'listed.csv' cannot hold {text}"):
        LISTED.to_csv([row])


@pytest.mark.parametrize("end", [",format\na,b c,1\n", "\na,b c\n"])
def test_items_of_an_earlier_format_are_separated_by_blanks(end: str) -> None:
    rows = LISTED.from_csv(f"name,steps{end}".encode(), "listed.csv")
    assert rows == [Listed(name="a", steps=("b", "c"))]


def test_a_table_with_a_column_twice_is_damaged() -> None:
    with pytest.raises(FaultError, match=r"'t\.csv' is damaged: it has the column 'name' twice"):
        LISTED.from_csv(b"name,name,format\na,b,2\n", "t.csv")
