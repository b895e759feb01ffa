"""A model matched with programs: the standings, and the result as typed tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from ...data.rasp.cuts import Cut
from ...infra.typed_tables import Cells, TypedTable, separated
from ..results import MATCH, About, Key, Result, known
from .cut_verdicts import REALISED, Rule, surely, variable_matches
from .program_ranking import SelectorEvidence, Standing, indistinguishable

LONGEST = 60  # characters of a name in a label


def site_label(site: str) -> str:
    """Return a site's short label: embed, 0.post, ..."""
    _, layer, kind = site.split(".")
    return "embed" if kind == "hook_resid_pre" else f"{layer}.{kind.removeprefix('hook_resid_')}"


def cut_label(cut: Cut) -> str:
    """Return a cut's variables, truncated if the text is long."""
    return short(cut.label)


def short(name: str) -> str:
    """Return a name, truncated if it is long."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def path_text(standing: Standing) -> str:
    """Return the cut that each site of the path holds, on one line; a dash if it holds none."""
    return "; ".join(
        f"{site_label(site)}: {f'{cut_label(match.cut)} {match.value:.2f}' if match else '-'}"
        for site, match in standing.verdict.path.items()
    )


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
    selector_evidence: SelectorEvidence | None = None

    @property
    def exact(self) -> float:
        """The model's exact accuracy; it is the same for all programs of a task."""
        return self.standings[0].exact

    @property
    def task(self) -> str:
        """The task's name."""
        return self.standings[0].candidate.inputs.task.name

    @property
    def title(self) -> str:
        """The run and the step."""
        return self.run if self.step is None else f"{self.run}, step {self.step}"

    def of(self, program: str) -> Standing:
        """Return the standing of a program."""
        (standing,) = [each for each in self.standings if each.candidate.name == program]
        return standing

    @property
    def by_name(self) -> list[Standing]:
        """The standings, sorted by program."""
        return sorted(self.standings, key=lambda standing: standing.candidate.name)


def realised(standing: Standing, rule: Rule) -> Iterator[tuple[str, str]]:
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
        there = matching.of(program)
        cuts, tested = there.candidate.cuts, there.candidate.testable
        for name, match in variable_matches(there.matches, cuts, tested, matching.rule).items():
            curves.setdefault(name, []).append(match.value if match else 0.0)
    return curves


def tested_cuts(matching: Matching) -> list[tuple[str, Cut]]:
    """Return the testable cuts of all programs, sorted by program."""
    return [(s.candidate.name, cut) for s in matching.by_name for cut in s.candidate.testable]


def best_match(matching: Matching, name: str, cut: Cut) -> float:
    """Return a cut's best match at a site that no later cut explains; 0 if there is none."""
    for verdict in matching.of(name).verdict.cuts:
        if verdict.cut == cut:
            return verdict.best.value if verdict.best else 0.0
    return 0.0


@dataclass(frozen=True, kw_only=True)
class CutTestRow:
    """A test of a cut at a site; `match` is the lowest of the site's tests, `held` its verdict."""

    run: str = ""
    step: int | None
    program: str
    cut: str
    site: str
    match: float
    match_low: float
    match_high: float
    chance: float
    test: str = ""
    score: float | None = None
    low: float | None = None
    high: float | None = None
    test_chance: float | None = None
    n: int
    verdict: str
    held: bool = False

    @property
    def model(self) -> str:
        """The run."""
        return self.run


@dataclass(frozen=True, kw_only=True)
class ProgramRow:
    """The verdict on a program at a checkpoint.

    `shared_with` lists the programs that no test of cuts distinguishes from this one, `decided`
    the programs that the selectors place behind it.
    """

    run: str = ""
    step: int | None
    exact: float
    program: str
    verdict: str
    score: float | None
    score_low: float | None = None
    score_high: float | None = None
    testable: int = 0
    inner: int = 0
    shared_with: tuple[str, ...] = field(metadata=separated("; ", since=2))
    decided: tuple[str, ...] = field(metadata=separated("; ", since=2))
    fused: tuple[str, ...] = field(default=(), metadata=separated("; ", since=2))
    path: str = ""
    why: str

    @property
    def model(self) -> str:
        """The run."""
        return self.run


@dataclass(frozen=True, kw_only=True)
class SelectorRow:
    """The head that overlaps most with what a selector of a program selects, and controls."""

    run: str = ""
    step: int | None
    program: str
    selectors: str
    uses: str = ""
    head: str
    overlap: float
    low: float
    high: float
    uniform: float | None = None
    random_init: float

    @property
    def model(self) -> str:
        """The run."""
        return self.run


@dataclass(frozen=True, kw_only=True)
class EmergenceRow:
    """The best match of a testable cut or variable at a site that no later cut explains.

    A row of kind `model` holds the checkpoint's accuracy and loss alone.
    """

    run: str = ""
    step: int | None
    exact: float | None = None
    loss: float | None = None
    program: str
    kind: str
    name: str
    match: float | None

    @property
    def model(self) -> str:
        """The run."""
        return self.run


def _without_nan(row: Cells) -> Cells:
    return {name: "" if cell == "nan" else cell for name, cell in row.items()}


