"""What each head attends to: a selector if one reaches the threshold, else a table, else neither.

A pattern's score is its overlap with the head's attention: 1 minus the total variation distance,
averaged over the queries that count. These are the list's positions and BOS, which later layers
read too; in the last layer, the positions with an output. Selectors are not fitted, so they are
scored on all inputs. Tables are fitted on training inputs and scored on the others. Baselines are
the head's overlap with uniform attention, and the score of the same explanation on random inits of
the model's shape.

Shapes: `inputs`, `head` heads of a layer, `query` and `key` positions of an encoded input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy.optimize import nnls
from torch import Tensor

from ...config.schema import AnalysisConfig
from ...data.inputs import InputSet
from ...data.program_selectors import Selection
from ...models.wiring import HEAD, Component, Site
from ..activations import Recording
from ..head_attention import PATTERN, overlaps, uniform_attention
from ..measures.accuracy import changes, outcome
from ..measures.rerun import Means, Rerun, donors
from ..statistics import bootstrap_counts, percentile_interval, weighted_sums
from .attention_patterns import ITSELF, Selector, bos_rows, selectors
from .attention_tables import TableKind, Tables
from .position_features import Feature

NO_EFFECT = 1e-4  # nats, or squared error, of an input's loss; less is rounding
NEAR_BEST = 0.02  # a simpler table this close to the best one is preferred
JOINT_GAIN = 0.05  # least gain of heads together over the best head alone
JOINT_LEAST = 0.8  # least score of heads together
LEAST_WEIGHT = 0.05  # of a head in a joint explanation
PART = 512  # inputs compared at once
Pattern = Float[Tensor, "inputs query key"]


@dataclass(frozen=True)
class OverlapScore:
    """A head's overlap with a pattern: mean over queries, with its interval."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class SelectorMatch:
    """The selector with the highest score for a head, and the runner-up under another name.

    `mass` is the attention to the selected keys, `at_bos` what BOS attends to, `untrained` the
    highest overlap of any head of a random init with the same pattern.
    """

    scored: OverlapScore
    selector: Selector
    at_bos: str
    mass: float
    runner_up: OverlapScore
    untrained: float
    pattern: Pattern = field(repr=False)


@dataclass(frozen=True, eq=False)
class TableMatch:
    """A table fitted to a head: its score on held-out inputs, and how many numbers it holds.

    `untrained` is the highest score of a table of this kind fitted to a random init's head.
    """

    scored: OverlapScore
    kind: TableKind
    size: int
    untrained: float
    pattern: Pattern = field(repr=False)


@dataclass(frozen=True, eq=False)
class HeadExplanation:
    """A head, whether it is active, and what it attends to.

    `uniform` is its overlap with uniform attention, `seen` its mean pattern over the longest
    inputs.
    """

    layer: int
    head: int
    active: bool
    hard: SelectorMatch
    table: TableMatch
    uniform: float
    bar: float
    longest: Bool[Tensor, " inputs"] = field(repr=False)
    mean_pattern: Float[Tensor, "query key"] = field(repr=False)

    @property
    def explained_pattern(self) -> Float[Tensor, "query key"]:
        """The mean pattern of the best explanation over the longest inputs."""
        return _mean_pattern(self.best.pattern, self.longest)

    @property
    def name(self) -> str:
        """Layer and head, as in 1.0."""
        return f"{self.layer}.{self.head}"

    @property
    def level(self) -> str:
        """How it is explained: by a `selector`, a `table`, as `inactive`, or by `nothing`."""
        if not self.active:
            return "inactive"
        if self.hard.scored.value >= self.bar:
            return "selector"
        return "table" if self.table.scored.value >= self.bar else "nothing"

    @property
    def best(self) -> SelectorMatch | TableMatch:
        """The selector if that explains the head, else the table."""
        return self.hard if self.hard.scored.value >= self.bar else self.table

    @property
    def untrained_too(self) -> bool:
        """Whether random inits reach the threshold too, so that the explanation says little."""
        return self.best.untrained >= self.bar


