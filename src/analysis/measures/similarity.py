"""How similar a learned model's residual stream is to the program's variables and its reference.

Plain CKA is high for random models, since token and position are linearly there from the start.
So token and position one-hots are regressed out of both sides first, and linear CKA (Kornblith et
al. 2019) is taken of what is left: deconfounded CKA. It shows presence, not use. Plain CKA, RSA,
Procrustes and SVCCA stand beside it because the literature has them; they do not tell a model that
runs the program from one that does not.

Shapes: `cases` the (input, position) pairs where the program is defined, `value` one column for
each value of each category, and for each number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from ...data.inputs import InputSet, Variable
from ...data.outputs import IGNORE
from ..activations import PartCache, Recording, Source, Streamed, residual_sites, taken, written
from ..base import CONTROLS, MeasurementContext
from ..measurements import Measurement, Metric
from ..statistics import jackknife_interval
from . import representations
from .cross_products import (
    ColumnIndex,
    Confounds,
    Cross,
    Representations,
    Residuals,
    centred_without_each,
)

Value = tuple[float, float | None, float | None]  # with its interval, where there is one
GROUPS = 20  # of inputs, for the jackknife
NOTHING_LEFT = 1e-10  # share of a representation's energy under which it is all confounds
RSA_CASES = 256
ALL_COLUMNS = 1024  # of a model's sites: of more, those that are the same are taken once
PLAIN = {  # name: about
    "plain_cka": "linear CKA (Kornblith et al. 2019)",
    "rsa": "Spearman's correlation of Euclidean distances (Kriegeskorte et al. 2008)",
    "procrustes": "Procrustes similarity (Ding et al. 2021)",
    "svcca": "mean canonical correlation of 99% of the variance (Raghu et al. 2017)",
}
OF_SITES = ("deconfounded_cka", *PLAIN)  # what pairs of sites are compared by
NOT_DISCRIMINATING = "; does not discriminate: random and other tasks' models are as high"


def _metrics(name: str, low: float, about: str) -> Iterator[Metric]:
    """Yield the declarations of a measure and of its controls."""
    better, unit = ("higher", "CKA" if "cka" in name else "similarity")
    yield Metric(f"similarity/{name}", unit, better, low, 1, about, match=True)
    yield Metric(f"similarity/{name}_random_init", unit, "neither", low, 1, "the same for random "
                 "inits: their mean; the interval is their lowest and highest")  # fmt: skip
    yield Metric(f"similarity/{name}_other_task", unit, "neither", low, 1, "the same for compiled "
                 "programs of other tasks: their mean; the interval is their lowest and "
                 "highest")  # fmt: skip
    yield Metric(f"similarity/{name}_reference", unit, "neither", low, 1, "the same for the "
                 "compiled reference itself")  # fmt: skip


METRICS = (
    Metric("similarity/deconfounded_share", "share of variance", "neither", 0, 1,
        "the share of a site's variance that token and position leave; deconfounded CKA is "
        "about this part"),
    Metric("similarity/deconfounded_cka", "CKA", "higher", 0, 1, "a variable at a site, beyond "
           "token and position; its interval is a jackknife over inputs"),
    Metric("similarity/deconfounded_cka_random_init", "CKA", "neither", 0, 1, "the same for random "
           "inits: their mean; the interval is their lowest and highest"),
    *_metrics("best_deconfounded_cka", 0, "a variable at the site where it is highest"),
    *_metrics("mean_deconfounded_cka", 0,
        "mean over the program's variables, each at the site where it is highest; relabelings "
        "of each other count once"),
    Metric("similarity/site_deconfounded_cka", "CKA", "higher", 0, 1, "a site of the reference "
           "and one of the model, beyond token and position; its interval is a jackknife"),
    *(Metric(f"similarity/site_{name}", "similarity", "neither", -1 if name == "rsa" else 0, 1,
             f"a site of the reference and one of the model: {about}{NOT_DISCRIMINATING}")
      for name, about in PLAIN.items()),
    *_metrics("matched_deconfounded_cka", 0,
        "mean over the reference's sites, each with the model's site where it is highest"),
    *(row for name, about in PLAIN.items() for row in _metrics(f"matched_{name}",
      -1 if name == "rsa" else 0, f"the reference's sites, each with the model's best, mean: "
      f"{about}{NOT_DISCRIMINATING}")),
)  # fmt: skip


@dataclass(frozen=True)
class ComparedCases:
    """The (input, position) pairs that are compared, and the jackknife group of each input.

    `sampled` says at which position an input is a case of RSA's sample, -1 where at none.
    """

    groups: Int64[Tensor, " inputs"]
    sampled: Int64[Tensor, " inputs"]

    def of(self, inputs: InputSet, rows: slice) -> tuple[Tensor, Confounds]:
        """Return the order of the cases of a part, by group, and their confounds."""
        groups = self.groups[rows]
        where = torch.nonzero(inputs.defined)
        order = torch.argsort(groups[where[:, 0]], stable=True)
        sizes = torch.bincount(groups[where[:, 0]], minlength=GROUPS)
        width, n_ids = inputs.tokens.shape[1], len(inputs.token_ids)
        tokens, positions = inputs.tokens[inputs.defined][order], where[order, 1]
        columns = [F.one_hot(tokens, n_ids), F.one_hot(positions, width)]
        constant = torch.ones(len(order), 1)
        confounds = torch.cat([*columns, constant], dim=1).double()
        return order, Confounds(confounds, tuple(sizes.tolist()))

    def sample(self, values: Shaped[Tensor, "inputs pos *k"], rows: slice) -> Tensor:
        """Return the values at RSA's cases of a part."""
        at = self.sampled[rows]
        chosen = torch.nonzero(at >= 0)[:, 0]
        return values[chosen, at[chosen]].double()


