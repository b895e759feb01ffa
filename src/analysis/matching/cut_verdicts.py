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


def held(matches: Sequence[Match], rule: Rule) -> dict[str, list[Match]]:
    """Return the matches at each site that no later cut's match explains."""
    kept: dict[str, list[Match]] = {}
    for site, row in by_site(matches).items():
        matching = [match for match in row.values() if match.value >= rule.realised]
        kept[site] = [
            match
            for match in row.values()
            if not any(other.cut.later(match.cut) for other in matching)
        ]
    return kept


def realised(matches: Sequence[Match], rule: Rule) -> dict[str, tuple[str, ...]]:
    """Return the sites at which each cut is realised, by the cut's name."""
    sites: dict[str, list[str]] = {}
    for site, row in held(matches, rule).items():
        for match in row:
            if match.value >= rule.realised:
                sites.setdefault(match.cut.name, []).append(site)
    return {name: tuple(there) for name, there in sites.items()}


def clear(match: Match, matches: Iterable[Match], rule: Rule) -> bool:
    """Return whether surely no later cut is held at a match's site, which would explain it."""
    there = (other for other in matches if other.site == match.site and other.cut.later(match.cut))
    return not any(other.high >= rule.realised for other in there)


def surely(match: Match | None, rule: Rule) -> bool:
    """Return whether a match is enough with its whole interval, and above chance."""
    return match is not None and match.low >= rule.realised and match.low > match.chance


def best_of(matches: Iterable[Match]) -> Match | None:
    """Return the highest match, None of none."""
    return max(matches, key=lambda match: match.value, default=None)


def variable_matches(
    matches: Sequence[Match], cuts: Cuts, tested: Sequence[Cut], rule: Rule
) -> dict[str, Match | None]:
    """Return the best match of each variable of the testable cuts that can be interchanged.

    It is the lower of scrub and the variable's own interchange, at a site where no later cut
    explains it; None where there is no such site. Left out are the input's variables and what
    they determine at each position: whatever still holds the input passes their tests.
    """
    names = {score.test for match in matches if match.cut in tested for score in match.scores}
    names -= {SCRUB, *cuts.given}
    own = [
        match
        for row in held(matches, rule).values()
        for match in row
        if match.cut in tested and clear(match, matches, rule)
    ]
    order = dict.fromkeys(name for cut in tested for name in cut.variables if name in names)
    return {
        name: best_of(match.of(name) for match in own if any(s.test == name for s in match.scores))
        for name in order
    }


def testable(cuts: Cuts, reference: Sequence[Match], rule: Rule) -> tuple[Cut, ...]:
    """Return the inner cuts that the compiled reference realises: of others nothing can be said.

    Nor can it be of those that match at its embedding, before anything is computed: whatever
    solves the task could hold them. What its cases leave undecided does not count, nor does what
    chance could reach.
    """
    first = reference[0].site if reference else None
    given = {
        match.cut.name
        for match in reference
        if match.site == first and match.value >= rule.realised
    }
    there = {
        match.cut.name
        for row in held(reference, rule).values()
        for match in row
        if surely(match, rule) and clear(match, reference, rule)
    }
    return tuple(cut for cut in cuts.inner if cut.name in there - given)


def judge(
    cuts: Cuts, tested: Sequence[Cut], matches: Sequence[Match], exact: float, rule: Rule
) -> Verdict:
    """Return the verdict on a model from its matches, its exact accuracy and the testable cuts."""
    per_cut = tuple(_of_cut(cut, cut in tested, matches, rule) for cut in cuts.all)
    path = best_path(cuts, matches, rule)
    there = _held_on(path, cuts, rule)
    inner = [cut_verdict for cut_verdict in per_cut if cut_verdict.cut in tested]
    missing = tuple(cut_verdict.cut for cut_verdict in inner if cut_verdict.verdict != REALISED)

    def say(verdict: str, why: str, fused: tuple[str, ...] = ()) -> Verdict:
        return Verdict(verdict, why, per_cut, path, missing, fused)

    if exact < rule.solved:
        unsaid = tuple(
            replace(cut_verdict, verdict=NOT_SOLVED, sites=())
            if cut_verdict in inner
            else cut_verdict
            for cut_verdict in per_cut
        )
        why = f"exact accuracy {exact:.3f} is below {rule.solved:g}"
        return Verdict(NOT_SOLVED, why, unsaid, path, missing, ())
    if not inner:
        return say(UNDECIDED, "the program has no inner cut that can be tested")
    if not missing and not _in_order(inner, matches):
        return say(DIFFERENT, "every testable inner cut is realised, but in another order")
    if not missing:
        share = f"{len(inner)} of its {len(cuts.inner)} inner cuts can be tested"
        return say(FOLLOWS, f"every testable inner cut is realised; {share}")
    names = "; ".join(cut.label for cut in missing)
    if any(cut_verdict.verdict == UNDECIDED for cut_verdict in inner):
        unsure = "; ".join(
            cut_verdict.cut.label for cut_verdict in inner if cut_verdict.verdict == UNDECIDED
        )
        why = (
            f"the interval of {unsure}, or of a later cut there, contains {rule.realised:g} or "
            "chance"
        )
        return say(UNDECIDED, why)
    empty = [site for site, cut in there.items() if cut is None]
    if empty:
        return say(DIFFERENT, f"{names}: not realised, and no cut is held at {', '.join(empty)}")
    fused = fused_steps([cut for cut in there.values() if cut is not None], cuts)
    steps = ", ".join(fused) or "steps"
    return say(FUSES, f"{steps} in one go: every site holds a cut, but none holds {names}", fused)


