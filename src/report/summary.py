"""What a run or a checkpoint amounts to, as a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..analysis.measurements import Measurement
from ..analysis.rerun import KINDS
from ..analysis.suite import declared_metrics
from ..data.inputs import InputSet, smallest_gap
from ..data.outputs import Numerical
from ..models.reference import Reference
from ..tracking.run_folder import INEXACT, RunFolder
from ..tracking.wandb_log import WandbLog

WORST_SHOWN = 3
VALUES_SHOWN = 8
SIZES = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp")
LEGEND = """\
exact accuracy  share of inputs with the whole output right; control: without a
                look at the tokens, from length and position alone
dCKA            deconfounded CKA of a program variable with the residual stream,
                at its best site; control: random inits, lowest..highest
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


def how_many(inputs: InputSet) -> str:
    """Return how many inputs there are, and of how many where they are a sample."""
    if inputs.exhaustive:
        return f"all {len(inputs):,} inputs"
    if inputs.total is None:
        return f"a sample of {len(inputs):,} inputs, how many there are was not counted,"
    of = f"{inputs.total:,}" if inputs.total < 10**9 else f"{inputs.total:.1e}"
    return f"a sample of {len(inputs):,} of {of} inputs"


def output_text(inputs: InputSet) -> str:
    """Return what the output is, within what tolerance, and where there is none."""
    output, result = inputs.output, list(inputs.variables.values())[-1]
    if isinstance(output, Numerical):
        gap = smallest_gap(result)
        text = f"a number, right within {output.tolerance:.4g} (different ones are {gap:.4g} apart)"
        if output.tolerance >= gap / 2:
            text += ": THE TOLERANCE TAKES DIFFERENT OUTPUTS FOR EACH OTHER"
    else:
        shown = ", ".join(map(str, output.values[:VALUES_SHOWN]))
        more = ", ..." if output.width > VALUES_SHOWN else ""
        text = f"one of {output.width} values: {shown}{more}"
    share = inputs.undefined_share
    return text + (f"; undefined at {share:.1%} of the positions, left out" if share else "")


def reference_text(reference: Reference) -> str:
    """Return the reference's size and how it compares with the interpreter."""
    compiled, found = reference.compiled, reference.validation
    if found.exact:
        against = f"equal to the RASP interpreter on {found.n:,} inputs"
    else:
        against = (
            f"INEXACT, wrong on {found.n_wrong:,} of {found.n:,} inputs ({found.cause}): every "
            "result of this run is measured against an inexact reference"
        )
    if found.largest_error is not None:
        against += f", largest error {found.largest_error:.1g}"
    sharpened = ", attention sharpened" if compiled.sharpened else ""
    cached = ", cached" if reference.from_cache else ""
    return (
        f"{', '.join(f'{key} {compiled.shape[key]}' for key in SIZES)}, {against} "
        f"(mlp_exactness {compiled.mlp_exactness}{sharpened}{cached})"
    )


def inexact_note(rows: Sequence[Measurement]) -> str:
    """Return a mark for results that were measured against an inexact reference, else nothing."""
    shares = [row.value for row in rows if row.measure == "accuracy/reference_exact"]
    if shares and min(shares) < 1:
        return f" [INEXACT REFERENCE: right on {min(shares):.1%} of the inputs]"
    return " [INEXACT REFERENCE]" if any(INEXACT in row.run for row in rows) else ""


def summary_table(rows: Sequence[Measurement], title: str) -> Table:
    """Return the headlines of one checkpoint, each with its interval, n and control."""
    table = Table(
        title=escape(title + inexact_note(rows)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("measure", no_wrap=True)
    for column in ("value", "95% interval", "n", "control", "reference"):
        table.add_column(column, justify="right", no_wrap=True)
    for section in (_accuracy(rows), _similarity(rows), _ablation(rows), _sparsity(rows)):
        for label, row, control, reference in section:
            own = (f"{row.value:.3f}", _interval(row, 2), str(row.n))
            compared = f"{reference.value:.3f}" if reference else ""
            chance = _control(control) if control else ""
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


def _control(row: Measurement) -> str:
    """Return the value of one control, the range of several."""
    several = row.measure.endswith("_random_init")
    return _interval(row, 2) if several else f"{row.value:.3f}"


def _of(rows: Rows, measure: str) -> dict[str, Measurement]:
    return {row.subject: row for row in rows if row.measure == measure}


def _accuracy(rows: Rows) -> Iterator[Line]:
    blind = _of(rows, "accuracy/blind_exact")
    for subject, row in _of(rows, "accuracy/exact").items():
        if not subject.startswith(("train.", "held_out.")):
            words = subject.replace("all.length_", "length ").replace("_", " ")
            yield f"exact accuracy, {words}", row, blind.get(subject), None


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
    table = Table(title=escape(title + inexact_note(rows)), title_justify="left")
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
