"""The tables of docs/study.md, from the CSV files in docs/study.

    python docs/study_tables.py           # printed, as Markdown
    python docs/study_tables.py --write   # put in their places in docs/study.md

The files are what `make study` leaves in runs/study-results/tables.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

Row = dict[str, str]

TABLES = Path(__file__).parent / "study"
PAGE = Path(__file__).parent / "study.md"
PLACE = "<!-- table: {} -->\n\n"  # stands before each table; an empty line ends the table
TASKS = ("reverse", "reverse_fixed", "sort", "hist", "double_hist", "most_freq", "sort_freq")
MODELS = ("1L", "1L_attn_only", "2L", "2L_attn_only", "4L")
LN, NONE = " model.normalization=LN", " model.normalization=none"
HYPOTHESES = ("H1", "H2", "H3")
STEPS = {  # the measures whose emergence is shown
    "accuracy/all/exact": "solved",
    "attention/model/matched_overlap": "attention in common",
    "similarity/model/mean_deconfounded_cka": "dCKA, mean of the variables",
}


def rows(name: str) -> list[Row]:
    """Return a table's rows, with `model` set to the short name used on the page."""
    table = list(csv.DictReader((TABLES / f"{name}.csv").read_text().splitlines()))
    for row in table:
        row["model"] = row["architecture"].replace(LN, "").replace(NONE, ", no LN")
    return table


