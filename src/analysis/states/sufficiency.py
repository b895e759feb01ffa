"""Whether a set of variables is sufficient at a site: resampling within their joint classes.

At every position of a target input, the site's activation is replaced, in one pass, by that of a
random (input, position) with the same values of the variables, of another input where there is one.
The values at all positions are those of the target input, so some input has them: the joint state
is *reachable*. What comes before the list (BOS, a prompt) comes from an input that agrees in all
that the variables say about a list as a whole. Padding stays. The variables are *sufficient* as far
as the model's own whole output stays what it was (causal scrubbing, Chan et al. 2022, of joint
states instead of single variables).

Shapes: `inputs` inputs, `pos` positions of an encoded input, `places` the positions of all lists in
order, `cases` one target input each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ...data.donors import Classes, Donated
from ...data.inputs import InputSet
from ...data.outputs import IGNORE, Categorical
from ...data.rasp.library import entropy, first_seen
from ..statistics import wilson_interval

KEPT = 1000  # targets, at most, of cases that are remembered
Given = Callable[[Donated], Tensor]  # a model's logits on cases of donated activations


@dataclass(frozen=True)
class Sufficiency:
    """The share of target inputs whose whole output stays the model's own, with its interval.

    `right` is the share whose whole output is the task's. `moved` is the share of the cases in
    which some activation comes from another input; only these could change. `left_out` is the share
    of the targets without a case: on sampled inputs, those with a position whose values no other
    input has. `targets` are the numbers of the targets that have one; `kept` says of each whether
    its output stayed, `positions` the share of all positions that did.
    """

    value: float
    low: float
    high: float
    right: float
    moved: float
    left_out: float
    targets: Int64[Tensor, " cases"]
    kept: Bool[Tensor, " cases"]
    positions: float

    @property
    def n(self) -> int:
        """The number of cases."""
        return len(self.kept)


class Resampling:
    """Draws the donors of states on an input set; they are the same at every site of every model.

    `codes` are the values of variables at all places, by which states are named: a state is a set
    of their numbers. Draws depend on the state's partition, the targets and the seed alone.
    """

    def __init__(self, inputs: InputSet, codes: Sequence[Int64[np.ndarray, " places"]], seed: int):
        self.inputs, self._seed = inputs, seed
        self._codes, self._real = codes, inputs.real
        self._places = int(self._real.sum())
        self._labels: dict[frozenset[int], Int64[np.ndarray, " places"]] = {}
        self._keys: dict[frozenset[int], bytes] = {}
        self._cases: dict[tuple[bytes, str], Cases] = {}

    def labels(self, state: frozenset[int]) -> Int64[np.ndarray, " places"]:
        """Return a number for each joint value of a state, at all places."""
        if state not in self._labels:
            self._labels[state] = joint([self._codes[i] for i in sorted(state)], self._places)
        return self._labels[state]

    def bits(self, state: frozenset[int]) -> float:
        """Return the entropy of a state's joint value over all places."""
        return entropy(self.labels(state))

    def partition(self, state: frozenset[int]) -> bytes:
        """Return a key that is equal for states that determine each other."""
        if state not in self._keys:
            labels = first_seen(self.labels(state)).astype(np.int32)
            self._keys[state] = hashlib.blake2b(labels.tobytes(), digest_size=16).digest()
        return self._keys[state]

    def cases(self, state: frozenset[int], name: str, targets: Int64[Tensor, " targets"]) -> Cases:
        """Return a state's cases on target inputs; `name` says which these are."""
        key = self.partition(state), name
        if key not in self._cases:
            cases = self.drawn(self.labels(state), targets)
            if len(targets) > KEPT:
                return cases
            self._cases[key] = cases
        return self._cases[key]

    def drawn(
        self, labels: Int64[np.ndarray, " places"], targets: Int64[Tensor, " targets"]
    ) -> Cases:
        """Return the cases of any partition of the places."""
        generator = np.random.default_rng([self._seed, len(targets)])
        spread = torch.full(self._real.shape, -1)
        spread[self._real] = torch.from_numpy(labels)
        rows, positions, alone = Classes(spread).drawn_from_others(targets, generator)
        whole = torch.from_numpy(list_wide_part(spread))
        before, _, _ = Classes(whole[:, None]).drawn_from_others(targets, generator)
        rows[:, 0], positions[:, 0] = before[:, 0], 0
        own, places = targets[:, None].expand_as(rows), torch.arange(rows.shape[1]).expand_as(rows)
        padding = rows < 0
        rows, positions = torch.where(padding, own, rows), torch.where(padding, places, positions)
        some = torch.ones(len(targets), dtype=torch.bool)
        if not self.inputs.exhaustive:
            some = ~alone.any(-1)
        moved = ((rows != own) & self._real[targets]).any(-1)
        donated = Donated(targets[some], rows[some], positions[some])
        return Cases(donated, moved[some], torch.nonzero(some)[:, 0], len(targets))


