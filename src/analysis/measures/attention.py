"""Overlap between the attention patterns of a learned model's heads and the reference's heads.

The overlap of two patterns is 1 minus their total variation distance, averaged over the queries
where the program is defined. The reference's active heads are those that write something; Tracr
pads its layers with heads that write nothing. Active heads are matched one to one with the learned
heads so that the sum of the overlaps is largest (Kuhn 1955, scipy). A reference head with uniform
attention overlaps with any untrained head, so it is left out of the model's mean.

Shapes: `inputs`, `head` one side's heads and `other` the other's, `query` and `key` positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..activations import PartCache, Recording, Source, taken
from ..base import CONTROLS, MeasurementContext
from ..head_attention import PATTERN, UNIFORM, active_heads, name_of, overlaps, uniform_attention
from ..measurements import Measurement, Metric
from ..statistics import percentile_intervals, weighted_sums

METRICS = (
    Metric("attention/overlap", "share of attention", "neither", 0, 1, "what a head of the "
           "reference and one of the model have in common, mean over queries"),
    Metric("attention/matched_overlap", "share of attention", "higher", 0, 1, "a head of the "
           "reference and the model's head it is matched with (0: the model has too few); of the "
           "model: the mean over the reference's active heads that are not uniform", match=True),
    Metric("attention/matched_overlap_random_init", "share of attention", "neither", 0, 1, "the "
           "same for random inits: their mean; the interval is their lowest and highest"),
    Metric("attention/matched_overlap_other_task", "share of attention", "neither", 0, 1, "the "
           "same for compiled programs of other tasks: mean, lowest and highest"),
    Metric("attention/uniform_overlap", "share of attention", "neither", 0, 1,
        "an active head and uniform attention to everything"),
)  # fmt: skip


def matching(values: Float64[Tensor, "head other"]) -> dict[int, int]:
    """Return the one-to-one matching of rows to columns with the largest sum."""
    rows, columns = linear_sum_assignment(values.numpy(), maximize=True)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True))


@dataclass(frozen=True)
class HeadOverlaps:
    """Overlaps of reference heads with a model's heads, summed over the queries of each input."""

    heads: list[tuple[int, int]]
    sums: Float64[Tensor, "inputs head other"]
    count: Float64[Tensor, " inputs"]

    @property
    def means(self) -> Float64[Tensor, "head other"]:
        """Overlaps, mean over queries."""
        return self.sums.sum(0) / self.count.sum().clamp(min=1)

    def matched(self, rows: list[int]) -> Float64[Tensor, "inputs rows"]:
        """Return the sums of some reference heads with the heads they are matched with."""
        pairs = matching(self.means[rows])
        nothing = torch.zeros(len(self.sums), dtype=torch.float64)
        chosen = [
            self.sums[:, row, pairs[i]] if i in pairs else nothing for i, row in enumerate(rows)
        ]
        return torch.stack(chosen, dim=1) if chosen else self.sums[:, :0, 0]


