"""The search for the states of a site: the fewest bits of named variables that are sufficient.

Two searches, always: backward elimination from the whole library, in several orders of preference,
by halves (QuickXplain, Junker 2004), so that most variables are never looked at alone; and forward
growth from the best single variables, then elimination. The cuts of the task's programs are starts,
too. One half of the inputs is for the search, the other judges, and all confirm.

Shapes: `places` the positions of all lists in order, `cases` one target input each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ...data.donors import bases_of
from ...data.inputs import InputSet
from ...data.rasp.library import Library
from ...infra.errors import UserError
from ..statistics import mean_interval, wilson_interval
from .sufficiency import Given, Resampling, Sufficiency, judged

MOST_CASES = 100_000  # that are suggested
FEW = 100  # targets after which a set that surely fails, or surely suffices, is not tested further
FEWEST = 40  # targets on which growth compares variables
GROWN = 6  # variables, at most, that are added to a start
STARTS = 2  # best single variables from which states are grown
TRIED = 40  # variables that growth chooses from: half the cheapest, half the best alone
MARGINS = (0.0, 0.01, 0.02)  # added to the threshold where the other half confirms no state
NEAR = 1.05  # states with at most so many times the fewest bits are reported too
STEP = 0.02  # smallest step of the curve's sufficiency
ALL, JUDGED, SEARCHED, FIRST, GLANCE = "all", "judged", "searched", "first", "glance"


@dataclass(frozen=True)
class Loss:
    """What is lost without a variable: sufficiency with it less that without, and its interval."""

    variable: str
    value: float
    low: float
    high: float

    @property
    def needed(self) -> bool:
        """Whether surely something is lost."""
        return self.low > 0


@dataclass(frozen=True)
class State:
    """A set of variables at a site: how sufficient it is, its bits, and what each is needed for."""

    variables: tuple[str, ...]
    bits: float
    cost: int
    sufficiency: Sufficiency
    losses: tuple[Loss, ...] = ()

    @property
    def minimal(self) -> bool:
        """Whether every variable is needed."""
        return all(loss.needed for loss in self.losses)


@dataclass(frozen=True)
class StateRule:
    """From which sufficiency on a set of variables is a state, and on how many targets it is."""

    sufficient: float
    cases: int
    draws: int
    seed: int


def check_rule(rule: StateRule) -> None:
    """Refuse a rule by which no state could ever be surely sufficient.

    Raises:
        UserError: there are too few cases for the threshold.
    """

    def shows(cases: int) -> bool:
        return wilson_interval(1.0, cases)[0] >= rule.sufficient

    if not shows(rule.cases):
        least = next((n for n in range(rule.cases, MOST_CASES) if shows(n)), None)
        instead = f"give at least {least}" if least else "give a lower analysis.state_sufficient"
        raise UserError(
            f"analysis.state_cases={rule.cases} cannot surely show a sufficiency of "
            f"{rule.sufficient:g} (analysis.state_sufficient), even if all cases pass: {instead}"
        )


class StateSpace:
    """The states of a task, on its inputs: their variables, halves of the inputs, donors.

    It is the same for all sites and models of a task, which can share one.
    """

    def __init__(self, inputs: InputSet, library: Library, rule: StateRule):
        self.inputs, self.library, self.rule = inputs, library, rule
        real = inputs.real
        self.variables = library.variables
        self.resampling = Resampling(
            inputs, [variable.codes[real].numpy() for variable in library.variables], rule.seed
        )
        self._index = {variable.name: i for i, variable in enumerate(library.variables)}
        generator = np.random.default_rng([rule.seed, 21])
        every = bases_of(inputs, len(inputs), generator)
        order = torch.from_numpy(generator.permutation(len(every)))
        half = max(1, len(every) // 2)
        searched, on_rest = (
            _enough_of(every[chosen], rule.cases)[: rule.cases]
            for chosen in (order[:half], order[half:])
        )
        self.targets = {
            ALL: _enough_of(every, rule.cases), JUDGED: on_rest, SEARCHED: searched,
            FIRST: searched[:FEW], GLANCE: searched[:FEWEST],
        }  # fmt: skip

    @cached_property
    def most_bits(self) -> float:
        """The entropy of (input, position) itself: the most bits that a state can have."""
        return float(np.log2(int(self.inputs.real.sum())))

    def numbers(self, names: Iterable[str], program: str = "") -> frozenset[int]:
        """Return a state by its variables' names, or by their names in a program.

        An s-op of a program that is constant is no variable.
        """
        own = self.library.names.get(program, {})
        chosen = (own.get(name, "" if program else name) for name in names)
        return frozenset(self._index[name] for name in chosen if name in self._index)

    def names(self, state: frozenset[int]) -> tuple[str, ...]:
        """Return the names of a state's variables, cheapest first."""
        return tuple(self.variables[i].name for i in self.in_order(state))

    def cost(self, state: frozenset[int]) -> int:
        """Return the size of a state's expressions."""
        return sum(self.variables[i].cost for i in state)

    def in_order(self, state: frozenset[int]) -> list[int]:
        """Return a state's variables, cheapest first."""
        return sorted(state, key=lambda i: (self.variables[i].cost, i))


