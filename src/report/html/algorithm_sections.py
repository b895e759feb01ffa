"""The sections of a run's page from other commands: matching, heads, neurons, the circuit."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...analysis.circuits.circuit_result import (
    MODEL,
    RANDOM_INIT,
    REFERENCE,
    CircuitResult,
    CircuitRow,
    EdgeRow,
    LengthRow,
)
from ...analysis.explain.attention_view import AttentionPatterns
from ...analysis.explain.explanation_result import (
    ExplanationResult,
    HeadRow,
    NeuronRow,
)
from ...analysis.explain.substitution import INTACT
from ...analysis.matching.cut_verdicts import NOT_TESTABLE
from ...analysis.matching.match_result import CutTestRow, MatchResult, ProgramRow, SelectorRow
from ...analysis.measurements import Measurement
from ...analysis.measures.registered_measures import measured
from ...analysis.results import Result
from ...config.printed_commands import command
from ...config.schema import Config
from ...hypotheses.failed_controls import Failing
from ...hypotheses.row_values import component_label
from ...infra.typed_tables import TypedTable
from ..terminal.matching_tables import head_label
from .blocks import (
    Cell,
    Details,
    Diagram,
    Missing,
    Patterns,
    Picture,
    Section,
    Table,
    Text,
    cell,
    interval,
    number,
)
from .charts import scatter
from .measure_sections import (
    emergence_curves,
    exact_by_step,
    heads_compared,
    matching_curves,
    neurons_compared,
)

Rows = Sequence[Measurement]
OfStep = TypeVar("OfStep", ProgramRow, SelectorRow)
NEURONS_SHOWN, NEURONS_LISTED = 20, 300
EDGES_SHOWN = 60
LIGHT = (
    "The light measure tests only the reference program's testable cuts, at every checkpoint, "
    "with at most {light} cases a test. Its cases differ from the {full} of `algomatch match`, "
    "and short lists are a larger part of them, so its values differ too. Where a checkpoint "
    "was matched, its verdict is that of `match`."
)
SITE_KINDS = {"hook_resid_pre": "before block {}", "hook_resid_post": "after block {}"}


def site_words(site: str) -> str:
    """Return a site of the residual stream in words.

    >>> site_words("blocks.0.hook_resid_pre"), site_words("blocks.1.hook_resid_post")
    ('embedding', 'after block 1')
    """
    parts = site.split(".")
    if len(parts) != 3 or parts[2] not in SITE_KINDS:
        return site
    if parts[1:] == ["0", "hook_resid_pre"]:
        return "embedding"
    return SITE_KINDS[parts[2]].format(parts[1])


def unread(result: Result, *tables: TypedTable[Any]) -> list[Any]:
    """Return a warning for each table of a command that exists but cannot be read."""
    return [Text(problem, "warning") for problem in result.problem(*tables)]


def stale(steps: Iterable[int | None], last_step: int, again: str) -> list[Any]:
    """Return a warning if results are not from the last checkpoint."""
    known = {step for step in steps if step is not None}
    if last_step in known or not known:
        return []
    shown = ", ".join(map(str, sorted(known)))
    return [
        Text(
            f"These results are of step {shown}; the last checkpoint is of step {last_step}. "
            f"`{again}` updates them.", "warning")
    ]  # fmt: skip


def matching(
    rows: Rows, matched: MatchResult, failing: Failing, last_step: int, path: Path
) -> Section:
    """Return the section on matching: cuts by sites over checkpoints, and verdicts on programs."""
    lead = (
        "Does the residual stream at a site hold just a set of the program's variables, and "
        "does the rest of the model use them as the program does? A cut is a set of variables "
        "through which every path from input to output passes. A match is the lowest of scrub "
        "(donors with the same values: the output must stay) and interchange (donors with other "
        "values: the output must become the program's). A box marks a site that holds the cut "
        "and no later one."
    )
    match_all = command("match", path, "--all")
    blocks: list[Any] = []
    matches = matched.tests
    blocks += unread(matched, matched.TESTS, matched.PROGRAMS)
    if matched.programs:
        blocks.append(_programs(matched.programs))
        blocks += stale((row.step for row in matched.programs), last_step, match_all)
    else:
        blocks.append(Missing("The verdict on each program of the task", match_all))
    exact = exact_by_step(rows)
    if matches:
        steps = {row.step for row in matches}
        full = f"match, up to {_cases(matches):,} cases a test"
        for number_of, program in enumerate(dict.fromkeys(row.program for row in matches)):
            own = [row for row in matches if row.program == program]
            blocks.append(_diagram(f"full-{number_of}", program, own, exact, full))
        blocks += emergence_curves(matched.emergence, full)
        if left := {row.step for row in rows} - steps:
            blocks.append(Missing(f"All programs at the other {len(left)} checkpoints", match_all))
    light = [row for row in rows if row.measure == "matching/match"]
    testable = [row for row in rows if row.measure == "matching/testable_cuts"]
    if light:
        cases = f"{max(row.n for row in light):,}"
        diagram = _light_diagram(rows, light, exact, f"light, up to {cases} cases a test")
        others = f"{_cases(matches):,}" if matches else "more"
        text = Text(LIGHT.format(light=cases, full=others), "note")
        parts = [text, diagram, *matching_curves(rows, failing)]
        if matches:
            summary = f"The light measure of every checkpoint (up to {cases} cases a test)"
            blocks.append(Details(summary, parts))
        else:
            blocks += parts
    elif testable and testable[-1].value == 0:
        blocks.append(Text("The reference program has no inner cut that can be tested, so the "
                           "checkpoints have no matches."))  # fmt: skip
    elif not matches:
        blocks.append(Missing("Matching at checkpoints (`matching` in analysis.measures)",
                              match_all))  # fmt: skip
    if matched.selectors:
        blocks.append(Details("Which heads meet the programs' selectors",
                              [_selectors(matched.selectors)]))  # fmt: skip
    return Section("matching", "Matching: which program does it run?", lead, blocks)


def _cases(rows: Sequence[CutTestRow]) -> int:
    """Return the largest number of cases of a test."""
    return max((row.n for row in rows), default=0)


def _last(rows: Sequence[OfStep]) -> list[OfStep]:
    last = max((row.step or 0 for row in rows), default=0)
    return [row for row in rows if (row.step or 0) == last]


def _programs(rows: Sequence[ProgramRow]) -> Table:
    last = _last(rows)
    lines = [
        [
            Cell(row.program, code=True), Cell(row.verdict), cell(row.score),
            Cell(interval(row.score_low, row.score_high)),
            Cell(f"{row.testable} of {row.inner}"), Cell(row.why),
        ]
        for row in last
    ]  # fmt: skip
    step = last[0].step
    columns = ("program", "verdict", "score", "95% interval", "cuts that can be tested", "why")
    caption = f"Verdicts on the programs of the task, step {step}, best first"
    note = (
        "Score: the best match that no later cut explains, mean over the testable inner cuts; "
        "the compiled program has 1."
    )
    return Table(caption, columns, lines, (2, 3, 4), note=note)


def _diagram(
    name: str, program: str, rows: Sequence[CutTestRow], exact: Mapping[int, str], how: str
) -> Diagram:
    rows = [row for row in rows if row.site.endswith(("resid_pre", "resid_post"))]
    cuts = list(dict.fromkeys(row.cut for row in rows))
    sites = list(dict.fromkeys(row.site for row in rows))
    untestable = {row.cut for row in rows if row.verdict == NOT_TESTABLE}
    by_step: dict[int, dict[tuple[str, str], CutTestRow]] = {}
    for row in rows:
        by_step.setdefault(row.step or 0, {})[row.cut, row.site] = row
    frames = []
    for step, cells in sorted(by_step.items()):
        verdicts = {cut: row.verdict for (cut, _), row in cells.items()}
        frames.append({
            "step": step, "exact": exact.get(step, ""),
            "values": [[_hundredth(cells.get((cut, site))) for site in sites] for cut in cuts],
            "told": [[_tests(cells.get((cut, site))) for site in sites] for cut in cuts],
            "held": [[int((cut, site) in cells and cells[cut, site].held) for site in sites]
                     for cut in cuts],
            "verdicts": [_cut_verdict(cut, place, len(cuts), verdicts, untestable)
                         for place, cut in enumerate(cuts)],
        })  # fmt: skip
    caption = f"Cuts of the program {program} (rows) at the model's sites (columns): {how}"
    return Diagram(
        name, caption, [cut.replace("+", ", ") for cut in cuts], list(map(site_words, sites)),
        frames,
    )  # fmt: skip


def _cut_verdict(
    cut: str, place: int, count: int, verdicts: Mapping[str, str], untestable: set[str]
) -> str:
    if place == 0:
        return "the input"
    if place == count - 1:
        return "the output"
    return verdicts.get(cut, "") if cut not in untestable else NOT_TESTABLE


def _hundredth(row: CutTestRow | None) -> float | None:
    return None if row is None else round(row.match, 3)


def _tests(row: CutTestRow | None) -> str:
    if row is None:
        return "not tested"
    ends = interval(row.match_low, row.match_high, 2)
    return f"95% {ends}, chance {number(row.chance, 2)}, n={row.n}"


def _light_diagram(rows: Rows, light: Rows, exact: Mapping[int, str], how: str) -> Diagram:
    pairs = [row.subject.rpartition("@")[::2] for row in light]
    cuts = list(dict.fromkeys(cut for cut, _ in pairs))
    sites = sorted(dict.fromkeys(site for _, site in pairs), key=_site_order)
    chances = {
        (row.step, row.subject): row.value
        for row in rows
        if row.measure == "matching/best_match_chance"
    }
    realised = {
        (row.step, row.subject) for row in rows
        if row.measure == "matching/realised" and row.value == 1
    }  # fmt: skip
    by_step: dict[int, dict[tuple[str, str], Measurement]] = {}
    for row in light:
        cut, _, site = row.subject.rpartition("@")
        by_step.setdefault(row.step, {})[cut, site] = row
    frames = []
    for step, cells in sorted(by_step.items()):

        def told(cut: str, site: str, step: int = step, cells: Any = cells) -> str:
            row = cells.get((cut, site))
            if row is None:
                return "not tested"
            ends = interval(row.ci_low, row.ci_high, 2)
            return f"95% {ends}, chance at most {number(chances.get((step, cut)), 2)}, n={row.n}"

        frames.append({
            "step": step, "exact": exact.get(step, ""),
            "values": [[round(cells[cut, site].value, 3) if (cut, site) in cells else None
                        for site in sites] for cut in cuts],
            "told": [[told(cut, site) for site in sites] for cut in cuts],
            "held": [[0 for _ in sites] for _ in cuts],
            "verdicts": ["surely realised" if (step, cut) in realised else "" for cut in cuts],
        })  # fmt: skip
    caption = f"Testable cuts of the reference program (rows) at the model's sites (columns): {how}"
    return Diagram(
        "light", caption, [cut.replace("+", ", ") for cut in cuts], list(map(site_words, sites)),
        frames,
    )  # fmt: skip


def _site_order(site: str) -> tuple[int, str]:
    parts = site.split(".")
    return (int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0, site)


def _selectors(rows: Sequence[SelectorRow]) -> Table:
    lines = [
        [
            Cell(row.program, code=True), Cell(row.selectors.replace("+", " = "), code=True),
            Cell(head_label(row.head)), cell(row.overlap), Cell(interval(row.low, row.high)),
            cell(row.uniform), cell(row.random_init),
        ]
        for row in _last(rows)
    ]  # fmt: skip
    columns = ("program", "selector", "best head", "overlap", "95% interval",
               "attention to everything", "highest random init")  # fmt: skip
    return Table("Selectors, and the head that meets each best", columns, lines, (3, 4, 5, 6), True)


def attention(
    rows: Rows,
    last: Rows,
    explanation: ExplanationResult,
    failing: Failing,
    patterns: AttentionPatterns,
    last_step: int,
    path: Path,
    rerun: str,
) -> Section:
    """Return the section on heads: their attention, their explanations, and the reference's heads.

    `patterns` are those of the model and of the reference, or why there are none.
    """
    lead = (
        "Where each head looks: a row for each query position, a column for each key position, "
        "brighter for more attention. Attention does not show what a head moves, or that the "
        "head is needed."
    )
    explain = command("explain", path)
    blocks: list[Any] = []
    heads = explanation.heads
    blocks += unread(explanation, explanation.HEADS)
    blocks += stale({row.step for row in heads}, last_step, explain)
    blocks += unfinished(explanation, _explained_parts(explanation), explain)
    if not heads:
        blocks.append(Missing("What explains each head", explain))
    told = {f"{row.layer}.{row.head}": row for row in heads}
    ours, theirs = patterns.model, patterns.reference
    if isinstance(ours, str):
        blocks.append(Text(ours, "warning"))
    else:
        near = _nearest(last)
        named = [(name, [*_explained(told.get(name)), *near.get(name, [])]) for name in ours.heads]
        caption = f"Attention of {len(named)} heads at step {last_step}"
        blocks.append(Patterns("patterns", named, ours.views, caption))
    if isinstance(theirs, str):
        blocks.append(Text(theirs, "note"))
    else:
        named = [(name, ["of the compiled program"]) for name in theirs.heads]
        caption = f"Attention of the compiled reference's {len(named)} active heads"
        shown = Patterns("reference", named, theirs.views, caption)
        blocks.append(Details("For comparison: the compiled program's heads", [shown]))
    if heads:
        blocks.append(Details("All explanations of heads, as a table", [_heads(heads)]))
    blocks += heads_compared(rows, last, failing, rerun)
    blocks += _explained_model(explanation, explain)
    return Section("attention", "Attention: where does each head look?", lead, blocks)


def _explained_parts(explanation: ExplanationResult) -> str:
    """Return which parts of an explanation exist."""
    parts = {
        "heads": explanation.heads, "neurons": explanation.neurons,
        "the model": explanation.explained,
    }  # fmt: skip
    return ", ".join(name for name, rows in parts.items() if rows)


def _nearest(last: Rows) -> dict[str, list[str]]:
    """Return, for each head, the reference's head with the most attention in common."""
    best: dict[str, Measurement] = {}
    for row in last:
        if row.measure == "attention/overlap":
            ours = head_label(row.subject.rpartition("~")[2])
            if ours not in best or row.value > best[ours].value:
                best[ours] = row
    return {
        ours: [f"most in common with the reference's "
               f"{component_label(row.subject.partition('~')[0])}: {row.value:.2f}"]
        for ours, row in best.items()
    }  # fmt: skip


