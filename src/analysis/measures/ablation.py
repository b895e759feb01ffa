"""The effect of ablating components on the task, one at a time and jointly, in four ways.

The output of every head, attention layer and MLP, and of sets of them, is replaced by zero, by its
mean, and by its value on another input (of the same length, or of another length). The four kinds
of ablation often disagree. A component is redundant only if all four leave the task unharmed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from ...models.wiring import Component, component_sites
from ..ablation_names import KINDS
from ..activations import Recording, Source, taken
from ..base import MeasurementContext
from ..measurements import Measurement, Metric, whole
from ..statistics import percentile_intervals
from . import redundancy
from .accuracy import Outcome, changes, outcome
from .accuracy import joined as joined_outcomes
from .rerun import Means, Rerun, donors

EFFECTS = {  # name: (unit, better, low, high, about)
    "exact": ("share of inputs", "higher", -1.0, 1.0, "exact-sequence accuracy"),
    "token": ("share of positions", "higher", -1.0, 1.0, "token accuracy"),
    "loss": (
        "nats, or squared error, per position",
        "lower",
        -float("inf"),
        float("inf"),
        "the loss",
    ),
}

METRICS = (
    *(
        Metric(f"ablation/{kind}_delta_{effect}", unit, better, low, high, f"change of {about} "
               f"when a component's output is replaced by {by}: ablated minus intact")
        for kind, by in KINDS.items()
        for effect, (unit, better, low, high, about) in EFFECTS.items()
    ),
    Metric("ablation/harmless_kinds", "kinds of ablation", "neither", 0, len(KINDS),
        "under how many kinds exact accuracy surely falls by no more than the margin; n: how "
        "many were measured"),
    Metric("ablation/redundant", "yes or no", "neither", 0, 1, "harmless under every kind of "
           "ablation; given only for a model that solves the task"),
    Metric("ablation/in_redundant_set", "yes or no", "neither", 0, 1, "in the set of heads and "
           "MLPs that are redundant together, grown greedily"),
    Metric("ablation/redundant_share", "share of heads and MLPs", "neither", 0, 1, "that are "
           "redundant together"),
    Metric("ablation/redundant_alone_share", "share of heads and MLPs", "neither", 0, 1, "that "
           "are redundant one at a time, which says little"),
)  # fmt: skip


def worst_components(rows: Sequence[Measurement]) -> Iterator[Measurement]:
    """Yield, for each kind of ablation, the change by the component that matters most.

    That is the single component of the largest effect on the exact accuracy, or, where none was
    ablated alone, the set.
    """
    names = {metric.name for metric in METRICS if metric.name.endswith("_delta_exact")}
    deltas: dict[str, list[Measurement]] = {}
    for row in rows:
        if row.measure in names and whole(row.subject):
            deltas.setdefault(row.measure, []).append(row)
    for effects in deltas.values():
        singles = [row for row in effects if _is_single(row.subject)] or effects
        worst = min(singles, key=lambda row: row.value)
        yield replace(worst, subject="worst_component")


def _is_single(subject: str) -> bool:
    """Return whether a subject is one head, layer or MLP, not a set of them."""
    return subject.startswith("blocks.") and not subject.endswith(".all")


class Ablation:
    """The effect of ablating each component on loss and accuracies, overall and per length.

    Sets of components are ablated, and called redundant, only in a model that solves the task.
    """

    def __init__(self, source: Source, context: MeasurementContext):
        self._source, self._context = source, context
        self._means = Means(source.bridge)
        self._intact: list[Outcome] = []

    def add(self, part: Recording, rows: slice) -> None:
        """Add a part to the means, and record the intact model's outcome on it."""
        self._means.add(part)
        self._intact.append(outcome(part.logits, part.inputs.targets, part.inputs.output))

    def rows(self) -> Iterator[Measurement]:
        """Yield every component's effects, then which components are redundant."""
        context, bridge = self._context, self._source.bridge
        given = context.once("donors", lambda: donors(context.inputs, context.config.seed))
        again, intact = Rerun(self._source, self._means, given), joined_outcomes(self._intact)
        self._lengths = [
            (n, rows)
            for n in context.inputs.task.lengths
            if (rows := context.inputs.rows("all", n) & (intact.count > 0)).any()
        ]

        def effects(components: Sequence[Component]) -> Outcome:
            runs = [(component, kind) for component in components for kind in again.kinds]
            return changes(again.outcomes(runs), intact)

        solved = intact.means()["exact"] >= context.config.solved
        components = [Component.of(site) for site in component_sites(bridge)]
        if solved:  # redundancy is defined only for a model that solves the task
            components += redundancy.joint_sets(bridge)
        measured, margin = effects(components), context.config.margin
        yield from self._effects(components, again.kinds, measured)
        judged = list(zip(components, self._harms(measured, again.kinds), strict=True))
        yield from redundancy.verdicts(judged, margin, solved)
        if not solved:
            return
        grown = redundancy.grow(
            judged, margin, lambda component: self._harms(effects([component]), again.kinds)[0]
        )
        yield from redundancy.rows_of(judged, grown, margin)
        if grown.sites:
            together = effects([grown])
            yield from self._effects([grown], again.kinds, together)
            pairs = [(grown, self._harms(together, again.kinds)[0])]
            yield from redundancy.verdicts(pairs, margin, solved)

    def _harms(self, change: Outcome, kinds: Sequence[str]) -> list[redundancy.Harm]:
        """Return the lower bound of each component's change of exact accuracy, by kind."""
        drawn = change.weighted(self._context.bootstrap)["exact"]
        lowest = [low for low, _ in percentile_intervals(drawn)]
        starts = range(0, len(lowest), len(kinds))
        return [dict(zip(kinds, lowest[at : at + len(kinds)], strict=True)) for at in starts]

    def _effects(
        self, components: Sequence[Component], kinds: Sequence[str], change: Outcome
    ) -> Iterator[Measurement]:
        draws = self._context.bootstrap
        yield from _rows(components, kinds, "", change, draws)
        for length, rows in self._lengths:
            subset = draws if rows.all() else draws[:, rows]
            some = subset if (there := subset.sum(-1) > 0).all() else subset[there]
            yield from _rows(components, kinds, f".length_{length}", change.over(rows), some)


def measure(source: Source, context: MeasurementContext) -> Iterator[Measurement]:
    """Yield the effects of ablating each component of a source."""
    return taken(Ablation(source, context), source)


def _rows(
    components: Sequence[Component],
    kinds: Sequence[str],
    suffix: str,
    change: Outcome,
    draws: Tensor,
) -> Iterator[Measurement]:
    n = int((change.count[:, 0] > 0).sum())
    values, drawn = change.weighted(change.once), change.weighted(draws)
    none = [(None, None)] * (len(components) * len(kinds))
    intervals = {
        effect: percentile_intervals(drawn[effect]) if n > 1 else none for effect in EFFECTS
    }
    value = {effect: values[effect][0].tolist() for effect in EFFECTS}
    runs = [(component, kind) for component in components for kind in kinds]
    for i, (component, kind) in enumerate(runs):
        for effect in EFFECTS:
            yield Measurement(
                f"ablation/{kind}_delta_{effect}",
                f"{component.name}{suffix}",
                value[effect][i],
                n,
                *intervals[effect][i],
            )
