"""What programs a model was matched with: tables, the verdicts, and a diagram of each program."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..analysis.matching import Match, by_site
from ..analysis.rivals import Candidate, Standing, indistinguishable
from ..analysis.verdicts import NOT_TESTABLE, REALISED, CutVerdict
from ..data.cuts import Cut
from ..files import faults_named, write_file
from .panels import COLOURS, legend

HEADER = (
    "run", "step", "program", "cut", "site", "match", "match_low", "match_high", "chance", "test",
    "score", "low", "high", "test_chance", "n", "verdict",
)  # fmt: skip
LONGEST = 60
MOST_SHOWN = 9  # cuts with a column each
LEGEND = "match: the lowest of scrub and interchange; * holds the cut, and no later one"


def site_label(site: str) -> str:
    """Return a site's short label: embed, 0.post, ..."""
    _, layer, kind = site.split(".")
    return "embed" if kind == "hook_resid_pre" else f"{layer}.{kind.removeprefix('hook_resid_')}"


def cut_label(cut: Cut) -> str:
    """Return a cut's variables, shortened where they are many."""
    name = ", ".join(cut.variables)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


@dataclass(frozen=True)
class Matching:
    """A checkpoint matched with programs: how each of them stands, the best first."""

    run: str
    step: int
    standings: Sequence[Standing]

    @property
    def exact(self) -> float:
        """The model's exact accuracy, the same to all programs of a task."""
        return self.standings[0].exact

    @property
    def title(self) -> str:
        """The run and the step."""
        return f"{self.run}, step {self.step}"


def print_matching(found: Sequence[Matching], console: Console) -> None:
    """Print the last checkpoint's tables and verdicts, and of several, when each cut appears."""
    last = found[-1]
    _print_one(last, console)
    if len(found) > 1:
        console.print()
        console.print(_over_steps(found))


def _over_steps(found: Sequence[Matching]) -> Table:
    table = Table(title=f"{found[-1].run}: matches over training", title_justify="left")
    for heading in ("step", "exact"):
        table.add_column(heading, justify="right")
    tested = _tested(found[-1])
    for name, cut in tested:
        table.add_column(escape(f"{name}:\n{cut_label(cut)}"), justify="right")
    for one in found:
        values = [_best(one, name, cut) for name, cut in tested]
        table.add_row(str(one.step), f"{one.exact:.3f}", *(f"{value:.2f}" for value in values))
    return table


def _tested(one: Matching) -> list[tuple[str, Cut]]:
    standings = sorted(one.standings, key=lambda standing: standing.candidate.name)
    return [(s.candidate.name, cut) for s in standings for cut in s.candidate.testable]


def _best(one: Matching, name: str, cut: Cut) -> float:
    """Return a cut's best match at a site that no later cut explains."""
    for standing in one.standings:
        if standing.candidate.name == name:
            for verdict in standing.verdict.cuts:
                if verdict.cut == cut:
                    return verdict.best.value if verdict.best else 0.0
    return 0.0


def _print_one(one: Matching, console: Console) -> None:
    title, found = one.title, one.standings

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"{title}: exact accuracy {one.exact:.4f}")
    for standing in found:
        console.print(_table(standing))
        for line in _legend(standing):
            say(line)
        say(f"verdict: {standing.verdict.verdict}: {standing.verdict.why}")
        for line in _notes(standing.candidate):
            say(f"  {line}")
        say("")
    if len(found) > 1:
        say("programs by their testable inner cuts (mean of the best match of each):")
        for place, standing in enumerate(found, start=1):
            score = "no cut to tell it by"
            if standing.score is not None:
                value, low, high = standing.score
                score = f"{value:.2f} [{low:.2f}, {high:.2f}]"
            name, verdict = standing.candidate.name, standing.verdict.verdict
            say(f"  {place}. {name}: {score}; {verdict}")
    say(LEGEND)
    for group in indistinguishable([standing.candidate for standing in found]):
        names = " and ".join(one.name for one in group)
        say(f"{names} share all testable cuts: no test of cuts tells them apart")


def _table(one: Standing) -> Table:
    """Return the sites with their matches, a column for each cut, by letter."""
    rows, shown = by_site(one.matches), _shown(one)
    table = Table(title=escape(f"program {one.candidate.name}"), title_justify="left", box=SIMPLE)
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
        max((row[one.cut.name].chance for row in rows.values() if one.cut.name in row), default=0)
        for one in shown.values()
    ]
    table.add_section()
    table.add_row("chance", *(f"{chance:.2f}" for chance in chances))
    return table


def _shown(one: Standing) -> dict[str, CutVerdict]:
    """Return the cuts worth a column, by letter: all if they are few, else those with a verdict."""
    verdicts = list(one.verdict.cuts)
    if len(verdicts) > MOST_SHOWN:
        kept = [verdict for verdict in verdicts[1:-1] if verdict.verdict != NOT_TESTABLE]
        verdicts = [verdicts[0], *kept, verdicts[-1]]
    letters = chain.from_iterable(map("".join, product(ascii_uppercase, repeat=n)) for n in (1, 2))
    return dict(zip(letters, verdicts, strict=False))


def _legend(one: Standing) -> Iterator[str]:
    first, last = one.candidate.cuts.all[0], one.candidate.cuts.all[-1]
    for letter, verdict in _shown(one).items():
        said = verdict.verdict
        if verdict.cut in (first, last):
            said = "the input" if verdict.cut == first else "the output"
        elif verdict.sites:
            said += f" at {', '.join(map(site_label, verdict.sites))}"
        yield f"{letter}  {cut_label(verdict.cut)}: {said}"


