"""The explained heads and neurons of a model, and the result as typed tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from ...data.outputs import Categorical, Output
from ...infra.typed_tables import TypedTable, spread
from ..results import EXPLANATION, About, Key, Result, known, untitled
from .heads import HeadExplanations
from .neurons import VARIES, NeuronExplanation, share_explained
from .position_features import Feature
from .substitution import CONTROLS, InputShare, SubstitutedAccuracy


@dataclass(frozen=True)
class Explanation:
    """The explained heads and neurons of a model, and its accuracy with them replaced.

    `n` of `total` inputs were used. `untrained` are the neurons of a random init. A part is None
    until it is computed. `rows` hold the accuracies of the explained model.
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
    heads: HeadExplanations | None = None
    neurons: tuple[NeuronExplanation, ...] | None = None
    untrained: tuple[NeuronExplanation, ...] = ()
    rows: tuple[SubstitutedAccuracy, ...] | None = None

    @property
    def solved(self) -> bool:
        """Whether the model solves its task."""
        return self.exact >= self.solved_from

    @property
    def parts(self) -> tuple[bool, bool, bool]:
        """Which of its parts are there: heads, neurons, the explained model."""
        return self.heads is not None, self.neurons is not None, self.rows is not None


def by_importance(neurons: Sequence[NeuronExplanation]) -> list[NeuronExplanation]:
    """Return the neurons by the rise in loss when each is switched off, highest first."""
    return sorted(neurons, key=lambda neuron: -neuron.effect.loss if neuron.effect else math.inf)


def shares(neurons: Sequence[NeuronExplanation]) -> dict[int, tuple[float, int]]:
    """Return for each layer the explained share of its varying neurons, and how many vary."""
    by_layer = {}
    for layer in sorted({neuron.layer for neuron in neurons}):
        share, n = share_explained([neuron for neuron in neurons if neuron.layer == layer])
        if n:
            by_layer[layer] = (share, n)
    return by_layer


@dataclass(frozen=True, kw_only=True)
class HeadRow:
    """A head: its best selector and its simplest table, with intervals and controls."""

    model: str
    step: int | None = None
    layer: int
    head: int
    level: str
    selector: str
    also: str = ""
    at_bos: str = ""
    selector_overlap: float | None
    selector_low: float | None = None
    selector_high: float | None = None
    mass: float | None = None
    runner_up: str = ""
    runner_up_overlap: float | None = None
    selector_random_init: float | None = None
    table: str
    table_numbers: int = 0
    table_overlap: float | None
    table_low: float | None = None
    table_high: float | None = None
    table_random_init: float | None = None
    uniform: float | None


@dataclass(frozen=True, kw_only=True)
class NeuronRow:
    """A neuron: its state, the predicate of when it is on, and its effect.

    `shuffled` is the same fit to shuffled on/off. `judged_on` is `held_out` or, where it is too
    rare, `all`. `adds_to` is what it adds to each output.
    """

    model: str
    step: int | None = None
    layer: int
    neuron: int
    state: str
    on_share: float | None = None
    predicate: str
    depth: int = 0
    accuracy: float | None
    low: float | None = None
    high: float | None = None
    shuffled: float | None
    judged_on: str = ""
    explained: bool | None = None
    loss_change: float | None = None
    correlation: float | None = None
    ratio: float | None = None
    mean_on: float | None = None
    mean_off: float | None = None
    adds_to: dict[str, float] = field(default_factory=dict, metadata=spread("adds_to_{}"))

    @property
    def judged(self) -> bool:
        """Whether its predicate has an accuracy."""
        return self.explained is not None and self.accuracy is not None


