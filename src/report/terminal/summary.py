"""Summary tables of a run or a checkpoint in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...analysis.measurements import Measurement, whole
from ...analysis.measures.registered_measures import measured
from ...analysis.measures.suite import declared_metrics
from ...config.naming import run_title
from ...config.printed_commands import quoted
from ...data.inputs import InputSet, smallest_gap
from ...data.outputs import Numerical
from ...hypotheses.failed_controls import MARK, Failing, marked, meaning
from ...hypotheses.row_values import (
    NEURON_LABELS,
    component_label,
    highest_control,
    of,
    relabelings,
    uniform_heads,
)
from ...models.reference import Reference
from ...models.wiring import MLP
from ...runs.run_folder import INEXACT, RunFolder
from ...tracking.wandb_log import WandbLog
from .deletion import deletion
from .tables import legend_table, plain_table, say

VALUES_SHOWN = 8
CONTROL_WORDS = {
    "_random_init": "untrained models (random init)",
    "_other_task": "other tasks' compiled programs (other task)",
}
SIZES = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp")
Rows = Sequence[Measurement]


def print_summary(
    folder: RunFolder, wandb_log: WandbLog | None, console: Console, failing: Failing = None
) -> None:
    """Print the tables of the last checkpoint, and where the files are.

    `failing` maps the keys of measures that fail the task's controls to a short reason. It is None
    if the controls were not run.

    Raises:
        UserError: the run has no checkpoints any more.
    """
    rows, config = folder.last_rows(), folder.config
    title = f"{run_title(config, 'on')}, step {rows[0].step}"
    console.print(summary_table(rows, title, failing))
    print_meaning(failing, rows, folder.commands.controls, console)
    console.print(legend(rows, measured(config.analysis)), highlight=False)
    console.print()
    lines = [
        f"measurements   {folder.path / 'measurements.csv'}",
        f"checkpoints    {folder.path / 'checkpoints'}",
        f"measure again  {folder.commands.of('analyze')}",
    ]
    if folder.figure_path.exists():
        lines.insert(0, f"figure         {folder.figure_path}")
    lines += _wandb_lines(folder, wandb_log)
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def legend(rows: Rows, taken: Sequence[str] = ()) -> Table:
    """Return the legend of a summary of these rows.

    It explains why measures in `taken` have no figures.
    """
    measures = {row.measure for row in rows}

    def there(start: str) -> bool:
        return any(measure.startswith(start) for measure in measures)

    lines = []
    if there("accuracy/exact"):
        blind = "; control: blind to the tokens" * there("accuracy/blind_exact")
        lines.append(("exact accuracy", f"share of inputs whose whole output is right{blind}"))
    if there("similarity/matched_deconfounded_cka"):
        kinds = [
            words for ending, words in CONTROL_WORDS.items()
            if any(measure.endswith(ending) for measure in measures)
        ]  # fmt: skip
        highest = f"; control: the highest of {' and of '.join(kinds)}" if kinds else ""
        both = ", whichever is higher" * (len(kinds) > 1)
        lines.append((
            "dCKA", "deconfounded CKA with the residual stream: each variable, or site of the "
            f"reference, at its best site{highest}{both}",
        ))  # fmt: skip
    if there("attention/matched_overlap"):
        lines.append((
            "attention", "in common with the reference's active heads, each matched with one head "
            "of the model",
        ))  # fmt: skip
    lines += nothing_to_compare(rows, taken)
    deleted = there("ablation/")
    if deleted or there("attention/matched_overlap"):
        lines.append(("head L.H", "blocks.L.attn.hook_z[H]"))
    if deleted:
        lines.append(("attention L", "blocks.L.hook_attn_out"))
        if any(row.subject.endswith(MLP) for row in rows if row.measure.startswith("ablation/")):
            lines.append(("MLP L", "blocks.L.hook_mlp_out"))
    return legend_table(lines)


def nothing_to_compare(rows: Rows, taken: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the measures that were taken but have no figures, with the reason."""
    if "similarity" in taken and not of(rows, "similarity/mean_deconfounded_cka"):
        yield "dCKA", "every variable of the program is a function of token and position"
    if "attention" in taken and not of(rows, "attention/matched_overlap"):
        yield "attention", "the reference has no active heads: nothing to compare"
    if "sparsity" in taken and "reference:model" not in of(rows, "sparsity/active_share"):
        yield "MLP neurons", "the reference has none: nothing to compare"
    testable = of(rows, "matching/testable_cuts").get("model")
    if testable is not None and testable.value == 0:
        yield "match", "the program has no inner cut that can be tested"


def print_meaning(failing: Failing, rows: Rows, controls: str, console: Console) -> None:
    """Print the meaning of the marks of these rows, or the command that runs the controls."""
    if said := meaning(failing, controls, (row.key for row in rows)):
        say(said, console)


