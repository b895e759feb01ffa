"""How a model matches programs: tables and verdicts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, product
from string import ascii_uppercase

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...analysis.matching.cut_tests import Match, by_site
from ...analysis.matching.cut_verdicts import (
    NOT_SOLVED,
    NOT_TESTABLE,
    CutVerdict,
    Placement,
    Rule,
    placements,
    variable_matches,
)
from ...analysis.matching.match_result import (
    Matching,
    best_match,
    cut_label,
    realised,
    site_label,
    tested_cuts,
)
from ...analysis.matching.program_ranking import (
    Candidate,
    SelectorEvidence,
    Standing,
    indistinguishable,
)
from .tables import plain_table
from .tables import say as printed

MOST_SHOWN = 9  # cuts with a column each
SIDES = {
    "hook_q_input": "queries", "hook_k_input": "keys", "hook_v_input": "values",
    "hook_attn_in": "several sides",
}  # fmt: skip
SELECTORS = (
    "selectors: overlap of the best head with each selector; uniform: overlap of attention to "
    "everything; init: the highest overlap in random inits"
)
LEGEND = "match: the lowest of scrub and interchange; *: the site holds the cut and no later one"


def print_matching(matchings: Sequence[Matching], console: Console) -> None:
    """Print the last checkpoint's tables and verdicts; if there are several, when cuts emerge."""
    last = matchings[-1]
    _print_one(last, console)
    if len(matchings) > 1:
        console.print()
        console.print(_over_steps(matchings))
        for line in emerged(matchings):
            printed(line, console)


def _over_steps(matchings: Sequence[Matching]) -> Table:
    table = Table(title=f"{matchings[-1].run}: matches over training", title_justify="left")
    for heading in ("step", "exact"):
        table.add_column(heading, justify="right")
    tested = tested_cuts(matchings[-1])
    for name, cut in tested:
        table.add_column(escape(f"{name}:\n{cut_label(cut)}"), justify="right")
    for matching in matchings:
        values = [best_match(matching, name, cut) for name, cut in tested]
        table.add_row(
            str(matching.step), f"{matching.exact:.3f}", *(f"{value:.2f}" for value in values)
        )
    return table


def emerged(matchings: Sequence[Matching]) -> Iterator[str]:
    """Yield the first step at which each testable cut and variable of a program is realised."""
    for standing in matchings[-1].by_name:
        program = standing.candidate.name
        steps: dict[tuple[str, str], int | None] = {}
        for matching in matchings:
            for part in realised(matching.of(program), matching.rule):
                steps.setdefault(part, matching.step)
        cuts = [("cut", cut.name) for cut in standing.candidate.testable]
        names = variable_matches(
            standing.matches,
            standing.candidate.cuts,
            standing.candidate.testable,
            matchings[-1].rule,
        )
        for kind, name in [*cuts, *(("variable", name) for name in names)]:
            step = steps.get((kind, name))
            when = "at no checkpoint" if step is None else f"from step {step} on"
            yield f"{program}: {kind} {name.replace('+', ', ')} realised {when}"


def _print_one(matching: Matching, console: Console) -> None:
    title, standings = matching.title, matching.standings

    say = partial(printed, console=console)

    scores = (
        score for standing in standings for match in standing.matches for score in match.scores
    )
    cases = max((score.n for score in scores), default=0)
    say(f"{title}: exact accuracy {matching.exact:.4f}; matched with up to {cases:,} cases a test")
    for standing in standings:
        console.print(_table(standing))
        for line in _legend(standing):
            say(line)
        say(f"verdict: {standing.verdict.verdict}: {standing.verdict.why}")
        if standing.sides and standing.verdict.verdict != NOT_SOLVED:
            console.print(_placed(standing, matching.rule))
        for line in _notes(standing.candidate):
            say(f"  {line}")
        say("")
    if len(standings) > 1:
        say("programs ranked by their testable inner cuts (mean of the best match of each):")
        for place, standing in enumerate(standings, start=1):
            score = "no testable inner cut"
            if standing.score is not None:
                value, low, high = standing.score
                score = f"{value:.2f} [{low:.2f}, {high:.2f}]"
            name, verdict = standing.candidate.name, standing.verdict.verdict
            say(f"  {place}. {name}: {score}; {verdict}")
    say(LEGEND)
    for group in indistinguishable([standing.candidate for standing in standings]):
        names = " and ".join(candidate.name for candidate in group)
        say(f"{names} share all testable cuts: no test of cuts tells them apart")
    if matching.selector_evidence is not None:
        _print_finer(matching.selector_evidence, console, say)


