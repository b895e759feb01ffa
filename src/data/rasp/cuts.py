"""Cuts of a program: sets of variables through which every path from input to output passes.

After some of a program's steps are done, the cut there is the set of variables that later steps
read. Cuts that determine each other on the inputs count as one cut: a site that holds one holds the
other, and no test on activations can tell them apart.

Shapes: `inputs` inputs, `pos` positions of an encoded input, `cases` the lists' positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from tracr.rasp import rasp

from ..inputs import InputSet
from ..outputs import IGNORE
from ..overridden_variables import overridden_targets
from .text import edges

MOST = 512  # sets of done steps that are enumerated; beyond this only program order is used
CONTEXTS = 64  # (input, position) pairs at which combinations of values are tried
FEW = 24  # cuts that are kept; beyond this only those of program order are


@dataclass(frozen=True)
class Cut:
    """Variables, in program order, that hold all the information the rest of the program needs.

    `same` are the equivalent cuts: each determines this one on these inputs and is determined by
    it. `steps` are the sets of done steps after which this cut is all that is needed.
    """

    variables: tuple[str, ...]
    same: tuple[tuple[str, ...], ...]
    steps: frozenset[frozenset[str]]

    @property
    def name(self) -> str:
        """The key of the cut in tables: its variables, joined by `+`."""
        return "+".join(self.variables)

    @property
    def label(self) -> str:
        """The variables as a reader sees them: `indices, tokens`."""
        return ", ".join(self.variables)

    def later(self, other: Cut) -> bool:
        """Return whether more steps are done at this cut than at the other."""

        def beyond(after: Cut, before: Cut) -> bool:
            return any(more > fewer for more in after.steps for fewer in before.steps)

        return self is not other and beyond(self, other) and not beyond(other, self)


@dataclass(frozen=True)
class Cuts:
    """A program's cuts in program order, the input's first and the output's last.

    `complete` is False where there are too many cuts and only those of program order are listed.
    `given` are the variables that the input cut's values at a position determine.
    """

    all: tuple[Cut, ...]
    complete: bool
    given: frozenset[str] = frozenset()

    @property
    def inner(self) -> tuple[Cut, ...]:
        """The cuts between input and output; only these tell programs apart."""
        return self.all[1:-1]


def cuts(inputs: InputSet) -> Cuts:
    """Return the cuts of the inputs' program, equivalent cuts merged."""
    reads = _reads(inputs)
    start = _start(inputs, reads)
    done, complete = _done_sets(reads, start)
    merged = _merged(inputs, reads, done)
    if complete and len(merged) > FEW:
        done, complete = _in_order(reads, start), False
        merged = _merged(inputs, reads, done)
    first = merged[0].variables
    whole = partition(inputs, first)
    given = {name for name in inputs.variables if partition(inputs, (*first, name)) == whole}
    return Cuts(tuple(merged), complete, frozenset(given))


def labels(inputs: InputSet, names: Iterable[str]) -> Int64[Tensor, "inputs pos"]:
    """Return a number for each combination of variables' values, -1 at BOS and padding."""
    real = inputs.real
    joint = torch.zeros(int(real.sum()), dtype=torch.int64)
    for name in names:
        variable = inputs.variables[name]
        codes = variable.codes[real].long()
        codes = torch.where(codes == IGNORE, len(variable.values), codes)
        joint = joint * (len(variable.values) + 1) + codes
        joint = torch.unique(joint, return_inverse=True)[1]
    numbers = torch.full(real.shape, -1)
    numbers[real] = joint
    return numbers


def partition(inputs: InputSet, names: Iterable[str]) -> bytes:
    """Return a key that is equal for sets of variables that determine each other on the inputs."""
    return _first_seen(labels(inputs, names)[inputs.real]).numpy().tobytes()


