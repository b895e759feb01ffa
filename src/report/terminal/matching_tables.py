"""How a model matches programs: tables, verdicts and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from string import ascii_uppercase
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...analysis.matching.cut_tests import Match, by_site
from ...analysis.matching.cut_verdicts import (
    NOT_SOLVED,
    NOT_TESTABLE,
    REALISED,
    CutVerdict,
    Placement,
    Rule,
    placements,
    surely,
    variable_matches,
)
from ...analysis.matching.program_ranking import (
    Candidate,
    SelectorEvidence,
    Standing,
    indistinguishable,
)
from ...data.rasp.cuts import Cut
from .tables import plain_table
from .tables import say as printed

HEADER = (
    "run", "step", "program", "cut", "site", "match", "match_low", "match_high", "chance", "test",
    "score", "low", "high", "test_chance", "n", "verdict", "held",
)  # fmt: skip
PROGRAMS_HEADER = (
    "run", "step", "exact", "program", "verdict", "score", "score_low", "score_high", "testable",
    "inner", "shared_with", "decided", "fused", "path", "why",
)  # fmt: skip
SELECTORS_HEADER = (
    "run", "step", "program", "selectors", "uses", "head", "overlap", "low", "high", "uniform",
    "random_init",
)  # fmt: skip
EMERGENCE_HEADER = ("run", "step", "exact", "loss", "program", "kind", "name", "match")
LONGEST = 60
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


def site_label(site: str) -> str:
    """Return a site's short label: embed, 0.post, ..."""
    _, layer, kind = site.split(".")
    return "embed" if kind == "hook_resid_pre" else f"{layer}.{kind.removeprefix('hook_resid_')}"


def cut_label(cut: Cut) -> str:
    """Return a cut's variables, truncated if the text is long."""
    return short(", ".join(cut.variables))


def short(name: str) -> str:
    """Return a name, truncated if it is long."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


@dataclass(frozen=True)
class Matching:
    """A checkpoint matched with programs: the standing of each program, best first.

    A foreign model has no step.
    """

    run: str
    step: int | None
    loss: float | None
    standings: Sequence[Standing]
    rule: Rule
    finer: SelectorEvidence | None = None

    @property
    def exact(self) -> float:
        """The model's exact accuracy; it is the same for all programs of a task."""
        return self.standings[0].exact

    @property
    def title(self) -> str:
        """The run and the step."""
        return self.run if self.step is None else f"{self.run}, step {self.step}"


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
    for standing in sorted(matchings[-1].standings, key=lambda standing: standing.candidate.name):
        program = standing.candidate.name
        steps: dict[tuple[str, str], int | None] = {}
        for matching in matchings:
            (there,) = [each for each in matching.standings if each.candidate.name == program]
            for part in _realised(there, matching.rule):
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


def _realised(standing: Standing, rule: Rule) -> Iterator[tuple[str, str]]:
    """Yield the testable cuts and variables that are realised; none if the task is not solved."""
    if standing.exact < rule.solved:
        return
    tested = standing.candidate.testable
    for verdict in standing.verdict.cuts:
        if verdict.cut in tested and verdict.verdict == REALISED:
            yield "cut", verdict.cut.name
    for name, match in variable_matches(
        standing.matches, standing.candidate.cuts, tested, rule
    ).items():
        if surely(match, rule):
            yield "variable", name


def variable_curves(matchings: Sequence[Matching], program: str) -> dict[str, list[float]]:
    """Return each variable's best match at every checkpoint.

    Only sites that no later cut explains count; 0 if there is none.
    """
    curves: dict[str, list[float]] = {}
    for matching in matchings:
        (there,) = [each for each in matching.standings if each.candidate.name == program]
        known, tested = there.candidate.cuts, there.candidate.testable
        for name, match in variable_matches(there.matches, known, tested, matching.rule).items():
            curves.setdefault(name, []).append(match.value if match else 0.0)
    return curves


def tested_cuts(matching: Matching) -> list[tuple[str, Cut]]:
    """Return the testable cuts of all programs, sorted by program."""
    standings = sorted(matching.standings, key=lambda standing: standing.candidate.name)
    return [(s.candidate.name, cut) for s in standings for cut in s.candidate.testable]