def _wandb_lines(folder: RunFolder, wandb_log: WandbLog | None) -> Iterator[str]:
    wandb_log = wandb_log or WandbLog(folder, lambda text: None)
    if wandb_log.problem:
        yield f"W&B            {wandb_log.problem}"
    if wandb_log.url:
        yield f"W&B            {wandb_log.url}"
    if wandb_log.offline_folder:
        yield f"browse         {quoted('wandb', 'leet', wandb_log.offline_folder)}"
    if wandb_log.offline_folder or wandb_log.problem:
        yield f"upload         {folder.commands.of('log')}"
    if wandb_log.offline_folder:
        yield f"or             {quoted('wandb', 'sync', wandb_log.offline_folder)}"


def how_many(inputs: InputSet) -> str:
    """Return the number of inputs, and of how many they are a sample."""
    if inputs.exhaustive:
        return f"all {len(inputs):,} inputs"
    if inputs.total is None:
        return f"a sample of {len(inputs):,} inputs (their total was not counted)"
    of = f"{inputs.total:,}" if inputs.total < 10**9 else f"{inputs.total:.1e}"
    return f"a sample of {len(inputs):,} of {of} inputs"


def output_text(inputs: InputSet) -> str:
    """Return the type of the output, its tolerance, and where it is undefined."""
    output, result = inputs.output, list(inputs.variables.values())[-1]
    if isinstance(output, Numerical):
        gap = smallest_gap(result)
        text = (
            f"a number, right within {output.tolerance:.4g} (different outputs are {gap:.4g} apart)"
        )
        if output.tolerance >= gap / 2:
            text += ": THE TOLERANCE CONFUSES DIFFERENT OUTPUTS"
    else:
        shown = ", ".join(map(str, output.values[:VALUES_SHOWN]))
        more = ", ..." if output.width > VALUES_SHOWN else ""
        text = f"one of {output.width} values: {shown}{more}"
    share = inputs.undefined_share
    return text + (f"; undefined at {share:.1%} of the positions, left out" if share else "")


def reference_text(reference: Reference) -> str:
    """Return the size of the reference and how it compares with the RASP interpreter."""
    compiled, validation = reference.compiled, reference.validation
    if validation.exact:
        against = f"equal to the RASP interpreter on {validation.n:,} inputs"
    else:
        against = (
            f"INEXACT, wrong on {validation.n_wrong:,} of {validation.n:,} inputs "
            f"({validation.cause}): every result of this run is measured against an inexact "
            "reference"
        )
    if validation.largest_error is not None:
        against += f", largest error {validation.largest_error:.1g}"
    sharpened = ", attention sharpened" if compiled.sharpened else ""
    cached = ", cached" if reference.from_cache else ""
    return (
        f"{', '.join(f'{key} {compiled.shape[key]}' for key in SIZES)}, {against} "
        f"(mlp_exactness {compiled.mlp_exactness}{sharpened}{cached})"
    )


def inexact_note(rows: Sequence[Measurement]) -> str:
    """Return a note on results that were measured against an inexact reference, else empty."""
    shares = [row.value for row in rows if row.measure == "accuracy/reference_exact"]
    if shares and min(shares) < 1:
        return f" [INEXACT REFERENCE: right on {min(shares):.1%} of the inputs]"
    return " [INEXACT REFERENCE]" if any(INEXACT in row.run for row in rows) else ""


Line = tuple[str, list[str], Measurement, str, Measurement | None]  # ..., control, reference


def summary_table(rows: Rows, title: str, failing: Failing = None) -> RenderableType:
    """Return the table of the headlines of one checkpoint, with intervals and controls.

    `failing` is as in `print_summary`.
    """
    heading = Text(title + inexact_note(rows), style="italic")
    parts: list[RenderableType] = [heading, _headlines(rows, failing)]
    if lengths := _by_length(rows):
        parts.append(lengths)
    parts += deletion(rows, failing)
    if (neurons := _neurons(rows, failing)) is not None:
        parts.append(neurons)
    return Group(*parts)


def _headlines(rows: Rows, failing: Failing) -> Table:
    table = plain_table("measure", "value", "95% interval", "n", "control", "reference")
    for section in (_accuracy(rows), _similarity(rows), _attention(rows)):
        for label, keys, row, control, reference in section:
            table.add_row(
                escape(marked(label, keys, failing)),
                f"{row.value:.3f}",
                _interval(row, 2),
                str(row.n),
                control,
                f"{reference.value:.3f}" if reference else "",
            )
        table.add_section()
    return table


def _interval(row: Measurement, digits: int) -> str:
    if row.ci_low is None or row.ci_high is None:
        return ""
    return f"{row.ci_low:.{digits}f}..{row.ci_high:.{digits}f}"


