"""Linear subspaces of the residual stream that carry one variable: distributed alignment search.

The hypothesis (variable, site, k) says that k directions of the residual stream at a site carry a
variable's values and nothing else that matters. Where the residual's part in them is replaced by
that of another input, at every position, the output must become the program's with that input's
values of the variable (Geiger et al. 2024, arXiv:2303.02536). The directions are searched for by
gradients, from those that best predict the variable, and judged on inputs not searched on.

A search finds something wherever there is enough to choose from. So it says nothing without the
same search on random inits and on a model that learned shuffled labels by heart. Nor does it where
directions that carry another of the program's variables would pass: a site that holds the output
passes for all that decides the output alone. Only rotations are searched: non-linear maps align
anything with anything (Sutter et al. 2025, arXiv:2507.08802).

What is not found may be there all the same. Compiled attention and steps pass hardly any gradient,
so that in references little but the first directions is tried, and these are mixed where another
variable in the stream is a part of this one. Donor and base share positions: two
variables that tell each other beside the position are one to this test, as `length` and what is
left of it, and the variable is found wherever any of them is.

pyvene's search (0.1.8) is not used. It replaces what goes into a module or comes out of it, and
between attention and MLP the residual stream is neither: the MLP would read the new one, and its
output be added to the old one. It also runs the whole model on base and donor in every step, where
here only the rest of the model is run.

Shapes: `pos` positions of an encoded input, `cases` pairs of a base and a donor, `places` lists'
positions, `d` the residual's width, `k` directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn.utils.parametrizations import orthogonal
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import NativeModel

from ...data.inputs import InputSet
from ...data.overridden_variables import overridden_targets
from ...data.rasp.cuts import labels
from ...infra.errors import UserError
from ...models.continuation import continue_from, residuals, without_hooks
from ...models.training import Progress, mean_loss
from ...models.variable_sites import inner_variables
from ..controls.interchange_training import InterchangeCases, cases_of
from ..statistics import wilson_interval
from .cut_verdicts import REALISED
from .program_ranking import Standing

HALF = 2048  # inputs that are searched on, at most, and as many to judge on
AT_ONCE = 1024  # cases that are run together
RIDGE = 1e-3  # of the mean variance, in the regression that gives the first directions
NOTHING = 1e-4  # of the best direction's share in the prediction, under which one is no help
RANDOM = 5  # random subspaces, for the chance level


@dataclass(frozen=True)
class SubspaceSearch:
    """How subspaces are searched for, and when one counts as found.

    `dimensions` are those tried, by default 1, 2, 4 and so on up to a quarter of the residual's;
    `cases` are drawn on each side. The search ends early where it is right on all it is given.
    """

    dimensions: tuple[int, ...] = ()
    steps: int = 200
    batch_size: int = 64
    learning_rate: float = 0.01
    evaluate_every: int = 50
    cases: int = 1024
    threshold: float = 0.9
    seed: int = 0

    def tried(self, width: int) -> tuple[int, ...]:
        """Return how many directions of a residual stream are tried.

        >>> SubspaceSearch().tried(64)
        (1, 2, 4, 8, 16)
        """
        powers = (2**i for i in range(width.bit_length()))
        return self.dimensions or tuple(k for k in powers if k <= max(1, width // 4))


@dataclass(frozen=True)
class Subspace:
    """The directions found at a site for a variable, and how often they carry it: `test`.

    It is the share of the `n` test cases whose whole output becomes what it must, with its
    interval; `train` that of the cases searched on, `start` of the test cases before the search,
    `chance` with random directions. `random_inits` and `shuffled_labels` are what the same search
    reaches on each of the controls; `rival` is the other variable of the program that would pass
    for this one most often, and `rivalled` how often. `same` are variables with the same cases.
    """

    variable: str
    same: tuple[str, ...]
    site: str
    directions: Float32[Tensor, "d k"]
    train: float
    test: float
    low: float
    high: float
    n: int
    start: float
    chance: float
    random_inits: tuple[float, ...]
    shuffled_labels: tuple[float, ...]
    rival: str
    rivalled: float
    threshold: float

    @property
    def k(self) -> int:
        """How many directions there are."""
        return self.directions.shape[1]

    @property
    def control(self) -> float:
        """The most that the same search reaches on a control."""
        return max(*self.random_inits, *self.shuffled_labels)

    @property
    def carries(self) -> bool:
        """Whether the directions carry the variable, and neither search nor rival explains it."""
        return self.test >= self.threshold and self.low > max(self.control, self.rivalled)


@dataclass(frozen=True)
class _Found:
    directions: Float32[Tensor, "d k"]
    train: float
    test: float
    start: float


@dataclass(frozen=True)
class Question:
    """Variables that one test asks for, and the cases to search on and to judge on.

    `rivalled` is the share of the latter in which the donor's values of `rival`, another of the
    program's variables, would make the output what it must be.
    """

    names: tuple[str, ...]
    train: InterchangeCases
    test: InterchangeCases
    rival: str = ""
    rivalled: float = 0.0

    @property
    def answerable(self) -> bool:
        """Whether being right in all the cases would say more than that the rival is there."""
        return wilson_interval(1.0, len(self.test))[0] > self.rivalled

    def same(self, train: InterchangeCases, test: InterchangeCases) -> bool:
        """Return whether these are its cases."""
        return all(
            len(cases) == len(other)
            and torch.equal(cases.bases, other.bases)
            and torch.equal(cases.donors, other.donors)
            and torch.equal(cases.targets.nan_to_num(), other.targets.nan_to_num())
            for cases, other in ((self.train, train), (self.test, test))
        )


def where_to_search(standing: Standing, sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the sites at which to search for each inner variable of a program's testable cuts.

    Of a program without such cuts, all inner variables are searched for. Left out are sites where
    the model realises a cut that has the variable: there the whole residual gives the answer, and
    the same before a block's MLP as after it.
    """
    inner = inner_variables(standing.candidate.inputs)
    has = {
        cut.name: {name for names in (cut.variables, *cut.same) for name in names}
        for cut in standing.candidate.testable
    }
    tested = [name for name in inner if any(name in names for names in has.values())]
    answered = {
        (name, site)
        for cut in standing.verdict.cuts
        if cut.verdict == REALISED
        for name in has[cut.cut.name]
        for site in cut.sites
    }
    return {
        name: tuple(site for site in sites if (name, site.replace("_mid", "_post")) not in answered)
        for name in tested or inner
    }


