"""Typed tables: CSV whose columns are the annotated fields of a row type, declared once.

A file says in its column `format` by which version of its declaration it was written. Tables of
earlier versions, which do not say it, are read too. None is an empty cell, a float is written so
that it reads back exactly, and `True` and `False` read back as bools.
"""

from __future__ import annotations

import csv
import io
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Generic, TypeVar

import msgspec

from .errors import FaultError

FORMAT = "format"
BLANK = " "
Row = TypeVar("Row")
Cells = Mapping[str, str | None]


def spread(pattern: str, among: str = "") -> dict[str, tuple[str, str]]:
    """Return the metadata of a field with several columns by key, `pattern.format(KEY)` each.

    `among` is a text that the name of such a column holds.
    """
    return {"spread": (pattern, among)}


def separated(separator: str, since: int = 0) -> dict[str, tuple[str, int]]:
    """Return the metadata of a tuple whose items are separated by `separator`, not by a blank.

    In files of a format before `since` they are separated by blanks.
    """
    return {"separated": (separator, since)}


@dataclass(frozen=True)
class _Column:
    """A field as it is written: its name, and how its type is kept in a cell."""

    field: str
    name: str
    needed: bool
    optional: bool
    is_float: bool
    is_tuple: bool
    spread: tuple[str, str] | None
    separated: tuple[str, int]

    def items_of(self, cell: str, version: int) -> list[str]:
        """Return the items of a tuple's cell in a file of a format, which is 0 if it has none."""
        separator, since = self.separated
        return cell.split(separator if version >= since else BLANK) if cell else []

    def key_of(self, name: str) -> str | None:
        """Return the key of a column that belongs to this field; None if it does not."""
        assert self.spread is not None
        start, _, end = self.spread[0].partition("{}")
        if not name.startswith(start) or not name.endswith(end) or self.spread[1] not in name:
            return None
        return name[len(start) : len(name) - len(end)]


