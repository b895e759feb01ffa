"""The tables behind the page of several runs, in long form.

What was not measured has no row. `group` is the group of `algomatch compare`. Intervals of groups
are Student's t over seeds; those of runs are over inputs.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...analysis.explain.explanation_result import ExplainedRow, NeuronRow
from ...analysis.explain.neurons import VARIES
from ...analysis.explain.substitution import INTACT, NEURONS, TABLES, UNIFORM
from ...config.naming import model_title
from ...config.printed_commands import command
from ...hypotheses.compared_headlines import TABLED, compared_with, emerging
from ...hypotheses.evidence import solved_of
from ...hypotheses.row_values import NEURON_LABELS
from ...hypotheses.seed_groups import EMERGED, EMERGENCE_STEP, Estimate, Group, meanings
from ...hypotheses.verdicts import (
    AGAINST,
    FOR,
    NEITHER,
    NOT_JUDGED,
    NOT_MEASURED,
    Carried,
    Evidence,
    Hypothesis,
)
from ...runs.run_batches import HIGHEST
from .grouped_runs import NAMES, ON_OFF_KEYS, Gathered, Member, by_seed
from .run_page import overridden_notes, state_of

Value = str | int | float | None
Record = Mapping[str, Value]
GROUP = ("task", "architecture", "group")
RUN = ("run", "id", *GROUP, "seed")
OVER = ("mean", "low", "high", "n", "lowest", "highest")
AT_LENGTH = re.compile(r"accuracy/(?P<split>\w+)\.length_(?P<length>\d+)/exact")
NOT_RUN = "controls not run"
ATTENTION = "attention/model/matched_overlap"
EVERYTHING, EVERYWHERE = f"{TABLES}, {NEURONS}", f"{UNIFORM}, {NEURONS}"
CIRCUIT_OF = {"model": "model", "reference": "reference", "untrained": "random_init"}


@dataclass(frozen=True)
class SummaryTable:
    """A table: its columns, and its rows by column; missing values are left empty."""

    columns: tuple[str, ...]
    rows: tuple[Record, ...]

    def csv(self) -> bytes:
        """Return the table as CSV: numbers with six digits, empty if not finite."""
        lines = [_line(self.columns)]
        lines += [_line([_written(row.get(key)) for key in self.columns]) for row in self.rows]
        return "".join(lines).encode()


def _line(cells: Sequence[str]) -> str:
    r"""Return a line of CSV that ends in a newline without a carriage return.

    Cells with a lone carriage return are quoted too. Before Python 3.13, `csv` does so only if its
    own line ends contain one.

    >>> _line(["a", "b,c", "d\re"])
    'a,"b,c","d\re"\n'
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _written(cell: Value) -> str:
    """Return a value as text for a table.

    >>> _written(1 / 3), _written(None), _written(True)
    ('0.333333', '', 'yes')
    """
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.6g}" if math.isfinite(cell) else ""
    return "" if cell is None else str(cell)


def summary_tables(gathered: Gathered) -> dict[str, SummaryTable]:
    """Return the tables of several runs by name, including those without rows."""
    return {
        name: SummaryTable(columns, tuple(rows(gathered)))
        for name, (columns, rows) in TABLES_OF.items()
    }


def not_measured(gathered: Gathered, paths: Sequence[Path]) -> list[str]:
    """Return a line for each table that lacks runs, with the command that measures them."""
    members = [member for group in gathered.groups for member in gathered.members[group.label]]
    lines = []
    tables: tuple[tuple[str, str, Callable[[Member], bool]], ...] = (
        ("programs.csv", "match", lambda member: bool(member.programs)),
        ("circuits.csv", "circuit", lambda member: bool(member.results.circuit.curves)),
        ("explained.csv", "explain", lambda member: bool(member.results.explanation.explained)),
    )
    for name, what, there in tables:
        lacking = [member.run.folder.path for member in members if not there(member)]
        if lacking:
            count = f"{len(lacking)} of {len(members)} runs"
            lines.append(f"{name}: not measured in {count}: {command(what, *paths)}")
    for member in members:
        results = member.results
        each = (results.match, results.circuit, results.explanation)
        problems = [problem for result in each for problem in result.problems.values()]
        problems += results.problems
        lines += [" ".join(problem.split()) for problem in problems]  # a path may hold a new line
    lines += overridden_notes([member.results for member in members])
    return [*lines, *meanings(group for group in gathered.groups if group.failing is None)]


