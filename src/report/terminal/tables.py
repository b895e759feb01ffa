"""Tables and text for the terminal, as narrow as possible."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PATH = 20  # a word with a slash of at least so many characters counts as a path
WORD = re.compile(r"[^\s`]*`[^`\n]+`\S*|\S+")  # a command in backticks is one word


def plain_table(label: str, *numbers: str) -> Table:
    """Return an empty table with a column of labels and columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column(label, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def legend_table(lines: Iterable[tuple[str, str]]) -> Table:
    """Return a table of terms and their meanings."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for term, meaning in lines:
        table.add_row(escape(term), escape(meaning))
    return table


def say(text: str, console: Console) -> None:
    """Print a text in lines that fit the terminal, without breaking paths and commands.

    Without a terminal and without a given width, lines are not wrapped.
    """
    given = console.is_terminal or console._width is not None  # by COLUMNS, or by the caller
    for line in wrapped(text, console.width) if given else text.split("\n"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def wrapped(text: str, width: int) -> list[str]:
    """Wrap a text to lines of at most `width` cells; paths and commands can make a line longer.

    >>> wrapped("  say `algomatch match runs/RUN` of it", 12)
    ['  say `algomatch match runs/RUN`', '  of it']
    """
    lines = list[str]()
    for line in text.split("\n"):
        if cell_len(line) <= width:
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        piece = ""
        for word in WORD.findall(line):
            short = "`" not in word and ("/" not in word or len(word) < PATH)
            if piece and short and cell_len(f"{indent}{piece} {word}") > width:
                lines.append(indent + piece)
                piece = word
            else:
                piece = f"{piece} {word}".lstrip()
        lines.append(indent + piece)
    return lines
