"""Several runs in groups over their seeds, with what their folders hold, and what that says.

The page of several runs and the tables beside it are made from this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..analysis.rivals import program_names
from ..data.inputs import input_set
from ..data.tasks import make_task
from ..errors import UserError
from ..tracking import checkpoints
from ..tracking.run_folder import RunFolder
from .hypotheses import CircuitFound, Hypothesis, ProgramVerdict, over_seeds
from .page_results import Results
from .page_run import own_steps
from .page_verdicts import circuit_found, judged, program_verdicts
from .seeds import Group, Run, grouped, load_runs

Say = Callable[[str], None]
NAMES = ("H1", "H2", "H3")
ON_OFF_KEYS = tuple(f"sparsity/model/h1_{name}" for name in ("bimodal_share", "dip", "bimodality"))


@dataclass(frozen=True)
class Member:
    """A run of a group, what was left in its folder, and what is said of it."""

    run: Run
    results: Results
    circuit: CircuitFound | None
    hypotheses: Mapping[str, Hypothesis]

    @cached_property
    def programs(self) -> list[ProgramVerdict]:
        """The verdicts on its last checkpoint, none where another one was matched."""
        verdicts = program_verdicts(self.results)
        return [verdict for verdict in verdicts if verdict.step == self.run.last_step]


Members = Mapping[str, Sequence[Member]]  # by a group's label
Over = Mapping[str, Sequence[Hypothesis]]


@dataclass(frozen=True)
class Gathered:
    """Runs in groups that differ in more than the seed; `members` and `over` by a group's label.

    `over` are the three hypotheses over the seeds of a group, `empty` the runs that have no
    checkpoint yet; `left_out` says of the runs that cannot be read why.
    """

    groups: Sequence[Group]
    members: Members
    over: Over
    empty: Sequence[RunFolder]
    left_out: Sequence[str] = ()

    @property
    def runs(self) -> list[Run]:
        """The runs that have a checkpoint."""
        return [run for group in self.groups for run in group.runs]


def gather(
    folders: Sequence[RunFolder], where: str, say: Say, left_out: Sequence[str] = ()
) -> Gathered:
    """Return several runs in their groups; `say` is told what is being done.

    A run that cannot be read is left out, beside those that were before.

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
    """Return what the runs of a group say of a hypothesis, by seed; of a repeated one, the last."""
    return {member.run.config.seed: member.hypotheses[name] for member in members}


def seeds_of(group: Group) -> list[int]:
    """Return the seed of each run of a group."""
    return [run.config.seed for run in group.runs]


def _tasks_of(
    groups: Sequence[Group],
) -> dict[str, tuple[Mapping[str, bool] | None, Sequence[str]]]:
    """Return by group the program's own steps and the names of the task's programs.

    Each task's inputs are made once. Of a task that is gone neither is known.
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
    """Return a run with its verdicts, from its last headlines and what its folder holds."""
    results, config = Results(run.folder.path), run.config
    # The same inputs' controls are told in the same words of every seed.
    commands = replace(run.folder.commands, task=group.runs[0].folder.task)
    last = checkpoints.load_rows(run.folder.checkpoint_folders()[-1])
    circuit = circuit_found(results, config.analysis.circuit_faithful, own)
    each = judged(last, results, config, group.failing, circuit, commands, run.summaries, programs)
    return Member(run, results, circuit, {hypothesis.name: hypothesis for hypothesis in each})


def _over_seeds(group: Group, members: Sequence[Member]) -> list[Hypothesis]:
    seeds = seeds_of(group)
    repeated = len(set(seeds)) < len(seeds)
    estimates = [group.estimates[key] for key in ON_OFF_KEYS if key in group.estimates]
    return [
        over_seeds(name, by_seed(members, name), repeated, estimates if name == "H1" else ())
        for name in NAMES
    ]
