"""What a run or a checkpoint amounts to, as a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..analysis.ablation import KINDS
from ..analysis.measurements import Measurement
from ..analysis.suite import declared_metrics
from ..tracking.run_folder import RunFolder
from ..tracking.wandb_log import WandbLog

WORST_SHOWN = 3
LEGEND = """\
exact accuracy  share of inputs with the whole output right
dCKA            deconfounded CKA of a program variable with the residual stream,
                at its best site; compare with random init, not with 1
blocks...       change of exact accuracy with that output put to zero or mean
neurons         of the MLPs; reference: those of the compiled program
"""


def print_summary(folder: RunFolder, wandb_log: WandbLog | None, console: Console) -> None:
    """Print the last checkpoint's table, and where everything is.

    Raises:
        UserError: the run's checkpoints are gone.
    """
    rows, config = folder.last_rows(), folder.config
    title = f"{config.model.name} on {config.task.name}, seed {config.seed}, step {rows[0].step}"
    console.print(summary_table(rows, title))
    console.print(LEGEND, soft_wrap=True)
    lines = [
        f"measurements   {folder.path / 'measurements.csv'}",
        f"checkpoints    {folder.path / 'checkpoints'}",
        f"measure again  algomatch analyze {folder.path}",
    ]
    if folder.figure_path.exists():
        lines.insert(0, f"figure         {folder.figure_path}")
    lines += _wandb_lines(folder, wandb_log)
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _wandb_lines(folder: RunFolder, wandb_log: WandbLog | None) -> Iterator[str]:
    wandb_log = wandb_log or WandbLog(folder, lambda text: None)
    if wandb_log.problem:
        yield f"W&B            {wandb_log.problem}"
    if wandb_log.url:
        yield f"W&B            {wandb_log.url}"
    if wandb_log.offline_folder:
        yield f"browse         wandb leet {wandb_log.offline_folder}"
        yield f"upload         wandb sync {wandb_log.offline_folder}"


def summary_table(rows: Sequence[Measurement], title: str) -> Table:
    """Return the headlines of one checkpoint, each with its interval, n and control."""
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("measure", no_wrap=True)
    for column in ("value", "95% interval", "n", "random init", "reference"):
        table.add_column(column, justify="right", no_wrap=True)
    for section in (_accuracy(rows), _similarity(rows), _ablation(rows), _sparsity(rows)):
        for label, row, control, reference in section:
            own = (f"{row.value:.3f}", _interval(row, 2), str(row.n))
            compared = f"{reference.value:.3f}" if reference else ""
            chance = _interval(control, 2) if control else ""
            shown = own if row is not reference else ("", "", "")
            table.add_row(escape(label), *shown, chance, compared)
        table.add_section()
    return table


Rows = Sequence[Measurement]
Line = tuple[str, Measurement, Measurement | None, Measurement | None]  # ..., control, reference


def _interval(row: Measurement, digits: int) -> str:
    if row.ci_low is None or row.ci_high is None:
        return ""
    return f"{row.ci_low:.{digits}f}..{row.ci_high:.{digits}f}"


def _of(rows: Rows, measure: str) -> dict[str, Measurement]:
    return {row.subject: row for row in rows if row.measure == measure}


def _accuracy(rows: Rows) -> Iterator[Line]:
    for subject, row in _of(rows, "accuracy/exact").items():
        if not subject.startswith(("train.", "held_out.")):
            words = subject.replace("all.length_", "length ").replace("_", " ")
            yield f"exact accuracy, {words}", row, None, None


def _similarity(rows: Rows) -> Iterator[Line]:
    measure = "similarity/best_deconfounded_cka"
    controls, references = _of(rows, f"{measure}_random_init"), _of(rows, f"{measure}_reference")
    for subject, row in _of(rows, measure).items():
        yield f"dCKA, {subject}", row, controls.get(subject), references.get(subject)


def _ablation(rows: Rows) -> Iterator[Line]:
    for kind in KINDS:
        deltas = _of(rows, f"ablation/{kind}_delta_exact").values()
        for row in sorted(deltas, key=lambda row: row.value)[:WORST_SHOWN]:
            yield f"{row.subject} {kind}", row, None, None


def _sparsity(rows: Rows) -> Iterator[Line]:
    labels = {
        "active_share": "active share",
        "dead_share": "dead",
        "always_on_share": "always on",
        "bimodality": "bimodality",
    }
    for name, label in labels.items():
        found = _of(rows, f"sparsity/{name}")
        reference = found.get("reference:model")
        row = found.get("model", reference)
        if row is not None:
            yield f"neurons, {label}", row, None, reference


def full_table(rows: Sequence[Measurement], title: str) -> Table:
    """Return all measurements of a checkpoint, with unit and direction."""
    table = Table(title=escape(title), title_justify="left")
    for column in ("measurement", "value", "95% interval", "n", "unit", "better"):
        table.add_column(column, justify="right" if column in ("value", "n") else "left")
    metrics = declared_metrics()
    for row in rows:
        metric = metrics[row.measure]
        table.add_row(
            escape(row.key),
            f"{row.value:.4f}",
            _interval(row, 4),
            f"{row.n:,}",
            metric.unit,
            metric.better,
        )
    return table
