"""How a model's heads meet the selectors of a task's programs, and what that decides between two.

A head meets a selector by the attention that it has in common with one that attends to just the
selected keys, each alike: 1 less the total variation distance, mean over the queries that select
something and where there is an output. Of a selector that is aggregated all attention counts, for
what goes elsewhere is mixed into the mean. Of one that is counted only attention within the list
does, scaled to sum to 1: what goes to BOS tells the count (Tracr's widths give it a key's share),
not what is selected.

Between two programs only the selectors that the other does not have can tell. Of these are left
out those that say nothing: attention to everything meets them, or the other program's selectors.

Shapes: `inputs`, `head` heads, `query` and `key` positions of an encoded input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import pad
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ...config.schema import AnalysisConfig
from ...data.inputs import InputSet
from ...data.program_selectors import Selection
from ...data.rasp.text import AGGREGATED, COUNTED
from ...models.shapes import random_inits
from ...models.task_model import TaskModel, task_model_of
from ..head_attention import PATTERN, UNIFORM, active_heads, name_of, overlaps, uniform_attention
from ..statistics import bootstrap_counts, percentile_interval, weighted_sums

LEAST = 0.01  # attention within the list from which on it says what is counted
MET, UNMET, UNSURE, SAYS_NOTHING = "met", "not met", "unsure", "says nothing"

Patterns = Iterator[tuple[slice, Float[Tensor, "inputs head query key"]]]
Untrained = Callable[[], Iterable[tuple[TransformerBridge, TaskModel]]]


@dataclass(frozen=True)
class SelectorReach:
    """How the head that meets a selection best does, with a bootstrap interval over inputs.

    The head's name is empty where none has anything in common with it.
    `uniform` is the same of attention to everything, `random_init` the highest of random inits.
    """

    selection: Selection
    head: str
    value: float
    low: float
    high: float
    uniform: float
    random_init: float
    resampled: Float64[Tensor, " draws"]

    @property
    def uses(self) -> list[str]:
        """What the selection is for, in alphabetical order."""
        return sorted(self.selection.uses)


@dataclass(frozen=True)
class OwnSelector:
    """A selector that the other of two programs does not have: what it must surely reach.

    `other` is how well the other program's selectors would meet it.
    """

    reach: SelectorReach
    other: float
    bar: float

    @property
    def verdict(self) -> str:
        """Met, not met, unsure, or that it says nothing."""
        if max(self.reach.uniform, self.other) >= UNIFORM:
            return SAYS_NOTHING
        if self.reach.low >= self.bar:
            return MET
        return UNMET if self.reach.high < self.bar else UNSURE


@dataclass(frozen=True)
class ProgramSelectors:
    """One of two programs: its own selectors, and the mean over those that say something."""

    program: str
    own: tuple[OwnSelector, ...]
    figure: tuple[float, float, float] | None

    @property
    def telling(self) -> tuple[OwnSelector, ...]:
        """Its own selectors that say something."""
        return tuple(selector for selector in self.own if selector.verdict != SAYS_NOTHING)

    @property
    def all_met(self) -> bool:
        """Whether it has such selectors, and every one of them is met."""
        return bool(self.telling) and all(selector.verdict == MET for selector in self.telling)

    @property
    def unmet(self) -> bool:
        """Whether one of them is surely not met."""
        return any(selector.verdict == UNMET for selector in self.telling)


@dataclass(frozen=True)
class SelectorDecision:
    """What selectors decide between two programs: for one of them, or for neither, and why."""

    sides: tuple[ProgramSelectors, ProgramSelectors]
    decided: str | None
    why: str

    @property
    def preferred(self) -> tuple[str, str] | None:
        """The program that is put before the other, and that one; None where none is.

        Where nothing is decided, one whose own selectors are surely not met comes after.
        """
        first, second = (side.program for side in self.sides)
        if self.decided is not None:
            return (first, second) if self.decided == first else (second, first)
        if self.sides[0].unmet == self.sides[1].unmet:
            return None
        return (second, first) if self.sides[0].unmet else (first, second)

    @property
    def text(self) -> str:
        """The decision as a line."""
        if self.decided is None:
            names = " and ".join(side.program for side in self.sides)
            return f"not decided by selectors: {names}: {self.why}"
        return f"decided by selectors: {self.why}"


def untrained_of(
    shape: TransformerBridgeConfig, inputs: InputSet, config: AnalysisConfig
) -> Untrained:
    """Return what makes the random inits of a learned model's shape."""

    def made() -> Iterator[tuple[TransformerBridge, TaskModel]]:
        for bridge in random_inits(shape, config.random_inits, config.seed, config.device):
            yield bridge, task_model_of(bridge, inputs)

    return made


