"""The panels of a run's figure: one family of measures each, over training steps.

A control line has the colour of its curve and shows the highest control: dotted for random inits,
dash-dotted for other tasks' programs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...analysis.ablation_names import KINDS
from ...analysis.measurements import Measurement, whole
from ...analysis.measures.emergence import CONTROLS
from ...analysis.measures.registered_measures import REGISTRY
from ...hypotheses.failed_controls import Failing, marked
from ...hypotheses.row_values import (
    NEURON_LABELS,
    PLAIN_LABELS,
    Curves,
    component_label,
    curves,
    relabelings,
    top,
    uniform_heads,
)

Rows = Sequence[Measurement]
WORST_SHOWN = 5
COLOURS = (  # the palette of Okabe and Ito, then four colours of Tol
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
    "#882255", "#999933", "#661100", "#888888",
)  # fmt: skip
STYLES = ("-", (0, (6, 1.5)), (0, (2, 1)))  # next once the colours repeat
GREYS = ("0.25", "0.45", "0.6", "0.72")
CONTROL_STYLES = dict(zip(CONTROLS, (":", "-."), strict=True))
CONTROL_LABELS = dict(zip(CONTROLS, ("highest random init", "highest other task"), strict=True))
SPLITS = {"all": "all inputs", "held_out": "held out"}
SMALL = 7  # font size of legends, in points
Style = str | tuple[int, tuple[float, float]]


def accuracy(axes: Axes, rows: Rows, failing: Failing) -> None:
    """Draw exact accuracy: all inputs, held-out inputs, each length, and the blind baseline."""
    axes.set_title("Exact-sequence accuracy (band: Wilson 95%)")
    by_subject = curves(rows, "accuracy/exact")
    if not by_subject:
        nothing(axes, "not measured")
        return
    lengths = [subject for subject in by_subject if subject.startswith("all.length_")]
    for i, subject in enumerate(lengths):
        grey = f"{0.85 - 0.5 * i / max(1, len(lengths) - 1):.2f}"
        label = f"length {subject.rpartition('_')[2]}"
        axes.plot(*_points(by_subject[subject]), color=grey, lw=1, label=label)
    _draw(axes, by_subject["all"], _label("all inputs", by_subject["all"], failing), COLOURS[0])
    blind = curves(rows, "accuracy/blind_exact")
    if "all" in blind:
        value = blind["all"][-1].value
        axes.axhline(value, ls=":", color=COLOURS[0], lw=1, label="blind to the tokens")
    if "held_out" in by_subject:
        label = _label("held out", by_subject["held_out"], failing)
        _draw(axes, by_subject["held_out"], label, COLOURS[1], "--")
    axes.set(ylim=(-0.03, 1.03), ylabel="share of inputs")
    legend(axes)


def variables(axes: Axes, rows: Rows, failing: Failing) -> None:
    """Draw deconfounded CKA of each variable at its best site; relabelings share a curve."""
    axes.set_title("Deconfounded CKA with each variable, at its best site")
    measure = "similarity/best_deconfounded_cka"
    by_variable = curves(rows, measure)
    if not by_variable:
        nothing(axes, "not measured")
        return
    for (label, names), (colour, style) in zip(
        relabelings(by_variable).items(), _looks(), strict=False
    ):
        first = names[0]
        keys = [by_variable[name][-1].key for name in names]
        _draw(axes, by_variable[first], marked(label, keys, failing), colour, style)
        _controls(axes, rows, measure, first, colour)
        _ceiling(axes, rows, measure, first, colour)
    _explain_controls(axes, rows, measure, "the reference itself")
    axes.set(ylim=(-0.03, 1.03), ylabel="CKA")
    legend(axes)


def means(axes: Axes, rows: Rows, failing: Failing) -> None:
    """Draw the means of deconfounded CKA, and the plain measures as thin grey lines."""
    axes.set_title("Deconfounded CKA, means; thin and grey: plain measures")
    shown = {"mean": "mean of the variables", "matched": "mean of the reference's sites, matched"}
    drawn = False
    for (prefix, words), colour in zip(shown.items(), COLOURS, strict=False):
        measure = f"similarity/{prefix}_deconfounded_cka"
        for subject, curve in curves(rows, measure).items():
            _draw(axes, curve, _label(words, curve, failing), colour)
            _controls(axes, rows, measure, subject, colour)
            _ceiling(axes, rows, measure, subject, colour)
            drawn = True
    for (name, words), grey, marker in zip(PLAIN_LABELS.items(), GREYS, "sv^d", strict=True):
        measure = f"similarity/matched_{name}"
        for subject, curve in curves(rows, measure).items():
            label = _label(f"{words}, not discriminating", curve, failing)
            axes.plot(*_points(curve), color=grey, lw=0.8, marker=marker, ms=2.5, label=label)
            _controls(axes, rows, measure, subject, grey, width=0.6)
            drawn = True
    if not drawn:
        nothing(axes, "not measured")
        return
    _explain_controls(axes, rows, "similarity/mean_deconfounded_cka", "the reference itself")
    axes.set(ylim=(-0.03, 1.03), ylabel="CKA, or similarity")
    legend(axes)


def attention(axes: Axes, rows: Rows, failing: Failing) -> None:
    """Draw the attention in common with the reference's active heads, each head as a thin line."""
    axes.set_title("Attention in common with the reference's active heads")
    measure = "attention/matched_overlap"
    by_head = curves(rows, measure)
    if not by_head:
        nothing(axes, _no_heads(rows))
        return
    uniform = uniform_heads(rows)
    looks = _looks()
    model = by_head.pop("model", None)
    colour, _ = next(looks)
    if model is not None:
        _draw(axes, model, _label("model, matched", model, failing), colour)
        _controls(axes, rows, measure, "model", colour)
    for (head, curve), (other, style) in zip(by_head.items(), looks, strict=False):
        words = component_label(head) + (" (uniform, not in the mean)" if head in uniform else "")
        label = _label(f"reference's {words}", curve, failing)
        axes.plot(*_points(curve), color=other, ls=style, lw=0.8, label=label)
    _explain_controls(axes, rows, measure, None)
    axes.set(ylim=(-0.03, 1.03), ylabel="share of attention, mean over queries")
    legend(axes)