def _accuracy(rows: Rows) -> Iterator[Line]:
    blind = of(rows, "accuracy/blind_exact")
    for subject, row in of(rows, "accuracy/exact").items():
        if whole(subject):
            control = f"{blind[subject].value:.3f} blind" if subject in blind else ""
            yield f"exact accuracy, {subject.replace('_', ' ')}", [row.key], row, control, None


def _by_length(rows: Rows) -> Text | None:
    start = "all.length_"
    by_length = {
        subject.removeprefix(start): row.value
        for subject, row in of(rows, "accuracy/exact").items()
        if subject.startswith(start)
    }
    if not by_length:
        return None
    each = ", ".join(f"{length}: {value:.3f}" for length, value in by_length.items())
    return Text(f"exact accuracy by length  {each}")


def _similarity(rows: Rows) -> Iterator[Line]:
    for name, words in (("mean", "the variables, mean"), ("matched", "the sites, matched")):
        measure = f"similarity/{name}_deconfounded_cka"
        for subject, row in of(rows, measure).items():
            yield _compared(rows, f"dCKA, {words}", [subject], row)
    by_variable = of(rows, "similarity/best_deconfounded_cka")
    for label, names in relabelings({name: [row] for name, row in by_variable.items()}).items():
        yield _compared(rows, f"dCKA, {label}", names, by_variable[names[0]])


def _attention(rows: Rows) -> Iterator[Line]:
    uniform = uniform_heads(rows)
    overlaps = of(rows, "attention/matched_overlap")
    for subject in sorted(overlaps, key=lambda subject: subject != "model"):
        words = subject if subject == "model" else component_label(subject)
        words += " (uniform)" if subject in uniform else ""
        yield _compared(rows, f"attention, {words}", [subject], overlaps[subject])


def _compared(rows: Rows, label: str, subjects: list[str], row: Measurement) -> Line:
    """Return a table line with the highest control and the reference's own value."""
    control = highest_control(rows, row.measure, row.subject)
    shown = f"{control[0]:.3f} {control[1]}" if control else ""
    reference = of(rows, f"{row.measure}_reference").get(row.subject)
    group, _, name = row.measure.partition("/")
    return label, [f"{group}/{subject}/{name}" for subject in subjects], row, shown, reference


def _neurons(rows: Rows, failing: Failing) -> Table | None:
    """Return the table of the neurons: the model's figures, the reference's, and H1's difference.

    Returns None if no MLP neurons of the model were measured.
    """
    table = plain_table(
        "MLP neurons", "model", "95% interval", "reference", "reference minus model (H1)",
        "95% interval",
    )  # fmt: skip
    for name, label in NEURON_LABELS.items():
        by_model = of(rows, f"sparsity/{name}")
        each = [by_model.get("model"), by_model.get("reference:model"),
                of(rows, f"sparsity/h1_{name}").get("model")]  # fmt: skip
        if each[0] is None:
            continue
        keys = [f"sparsity/model/{name}", f"sparsity/model/h1_{name}"]
        model, reference, h1 = each
        table.add_row(
            marked(label, keys, failing),
            f"{model.value:.3f}" if model else "",
            _interval(model, 3) if model else "",
            f"{reference.value:.3f}" if reference else "",
            f"{h1.value:+.3f}" if h1 else "",
            _interval(h1, 3) if h1 else "",
        )
    return table if table.row_count else None


def listed(row: Measurement) -> bool:
    """Return whether a row is in the full table: no single neuron, no ablation by length."""
    group = row.measure.partition("/")[0]
    single = group == "sparsity" and "[" in row.subject
    return not single and (group != "ablation" or whole(row.subject))


def full_table(rows: Rows, title: str, failing: Failing = None) -> RenderableType:
    """Return the table of all measurements of a checkpoint, with unit and direction.

    Rows of single neurons and of ablation at one length are only counted. `failing` is as in
    `print_summary`; failing measures have their reason beside them.
    """
    table = Table(title=escape(title + inexact_note(rows)), title_justify="left")
    columns = ["measurement", "value", "95% interval", "n", "unit", "better"]
    if failing:
        columns.append("controls")
    for column in columns:
        right = column in ("value", "n")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    metrics = declared_metrics()
    shown = [row for row in rows if listed(row)]
    for row in shown:
        metric = metrics[row.measure]
        reason = [f"{MARK} {failing[row.key]}" if row.key in failing else ""] if failing else []
        table.add_row(
            escape(marked(row.key, [row.key], failing)),
            f"{row.value:.4f}",
            _interval(row, 4),
            f"{row.n:,}",
            metric.unit,
            metric.better,
            *map(escape, reason),
        )
    parts: list[RenderableType] = [table]
    if left_out := len(rows) - len(shown):
        parts.append(
            Text(
                f"{left_out:,} rows are not shown: single neurons, and ablations at one length; "
                "`--output FILE` writes them"
            )
        )
    return Group(*parts)
