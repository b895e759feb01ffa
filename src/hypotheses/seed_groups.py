"""Groups of runs that differ only in their seed, and estimates of headlines over the seeds.

Intervals here are Student's t over seeds alone; inputs and positions vary within a run.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..analysis.measures.suite import declared_metrics
from ..analysis.statistics import t_interval, wilson_interval
from ..config.composition import flattened
from ..config.naming import UNGROUPED_SETTINGS, departures, task_title
from ..runs.run_batches import Run
from .failed_controls import Failing, meaning

FREE = ("seed", *UNGROUPED_SETTINGS)  # runs of one group may differ in these settings
OF_A_TARGET = ("trainer.evaluate_every", "trainer.steps_after_target")  # only with a target
UNTARGETED = (*FREE, *OF_A_TARGET)
EMERGED, EMERGENCE_STEP = "emerged", "emergence_step"
VALUE_SHOWN = 40  # the most characters of a config value in a label


@dataclass(frozen=True)
class Estimate:
    """An estimate over seeds: mean, interval (None for one seed), n and range."""

    key: str
    mean: float
    interval: tuple[float, float] | None
    n: int
    lowest: float
    highest: float
    better: str


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed; `name` distinguishes the group within its task."""

    task: str
    name: str
    runs: tuple[Run, ...]
    estimates: Mapping[str, Estimate]

    @property
    def failing(self) -> Failing:
        """The measures that fail the task's controls."""
        return self.runs[0].failing

    @property
    def label(self) -> str:
        """Task and name."""
        return f"{self.task} {self.name}"


def grouped(runs: Iterable[Run]) -> list[Group]:
    """Group runs that differ only in seed; groups are sorted by task, then by name.

    A group is named by its model, by the settings that depart from this model, and by the config
    keys in which groups of the same task and model differ. Keys outside the task are named on all
    tasks if groups differ in them on any, so that a setting has the same name everywhere. Runs
    with an inexact reference form groups of their own.
    """
    by_identity: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_identity[json.dumps(_identity(run), sort_keys=True, default=str)].append(run)
    alike: dict[tuple[str, str, bool], list[list[Run]]] = defaultdict(list)
    for members in by_identity.values():
        config = members[0].config
        base = (config.task.name, config.model.name, members[0].folder.exact)
        alike[base].append(sorted(members, key=lambda run: run.config.seed))
    shared: dict[str, set[str]] = defaultdict(set)  # by model
    telling = {}
    for base, several in alike.items():
        telling[base] = set(_telling([_identity(members[0]) for members in several]))
        shared[base[1]] |= {key for key in telling[base] if _on_any_task(key)}
    groups, there = list[Group](), Counter[tuple[str, str]]()
    for (task, model, exact), several in alike.items():
        for members in several:
            own = {key for key in departures(members[0].config) if key.startswith("model.")}
            wanted = telling[task, model, exact] | shared[model] | own
            identity = _identity(members[0])
            words = [f"{key}={_shown(identity[key])}" for key in identity if key in wanted]
            mark = [] if exact else ["(inexact reference)"]
            name = " ".join([model, *words, *mark])
            there[task, name] += 1
            if there[task, name] > 1:  # long values are truncated and may look the same
                name = f"{name} ({there[task, name]})"
            groups.append(Group(task, name, tuple(members), dict(_estimates(members))))
    return sorted(groups, key=lambda group: (group.task, group.name))