class TypedTable(Generic[Row]):
    """The declaration of a table: its row type, a dataclass, and its file's name.

    Args:
        row: Fields are columns. `X | None` may be empty, `tuple[X, ...]` is separated by blanks or
            as its metadata, `separated`, says, and a field with `spread` as its metadata holds
            several columns. A field `name_` is the column `name`.
        name: The name of the file.
        version: Raised where old rows can no longer be read as new ones.
        first: Fields that come first; the others keep their order.
        derived: Properties that are written too, and not read.
        earlier: Turns a row of a file without a format into one of today's columns.
        stamped: Whether the file has the column `format`. Where it has not, its header is exactly
            the columns.
        ending: How lines end.
        digits: Significant digits of floats, which then do not read back exactly; those that are
            not finite are left empty.
    """

    def __init__(
        self,
        row: type[Row],
        name: str,
        *,
        version: int = 1,
        first: Sequence[str] = (),
        derived: Sequence[str] = (),
        earlier: Callable[[Cells], Cells] | None = None,
        stamped: bool = True,
        ending: str = "\n",
        digits: int | None = None,
    ):
        self.row, self.name, self.version = row, name, version
        self._first, self._derived, self._earlier = tuple(first), tuple(derived), earlier
        self._stamped, self._ending, self._digits = stamped, ending, digits
        self._declared: list[_Column] | None = None

    @property
    def _columns(self) -> list[_Column]:
        if self._declared is None:
            hints = typing.get_type_hints(self.row)
            declared = [_column(each, hints[each.name]) for each in fields(self.row)]  # type: ignore[arg-type]
            front = [column for name in self._first for column in declared if column.field == name]
            self._declared = [*front, *(column for column in declared if column not in front)]
        return self._declared

    @property
    def _separators(self) -> dict[str, str]:
        return {column.name: column.separated[0] for column in self._columns}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every file has, in order; columns of `spread` fields come in between."""
        own = [column.name for column in self._columns if column.spread is None]
        return (*own, *self._derived, *[FORMAT] * self._stamped)

    def header(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """Return the columns of a table of these rows."""
        names: list[str] = []
        for column in self._columns:
            if column.spread is None:
                names.append(column.name)
            else:
                keys = dict.fromkeys(key for row in rows for key in getattr(row, column.field))
                names += [column.spread[0].format(key) for key in keys]
        return (*names, *self._derived, *[FORMAT] * self._stamped)

    def values(self, row: Row) -> dict[str, Any]:
        """Return the values of a row by column, typed as its fields are."""
        values: dict[str, Any] = {}
        for column in self._columns:
            value = getattr(row, column.field)
            if column.spread is not None:
                values |= {column.spread[0].format(key): part for key, part in value.items()}
            else:
                values[column.name] = (
                    float(value) if column.is_float and value is not None else value
                )
        values |= {name: getattr(row, name) for name in self._derived}
        return values | {FORMAT: self.version} if self._stamped else values

    def to_csv(self, rows: Iterable[Row]) -> bytes:
        """Return the rows as CSV, which `from_csv` reads back.

        Raises:
            FaultError: an item of a tuple is empty or holds what separates items.
        """
        listed = list(rows)
        header = self.header(listed)
        text = io.StringIO(newline="")
        # Written with \r\n: Python before 3.13 quotes a lone \r only where lines end so.
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(header)
        for row in listed:
            values = self.values(row)
            writer.writerow([self._written(name, values.get(name)) for name in header])
        if self._ending == "\r\n":
            return text.getvalue().encode()
        return _with_ending(text.getvalue(), self._ending).encode()

    def _written(self, name: str, value: Any) -> Any:
        if value is None:
            return ""
        if isinstance(value, tuple):
            separator = self._separators.get(name, BLANK)
            items = [str(self._written(name, item)) for item in value]
            for item in items:
                if not item or separator in item:
                    raise FaultError(
                        f"the table '{self.name}' cannot hold '{item}' in its column {name}: an "
                        f"item is not empty and has no '{separator}'"
                    )
            return separator.join(items)
        if isinstance(value, float):
            if self._digits is None:
                return float(value)
            return f"{value:.{self._digits}g}" if math.isfinite(value) else ""
        return value

    def from_csv(self, content: bytes, source: str) -> list[Row]:
        """Return the rows of a CSV that `to_csv`, or an earlier version, wrote.

        Raises:
            FaultError: it is damaged, lacks a column or is of a later version; `source` names it.
        """
        try:
            lines = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
            header, *rest = list(lines) or [[]]
        except (ValueError, csv.Error) as error:
            raise FaultError(f"the table '{source}' is damaged: {error}") from error
        if twice := [name for place, name in enumerate(header) if name in header[:place]]:
            told = f"it has the column '{twice[0]}' twice"
            raise FaultError(f"the table '{source}' is damaged: {told}")
        if not self._stamped and tuple(header) != self.columns:
            told = f"its columns are {header}, not {list(self.columns)}"
            raise FaultError(f"the table '{source}' is damaged: {told}")
        for number, line in enumerate(rest, start=1):
            if len(line) != len(header):
                told = f"row {number} has {len(line)} columns, not {len(header)}"
                raise FaultError(f"the table '{source}' is damaged: {told}")
        rows: list[Cells] = [dict(zip(header, line, strict=True)) for line in rest]
        if FORMAT in header and self._stamped:
            self._refuse_later(rows, source)
        elif self._earlier is not None:
            rows = [self._earlier(row) for row in rows]
            header = list(rows[0]) if rows else header
        lacking = [column.name for column in self._columns if column.needed]
        lacking = [name for name in lacking if name not in header]
        if lacking and (rows or FORMAT not in header):
            told = f"it has no column {', '.join(lacking)}"
            raise FaultError(f"the table '{source}' is damaged or of another version: {told}")
        try:
            parts = [self._fields_of(row) for row in rows]
            return msgspec.convert(parts, list[self.row], strict=False)
        except msgspec.ValidationError as error:
            raise FaultError(f"the table '{source}' is damaged: {error}") from error

    def _refuse_later(self, rows: Sequence[Cells], source: str) -> None:
        for written in dict.fromkeys(row[FORMAT] for row in rows):
            if not (written or "").isdecimal() or int(written or "") > self.version:
                raise FaultError(
                    f"the table '{source}' has format '{written}', of another version: this one "
                    f"reads formats up to {self.version}"
                )

    def _owner(self, name: str) -> _Column | None:
        """Return the `spread` field of a column: of several, the one that says most of its name."""
        belonging = [
            (len(column.spread[0]), place)
            for place, column in enumerate(self._columns)
            if column.spread is not None and column.key_of(name) is not None
        ]
        return self._columns[max(belonging)[1]] if belonging else None

    def _fields_of(self, row: Cells) -> dict[str, Any]:
        """Return a row's cells by field, as texts that msgspec converts."""
        made: dict[str, Any] = {}
        version = int(row.get(FORMAT) or 0) if self._stamped else self.version
        known = set(self.columns)
        owners = {name: self._owner(name) for name in row if name not in known}
        for column in self._columns:
            if column.spread is not None:
                made[column.field] = {
                    column.key_of(name): row[name]
                    for name, owner in owners.items()
                    if owner is column and row[name]
                }
            elif column.name in row:
                cell = row[column.name]
                empty = not cell and (column.optional or cell is None)
                if column.is_tuple and not empty:
                    made[column.field] = column.items_of(cell or "", version)
                else:
                    made[column.field] = None if empty else cell
        return made


def _column(declared: Any, hint: Any) -> _Column:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    optional, kept = type(None) in parts, [part for part in parts if part is not type(None)]
    assert not (optional and str in kept), f"{declared.name}: an empty text is not None"
    return _Column(
        field=declared.name,
        name=declared.name.removesuffix("_"),
        needed=declared.default is MISSING and declared.default_factory is MISSING,
        optional=optional,
        is_float=float in kept,
        is_tuple=typing.get_origin(kept[0]) is tuple,
        spread=declared.metadata.get("spread"),
        separated=declared.metadata.get("separated", (BLANK, 0)),
    )


def _with_ending(text: str, ending: str) -> str:
    r"""Return CSV of lines that end in \r\n with another ending; texts in cells stay.

    >>> _with_ending('a,b\r\n"x\r\ny",1\r\n', "\n")
    'a,b\n"x\r\ny",1\n'
    """
    parts = text.split('"')  # an even part lies outside of quotes
    parts[::2] = [part.replace("\r\n", ending) for part in parts[::2]]
    return '"'.join(parts)
