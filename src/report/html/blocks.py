"""The building blocks of a page: sections of blocks, which the template renders as HTML.

All texts here are plain: the template escapes them. Only pictures hold markup, and only markup
that this program drew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, its sort key and its background shade.

    `shade` is from 0 to 1; negative values use the colour of damage. `boxed` draws a frame. `hint`
    is read out after the text.
    """

    text: str
    sort: float | str | None = None
    shade: float | None = None
    boxed: bool = False
    hint: str = ""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table. The columns in `numbers` are right-aligned. First cells are row headers."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: Sequence[int] = ()
    sortable: bool = False
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph; `tone` is `plain`, `note` (small), or `warning`."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Missing:
    """What was not measured, and the command that measures it."""

    kind: ClassVar[str] = "missing"
    what: str
    command: str = ""


@dataclass(frozen=True)
class LegendEntry:
    """An entry of a chart's legend: its label, the name of its colour and its dash."""

    words: str
    colour: str
    dash: str = "solid"
    mark: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart that Plotly draws when it comes into view, with our own legend below."""

    kind: ClassVar[str] = "chart"
    name: str
    title: str
    alt: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    legend: Sequence[LegendEntry] = ()
    height: int = 340


@dataclass(frozen=True)
class Picture:
    """A picture: SVG markup, or the data URI of a PNG."""

    kind: ClassVar[str] = "picture"
    alt: str
    caption: str
    svg: str = ""
    uri: str = ""


@dataclass(frozen=True)
class Code:
    """Lines of code."""

    kind: ClassVar[str] = "code"
    label: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded until opened."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Diagram:
    """Matches of a program's cuts (rows) at a model's sites (columns), one frame per step."""

    kind: ClassVar[str] = "diagram"
    name: str
    caption: str
    cuts: Sequence[str]
    sites: Sequence[str]
    frames: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Patterns:
    """Attention of every head, drawn for one view at a time: an average or a single input."""

    kind: ClassVar[str] = "patterns"
    name: str
    heads: Sequence[tuple[str, Sequence[str]]]  # name, and lines that explain the head
    views: Sequence[Mapping[str, Any]]
    caption: str


@dataclass(frozen=True)
class Judgement:
    """A hypothesis with its verdict, a `Hypothesis`."""

    kind: ClassVar[str] = "judgement"
    of: Any


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; `lead` describes it in a sentence or two."""

    name: str
    title: str
    lead: str
    blocks: Sequence[Any] = ()


@dataclass(frozen=True)
class Page:
    """A whole page: title, facts, warnings, the verdicts on top, and sections."""

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    warnings: Sequence[str]
    cards: Sequence[Any]
    sections: Sequence[Section]
    data: dict[str, Any] = field(default_factory=dict)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as text, or a dash if there is none.

    >>> number(0.5), number(None), number(float("nan"))
    ('0.500', '-', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return an interval as text, empty if there is none.

    >>> interval(0.25, 0.5, 2)
    '0.25 to 0.50'
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"{low:.{digits}f} to {high:.{digits}f}"


def cell(value: float | None, digits: int = 3, **more: Any) -> Cell:
    """Return a cell with a number."""
    return Cell(number(value, digits), sort=value, **more)
