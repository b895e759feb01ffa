"""The sections of a run's page from its measurements: learning, similarity, ablation, neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...analysis.ablation_names import KINDS
from ...analysis.matching.match_result import EmergenceRow
from ...analysis.measurements import Measurement, whole
from ...analysis.measures.emergence import Summary, summaries
from ...hypotheses.compared_headlines import FAMILIES
from ...hypotheses.failed_controls import Failing, marked, meaning
from ...hypotheses.row_values import (
    NEURON_LABELS,
    PLAIN_LABELS,
    component_label,
    curves,
    highest_control,
    of,
    relabelings,
    uniform_heads,
)
from ...hypotheses.verdicts import NO_NEURONS
from ...models.wiring import MLP
from ..terminal.deletion import NOT_JUDGED, verdict
from .blocks import Cell, Details, Missing, Section, Table, Text, cell, interval, number
from .charts import Lines, colour, dash_of

Rows = Sequence[Measurement]
NO_MLP = "The model has attention only: it has no neurons."
LINES_SHOWN = 10  # the most variables in one chart
KIND_WORDS = {
    "zero": "zero", "mean": "its mean", "resample_within":
        "its output on another input, same length",
    "resample_across": "its output on an input of another length",
}  # fmt: skip
SPLITS = {"all": "all inputs", "train": "trained on", "held_out": "held out"}
COLUMNS = ("", "value", "95% interval", "n", "highest control", "the reference itself")


def learning(rows: Rows, last: Rows, failing: Failing, rerun: str) -> Section:
    """Return the learning curves, overall and by length, and the final accuracies."""
    lead = (
        "Accuracy and loss over training. Exact: the whole output of an input is right. Blind: "
        "the best accuracy of an answer that is blind to the tokens."
    )
    by_subject = curves(rows, "accuracy/exact")
    if not by_subject:
        lacking = Missing("Accuracy (`accuracy` in analysis.measures)", rerun)
        return Section("learning", "Learning curves", lead, [lacking])
    overall = Lines(
        "accuracy", "Exact accuracy over training",
        "Curves of the share of inputs whose whole output is right, over training steps; "
        + _ending(by_subject), "share of inputs",
    )  # fmt: skip
    for place, (subject, words) in enumerate(SPLITS.items()):
        if subject in by_subject:
            key = by_subject[subject][-1].key
            overall.curve(marked(words, [key], failing), by_subject[subject], colour(place))
    blind = curves(rows, "accuracy/blind_exact").get("all")
    if blind:
        overall.level("blind to the tokens (control)", blind[-1].value, "grey")
    by_length = Lines(
        "lengths", "Exact accuracy by length of the list",
        "Curves of exact accuracy, one for each length of the input", "share of inputs",
    )  # fmt: skip
    lengths = [subject for subject in by_subject if subject.startswith("all.length_")]
    for place, subject in enumerate(lengths):
        words = f"length {subject.rpartition('_')[2]}"
        tone, dash = colour(place), dash_of(place)
        by_length.curve(words, by_subject[subject], tone, dash, band=False)
    blocks: list[Any] = [overall.chart()]
    if len(lengths) > 1:
        blocks.append(by_length.chart())
    elif lengths:
        blocks.append(Text("All lists have one length: there are no curves by length.", "note"))
    if (loss := _loss(rows)) is not None:
        blocks.append(loss)
    blocks += _accuracies(last, failing)
    blocks.append(
        Text(
            "When measures emerged (the first step at which each passed its controls, or 0.99): "
            f"{order_of(summaries(rows), failing)}.")
    )  # fmt: skip
    return Section("learning", "Learning curves", lead, blocks)


def _ending(by_subject: Mapping[str, Rows]) -> str:
    row = by_subject["all"][-1] if "all" in by_subject else next(iter(by_subject.values()))[-1]
    return f"at step {row.step} it is {row.value:.3f}."


def _loss(rows: Rows) -> Any:
    chart = Lines(
        "loss", "Loss", "Curves of the loss per position over training steps, falling if it learns",
        "nats, or squared error", span=None, log=True,
    )  # fmt: skip
    batch = curves(rows, "training/loss").get("batch")
    if batch:
        chart.add("training batch", [row.step for row in batch], [row.value for row in batch],
                  "grey", width=1, marks=False)  # fmt: skip
    for place, (subject, words) in enumerate(SPLITS.items()):
        losses = curves(rows, "accuracy/loss").get(subject)
        if losses and subject != "train":
            chart.curve(words, losses, colour(place), band=False)
    return chart.chart() if chart.traces else None


def _accuracies(last: Rows, failing: Failing) -> list[Any]:
    """Return the final accuracies: overall and by length, those of the splits by length folded."""
    blind = of(last, "accuracy/blind_exact")
    shown, more = list[list[Cell]](), list[list[Cell]]()
    for subject, row in of(last, "accuracy/exact").items():
        name, _, length = subject.partition(".length_")
        words = SPLITS.get(name, name) + (f", length {length}" if length else "")
        control = blind[subject].value if subject in blind else None
        line = [
            Cell(marked(words, [row.key], failing)), cell(row.value),
            Cell(interval(row.ci_low, row.ci_high)), Cell(f"{row.n:,}", row.n), cell(control),
        ]  # fmt: skip
        (more if length and name != "all" else shown).append(line)
    columns = ("exact accuracy", "value", "95% interval", "n inputs", "blind (control)")
    caption, numbers = "Exact accuracy at the last checkpoint", (1, 2, 3, 4)
    blocks: list[Any] = [Table(caption, columns, shown, numbers, True)]
    if more:
        table = Table(f"{caption}, by length", columns, more, numbers, True)
        blocks.append(Details("Trained and held-out inputs, by length", [table]))
    return blocks


def similarity(rows: Rows, last: Rows, failing: Failing, controls: str, rerun: str) -> Section:
    """Return the section on how linearly present the program's variables are, beside controls."""
    lead = (
        "How far each variable of the program is linearly present in the residual stream, "
        "beyond what token and position give (deconfounded CKA). Compare it with the control "
        "lines, not with 1. It shows presence, not use."
    )
    measure = "similarity/best_deconfounded_cka"
    by_variable = curves(rows, measure)
    if not by_variable:
        measured = curves(rows, "similarity/deconfounded_share")
        lacking = (
            Text(
                "Every variable is a function of token and position on these inputs: nothing is "
                "left to compare.")
            if measured
            else Missing("Similarity (`similarity` in analysis.measures)", rerun)
        )  # fmt: skip
        return Section(
            "similarity", "Similarity: are the program's variables there?", lead, [lacking]
        )
    chart = Lines(
        "variables", "Deconfounded CKA with each variable, at its best site",
        f"Curves of deconfounded CKA over training steps for {len(by_variable)} variables, with "
        "dotted and dash-dotted lines of their controls", "CKA",
    )  # fmt: skip
    labelled = relabelings(by_variable)
    for place, (label, names) in enumerate(list(labelled.items())[:LINES_SHOWN]):
        tone, dash = colour(place), dash_of(place)
        keys = [by_variable[name][-1].key for name in names]
        chart.curve(marked(label, keys, failing), by_variable[names[0]], tone, dash)
        chart.controls(rows, measure, names[0], tone)
    blocks: list[Any] = [chart.chart()]
    if len(labelled) > LINES_SHOWN:
        more = len(labelled) - LINES_SHOWN
        blocks.append(Text(f"{more} more variables are in the table below only.", "note"))
    means = _means(rows, failing)
    blocks += [means.chart(), _similarities(last, failing)]
    plain = _plain(rows, failing)
    if plain.traces:
        text = (
            "These measures are as high for untrained models and for other tasks' programs, so "
            "they are no evidence."
        )
        blocks.append(Details("Plain similarity measures of the literature", [
            Text(text), plain.chart()]))  # fmt: skip
    if said := meaning(failing, controls):
        blocks.append(Text(f"{said[0].upper()}{said[1:]}", "note"))
    return Section("similarity", "Similarity: are the program's variables there?", lead, blocks)


