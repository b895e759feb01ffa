"""What a program's matches amount to: cuts realised, the path through the model, a verdict.

A site that holds a later cut passes the tests of every earlier one whose values it does not need
any more. So a cut is realised at the sites where it matches and no later cut does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ...data.donors import SCRUB
from ...data.rasp.cuts import Cut, Cuts
from .cut_tests import TOGETHER, Match, by_site

REALISED, PARTLY, NOT_REALISED = "realised", "partially realised", "not realised"
UNDECIDED, NOT_TESTABLE = "undecided", "not testable"
FOLLOWS, FUSES, DIFFERENT = "follows the program", "fuses steps", "different"
NOT_SOLVED = "does not solve the task"


@dataclass(frozen=True)
class Rule:
    """From which match on a cut is realised, or partly; from which accuracy on a model solves."""

    realised: float
    partly: float
    solved: float


@dataclass(frozen=True)
class CutVerdict:
    """What is said of a cut: where it is realised, or its best match at a site of its own."""

    cut: Cut
    verdict: str
    sites: tuple[str, ...]
    best: Match | None


@dataclass(frozen=True)
class Verdict:
    """What is said of a model and a program.

    `path` is the best monotone assignment of cuts to sites, None where a site holds none;
    `missing` are the testable cuts not realised, `fused` the steps that one block does at once;
    `why` is one sentence.
    """

    verdict: str
    why: str
    cuts: tuple[CutVerdict, ...]
    path: Mapping[str, Match | None]
    missing: tuple[Cut, ...]
    fused: tuple[str, ...]


def held(found: Sequence[Match], rule: Rule) -> dict[str, list[Match]]:
    """Return the matches at each site that no later cut's match explains."""
    kept: dict[str, list[Match]] = {}
    for site, row in by_site(found).items():
        matching = [one for one in row.values() if one.value >= rule.realised]
        kept[site] = [
            one for one in row.values() if not any(other.cut.later(one.cut) for other in matching)
        ]
    return kept


def realised(found: Sequence[Match], rule: Rule) -> dict[str, tuple[str, ...]]:
    """Return the sites at which each cut is realised, by the cut's name."""
    sites: dict[str, list[str]] = {}
    for site, row in held(found, rule).items():
        for one in row:
            if one.value >= rule.realised:
                sites.setdefault(one.cut.name, []).append(site)
    return {name: tuple(there) for name, there in sites.items()}


def clear(one: Match, found: Iterable[Match], rule: Rule) -> bool:
    """Return whether surely no later cut is held at a match's site, which would explain it."""
    there = (other for other in found if other.site == one.site and other.cut.later(one.cut))
    return not any(other.high >= rule.realised for other in there)


def surely(one: Match | None, rule: Rule) -> bool:
    """Return whether a match is enough with its whole interval, and above chance."""
    return one is not None and one.low >= rule.realised and one.low > one.chance


def best_of(found: Iterable[Match]) -> Match | None:
    """Return the highest match, None of none."""
    return max(found, key=lambda one: one.value, default=None)


def variable_matches(
    found: Sequence[Match], cuts: Cuts, tested: Sequence[Cut], rule: Rule
) -> dict[str, Match | None]:
    """Return the best match of each variable of the testable cuts that can be interchanged.

    It is the lower of scrub and the variable's own interchange, at a site where no later cut
    explains it; None where there is no such site. Left out are the input's variables and what
    they determine at each position: whatever still holds the input passes their tests.
    """
    names = {score.test for one in found if one.cut in tested for score in one.scores}
    names -= {SCRUB, *cuts.given}
    own = [
        one
        for row in held(found, rule).values()
        for one in row
        if one.cut in tested and clear(one, found, rule)
    ]
    order = dict.fromkeys(name for cut in tested for name in cut.variables if name in names)
    return {
        name: best_of(one.of(name) for one in own if any(s.test == name for s in one.scores))
        for name in order
    }