@dataclass(frozen=True)
class JointHeads:
    """A selector that a weighted mean of a layer's heads matches better than any single head."""

    layer: int
    selector: str
    weights: Mapping[int, float]
    value: float
    alone: float


@dataclass(frozen=True)
class HeadExplanations:
    """All heads of a model, and groups of heads that match a selector only jointly."""

    heads: tuple[HeadExplanation, ...]
    joint: tuple[JointHeads, ...]


@dataclass(frozen=True)
class HeadComparison:
    """What heads are compared with on an input set, and which inputs tables are judged on."""

    inputs: InputSet
    features: tuple[Feature, ...]
    held_out: Bool[Tensor, " inputs"]
    programs: Sequence[Selection]
    config: AnalysisConfig


@torch.inference_mode()
def explain_heads(
    recording: Recording,
    untrained: Sequence[Recording],
    search: HeadComparison,
    step: Callable[[], None] = lambda: None,
) -> HeadExplanations:
    """Return what every head of a model attends to, with random inits as controls.

    `step` is called after each layer.
    """
    inputs, config = search.inputs, search.config
    every = selectors(inputs, search.programs)
    rows = bos_rows(inputs)
    tables = Tables(inputs, search.features, ~search.held_out)
    active = active_heads(recording, config.seed)
    draws = bootstrap_counts(len(inputs), config.bootstrap, config.seed)
    heads, joint = list[HeadExplanation](), list[JointHeads]()
    longest = inputs.lengths == inputs.lengths.max()
    cfg = recording.bridge.cfg
    for layer in range(cfg.n_layers):
        patterns = _patterns(recording, layer)
        at_list, at_bos = _counted(inputs, layer == cfg.n_layers - 1)
        together = torch.stack([selector.pattern for selector in every], dim=1)
        of_list = _overlaps(patterns, together, at_list)
        of_bos = _overlaps(patterns, torch.stack(list(rows.values()), dim=1), at_bos)
        everything = _overlaps(patterns, uniform_attention(inputs)[:, None], at_list + at_bos)[
            ..., 0
        ]
        weights = _Weights(at_list.sum(-1) + at_bos.sum(-1), draws, search.held_out)
        hard = [
            _hard(patterns[:, head], every, rows, of_list[:, head], of_bos[:, head], at_list,
                  weights)
            for head in range(cfg.n_heads)
        ]  # fmt: skip
        table = _tables(patterns, tables, at_list + at_bos, weights, config.explain_at)
        for other in untrained:
            theirs, counted = _patterns(other, layer), at_list + at_bos
            hard = [
                _beside_untrained(match, _highest(theirs, match.pattern, counted)) for match in hard
            ]
            reached = _held_out_scores(theirs, tables, counted, weights)
            table = [_table_beside(match, reached[match.kind.name]) for match in table]
        for head in range(cfg.n_heads):
            heads.append(
                HeadExplanation(
                    layer, head, (layer, head) in active, hard[head], table[head],
                    weights.mean(everything[:, head]), config.explain_at, longest,
                    _mean_pattern(patterns[:, head], longest),
                )
            )  # fmt: skip
        of_layer = [
            explanation.head
            for explanation in heads
            if explanation.layer == layer and explanation.active
        ]
        joint += _joint(layer, patterns, of_layer, every, of_list, at_list)
        step()
    return HeadExplanations(tuple(heads), tuple(joint))


def active_heads(recording: Recording, seed: int) -> set[tuple[int, int]]:
    """Return (layer, head) of the heads whose ablation, of any kind, changes the loss of an input.

    Only inputs where the program has an output count. A change below `NO_EFFECT` is rounding.
    """
    inputs, cfg = recording.inputs, recording.bridge.cfg
    means = Means(recording.bridge)
    means.add(recording)
    again = Rerun(recording, means, donors(inputs, seed))
    heads = [(layer, head) for layer in range(cfg.n_layers) for head in range(cfg.n_heads)]
    runs = [
        (Component.of(Site(layer, HEAD, head)), kind)
        for layer, head in heads
        for kind in again.kinds
    ]
    intact = outcome(recording.logits, inputs.targets, inputs.output)
    change = changes(again.outcomes(runs), intact)
    effect = (change.loss.abs() > NO_EFFECT) | (change.correct != 0)
    anywhere = effect.any(0).reshape(len(heads), len(again.kinds)).any(1).tolist()
    return {head for head, acts in zip(heads, anywhere, strict=True) if acts}