def _no_heads(rows: Rows) -> str:
    measured = any(row.measure.startswith(("attention/", "similarity/")) for row in rows)
    return "not measured, or the reference has no active head" if measured else "not measured"


def ablation(axes: Axes, rows: Rows, failing: Failing) -> None:
    """Draw the components with the largest effect over all kinds, and the redundant share."""
    axes.set_title(
        f"Change of exact accuracy: the {WORST_SHOWN} worst components\n"
        "line: mean of the kinds, band: from the worst kind to the best",
        fontsize=10,
    )
    by_kind = {kind: curves(rows, f"ablation/{kind}_delta_exact") for kind in KINDS}
    by_component: dict[str, list[Curves]] = {}
    for given in by_kind.values():
        for subject in given:
            if subject.startswith("blocks.") and not subject.endswith(".all") and whole(subject):
                by_component.setdefault(subject, []).append(given)
    if not by_component:
        nothing(axes, "not measured")
        return
    last = {
        component: _mean([of[component][-1].value for of in kinds])
        for component, kinds in by_component.items()
    }
    for subject, colour in zip(sorted(by_component, key=last.__getitem__)[:WORST_SHOWN], COLOURS,
                               strict=False):  # fmt: skip
        each = [of[subject] for of in by_component[subject]]
        steps = [row.step for row in each[0]]
        values = [[row.value for row in at] for at in zip(*each, strict=True)]
        label = marked(component_label(subject), [curve[-1].key for curve in each], failing)
        axes.plot(steps, [*map(_mean, values)], color=colour, marker="o", ms=2.5, label=label)
        axes.fill_between(
            steps, [*map(min, values)], [*map(max, values)], color=colour, alpha=0.12, linewidth=0
        )
    share = curves(rows, "ablation/redundant_share").get("model")
    words = "redundant together: share of heads and MLPs"
    highest = max(0.2, *(float(end) for end in axes.dataLim.intervaly))
    if share is None:
        axes.plot([], [], "s", color="none", label=f"{words}: not judged, task not solved")
    else:
        label = _label(f"{words} (above 0)", share, failing)
        axes.plot(*_points(share), color="black", ls="--", marker="s", ms=3.5, label=label)
        highest = max(highest, *(row.value for row in share))
    axes.axhline(0, color="0.6", lw=0.6)
    axes.set(ylim=(-1.05, highest + 0.05), ylabel="ablated minus intact")
    legend(axes)


