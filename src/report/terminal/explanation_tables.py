"""What a model's heads and neurons do: tables for the terminal, and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...analysis.explain.heads import HeadExplanation, Heads
from ...analysis.explain.neurons import VARIES, NeuronExplanation, share_explained
from ...analysis.explain.position_features import Feature
from ...analysis.explain.substitution import CONTROLS, INTACT, NEURONS, UNIFORM, Explained
from ...data.outputs import Categorical, Output
from .tables import plain_table
from .tables import say as printed

SHOWN = 20  # neurons
LONGEST = 72  # of a predicate in the terminal
HEADS_HEADER = (
    "model", "layer", "head", "level", "selector", "also", "at_bos", "selector_overlap",
    "selector_low", "selector_high", "mass", "runner_up", "runner_up_overlap",
    "selector_random_init", "table", "table_numbers", "table_overlap", "table_low", "table_high",
    "table_random_init", "uniform",
)  # fmt: skip
NEURONS_HEADER = (
    "model", "layer", "neuron", "state", "on_share", "predicate", "depth", "accuracy", "low",
    "high", "shuffled", "judged_on", "explained", "loss_change", "correlation", "ratio", "mean_on",
    "mean_off",
)  # fmt: skip
EXPLAINED_HEADER = (
    "model", "explained", "control", "up_to_layer", "inputs", "length", "n", "exact", "low", "high",
)  # fmt: skip
HEADS_LEGEND = (
    "overlap: attention in common, mean over queries; init: the most that random inits reach by "
    "the same; flat: attention to everything"
)
MASS = "; mass: attention to the selected keys"
TABLES_JUDGED = ". Tables are judged on other inputs than they are fitted on."
NEURONS_LEGEND = (
    "accuracy: balanced, on held-out inputs; shuffled: the same fit to shuffled on/off; loss: its "
    "rise when the neuron is switched off; r, ratio: of what that changes in the outputs with the "
    "neuron's direct effect on them"
)
RARE = "; *: too rare to be held out, judged on all inputs"
EXPLAINED_LEGEND = "exact accuracy, held out, with the layers up to each explained."
WITH_PREDICATES = f"{UNIFORM}, {NEURONS}"
PATTERNS_LOOKED_UP = "Patterns are looked up, not computed by the model."
LOOKED_UP = (
    "Patterns and what predicates ask of the program's variables are looked up, not computed by "
    f"the model: where '{WITH_PREDICATES}' is as good, the answer came with the predicates"
)


@dataclass(frozen=True)
class Explanation:
    """A model, its heads and neurons, and how it does with them explained; None: not there yet.

    `n` of `total` inputs were looked at. `untrained` are the neurons of a random init.
    """

    title: str
    task: str
    n: int
    total: int
    exact: float
    solved_from: float
    bar: float
    output: Output
    features: Sequence[Feature]
    heads: Heads | None = None
    neurons: tuple[NeuronExplanation, ...] | None = None
    untrained: tuple[NeuronExplanation, ...] = ()
    rows: tuple[Explained, ...] | None = None

    @property
    def solved(self) -> bool:
        """Whether the model solves its task."""
        return self.exact >= self.solved_from


def print_explanation(one: Explanation, console: Console) -> None:
    """Print the tables of heads, of neurons and of the explained model."""
    say = partial(printed, console=console)

    say(first_line(one))
    of = "all" if one.n == one.total else f"{one.n:,} of"
    say(f"{one.title}: exact accuracy {one.exact:.3f} on {of} {one.total:,} inputs")
    if one.heads is not None:
        console.print(_heads_table(one.heads.each))
        active = [head for head in one.heads.each if head.active]
        if active:
            by_selector = any(head.best is head.hard for head in active)
            by_table = any(head.best is not head.hard for head in active)
            say(HEADS_LEGEND + MASS * by_selector + TABLES_JUDGED * by_table)
        for line in head_sentences(one.heads):
            say(line)
    if one.neurons == ():
        say("no neurons: the model has attention only")
    elif one.neurons is not None:
        listed = [neuron for neuron in by_importance(one.neurons) if neuron.explained][:SHOWN]
        if listed:
            console.print(_neurons_table(listed, one.output))
            say(NEURONS_LEGEND + RARE * any(neuron.rare for neuron in listed))
        for line in neuron_sentences(one.neurons, one.untrained, one.bar):
            say(line)
    if one.rows is not None:
        console.print(_explained_table(one.rows))
        console.print(_lengths_table(one.rows))
        predicted = WITH_PREDICATES in {row.variant for row in one.rows}
        say(f"{EXPLAINED_LEGEND} {LOOKED_UP if predicted else PATTERNS_LOOKED_UP}")


def first_line(one: Explanation) -> str:
    """Return whether the model solves its task, which comes before all else."""
    if one.solved:
        return f"solves {one.task}"
    return (
        f"does not solve {one.task}: exact accuracy {one.exact:.3f} is below {one.solved_from:g}; "
        "what follows explains what it does, not how the task is solved"
    )


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.2f}-{high:.2f}"


def _heads_table(heads: Sequence[HeadExplanation]) -> Table:
    masses = any(one.active and one.best is one.hard for one in heads)  # of what selectors select
    table = plain_table("head", "by", "overlap", "95%", "init", "flat", *["mass"] * masses)
    table.add_column("pattern", overflow="fold")
    table.add_column("next best", overflow="fold")
    for one in heads:
        if not one.active:
            nothing = [""] * (4 + masses)
            table.add_row(one.name, "-", *nothing, "inactive: no effect on any input", "")
            continue
        best = one.best
        hard, scored = one.hard, best.scored
        other = hard.runner_up if best is hard else hard.scored
        what = scored.name if best is hard else f"table: {scored.name} ({one.table.size} numbers)"
        bos = f"; BOS: {hard.at_bos}" if best is hard else ""
        level = one.level if one.level != "nothing" else "-"
        mass = [f"{hard.mass:.2f}" if best is hard else ""] * masses
        table.add_row(
            one.name, level, f"{scored.value:.2f}", _interval(scored.low, scored.high),
            f"{best.untrained:.2f}", f"{one.uniform:.2f}", *mass, escape(what + bos),
            escape(f"{other.name} {other.value:.2f}"),
        )  # fmt: skip
    return table


def head_sentences(heads: Heads) -> Iterator[str]:
    """Yield how many heads are explained by what, and which are only together."""
    active = [one for one in heads.each if one.active]
    by = {level: sum(one.level == level for one in active) for level in ("selector", "table")}
    yield (
        f"{len(active)} of {len(heads.each)} heads are active: {by['selector']} explained by a "
        f"selector, {by['table']} by a table, {len(active) - sum(by.values())} by neither"
    )
    for level, what in (("selector", "selector"), ("table", "kind of table")):
        alike = [one.name for one in active if one.level == level and one.untrained_too]
        if alike:
            yield (
                f"random inits reach the bar by the same {what} as {', '.join(alike)}: it says "
                "little of training"
            )
    exact = [
        one.name
        for one in active
        if one.layer == 0 and one.level == "table" and {"index", "token"} <= {*one.table.kind.query}
    ]
    if exact:
        yield f"a table by positions and tokens fits any first layer, so {', '.join(exact)} too"
    for one in heads.joint:
        shares = ", ".join(f"{one.layer}.{head} {w:.2f}" for head, w in one.weights.items())
        yield (
            f"together: the mean of {shares} meets {one.selector} with {one.value:.2f} (the best "
            f"alone: {one.alone:.2f})"
        )


def by_importance(neurons: Sequence[NeuronExplanation]) -> list[NeuronExplanation]:
    """Return neurons by how much the loss rises when they are switched off, the most first."""
    return sorted(neurons, key=lambda one: -one.effect.loss if one.effect else math.inf)


def _neurons_table(neurons: Sequence[NeuronExplanation], output: Output) -> Table:
    table = plain_table("neuron", "accuracy", "95%", "shuffled", "loss", "r", "ratio")
    table.add_column("on where", overflow="fold")
    table.add_column("adds to", overflow="fold")
    for one in neurons:
        effect = one.effect
        numbers = [effect.loss, effect.correlation, effect.ratio] if effect else [math.nan] * 3
        text = one.text if len(one.text) <= LONGEST else f"{one.text[: LONGEST - 1]}…"
        mark = "*" if one.rare else ""
        table.add_row(
            one.name, _number(one.accuracy) + mark, _interval(one.low, one.high),
            _number(one.floor), f"{numbers[0]:.1e}" if effect else "", *map(_number, numbers[1:]),
            escape(text), escape(_added(one, output)),
        )  # fmt: skip
    return table


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _added(one: NeuronExplanation, output: Output) -> str:
    """Return the outputs that a neuron adds to, and takes from, most."""
    if one.effect is None or not any(abs(value) > 1e-6 for value in one.effect.direct):
        return ""
    direct = one.effect.direct
    if not isinstance(output, Categorical):
        return f"{direct[0]:+.2g}"
    places = {max(range(len(direct)), key=direct.__getitem__)}
    places.add(min(range(len(direct)), key=direct.__getitem__))
    ranked = sorted(places, key=lambda at: -direct[at])
    return ", ".join(f"{output.values[at]} {direct[at]:+.2g}" for at in ranked)


def neuron_sentences(
    neurons: Sequence[NeuronExplanation], untrained: Sequence[NeuronExplanation], bar: float
) -> Iterator[str]:
    """Yield how many neurons there are of each state, the share explained, and a random init's."""
    states = [one.state for one in neurons]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    yield f"{len(neurons)} neurons: {counts.replace(VARIES, 'on at some places and off at others')}"
    each = ", ".join(
        f"layer {layer} {share:.1%} of {n}" for layer, (share, n) in shares(neurons).items()
    )
    share, n = share_explained(neurons)
    if n:
        floors = [one.floor for one in neurons if not math.isnan(one.floor)]
        floor = f"{sum(floors) / len(floors):.2f}" if floors else "-"
        yield (
            f"explained at {bar:g} and more: {share:.1%} of the {n} that vary ({each}); shuffled "
            f"on/off gives {floor} on average"
        )
    if rare := sum(one.rare for one in neurons):
        yield f"{rare} of these are too rare to be held out, and judged on what they were fitted on"
    varying = [one for one in neurons if one.state == VARIES]
    shown = min(SHOWN, sum(one.explained for one in varying))
    if left := len(varying) - shown:
        below = sum(not one.explained for one in varying)
        more = f"{left - below} more are explained, and " if left > below else ""
        yield f"not listed: {more}{below} are below that bar (neurons.csv has all)"
    share, n = share_explained(untrained)
    if n:
        yield f"the same search explains {share:.1%} of the {n} of a random init"