def _of_cut(cut: Cut, tested: bool, matches: Sequence[Match], rule: Rule) -> CutVerdict:
    own = [match for row in held(matches, rule).values() for match in row if match.cut == cut]
    best = best_of(own)
    sites = tuple(match.site for match in own if match.value >= rule.realised)
    if not tested:
        return CutVerdict(cut, NOT_TESTABLE, sites, best)
    if best is None:
        return CutVerdict(cut, NOT_REALISED, (), None)
    if best.low < rule.realised <= best.high or (sites and best.low <= best.chance):
        return CutVerdict(cut, UNDECIDED, sites, best)
    if sites:
        sure = tuple(
            match.site for match in own if surely(match, rule) and clear(match, matches, rule)
        )
        return CutVerdict(cut, REALISED if sure else UNDECIDED, sure or sites, best)
    partly = best.low >= rule.partly and best.low > best.chance
    return CutVerdict(cut, PARTLY if partly else NOT_REALISED, (), best)


def _in_order(inner: Sequence[CutVerdict], matches: Sequence[Match]) -> bool:
    """Return whether sites at which the cuts are realised can be chosen that never go back.

    Each cut takes the first of its sites that is not before those of the cuts it comes after.
    """
    places = {site: at for at, site in enumerate(by_site(matches))}
    taken: dict[str, int] = {}
    waiting = list(inner)
    while waiting:
        first = min(waiting, key=lambda each: sum(each.cut.later(other.cut) for other in waiting))
        waiting.remove(first)
        earliest = max(
            (taken[other.cut.name] for other in inner
             if other.cut.name in taken and first.cut.later(other.cut)), default=0,
        )  # fmt: skip
        later = [places[site] for site in first.sites if places[site] >= earliest]
        if not later:
            return False
        taken[first.cut.name] = min(later)
    return True


def best_path(cuts: Cuts, matches: Sequence[Match], rule: Rule) -> dict[str, Match | None]:
    """Return the best monotone assignment of cuts to sites: each site's match, or None.

    Along the sites the cuts never go back; the sum of the matches is the largest there is. Only
    matches that no later cut explains, that are at least partial and above chance are assigned.
    The embedding holds the input where it holds nothing else.
    """
    rows, every = held(matches, rule), by_site(matches)
    paths: dict[Cut | None, tuple[float, tuple[Match | None, ...]]] = {None: (0.0, ())}
    for site, row in rows.items():
        good = [match for match in row if match.value >= rule.partly and match.low > match.chance]
        choices: list[Match | None] = [None, *good]
        if site == next(iter(rows)) and not good:
            choices = [match for match in every[site].values() if match.cut == cuts.all[0]] or [
                None
            ]
        extended: dict[Cut | None, tuple[float, tuple[Match | None, ...]]] = {}
        for last, (total, path) in paths.items():
            for match in choices:
                if (
                    match is not None
                    and last not in (None, match.cut)
                    and not match.cut.later(last)
                ):
                    continue
                more = (total + (match.value if match else 0.0), (*path, match))
                end = match.cut if match else last
                if end not in extended or more[0] > extended[end][0]:
                    extended[end] = more
        paths = extended
    _, best = max(paths.values(), key=lambda way: way[0])
    return dict(zip(rows, best, strict=True))


def _held_on(path: Mapping[str, Match | None], cuts: Cuts, rule: Rule) -> dict[str, Cut | None]:
    """Return the cut that each site surely holds; the embedding always holds the input's."""
    sure = {
        site: match.cut if match and match.value >= rule.realised else None
        for site, match in path.items()
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
    fused: set[str] = set()
    for earlier, other in pairwise(held):
        if other.later(earlier):
            steps = min(other.steps, key=len) - max(earlier.steps, key=len)
            fused |= steps if len(steps) > 1 else set()
    done = sorted({steps for cut in cuts.all for steps in cut.steps}, key=len)
    return tuple(sorted(fused, key=lambda step: (_first(step, done), step)))


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
    matches: dict[tuple[str, str], list[Match]] = {}
    for match in sides:
        for score in match.scores:
            if score.test != SCRUB:
                matches.setdefault((match.cut.name, score.test), []).append(match.of(score.test))
    placed = []
    for (_, name), each in matches.items():
        alone = [match for match in each if not match.site.endswith(TOGETHER)]
        sites = [match.site for match in alone if surely(match, rule)]
        sites = sites or [match.site for match in each if surely(match, rule)]
        best = max(alone, key=lambda match: match.value)
        placed.append(Placement(best.cut, name, tuple(sites), best))
    return placed
