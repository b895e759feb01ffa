"""Typed tables: what is written reads back as it was."""

from __future__ import annotations

from dataclasses import dataclass, field

from algomatch.infra.typed_tables import TypedTable, spread


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