def line(cells: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def by_task(cell: Callable[[str, str], str], tasks: Sequence[str] = TASKS) -> str:
    """Return a table of architectures by tasks, without empty rows."""
    lines = [line(["", *(f"`{task}`" for task in tasks)]), line(["---"] * (1 + len(tasks)))]
    for model in (*MODELS, *(f"{model}, no LN" for model in MODELS)):
        cells = [cell(task, model) for task in tasks]
        if any(cells):
            lines.append(line([model, *(text or "-" for text in cells)]))
    return "\n".join(lines)


def of(name: str, **wanted: str) -> Callable[[str, str], list[Row]]:
    """Return a function that finds a table's rows for a task and a model."""
    kept = [row for row in rows(name) if all(row[key] == text for key, text in wanted.items())]
    return lambda task, model: [
        row for row in kept if row["task"] == task and row["model"] == model
    ]


def solved() -> str:
    """Return the table of how many runs solve each task."""
    find = of("runs")

    def cell(task: str, model: str) -> str:
        runs = find(task, model)
        return f"{sum(run['solved'] == 'yes' for run in runs)}/{len(runs)}" if runs else ""

    return by_task(cell)


def lengths() -> str:
    """Return exact accuracy by length, for architectures that some seed does not solve."""
    find, runs = of("lengths", split="all"), rows("runs")
    failing = {(run["task"], run["model"]) for run in runs if run["solved"] != "yes"}
    longest = max(int(row["length"]) for row in rows("lengths"))
    heads = ["task", "architecture", *(str(n) for n in range(1, longest + 1))]
    lines = [line(heads), line(["---"] * len(heads))]
    for task in TASKS:
        for model in (*MODELS, *(f"{model}, no LN" for model in MODELS)):
            if (task, model) in failing:
                by_length = {int(row["length"]): row for row in find(task, model)}
                cells = [
                    f"{float(by_length[n]['mean']):.2f}" if n in by_length else "-"
                    for n in range(1, longest + 1)
                ]
                lines.append(line([f"`{task}`", model, *cells]))
    return "\n".join(lines)


def verdicts(hypothesis: str) -> str:
    """Return a hypothesis's verdicts over seeds, with counts where seeds differ."""
    find = of("verdicts", hypothesis=hypothesis)

    def cell(task: str, model: str) -> str:
        if not (groups := find(task, model)):
            return ""
        group = groups[0]
        each = group["by_verdict"].split("; ")
        return group["verdict"] if len(each) == 1 else f"{group['verdict']} ({', '.join(each)})"

    return by_task(cell)


def headline(key: str, digits: int = 2) -> str:
    """Return a measure's mean over seeds, its interval, and the control's mean if there is one."""
    find = of("headlines", headline=key)

    def cell(task: str, model: str) -> str:
        groups = [row for row in find(task, model) if row["mean"]]
        if not groups:
            return ""
        group = groups[0]
        ends = f" {ends_of(group, digits)}" if group["low"] else ""
        control = max((float(r["control_mean"]) for r in groups if r["control_mean"]), default=None)
        beside = "" if control is None else f"; {control:.{digits}f}"
        mark = " ✗" if group["fails_controls"] not in ("", "controls not run") else ""
        return f"{float(group['mean']):.{digits}f}{ends}{beside}{mark}"

    return by_task(cell)


def ends_of(row: Row, digits: int) -> str:
    """Return an interval as text."""
    return f"({float(row['low']):.{digits}f} to {float(row['high']):.{digits}f})"


def circuits() -> str:
    """Return the share of inner edges that carry a variable: model, reference, random init."""
    find = of("circuits", found="yes")

    def share(searches: Sequence[Row], whose: str) -> str:
        named = [float(row[f"{whose}_named"]) / float(row[f"{whose}_inner"])
                 for row in searches if row[f"{whose}_inner"] not in ("", "0")]  # fmt: skip
        return f"{fmean(named):.2f}" if named else "-"

    def cell(task: str, model: str) -> str:
        searches = find(task, model)
        edges = [float(row["edges"]) / float(row["of_edges"]) for row in searches]
        if not searches:
            return ""
        shares = [share(searches, whose) for whose in ("model", "reference", "random_init")]
        return f"{fmean(edges):.2f}; {', '.join(shares)}"

    return by_task(cell)


def programs() -> str:
    """Return each program's verdicts over the architectures and seeds."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for row in rows("programs"):
        here = counts.setdefault((row["task"], row["program"]), Counter())
        for each in filter(None, row["by_verdict"].split("; ")):
            verdict, _, count = each.rpartition(" ")
            here[verdict] += int(count)
    lines = [line(["task", "program", "runs by verdict"]), line(["---"] * 3)]
    for task in TASKS:
        for (name, program), here in counts.items():
            if name == task:
                told = ", ".join(f"{verdict} {count}" for verdict, count in here.most_common())
                lines.append(line([f"`{task}`", f"`{program}`", told]))
    return "\n".join(lines)


def scores() -> str:
    """Return the best program's mean score over the seeds, with the lowest and the highest."""
    find = of("programs")

    def cell(task: str, model: str) -> str:
        scored = [row for row in find(task, model) if row["mean"]]
        if not scored:
            return ""
        best = max(scored, key=lambda row: float(row["mean"]))
        lowest, highest = float(best["lowest"]), float(best["highest"])
        return f"{float(best['mean']):.2f} ({lowest:.2f} to {highest:.2f})"

    return by_task(cell)


def emergence() -> str:
    """Return the mean step at which each measure emerged, and in how many seeds."""
    finders = {key: of("emergence", measure=key) for key in STEPS}

    def cell(task: str, model: str) -> str:
        cells = []
        for find in finders.values():
            emerged = find(task, model)
            if not emerged or not emerged[0]["step_mean"]:
                cells.append("-")
            else:
                cells.append(f"{float(emerged[0]['step_mean']):.0f}")
        return "" if not find(task, model) else ", ".join(cells)

    return by_task(cell)


def neurons() -> str:
    """Return the share of neurons explained: model, random init."""
    find = of("explained")

    def mean(models: Sequence[Row], key: str) -> str:
        values = [float(row[key]) for row in models if row[key]]
        return f"{fmean(values):.2f}" if values else "-"

    def cell(task: str, model: str) -> str:
        models = [row for row in find(task, model) if row["neurons_explained"]]
        keys = ("neurons_explained", "random_init_explained")
        return ", ".join(mean(models, key) for key in keys) if models else ""

    return by_task(cell)


def all_tables() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every table."""
    yield "solved", solved()
    yield "lengths", lengths()
    for name in HYPOTHESES:
        yield name, verdicts(name)
    yield "H1: bimodal share", headline("sparsity/model/h1_bimodal_share")
    yield "H2: attention", headline("attention/model/matched_overlap")
    yield "H2: circuits", circuits()
    yield "H3: programs", programs()
    yield "H3: scores", scores()
    yield "emergence", emergence()
    yield "deletion", headline("ablation/model/redundant_share")
    yield "neurons", neurons()


def with_tables(page: str) -> str:
    """Return the page with every table in its place, made from the current files.

    Raises:
        ValueError: the page has a place for an unknown table.
    """
    made = dict(all_tables())
    places = re.findall(r"<!-- table: (.*?) -->", page)
    if unknown := set(places) - set(made):
        raise ValueError(f"no table is called {', '.join(sorted(unknown))}")
    for title in places:
        before = PLACE.format(title)
        head, _, after = page.partition(before)
        rest = re.sub(r"\A(\|[^\n]*\n)*\n*", "", after)  # without the old table
        page = f"{head}{before}{made[title]}\n\n{rest}"
    return page


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(with_tables(PAGE.read_text()))
    else:
        for title, text in all_tables():
            print(f"## {title}\n\n{text}\n")