def sparsity(axes: Axes, rows: Rows, failing: Failing) -> None:
    """Draw the figures of the neurons, beside the reference's, with the final differences of H1."""
    axes.set_title(
        "MLP neurons, learned (lines) and reference (dashed)\n"
        "H1: reference minus learned, at the last step",
        fontsize=10,
    )
    drawn, reference_only = False, []
    for (name, words), colour in zip(NEURON_LABELS.items(), COLOURS, strict=False):
        by_model = curves(rows, f"sparsity/{name}")
        reference = by_model.get("reference:model")
        if reference is not None:
            reference_only.append(f"{words}: {reference[-1].value:.2f}")
        if "model" not in by_model:
            continue
        drawn = True
        h1 = curves(rows, f"sparsity/h1_{name}").get("model")
        keys = [curve[-1].key for curve in (by_model["model"], h1) if curve]
        label = words + (f", H1 {_difference(h1[-1])}" if h1 else "")
        _draw(axes, by_model["model"], marked(label, keys, failing), colour)
        if reference is not None:
            axes.axhline(reference[-1].value, ls="--", color=colour, lw=1)
    if not drawn:
        also = "The reference's neurons:\n" + "\n".join(reference_only) if reference_only else ""
        why = "this model has no MLP neurons" if reference_only else "not measured"
        nothing(axes, f"{why}\n\n{also}".strip())
        return
    axes.set(ylim=(-0.03, 1.03), ylabel="share, or coefficient")
    legend(axes)


def loss(axes: Axes, rows: Rows, failing: Failing) -> None:
    """Draw the loss of each logged batch, of all inputs and of held-out inputs."""
    axes.set_title("Loss")
    batch = curves(rows, "training/loss").get("batch")
    if batch is not None:
        axes.plot(*_points(batch), color="0.7", lw=0.8, label="batch, training")
    losses = curves(rows, "accuracy/loss")
    for (subject, words), colour in zip(SPLITS.items(), COLOURS, strict=False):
        if subject in losses:
            _draw(axes, losses[subject], _label(words, losses[subject], failing), colour)
    if not axes.lines:
        nothing(axes, "not measured")
        return
    axes.set(ylabel="nats, or squared error, per position")
    axes.set_yscale("log")
    legend(axes)


def matching(axes: Axes, rows: Rows, failing: Failing) -> None:
    """Draw the best match of each testable cut, thin that of single variables, and emergence."""
    by_cut = curves(rows, "matching/best_match")
    cases = max((row.n for curve in by_cut.values() for row in curve), default=0)
    light = f"light, {cases:,} cases" if cases else "light"
    axes.set_title(f"Match with the program's testable cuts ({light}; square: surely realised)")
    if not by_cut:
        measured = curves(rows, "matching/testable_cuts")
        nothing(axes, "no cut of the program can be tested" if measured else "not measured")
        return
    realised = curves(rows, "matching/realised")
    chance = curves(rows, "matching/best_match_chance")
    looks = _looks()
    for (cut, curve), (colour, style) in zip(by_cut.items(), looks, strict=False):
        _draw(axes, curve, _label(cut.replace("+", ", "), curve, failing), colour, style)
        _mark_first(axes, curve, realised[cut], colour)
        axes.plot(*_points(chance[cut]), ":", color=colour, lw=0.9, alpha=0.8)
    own = curves(rows, "matching/variable_match")
    surely = curves(rows, "matching/variable_realised")
    for (name, curve), (colour, style) in zip(own.items(), looks, strict=False):
        label = _label(f"{name} alone", curve, failing)
        axes.plot(*_points(curve), color=colour, ls=style, lw=0.8, label=label)
        _mark_first(axes, curve, surely[name], colour)
    axes.plot([], [], ":", color="grey", label="chance")
    axes.set(ylim=(-0.03, 1.03), ylabel="lower of scrub and interchange")
    legend(axes)


def _mark_first(
    axes: Axes, curve: Sequence[Measurement], realised: Sequence[Measurement], colour: str
) -> None:
    """Mark the first step at which a cut or variable is realised."""
    first = next((row.step for row in realised if row.value == 1), None)
    for row in curve:
        if row.step == first:
            axes.plot([row.step], [row.value], "s", color=colour, ms=6)


Panel = Callable[[Axes, Rows, Failing], None]
PANELS_OF: dict[str, tuple[Panel, ...]] = {
    "accuracy": (accuracy, loss),
    "similarity": (variables, means),
    "matching": (matching,),
    "attention": (attention,),
    "ablation": (ablation,),
    "sparsity": (sparsity,),
}