@dataclass(frozen=True)
class Cases:
    """A state's cases: donors for each position of targets, and in which a donor is another input.

    `targets` are the targets' numbers; `asked` is how many there are, with those without a case.
    """

    donated: Donated
    moved: Bool[Tensor, " cases"]
    targets: Int64[Tensor, " cases"]
    asked: int


def judged(inputs: InputSet, own: Tensor, given: Given, cases: Cases) -> Sufficiency:
    """Return how sufficient a state is by its cases.

    `own` are the model's own outputs, `given` maps cases of donated activations to logits.
    """
    bases = cases.donated.bases
    if not len(bases):
        nothing = torch.empty(0, dtype=torch.bool)
        return Sufficiency(0.0, 0.0, 1.0, 0.0, 0.0, 1.0, cases.targets, nothing, 0.0)
    logits, output, expected = given(cases.donated), inputs.output, own[bases]
    defined = output.defined(expected)
    stayed = output.right(logits, expected) | ~defined
    solved = (output.right(logits, inputs.targets[bases]) | ~defined).all(-1)
    kept = stayed.all(-1)
    value = float(kept.double().mean())
    low, high = wilson_interval(value, len(kept))
    positions = float((stayed & defined).sum() / defined.sum().clamp(min=1))
    return Sufficiency(
        value, low, high, float(solved.double().mean()), float(cases.moved.double().mean()),
        1 - len(bases) / cases.asked, cases.targets, kept, positions,
    )  # fmt: skip


def own_outputs(inputs: InputSet, logits: Float[Tensor, "inputs pos classes"]) -> Tensor:
    """Return a model's own outputs in the form of targets, undefined where the program's are."""
    if isinstance(inputs.output, Categorical):
        return torch.where(inputs.defined, logits.argmax(-1), IGNORE)
    return torch.where(inputs.defined, logits[..., 0], torch.nan)


def list_wide_part(labels: Int64[Tensor, "inputs pos"]) -> Int64[np.ndarray, " inputs"]:
    """Return all that a state says about a list as a whole, as a number for each input.

    Two inputs that have a joint value in common, at any positions, get the same number, and so on
    from input to input: of such inputs the state says the same.
    """
    rows, _ = torch.nonzero(labels >= 0, as_tuple=True)
    codes = labels[labels >= 0].numpy()
    n, classes = len(labels), int(codes.max(initial=-1)) + 1
    links = coo_array(
        (np.ones(len(codes), np.int8), (rows.numpy(), n + codes)), shape=(n + classes, n + classes)
    )
    parts: np.ndarray = connected_components(links.tocsr(), directed=False)[1]
    return parts[:n].astype(np.int64)


def joint(
    codes: Sequence[Int64[np.ndarray, " places"]], places: int
) -> Int64[np.ndarray, " places"]:
    """Return a number for each combination of values of variables, at all places."""
    together = np.zeros(places, dtype=np.int64)
    for each in codes:
        together = _renumbered(together * (int(each.max()) + 1) + each)
        if int(together.max()) + 1 == places:
            break  # every place has a class of its own
    return together


def _renumbered(codes: Int64[np.ndarray, " places"]) -> Int64[np.ndarray, " places"]:
    """Return codes numbered from 0 without gaps, in their own order."""
    size = int(codes.max()) + 1
    if size > 16 * len(codes):
        return np.unique(codes, return_inverse=True)[1].astype(np.int64)
    present = np.zeros(size, dtype=bool)
    present[codes] = True
    numbered: np.ndarray = (np.cumsum(present) - 1)[codes]
    return numbered