def cases_of(inputs: InputSet, seed: int) -> ComparedCases:
    """Draw the jackknife groups, and one position of each of `RSA_CASES` inputs."""
    generator = np.random.default_rng([seed, len(inputs)])
    groups = torch.from_numpy(generator.permutation(len(inputs)) % GROUPS)
    sampled = torch.full((len(inputs),), -1)
    defined = inputs.defined
    answered = torch.nonzero(defined.any(-1))[:, 0].numpy()
    for row in generator.permutation(answered)[:RSA_CASES].tolist():
        sampled[row] = int(generator.choice(torch.nonzero(defined[row])[:, 0].numpy()))
    return ComparedCases(groups, sampled)


def as_columns(
    variable: Variable, cases: Bool[Tensor, "inputs pos"]
) -> Float64[Tensor, "cases value"]:
    """Return a variable as a model would hold it: one-hots of a category, a number as itself.

    Cases at which it is undefined have a column of their own.
    """
    codes = variable.codes[cases].long()
    codes = torch.where(codes == IGNORE, len(variable.values), codes)
    if not variable.numerical:
        return F.one_hot(codes, len(variable.values) + 1).double()
    numbers = torch.tensor([*variable.values, 0.0], dtype=torch.float64)
    return torch.stack([numbers[codes], (codes == len(variable.values)).double()], dim=1)