def panels() -> list[Panel]:
    """Return the panels of a run's figure, those of each measure together."""
    return [
        panel
        for name in REGISTRY
        for panel in PANELS_OF.get(name, (partial(families, measure=name),))
    ]


def families(axes: Axes, rows: Rows, failing: Failing, measure: str) -> None:
    """Draw the families of a measure that has no panel of its own, each with its controls."""
    axes.set_title(measure.replace("_", " ").capitalize())
    by_key: dict[str, list[Measurement]] = {}
    for row in sorted(rows, key=lambda row: row.step):
        by_key.setdefault(row.key, []).append(row)
    looks = _looks()
    for family in REGISTRY[measure].families:
        for key, words in family.chosen(by_key).items():
            colour, style = next(looks)
            _draw(axes, by_key[key], _label(words, by_key[key], failing), colour, style)
            last = by_key[key][-1]
            _controls(axes, rows, last.measure, last.subject, colour)
            _ceiling(axes, rows, last.measure, last.subject, colour)
    if not axes.lines:
        nothing(axes, "not measured")
        return
    legend(axes)


def nothing(axes: Axes, why: str) -> None:
    """Write into an empty panel why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, wrap=True)


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def step_axis(axes: Axes, fontsize: float = SMALL) -> None:
    """Make the x axis one of training steps: linear from 0 to 1, then logarithmic."""
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("training step (log scale from 1 on)", fontsize=fontsize, labelpad=1)


def legend(axes: Axes, most: int = 4) -> None:
    """Put the legend below a panel, in as many columns as its labels leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    columns = min(most, 4 if longest <= 18 else 3 if longest <= 26 else 2 if longest <= 60 else 1)
    axes.legend(
        handles, labels, fontsize=SMALL, ncols=columns, loc="upper center", columnspacing=1.2,
        bbox_to_anchor=(0.5, -0.14), frameon=False, handlelength=2.2, borderpad=0,
    )  # fmt: skip


def _looks() -> Iterator[tuple[str, Style]]:
    """Yield a colour and a line style for each curve; the style changes once the colours repeat."""
    for turn in count():
        for colour in COLOURS:
            yield colour, STYLES[turn % len(STYLES)]


def _points(curve: Iterable[Measurement]) -> tuple[list[int], list[float]]:
    rows = list(curve)
    return [row.step for row in rows], [row.value for row in rows]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _label(words: str, curve: Sequence[Measurement], failing: Failing) -> str:
    return marked(words, [curve[-1].key], failing)


def _difference(row: Measurement) -> str:
    if row.ci_low is None or row.ci_high is None:
        return f"{row.value:+.2f}"
    return f"{row.value:+.2f} ({row.ci_low:.2f}..{row.ci_high:.2f})"


def _draw(
    axes: Axes, curve: Sequence[Measurement], label: str, colour: str, style: Style = "-"
) -> None:
    steps, values = _points(curve)
    axes.plot(steps, values, ls=style, label=label, color=colour, marker="o", ms=2.5)
    low = [r.ci_low for r in curve if r.ci_low is not None]
    high = [r.ci_high for r in curve if r.ci_high is not None]
    if len(low) == len(high) == len(curve):
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _controls(
    axes: Axes, rows: Rows, measure: str, subject: str, colour: str, width: float = 0.9
) -> None:
    """Draw the highest control of each kind for one curve."""
    for ending, style in CONTROL_STYLES.items():
        curve = curves(rows, f"{measure}{ending}").get(subject)
        if curve is not None:
            axes.plot([r.step for r in curve], [top(r) for r in curve], style, color=colour,
                      lw=width, alpha=0.8)  # fmt: skip


def _ceiling(axes: Axes, rows: Rows, measure: str, subject: str, colour: str) -> None:
    """Mark the reference's own value at the right edge of the panel."""
    curve = curves(rows, f"{measure}_reference").get(subject)
    if curve is not None:
        axes.plot([1.01], [curve[-1].value], marker="<", color=colour, clip_on=False,
                  transform=axes.get_yaxis_transform())  # fmt: skip


def _explain_controls(axes: Axes, rows: Rows, measure: str, ceiling: str | None) -> None:
    there: Mapping[str, bool] = {e: bool(curves(rows, f"{measure}{e}")) for e in CONTROLS}
    for ending, style in CONTROL_STYLES.items():
        if there[ending]:
            axes.plot([], [], style, color="grey", label=CONTROL_LABELS[ending])
    if ceiling is not None:
        axes.plot([], [], "<", color="grey", label=ceiling)