class StateSearch:
    """Searches for the states of one site; what was tested once is not tested again."""

    def __init__(self, space: StateSpace, own: Tensor, given: Given):
        self._space, self._own, self._given = space, own, given
        self._sufficiencies: dict[tuple[bytes, str], Sufficiency] = {}
        self._tested: dict[bytes, frozenset[int]] = {}
        self._aim = space.rule.sufficient

    def states(self, starts: Iterable[frozenset[int]] = ()) -> list[State]:
        """Return the minimal states of the site, the simplest first; none where none is sufficient.

        All have at most `NEAR` times the fewest bits. States are grown from `starts`, sets of
        variables, and from the best single variables.
        """
        starts = [*starts]
        for margin in MARGINS:
            self._aim = min(1.0, self._space.rule.sufficient + margin)
            fewest = self._fewest(self._candidates(starts))
            if fewest:
                return [self.state(each) for each in fewest]
        return []

    def _candidates(self, starts: Iterable[frozenset[int]]) -> list[frozenset[int]]:
        """Return minimal sufficient sets of both searches."""
        every = [*range(len(self._space.variables))]
        if not self._suffices(frozenset(every)):
            return []
        candidates = dict[frozenset[int], None]()
        for order in self._orders(every):
            candidates[frozenset(self._minimal(order))] = None
        best = sorted(every, key=lambda i: -self._share(frozenset([i])))
        cheapest = sorted(every, key=lambda i: self._space.variables[i].cost)
        choices = [*dict.fromkeys([*cheapest[: TRIED // 2], *best[: TRIED // 2]])]
        alone = (frozenset([i]) for i in best[:STARTS])
        for start in dict.fromkeys([*starts, *alone]):
            grown = self._grown(start, choices)
            if grown is not None:
                candidates[frozenset(self._minimal(grown))] = None
        return [*candidates]

    def _fewest(self, candidates: Iterable[frozenset[int]]) -> list[frozenset[int]]:
        """Return the confirmed candidates with few bits, the simplest first.

        The other half must confirm a candidate, and all inputs surely.
        """
        resampling, cost = self._space.resampling, self._space.cost
        threshold = self._space.rule.sufficient
        confirmed = [
            each
            for each in candidates
            if self.on(each, JUDGED).value >= threshold and self.on(each, ALL).low >= threshold
        ]
        most = NEAR * min(map(resampling.bits, confirmed), default=0.0)
        near = [self._simpler(each, most) for each in confirmed if resampling.bits(each) <= most]
        distinct = dict[bytes, frozenset[int]]()
        for each in sorted(near, key=lambda each: (cost(each), resampling.bits(each))):
            distinct.setdefault(resampling.partition(each), each)
        return [*distinct.values()]

    def _simpler(self, variables: frozenset[int], most: float) -> frozenset[int]:
        """Return a state that determines a state's variables, of smaller expressions.

        A variable is taken in where it makes others superfluous; the bits stay within `most`.
        """
        space, resampling = self._space, self._space.resampling
        every = sorted(range(len(space.variables)), key=lambda i: space.variables[i].cost)
        best = variables
        for i in every[:TRIED]:
            more = best | {i}
            if i in best or resampling.bits(more) > most:
                continue
            whole = resampling.partition(more)
            for other in sorted(best, key=lambda j: -space.variables[j].cost):
                if resampling.partition(more - {other}) == whole:
                    more -= {other}
            if space.cost(more) < space.cost(best):
                best = more
        return best

    def state(self, variables: frozenset[int]) -> State:
        """Return a set of variables as a state: judged on all inputs, and without each variable.

        What is lost without each is only asked of what is surely sufficient.
        """
        space, whole = self._space, self.on(variables, ALL)
        losses = [
            _loss(space.variables[i].name, whole, self.on(variables - {i}, ALL), space.rule)
            for i in (space.in_order(variables) if self._enough(whole) else ())
        ]
        return State(
            space.names(variables), space.resampling.bits(variables), space.cost(variables), whole,
            tuple(losses),
        )  # fmt: skip

    def on(self, variables: frozenset[int], name: str) -> Sufficiency:
        """Return how sufficient a state is on the targets of a name."""
        resampling = self._space.resampling
        key = resampling.partition(variables), name
        if key not in self._sufficiencies:
            cases = resampling.cases(variables, name, self._space.targets[name])
            self._sufficiencies[key] = judged(self._space.inputs, self._own, self._given, cases)
            if name in (FIRST, SEARCHED):
                self._tested.setdefault(key[0], variables)
        return self._sufficiencies[key]

    def curve(self, states: Iterable[State] = ()) -> list[State]:
        """Return the most sufficient of all tested states for its bits or fewer, fewest bits first.

        It begins with nothing, holds the states that are given, and ends with all variables. Each
        is judged on all inputs; only those that are better than all with fewer bits are left.
        """
        resampling = self._space.resampling
        every = frozenset(range(len(self._space.variables)))
        corners = (self._space.numbers(state.variables) for state in states)
        ends = {resampling.partition(each): each for each in (frozenset[int](), *corners, every)}
        chosen, best = [*ends.values()], -1.0
        for state in sorted(self._tested.values(), key=resampling.bits):
            value = self.on(state, FIRST).value
            if value > best + STEP and resampling.partition(state) not in ends:
                chosen.append(state)
                best = value
        points, best = list[State](), -1.0
        for state in sorted(chosen, key=resampling.bits):
            whole = self.on(state, ALL)
            if whole.value > best:
                best = whole.value
                bits, cost = resampling.bits(state), self._space.cost(state)
                points.append(State(self._space.names(state), bits, cost, whole))
        return points

    def permuted(self, state: State) -> float:
        """Return how sufficient a state's partition is with labels permuted over all places."""
        space = self._space
        labels = space.resampling.labels(space.numbers(state.variables))
        generator = np.random.default_rng([space.rule.seed, 23])
        cases = space.resampling.drawn(generator.permutation(labels), space.targets[JUDGED])
        return judged(space.inputs, self._own, self._given, cases).value

    def _enough(self, sufficiency: Sufficiency) -> bool:
        return sufficiency.low >= self._space.rule.sufficient

    def _suffices(self, variables: frozenset[int]) -> bool:
        """Return whether variables are surely sufficient on the half that is searched on."""
        first = self.on(variables, FIRST)
        if first.low >= self._aim or first.high < self._aim:
            return first.low >= self._aim
        return self.on(variables, SEARCHED).low >= self._aim

    def _orders(self, every: Sequence[int]) -> Iterator[list[int]]:
        """Yield all variables, those that are best kept first, by several preferences."""
        variables = self._space.variables
        yield sorted(every, key=lambda i: (variables[i].cost, variables[i].bits))
        yield sorted(every, key=lambda i: variables[i].bits)
        yield sorted(every, key=lambda i: (not variables[i].list_wide, variables[i].bits))

    def _minimal(self, candidates: Sequence[int]) -> list[int]:
        """Return a sufficient subset of which no part suffices; earlier variables are preferred."""
        if self._suffices(frozenset()):
            return []
        return _quick_explain(lambda some: self._suffices(frozenset(some)), [], [*candidates])

    def _share(self, variables: frozenset[int]) -> float:
        """Return the share of positions that keep their output: finer than that of whole ones."""
        return self.on(variables, GLANCE).positions

    def _grown(self, start: frozenset[int], choices: Sequence[int]) -> list[int] | None:
        """Return a start with variables added until it suffices, the last first; None if never."""
        grown, added = start, sorted(start)
        for _ in range(GROWN):
            if self._suffices(grown):
                return added
            left = [i for i in choices if i not in grown]
            if not left:
                return None
            best = max(left, key=lambda i: self._share(grown | {i}))
            grown, added = grown | {best}, [best, *added]
        return added if self._suffices(grown) else None


def _enough_of(targets: Int64[Tensor, " few"], count: int) -> Int64[Tensor, " targets"]:
    """Return targets repeated until there are enough: each time with other donors."""
    return targets.repeat(max(1, -(-count // max(1, len(targets)))))


def _quick_explain(
    enough: Callable[[list[int]], bool], base: list[int], candidates: list[int], asked: bool = True
) -> list[int]:
    """Return the preferred minimal subset that is enough together with the base.

    `asked` says that the base alone is known not to be enough.
    """
    if not asked and enough(base):
        return []
    if len(candidates) == 1:
        return candidates
    half = len(candidates) // 2
    first, second = candidates[:half], candidates[half:]
    from_second = _quick_explain(enough, [*base, *first], second, asked=False)
    from_first = _quick_explain(enough, [*base, *from_second], first, asked=not from_second)
    return [*from_first, *from_second]


def _loss(name: str, whole: Sufficiency, less: Sufficiency, rule: StateRule) -> Loss:
    """Return what is lost on the targets that both have, with a paired interval."""
    both, at, other = np.intersect1d(
        whole.targets.numpy(), less.targets.numpy(), assume_unique=True, return_indices=True
    )
    if len(both) < 2:
        return Loss(name, 0.0, -1.0, 1.0)
    difference = whole.kept[at].double() - less.kept[other].double()
    low, high = mean_interval(difference, rule.draws, rule.seed)
    return Loss(name, float(difference.mean()), float(low or 0.0), float(high or 0.0))