@dataclass(frozen=True)
class Sites:
    """The residual sites of a model as columns: which dimensions to take of each, and its place.

    Of a wide model a dimension has a column once for all sites at which it is the same, and none
    where it is always zero: a compiled model's sublayers each write few.
    """

    taken: Mapping[str, ColumnIndex]
    places: Mapping[str, ColumnIndex]
    width: int

    @classmethod
    def of(cls, bridge: TransformerBridge, start: int = 0) -> Sites:
        """Return the sites of a bridge, their columns from `start` on."""
        sites, each = residual_sites(bridge), int(bridge.cfg.d_model)
        width, changed = len(sites) * each, dict(written(bridge))
        if width <= ALL_COLUMNS or all(bool(dims.all()) for dims in changed.values()):
            places = _side_by_side(((site, each) for site in sites), start)
            return cls(dict.fromkeys(sites, slice(None)), places, start + width)
        taken, places = dict[str, ColumnIndex](), dict[str, ColumnIndex]()
        column = torch.full((each,), -1)  # of each dimension
        for site in sites:
            dims = torch.nonzero(changed[site])[:, 0]
            column[dims] = torch.arange(start, start + len(dims))
            taken[site], start = dims, start + len(dims)
            places[site] = column[column >= 0]
        return cls(taken, places, start)

    def columns(
        self, part: Recording, cases: Bool[Tensor, "inputs pos"]
    ) -> Iterator[Float[Tensor, "cases columns"]]:
        """Yield the columns of each site at some cases."""
        for site, dims in self.taken.items():
            yield part[site][cases][:, dims]


def _side_by_side(widths: Iterable[tuple[str, int]], start: int = 0) -> dict[str, ColumnIndex]:
    places = dict[str, ColumnIndex]()
    for name, width in widths:
        places[name] = slice(start, start + width)
        start += width
    return places


class Program:
    """The program's side: the columns of its variables, then those of the reference's sites."""

    def __init__(self, context: MeasurementContext):
        inputs, self._reference = context.inputs, context.reference_source
        self._inputs, self._held = inputs, PartCache()
        self.cases = context.once("cases", lambda: cases_of(inputs, context.config.seed))
        widths = [
            (name, 2 if variable.numerical else len(variable.values) + 1)
            for name, variable in inputs.variables.items()
        ]
        self._columns_of = Sites.of(self._reference.bridge, sum(width for _, width in widths))
        self.sites = list(self._columns_of.places)
        places = _side_by_side(widths) | dict(self._columns_of.places)
        self.side = Representations(places, self._columns_of.width)
        samples: dict[str, list[Tensor]] = {site: [] for site in self.sites}
        self._whole: tuple[Tensor, Tensor, Confounds] | None = None
        for rows, part in self._reference.parts():
            columns, _, confounds = self.part(rows)
            self.side.add(columns, confounds)
            for site, kept in samples.items():
                kept.append(self.cases.sample(part[site], rows))
        self.ranks = {
            site: representations.distance_ranks(torch.cat(kept)) for site, kept in samples.items()
        }
        self.rest, self.centred = Residuals(self.side), Residuals(self.side, constant_only=True)
        self.totals = {site: self.centred.total(site) for site in self.sites}
        self.whitened = {
            site: representations.whitening(total)
            for site, total in self.totals.items()
            if total.trace() > 0
        }
        left = {name: self._left(name) for name in self.side.places}
        self.compared = [name for name, there in left.items() if there]
        self.variables = [name for name in inputs.variables if left[name]]
        self.distinct = _distinct(inputs, self.variables)
        self.confounded = tuple(name for name in inputs.variables if not left[name])
        self.n = int(self.rest.counts.sum())

    def _left(self, name: str) -> bool:
        return self.rest.energy(name) > NOTHING_LEFT * self.rest.raw_energy(name)

    def _columns(self, inputs: InputSet, rows: slice) -> Iterator[Shaped[Tensor, "cases columns"]]:
        for variable in inputs.variables.values():
            yield as_columns(variable, inputs.defined)

        def of_sites() -> Tensor:
            reference = self._reference.at(rows)
            return torch.cat([*self._columns_of.columns(reference, inputs.defined)], dim=1)

        held = isinstance(self._reference, Streamed)  # else all columns are
        yield self._held.of(rows, of_sites) if held else of_sites()

    def part(self, rows: slice) -> tuple[Float64[Tensor, "cases k"], Tensor, Confounds]:
        """Return the columns at the cases of a part, the cases' order, and their confounds."""
        whole = rows == slice(0, self.cases.groups.shape[0])
        if whole and self._whole is not None:
            return self._whole
        inputs = self._inputs if whole else self._inputs.at(rows)
        order, confounds = self.cases.of(inputs, rows)
        part = self.side.columns(self._columns(inputs, rows), order), order, confounds
        if whole and isinstance(self._reference, Recording):
            self._whole = part
        return part