def _of_group(group: Group) -> dict[str, Value]:
    return {"task": group.task, "architecture": group.name, "group": group.label}


def _of_run(group: Group, member: Member) -> dict[str, Value]:
    run = member.run
    about = {"run": run.folder.path.name, "id": run.folder.id}
    return {**about, **_of_group(group), "seed": run.config.seed}


def _over(estimate: Estimate) -> dict[str, Value]:
    low, high = estimate.interval or (None, None)
    return {
        "mean": estimate.mean, "low": low, "high": high, "n": estimate.n, "lowest": estimate.lowest,
        "highest": estimate.highest,
    }  # fmt: skip


def _counted(words: Iterable[str]) -> str:
    """Return the count of each word, as `supported 3; undecided 2`."""
    return "; ".join(f"{word} {count}" for word, count in Counter(words).most_common())


def _fails(group: Group, *keys: str) -> str:
    """Return why a measure fails the task's controls; empty if it passes."""
    if group.failing is None:
        return NOT_RUN
    return "; ".join(dict.fromkeys(group.failing[key] for key in keys if key in group.failing))


def _verdicts(gathered: Gathered) -> Iterator[Record]:
    for group in gathered.groups:
        for hypothesis in gathered.over[group.label]:
            each = by_seed(gathered.members[group.label], hypothesis.name)
            yield {
                **_of_group(group), "hypothesis": hypothesis.name, "seeds": len(each),
                "verdict": hypothesis.verdict, "why": _reason(hypothesis, each.values()),
                "by_verdict": _counted(seed.verdict for seed in each.values()),
            }  # fmt: skip


def _reason(hypothesis: Hypothesis, each: Iterable[Hypothesis]) -> str:
    """Return the reason for a verdict over seeds, without the numbers of each seed."""
    if hypothesis.verdict in (NOT_JUDGED, NOT_MEASURED):
        return "; ".join(dict.fromkeys(seed.why.partition(":")[0] for seed in each))
    return hypothesis.why


def _evidence(gathered: Gathered) -> Iterator[Record]:
    for group in gathered.groups:
        for name in NAMES:
            each = by_seed(gathered.members[group.label], name).values()
            kinds: dict[str, list[Evidence]] = {}
            for hypothesis in each:
                for part in hypothesis.evidence:
                    kinds.setdefault(part.over_seeds, []).append(part)
            for kind, parts in kinds.items():
                yield {
                    **_of_group(group), "hypothesis": name, "evidence": kind,
                    "decides": any(part.decides for part in parts), "seeds": len(parts),
                    **_told(parts),
                }  # fmt: skip