def _explained(row: HeadRow | None) -> list[str]:
    if row is None:
        return ["not explained yet"]
    if row.level == "inactive":
        return ["inactive: no effect on any input"]
    if row.level == "table":
        name, overlap, untrained = row.table, row.table_overlap, row.table_random_init
        ends = interval(row.table_low, row.table_high, 2)
    else:
        name, overlap, untrained = row.selector, row.selector_overlap, row.selector_random_init
        ends = interval(row.selector_low, row.selector_high, 2)
    words = {"selector": "attends as", "table": "by a table of"}
    return [
        f"{words.get(row.level, 'explained by nothing; nearest')}: {name}",
        f"overlap {number(overlap, 2)} ({ends})",
        f"controls: random init {number(untrained, 2)}, to everything {number(row.uniform, 2)}",
    ]


def _heads(rows: Sequence[HeadRow]) -> Table:
    lines = [
        [
            Cell(f"{row.layer}.{row.head}"), Cell(row.level), Cell(row.selector),
            cell(row.selector_overlap, 2), Cell(interval(row.selector_low, row.selector_high, 2)),
            cell(row.selector_random_init, 2), Cell(row.table), cell(row.table_overlap, 2),
            cell(row.table_random_init, 2), cell(row.uniform, 2),
        ]
        for row in rows
    ]  # fmt: skip
    columns = ("head", "explained by", "best selector", "overlap", "95% interval", "random init",
               "simplest table", "overlap, held out", "random init", "to everything")  # fmt: skip
    return Table("What explains each head", columns, lines, (3, 4, 5, 7, 8, 9), True)