class SelectorComparison:
    """Compares the heads of models of one shape with the selections of a task's programs.

    `untrained` makes random inits of that shape, and how they meet the inputs: a control.
    """

    def __init__(
        self,
        inputs: InputSet,
        programs: Mapping[str, Sequence[Selection]],
        untrained: Untrained,
        config: AnalysisConfig,
    ):
        self.programs = programs
        self._inputs, self._untrained, self._config = inputs, untrained, config
        self._chosen = [
            (name, selection) for name, selections in programs.items() for selection in selections
        ]
        self._others: dict[tuple[str, str], list[float]] = {}

    def reaches(
        self, bridge: TransformerBridge, task_model: TaskModel | None = None
    ) -> dict[str, list[SelectorReach]]:
        """Return how a model meets each selection of each program.

        `task_model` gives its own tokens of the inputs, where they are not the task's.
        """
        heads, task_model = active_heads(bridge), task_model or task_model_of(bridge, self._inputs)
        sums = self._overlaps(_attention(bridge, task_model, heads, self._config.batch_size))
        met: dict[str, list[SelectorReach]] = {name: [] for name in self.programs}
        for i, (name, selection) in enumerate(self._chosen):
            controls = self._uniform[i], max((init[i] for init in self._random_inits), default=0.0)
            met[name].append(self._best(selection, ["", *map(name_of, heads)], sums[i], controls))
        return met

    def decide(
        self, met: Mapping[str, Sequence[SelectorReach]], program: str, other: str
    ) -> SelectorDecision:
        """Return what a model's heads decide between two programs.

        For the one all of whose own selectors are met: surely by `match_selector`, by more than
        half of what its controls leave, and by more than the other's are.
        """
        first, second = self._side(met, program, other), self._side(met, other, program)
        for side, rival in ((first, second), (second, first)):
            if side.all_met and side.figure is not None and side.figure[1] > _high(rival):
                their = "with none of its own" if rival.figure is None else f"{rival.figure[0]:.2f}"
                why = f"{side.program} {side.figure[0]:.2f} over {rival.program} {their}"
                return SelectorDecision((first, second), side.program, why)
        if not first.own and not second.own:
            return SelectorDecision((first, second), None, "they select the same")
        return SelectorDecision(
            (first, second), None, f"{_why(first, other)}; {_why(second, program)}"
        )

    def _side(
        self, met: Mapping[str, Sequence[SelectorReach]], name: str, other: str
    ) -> ProgramSelectors:
        theirs = {selection.key for selection in self.programs[other]}
        own = []
        for match, given in zip(met[name], self._by_selectors(name, other), strict=True):
            if match.selection.key not in theirs:
                control = max(match.uniform, match.random_init, given)
                own.append(
                    OwnSelector(match, given, max(self._config.match_selector, (1 + control) / 2))
                )
        side = ProgramSelectors(name, tuple(own), None)
        if not side.telling:
            return side
        telling = [selector.reach for selector in side.telling]
        value = sum(match.value for match in telling) / len(telling)
        drawn = torch.stack([match.resampled for match in telling]).mean(0)
        return ProgramSelectors(name, side.own, (value, *percentile_interval(drawn)))

    def _by_selectors(self, name: str, other: str) -> list[float]:
        """Return how heads that meet the other program's selectors meet each of a program's."""
        if (name, other) not in self._others:
            wanted, theirs = self.programs[name], self.programs[other]
            sums = _overlaps(_patterns(theirs, self._parts()), wanted)
            self._others[name, other] = [float(means.max()) for means in _means(sums, wanted)]
        return self._others[name, other]

    @cached_property
    def _uniform(self) -> list[float]:
        """How attention to everything, or to all of the list, meets each selection."""

        def given() -> Patterns:
            for rows in self._parts():
                every = uniform_attention(self._inputs.at(rows))
                listed = pad(every[..., 1:], (1, 0))
                listed = listed / listed.sum(-1, keepdim=True).clamp(min=LEAST)
                yield rows, torch.stack([every, listed], dim=1)

        return self._highest(given())

    @cached_property
    def _random_inits(self) -> list[list[float]]:
        """How random inits meet each selection."""
        size = self._config.batch_size
        return [
            self._highest(_attention(bridge, task_model, active_heads(bridge), size))
            for bridge, task_model in self._untrained()
        ]

    def _highest(self, given: Patterns) -> list[float]:
        wanted = [selection for _, selection in self._chosen]
        return [float(means.max()) for means in _means(_overlaps(given, wanted), wanted)]

    def _overlaps(self, given: Patterns) -> list[Float64[Tensor, "inputs k"]]:
        return _overlaps(given, [selection for _, selection in self._chosen])

    def _best(
        self,
        selection: Selection,
        heads: Sequence[str],
        sums: Float64[Tensor, "inputs k"],
        controls: tuple[float, float],
    ) -> SelectorReach:
        count = selection.counted.sum(-1).double()
        means = sums.sum(0) / count.sum()
        best = int(means.argmax())
        draws = bootstrap_counts(len(sums), self._config.bootstrap, self._config.seed)
        drawn = weighted_sums(draws, torch.column_stack([sums[:, best], count]))
        resampled = drawn[:, 0] / drawn[:, 1].clamp(min=1)
        low, high = percentile_interval(resampled)
        head = heads[best % len(heads)]
        return SelectorReach(selection, head, float(means[best]), low, high, *controls, resampled)

    def _parts(self) -> list[slice]:
        size = self._config.batch_size
        return [slice(at, at + size) for at in range(0, len(self._inputs), size)]