class _Weights:
    """Turns sums over an input's queries into means over queries, with intervals over inputs."""

    def __init__(
        self, count: Float[Tensor, " inputs"], draws: Tensor, held_out: Bool[Tensor, " inputs"]
    ):
        self.count, self._draws, self.held_out = count.double(), draws, held_out

    def mean(self, sums: Float64[Tensor, " inputs"]) -> float:
        return float(sums.sum() / self.count.sum())

    def held_out_mean(self, sums: Float64[Tensor, "inputs *k"]) -> Tensor:
        total: Tensor = sums[self.held_out].sum(0) / self.count[self.held_out].sum()
        return total

    def scored(
        self, name: str, sums: Float64[Tensor, " inputs"], some: bool = False
    ) -> OverlapScore:
        rows = self.held_out if some else torch.ones_like(self.held_out)
        columns = torch.column_stack([sums, self.count])[rows]
        drawn = weighted_sums(self._draws[:, rows], columns)
        low, high = percentile_interval(drawn[:, 0] / drawn[:, 1].clamp(min=1))
        value = float(columns[:, 0].sum() / columns[:, 1].sum())
        return OverlapScore(name, value, min(low, value), max(high, value))


def _mean_pattern(pattern: Pattern, rows: Bool[Tensor, " inputs"]) -> Float[Tensor, "query key"]:
    mean: Tensor = pattern[rows].mean(0)
    return mean


def _patterns(recording: Recording, layer: int) -> Float[Tensor, "inputs head query key"]:
    return recording[f"blocks.{layer}.{PATTERN}"]


def _counted(
    inputs: InputSet, last: bool
) -> tuple[Float[Tensor, "inputs query"], Float[Tensor, "inputs query"]]:
    """Return weights of the queries that count: those of the list, and those of BOS."""
    bos = torch.zeros_like(inputs.real)
    bos[:, 0] = not last
    return (inputs.defined if last else inputs.real).float(), bos.float()


def _overlaps(
    patterns: Float[Tensor, "inputs head query key"],
    given: Float[Tensor, "inputs k query key"],
    counted: Float[Tensor, "inputs query"],
) -> Float64[Tensor, "inputs head k"]:
    parts = [slice(at, at + PART) for at in range(0, len(patterns), PART)]
    return torch.cat([overlaps(patterns[at], given[at], counted[at]) for at in parts])


def _highest(
    patterns: Float[Tensor, "inputs head query key"],
    given: Pattern,
    counted: Float[Tensor, "inputs query"],
) -> float:
    """Return the highest overlap of any of the heads with a pattern."""
    sums = _overlaps(patterns, given[:, None], counted)[..., 0]
    return float((sums.sum(0) / counted.sum()).max())


def _hard(
    pattern: Pattern,
    every: Sequence[Selector],
    rows: Mapping[str, Pattern],
    of_list: Float64[Tensor, "inputs k"],
    of_bos: Float64[Tensor, "inputs r"],
    at_list: Float[Tensor, "inputs query"],
    weights: _Weights,
) -> SelectorMatch:
    names = list(rows)
    bos = int(of_bos.sum(0).argmax()) if float(of_bos.sum()) else names.index(ITSELF)
    order = of_list.sum(0).argsort(descending=True, stable=True).tolist()
    best = every[order[0]]
    second = next((at for at in order if every[at].names[0] != best.names[0]), order[-1])
    sums = of_list + of_bos[:, [bos]]
    chosen = best.pattern + rows[names[bos]]
    on_keys = ((pattern * best.selected).sum(-1) * at_list).sum() / at_list.sum()
    return SelectorMatch(
        weights.scored(best.name, sums[:, order[0]]), best, names[bos], float(on_keys),
        weights.scored(every[second].name, sums[:, second]), 0.0, chosen,
    )  # fmt: skip


