"""Tables for the terminal, as narrow as can be."""

from __future__ import annotations

from rich import box
from rich.table import Table


def plain_table(label: str, *numbers: str) -> Table:
    """Return an empty table of labels and numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column(label, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table