def _high(side: ProgramSelectors) -> float:
    return side.figure[2] if side.figure else 0.0


def _why(side: ProgramSelectors, other: str) -> str:
    if not side.own:
        return f"{side.program} has no selector of its own"
    if not side.telling:
        uniform = all(selector.reach.uniform >= UNIFORM for selector in side.own)
        by = "attention to everything" if uniform else f"what {other} selects"
        names = ", ".join(selector.reach.selection.name for selector in side.own)
        return f"{side.program}'s {names} says nothing, because {by} meets it"
    weakest = min(side.telling, key=lambda selector: selector.reach.low - selector.bar)
    figure = f"{weakest.reach.value:.2f}, must surely be at least {weakest.bar:.2f}"
    return f"{side.program}'s {weakest.reach.selection.name} is {weakest.verdict} ({figure})"


@torch.inference_mode()
def _attention(
    bridge: TransformerBridge, task_model: TaskModel, heads: Sequence[tuple[int, int]], size: int
) -> Patterns:
    """Yield the patterns of a model's heads, part by part, after one that attends to nothing.

    What goes to positions before BOS goes to BOS.
    """
    names = [f"blocks.{layer}.{PATTERN}" for layer in range(bridge.cfg.n_layers)]
    first, device = task_model.lead + 1, task_model.device
    for at in range(0, len(task_model.tokens), size):
        rows = slice(at, at + size)
        _, kept = bridge.run_with_cache(
            task_model.tokens[rows].to(device),
            attention_mask=task_model.key_mask[rows].to(device),
            names_filter=names,
        )
        chosen = [kept[names[layer]][:, head].cpu() for layer, head in heads]
        patterns = torch.stack([torch.zeros_like(kept[names[0]][:, 0].cpu()), *chosen], dim=1)
        before = patterns[..., :first].sum(-1, keepdim=True)
        yield rows, torch.cat([before, patterns[..., first:]], dim=-1)[:, :, task_model.lead :]


def _patterns(chosen: Sequence[Selection], parts: Iterable[slice]) -> Patterns:
    for rows in parts:
        yield rows, torch.stack([selection.pattern(rows) for selection in chosen], dim=1)


def _overlaps(given: Patterns, wanted: Sequence[Selection]) -> list[Float64[Tensor, "inputs k"]]:
    """Return for each selection what each head has in common with it, summed over its queries.

    Heads come once for each use of the selection.
    """
    sums: list[list[Tensor]] = [[] for _ in wanted]
    for rows, patterns in given:
        forms = {AGGREGATED: patterns, COUNTED: _within(patterns)}
        for columns, selection in zip(sums, wanted, strict=True):
            expected, counted = selection.pattern(rows)[:, None], selection.counted[rows].float()
            each = [
                overlaps(forms[use], expected, counted)[..., 0] for use in sorted(selection.uses)
            ]
            columns.append(torch.cat(each, dim=1))
    return [torch.cat(columns) for columns in sums]


def _within(
    patterns: Float[Tensor, "inputs head query key"],
) -> Float[Tensor, "inputs head query key"]:
    """Return attention within the list, scaled to sum to 1; 0 where there is hardly any."""
    listed = pad(patterns[..., 1:], (1, 0))
    share = listed.sum(-1, keepdim=True)
    return torch.where(share >= LEAST, listed / share.clamp(min=LEAST), 0.0)


def _means(
    sums: Sequence[Float64[Tensor, "inputs k"]], wanted: Sequence[Selection]
) -> list[Float64[Tensor, " k"]]:
    return [
        columns.sum(0) / selection.counted.sum()
        for columns, selection in zip(sums, wanted, strict=True)
    ]