@dataclass(frozen=True, kw_only=True)
class ExplainedRow:
    """The accuracy of the model with the layers up to one replaced by explanations.

    `up_to_layer` is -1 for the model as it is. `inputs` are `all` or `held_out`; of all inputs
    there is also a row for each `length`.
    """

    model: str
    step: int | None = None
    explained: str
    control: bool
    up_to_layer: int
    inputs: str
    length: int | None
    n: int
    exact: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExplanationResult(Result):
    """What a model's heads and neurons do, and how good the model is with that put in."""

    heads: tuple[HeadRow, ...] = ()
    neurons: tuple[NeuronRow, ...] = ()
    untrained: tuple[NeuronRow, ...] = ()
    explained: tuple[ExplainedRow, ...] = ()
    explanation: Explanation | None = field(default=None, repr=False, compare=False)

    KIND: ClassVar[str] = EXPLANATION
    HEADS: ClassVar = TypedTable(HeadRow, "heads.csv", earlier=untitled)
    NEURONS: ClassVar = TypedTable(NeuronRow, "neurons.csv", earlier=untitled)
    UNTRAINED: ClassVar = TypedTable(NeuronRow, "neurons-random-init.csv", earlier=untitled)
    EXPLAINED: ClassVar = TypedTable(ExplainedRow, "explained.csv", earlier=untitled)
    TABLES: ClassVar[Mapping[str, TypedTable[Any]]] = {
        "heads": HEADS, "neurons": NEURONS, "untrained": UNTRAINED, "explained": EXPLAINED,
    }  # fmt: skip
    PICTURES: ClassVar[tuple[str, ...]] = ("explanation.png",)

    @classmethod
    def of(cls, explanation: Explanation, key: Key) -> Self:
        """Return an explanation as a result; it is finished if all its parts are there."""
        parts = explanation.parts
        about = About(key, explanation.task, all(parts), (sum(parts),))
        output = explanation.output
        return cls(
            about=about, heads=tuple(_heads(explanation.heads, key)),
            neurons=tuple(_neurons(explanation.neurons or (), output, key)),
            untrained=tuple(_neurons(explanation.untrained, output, key)),
            explained=tuple(_explained(explanation.rows or (), key)), explanation=explanation,
        )  # fmt: skip


def _heads(heads: HeadExplanations | None, key: Key) -> Iterator[HeadRow]:
    for head in heads.heads if heads is not None else ():
        hard, table = head.hard, head.table
        yield HeadRow(
            model=key.model, step=key.step, layer=head.layer, head=head.head, level=head.level,
            selector=hard.scored.name, also=" = ".join(hard.selector.names[1:]),
            at_bos=hard.at_bos, selector_overlap=known(hard.scored.value),
            selector_low=known(hard.scored.low), selector_high=known(hard.scored.high),
            mass=known(hard.mass), runner_up=hard.runner_up.name,
            runner_up_overlap=known(hard.runner_up.value),
            selector_random_init=known(hard.untrained), table=table.kind.name,
            table_numbers=table.size, table_overlap=known(table.scored.value),
            table_low=known(table.scored.low), table_high=known(table.scored.high),
            table_random_init=known(table.untrained), uniform=known(head.uniform),
        )  # fmt: skip


def _neurons(neurons: Sequence[NeuronExplanation], output: Output, key: Key) -> Iterator[NeuronRow]:
    """Yield the neurons, the most important first."""
    values = output.values if isinstance(output, Categorical) else ("output",)
    for each in by_importance(neurons):
        effect, varies = each.effect, each.state == VARIES
        added = effect.direct if effect else ()
        yield NeuronRow(
            model=key.model, step=key.step, layer=each.layer, neuron=each.index, state=each.state,
            on_share=known(each.share), predicate=each.text, depth=each.depth,
            accuracy=known(each.accuracy), low=known(each.low), high=known(each.high),
            shuffled=known(each.floor),
            judged_on=("all" if each.rare else "held_out") if varies else "",
            explained=bool(each.explained), loss_change=known(effect.loss if effect else None),
            correlation=known(effect.correlation if effect else None),
            ratio=known(effect.ratio if effect else None), mean_on=known(each.on),
            mean_off=known(each.off),
            adds_to={str(value): float(n) for value, n in zip(values, added, strict=False)
                     if not math.isnan(n)},
        )  # fmt: skip


def _explained(rows: Sequence[SubstitutedAccuracy], key: Key) -> Iterator[ExplainedRow]:
    for row in rows:
        parts: list[tuple[str, int | None, InputShare]]
        parts = [("all", None, row.exact), ("held_out", None, row.held_out)]
        parts += [("all", length, share) for length, share in row.by_length.items()]
        for inputs, length, share in parts:
            yield ExplainedRow(
                model=key.model, step=key.step, explained=row.variant,
                control=row.variant in CONTROLS, up_to_layer=row.layer, inputs=inputs,
                length=length, n=share.n, exact=known(share.value), low=known(share.low),
                high=known(share.high),
            )  # fmt: skip