def _means(rows: Rows, failing: Failing) -> Lines:
    chart = Lines(
        "means", "The same, averaged",
        "Curves of the mean deconfounded CKA over the variables, and over the reference's sites",
        "CKA",
    )  # fmt: skip
    shown = {"mean": "mean of the variables", "matched": "mean of the reference's sites, matched"}
    for place, (prefix, words) in enumerate(shown.items()):
        measure = f"similarity/{prefix}_deconfounded_cka"
        for subject, curve in curves(rows, measure).items():
            chart.curve(marked(words, [curve[-1].key], failing), curve, colour(place))
            chart.controls(rows, measure, subject, colour(place))
            own = curves(rows, f"{measure}_reference").get(subject)
            if own:
                chart.level(f"{words}: the reference itself", own[-1].value, colour(place), "dash")
    return chart


def _plain(rows: Rows, failing: Failing) -> Lines:
    chart = Lines(
        "plain", "Plain measures", "Curves of four plain similarity measures with their controls",
        "similarity",
    )  # fmt: skip
    for place, (name, words) in enumerate(PLAIN_LABELS.items()):
        measure = f"similarity/matched_{name}"
        for subject, curve in curves(rows, measure).items():
            words = marked(words, [curve[-1].key], failing)
            chart.curve(words, curve, colour(place), band=False)
            chart.controls(rows, measure, subject, colour(place))
    return chart


