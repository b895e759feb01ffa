"""The page of many runs: architectures by tasks, over seeds, and how they differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...analysis.measures.registered_measures import measured
from ...config.composition import configs_dir
from ...config.naming import model_title
from ...config.printed_commands import command
from ...data.rasp.text import describe
from ...data.tasks import make_task
from ...hypotheses.compared_headlines import FAMILIES, TABLED, compared_with, emerging
from ...hypotheses.evidence import solved_of
from ...hypotheses.failed_controls import marked
from ...hypotheses.seed_groups import (
    EMERGED,
    EMERGENCE_STEP,
    Estimate,
    Group,
    failing_of,
    notes,
    settings,
)
from ...hypotheses.verdicts import Hypothesis, ProgramVerdict
from ...infra.errors import UserError
from ...runs.run_folder import RunFolder
from ...runs.sweep_file import read_sweep
from ..figures.comparison_figure import mean_curve
from ..terminal.comparison import by_task
from ..terminal.deletion import NOT_JUDGED
from .blocks import (
    Cell,
    Chart,
    Details,
    Judgement,
    LegendEntry,
    Missing,
    Page,
    Section,
    Table,
    Text,
    cell,
    interval,
    number,
)
from .charts import Lines, colour, dash_of
from .grouped_runs import Gathered, Members, Over, seeds_of
from .measure_sections import order_of
from .run_page import overridden_notes, state_of

CONTROLS_KEY = LegendEntry("controls, in the colour of their architecture", "grey", "dot")
OPEN = 3  # so many tables are unfolded
REDUNDANT = "ablation/model/redundant"  # measured only if the task is solved
CURVES = ("accuracy/all/exact", "similarity/model/mean_deconfounded_cka",
          "attention/model/matched_overlap")  # fmt: skip
SAME_KEYS = (  # a pair of fixed and variable length may differ in these, but not in the program
    "task.name", "task.program", "task.vocabulary", "task.min_length", "task.max_length",
    "task.held_out_lengths",
)  # fmt: skip


def sweep_page(gathered: Gathered, title: str | None, paths: Sequence[Path]) -> Page:
    """Return the page of several runs, found at the paths."""
    groups, over, empty, runs = gathered.groups, gathered.over, gathered.empty, gathered.runs
    tasks = by_task(groups)
    sections = [
        _overview(groups, over),
        _by_architecture(groups),
        *(_of_task(part, number_of) for number_of, part in enumerate(tasks)),
        _emergence(tasks),
        _lengths(groups),
        _programs(groups, gathered.members, paths),
        _verdicts(groups, over),
        _runs(groups, empty),
    ]
    count = len(runs) + len(empty)
    solved = sum(solved_of(list(run.final.values()), run.config).yes for run in runs)
    facts = [
        ("runs", f"{count}, of which {len(runs)} have checkpoints"),
        ("architectures and settings", f"{len(groups)} groups that differ in more than the seed"),
        ("tasks", ", ".join(dict.fromkeys(group.task for group in groups))),
        ("seeds", ", ".join(f"{n} of {s}" for n, s in _seeds(groups))),
        ("solved", f"{solved} of {len(runs)} runs"),
    ]
    unfinished = [run for run in runs if not run.finished]
    warnings = []
    if unfinished or empty:
        steps = ", ".join(
            f"seed {run.config.seed} at step {run.last_step}" for run in unfinished[:5]
        )
        more = len(unfinished) - 5
        told = f" ({steps}{f' and {more} more' if more > 0 else ''})" if unfinished else ""
        warnings.append(
            f"{len(unfinished)} runs are unfinished{told}; {len(empty)} have no checkpoint yet."
        )
    warnings += gathered.left_out
    results = [member.results for some in gathered.members.values() for member in some]
    warnings += overridden_notes(results)
    warnings += [f"Left out: {problem}" for each in results for problem in each.problems]
    single = sum(len(set(seeds_of(group))) == 1 for group in groups)
    if single:
        warnings.append(
            f"{single} of {len(groups)} groups have one seed, which says nothing about the "
            "architecture."
        )
    return Page(title or f"{count} runs", "", facts, warnings, [], sections)


def _seeds(groups: Sequence[Group]) -> list[tuple[str, str]]:
    counts = Counter(len(set(seeds_of(group))) for group in groups)
    return [
        (f"{count} group{'s' * (count != 1)}", f"{seeds} seed{'s' * (seeds != 1)}")
        for seeds, count in sorted(counts.items())
    ]


def _overview(groups: Sequence[Group], over: Over) -> Section:
    lead = (
        "Each row is an architecture on a task. Intervals are over seeds alone (Student's t; of "
        "few seeds they are wide, and know no bounds). Verdicts need three seeds that agree; "
        "one seed says nothing about the architecture."
    )
    lines = [
        [
            Cell(group.task, code=True), Cell(group.name),
            *(Cell(hypothesis.verdict, hint=_short(hypothesis))
              for hypothesis in over[group.label]),
            _estimate(group, "accuracy/all/exact"), Cell(_count(group), len(group.runs)),
        ]
        for group in groups
    ]  # fmt: skip
    columns = ("task", "architecture", "H1: on/off", "H2: circuit", "H3: matching",
               "exact accuracy", "seeds")  # fmt: skip
    table = Table("Architectures, tasks and verdicts over seeds", columns, lines, (5, 6), True)
    return Section("overview", "At a glance", lead, [table])


def _short(hypothesis: Hypothesis) -> str:
    """Return the number of seeds by verdict, without the reasons."""
    return hypothesis.why.partition(":")[0]


def _count(group: Group) -> str:
    seeds = sorted(set(seeds_of(group)))
    return f"{len(seeds)} (one seed)" if len(seeds) == 1 else str(len(seeds))


def _estimate(group: Group, key: str, shade: bool = False) -> Cell:
    """Return the cell of an estimate; without one, it says whether the measure was taken."""
    estimate = group.estimates.get(key)
    if estimate is None:
        was_measured = key.partition("/")[0] in measured(group.runs[0].config.analysis)
        judged = not key.startswith(REDUNDANT)
        return Cell(("no value" if judged else NOT_JUDGED) if was_measured else "not measured")
    deep = max(0.0, min(1.0, estimate.mean)) if shade else None
    if estimate.interval is None:
        return Cell(f"{estimate.mean:.3f} (one seed)", estimate.mean, shade=deep)
    return Cell(
        f"{estimate.mean:.3f} ({interval(*estimate.interval)}; n={estimate.n})",
        estimate.mean,
        shade=deep,
    )


def _by_architecture(groups: Sequence[Group]) -> Section:
    lead = (
        "Headline measures, a row for each architecture and a column for each task: mean over "
        "seeds, its 95% interval and the number of seeds, and below it the control that it has to "
        "pass (the highest of its models)."
    )
    tasks = list(dict.fromkeys(group.task for group in groups))
    names = list(dict.fromkeys(group.name for group in groups))
    by_place = {(group.name, group.task): group for group in groups}
    failing = failing_of(groups)
    blocks: list[Any] = []
    for key, words in TABLED.items():
        if not any(key in group.estimates for group in groups):
            continue
        lines = []
        for name in names:
            line = [Cell(name)]
            for task in tasks:
                group = by_place.get((name, task))
                line.append(Cell("no run") if group is None else _with_control(group, key))
            lines.append(line)
        table = Table(marked(words, [key], failing), ("architecture", *tasks), lines,
                      tuple(range(1, len(tasks) + 1)), True)  # fmt: skip
        blocks.append(table)
    shown, rest = blocks[:OPEN], blocks[OPEN:]
    if rest:
        shown.append(Details("More measures by architecture and task", rest))
    return Section("architectures", "Architecture by task", lead, shown)


def _with_control(group: Group, key: str) -> Cell:
    estimated = _estimate(group, key, shade=not key.startswith("sparsity/"))
    controls = [
        f"{words} {group.estimates[other].mean:.3f}"
        for other, words in compared_with(key).items()
        if other in group.estimates
    ]
    return Cell(estimated.text, estimated.sort, estimated.shade, hint="; ".join(controls))


def _of_task(groups: Sequence[Group], place: int) -> Section:
    task = groups[0].task
    lead = "Learning curves are means over seeds, bands their 95% intervals."
    blocks: list[Any] = [Text(line, "note") for line in notes(groups)]
    failing = failing_of(groups)
    for number_of, key in enumerate(CURVES):
        chart = _curves(groups, key, f"curves-{place}-{number_of}", failing)
        if chart is not None:
            blocks.append(chart)
    blocks.append(Details("Every headline, with its controls", [_all_headlines(groups)]))
    return Section(f"task-{place}", f"Task: {task}", lead, blocks)


def _curves(
    groups: Sequence[Group], key: str, name: str, failing: Mapping[str, str]
) -> Chart | None:
    words = marked(TABLED[key], [key], failing)
    chart = Lines(
        name, f"{words}, over training",
        f"Curves of {TABLED[key]} over training steps, one for each architecture, as means "
        "over its seeds", "mean over seeds",
    )  # fmt: skip
    for place, group in enumerate(groups):
        steps, means, ends = mean_curve(group, key)
        if not steps:
            continue
        tone, dash = colour(place), dash_of(place)
        n = f"{len(group.runs)} runs"
        chart.add(group.name, steps, means, tone, dash, ends=ends, told=[n] * len(steps))
        for other, label in compared_with(key).items():
            steps, means, _ = mean_curve(group, other)
            if steps:
                chart.add(f"{group.name}: {label}", steps, means, tone, "dot", 1, legend=False,
                          marks=False)  # fmt: skip
                if CONTROLS_KEY not in chart.keys:
                    chart.keys.append(CONTROLS_KEY)
    return chart.chart() if chart.traces else None


def _all_headlines(groups: Sequence[Group]) -> Table:
    keys = dict.fromkeys(key for group in groups for key in group.estimates)
    failing = failing_of(groups)
    lines = []
    for family in FAMILIES:
        for key, label in family.chosen(keys).items():
            words = marked(f"{family.title}: {label}", [key], failing)
            lines.append([Cell(words), *(_estimate(g, key) for g in groups)])
            for other, said in compared_with(key).items():
                if other in keys:
                    cells = [
                        Cell(number(g.estimates[other].mean)) if other in g.estimates else Cell("-")
                        for g in groups
                    ]
                    lines.append([Cell(f"… {said}"), *cells])
    columns = ("over seeds", *(group.name for group in groups))
    numbers = tuple(range(1, len(columns)))
    note = "… is what to compare the line above with: its controls, or the reference."
    return Table("Every headline at the last checkpoint", columns, lines, numbers, note=note)


def _emergence(tasks: Sequence[Sequence[Group]]) -> Section:
    lead = (
        "When each measure first passed its controls (accuracy: 0.99), and in which order. Steps "
        "are checkpoints', so they are known up to their spacing; measures that emerged at one "
        "checkpoint are joined by =. An untrained model passes by chance once in a while."
    )
    blocks: list[Any] = []
    for groups in tasks:
        failing = failing_of(groups)
        lines = sorted(_emerged(groups, failing), key=_mean_step)
        if lines:
            columns = ("measure", *(group.name for group in groups))
            caption = f"{groups[0].task}: seeds in which it emerged, and the mean of their steps"
            blocks.append(Table(caption, columns, lines, tuple(range(1, len(columns)))))
        orders = [
            [
                Cell(group.name),
                Cell(str(run.config.seed), run.config.seed),
                Cell(order_of(run.summaries, failing)),
            ]
            for group in groups
            for run in group.runs
        ]
        blocks.append(Details(f"{groups[0].task}: the order in every run", [
            Table("Order of emergence, run by run", ("architecture", "seed", "order (step)"),
                  orders, (1,))]))  # fmt: skip
    return Section("emergence", "Emergence: what comes when", lead, blocks)


def _mean_step(line: Sequence[Cell]) -> float:
    """Return the mean step of emergence of a measure, over the groups in which it emerged."""
    steps = [cell.sort for cell in line[1:] if isinstance(cell.sort, float)]
    return sum(steps) / len(steps) if steps else math.inf


def _emerged(groups: Sequence[Group], failing: Mapping[str, str]) -> Iterator[list[Cell]]:
    keys = dict.fromkeys(key for group in groups for key in group.estimates)
    for key, label in emerging(keys).items():
        cells = []
        for group in groups:
            share = group.estimates.get(f"{EMERGED}/{key}")
            step = group.estimates.get(f"{EMERGENCE_STEP}/{key}")
            if share is None:
                cells.append(Cell("-"))
                continue
            text = f"{step.n if step else 0} of {share.n}"
            if step is not None:
                ends = f" ({interval(*step.interval, digits=0)})" if step.interval else ""
                text += f", step {step.mean:.0f}{ends}"
            cells.append(Cell(text, step.mean if step else None))
        yield [Cell(marked(label, [key], failing)), *cells]


def _lacking_lengths() -> Missing:
    """Return the command of the sweep over fixed and variable lengths, if its file is there."""
    what = "The same architecture on lists of one length and of several"
    file = configs_dir().parent / "sweeps" / "lengths.yaml"
    if not file.is_file():  # sweep files are in the repository, not in the installed package
        return Missing(what)
    count = len(list(read_sweep(file).cells(None, 0)))
    return Missing(f"{what} (a sweep of {count} runs; `--list` shows them)",
                   command("sweep", file))  # fmt: skip


def _lengths(groups: Sequence[Group]) -> Section:
    lead = (
        "Lists of one length are a control: there `length` is constant, and a mirror of "
        "positions is enough to reverse. What a model shows only there says nothing about the "
        "program."
    )
    title = "Fixed and variable length"
    pairs = list(length_pairs(groups))
    if not pairs:
        return Section("lengths", title, lead, [_lacking_lengths()])
    blocks: list[Any] = []
    for fixed, variable in pairs:
        lines = sorted(_differing(fixed, variable), key=lambda line: _order_of(line[-1].text))
        columns = ("measure", f"one length ({fixed.task})", f"several lengths ({variable.task})",
                   "over seeds")  # fmt: skip
        caption = f"{variable.name}: what differs (solved by {_solved(fixed)} at one length, by \
{_solved(variable)} at several)"
        note = (
            "Those that differ come first; among so many measures some may differ by chance. No "
            "value: there is nothing to measure, such as the length where it is constant, or "
            "neurons without an MLP."
        )
        blocks.append(Table(caption, columns, lines, (1, 2), note=note))
    return Section("lengths", title, lead, blocks)


def _order_of(told: str) -> int:
    return 0 if "do not overlap" in told else 1 if "overlap" in told else 2


def _solved(group: Group) -> str:
    """Return the number of runs of a group that solve their task."""
    count = sum(solved_of(list(run.final.values()), run.config).yes for run in group.runs)
    return f"{count} of {len(group.runs)} runs"


def length_pairs(groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """Yield pairs of groups, of fixed and of variable length, that differ in nothing else."""
    known: dict[str, tuple[bool, str]] = {}
    for group in groups:
        try:
            task = make_task(group.runs[0].folder.task)
        except UserError:
            continue
        same = {key: setting for key, setting in settings(group).items() if key not in SAME_KEYS}
        program = [*describe(task.program), *map(str, task.vocabulary)]
        known[group.label] = (
            task.min_length == task.max_length,
            repr((sorted(same.items()), program)),
        )
    for fixed in groups:
        for variable in groups:
            at_one, other = known.get(fixed.label), known.get(variable.label)
            if at_one and other and at_one[0] and not other[0] and at_one[1] == other[1]:
                yield fixed, variable


def _differing(fixed: Group, variable: Group) -> Iterator[list[Cell]]:
    failing = failing_of((fixed, variable))
    keys = dict.fromkeys((*fixed.estimates, *variable.estimates))
    for family in FAMILIES:
        for key, label in family.chosen(keys).items():
            estimate, other = fixed.estimates.get(key), variable.estimates.get(key)
            yield [
                Cell(marked(f"{family.title.partition(' (')[0]}: {label}", [key], failing)),
                _estimate(fixed, key), _estimate(variable, key),
                Cell(difference_text(estimate, other)),
            ]  # fmt: skip


def difference_text(estimate: Estimate | None, other: Estimate | None) -> str:
    """Return what two estimates over seeds say about a difference, and no more."""
    if estimate is None or other is None:
        return "not in both: nothing to compare"
    if estimate.interval is None or other.interval is None:
        return "one seed: says nothing"
    if estimate.interval[0] > other.interval[1]:
        return "higher at one length: the intervals do not overlap"
    if estimate.interval[1] < other.interval[0]:
        return "lower at one length: the intervals do not overlap"
    return "no difference shown: the intervals overlap"


def _programs(groups: Sequence[Group], members: Members, paths: Sequence[Path]) -> Section:
    lead = (
        "Which program each architecture runs, by interventions on its last checkpoint: how many "
        "seeds got each verdict, and the score over the seeds (mean, lowest to highest)."
    )
    title = "Matching: which programs do they run?"
    blocks: list[Any] = []
    left_out = 0
    for groups_of in by_task(groups):
        lines, known = [], {}
        for group in groups_of:
            each = [member.programs for member in members[group.label]]
            left_out += sum(not rows for rows in each)
            known[group.label] = [row for rows in each for row in rows]
        programs = sorted({row.program for rows in known.values() for row in rows})
        if not programs:
            continue
        for group in groups_of:
            cells = [_verdict_cell([row for row in known[group.label] if row.program == program],
                                   len(group.runs)) for program in programs]  # fmt: skip
            lines.append([Cell(group.name), Cell(_count(group), len(group.runs)), *cells])
        columns = ("architecture", "seeds", *programs)
        blocks.append(Table(f"Verdicts on {groups_of[0].task}", columns, lines, (1,)))
    if left_out:
        blocks.append(Missing(f"The verdicts of {left_out} runs", command("match", *paths)))
    return Section("programs", title, lead, blocks)


def _verdict_cell(rows: Sequence[ProgramVerdict], n: int) -> Cell:
    if not rows:
        return Cell("not measured")
    counts = Counter(row.verdict for row in rows)
    told = "; ".join(f"{verdict} {count} of {n}" for verdict, count in counts.most_common())
    scores = [row.score[0] for row in rows if row.score is not None]
    if scores:
        mean = sum(scores) / len(scores)
        told += f"; {mean:.2f} ({min(scores):.2f} to {max(scores):.2f})"
    return Cell(told)


def _verdicts(groups: Sequence[Group], over: Over) -> Section:
    lead = (
        "What the seeds of each architecture say of the three hypotheses together, with the "
        "numbers, and what would have changed it."
    )
    blocks = [
        Details(
            f"{group.label}: "
            + ", ".join(
                f"{hypothesis.name} {hypothesis.verdict}" for hypothesis in over[group.label]
            ),
            [Judgement(hypothesis) for hypothesis in over[group.label]],
        )
        for group in groups
    ]
    return Section("verdicts", "The three hypotheses", lead, blocks)


def _runs(groups: Sequence[Group], empty: Iterable[RunFolder]) -> Section:
    lines = []
    for group in groups:
        for run in group.runs:
            solved = solved_of(list(run.final.values()), run.config)
            exact = solved.exact
            lines.append([
                Cell(run.folder.path.name, code=True), Cell(group.task), Cell(group.name),
                Cell(str(run.config.seed), run.config.seed),
                cell(exact.value if exact else None, hint=interval(exact.ci_low, exact.ci_high)
                     if exact else ""),
                Cell("yes" if solved.yes else "no"),
                Cell(state_of(run.folder, run.last_step), run.last_step),
            ])  # fmt: skip
    for folder in empty:
        config = folder.config
        lines.append([
            Cell(folder.path.name, code=True), Cell(config.task.name), Cell(model_title(config)),
            Cell(str(config.seed), config.seed), Cell("-"), Cell("-"),
            Cell("no checkpoint yet", -1),
        ])  # fmt: skip
    columns = ("run", "task", "architecture", "seed", "exact accuracy", "solved", "state")
    table = Table("Every run", columns, lines, (3, 4), True)
    alone = [*(run.folder for group in groups for run in group.runs), *empty][0].commands
    lead = f"A page of one run, as by `{alone.of('report')}`, has everything measured in it."
    return Section("runs", "The runs", lead, [table])