def subspaces(
    bridge: TransformerBridge,
    inputs: InputSet,
    asked: Sequence[Question],
    sites: Mapping[str, Sequence[str]],
    random_inits: Sequence[TransformerBridge],
    shuffled_labels: Sequence[TransformerBridge],
    settings: SubspaceSearch,
    progress: Progress | None = None,
) -> Iterator[Subspace]:
    """Yield what is found of each variable at each of its sites, for more and more directions.

    It goes on up to the number with which the variable is found there. Variables that no case can
    tell apart come once, at the sites that are each one's. Questions that have no answer are left
    out. The controls are of the model's shape.

    Raises:
        UserError: a kind of control is missing, or the model has no such site.
    """
    if not random_inits or not shuffled_labels:
        raise UserError(
            "a subspace search needs random inits and models of shuffled labels beside the model"
        )
    models = [bridge, *random_inits, *shuffled_labels]
    sides = halves(inputs, settings.seed)
    tried = settings.tried(bridge.cfg.d_model)
    pairs = [
        (question, site)
        for question in asked
        if question.answerable
        for site in sites[question.names[0]]
        if all(site in sites[name] for name in question.names)
    ]
    for pair, (question, site) in enumerate(pairs):
        places = [_Place(model, site, sides, question) for model in models]
        for at, k in enumerate(tried, start=pair * len(tried)):
            fits: list[_Found] = []
            for place in places:
                fits.append(place.searched(k, settings))
                if progress:
                    done = at * len(models) + len(fits)
                    progress(done, len(pairs) * len(tried) * len(models))
            own, *others = fits
            values, n = [other.test for other in others], len(question.test)
            subspace = Subspace(
                question.names[0], question.names[1:], site, own.directions, own.train, own.test,
                *wilson_interval(own.test, n), n, own.start, places[0].by_chance(k, settings.seed),
                tuple(values[: len(random_inits)]), tuple(values[len(random_inits) :]),
                question.rival, question.rivalled, settings.threshold,
            )  # fmt: skip
            yield subspace
            if subspace.carries:
                break


def questions(inputs: InputSet, names: Sequence[str], settings: SubspaceSearch) -> list[Question]:
    """Return the cases of variables among the inputs to search on and those to judge on.

    Left out are variables that change the output too seldom for there to be cases.
    """
    sides, grouped = halves(inputs, settings.seed), list[Question]()
    for name in names:
        train, test = (distinct_cases(side, name, settings.cases, settings.seed) for side in sides)
        at = next((i for i, question in enumerate(grouped) if question.same(train, test)), None)
        if at is not None:
            grouped[at] = replace(grouped[at], names=(*grouped[at].names, name))
        elif len(train) and len(test):
            grouped.append(Question((name,), train, test, *_strongest_rival(sides[1], name, test)))
    return grouped