def _cell(match: Match, own: bool) -> str:
    text = f"{match.value:.2f}"
    return f"[bold green]{text}*[/]" if own else f"{text} "


def _notes(one: Candidate) -> Iterator[str]:
    if one.why:
        yield f"not compiled, so nothing is known to be testable: {one.why}"
    for cut in one.cuts.all:
        if cut.same:
            others = "; ".join(", ".join(names) for names in cut.same[:3])
            more = f" and {len(cut.same) - 3} more" if len(cut.same) > 3 else ""
            yield f"{cut_label(cut)}: one with {others}{more} on these inputs"
    for tests in one.trials:
        if tests.untestable and tests.cut in one.testable:
            names = ", ".join(tests.untestable)
            name = cut_label(tests.cut)
            yield f"{name}: no valid interchange of {names} (the rest determines it)"
    if not one.cuts.complete:
        yield "more cuts than are looked at: those of program order only"


def save_matching(found: Sequence[Matching], folder: Path, console: Console) -> None:
    """Write every test as CSV, the last checkpoint's diagram, and of several their curves.

    Raises:
        FaultError: the file system failed.
    """
    last = found[-1]
    files = {"match.csv": to_csv(found).encode(), "match.png": _png(diagram(last))}
    if len(found) > 1:
        files["emergence.png"] = _png(emergence(found))
    with faults_named(f"write into '{folder}'"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(folder / name, content)
    console.print(f"{', '.join(files)}: {folder}", soft_wrap=True, highlight=False, markup=False)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def to_csv(found: Sequence[Matching]) -> str:
    """Return every test of every cut at every site of every checkpoint as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for one in found:
        for standing in one.standings:
            _write(writer, one, standing)
    return out.getvalue()


def _write(writer: Any, matching: Matching, one: Standing) -> None:
    verdicts = {verdict.cut.name: verdict.verdict for verdict in one.verdict.cuts}
    for match in one.matches:
        of_match = (
            matching.run, matching.step, one.candidate.name, match.cut.name, match.site,
            match.value, match.low, match.high, match.chance,
        )  # fmt: skip
        for score in match.scores:
            of_test = (score.test, score.value, score.low, score.high, score.chance, score.n)
            writer.writerow([*of_match, *of_test, verdicts[match.cut.name]])


def emergence(found: Sequence[Matching]) -> Figure:
    """Draw each testable cut's best match over training, below the exact accuracy."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    figure.suptitle(f"{found[-1].run}: when each cut appears")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    steps = [one.step for one in found]
    above.plot(steps, [one.exact for one in found], color="black", marker=".")
    above.set(ylabel="exact accuracy", ylim=(-0.03, 1.03))
    for (name, cut), colour in zip(_tested(found[-1]), cycle(COLOURS), strict=False):
        values = [_best(one, name, cut) for one in found]
        below.plot(steps, values, marker=".", color=colour, label=f"{name}: {cut_label(cut)}")
    below.set(ylabel="best match of its own", xlabel="training step (log scale from 1 on)")
    below.set(ylim=(-0.03, 1.03))
    below.set_xscale("symlog", linthresh=1)
    legend(below)
    return figure


def diagram(one: Matching) -> Figure:
    """Draw each program's cuts over the model's sites: the match, and where a cut is realised."""
    found = one.standings
    heights = [max(2, len(one.candidate.cuts.all)) for one in found]
    sites = max(len(by_site(one.matches)) for one in found)
    figure = Figure(
        figsize=(4.5 + 0.62 * sites, 1.3 + sum(0.42 * h + 0.9 for h in heights)),
        layout="constrained",
    )
    figure.suptitle(one.title)
    axes = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    for standing, ax in zip(found, axes, strict=True):
        rows = by_site(standing.matches)
        candidate, verdicts = standing.candidate, standing.verdict
        all_cuts = candidate.cuts.all
        values = [
            [
                rows[site][cut.name].value if cut.name in rows[site] else float("nan")
                for site in rows
            ]
            for cut in all_cuts
        ]
        image = ax.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        ax.set_xticks(range(len(rows)), [site_label(site) for site in rows])
        labels = [
            cut_label(cut) + ("" if cut in candidate.testable else " (not testable)")
            if cut in candidate.cuts.inner else cut_label(cut) for cut in all_cuts
        ]  # fmt: skip
        ax.set_yticks(range(len(all_cuts)), labels)
        ax.set_title(f"{candidate.name}: {verdicts.verdict}", fontsize=10, loc="left")
        places = list(rows)
        for y, verdict in enumerate(verdicts.cuts):
            for x, site in enumerate(places):
                value = values[y][x]
                if value != value:
                    continue
                own = site in verdict.sites
                ax.text(
                    x, y, f"{value:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if value > 0.6 else "white",
                    fontweight="bold" if own else "normal",
                )  # fmt: skip
                if own and (verdict.verdict == REALISED or verdict.verdict == NOT_TESTABLE):
                    ax.add_patch(_box(x, y))
    figure.colorbar(image, ax=list(axes), label="match (lowest of scrub and interchange)")
    return figure


def _box(x: int, y: int) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="#d55e00", linewidth=2)