def _beside_untrained(match: SelectorMatch, value: float) -> SelectorMatch:
    return SelectorMatch(
        match.scored, match.selector, match.at_bos, match.mass, match.runner_up,
        max(match.untrained, value), match.pattern,
    )  # fmt: skip


def _table_beside(match: TableMatch, value: float) -> TableMatch:
    return TableMatch(
        match.scored, match.kind, match.size, max(match.untrained, value), match.pattern
    )


def _tables(
    patterns: Float[Tensor, "inputs head query key"],
    tables: Tables,
    counted: Float[Tensor, "inputs query"],
    weights: _Weights,
    bar: float,
) -> list[TableMatch]:
    """Return each head's simplest table that reaches the threshold, or is close to the best.

    It is chosen on training inputs and scored on the others.
    """
    train = ~weights.held_out
    fitted = [
        (kind, size, attention, _own_overlaps(patterns, attention, counted))
        for kind, size, attention in tables.fitted(patterns)
    ]
    matches = []
    for head in range(patterns.shape[1]):
        reached = [
            float(sums[train, head].sum() / weights.count[train].sum()) for *_, sums in fitted
        ]
        enough = min(bar, max(reached) - NEAR_BEST) if max(reached) < bar else bar
        kind, size, attention, sums = fitted[next(i for i, v in enumerate(reached) if v >= enough)]
        scored = weights.scored(kind.name, sums[:, head], some=True)
        matches.append(TableMatch(scored, kind, size, 0.0, attention[:, head].clone()))
    return matches


def _held_out_scores(
    patterns: Float[Tensor, "inputs head query key"],
    tables: Tables,
    counted: Float[Tensor, "inputs query"],
    weights: _Weights,
) -> dict[str, float]:
    """Return the highest held-out score of each kind of table over some heads."""
    return {
        kind.name: float(weights.held_out_mean(_own_overlaps(patterns, attention, counted)).max())
        for kind, _, attention in tables.fitted(patterns)
    }


def _own_overlaps(
    patterns: Float[Tensor, "inputs head query key"],
    other: Float[Tensor, "inputs head query key"],
    counted: Float[Tensor, "inputs query"],
) -> Float64[Tensor, "inputs head"]:
    """Return each head's overlap with its counterpart in `other`, summed over queries."""
    common: Tensor = (torch.minimum(patterns, other).sum(-1) * counted[:, None]).sum(-1).double()
    return common


def _joint(
    layer: int,
    patterns: Float[Tensor, "inputs head query key"],
    heads: Sequence[int],
    every: Sequence[Selector],
    of_list: Float64[Tensor, "inputs head k"],
    at_list: Float[Tensor, "inputs query"],
) -> list[JointHeads]:
    """Return the selector that heads of a layer match better jointly than alone, if there is one.

    The weights are from non-negative least squares. Tiny weights are dropped, and the rest are
    scaled to sum to 1.
    """
    if len(heads) < 2:
        return []
    queries = at_list > 0
    flats = torch.stack([patterns[:, head][queries].flatten() for head in heads], dim=1).double()
    alone = of_list[:, list(heads)].sum(0) / at_list.sum()
    root = np.linalg.cholesky((flats.T @ flats).numpy() + 1e-9 * np.eye(len(heads))).T
    best: JointHeads | None = None
    for at, selector in enumerate(every):
        wanted = selector.pattern[queries].flatten().double()
        solved, _ = nnls(root, np.linalg.solve(root.T, (flats.T @ wanted).numpy()))
        if solved.sum() == 0:
            continue
        solved[solved < LEAST_WEIGHT * solved.sum()] = 0
        weights = torch.from_numpy(solved / solved.sum())
        mixed = flats @ weights
        value = float(torch.minimum(mixed, wanted).sum() / queries.sum())
        single_best = float(alone[:, at].max())
        gain = value - single_best
        if min(value - JOINT_LEAST, gain - JOINT_GAIN) >= 0 and (
            best is None or value > best.value
        ):
            shares = {
                head: float(w) for head, w in zip(heads, weights.tolist(), strict=True) if w > 0
            }
            best = JointHeads(layer, selector.name, shares, value, single_best)
    return [best] if best is not None else []
