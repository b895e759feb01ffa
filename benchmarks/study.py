"""Compares the tables of a part of the study, made anew, with the committed tables.

Give the folder of the study's tables and the folder of the part's tables. Runs are paired by task,
architecture and seed, which their folders' names say. A run's verdicts depend only on its config,
so they must be equal on one machine, and so must the verdicts over seeds. The exit code is 1 if one
differs. Where the part has fewer seeds of an architecture, its verdict over seeds may differ: the
difference is printed and does not count.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

HYPOTHESES = ("H1", "H2", "H3")
SAME = ("step", "exact", "solved", *HYPOTHESES)


def table(path: Path) -> list[dict[str, str]]:
    """Return a table's rows."""
    return list(csv.DictReader(path.read_text().splitlines()))


def name_of(row: dict[str, str]) -> str:
    """Return a run's name without the number of its sweep's cell."""
    return row["run"].partition("-")[2]


def of_runs(whole: Path, part: Path) -> tuple[int, list[str]]:
    """Return the number of runs in both, and a line for each value that differs."""
    known = {name_of(row): row for row in table(whole / "runs.csv")}
    rows = table(part / "runs.csv")
    lines = [f"{name_of(row)}: not in {whole}" for row in rows if name_of(row) not in known]
    both = [(row, known[name_of(row)]) for row in rows if name_of(row) in known]
    for row, theirs in both:
        lines += [
            f"{name_of(row)}: {name} {row[name]}, in all of it {theirs[name]}"
            for name in SAME
            if row[name] != theirs[name]
        ]
    return len(both), lines


def over_seeds(whole: Path, part: Path) -> tuple[int, list[str], list[str]]:
    """Return the number of verdicts over seeds in both, and a line for each that differs.

    First the verdicts over equally many seeds, then those over fewer.
    """
    groups = {name_of(row): row["group"] for row in table(whole / "runs.csv")}
    same = {row["group"]: groups.get(name_of(row)) for row in table(part / "runs.csv")}
    known = {(row["group"], row["hypothesis"]): row for row in table(whole / "verdicts.csv")}
    same_seeds, fewer, both = list[str](), list[str](), 0
    for row in table(part / "verdicts.csv"):
        theirs = known.get((same.get(row["group"]) or "", row["hypothesis"]))
        if theirs is None:
            continue
        both += 1
        if theirs["verdict"] != row["verdict"]:
            lines = same_seeds if row["seeds"] == theirs["seeds"] else fewer
            lines.append(
                f"{row['group']}, {row['hypothesis']}: {row['verdict']} ({row['by_verdict']}), "
                f"in all of it {theirs['verdict']} ({theirs['by_verdict']})"
            )
    return both, same_seeds, fewer


def main(arguments: Sequence[str]) -> int:
    """Compare the tables and print the differences."""
    if len(arguments) != 2:
        print("usage: python benchmarks/study.py TABLES_OF_ALL TABLES_OF_A_PART")
        return 2
    whole, part = map(Path, arguments)
    runs, differing = of_runs(whole, part)
    print(f"{runs} runs in both: {len(differing)} of their steps, accuracies and verdicts differ")
    print("".join(f"  {line}\n" for line in differing), end="")
    verdicts, others, fewer = over_seeds(whole, part)
    print(
        f"{verdicts} verdicts over seeds in both: {len(others)} differ over the same seeds, "
        f"{len(fewer)} over fewer"
    )
    print("".join(f"  {line}\n" for line in [*others, *fewer]), end="")
    return 1 if differing or others or not runs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