def _strongest_rival(inputs: InputSet, name: str, cases: InterchangeCases) -> tuple[str, float]:
    """Return the variable whose donated values most often give a variable's targets, and how often.

    What tells it, and is told by it, beside the position is no other variable.
    """
    shares = {"": 0.0}
    defined = inputs.output.defined(cases.targets)
    for other, variable in inputs.variables.items():
        if not _equivalent(inputs, name, other):
            codes = {other: variable.codes[cases.donors]}
            given = overridden_targets(inputs, cases.bases, codes)
            right = (inputs.output.same(given, cases.targets) | ~defined).all(-1)
            shares[other] = float(right.double().mean())
    rival = max(shares, key=lambda candidate: shares[candidate])
    return rival, shares[rival]


def _equivalent(inputs: InputSet, name: str, other: str) -> bool:
    """Return whether two variables determine each other at every position."""
    positions = _positions(inputs)[inputs.real]
    codes = [labels(inputs, names)[inputs.real] for names in ([name], [other], [name, other])]
    counts = {len(torch.unique(torch.stack([positions, column]), dim=1)[0]) for column in codes}
    return len(counts) == 1


def halves(inputs: InputSet, seed: int) -> tuple[InputSet, InputSet]:
    """Return inputs to search on and others to judge on, half of each length, at most 2048."""
    generator = np.random.default_rng([seed, 0])
    lengths = inputs.lengths.numpy()
    each = HALF // len(np.unique(lengths))
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for length in np.unique(lengths):
        rows = generator.permutation(np.flatnonzero(lengths == length))
        for part, some in zip(parts, np.array_split(rows, 2), strict=True):
            part.append(some[:each])
    train, test = (torch.from_numpy(np.concatenate(part)) for part in parts)
    return inputs.at(train), inputs.at(test)


def distinct_cases(inputs: InputSet, name: str, count: int, seed: int) -> InterchangeCases:
    """Return up to `count` different pairs in which a variable's other values change the output."""
    cases = cases_of(inputs, name, count, seed)
    pairs = torch.stack([cases.bases, cases.donors], dim=1).numpy()
    _, first = np.unique(pairs, axis=0, return_index=True)
    return cases.rows(torch.from_numpy(np.sort(first)))


class _Place:
    """A model at a site, with the cases to search on and those to judge on."""

    def __init__(
        self,
        bridge: TransformerBridge,
        site: str,
        sides: tuple[InputSet, InputSet],
        asked: Question,
    ):
        model = without_hooks(bridge)
        with torch.no_grad():
            streams = [residuals(model, side.tokens, side.key_mask, [site])[site] for side in sides]
        self.train, self.test = (
            _Site(model, site, stream, side, cases)
            for stream, side, cases in zip(streams, sides, (asked.train, asked.test), strict=True)
        )
        self._bases = [
            predictive_directions(streams[0], sides[0], name).float() for name in asked.names
        ]

    def searched(self, k: int, settings: SubspaceSearch) -> _Found:
        """Return what a search for so many directions ends with."""
        start = max((basis[:, :k] for basis in self._bases), key=self.train.accuracy)
        directions = _trained(self.train, start, settings)
        train, test = self.train.accuracy(directions), self.test.accuracy(directions)
        return _Found(directions, train, test, self.test.accuracy(start))

    def by_chance(self, k: int, seed: int) -> float:
        """Return the mean accuracy of random directions on the cases to judge on."""
        width = len(self._bases[0])
        drawn = (random_directions(width, k, seed + i) for i in range(RANDOM))
        return sum(self.test.accuracy(directions) for directions in drawn) / RANDOM


class _Site:
    """A model from a site on, with the residual streams of inputs there, and cases."""

    def __init__(
        self,
        model: NativeModel | TransformerBridge,
        site: str,
        residual: Float[Tensor, "inputs pos d"],
        inputs: InputSet,
        cases: InterchangeCases,
    ):
        self.residual = residual
        self.cases = cases
        self.output = inputs.output
        self._model, self._site, self._key_mask = model, site, inputs.key_mask

    def given(
        self, directions: Float[Tensor, "d k"], cases: InterchangeCases
    ) -> Float[Tensor, "cases pos width"]:
        """Return what the model gives with the donors' parts in some directions."""
        base, donor = self.residual[cases.bases], self.residual[cases.donors]
        mixed = base + ((donor - base) @ directions) @ directions.T
        return continue_from(self._model, self._site, mixed, self._key_mask[cases.bases])

    @torch.no_grad()
    def accuracy(self, directions: Float[Tensor, "d k"]) -> float:
        """Return the share of the cases whose defined outputs all become the targets."""
        right: list[Bool[Tensor, " cases"]] = []
        for rows in torch.split(torch.arange(len(self.cases)), AT_ONCE):
            some = self.cases.rows(rows)
            fits = self.output.right(self.given(directions, some), some.targets)
            right.append((fits | ~self.output.defined(some.targets)).all(-1))
        return float(torch.cat(right).double().mean())


