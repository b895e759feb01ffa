"""A benchmark's result: a claim, its measurements and its bar, and a table of results."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

PAIRS = 7


@dataclass(frozen=True)
class Result:
    """A claim, its ratio in each pair of measurements, and its bar."""

    claim: str
    values: list[float]
    bar: float
    unit: str

    @property
    def kept(self) -> bool:
        """Whether the median keeps the bar."""
        return statistics.median(self.values) <= self.bar


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def show(results: Iterable[Result], console: Console) -> int:
    """Print the claims; return 0 if every bar is kept, else 1."""
    results = list(results)
    table = Table("claim", "median", "lowest..highest", "bar", "unit", "", title="Benchmarks")
    for result in results:
        values = result.values
        table.add_row(
            result.claim,
            f"{statistics.median(values):.3g}",
            f"{min(values):.3g}..{max(values):.3g}",
            f"{result.bar:g}",
            result.unit,
            "kept" if result.kept else "MISSED",
        )
    console.print(table)
    return 0 if all(result.kept for result in results) else 1