@dataclass(frozen=True)
class SiteSimilarities:
    """What a model's sites have in common with the program, each value with its interval.

    `variables` by (variable, site); `sites`, of each measure, by (reference's site, site);
    `mean` is that of the distinct variables' deconfounded CKA and `together` that of the
    reference's sites', each at the site where it is highest.
    """

    order: list[str]
    shares: Mapping[str, float]
    variables: Mapping[tuple[str, str], Value]
    sites: Mapping[str, Mapping[tuple[str, str], Value]]
    mean: Value | None
    together: Value | None

    def best(self, name: str) -> Value | None:
        """Return a variable's value at the site where it is highest."""
        at = [value for (variable, _), value in self.variables.items() if variable == name]
        return max(at, key=lambda value: value[0], default=None)

    def matched(self, measure: str) -> Value | None:
        """Return the mean over the reference's sites of the best of the model's."""
        if measure == "deconfounded_cka":
            return self.together
        best: dict[str, float] = {}
        for (theirs, _), value in self.sites[measure].items():
            best[theirs] = max(best.get(theirs, value[0]), value[0])
        return (sum(best.values()) / len(best), None, None) if best else None


class Similarity:
    """Compares the residual sites of a source with the program."""

    def __init__(self, source: Source, context: MeasurementContext):
        self._context, self._source = context, source
        context.will_compare(compare)
        self._program = program(context)
        self._sites = residual_sites(source.bridge)
        self._columns_of = Sites.of(source.bridge)
        self._side = Representations(self._columns_of.places, self._columns_of.width)
        self._cross = Cross()
        self._samples: dict[str, list[Tensor]] = {site: [] for site in self._sites}

    def add(self, part: Recording, rows: slice) -> None:
        """Take in the products of a part."""
        left, order, confounds = self._program.part(rows)
        defined = part.inputs.defined
        right = self._side.columns(self._columns_of.columns(part, defined), order)
        self._side.add(right, confounds)
        self._cross.add(left, right, confounds)
        for site, kept in self._samples.items():
            kept.append(self._program.cases.sample(part[site], rows))

    def similarities(self) -> SiteSimilarities:
        """Return what there is in common."""
        rest = Residuals(self._side)
        energies = {site: rest.energy(site) for site in self._sites}
        left = [s for s in self._sites if energies[s] > NOTHING_LEFT * rest.raw_energy(s)]
        samples = self._deconfounded(rest, left)
        names = set(self._program.variables)
        pairs = {pair: drawn for pair, drawn in samples.items() if pair[0] not in names}
        sites = {pair: _with_interval(drawn) for pair, drawn in pairs.items()}
        return SiteSimilarities(
            self._sites,
            self._shares(energies),
            {pair: _with_interval(drawn) for pair, drawn in samples.items() if pair[0] in names},
            {"deconfounded_cka": sites, **self._plain()},
            _together(self._program.distinct, samples),
            _together([name for name in self._program.compared if name not in names], pairs),
        )

    @cached_property
    def _centred(self) -> Residuals:
        return Residuals(self._side, constant_only=True)

    def _shares(self, energies: Mapping[str, float]) -> dict[str, float]:
        whole = {site: self._centred.energy(site) for site in self._sites}
        return {
            site: min(1.0, energies[site] / whole[site]) if whole[site] > 0 else 0.0
            for site in self._sites
        }

    def _deconfounded(
        self, rest: Residuals, sites: list[str]
    ) -> dict[tuple[str, str], Float64[Tensor, " left_out"]]:
        """Return deconfounded CKA of all that is compared, with the groups left out."""
        program, counts = self._program, rest.counts

        def norms(residuals: Residuals, name: str, part: ColumnIndex) -> Tensor:
            sums = residuals.sums[:, part]
            own = centred_without_each(residuals.own(name), sums, sums, counts)
            sizes: Tensor = torch.linalg.matrix_norm(own)
            return sizes

        places = program.side.places
        theirs = self._context.once(
            "norms of the program",
            lambda: {name: norms(program.rest, name, places[name]) for name in program.compared},
        )
        ours = {site: norms(rest, site, self._side.places[site]) for site in sites}
        values: dict[tuple[str, str], Tensor] = {}
        for site in sites:
            part = self._side.places[site]
            products = program.rest.with_(rest, self._cross, part)
            cross = centred_without_each(products, program.rest.sums, rest.sums[:, part], counts)
            squares = cross.square_().sum(2)
            for name in program.compared:
                shared = squares[:, places[name]].sum(1)
                values[name, site] = shared / (theirs[name] * ours[site])
        return {(name, site): values[name, site] for name in program.compared for site in sites}

    def _plain(self) -> dict[str, dict[tuple[str, str], Value]]:
        program = self._program
        cross = program.centred.total_with(self._centred, self._cross)
        own = {site: self._centred.total(site) for site in self._sites}
        theirs = program.totals
        ranks = {
            site: representations.distance_ranks(torch.cat(kept))
            for site, kept in self._samples.items()
        }
        by_measure: dict[str, dict[tuple[str, str], Value]] = {name: {} for name in PLAIN}
        varying = [site for site in self._sites if own[site].trace() > 0]
        whitened = {site: representations.whitening(own[site]) for site in varying}
        for variable in program.whitened:
            for site in varying:
                both = cross[program.side.places[variable]][:, self._side.places[site]]
                given = (both, theirs[variable], own[site])
                values = {
                    "plain_cka": float(representations.cka(*given)),
                    "rsa": representations.rsa(program.ranks[variable], ranks[site]),
                    "procrustes": representations.procrustes(*given),
                    "svcca": representations.canonical(
                        both, program.whitened[variable], whitened[site]
                    ),
                }
                for name, value in values.items():
                    by_measure[name][variable, site] = (min(1.0, value), None, None)
        return by_measure

    def rows(self) -> Iterator[Measurement]:
        """Yield every value, the best and matched ones each beside their controls."""
        context, program, model = self._context, self._program, self.similarities()
        inits, others = (context.compared(kind, compare) for kind in CONTROLS)
        own = context.once(
            "similarity of the reference", lambda: compare(context.reference_source, context)
        )
        for site, share in model.shares.items():
            yield Measurement("similarity/deconfounded_share", site, share, program.n)
        for name in program.variables:
            yield from _variable(name, model, inits, program.n)
            best = {"": [model.best(name)], "_reference": [own.best(name)]}
            yield from _headline("best_deconfounded_cka", name, best, program.n)
            for suffix, models in (("_random_init", inits), ("_other_task", others)):
                values = [value[0] for control in models if (value := control.best(name))]
                yield from _range(f"best_deconfounded_cka{suffix}", name, values, program.n)
        mean = {"": [model.mean], "_reference": [own.mean]}
        yield from _headline("mean_deconfounded_cka", "model", mean, program.n)
        for suffix, models in (("_random_init", inits), ("_other_task", others)):
            values = [value[0] for control in models if (value := control.mean)]
            yield from _range(f"mean_deconfounded_cka{suffix}", "model", values, program.n)
        for measure in OF_SITES:
            for (theirs, site), value in model.sites[measure].items():
                subject = f"{theirs}~{site}"
                yield Measurement(
                    f"similarity/site_{measure}", subject, value[0], program.n, *value[1:]
                )
            matched = {"": [model.matched(measure)], "_reference": [own.matched(measure)]}
            yield from _headline(f"matched_{measure}", "model", matched, program.n)
            for suffix, models in (("_random_init", inits), ("_other_task", others)):
                values = [value[0] for control in models if (value := control.matched(measure))]
                yield from _range(f"matched_{measure}{suffix}", "model", values, program.n)