def best_match(matching: Matching, name: str, cut: Cut) -> float:
    """Return a cut's best match at a site that no later cut explains; 0 if there is none."""
    for standing in matching.standings:
        if standing.candidate.name == name:
            for verdict in standing.verdict.cuts:
                if verdict.cut == cut:
                    return verdict.best.value if verdict.best else 0.0
    return 0.0


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
    if matching.finer is not None:
        _print_finer(matching.finer, console, say)


def _print_finer(finer: SelectorEvidence, console: Console, say: Callable[[str], None]) -> None:
    """Print the head that overlaps most with each selector, and what the selectors decide."""
    table = plain_table("selector", "overlap", "interval", "uniform", "init", "head")
    for program, met in finer.met.items():
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
    if without := [program for program, met in finer.met.items() if not met]:
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


def to_csv(matchings: Sequence[Matching]) -> str:
    """Return all tests as CSV, one row for each checkpoint, program, cut, site and test."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for matching in matchings:
        for standing in matching.standings:
            _write(writer, matching, standing)
    return out.getvalue()


def programs_csv(matchings: Sequence[Matching]) -> str:
    """Return the verdict on every program at every checkpoint as CSV.

    `shared_with` lists the programs that no test of cuts distinguishes from this one, `decided`
    the programs that the selectors place behind it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(PROGRAMS_HEADER)
    for matching in matchings:
        alike = indistinguishable([standing.candidate for standing in matching.standings])
        finer = matching.finer.decisions if matching.finer is not None else ()
        for standing in matching.standings:
            name, verdict = standing.candidate.name, standing.verdict
            groups = [[each.name for each in group] for group in alike]
            shared = [each for group in groups if name in group for each in group if each != name]
            behind = [
                side.program
                for decision in finer
                if decision.decided == name
                for side in decision.sides
                if side.program != name
            ]
            writer.writerow([
                matching.run, matching.step, matching.exact, name, verdict.verdict,
                *(standing.score or ("", "", "")), len(standing.candidate.testable),
                len(standing.candidate.cuts.inner), " ".join(shared), " ".join(behind),
                " ".join(verdict.fused), path_text(standing), verdict.why,
            ])  # fmt: skip
    return out.getvalue()


def path_text(standing: Standing) -> str:
    """Return the cut that each site of the path holds, on one line; a dash if it holds none."""
    return "; ".join(
        f"{site_label(site)}: {f'{cut_label(match.cut)} {match.value:.2f}' if match else '-'}"
        for site, match in standing.verdict.path.items()
    )


def selectors_csv(matchings: Sequence[Matching]) -> str:
    """Return the best head's overlap with each selector, by checkpoint and program, as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(SELECTORS_HEADER)
    for matching in matchings:
        for program, met in matching.finer.met.items() if matching.finer is not None else ():
            for row in met:
                names, uses = ("+".join(part) for part in (row.selection.names, row.uses))
                writer.writerow([
                    matching.run, matching.step, program, names, uses, row.head, row.value, row.low,
                    row.high, row.uniform, row.random_init,
                ])  # fmt: skip
    return out.getvalue()


def emergence_csv(matchings: Sequence[Matching]) -> str:
    """Return matches over training as CSV: a row for each testable cut and each variable.

    `match` is the best match at a site that no later cut explains. A row of kind `model` holds the
    checkpoint's accuracy and loss.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(EMERGENCE_HEADER)
    for matching in matchings:
        about = (
            matching.run,
            matching.step,
            matching.exact,
            "" if matching.loss is None else matching.loss,
        )
        writer.writerow([*about, "", "model", "", ""])
        for program, cut in tested_cuts(matching):
            match = best_match(matching, program, cut)
            writer.writerow([*about, program, "cut", cut.name, match])
        for standing in sorted(matching.standings, key=lambda each: each.candidate.name):
            program = standing.candidate.name
            for name, (match,) in variable_curves([matching], program).items():
                writer.writerow([*about, program, "variable", name, match])
    return out.getvalue()


def _write(writer: Any, matching: Matching, standing: Standing) -> None:
    verdicts = {verdict.cut.name: verdict for verdict in standing.verdict.cuts}
    for match in (*standing.matches, *standing.sides):
        verdict = verdicts[match.cut.name]
        of_match = (
            matching.run, matching.step, standing.candidate.name, match.cut.name, match.site,
            match.value, match.low, match.high, match.chance,
        )  # fmt: skip
        for score in match.scores:
            of_test = (score.test, score.value, score.low, score.high, score.chance, score.n)
            held = match.site in verdict.sites
            writer.writerow([*of_match, *of_test, verdict.verdict, held])