def _explained_model(explanation: ExplanationResult, explain: str) -> list[Any]:
    rows = explanation.explained
    if not rows:
        what = Missing("The explained model: its accuracy with explanations in place", explain)
        return [*unread(explanation, explanation.EXPLAINED), what]
    layers = max(row.up_to_layer for row in rows)
    kept = [row for row in rows if row.inputs == "held_out" and row.up_to_layer in (layers, -1)]
    lines = [
        [
            Cell("nothing: the model as it is" if row.explained == INTACT else
                 f"control: {row.explained}" if row.control else row.explained),
            cell(row.exact), Cell(interval(row.low, row.high)), Cell(str(row.n), float(row.n)),
        ]
        for row in kept
    ]  # fmt: skip
    caption = "Exact accuracy on held-out inputs with all layers replaced by their explanations"
    note = (
        "Patterns, and the program's variables in predicates, are looked up, not computed by "
        "the model: where a control is as good, the explanation says nothing."
    )
    columns = ("explained", "exact accuracy", "95% interval", "n inputs")
    return [Table(caption, columns, lines, (1, 2, 3), note=note)]


def neurons(
    rows: Rows,
    last: Rows,
    explanation: ExplanationResult,
    failing: Failing,
    config: Config,
    last_step: int,
    path: Path,
    rerun: str,
) -> Section:
    """Return the section on neurons: their figures and their predicates."""
    lead = (
        "Is a neuron sharply on or off, and can one say for what? Each predicate is judged on "
        "held-out inputs, beside the same search on shuffled on/off labels."
    )
    explain = command("explain", path)
    blocks: list[Any] = []
    was_measured = "sparsity" in measured(config.analysis)
    blocks += neurons_compared(rows, last, failing, was_measured, rerun)
    if not config.model.attn_only:
        table = explanation.neurons
        blocks += unread(explanation, explanation.NEURONS)
        blocks += stale({row.step for row in table}, last_step, explain)
        if table:
            blocks += _predicates(table, explanation.untrained)
        else:
            blocks.append(Missing("When each neuron is on", explain))
    return Section("neurons", "Neurons", lead, blocks)


