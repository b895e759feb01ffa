"""Which program a model's states are: cuts held at its sites, in order, or something else, named.

A cut is *held* at a site if it is surely sufficient there, each of its variables is surely needed,
and no later cut is sufficient without determining it. The input's cut needs only to be sufficient:
a site may hold the input, or less. A cut is held *with extra* if it is, together with further
variables of a state of the site, whose bits are named. A model *follows* a program if every site
between its embedding and its last block holds a cut, never an earlier one than before, and an inner
cut at least once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...data.rasp.cuts import Cut, Cuts
from .search import State, StateSearch, StateSpace

FOLLOWS, WITH_EXTRA, FUSES = "follows", "follows, with extra", "fuses steps"
OTHER, NO_SHORT_STATE = "runs something else", "no short state"
NOT_SOLVED = "does not solve the task"
RANKS = (FOLLOWS, WITH_EXTRA, FUSES, OTHER, NO_SHORT_STATE, NOT_SOLVED)
MOST_EXTRA = 0.5  # bits of the extra variables, at most, as a share of the cut's own


@dataclass(frozen=True)
class CutAtSite:
    """A cut of a program at a site: how sufficient it is, and whether it is held there.

    `state` is the cut without variables that its others determine, with the `extra` variables if
    it is held with these; `extra_bits` is what they add. `why` says why it is not held.
    """

    program: str
    cut: Cut
    site: str
    state: State
    extra: tuple[str, ...]
    extra_bits: float
    held: bool
    why: str = ""


@dataclass(frozen=True)
class StatesVerdict:
    """The verdict on a program: in one word, in one sentence, and the cut held at each site."""

    program: str
    verdict: str
    why: str
    path: Mapping[str, CutAtSite | None]

    @property
    def rank(self) -> int:
        """The place of the verdict among all: 0 is the best."""
        return RANKS.index(self.verdict)

    @property
    def extra_bits(self) -> float:
        """The most bits of extra variables at a site."""
        return max((at.extra_bits for at in self.path.values() if at is not None), default=0.0)


class CutTests:
    """Asks which cuts of programs a site holds; `search` is the site's, `states` its states."""

    def __init__(self, space: StateSpace, search: StateSearch, site: str, states: Sequence[State]):
        self._space, self._search, self._site, self._states = space, search, site, states
        self._threshold = space.rule.sufficient

    def of_program(self, program: str, cuts: Cuts) -> list[CutAtSite]:
        """Return how the site stands to each cut of a program, in program order."""
        alone = {cut: self._search.state(self._irredundant(program, cut)) for cut in cuts.all}
        judged = [self._alone(program, cuts, cut, alone) for cut in cuts.all]
        if any(at.held for at in judged):
            return judged
        best = self._with_extra(program, cuts)
        return [best if best is not None and at.cut is best.cut else at for at in judged]

    def _irredundant(self, program: str, cut: Cut) -> frozenset[int]:
        """Return a cut without the variables that its others determine, dearest left out first."""
        chosen = self._space.numbers(cut.variables, program)
        resampling = self._space.resampling
        whole = resampling.partition(chosen)
        for i in sorted(chosen, key=lambda i: -self._space.variables[i].cost):
            if resampling.partition(chosen - {i}) == whole:
                chosen -= {i}
        return chosen

    def _alone(self, program: str, cuts: Cuts, cut: Cut, alone: Mapping[Cut, State]) -> CutAtSite:
        state, is_input = alone[cut], cut is cuts.all[0]
        why = self._fault(state, needed=not is_input)
        later = (other for other in cuts.all if other.later(cut))
        for other in later if not why else ():
            enough = alone[other].sufficiency.high >= self._threshold
            if enough and not self._determines(alone[other], state):
                why = f"the later {', '.join(other.variables)} is sufficient too"
                break
        return CutAtSite(program, cut, self._site, state, (), 0.0, not why, why)

    def _determines(self, state: State, other: State) -> bool:
        """Return whether a state's values determine another's: then it is sufficient as well."""
        space, partition = self._space, self._space.resampling.partition
        chosen = space.numbers(state.variables)
        return partition(chosen | space.numbers(other.variables)) == partition(chosen)

    def _fault(self, state: State, needed: bool = True) -> str:
        """Return why a state is not surely one: not sufficient, or a variable is not needed."""
        sufficiency = state.sufficiency
        if sufficiency.low < self._threshold:
            return f"sufficiency {sufficiency.value:.3f} is not surely {self._threshold:g}"
        idle = [loss.variable for loss in state.losses if needed and not loss.needed]
        return f"{', '.join(idle)}: not surely needed" if idle else ""

    def _with_extra(self, program: str, cuts: Cuts) -> CutAtSite | None:
        """Return the cut with the fewest extra bits that a state of the site holds with others."""
        space, resampling = self._space, self._space.resampling
        held = list[CutAtSite]()
        for state in self._states:
            chosen = space.numbers(state.variables)
            for cut in cuts.all:
                own = self._irredundant(program, cut)
                if resampling.partition(chosen | own) != resampling.partition(chosen):
                    continue  # the state does not determine the cut
                extra = frozenset(
                    i
                    for i in chosen
                    if resampling.partition(own | {i}) != resampling.partition(own)
                )
                bits = resampling.bits(own | extra) - resampling.bits(own)
                if not extra or bits > MOST_EXTRA * resampling.bits(own):
                    continue
                both = self._search.state(own | extra)
                if self._fault(both):
                    continue
                names = space.names(extra)
                held.append(CutAtSite(program, cut, self._site, both, names, bits, True))
        return min(held, key=lambda at: at.extra_bits, default=None)