def compare(source: Source, context: MeasurementContext) -> SiteSimilarities:
    """Return what a source's sites have in common with the program."""
    statistic = Similarity(source, context)
    for rows, part in source.parts():
        statistic.add(part, rows)
    return statistic.similarities()


def measure(source: Source, context: MeasurementContext) -> Iterator[Measurement]:
    """Yield the similarities of a source."""
    return taken(Similarity(source, context), source)


def program(context: MeasurementContext) -> Program:
    """Return the program's side, the same for every model that is compared with it."""
    return context.once("program", lambda: Program(context))


def confounded(context: MeasurementContext) -> tuple[str, ...]:
    """Return the variables that are token and position only, which CKA cannot speak of."""
    return program(context).confounded


def _with_interval(samples: Float64[Tensor, " left_out"]) -> Value:
    value = min(1.0, float(samples[-1]))
    if not samples.isfinite().all():  # a variable that varies in one group only
        return value, None, None
    low, high = jackknife_interval(value, samples[:-1])
    return value, max(0.0, low), min(1.0, high)


def _together(
    names: list[str], samples: Mapping[tuple[str, str], Float64[Tensor, " left_out"]]
) -> Value | None:
    """Return the mean over what is compared, each at the site where it is highest, 0 at none."""
    best: dict[str, Tensor] = {}
    for (name, _), drawn in samples.items():
        if name in names and (name not in best or drawn[-1] > best[name][-1]):
            best[name] = drawn
    if not best:
        return None
    return _with_interval(torch.stack([*best.values()]).sum(0) / len(names))