@dataclass(frozen=True, kw_only=True)
class MatchResult(Result):
    """How checkpoints of a model match the programs of its task."""

    tests: tuple[CutTestRow, ...] = ()
    programs: tuple[ProgramRow, ...] = ()
    selectors: tuple[SelectorRow, ...] = ()
    emergence: tuple[EmergenceRow, ...] = ()
    matching: Matching | None = field(default=None, repr=False, compare=False)

    KIND: ClassVar[str] = MATCH
    TESTS: ClassVar = TypedTable(CutTestRow, "match.csv", earlier=_without_nan)
    PROGRAMS: ClassVar = TypedTable(ProgramRow, "programs.csv", version=2, earlier=_without_nan)
    SELECTORS: ClassVar = TypedTable(SelectorRow, "selectors.csv", earlier=_without_nan)
    EMERGENCE: ClassVar = TypedTable(EmergenceRow, "emergence.csv", earlier=_without_nan)
    TABLES: ClassVar[Mapping[str, TypedTable[Any]]] = {
        "tests": TESTS, "programs": PROGRAMS, "selectors": SELECTORS, "emergence": EMERGENCE,
    }  # fmt: skip
    PICTURES: ClassVar[tuple[str, ...]] = ("match.png",)
    OTHERS: ClassVar[tuple[str, ...]] = ("emergence.png",)  # of the collected tables

    @classmethod
    def of(
        cls,
        matching: Matching,
        settings: Sequence[str] = (),
        sides: bool = True,
        of: Sequence[str] = (),
    ) -> Self:
        """Return a matched checkpoint as a result.

        `sides` says whether the sides of attention were tested too. `of` names the model and the
        task if the run's name does not.
        """
        key = Key(cls.KIND, matching.run, matching.step, tuple(settings), tuple(of))
        fullness = (len(matching.standings), int(sides))
        return cls(
            about=About(key, matching.task, fullness=fullness), tests=tuple(_tests(matching)),
            programs=tuple(_programs(matching)), selectors=tuple(_selectors(matching)),
            emergence=tuple(_emergence(matching)), matching=matching,
        )  # fmt: skip


def _tests(matching: Matching) -> Iterator[CutTestRow]:
    for standing in matching.standings:
        verdicts = {verdict.cut.name: verdict for verdict in standing.verdict.cuts}
        for match in (*standing.matches, *standing.sides):
            verdict = verdicts[match.cut.name]
            for score in match.scores:
                yield CutTestRow(
                    run=matching.run, step=matching.step, program=standing.candidate.name,
                    cut=match.cut.name, site=match.site, match=match.value, match_low=match.low,
                    match_high=match.high, chance=match.chance, test=score.test, score=score.value,
                    low=score.low, high=score.high, test_chance=score.chance, n=score.n,
                    verdict=verdict.verdict, held=match.site in verdict.sites,
                )  # fmt: skip


def _programs(matching: Matching) -> Iterator[ProgramRow]:
    alike = indistinguishable([standing.candidate for standing in matching.standings])
    groups = [[each.name for each in group] for group in alike]
    finer = matching.selector_evidence.decisions if matching.selector_evidence is not None else ()
    for standing in matching.standings:
        name, verdict = standing.candidate.name, standing.verdict
        score, low, high = standing.score or (None, None, None)
        yield ProgramRow(
            run=matching.run, step=matching.step, exact=matching.exact, program=name,
            verdict=verdict.verdict, score=score, score_low=low, score_high=high,
            testable=len(standing.candidate.testable), inner=len(standing.candidate.cuts.inner),
            shared_with=tuple(
                each for group in groups if name in group for each in group if each != name
            ),
            decided=tuple(
                side.program for decision in finer if decision.decided == name
                for side in decision.sides if side.program != name
            ),
            fused=tuple(verdict.fused), path=path_text(standing), why=verdict.why,
        )  # fmt: skip


def _selectors(matching: Matching) -> Iterator[SelectorRow]:
    for program, met in (
        matching.selector_evidence.reaches.items() if matching.selector_evidence is not None else ()
    ):
        for row in met:
            yield SelectorRow(
                run=matching.run, step=matching.step, program=program,
                selectors="+".join(row.selection.names), uses="+".join(row.uses), head=row.head,
                overlap=row.value, low=row.low, high=row.high, uniform=row.uniform,
                random_init=row.random_init,
            )  # fmt: skip


def _emergence(matching: Matching) -> Iterator[EmergenceRow]:
    def row(program: str, kind: str, name: str, match: float | None) -> EmergenceRow:
        return EmergenceRow(
            run=matching.run, step=matching.step, exact=matching.exact, loss=known(matching.loss),
            program=program, kind=kind, name=name, match=match,
        )  # fmt: skip

    yield row("", "model", "", None)
    for program, cut in tested_cuts(matching):
        yield row(program, "cut", cut.name, best_match(matching, program, cut))
    for standing in matching.by_name:
        program = standing.candidate.name
        for name, (match,) in variable_curves([matching], program).items():
            yield row(program, "variable", name, match)