def testable(cuts: Cuts, reference: Sequence[Match], rule: Rule) -> tuple[Cut, ...]:
    """Return the inner cuts that the compiled reference realises: of others nothing can be said.

    Nor can it be of those that match at its embedding, before anything is computed: whatever
    solves the task could hold them. What its cases leave undecided does not count, nor does what
    chance could reach.
    """
    first = reference[0].site if reference else None
    given = {one.cut.name for one in reference if one.site == first and one.value >= rule.realised}
    there = {
        one.cut.name
        for row in held(reference, rule).values()
        for one in row
        if surely(one, rule) and clear(one, reference, rule)
    }
    return tuple(cut for cut in cuts.inner if cut.name in there - given)


def judge(
    cuts: Cuts, tested: Sequence[Cut], found: Sequence[Match], exact: float, rule: Rule
) -> Verdict:
    """Return the verdict on a model from its matches, its exact accuracy and the testable cuts."""
    per_cut = tuple(_of_cut(cut, cut in tested, found, rule) for cut in cuts.all)
    path = best_path(cuts, found, rule)
    there = _held_on(path, cuts, rule)
    inner = [one for one in per_cut if one.cut in tested]
    missing = tuple(one.cut for one in inner if one.verdict != REALISED)

    def say(verdict: str, why: str, fused: tuple[str, ...] = ()) -> Verdict:
        return Verdict(verdict, why, per_cut, path, missing, fused)

    if exact < rule.solved:
        unsaid = tuple(
            replace(one, verdict=NOT_SOLVED, sites=()) if one in inner else one for one in per_cut
        )
        why = f"exact accuracy {exact:.3f} is below {rule.solved:g}"
        return Verdict(NOT_SOLVED, why, unsaid, path, missing, ())
    if not inner:
        return say(UNDECIDED, "the program has no inner cut that can be tested")
    if not missing and not _in_order(inner, found):
        return say(DIFFERENT, "every testable inner cut is realised, but in another order")
    if not missing:
        share = f"{len(inner)} of its {len(cuts.inner)} inner cuts can be tested"
        return say(FOLLOWS, f"every testable inner cut is realised; {share}")
    names = ", ".join(cut.name for cut in missing)
    if any(one.verdict == UNDECIDED for one in inner):
        unsure = ", ".join(one.cut.name for one in inner if one.verdict == UNDECIDED)
        why = (
            f"the interval of {unsure}, or of a later cut there, holds {rule.realised:g} or chance"
        )
        return say(UNDECIDED, why)
    empty = [site for site, cut in there.items() if cut is None]
    if empty:
        return say(DIFFERENT, f"{names} not realised, and no cut is held at {', '.join(empty)}")
    fused = fused_steps([cut for cut in there.values() if cut is not None], cuts)
    steps = ", ".join(fused) or "steps"
    return say(FUSES, f"{steps} in one go: every site holds a cut, but none {names}", fused)


def _of_cut(cut: Cut, tested: bool, found: Sequence[Match], rule: Rule) -> CutVerdict:
    own = [one for row in held(found, rule).values() for one in row if one.cut == cut]
    best = best_of(own)
    sites = tuple(one.site for one in own if one.value >= rule.realised)
    if not tested:
        return CutVerdict(cut, NOT_TESTABLE, sites, best)
    if best is None:
        return CutVerdict(cut, NOT_REALISED, (), None)
    if best.low < rule.realised <= best.high or (sites and best.low <= best.chance):
        return CutVerdict(cut, UNDECIDED, sites, best)
    if sites:
        sure = tuple(one.site for one in own if surely(one, rule) and clear(one, found, rule))
        return CutVerdict(cut, REALISED if sure else UNDECIDED, sure or sites, best)
    partly = best.low >= rule.partly and best.low > best.chance
    return CutVerdict(cut, PARTLY if partly else NOT_REALISED, (), best)


def _in_order(inner: Sequence[CutVerdict], found: Sequence[Match]) -> bool:
    """Return whether sites at which the cuts are realised can be chosen that never go back.

    Each cut takes the first of its sites that is not before those of the cuts it comes after.
    """
    places = {site: at for at, site in enumerate(by_site(found))}
    taken: dict[str, int] = {}
    waiting = list(inner)
    while waiting:
        one = min(waiting, key=lambda each: sum(each.cut.later(other.cut) for other in waiting))
        waiting.remove(one)
        earliest = max(
            (taken[other.cut.name] for other in inner
             if other.cut.name in taken and one.cut.later(other.cut)), default=0,
        )  # fmt: skip
        later = [places[site] for site in one.sites if places[site] >= earliest]
        if not later:
            return False
        taken[one.cut.name] = min(later)
    return True