def differing_keys(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values are not the same in all mappings."""
    keys = dict.fromkeys(key for identity in identities for key in identity)
    return [
        key
        for key in keys
        if any(identity.get(key) != identities[0].get(key) for identity in identities)
    ]


def _telling(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the config keys that distinguish groups; the inputs' hash only if needed."""
    keys = [key for key in differing_keys(identities) if key != "inputs"]
    apart = {tuple(str(identity[key]) for key in keys) for identity in identities}
    return keys if len(apart) == len(identities) else [*keys, "inputs"]


def _on_any_task(key: str) -> bool:
    """Return whether a key of an identity has the same meaning on every task."""
    return "." in key and not key.startswith("task.")


def settings(group: Group) -> dict[str, Any]:
    """Return the config that all runs of a group share, by dotted key."""
    return {key: value for key, value in _identity(group.runs[0]).items() if "." in key}


def _identity(run: Run) -> dict[str, Any]:
    """Return what defines a group: config, inputs, and whether the reference is exact."""
    return {
        **flattened(run.config, FREE if run.config.trainer.target_accuracy else UNTARGETED),
        "inputs": run.folder.inputs_digest,
        "exact": run.folder.exact,
    }


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= VALUE_SHOWN else f"{text[: VALUE_SHOWN - 3]}..."


def _estimates(runs: Sequence[Run]) -> Iterator[tuple[str, Estimate]]:
    """Yield the estimates of every headline and of its emergence, with their keys."""
    metrics, finals = declared_metrics(), [run.final for run in runs]
    measures = {key: row.measure for final in finals for key, row in final.items()}
    for key, measure in measures.items():
        metric = metrics.get(measure)
        better = metric.better if metric is not None else "neither"
        yield key, estimate(key, [final[key].value for final in finals if key in final], better)
    for key in measures:
        known = [run.summaries[key] for run in runs if key in run.summaries]
        judged = [summary for summary in known if summary.threshold is not None]
        if judged:
            steps = [s.emergence_step for s in judged if s.emergence_step is not None]
            share, n = len(steps) / len(judged), len(judged)
            name = f"{EMERGED}/{key}"
            interval = wilson_interval(share, n) if n > 1 else None
            low, high = float(len(steps) == n), float(len(steps) > 0)
            yield name, Estimate(name, share, interval, n, low, high, "neither")
            if steps:
                name = f"{EMERGENCE_STEP}/{key}"
                yield name, estimate(name, steps, "neither")


def estimate(key: str, values: Sequence[float], better: str) -> Estimate:
    """Return the mean over seeds with its Student's t interval, n and range."""
    mean = math.fsum(values) / len(values)
    return Estimate(key, mean, t_interval(values), len(values), min(values), max(values), better)


def notes(groups: Sequence[Group]) -> list[str]:
    """Return the notes to a comparison of one task, one per line."""
    lines = []
    for group in groups:
        lines += [
            f"{group.name}: seed {run.config.seed} is unfinished, at step {run.last_step}"
            for run in group.runs
            if not run.finished
        ]
        steps = sorted({run.last_step for run in group.runs})
        if len(steps) > 1:
            shown = ", ".join(map(str, steps))
            lines.append(f"{group.name}: the runs' last steps differ ({shown})")
        for seed, times in Counter(run.config.seed for run in group.runs).items():
            if times > 1:
                lines.append(
                    f"{group.name}: {times} runs have the same seed {seed}: they are not "
                    "independent, so the interval is too narrow"
                )
        if not group.runs[0].folder.exact:
            lines.append(f"{group.name}: the reference is inexact, and so is the comparison")
    if len(titles := {task_title(group.runs[0].config) for group in groups}) == 1:
        (title,) = titles
        lines += [f"the task is {title}"] * (title != groups[0].task)
    shared = [settings(group) for group in groups]
    others = [key for key in differing_keys(shared) if not key.startswith("model.")]
    if others:
        lines.append(f"the groups differ in more than the model: {', '.join(others)}")
    return [*lines, *(line for line in meanings(groups) if line)]


def meanings(groups: Iterable[Group]) -> list[str]:
    """Return the meaning of the marks of groups, or how to run the controls, once per input set."""
    said: dict[str, str] = {}
    for group in groups:
        folder = group.runs[0].folder
        line = meaning(group.failing, folder.commands.controls, group.estimates)
        said[folder.inputs_digest] = said.get(folder.inputs_digest) or line
    return list(dict.fromkeys(said.values()))


def failing_of(groups: Iterable[Group]) -> dict[str, str]:
    """Return the measures that fail the controls in any of the groups, with the reason."""
    return {key: why for group in groups for key, why in (group.failing or {}).items()}