class AttentionOverlap:
    """Compares the heads of a source with the reference's active ones."""

    def __init__(self, source: Source, context: MeasurementContext):
        self._source, self._context = source, context
        context.will_compare(compare)
        self._theirs = active_heads(context.reference.bridge)
        self._held = context.once("patterns of the reference", PartCache)
        cfg = source.bridge.cfg
        self._ours = [(n, head) for n in range(cfg.n_layers) for head in range(cfg.n_heads)]
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []

    def add(self, part: Recording, rows: slice) -> None:
        """Add the patterns of a part."""
        reference, counted = self._context.reference_source, part.inputs.defined.float()
        theirs = self._held.of(rows, lambda: _patterns(reference.at(rows), self._theirs))
        ours = _patterns(part, self._ours)
        self._sums.append(overlaps(theirs, ours, counted))
        self._counts.append(counted.sum(-1).double())

    def overlaps(self) -> HeadOverlaps:
        """Return the overlaps of all heads."""
        return HeadOverlaps(self._ours, torch.cat(self._sums), torch.cat(self._counts))

    def rows(self) -> Iterator[Measurement]:
        """Yield all pairs, the matched pairs, and the model's mean with that of its controls."""
        context, overlap = self._context, self.overlaps()
        if not self._theirs:
            return
        uniform = context.once("uniform heads", lambda: _uniform(context, self._theirs))
        inits, others = (context.compared(kind, compare) for kind in CONTROLS)
        n, draws = int(overlap.count.sum()), context.bootstrap
        for i, theirs in enumerate(self._theirs):
            yield Measurement("attention/uniform_overlap", name_of(theirs), uniform[i], n)
            for j, ours in enumerate(self._ours):
                pair = f"{name_of(theirs)}~{name_of(ours)}"
                yield Measurement("attention/overlap", pair, float(overlap.means[i, j]), n)
        every = list(range(len(self._theirs)))
        telling = [i for i in every if uniform[i] < UNIFORM]
        sums = overlap.matched(every)
        for i, (value, interval) in enumerate(_values(sums, overlap.count, draws)):
            yield Measurement(
                "attention/matched_overlap", name_of(self._theirs[i]), value, n, *interval
            )
        if not telling:
            return
        whole = overlap.matched(telling).mean(1, keepdim=True)
        value, interval = _values(whole, overlap.count, draws)[0]
        yield Measurement("attention/matched_overlap", "model", value, n, *interval)
        for suffix, models in (("random_init", inits), ("other_task", others)):
            values = [
                float(control.matched(telling).mean(1).sum() / control.count.sum())
                for control in models
            ]
            if values:
                ends = (min(values), max(values))
                mean = sum(values) / len(values)
                yield Measurement(f"attention/matched_overlap_{suffix}", "model", mean, n, *ends)


def measure(source: Source, context: MeasurementContext) -> Iterator[Measurement]:
    """Yield the overlaps of a source's attention with the reference's."""
    return taken(AttentionOverlap(source, context), source)


def compare(source: Source, context: MeasurementContext) -> HeadOverlaps:
    """Return the overlaps of a source's heads with the reference's active heads."""
    statistic = AttentionOverlap(source, context)
    for rows, part in source.parts():
        statistic.add(part, rows)
    return statistic.overlaps()


def _patterns(
    part: Recording, heads: list[tuple[int, int]]
) -> Float[Tensor, "inputs head query key"]:
    n_inputs, n_pos = part.inputs.tokens.shape
    chosen = torch.empty(n_inputs, len(heads), n_pos, n_pos)
    for i, (layer, head) in enumerate(heads):
        chosen[:, i] = part[f"blocks.{layer}.{PATTERN}"][:, head]
    return chosen


def _uniform(context: MeasurementContext, heads: list[tuple[int, int]]) -> list[float]:
    """Return each head's overlap with uniform attention."""
    total, count = torch.zeros(len(heads), dtype=torch.float64), 0.0
    for _, part in context.reference_source.parts():
        everywhere = uniform_attention(part.inputs)[:, None]
        counted = part.inputs.defined.float()
        total += overlaps(_patterns(part, heads), everywhere, counted).sum((0, 2))
        count += float(counted.sum())
    return (total / max(1.0, count)).tolist()


def _values(
    sums: Float64[Tensor, "inputs k"], count: Float64[Tensor, " inputs"], draws: Tensor
) -> list[tuple[float, tuple[float, float]]]:
    """Return means over queries with their bootstrap intervals over inputs."""
    drawn = weighted_sums(draws, torch.column_stack([sums, count]))
    drawn = drawn[:, :-1] / drawn[:, -1:].clamp(min=1)
    means = (sums.sum(0) / count.sum().clamp(min=1)).tolist()
    return list(zip(means, percentile_intervals(drawn), strict=True))