def best_path(cuts: Cuts, found: Sequence[Match], rule: Rule) -> dict[str, Match | None]:
    """Return the best monotone assignment of cuts to sites: each site's match, or None.

    Along the sites the cuts never go back; the sum of the matches is the largest there is. Only
    matches that no later cut explains, that are at least partial and above chance are assigned.
    The embedding holds the input where it holds nothing else.
    """
    rows, every = held(found, rule), by_site(found)
    paths: dict[Cut | None, tuple[float, tuple[Match | None, ...]]] = {None: (0.0, ())}
    for site, row in rows.items():
        good = [one for one in row if one.value >= rule.partly and one.low > one.chance]
        choices: list[Match | None] = [None, *good]
        if site == next(iter(rows)) and not good:
            choices = [one for one in every[site].values() if one.cut == cuts.all[0]] or [None]
        extended: dict[Cut | None, tuple[float, tuple[Match | None, ...]]] = {}
        for last, (total, path) in paths.items():
            for one in choices:
                if one is not None and last not in (None, one.cut) and not one.cut.later(last):
                    continue
                more = (total + (one.value if one else 0.0), (*path, one))
                end = one.cut if one else last
                if end not in extended or more[0] > extended[end][0]:
                    extended[end] = more
        paths = extended
    _, best = max(paths.values(), key=lambda one: one[0])
    return dict(zip(rows, best, strict=True))


def _held_on(path: Mapping[str, Match | None], cuts: Cuts, rule: Rule) -> dict[str, Cut | None]:
    """Return the cut that each site surely holds; the embedding always holds the input's."""
    sure = {
        site: one.cut if one and one.value >= rule.realised else None for site, one in path.items()
    }
    first = next(iter(sure), None)
    if first is not None and sure[first] is None:
        sure[first] = cuts.all[0]
    return sure


def fused_steps(held: Sequence[Cut], cuts: Cuts) -> tuple[str, ...]:
    """Return the steps that are done at once between sites that hold cuts, in program order.

    Between two cuts that follow each other those are all steps done at the one and not at the
    other; a single step is not fused with anything.
    """
    found: set[str] = set()
    for one, other in pairwise(held):
        if other.later(one):
            steps = min(other.steps, key=len) - max(one.steps, key=len)
            found |= steps if len(steps) > 1 else set()
    done = sorted({steps for cut in cuts.all for steps in cut.steps}, key=len)
    return tuple(sorted(found, key=lambda step: (_first(step, done), step)))


def _first(step: str, done: Sequence[frozenset[str]]) -> int:
    return next(len(steps) for steps in done if step in steps)


@dataclass(frozen=True)
class Placement:
    """At which sides of which blocks' attention a variable of a testable cut is used alone.

    `sites` are those where it surely is, of queries, keys or values; where it is at none, those of
    all three together. `best` is its best match at one side.
    """

    cut: Cut
    variable: str
    sites: tuple[str, ...]
    best: Match


def placements(sides: Sequence[Match], rule: Rule) -> list[Placement]:
    """Return the placement of each variable, from its testable cuts' matches at the sides."""
    found: dict[tuple[str, str], list[Match]] = {}
    for one in sides:
        for score in one.scores:
            if score.test != SCRUB:
                found.setdefault((one.cut.name, score.test), []).append(one.of(score.test))
    placed = []
    for (_, name), each in found.items():
        alone = [one for one in each if not one.site.endswith(TOGETHER)]
        sites = [one.site for one in alone if surely(one, rule)]
        sites = sites or [one.site for one in each if surely(one, rule)]
        best = max(alone, key=lambda one: one.value)
        placed.append(Placement(best.cut, name, tuple(sites), best))
    return placed
