"""A sweep in the terminal: its runs, and their results over the seeds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...config.naming import departures, group_name, group_settings
from ...config.printed_commands import command, quoted
from ...infra.errors import FaultError, UserError
from ...infra.files import last_words
from ...runs import checkpoints
from ...runs.run_folder import RunFolder
from ...runs.sweep_cells import Sweep, SweepCell, SweepOutcome

SHOWN = {"accuracy/all/exact": "exact", "accuracy/held_out/exact": "held out"}
FAILED_SHOWN = 5  # the most failures that are shown, each with the end of its log


def print_cells(sweep: Sweep, console: Console) -> None:
    """Print a line for each run: its index, its settings and its state."""
    outcome = SweepOutcome(sweep, {}, None)
    for cell, what in zip(sweep.cells, _names(sweep), strict=True):
        name = f"{what} seed={cell.config.seed}"
        console.print(
            f"{cell.index:>4}  {name}  ({outcome.state(cell)})",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    count = len(sweep.cells)
    console.print(
        f"{count} run{'s' * (count != 1)}, in {sweep.folder}", markup=False, highlight=False
    )


def print_sweep(outcome: SweepOutcome, console: Console) -> None:
    """Print the runs of a sweep over their seeds: how many finished, with their accuracies."""
    sweep, groups = outcome.sweep, defaultdict[str, list[SweepCell]](list)
    names = dict[str, str]()
    for cell, name in zip(sweep.cells, _names(sweep), strict=True):
        settings = repr(group_settings(cell.config))
        names[settings] = name
        groups[settings].append(cell)
    table = Table(
        title=escape(str(sweep.folder)), title_justify="left", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("runs", overflow="fold")
    table.add_column("finished", justify="right", no_wrap=True)
    for label in (*SHOWN.values(), "last step"):
        table.add_column(label, justify="right", no_wrap=True)
    by_cell = {cell.index: _end(cell) for cell in sweep.cells if cell.finished}
    for settings, cells in groups.items():
        ends = [by_cell[cell.index] for cell in cells if cell.index in by_cell]
        values = [_cell([end[key] for end in ends if key in end]) for key in (*SHOWN, "step")]
        table.add_row(escape(names[settings]), f"{len(ends)} of {len(cells)}", *values)
    console.print(table)
    states = Counter(map(outcome.state, sweep.cells))
    lines = [
        ", ".join(f"{count} {state}" for state, count in states.items())
        + "; mean (lowest..highest)"
    ]
    gone = [cell.folder.name for cell in sweep.cells if by_cell.get(cell.index) == {}]
    if gone:
        lines.append(f"! damaged, or its checkpoints are gone: {', '.join(gone)}")
    lines += [f"! {cell.folder.name}: {last_words(cell.log)}" for cell in outcome.failed][
        :FAILED_SHOWN
    ]
    if states["finished"]:
        lines += [
            f"compare   {command('compare', sweep.folder)}",
            f"match     {command('match', sweep.folder)}",
        ]
        offline = any(cell.config.tracking.mode == "offline" for cell in sweep.cells)
        lacking = [why for cell in sweep.cells if (why := _not_uploaded(cell))]
        if lacking:
            lines.append(f"! {len(lacking)} were not uploaded completely: {lacking[0]}")
        if offline:
            lines.append(f"browse    {quoted('wandb', 'leet', sweep.folder / 'wandb')}")
        if offline or lacking:
            lines.append(f"upload    {command('log', sweep.folder)}")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _names(sweep: Sweep) -> list[str]:
    """Return the name of each run without its seed and without settings that all runs share."""
    configs = [cell.config for cell in sweep.cells]
    choices = [departures(config) for config in configs]
    shared = {key for key, value in choices[0].items() if all(o.get(key) == value for o in choices)}
    names = [group_name(config, shared) for config in configs]
    settings, alike = list(map(group_settings, configs)), defaultdict[str, list[int]](list)
    for place, name in enumerate(names):
        alike[name].append(place)
    for places in alike.values():  # different programs of the user can share a name
        several = [settings[place] for place in places]
        differing = [key for key in several[0] if len({repr(s[key]) for s in several}) > 1]
        for place in places:
            told = "".join(f" {key}={settings[place][key]!r}" for key in differing)
            names[place] += told
    return names


def _end(cell: SweepCell) -> dict[str, float]:
    """Return the shown values of a finished run; empty if its record is damaged or gone."""
    try:
        last = RunFolder.open(cell.folder).checkpoint_folders()[-1]
        values = {row.key: row.value for row in checkpoints.load_rows(last)}
    except (IndexError, UserError, FaultError):
        return {}
    return {key: values[key] for key in SHOWN if key in values} | {
        "step": float(checkpoints.step_of(last))
    }


def _not_uploaded(cell: SweepCell) -> str | None:
    """Return what was not uploaded of a finished run, as recorded at its end."""
    with suppress(UserError):
        return (RunFolder.open(cell.folder).finished() or {}).get("not_uploaded")
    return None


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high, mean = min(values), max(values), fmean(values)
    digits, of_range = (0, 0) if low > 1 else (3, 2)
    if low == high:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({low:.{of_range}f}..{high:.{of_range}f})"