def effect(inputs: InputSet, names: Sequence[str], seed: int) -> bytes:
    """Return a key that is equal for sets of variables with the same effect on the output.

    Two combinations of values are merged if the program's output is the same with either of them,
    placed at one position of one input, in each of `CONTEXTS` random contexts.
    """
    combinations, real = labels(inputs, names), inputs.real
    where = torch.nonzero(real)
    _, index = torch.unique(combinations[real], return_inverse=True)
    first = torch.full((int(index.max()) + 1,), len(index))
    first.scatter_reduce_(0, index, torch.arange(len(index)), "amin")
    members = where[first]  # one (input, position) of each combination
    generator = np.random.default_rng([seed, 11])
    contexts = where[torch.from_numpy(generator.integers(len(where), size=CONTEXTS))]
    bases = contexts[:, 0].repeat_interleave(len(members))
    places = contexts[:, 1].repeat_interleave(len(members))
    rows, positions = (members[:, at].repeat(CONTEXTS) for at in (0, 1))
    codes = {}
    for name in names:
        values = inputs.variables[name].codes
        codes[name] = values[bases].clone()
        codes[name][torch.arange(len(bases)), places] = values[rows, positions]
    targets = torch.nan_to_num(overridden_targets(inputs, bases, codes).double(), nan=-1e9)
    each = targets.view(CONTEXTS, len(members), -1).transpose(0, 1).flatten(1)
    _, alike = torch.unique(each, dim=0, return_inverse=True)
    return _first_seen(alike[index]).numpy().tobytes()


def _reads(inputs: InputSet) -> dict[str, set[str]]:
    """Return what each variable reads, in program order; inputs and constants read nothing."""
    reads: dict[str, set[str]] = {name: set() for name in inputs.variables}
    for source, target, _ in edges(inputs.task.program):
        reads[target].add(source)
    return reads


def _start(inputs: InputSet, reads: dict[str, set[str]]) -> frozenset[str]:
    """Return the variables that exist before any step: those that read nothing, without length."""
    nothing = [name for name, sources in reads.items() if not sources]
    named = inputs.task.variables
    given = [name for name in nothing if not isinstance(named[name], rasp.LengthType)]
    return frozenset(given or nothing)


def _done_sets(
    reads: dict[str, set[str]], start: frozenset[str]
) -> tuple[list[frozenset[str]], bool]:
    """Return all sets of variables that can be computed before the others, smallest first."""
    seen, at = {start: None}, 0
    queue = [start]
    while at < len(queue):
        done, at = queue[at], at + 1
        for name, sources in reads.items():
            if name not in done and sources <= done:
                more = done | {name}
                if more not in seen:
                    seen[more] = None
                    queue.append(more)
        if len(queue) > MOST:
            return _in_order(reads, start), False
    return queue, True


def _in_order(reads: dict[str, set[str]], start: frozenset[str]) -> list[frozenset[str]]:
    done, sets = start, [start]
    for name in reads:
        if name not in start:
            done |= {name}
            sets.append(done)
    return sets


def _needed(reads: dict[str, set[str]], done: frozenset[str]) -> tuple[str, ...]:
    """Return the done variables that the others read; the output where it is done."""
    output = list(reads)[-1]
    if output in done:
        return (output,)
    wanted = {source for name, sources in reads.items() if name not in done for source in sources}
    return tuple(name for name in reads if name in wanted & done)


def _merged(
    inputs: InputSet, reads: dict[str, set[str]], done: Sequence[frozenset[str]]
) -> list[Cut]:
    """Return the cuts after each set of done steps, equivalent cuts merged."""
    partitions: dict[tuple[str, ...], bytes] = {}
    groups: dict[bytes, tuple[dict[tuple[str, ...], None], set[frozenset[str]]]] = {}
    for steps in done:
        names = _needed(reads, steps)
        if names not in partitions:
            partitions[names] = partition(inputs, names)
        members, sets = groups.setdefault(partitions[names], ({}, set()))
        members[names] = None
        sets.add(steps)
    output = (list(reads)[-1],)
    merged = []
    for members, sets in groups.values():
        name = output if output in members else next(iter(members))
        same = tuple(other for other in members if other != name)
        merged.append(Cut(name, same, frozenset(sets)))
    return sorted(merged, key=lambda cut: cut.variables == output)


def _first_seen(codes: Int64[Tensor, " cases"]) -> Int64[Tensor, " cases"]:
    """Return the codes renumbered in the order in which they first occur."""
    _, index = torch.unique(codes, return_inverse=True)
    first = torch.full((int(index.max()) + 1,), len(index))
    first.scatter_reduce_(0, index, torch.arange(len(index)), "amin")
    return first.argsort().argsort()[index]