def shares(neurons: Sequence[NeuronExplanation]) -> dict[int, tuple[float, int]]:
    """Return by layer the share of its varying neurons that is explained, and how many vary."""
    found = {}
    for layer in sorted({one.layer for one in neurons}):
        share, n = share_explained([one for one in neurons if one.layer == layer])
        if n:
            found[layer] = (share, n)
    return found


def _explained_table(rows: Sequence[Explained]) -> Table:
    layers = sorted({row.layer for row in rows if row.layer >= 0})
    table = plain_table("explained", *(f"to {layer}" for layer in layers), "95%", "all inputs")
    intact = next(row for row in rows if row.variant == INTACT)
    cells = [f"{intact.held_out.value:.3f}"] * len(layers)
    table.add_row(
        "nothing: the model as it is", *cells, _interval(intact.held_out.low, intact.held_out.high),
        f"{intact.exact.value:.3f}",
    )  # fmt: skip
    for name, of in _by_variant(rows).items():
        last = of[layers[-1]]
        label = f"control: {name}" if name in CONTROLS else name
        table.add_row(
            label, *(f"{of[layer].held_out.value:.3f}" for layer in layers),
            _interval(last.held_out.low, last.held_out.high), f"{last.exact.value:.3f}",
        )  # fmt: skip
    return table