def _told(parts: Sequence[Evidence]) -> dict[str, Value]:
    says = Counter(part.says for part in parts)
    values = [part.value for part in parts if part.value is not None]
    return {
        "for": says[FOR], "against": says[AGAINST], "says_nothing": says[NEITHER],
        "mean": _mean(values), "lowest": min(values, default=None),
        "highest": max(values, default=None),
        "control": _mean([part.level for part in parts if part.level is not None]),
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _runs(gathered: Gathered) -> Iterator[Record]:
    for group in gathered.groups:
        for member in gathered.members[group.label]:
            run = member.run
            solved = solved_of(list(run.final.values()), run.config)
            exact = solved.exact
            yield {
                **_of_run(group, member), "step": run.last_step,
                "state": state_of(run.folder, run.last_step),
                "exact": exact.value if exact else None, "low": exact.ci_low if exact else None,
                "high": exact.ci_high if exact else None, "inputs": exact.n if exact else None,
                "solved": solved.yes,
                **{name: hypothesis.verdict for name, hypothesis in member.hypotheses.items()},
            }  # fmt: skip
    for folder in gathered.empty:
        config = folder.config
        yield {
            "run": folder.path.name, "id": folder.id, "task": config.task.name,
            "architecture": model_title(config), "seed": config.seed, "state": "no checkpoint yet",
        }  # fmt: skip


def _lengths(gathered: Gathered) -> Iterator[Record]:
    for group in gathered.groups:
        for key, estimate in group.estimates.items():
            matched = AT_LENGTH.fullmatch(key)
            if matched is not None:
                inputs = [run.final[key].n for run in group.runs if key in run.final]
                yield {
                    **_of_group(group), "split": matched["split"], "length": int(matched["length"]),
                    **_over(estimate), "inputs": _mean(inputs),
                }  # fmt: skip


def _headlines(gathered: Gathered) -> Iterator[Record]:
    on_off = {
        key: f"H1: {NEURON_LABELS[key.rpartition('h1_')[2]]}, reference minus model"
        for key in ON_OFF_KEYS
    }
    for group in gathered.groups:
        for key, label in {**TABLED, **on_off}.items():
            estimate = group.estimates.get(key)
            if estimate is not None:
                yield {
                    **_of_group(group), "headline": key, "label": label, **_over(estimate),
                    **_compared(group, key),
                    "fails_controls": _fails(group, key, key.replace("/h1_", "/")),
                }  # fmt: skip


def _compared(group: Group, key: str) -> dict[str, Value]:
    """Return the highest control of a headline with its mean, and the reference's value."""
    there = {
        words: group.estimates[other].mean
        for other, words in compared_with(key).items()
        if other in group.estimates
    }
    reference = there.pop("reference", None)
    name = max(there, key=lambda words: there[words], default=None)
    return {
        "control": name, "control_mean": None if name is None else there[name],
        "reference_mean": reference,
    }  # fmt: skip


def _emergence(gathered: Gathered) -> Iterator[Record]:
    for group in gathered.groups:
        for key, label in emerging(group.estimates).items():
            share = group.estimates[f"{EMERGED}/{key}"]
            steps = group.estimates.get(f"{EMERGENCE_STEP}/{key}")
            at = {} if steps is None else _over(steps)
            yield {
                **_of_group(group), "measure": key, "label": label,
                "emerged": 0 if steps is None else steps.n, "seeds": share.n,
                **{f"step_{name}": at.get(name) for name in OVER if name != "n"},
                "fails_controls": _fails(group, key),
            }  # fmt: skip


def _programs(gathered: Gathered) -> Iterator[Record]:
    for group in gathered.groups:
        members = gathered.members[group.label]
        verdicts = [candidate for member in members for candidate in member.programs]
        for program in dict.fromkeys(candidate.program for candidate in verdicts):
            some = [candidate for candidate in verdicts if candidate.program == program]
            scores = [candidate.score[0] for candidate in some if candidate.score is not None]
            yield {
                **_of_group(group), "program": program, "seeds": len(some),
                "by_verdict": _counted(candidate.verdict for candidate in some),
                "mean": _mean(scores), "lowest": min(scores, default=None),
                "highest": max(scores, default=None),
                "chance": _mean([candidate.chance for candidate in some
                                 if candidate.chance is not None]),
            }  # fmt: skip


def _circuits(gathered: Gathered) -> Iterator[Record]:
    for group in gathered.groups:
        for member in gathered.members[group.label]:
            if not member.results.circuit.curves:
                continue
            made: dict[str, Value] = {
                **_of_run(group, member), "last_step": member.run.last_step,
                "step": member.results.circuit.about.step,
                "found": member.circuit is not None,
            }  # fmt: skip
            circuit = member.circuit
            if circuit is not None:
                for name, words in CIRCUIT_OF.items():
                    made |= _carried(words, getattr(circuit, name))
                wanted, here = circuit.steps or (None, None)
                share, low, high = circuit.faithful
                made |= {
                    "ablation": circuit.ablation, "edges": circuit.edges,
                    "of_edges": circuit.of_edges, "whole": circuit.whole,
                    "faithfulness": share, "low": low, "high": high,
                    "reference_steps": None if wanted is None else len(wanted),
                    "model_steps": None if here is None else len(here),
                }  # fmt: skip
            yield {**made, **_attention(member)}


def _carried(words: str, carried: Carried | None) -> dict[str, Value]:
    """Return the number of inner edges, and how many of them carry a variable."""
    return {
        f"{words}_named": None if carried is None else carried.named,
        f"{words}_inner": None if carried is None else carried.edges,
    }


def _attention(member: Member) -> dict[str, Value]:
    """Return the attention in common with the reference, and its highest control."""
    final = member.run.final
    if ATTENTION not in final:
        return {}
    levels = {
        words: final[other].value
        for other, words in compared_with(ATTENTION).items()
        if other.startswith(HIGHEST) and other in final
    }
    name = max(levels, key=lambda words: levels[words], default=None)
    row = final[ATTENTION]
    return {
        "attention": row.value, "attention_low": row.ci_low, "attention_high": row.ci_high,
        "attention_control": None if name is None else levels[name],
        "attention_control_of": name,
    }  # fmt: skip


def _explained(gathered: Gathered) -> Iterator[Record]:
    for group in gathered.groups:
        for member in gathered.members[group.label]:
            result, bar = member.results.explanation, member.run.config.analysis.explain_at
            if result.heads or result.neurons or result.explained:
                heads = [row for row in result.heads if row.level != "inactive"]
                yield {
                    **_of_run(group, member), "last_step": member.run.last_step,
                    "step": result.about.step, "threshold": bar,
                    **_neurons(result.neurons, result.untrained, bar),
                    "active_heads": len(heads) if result.heads else None,
                    "heads_by_selector": _share(row.level == "selector" for row in heads),
                    "heads_by_table": _share(row.level == "table" for row in heads),
                    **_put_in(result.explained),
                }  # fmt: skip


def _neurons(
    rows: Sequence[NeuronRow], untrained: Sequence[NeuronRow], bar: float
) -> dict[str, Value]:
    """Return the shares of varying neurons that predicates explain, in model and controls."""
    varying = [row for row in rows if row.state == VARIES]
    floors = [row.shuffled for row in varying if row.shuffled is not None]
    theirs = [row for row in untrained if row.state == VARIES]
    return {
        "neurons": len(varying) if rows else None,
        "neurons_explained": _share(bool(row.explained) for row in varying),
        "neurons_shuffled": _share(floor >= bar for floor in floors),
        "random_init_neurons": len(theirs) if untrained else None,
        "random_init_explained": _share(bool(row.explained) for row in theirs),
    }


def _share(flags: Iterable[bool]) -> float | None:
    known = list(flags)
    return sum(known) / len(known) if known else None


def _put_in(rows: Sequence[ExplainedRow]) -> dict[str, Value]:
    """Return held-out exact accuracy with all layers explained, and that of its controls."""
    last = max((row.up_to_layer for row in rows), default=0)
    kept = {
        row.explained: row
        for row in rows
        if row.inputs == "held_out" and row.length is None and row.up_to_layer in (last, -1)
    }  # fmt: skip
    with_neurons = EVERYTHING in kept
    whole_model = kept.get(EVERYTHING if with_neurons else TABLES)
    control = kept.get(EVERYWHERE if with_neurons else UNIFORM)
    figures: dict[str, Value] = {
        f"exact_{words}": None if row is None else row.exact
        for words, row in (
            ("intact", kept.get(INTACT)), ("explained", whole_model), ("uniform", control),
        )
    }  # fmt: skip
    if whole_model is not None:
        figures |= {
            "explained_low": whole_model.low,
            "explained_high": whole_model.high,
            "inputs": whole_model.n,
        }  # fmt: skip
    return figures


Rows = Callable[[Gathered], Iterator[Record]]
TABLES_OF: dict[str, tuple[tuple[str, ...], Rows]] = {
    "verdicts": ((*GROUP, "hypothesis", "seeds", "verdict", "why", "by_verdict"), _verdicts),
    "evidence": (
        (*GROUP, "hypothesis", "evidence", "decides", "seeds", "for", "against", "says_nothing",
         "mean", "lowest", "highest", "control"),
        _evidence,
    ),
    "runs": (
        (*RUN, "step", "state", "exact", "low", "high", "inputs", "solved", *NAMES), _runs,
    ),
    "lengths": ((*GROUP, "split", "length", *OVER, "inputs"), _lengths),
    "headlines": (
        (*GROUP, "headline", "label", *OVER, "control", "control_mean", "reference_mean",
         "fails_controls"),
        _headlines,
    ),
    "emergence": (
        (*GROUP, "measure", "label", "emerged", "seeds",
         *(f"step_{name}" for name in OVER if name != "n"), "fails_controls"),
        _emergence,
    ),
    "programs": (
        (*GROUP, "program", "seeds", "by_verdict", "mean", "lowest", "highest", "chance"),
        _programs,
    ),
    "circuits": (
        (*RUN, "step", "last_step", "found", "ablation", "edges", "of_edges", "whole",
         "faithfulness", "low", "high",
         *(f"{words}_{end}" for words in CIRCUIT_OF.values() for end in ("named", "inner")),
         "reference_steps", "model_steps", "attention", "attention_low", "attention_high",
         "attention_control", "attention_control_of"),
        _circuits,
    ),
    "explained": (
        (*RUN, "step", "last_step", "threshold", "neurons", "neurons_explained",
         "neurons_shuffled", "random_init_neurons", "random_init_explained", "active_heads",
         "heads_by_selector", "heads_by_table", "exact_intact", "exact_explained", "explained_low",
         "explained_high", "exact_uniform", "inputs"),
        _explained,
    ),
}  # fmt: skip