def compared(rows: Rows, label: str, keys: Sequence[str], row: Measurement,
             failing: Failing) -> list[Cell]:  # fmt: skip
    """Return a table row: value, interval, n, highest control and the reference's value."""
    control = highest_control(rows, row.measure, row.subject)
    own = of(rows, f"{row.measure}_reference").get(row.subject)
    return [
        Cell(marked(label, keys, failing)), cell(row.value),
        Cell(interval(row.ci_low, row.ci_high)), Cell(f"{row.n:,}", row.n),
        Cell(f"{control[0]:.3f} {control[1]}" if control else "-", control[0] if control else None),
        cell(own.value if own else None),
    ]  # fmt: skip


def _similarities(last: Rows, failing: Failing) -> Table:
    lines = []
    for name, words in (("mean", "mean of the variables"), ("matched", "sites, matched")):
        measure = f"similarity/{name}_deconfounded_cka"
        lines += [
            compared(last, words, [row.key], row, failing) for row in of(last, measure).values()
        ]
    by_variable = of(last, "similarity/best_deconfounded_cka")
    for label, names in relabelings({name: [row] for name, row in by_variable.items()}).items():
        keys = [by_variable[name].key for name in names]
        lines.append(compared(last, label, keys, by_variable[names[0]], failing))
    return Table("Deconfounded CKA at the last checkpoint", COLUMNS, lines, (1, 2, 3, 4, 5), True)


def heads_compared(rows: Rows, last: Rows, failing: Failing, rerun: str) -> list[Any]:
    """Return curves and a table of the attention in common with the reference's heads."""
    measure = "attention/matched_overlap"
    by_head = curves(rows, measure)
    if not by_head:
        if any(row.measure.startswith("similarity/") for row in rows):
            return [Text("The reference has no active head to compare with, or attention was not "
                         "among analysis.measures.", "note")]  # fmt: skip
        return [Missing("Attention in common with the reference (`attention` in "
                        "analysis.measures)", rerun)]  # fmt: skip
    uniform = uniform_heads(rows)
    chart = Lines(
        "overlap", "Attention in common with the reference's active heads",
        "Curves of the share of attention in common with the reference's heads, with controls",
        "share of attention",
    )  # fmt: skip
    lines = []
    order = sorted(by_head, key=lambda subject: subject != "model")
    at_last = of(last, measure)
    for place, subject in enumerate(order):
        words = "the model, all heads matched" if subject == "model" else (
            f"reference's {component_label(subject)}"
            + (" (attends to everything, not in the mean)" if subject in uniform else "")
        )  # fmt: skip
        curve = by_head[subject]
        chart.curve(marked(words, [curve[-1].key], failing), curve, colour(place),
                    width=2 if subject == "model" else 1, band=subject == "model")  # fmt: skip
        if subject == "model":
            chart.controls(rows, measure, subject, colour(place))
        if subject in at_last:
            row = at_last[subject]
            lines.append(compared(last, words, [row.key], row, failing))
    lines = [line[:-1] for line in lines]  # the reference's own value is always 1
    caption = "Attention in common at the last checkpoint"
    table = Table(caption, COLUMNS[:-1], lines, (1, 2, 3, 4))
    return [chart.chart(), table]


def ablation(last: Rows, failing: Failing, rerun: str) -> Section:
    """Return the section on ablation: the effect of each component by kind, and the verdicts."""
    lead = (
        "How exact accuracy changes if a component is deleted. Four kinds of ablation disagree, "
        "and their disagreement is informative. A component is called redundant only where all "
        "agree, and only in a model that solves the task. Single heads are almost "
        "always harmless one at a time, so look at the sets."
    )
    title = "Ablation"
    changes = {kind: of(last, f"ablation/{kind}_delta_exact") for kind in KINDS}
    kinds = [kind for kind, by_component in changes.items() if by_component]
    if not kinds:
        lacking = Missing("Ablation (`ablation` in analysis.measures)", rerun)
        return Section("ablation", title, lead, [lacking])
    judged, harmless = of(last, "ablation/redundant"), of(last, "ablation/harmless_kinds")
    names = [name for name in changes[kinds[0]] if whole(name)]
    lines = []
    for name in names:
        each = {kind: changes[kind][name] for kind in kinds if name in changes[kind]}
        agreeing = int(harmless[name].value) if name in judged and name in harmless else None
        keys = [row.key for row in each.values()] + [f"ablation/{name}/redundant"]
        lines.append([
            Cell(marked(component_label(name), keys, failing)),
            *(_change(each.get(kind)) for kind in kinds), Cell(verdict(each, agreeing)),
        ])  # fmt: skip
    n = next(iter(changes[kinds[0]].values())).n
    table = Table(
        f"Change of exact accuracy in percentage points, with its 95% interval (n={n:,} inputs)",
        ("deleted", *(KIND_WORDS[kind] for kind in kinds), "verdict"), lines,
        tuple(range(1, len(kinds) + 1)), True,
        "Each column says what replaces the deleted component. The darker a cell, the more "
        "accuracy is lost. In the verdict, within and across are the last two columns.",
    )  # fmt: skip
    blocks: list[Any] = [Text(redundant_text(last)), table]
    if "resample_across" not in kinds:
        blocks.append(Text("All lists have one length, so none is resampled across lengths.",
                           "note"))  # fmt: skip
    return Section("ablation", title, lead, blocks)