def _predicates(rows: Sequence[NeuronRow], untrained: Sequence[NeuronRow]) -> list[Any]:
    """Return how many neurons are explained, the most important ones, and the others folded."""
    told = (
        f"Explained: {_share_explained(rows)} of the neurons that are on at some positions and "
        "off at others."
    )
    if untrained:
        told += f" The same search in a random init: {_share_explained(untrained)}."
    note = (
        "accuracy: balanced accuracy of the predicate on held-out inputs (*: too rare to hold "
        "out, on all inputs). loss if off: the rise of the loss when the neuron is switched off."
    )
    lines = [_neuron(row) for row in rows[:NEURONS_LISTED]]
    columns = ("neuron", "state", "on where", "on share", "accuracy", "95% interval", "shuffled",
               "loss if off", "adds to")  # fmt: skip
    numbers = (3, 4, 5, 6, 7)
    caption = f"When the {min(NEURONS_SHOWN, len(rows))} most important neurons are on"
    blocks: list[Any] = [
        Text(told), Table(caption, columns, lines[:NEURONS_SHOWN], numbers, True, note)
    ]  # fmt: skip
    if len(lines) > NEURONS_SHOWN:
        left = len(rows) - len(lines)
        more = f"The {left:,} least important ones are in explanation/neurons.csv." if left else ""
        table = Table("When each neuron is on", columns, lines, numbers, True, more)
        blocks.append(Details(f"{len(lines)} of {len(rows)} neurons", [table]))
    return blocks