def _print_finer(finer: SelectorEvidence, console: Console, say: Callable[[str], None]) -> None:
    """Print the head that overlaps most with each selector, and what the selectors decide."""
    table = plain_table("selector", "overlap", "interval", "uniform", "init", "head")
    for program, met in finer.reaches.items():
        if met:
            table.add_row(escape(program))
        for row in met:
            table.add_row(
                escape(f"  {' = '.join(row.selection.names)} ({' and '.join(row.uses)})"),
                f"{row.value:.2f}", escape(f"[{row.low:.2f}, {row.high:.2f}]"),
                f"{row.uniform:.2f}", f"{row.random_init:.2f}", escape(head_label(row.head)),
            )  # fmt: skip
    if table.row_count:
        console.print(table)
        say(SELECTORS)
    if without := [program for program, met in finer.reaches.items() if not met]:
        say(f"no selector to compare attention with: {', '.join(without)}")
    for decision in finer.decisions:
        say(decision.text)


def head_label(head: str) -> str:
    """Return a head's short label: 0.1 for the second head of the first block."""
    numbers = re.fullmatch(r"blocks\.(\d+)\..*\[(\d+)\]", head)
    return ".".join(numbers.groups()) if numbers else "-"


def _table(standing: Standing) -> Table:
    """Return a table of matches: a row for each site, a column for each cut, named by letter."""
    rows, shown = by_site(standing.matches), _shown(standing)
    table = Table(
        title=escape(f"program {standing.candidate.name}"), title_justify="left", box=SIMPLE
    )
    table.add_column("site")
    for letter in shown:
        table.add_column(letter, justify="right")
    for site, row in rows.items():
        cells = [
            _cell(row[verdict.cut.name], site in verdict.sites) if verdict.cut.name in row else "-"
            for verdict in shown.values()
        ]
        table.add_row(site_label(site), *cells)
    chances = [
        max(
            (row[verdict.cut.name].chance for row in rows.values() if verdict.cut.name in row),
            default=0,
        )
        for verdict in shown.values()
    ]
    table.add_section()
    table.add_row("chance", *(f"{chance:.2f}" for chance in chances))
    return table


def _placed(standing: Standing, rule: Rule) -> Table:
    """Return a table of the attention sides that read each variable, in model and reference."""
    table = Table(title="used by attention at", title_justify="left", box=SIMPLE)
    for heading in ("variable", "cut", "model", "reference"):
        table.add_column(heading, overflow="fold")
    theirs = {(p.cut.name, p.variable): p for p in placements(standing.candidate.sides, rule)}
    for place in placements(standing.sides, rule):
        reference = theirs.get((place.cut.name, place.variable))
        table.add_row(
            escape(place.variable), escape(cut_label(place.cut)), _where(place),
            _where(reference) if reference else "-",
        )  # fmt: skip
    return table


def _where(place: Placement) -> str:
    if place.sites:
        return ", ".join(map(side_label, place.sites))
    return f"no side alone (best: {side_label(place.best.site)}, {place.best.value:.2f})"


def side_label(site: str) -> str:
    """Return a label for a side of a block's attention.

    >>> side_label("blocks.2.hook_q_input")
    'queries of 2'
    """
    _, layer, kind = site.split(".")
    return f"{SIDES[kind]} of {layer}"


def _shown(standing: Standing) -> dict[str, CutVerdict]:
    """Return the cuts that get a column, by letter.

    If there are many, the inner cuts that are not testable are left out.
    """
    verdicts = list(standing.verdict.cuts)
    if len(verdicts) > MOST_SHOWN:
        kept = [verdict for verdict in verdicts[1:-1] if verdict.verdict != NOT_TESTABLE]
        verdicts = [verdicts[0], *kept, verdicts[-1]]
    letters = chain.from_iterable(map("".join, product(ascii_uppercase, repeat=n)) for n in (1, 2))
    return dict(zip(letters, verdicts, strict=False))


def _legend(standing: Standing) -> Iterator[str]:
    first, last = standing.candidate.cuts.all[0], standing.candidate.cuts.all[-1]
    for letter, verdict in _shown(standing).items():
        said = verdict.verdict
        if verdict.cut in (first, last):
            said = "the input" if verdict.cut == first else "the output"
        elif verdict.sites:
            said += f" at {', '.join(map(site_label, verdict.sites))}"
        yield f"{letter}  {cut_label(verdict.cut)}: {said}"


def _cell(match: Match, own: bool) -> str:
    text = f"{match.value:.2f}"
    return f"[bold green]{text}*[/]" if own else f"{text} "


def _notes(candidate: Candidate) -> Iterator[str]:
    if candidate.why:
        yield f"not compiled, so no cut is known to be testable: {candidate.why}"
    for cut in candidate.cuts.all:
        if cut.same:
            others = "; ".join(", ".join(names) for names in cut.same[:3])
            more = f" and {len(cut.same) - 3} more" if len(cut.same) > 3 else ""
            yield f"{cut_label(cut)}: the same cut as {others}{more} on these inputs"
    for tests in candidate.trials:
        if tests.untestable and tests.cut in candidate.testable:
            names = ", ".join(tests.untestable)
            name = cut_label(tests.cut)
            yield f"{name}: no valid interchange of {names} (the rest of the cut determines it)"
    if not candidate.cuts.complete:
        yield "too many cuts to test them all: only those in program order are tested"
