"""What a model's heads and neurons do: tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...analysis.explain.explanation_result import Explanation, by_importance, shares
from ...analysis.explain.heads import HeadExplanation, HeadExplanations
from ...analysis.explain.neurons import VARIES, NeuronExplanation, share_explained
from ...analysis.explain.substitution import CONTROLS, INTACT, NEURONS, UNIFORM, SubstitutedAccuracy
from ...data.outputs import Categorical, Output
from .tables import plain_table
from .tables import say as printed

SHOWN = 20  # neurons
LONGEST = 72  # of a predicate in the terminal
HEADS_LEGEND = (
    "overlap: attention in common with the explanation, mean over queries; init: the most that "
    "the same explanation reaches in random inits; flat: the overlap of attention to everything"
)
MASS = "; mass: attention to the selected keys"
TABLES_JUDGED = ". Tables are judged on other inputs than they are fitted on."
NEURONS_LEGEND = (
    "accuracy: balanced accuracy on held-out inputs; shuffled: the same fit to shuffled on/off "
    "labels; loss: its rise when the neuron is switched off; r, ratio: correlation and ratio of "
    "the resulting change of the outputs with the neuron's direct effect on them"
)
RARE = "; *: too rare to hold out, judged on all inputs"
EXPLAINED_LEGEND = (
    "exact accuracy on held-out inputs, with all layers up to the given one explained."
)
WITH_PREDICATES = f"{UNIFORM}, {NEURONS}"
PATTERNS_LOOKED_UP = "Patterns are looked up, not computed by the model."
LOOKED_UP = (
    "Patterns, and the program's variables in predicates, are looked up, not computed by the "
    f"model: where '{WITH_PREDICATES}' is as good, the predicates brought the answer along"
)


def print_explanation(explanation: Explanation, console: Console) -> None:
    """Print the tables of heads, neurons and the explained model."""
    say = partial(printed, console=console)

    say(first_line(explanation))
    of = "all" if explanation.n == explanation.total else f"{explanation.n:,} of"
    say(
        f"{explanation.title}: exact accuracy {explanation.exact:.3f} on {of} "
        f"{explanation.total:,} inputs"
    )
    if explanation.heads is not None:
        console.print(_heads_table(explanation.heads.heads))
        active = [head for head in explanation.heads.heads if head.active]
        if active:
            by_selector = any(head.best is head.hard for head in active)
            by_table = any(head.best is not head.hard for head in active)
            say(HEADS_LEGEND + MASS * by_selector + TABLES_JUDGED * by_table)
        for line in head_sentences(explanation.heads):
            say(line)
    if explanation.neurons == ():
        say("no neurons: the model has attention only")
    elif explanation.neurons is not None:
        ranked = by_importance(explanation.neurons)
        listed = [neuron for neuron in ranked if neuron.explained][:SHOWN]
        if listed:
            console.print(_neurons_table(listed, explanation.output))
            say(NEURONS_LEGEND + RARE * any(neuron.rare for neuron in listed))
        for line in neuron_sentences(explanation.neurons, explanation.untrained, explanation.bar):
            say(line)
    if explanation.rows is not None:
        console.print(_explained_table(explanation.rows))
        console.print(_lengths_table(explanation.rows))
        predicted = WITH_PREDICATES in {row.variant for row in explanation.rows}
        say(f"{EXPLAINED_LEGEND} {LOOKED_UP if predicted else PATTERNS_LOOKED_UP}")


def first_line(explanation: Explanation) -> str:
    """Return a sentence that says whether the model solves its task."""
    if explanation.solved:
        return f"solves {explanation.task}"
    return (
        f"does not solve {explanation.task}: exact accuracy {explanation.exact:.3f} is below "
        f"{explanation.solved_from:g}; the tables explain what the model does, not how the task "
        "is solved"
    )


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.2f}-{high:.2f}"


def _heads_table(heads: Sequence[HeadExplanation]) -> Table:
    # mass: attention to the keys that a selector selects; tables have none
    masses = any(head.active and head.best is head.hard for head in heads)
    table = plain_table("head", "by", "overlap", "95%", "init", "flat", *["mass"] * masses)
    table.add_column("pattern", overflow="fold")
    table.add_column("next best", overflow="fold")
    for head in heads:
        if not head.active:
            nothing = [""] * (4 + masses)
            table.add_row(head.name, "-", *nothing, "inactive: no effect on any input", "")
            continue
        best = head.best
        hard, scored = head.hard, best.scored
        other = hard.runner_up if best is hard else hard.scored
        what = scored.name if best is hard else f"table: {scored.name} ({head.table.size} numbers)"
        bos = f"; BOS: {hard.at_bos}" if best is hard else ""
        level = head.level if head.level != "nothing" else "-"
        mass = [f"{hard.mass:.2f}" if best is hard else ""] * masses
        table.add_row(
            head.name, level, f"{scored.value:.2f}", _interval(scored.low, scored.high),
            f"{best.untrained:.2f}", f"{head.uniform:.2f}", *mass, escape(what + bos),
            escape(f"{other.name} {other.value:.2f}"),
        )  # fmt: skip
    return table


def head_sentences(heads: HeadExplanations) -> Iterator[str]:
    """Yield how many heads a selector or a table explains, and which heads meet one jointly."""
    active = [head for head in heads.heads if head.active]
    by = {level: sum(head.level == level for head in active) for level in ("selector", "table")}
    yield (
        f"{len(active)} of {len(heads.heads)} heads are active: {by['selector']} explained by a "
        f"selector, {by['table']} by a table, {len(active) - sum(by.values())} by neither"
    )
    for level, what in (("selector", "selector"), ("table", "kind of table")):
        alike = [head.name for head in active if head.level == level and head.untrained_too]
        if alike:
            yield (
                f"random inits reach the threshold with the same {what} as {', '.join(alike)}: "
                "these explanations say little about training"
            )
    exact = [
        head.name
        for head in active
        if head.layer == 0
        and head.level == "table"
        and {"index", "token"} <= {*head.table.kind.query}
    ]
    if exact:
        yield (
            "a table of positions and tokens fits any first layer, so it also fits "
            f"{', '.join(exact)}"
        )
    for joint in heads.joint:
        shares = ", ".join(f"{joint.layer}.{head} {w:.2f}" for head, w in joint.weights.items())
        yield (
            f"together: the mean of {shares} meets {joint.selector} with {joint.value:.2f} "
            f"(the best alone: {joint.alone:.2f})"
        )


def _neurons_table(neurons: Sequence[NeuronExplanation], output: Output) -> Table:
    table = plain_table("neuron", "accuracy", "95%", "shuffled", "loss", "r", "ratio")
    table.add_column("on where", overflow="fold")
    table.add_column("adds to", overflow="fold")
    for neuron in neurons:
        effect = neuron.effect
        numbers = [effect.loss, effect.correlation, effect.ratio] if effect else [math.nan] * 3
        text = neuron.text if len(neuron.text) <= LONGEST else f"{neuron.text[: LONGEST - 1]}…"
        mark = "*" if neuron.rare else ""
        table.add_row(
            neuron.name, _number(neuron.accuracy) + mark, _interval(neuron.low, neuron.high),
            _number(neuron.floor), f"{numbers[0]:.1e}" if effect else "",
            *map(_number, numbers[1:]), escape(text), escape(_added(neuron, output)),
        )  # fmt: skip
    return table


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _added(neuron: NeuronExplanation, output: Output) -> str:
    """Return the outputs that a neuron raises and lowers most."""
    if neuron.effect is None or not any(abs(value) > 1e-6 for value in neuron.effect.direct):
        return ""
    direct = neuron.effect.direct
    if not isinstance(output, Categorical):
        return f"{direct[0]:+.2g}"
    places = {max(range(len(direct)), key=direct.__getitem__)}
    places.add(min(range(len(direct)), key=direct.__getitem__))
    ranked = sorted(places, key=lambda at: -direct[at])
    return ", ".join(f"{output.values[at]} {direct[at]:+.2g}" for at in ranked)


def neuron_sentences(
    neurons: Sequence[NeuronExplanation], untrained: Sequence[NeuronExplanation], bar: float
) -> Iterator[str]:
    """Yield the number of neurons in each state, the share explained, and a random init's."""
    states = [neuron.state for neuron in neurons]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    yield (
        f"{len(neurons)} neurons: "
        f"{counts.replace(VARIES, 'on at some positions and off at others')}"
    )
    each = ", ".join(
        f"layer {layer} {share:.1%} of {n}" for layer, (share, n) in shares(neurons).items()
    )
    share, n = share_explained(neurons)
    if n:
        floors = [neuron.floor for neuron in neurons if not math.isnan(neuron.floor)]
        floor = f"{sum(floors) / len(floors):.2f}" if floors else "-"
        yield (
            f"explained with {bar:g} or more: {share:.1%} of the {n} that vary ({each}); "
            f"shuffled on/off labels give {floor} on average"
        )
    if rare := sum(neuron.rare for neuron in neurons):
        yield (
            f"{rare} of these are too rare to hold out; they are judged on the inputs they were "
            "fitted on"
        )
    varying = [neuron for neuron in neurons if neuron.state == VARIES]
    shown = min(SHOWN, sum(neuron.explained for neuron in varying))
    if left := len(varying) - shown:
        below = sum(not neuron.explained for neuron in varying)
        more = f"{left - below} more that are explained, and " if left > below else ""
        yield f"not listed: {more}{below} that are below the threshold (neurons.csv has all)"
    share, n = share_explained(untrained)
    if n:
        yield f"the same search explains {share:.1%} of the {n} varying neurons of a random init"


def _explained_table(rows: Sequence[SubstitutedAccuracy]) -> Table:
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


def _by_variant(rows: Sequence[SubstitutedAccuracy]) -> dict[str, dict[int, SubstitutedAccuracy]]:
    by_variant: dict[str, dict[int, SubstitutedAccuracy]] = {}
    for row in rows:
        if row.variant != INTACT:
            by_variant.setdefault(row.variant, {})[row.layer] = row
    return by_variant


def _lengths_table(rows: Sequence[SubstitutedAccuracy]) -> Table:
    last = max(row.layer for row in rows)
    lengths = [length for length, share in rows[0].by_length.items() if share.n]
    table = plain_table("by length, all layers", *map(str, lengths))
    for row in rows:
        if row.layer in (last, -1) and row.variant not in CONTROLS[1:]:
            values = (row.by_length[length].value for length in lengths)
            label = "nothing" if row.variant == INTACT else row.variant
            table.add_row(label, *(f"{value:.3f}" for value in values))
    return table