def program_verdict(
    program: str,
    cuts: Cuts,
    sites: Sequence[str],
    tests: Iterable[CutAtSite],
    short: Mapping[str, bool],
    exact: float,
    solved: float,
) -> StatesVerdict:
    """Return the verdict on a program from its cuts at the residual sites, first to last.

    `short` says of each site whether it has a state that explains it.
    """
    path: dict[str, CutAtSite | None] = dict.fromkeys(sites)
    for at in tests:
        if at.held and (path[at.site] is None or at.cut.later(path[at.site].cut)):  # type: ignore[union-attr]
            path[at.site] = at

    def say(verdict: str, why: str) -> StatesVerdict:
        return StatesVerdict(program, verdict, why, path)

    if exact < solved:
        return say(NOT_SOLVED, f"exact accuracy {exact:.3f} is below {solved:g}")
    between = list(sites[1:-1])
    if not between:
        return say(FUSES, "one block does it all: what its parts hold says how")
    missing = [site for site in between if path[site] is None]
    if missing:
        where = ", ".join(missing)
        if all(short[site] for site in missing):
            return say(OTHER, f"{where}: the state is no cut of {program}")
        return say(NO_SHORT_STATE, f"{where}: no cut of {program}, and no short state")
    held = [path[site] for site in between]
    chosen = [at for at in held if at is not None]
    for before, after in pairwise(chosen):
        if before.cut is not after.cut and not after.cut.later(before.cut):
            return say(OTHER, f"{after.site} holds an earlier cut than {before.site}")
    inner = [at for at in chosen if at.cut in cuts.inner]
    if not inner:
        return say(FUSES, f"no site between the first and the last holds an inner cut of {program}")
    names = "; ".join(dict.fromkeys(", ".join(at.cut.variables) for at in inner))
    extra = [at for at in chosen if at.extra]
    if extra:
        more = "; ".join(
            f"{', '.join(at.extra)} ({at.extra_bits:.1f} bits) at {at.site}" for at in extra
        )
        return say(WITH_EXTRA, f"the inner cuts {names} are held, with {more}")
    return say(FOLLOWS, f"the inner cuts are held, and nothing else: {names}")