def _distinct(inputs: InputSet, names: list[str]) -> list[str]:
    """Return the variables without those that this measure cannot tell from an earlier one."""
    distinct: list[str] = []
    for name in names:
        variable = inputs.variables[name]
        if not any(_relabeled(inputs, variable, inputs.variables[other]) for other in distinct):
            distinct.append(name)
    return distinct


def _relabeled(inputs: InputSet, first: Variable, other: Variable) -> bool:
    """Return whether two variables are one category by other names, or one number rescaled."""
    defined = inputs.defined
    if first.numerical != other.numerical:
        return False
    if not first.numerical:
        codes = [variable.codes[defined].long() - IGNORE for variable in (first, other)]
        n_first, n_other = (len(torch.unique(part)) for part in codes)
        if n_first != n_other:
            return False
        joint = codes[0] * (codes[1].max() + 1) + codes[1]
        return len(torch.unique(joint)) == n_first
    columns = [as_columns(variable, defined) for variable in (first, other)]
    numbers, gaps = torch.stack([c[:, 0] for c in columns]), [c[:, 1] for c in columns]
    return torch.equal(*gaps) and bool(torch.corrcoef(numbers)[0, 1].abs() > 1 - 1e-9)


def _variable(
    name: str, model: SiteSimilarities, inits: list[SiteSimilarities], n: int
) -> Iterator[Measurement]:
    """Yield a variable's values at every site, and those of the random inits there."""
    for site in model.order:
        if (name, site) not in model.variables:
            continue
        subject, (value, low, high) = f"{name}@{site}", model.variables[name, site]
        yield Measurement("similarity/deconfounded_cka", subject, value, n, low, high)
        values = [init.variables[name, site][0] for init in inits if (name, site) in init.variables]
        yield from _range("deconfounded_cka_random_init", subject, values, n)


def _headline(
    measure: str, name: str, values: Mapping[str, list[Value | None]], n: int
) -> Iterator[Measurement]:
    for suffix, group in values.items():
        for value in group:
            if value is not None:
                yield Measurement(
                    f"similarity/{measure}{suffix}", name, value[0], n, value[1], value[2]
                )


def _range(measure: str, subject: str, values: list[float], n: int) -> Iterator[Measurement]:
    """Yield several models' mean, and as its interval the lowest and highest of them."""
    if values:
        mean, ends = sum(values) / len(values), (min(values), max(values))
        yield Measurement(f"similarity/{measure}", subject, mean, n, *ends)
