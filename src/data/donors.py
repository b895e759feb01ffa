"""Donors: the activations that replace an input's residual stream, and the expected output.

*Scrub* replaces the residual at every position by that of any (input, position) with the same
values of a cut; the output must not change (Chan et al. 2022). *Interchange* gives one variable
other values; the output must become the program's output with these values (Geiger et al. 2021).

Shapes: `inputs` inputs, `pos` positions of an encoded input (BOS, the list, padding), `cases` one
replacement each: an input and a donor for each of its positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from .inputs import InputSet
from .outputs import IGNORE
from .overridden_variables import overridden_targets
from .rasp.cuts import Cut, labels

SCRUB = "scrub"
REDRAWN = 4  # times that another donor is drawn where the donor is the input itself
DRAWS = 16  # rounds of draws, after which a variable is taken to have no more cases


@dataclass(frozen=True)
class Donated:
    """Cases of whole replacement: an input, and a donor (input, position) for each position."""

    bases: Int64[Tensor, " cases"]
    rows: Int64[Tensor, "cases pos"]
    positions: Int64[Tensor, "cases pos"]

    def __len__(self) -> int:
        return len(self.bases)

    def at(self, chosen: Tensor) -> Donated:
        """Return some of the cases."""
        return Donated(self.bases[chosen], self.rows[chosen], self.positions[chosen])


@dataclass(frozen=True)
class Trial(Donated):
    """Cases of one test: a donor for every position, and the target outputs.

    `name` is "scrub" or the interchanged variable. Vacuous cases are left out: for scrub, those
    where every position is its own donor; for interchange, those where the program's output does
    not change.
    """

    targets: Int64[Tensor, "cases pos"] | Float32[Tensor, "cases pos"]
    name: str

    def at(self, chosen: Tensor) -> Trial:
        """Return some of the cases."""
        some = super().at(chosen)
        return Trial(some.bases, some.rows, some.positions, self.targets[chosen], self.name)


@dataclass(frozen=True)
class CutTrials:
    """A cut's tests: its scrub and interchanges, or none if it has no interchange.

    Scrub alone proves nothing, since a model that ignores a cut passes it. No interchange of an
    `untestable` variable changes the output: the rest of the cut determines it, or the output does
    not depend on it.
    """

    cut: Cut
    trials: tuple[Trial, ...]
    untestable: tuple[str, ...]


def cut_trials(inputs: InputSet, cuts: Sequence[Cut], count: int, seed: int) -> list[CutTrials]:
    """Return the tests of each cut, each with up to `count` cases drawn with the seed."""
    return [_tests(inputs, cut, count, seed) for cut in cuts]


def _tests(inputs: InputSet, cut: Cut, count: int, seed: int) -> CutTrials:
    trials, untestable = [], []
    for at, name in enumerate(cut.variables):
        generator = np.random.default_rng([seed, 1 + at])
        test = _interchange(inputs, cut, name, count, generator)
        if len(test):
            trials.append(test)
        else:
            untestable.append(name)
    scrub = _scrub(inputs, cut, count, np.random.default_rng([seed, 0]))
    if trials and len(scrub):
        trials.insert(0, scrub)
    return CutTrials(cut, tuple(trials), tuple(untestable))


class Classes:
    """The (input, position) pairs that have each label; -1 is none."""

    def __init__(self, labels: Int64[Tensor, "inputs pos"]):
        self.labels = labels
        flat = labels.flatten()
        self._order = torch.argsort(flat, stable=True).numpy()
        ordered = flat.numpy()[self._order]
        count = int(flat.max()) + 1
        self._starts = np.searchsorted(ordered, np.arange(count))
        self._sizes = np.searchsorted(ordered, np.arange(count), side="right") - self._starts
        self._n_pos = labels.shape[1]
        self._keys = ordered * len(labels) + self._order // self._n_pos  # ascending

    def drawn(
        self, wanted: Int64[Tensor, "cases pos"], generator: np.random.Generator
    ) -> tuple[Int64[Tensor, "cases pos"], Int64[Tensor, "cases pos"]]:
        """Return a random member, input and position, of each wanted class; -1 where none is."""
        codes = wanted.numpy()
        safe = np.maximum(codes, 0)
        offsets = (generator.random(codes.shape) * self._sizes[safe]).astype(np.int64)
        members = self._order[self._starts[safe] + offsets]
        rows, positions = np.divmod(members, self._n_pos)
        none = codes < 0
        rows[none] = positions[none] = -1
        return torch.from_numpy(rows), torch.from_numpy(positions)

    def drawn_from_others(
        self, bases: Int64[Tensor, " cases"], generator: np.random.Generator
    ) -> tuple[Int64[Tensor, "cases pos"], Int64[Tensor, "cases pos"], Bool[Tensor, "cases pos"]]:
        """Return for each position of inputs a random member of its class, of another input.

        Where only the input itself has such members, one of these is drawn; the last tensor says
        where. Where there is no class, the donor is -1.
        """
        codes = self.labels[bases].numpy()
        safe = np.maximum(codes, 0)
        own = safe * len(self.labels) + bases.numpy()[:, None]
        first = np.searchsorted(self._keys, own)
        count = np.searchsorted(self._keys, own, side="right") - first
        others = self._sizes[safe] - count
        alone = (others == 0) & (codes >= 0)
        draws = generator.random(codes.shape)
        offsets = (draws * np.where(alone, count, others)).astype(np.int64)
        places = self._starts[safe] + offsets
        places = np.where(alone, first + offsets, np.where(places >= first, places + count, places))
        members = self._order[np.where(codes >= 0, places, 0)]
        rows, positions = np.divmod(members, self._n_pos)
        rows[codes < 0] = positions[codes < 0] = -1
        return torch.from_numpy(rows), torch.from_numpy(positions), torch.from_numpy(alone)


def bases_of(inputs: InputSet, count: int, generator: np.random.Generator) -> Int64[Tensor, " n"]:
    """Return inputs that have an output: all, or `count` of them, as many of each length."""
    answered = torch.nonzero(inputs.defined.any(-1))[:, 0].numpy()
    if len(answered) <= count:
        return torch.from_numpy(answered)
    lengths = inputs.lengths.numpy()[answered]
    _, index, sizes = np.unique(lengths, return_inverse=True, return_counts=True)
    share = 1 / (len(sizes) * sizes[index])
    drawn = generator.choice(answered, size=count, replace=False, p=share / share.sum())
    return torch.from_numpy(np.sort(drawn))


def _whole(
    inputs: InputSet,
    bases: Int64[Tensor, " cases"],
    rows: Int64[Tensor, "cases pos"],
    positions: Int64[Tensor, "cases pos"],
    generator: np.random.Generator,
) -> tuple[Int64[Tensor, "cases pos"], Int64[Tensor, "cases pos"]]:
    """Return the donors completed: at BOS the BOS of any input, at padding the input itself."""
    n_pos = inputs.tokens.shape[1]
    own, places = bases[:, None].expand(-1, n_pos), torch.arange(n_pos).expand(len(bases), -1)
    rows, positions = torch.where(rows < 0, own, rows), torch.where(rows < 0, places, positions)
    rows[:, 0] = torch.from_numpy(generator.integers(len(inputs), size=len(bases)))
    positions[:, 0] = 0
    return rows, positions


def _scrub(inputs: InputSet, cut: Cut, count: int, generator: np.random.Generator) -> Trial:
    classes, bases = Classes(labels(inputs, cut.variables)), bases_of(inputs, count, generator)
    wanted = classes.labels[bases]
    rows, positions = classes.drawn(wanted, generator)
    for _ in range(REDRAWN):  # another input, where there is one
        again, places = classes.drawn(wanted, generator)
        own = rows == bases[:, None]
        rows, positions = torch.where(own, again, rows), torch.where(own, places, positions)
    rows, positions = _whole(inputs, bases, rows, positions, generator)
    moved = (rows != bases[:, None]) | (positions != torch.arange(rows.shape[1]))
    some = (moved & inputs.real[bases]).any(-1)
    targets = inputs.targets[bases]
    return Trial(bases[some], rows[some], positions[some], targets[some], SCRUB)


def _interchange(
    inputs: InputSet, cut: Cut, name: str, count: int, generator: np.random.Generator
) -> Trial:
    """Return cases where one variable has another input's values and the rest of the cut is kept.

    Where no (input, position) has that combination of values, the variable keeps its own value.
    """
    classes = Classes(labels(inputs, cut.variables))
    variable, rest = inputs.variables[name], [other for other in cut.variables if other != name]
    kept = labels(inputs, rest) if rest else torch.where(inputs.real, 0, -1)
    codes = torch.where(inputs.real, variable.codes.long() + 1, -1)  # 0 where it is undefined
    known = _lookup(kept, codes, classes.labels, len(variable.values) + 1)
    parts: list[Trial] = []
    for _ in range(DRAWS):
        bases = bases_of(inputs, count, generator)
        given = codes[_donors(inputs, len(bases), generator)]
        wanted = known(kept[bases], given)
        there = wanted >= 0
        given = torch.where(there, given, codes[bases])
        wanted = torch.where(there, wanted, classes.labels[bases])
        overrides = {other: inputs.variables[other].codes[bases] for other in rest}
        overrides[name] = torch.where(given > 0, given - 1, IGNORE)
        targets = overridden_targets(inputs, bases, overrides)
        base = inputs.targets[bases]
        both = inputs.output.defined(targets) & inputs.output.defined(base)
        changed = (both & ~inputs.output.same(targets, base)).any(-1)
        rows, positions = classes.drawn(wanted, generator)
        rows, positions = _whole(inputs, bases, rows, positions, generator)
        parts.append(
            Trial(bases[changed], rows[changed], positions[changed], targets[changed], name)
        )
        if sum(map(len, parts)) >= count:
            break
    return joined(parts, count)


def joined(parts: Sequence[Trial], count: int) -> Trial:
    """Return the first `count` cases of several parts as one test."""
    bases, rows, positions, targets = (
        torch.cat(some)[:count] for some in zip(*map(_tensors, parts), strict=True)
    )
    return Trial(bases, rows, positions, targets, parts[0].name)


def _tensors(trial: Trial) -> tuple[Tensor, ...]:
    return trial.bases, trial.rows, trial.positions, trial.targets


def _donors(inputs: InputSet, count: int, generator: np.random.Generator) -> Int64[Tensor, " n"]:
    """Return donor inputs, as many of each length; a short donor fills only the first positions."""
    _, index, sizes = np.unique(inputs.lengths.numpy(), return_inverse=True, return_counts=True)
    share = 1 / (len(sizes) * sizes[index])
    return torch.from_numpy(generator.choice(len(inputs), size=count, p=share / share.sum()))


def _lookup(
    kept: Int64[Tensor, "inputs pos"],
    codes: Int64[Tensor, "inputs pos"],
    classes: Int64[Tensor, "inputs pos"],
    size: int,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a map from (class of the cut's rest, variable's value) to class; -1 if none."""
    real = classes >= 0
    pairs = (kept * size + codes)[real].numpy()
    distinct, first = np.unique(pairs, return_index=True)
    labels_of = classes[real].numpy()[first]

    def find(rest: Tensor, values: Tensor) -> Tensor:
        asked = (rest * size + values).numpy()
        at = np.minimum(np.searchsorted(distinct, asked), len(distinct) - 1)
        there = (distinct[at] == asked) & (rest >= 0).numpy() & (values >= 0).numpy()
        return torch.from_numpy(np.where(there, labels_of[at], -1))

    return find


def anywhere(
    inputs: InputSet, bases: Int64[Tensor, " cases"], generator: np.random.Generator
) -> Donated:
    """Return random donors: for each position any position of any input's list."""
    places = torch.nonzero(inputs.real).numpy()
    drawn = places[generator.integers(len(places), size=(len(bases), inputs.tokens.shape[1]))]
    rows, positions = torch.from_numpy(drawn).unbind(-1)
    rows = torch.where(inputs.real[bases], rows, -1)
    return Donated(bases, *_whole(inputs, bases, rows, positions.clone(), generator))