def _by_variant(rows: Sequence[Explained]) -> dict[str, dict[int, Explained]]:
    found: dict[str, dict[int, Explained]] = {}
    for row in rows:
        if row.variant != INTACT:
            found.setdefault(row.variant, {})[row.layer] = row
    return found


def _lengths_table(rows: Sequence[Explained]) -> Table:
    last = max(row.layer for row in rows)
    lengths = [length for length, share in rows[0].by_length.items() if share.n]
    table = plain_table("by length, all layers", *map(str, lengths))
    for row in rows:
        if row.layer in (last, -1) and row.variant not in CONTROLS[1:]:
            values = (row.by_length[length].value for length in lengths)
            label = "nothing" if row.variant == INTACT else row.variant
            table.add_row(label, *(f"{value:.3f}" for value in values))
    return table


def heads_csv(one: Explanation) -> str:
    """Return every head as CSV."""
    return _csv(HEADS_HEADER, (_head_row(one.title, each) for each in _of(one.heads)))


def _of(heads: Heads | None) -> Sequence[HeadExplanation]:
    return heads.each if heads is not None else ()


def _head_row(title: str, one: HeadExplanation) -> list[object]:
    hard, table = one.hard, one.table
    return [
        title, one.layer, one.head, one.level, hard.scored.name,
        " = ".join(hard.selector.names[1:]), hard.at_bos, hard.scored.value, hard.scored.low,
        hard.scored.high, hard.mass, hard.runner_up.name, hard.runner_up.value, hard.untrained,
        table.kind.name, table.size, table.scored.value, table.scored.low, table.scored.high,
        table.untrained, one.uniform,
    ]  # fmt: skip