def _neuron(row: NeuronRow) -> list[Cell]:
    mark = "*" if row.judged_on == "all" else ""
    return [
        Cell(f"{row.layer}.{row.neuron}"), Cell(row.state), Cell(row.predicate),
        cell(row.on_share, 2),
        Cell(number(row.accuracy, 2) + mark, row.accuracy, shade=_above(row.accuracy)),
        Cell(interval(row.low, row.high, 2)), cell(row.shuffled, 2), cell(row.loss_change, 4),
        Cell(_adds(row)),
    ]  # fmt: skip


def _above(accuracy: float | None) -> float | None:
    return None if accuracy is None else max(0.0, 2 * accuracy - 1)


def _share_explained(rows: Sequence[NeuronRow]) -> str:
    told = [row for row in rows if row.judged]
    if not told:
        return "none"
    count = sum(bool(row.explained) for row in told)
    return f"{count} of {len(told)} ({count / len(told):.1%})"


def _adds(row: NeuronRow) -> str:
    added = row.adds_to
    if not added or max(map(abs, added.values())) < 1e-6:
        return ""
    ranked = sorted(added, key=lambda name: -added[name])
    ends = dict.fromkeys((ranked[0], ranked[-1]))
    return ", ".join(f"{name} {added[name]:+.2g}" for name in ends)