def redundant_text(last: Rows) -> str:
    """Return a sentence on the jointly redundant heads and MLPs, or that they are not judged."""
    if not of(last, "ablation/redundant"):
        return f"Redundancy: {NOT_JUDGED}, the model does not solve the task."
    flags = of(last, "ablation/in_redundant_set")
    inside = [component_label(name) for name, row in flags.items() if row.value == 1]
    what = "heads and MLPs" if any(name.endswith(MLP) for name in flags) else "heads"
    if not inside:
        return f"No set of the {len(flags)} {what} is redundant."
    return (
        f"Redundant together, by all kinds: {len(inside)} of {len(flags)} {what} "
        f"({', '.join(inside)}). It is one such set, not the only one."
    )


def _change(row: Measurement | None) -> Cell:
    if row is None:
        return Cell("-")
    points = 100 * row.value
    ends = ""
    if row.ci_low is not None and row.ci_high is not None:
        ends = f" ({100 * row.ci_low:.1f} to {100 * row.ci_high:.1f})"
    text = f"{points:.1f}".replace("-0.0", "0.0") if abs(points) < 0.05 else f"{points:.1f}"
    return Cell(text + ends, sort=points, shade=min(0.0, row.value))


def neurons_compared(
    rows: Rows, last: Rows, failing: Failing, was_measured: bool, rerun: str
) -> list[Any]:
    """Return the figures of the neurons beside the reference's, and over training; or why none."""
    lines = list(_figures(last, failing))
    if not lines and was_measured:
        return [Text(f"{NO_MLP} {NO_NEURONS[0].upper()}{NO_NEURONS[1:]}.")]
    if not lines:
        return [Missing("The neurons' measures (`sparsity` in analysis.measures)", rerun)]
    table = Table(
        "MLP neurons at the last checkpoint", ("figure", "model", "95% interval", "n neurons",
        "reference", "reference minus model (H1)", "95% interval of the difference"), lines,
        (1, 2, 3, 4, 5, 6),
        note=
            "Intervals are over neurons. The neurons of one model are not independent "
            "repetitions.",
    )  # fmt: skip
    chart = Lines(
        "neurons", "The model's neurons over training",
        "Curves of on/off measures of the model's neurons, dashed the reference's",
        "share, or coefficient",
    )  # fmt: skip
    for place, (name, words) in enumerate(NEURON_LABELS.items()):
        by_model = curves(rows, f"sparsity/{name}")
        if "model" in by_model:
            key = by_model["model"][-1].key
            chart.curve(marked(words, [key], failing), by_model["model"], colour(place), band=False)
    if not chart.traces:
        return [Text(NO_MLP)]
    if "reference:model" not in of(last, "sparsity/active_share"):
        return [table, Text(f"{NO_NEURONS[0].upper()}{NO_NEURONS[1:]}.", "note"), chart.chart()]
    return [table, chart.chart()]


def _figures(last: Rows, failing: Failing) -> Iterator[list[Cell]]:
    for name, label in NEURON_LABELS.items():
        by_model = of(last, f"sparsity/{name}")
        model, reference = by_model.get("model"), by_model.get("reference:model")
        h1 = of(last, f"sparsity/h1_{name}").get("model")
        if model is None and reference is None:
            continue
        keys = [f"sparsity/model/{name}", f"sparsity/model/h1_{name}"]
        yield [
            Cell(marked(label, keys, failing)),
            cell(model.value if model else None),
            Cell(interval(model.ci_low, model.ci_high) if model else ""),
            Cell(f"{model.n:,}" if model else "-", model.n if model else None),
            cell(reference.value if reference else None),
            Cell(f"{h1.value:+.3f}" if h1 else "-", h1.value if h1 else None),
            Cell(interval(h1.ci_low, h1.ci_high) if h1 else ""),
        ]