def _trained(
    site: _Site, start: Float[Tensor, "d k"], settings: SubspaceSearch
) -> Float[Tensor, "d k"]:
    """Return the directions with the best accuracy on the site's cases that a search passes."""
    best, highest = start, site.accuracy(start)
    if highest == 1:
        return best
    with torch.random.fork_rng(devices=[]):  # the parametrisation draws what completes the basis
        torch.default_generator.manual_seed(settings.seed)
        turned = orthogonal(torch.nn.Linear(start.shape[1], start.shape[0], bias=False))
        turned.weight = start
    (parameter,) = turned.parameters()
    optimizer = torch.optim.Adam([parameter], lr=settings.learning_rate)
    generator = np.random.default_rng([settings.seed, 1])
    for step in range(1, settings.steps + 1):
        rows = torch.from_numpy(generator.integers(len(site.cases), size=settings.batch_size))
        some = site.cases.rows(rows)
        loss = mean_loss(site.output, site.given(turned.weight, some), some.targets)
        (parameter.grad,) = torch.autograd.grad(loss, [parameter])
        optimizer.step()
        if step % settings.evaluate_every == 0 or step == settings.steps:
            directions = turned.weight.detach()
            accuracy = site.accuracy(directions)
            if accuracy > highest:
                best, highest = directions.clone(), accuracy
            if highest == 1:
                break
    return best


@torch.no_grad()
def predictive_directions(
    residual: Float[Tensor, "inputs pos d"], inputs: InputSet, name: str
) -> Float64[Tensor, "d d"]:
    """Return an orthonormal basis of the residual stream, what best predicts a variable first.

    Token and position are regressed out of both; then a ridge regression of the variable's values
    on the residual is decomposed (Izenman 1975). Behind the directions that help come those in
    which the residual varies least: a wider subspace then starts where a narrower one does.
    """
    real = inputs.real
    stream = residual[real].double()
    known = torch.cat([_one_hot(inputs.tokens[real]), _one_hot(_positions(inputs)[real])], dim=1)
    left = _without(stream, known)
    values = _without(_one_hot(labels(inputs, [name])[real]), known)
    gram, width = left.T @ left, left.shape[1]
    ridge = RIDGE * gram.trace() / width * torch.eye(width, dtype=torch.float64)
    weights = torch.linalg.lstsq(gram + ridge, left.T @ values, driver="gelsd").solution
    sizes, rotation = torch.linalg.eigh(weights.T @ gram @ weights)
    useful = sizes > NOTHING**2 * sizes[-1]
    chosen: Tensor = (weights @ rotation[:, useful]).flip(1)[:, :width]
    first = torch.linalg.qr(chosen).Q
    centred = stream - stream.mean(0)
    rest = torch.eye(width, dtype=torch.float64) - first @ first.T
    varied = rest @ (centred.T @ centred) @ rest
    axes = torch.linalg.eigh(varied - first @ first.T).eigenvectors  # the first have -1
    return torch.cat([first, axes[:, first.shape[1] :]], dim=1)


def random_directions(width: int, k: int, seed: int) -> Float32[Tensor, "width k"]:
    """Return random orthonormal directions."""
    drawn = np.random.default_rng([seed, 2]).standard_normal((width, k))
    directions: Tensor = torch.linalg.qr(torch.from_numpy(drawn)).Q
    return directions.float()


def _without(
    values: Float64[Tensor, "places c"], known: Float64[Tensor, "places b"]
) -> Float64[Tensor, "places c"]:
    """Return what a regression on what is known leaves of values."""
    inverse = torch.linalg.pinv(known.T @ known, rtol=1e-12, hermitian=True)
    left: Tensor = values - known @ (inverse @ (known.T @ values))
    return left


def _one_hot(codes: Int64[Tensor, " places"]) -> Float64[Tensor, "places c"]:
    columns: Tensor = torch.nn.functional.one_hot(torch.unique(codes, return_inverse=True)[1])
    return columns.double()


def _positions(inputs: InputSet) -> Int64[Tensor, "inputs pos"]:
    return torch.arange(inputs.tokens.shape[1]).expand_as(inputs.tokens)