def circuit(
    result: CircuitResult, last_step: int, at_least: float, least: float, path: Path
) -> Section:
    """Return the section on the circuit: its drawing, its faithfulness, and what its edges carry.

    A circuit is faithful from `at_least` on. An edge matters if its effect is at least `least`.
    """
    lead = (
        "Which edges between its components does the model need? An edge is ablated by giving "
        "its reader something else. Faithfulness: 1 is what the model does, 0 what is left "
        "without any edge. Completeness: faithfulness of all other edges; 0 is best."
    )
    title = "Circuit"
    find = command("circuit", path)
    rows = result.curves
    if not rows:
        lacking = Missing("The circuit", find)
        return Section("circuit", title, lead, [*unread(result, result.CURVES), lacking])
    blocks: list[Any] = [*stale({row.step for row in rows}, last_step, find)]
    blocks += unfinished(result, _searched(result), find)
    edges, chosen = [row for row in result.edges if row.in_circuit], result.chosen
    drawing = _data_uri(result.pictures.get("circuit.png"))
    if not chosen:
        blocks.append(Text(f"No circuit of those searched for is surely {at_least:.0%} faithful: "
                           f"{_searched(result)}."))  # fmt: skip
    else:
        if _is_main_whole(edges, result):
            told = f"It takes all {len(edges)} edges: the whole model. No smaller circuit is surely"
            blocks.append(Text(f"{told} {at_least:.0%} faithful.", "warning"))
        if drawing:
            words = "; ".join(_edge(row) for row in _by_need(edges)[:12])
            blocks.append(
                Picture(
                    f"The circuit as a graph of {len(edges)} edges, embeddings on top, output at "
                    f"the bottom. The edges that are needed most: {words}.",
                    "The circuit: which component reads which, as value, key or query. A name "
                    "on an edge is the program variable that the edge carries. Of more than 50 "
                    "edges, the most needed are drawn.",
                    uri=drawing,
                )
            )
        else:
            blocks.append(Missing("The circuit's drawing", find))
    blocks.append(_methods(result))
    blocks += unread(result, result.EDGES) + _carried(result, find)
    blocks += _curves(rows, at_least)
    if result.lengths:
        blocks.append(_by_length(result.lengths))
    elif chosen:
        blocks.append(Missing("The circuit by length", find))
    if edges:
        table = _edges(_by_need(edges), len(edges), least)
        blocks.append(Details("The circuit's edges", [table]))
    return Section("circuit", title, lead, blocks)


def unfinished(result: Result, what: str, command: str) -> list[Any]:
    """Return a warning if a command was interrupted, with what it had done."""
    if result.about.finished:
        return []
    return [Text(f"`{command}` was interrupted. What it had done is shown: {what}. The rest is "
                 "missing.", "warning")]  # fmt: skip


def _data_uri(picture: bytes | None) -> str:
    """Return a PNG as a data URI; empty if there is none."""
    return "" if picture is None else f"data:image/png;base64,{b64encode(picture).decode()}"


def _searched(result: CircuitResult) -> str:
    """Return the search methods that were used, by kind of ablation."""
    by_kind: dict[str, dict[str, None]] = {}
    for method, kind in result.searches:
        by_kind.setdefault(kind, {})[method] = None
    return "; ".join(f"{kind}: {', '.join(methods)}" for kind, methods in by_kind.items())


def _is_main_whole(edges: Sequence[EdgeRow], result: CircuitResult) -> bool:
    """Return whether the main circuit, the one with the fewest edges, is the whole model."""
    return any(result.is_whole(row) for row in result.chosen if row.edges == len(edges))


def _edge(row: EdgeRow) -> str:
    carries = f" carries {row.carries}" if row.carries else ""
    return f"{row.edge}{carries}"


def _by_need(edges: Sequence[EdgeRow]) -> list[EdgeRow]:
    return sorted(edges, key=lambda row: -(row.needed or 0.0))


def _carried(result: CircuitResult, find: str) -> list[Any]:
    each = {of: result.inner(of) for of in (MODEL, REFERENCE, RANDOM_INIT)}
    if not any(each.values()) and result.carried:
        return [
            Text(
                "All edges of the circuit come from embeddings, so no inner edge carries a "
                "variable."
            )
        ]
    if not any(each.values()):
        return [*unread(result, result.CARRIED),
                Missing("What edges carry, in this model, in the reference and in a random init",
                        find)]  # fmt: skip
    lines = []
    for of, words in ((MODEL, "this model's circuit"), (REFERENCE, "the reference"),
                      (RANDOM_INIT, "the same edges of a random init (control)")):  # fmt: skip
        own = each[of]
        names = [row.carries for row in own if row.carries]
        which = ", ".join(f"{name} ({names.count(name)})" for name in dict.fromkeys(names))
        share = len(names) / len(own) if own else None
        lines.append([Cell(words), Cell(str(len(own)), len(own)), Cell(str(len(names)), len(names)),
                      cell(share, 2), Cell(which or "none")])  # fmt: skip
    columns = ("", "inner edges", "that carry a variable", "share", "which (edges)")
    note = (
        "Inner edges do not come from an embedding. A variable is named if it surely accounts "
        "for 90% of the edge's effect."
    )
    return [Table("What the edges carry", columns, lines, (1, 2, 3), note=note)]


