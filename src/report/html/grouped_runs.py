"""Several runs, grouped over their seeds, with the results in their folders and their verdicts.

The page of several runs and its tables are made from this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ...analysis.matching.program_ranking import program_names
from ...data.inputs import input_set
from ...data.tasks import make_task
from ...hypotheses.evidence import circuit_found, judged, program_verdicts
from ...hypotheses.seed_groups import Group, grouped
from ...hypotheses.verdicts import CircuitFound, Hypothesis, ProgramVerdict, over_seeds
from ...infra.errors import UserError
from ...runs import checkpoints
from ...runs.run_batches import Run, load_runs
from ...runs.run_folder import RunFolder
from ...runs.run_results import RunResults
from .run_page import own_steps

Say = Callable[[str], None]
NAMES = ("H1", "H2", "H3")
ON_OFF_KEYS = tuple(f"sparsity/model/h1_{name}" for name in ("bimodal_share", "dip", "bimodality"))


@dataclass(frozen=True)
class Member:
    """A run of a group, with the results in its folder and its verdicts."""

    run: Run
    results: RunResults
    circuit: CircuitFound | None
    hypotheses: Mapping[str, Hypothesis]

    @cached_property
    def programs(self) -> list[ProgramVerdict]:
        """The verdicts on programs at the last checkpoint; empty if another one was matched."""
        verdicts = program_verdicts(self.results.match)
        return [verdict for verdict in verdicts if verdict.step == self.run.last_step]


Members = Mapping[str, Sequence[Member]]  # by the label of the group
Over = Mapping[str, Sequence[Hypothesis]]


@dataclass(frozen=True)
class Gathered:
    """Groups of runs over seeds; `members` and `over` are keyed by the label of the group.

    `over` holds the three hypotheses over the seeds of each group. `empty` holds the runs without
    a checkpoint. `left_out` has a line for each run that cannot be read, with the reason.
    """

    groups: Sequence[Group]
    members: Members
    over: Over
    empty: Sequence[RunFolder]
    left_out: Sequence[str] = ()

    @property
    def runs(self) -> list[Run]:
        """All runs with a checkpoint."""
        return [run for group in self.groups for run in group.runs]


def gather_runs(
    folders: Sequence[RunFolder], where: str, say: Say, left_out: Sequence[str] = ()
) -> Gathered:
    """Group several runs; `say` receives progress messages.

    Runs that cannot be read are left out and added to those in `left_out`.

    Raises:
        UserError: no run has a checkpoint.
        FaultError: the measurements of all runs are missing or damaged.
    """
    started = [folder for folder in folders if folder.checkpoint_folders()]
    empty = [folder for folder in folders if not folder.checkpoint_folders()]
    if not started:
        raise UserError(f"none of the {len(folders)} runs in '{where}' holds a checkpoint yet")
    lines = list(left_out)

    def read() -> Iterator[RunFolder]:
        for number_of, folder in enumerate(started, start=1):
            say(f"reading run {number_of} of {len(started)}")
            yield folder

    groups = grouped(load_runs(read(), lines))
    tasks = _tasks_of(groups)
    members = {
        group.label: [_member(run, group, *tasks[group.label]) for run in group.runs]
        for group in groups
    }
    say("comparing")
    over = {group.label: _over_seeds(group, members[group.label]) for group in groups}
    return Gathered(groups, members, over, empty, lines)


def by_seed(members: Sequence[Member], name: str) -> dict[int, Hypothesis]:
    """Return the verdict of each seed on a hypothesis; of a repeated seed, its last run."""
    return {member.run.config.seed: member.hypotheses[name] for member in members}


def seeds_of(group: Group) -> list[int]:
    """Return the seed of each run of a group."""
    return [run.config.seed for run in group.runs]


def _tasks_of(
    groups: Sequence[Group],
) -> dict[str, tuple[Mapping[str, bool] | None, Sequence[str]]]:
    """Return, by label of the group, the program's own steps and the names of the task's programs.

    Each input set is made once. If the task can no longer be loaded, they are None and empty.
    """
    known: dict[str, tuple[Mapping[str, bool] | None, Sequence[str]]] = {}
    by_group = {}
    for group in groups:
        folder = group.runs[0].folder
        digest = folder.inputs_digest
        if digest not in known:
            try:
                inputs = input_set(make_task(folder.task), folder.task)
                known[digest] = own_steps(inputs), program_names(inputs.task)
            except UserError:
                known[digest] = None, ()
        by_group[group.label] = known[digest]
    return by_group


def _member(
    run: Run, group: Group, own: Mapping[str, bool] | None, programs: Sequence[str]
) -> Member:
    """Return a run with its verdicts, from its last headlines and the results in its folder."""
    results, config = RunResults(run.folder.path), run.config
    # All seeds of a group share the input set, so they are told the same command for the controls.
    commands = replace(run.folder.commands, task=group.runs[0].folder.task)
    last = checkpoints.load_rows(run.folder.checkpoint_folders()[-1])
    circuit = circuit_found(results.circuit, config.analysis.circuit_faithful, own)
    each = judged(
        last,
        results,
        config,
        group.failing,
        circuit,
        commands,
        run.summaries,
        programs,
    )
    return Member(run, results, circuit, {hypothesis.name: hypothesis for hypothesis in each})


def _over_seeds(group: Group, members: Sequence[Member]) -> list[Hypothesis]:
    seeds = seeds_of(group)
    repeated = len(set(seeds)) < len(seeds)
    estimates = [group.estimates[key] for key in ON_OFF_KEYS if key in group.estimates]
    return [
        over_seeds(name, by_seed(members, name), repeated, estimates if name == "H1" else ())
        for name in NAMES
    ]