def emergence_curves(rows: Sequence[EmergenceRow], how: str) -> list[Any]:
    """Return the curves of the matches over checkpoints; empty for a single checkpoint."""
    if len({row.step for row in rows}) < 2:
        return []
    chart = Lines(
        "emergence", f"Match with every program's testable cuts: {how}",
        "Curves of each testable cut's and variable's best match over training steps",
        "lower of scrub and interchange",
    )  # fmt: skip
    some = [row for row in rows if row.kind != "model"]
    names = dict.fromkeys((row.program, row.kind, row.name) for row in some)
    for place, (program, kind, name) in enumerate(names):
        own = [row for row in some if (row.program, row.kind, row.name) == (program, kind, name)]
        alone, dash = (" alone", "dash") if kind == "variable" else ("", dash_of(place))
        chart.add(
            f"{program}: {name.replace('+', ', ')}{alone}", [row.step or 0 for row in own],
            [row.match or 0.0 for row in own], colour(place), dash, 1.6,
        )  # fmt: skip
    return [chart.chart()] if names else []


def matching_curves(rows: Rows, failing: Failing) -> list[Any]:
    """Return the curves of the light match at every checkpoint, and when cuts emerge."""
    by_cut = curves(rows, "matching/best_match")
    if not by_cut:
        return []
    cases = max(row.n for curve in by_cut.values() for row in curve)
    chart = Lines(
        "matching", f"Match with the reference program's testable cuts: light, {cases:,} cases",
        "Curves of each testable cut's best match over training steps, dotted its chance level",
        "lower of scrub and interchange",
    )  # fmt: skip
    realised, chance = curves(rows, "matching/realised"), curves(rows, "matching/best_match_chance")
    lines = []
    place = 0
    for cut, curve in by_cut.items():
        words = marked(cut.replace("+", ", "), [curve[-1].key], failing)
        chart.curve(words, curve, colour(place), dash_of(place))
        if cut in chance:
            chart.add("chance", [row.step for row in chance[cut]],
                      [row.value for row in chance[cut]], colour(place), "dot", 1.2, legend=False,
                      marks=False)  # fmt: skip
        lines.append(_emerging(words, curve, realised.get(cut, ()), chance.get(cut, ())))
        place += 1
    surely = curves(rows, "matching/variable_realised")
    for name, curve in curves(rows, "matching/variable_match").items():
        words = marked(f"{name} alone", [curve[-1].key], failing)
        chart.curve(words, curve, colour(place), "dash", 1.2, band=False)
        lines.append(_emerging(words, curve, surely.get(name, ()), ()))
        place += 1
    made = chart.chart()
    columns = ("cut or variable", "light match at the end", "95% interval", "n cases", "chance",
               "surely realised from step")  # fmt: skip
    table = Table(
        "When the reference program's cuts emerge, by the light measure",
        columns,
        lines,
        (1, 2, 3, 4, 5),
    )
    return [made, table]


def _emerging(words: str, curve: Rows, realised: Rows, chance: Rows) -> list[Cell]:
    row = curve[-1]
    step = next((reading.step for reading in realised if reading.value == 1), None)
    level = chance[-1].value if chance else None
    return [
        Cell(words), cell(row.value), Cell(interval(row.ci_low, row.ci_high)),
        Cell(f"{row.n:,}", row.n), cell(level),
        Cell("at no checkpoint" if step is None else f"{step:,}", step),
    ]  # fmt: skip


def order_of(headlines: Mapping[str, Summary], failing: Failing) -> str:
    """Return the order in which headlines emerged, with = between those at the same checkpoint.

    Headlines that fail the task's controls are left out.
    """
    steps: dict[int, list[str]] = {}
    for family in FAMILIES:
        for key, label in family.chosen(headlines).items() if family.emergence else ():
            step = headlines[key].emergence_step
            if step is not None and key not in (failing or ()):
                short = f"{family.title.partition(' (')[0]} {label}"
                steps.setdefault(step, []).append(short)
    if not steps:
        return "nothing emerged"
    return " \u2192 ".join(f"{' = '.join(names)} ({step})" for step, names in sorted(steps.items()))


def exact_by_step(rows: Rows) -> dict[int, str]:
    """Return exact accuracy at each step as text."""
    exact = curves(rows, "accuracy/exact").get("all", [])
    return {row.step: number(row.value) for row in exact}