def neurons_csv(one: Explanation) -> str:
    """Return every neuron as CSV, the most important first; last what it adds to each output."""
    values = one.output.values if isinstance(one.output, Categorical) else ("output",)
    header = (*NEURONS_HEADER, *(f"adds_to_{value}" for value in values))
    nothing = math.nan
    rows = []
    for each in by_importance(one.neurons or ()):
        effect = each.effect
        numbers = (
            [effect.loss, effect.correlation, effect.ratio]
            if effect
            else [nothing, nothing, nothing]
        )
        direct = effect.direct if effect else (nothing,) * len(values)
        judged = ("all" if each.rare else "held_out") if each.state == VARIES else ""
        rows.append([
            one.title, each.layer, each.index, each.state, each.share, each.text, each.depth,
            each.accuracy, each.low, each.high, each.floor, judged, each.explained, *numbers,
            each.on, each.off, *direct,
        ])  # fmt: skip
    return _csv(header, rows)


def untrained_csv(one: Explanation) -> str:
    """Return every neuron of a random init as CSV, as `neurons_csv` does."""
    return neurons_csv(replace(one, neurons=one.untrained))


def explained_csv(one: Explanation) -> str:
    """Return the accuracies of the explained model as CSV: on all inputs, held out, by length."""
    rows = []
    for row in one.rows or ():
        parts = [("all", "", row.exact), ("held_out", "", row.held_out)]
        parts += [("all", str(length), share) for length, share in row.by_length.items()]
        for inputs, length, share in parts:
            rows.append([
                one.title, row.variant, row.variant in CONTROLS, row.layer, inputs, length, share.n,
                share.value, share.low, share.high,
            ])  # fmt: skip
    return _csv(EXPLAINED_HEADER, rows)


def _csv(header: Sequence[str], rows: object) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:  # type: ignore[attr-defined]
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
    return out.getvalue()