def _methods(result: CircuitResult) -> Table:
    lines = [
        [
            Cell(row.ablation), Cell(row.method),
            Cell(f"{row.edges}{' (the whole model)' * result.is_whole(row)}", float(row.edges)),
            cell(row.faithfulness, 2),
            Cell(interval(row.faithfulness_low, row.faithfulness_high, 2)),
            cell(row.completeness, 2),
            cell(row.exact, hint=interval(row.exact_low, row.exact_high, 2)),
        ]
        for row in result.chosen
    ]  # fmt: skip
    columns = ("ablation", "method", "edges", "faithfulness", "95% interval", "completeness",
               "exact accuracy")  # fmt: skip
    caption = "The smallest surely faithful circuit of each method under each kind of ablation"
    note = (
        f"Searched for: {_searched(result)}. A method that is not listed found no surely "
        "faithful circuit."
    )
    return Table(caption, columns, lines, (2, 3, 4, 5, 6), True, note)


def _curves(rows: Sequence[CircuitRow], at_least: float) -> list[Any]:
    charts = []
    for place, kind in enumerate(dict.fromkeys(row.ablation for row in rows)):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row.ablation == kind and row.edges and row.faithfulness is not None:
                lines.setdefault(row.method, []).append((float(row.edges), row.faithfulness))
        chart = scatter(
            f"faithful-{place}", f"Faithfulness over size: {kind}",
            f"Curves of faithfulness over the number of edges, by method, for {kind} ablation",
            lines, ("edges", "faithfulness"), at_least,
        )  # fmt: skip
        charts.append(chart)
    return [Details("Faithfulness over the size of the circuit", charts)] if charts else []


def _by_length(rows: Sequence[LengthRow]) -> Table:
    lines = [
        [
            Cell(str(row.length), float(row.length)), Cell(str(row.inputs), float(row.inputs)),
            cell(row.faithfulness, 2),
            Cell(interval(row.faithfulness_low, row.faithfulness_high, 2)),
            cell(row.completeness, 2,
                 hint=interval(row.completeness_low, row.completeness_high, 2)),
            cell(row.exact, hint=interval(row.exact_low, row.exact_high, 2)),
            cell(row.minimality, 2),
        ]
        for row in rows
    ]  # fmt: skip
    columns = ("length", "n inputs", "faithfulness", "95% interval", "completeness",
               "exact accuracy", "share of edges that surely have an effect")  # fmt: skip
    return Table("The circuit by length", columns, lines, (1, 2, 3, 4, 5, 6))


def _edges(rows: Sequence[EdgeRow], count: int, least: float) -> Table:
    lines = [
        [
            Cell(row.edge, code=True), _need(row, least),
            Cell(interval(row.needed_low, row.needed_high, 4)),
            Cell(row.carries or ("-" if row.share is None else "no single variable")),
            cell(row.share, 2), Cell(interval(row.share_low, row.share_high, 2)),
            cell(row.chance, 2),
        ]
        for row in rows[:EDGES_SHOWN]
    ]  # fmt: skip
    columns = ("edge", "needed", "95% interval", "carries", "share", "95% interval", "by chance")
    lows = [row.needed_low for row in rows if row.needed_low is not None]
    sure = [sum(low >= at and low > 0 for low in lows) for at in (least, 0)]
    note = (
        "Needed: how much further off the outputs are without the edge, in nats (for numerical "
        f"outputs: the squared difference). Of {count} edges {sure[0]} are surely needed (*: at "
        f"least {least:g}, `analysis.circuit_threshold`), {sure[1]} surely have an effect (+: "
        "above 0)."
    )
    if not lows:
        note = "How much each edge is needed was not measured yet."
    more = count - len(lines)
    note += f" {more} more are in circuit/edges.csv." if more else ""
    return Table("Edges, the most needed first", columns, lines, (1, 2, 4, 5, 6), True, note)


def _need(row: EdgeRow, least: float) -> Cell:
    low = row.needed_low
    mark = "" if low is None or low <= 0 else " *" if low >= least else " +"
    return Cell(number(row.needed, 4) + mark, row.needed)
