"""Deconfounded CKA between the program's variables and the learned model's residual stream.

Plain CKA is high for random models, since token and position are linearly there from the
start. So token and position one-hots are regressed out of both sides first (projecting on an
orthonormal basis of them, by SVD: the one-hots are rank-deficient), and linear CKA
(Kornblith et al. 2019) is taken of what is left. It shows presence, not use.

Shapes: `cases` the (input, position) pairs where the program is defined,
`value` one column for each value of each category, and for each number, `left_out` the estimates
with each group left out and, last, of all groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from ..data.inputs import InputSet, Variable
from ..data.outputs import IGNORE
from .activations import Recording, residual_sites
from .measurements import Measurement, Metric
from .setting import Setting
from .statistics import jackknife_interval

Value = tuple[float, float | None, float | None]  # with its interval, where there is one
Similarities = dict[str, dict[str, Value]]  # by site and variable
GROUPS = 20
NOTHING_LEFT = 1e-10  # share of a representation's energy under which it is all confounds

METRICS = (
    Metric(
        "similarity/deconfounded_cka", "CKA", "higher", 0, 1, "a variable at a site, beyond "
        "token and position; its interval is a jackknife over inputs",
    ),
    Metric(
        "similarity/deconfounded_cka_random_init", "CKA", "neither", 0, 1, "the same of random "
        "inits: their mean, and as interval the lowest and highest of them",
    ),
    Metric(
        "similarity/deconfounded_share", "share of variance", "neither", 0, 1, "what CKA speaks "
        "of: the part of a site that is neither token nor position",
    ),
    Metric(
        "similarity/best_deconfounded_cka", "CKA", "higher", 0, 1, "a variable at the site where "
        "it is highest",
    ),
    Metric(
        "similarity/best_deconfounded_cka_random_init", "CKA", "neither", 0, 1, "the same of "
        "random inits, each at its own best site",
    ),
    Metric(
        "similarity/best_deconfounded_cka_reference", "CKA", "neither", 0, 1, "the same of the "
        "compiled reference itself, which holds every variable: below 1 where it holds others too",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Variables:
    """What a program's variables are beyond token and position, ready to be compared with.

    `cases` are sorted by jackknife group. `columns` says which columns of `representation`,
    the variables' deconfounded columns side by side, belong to which variable.
    """

    inputs: InputSet
    order: Int64[Tensor, " cases"]
    group_sizes: tuple[int, ...]
    basis: Float64[Tensor, "cases confound"]
    representation: Float64[Tensor, "cases value"]
    columns: Mapping[str, slice]
    norms: Mapping[str, Float64[Tensor, " left_out"]]
    confounded: tuple[str, ...]

    def cases(self, values: Shaped[Tensor, "inputs pos *more"]) -> Shaped[Tensor, "cases *more"]:
        """Return the values at the cases, in their order."""
        return values[self.inputs.defined][self.order]


def prepare(inputs: InputSet, seed: int) -> Variables:
    """Return what of every variable is more than token and position."""
    where = torch.nonzero(inputs.defined)
    shuffled = np.random.default_rng([seed, len(inputs)]).permutation(len(inputs)) % GROUPS
    groups = torch.from_numpy(shuffled)[where[:, 0]]
    order = torch.argsort(groups, stable=True)
    sizes = tuple(size for size in torch.bincount(groups).tolist() if size)
    positions, tokens = where[order, 1], inputs.tokens[inputs.defined][order]
    basis = orthonormal_basis(torch.cat([F.one_hot(tokens), F.one_hot(positions)], dim=1).double())
    kept, columns, confounded, width = [], {}, [], 0
    for name, variable in inputs.variables.items():
        values = as_columns(variable, inputs.defined)[order]
        rest = deconfound(values, basis)
        if energy(rest) <= NOTHING_LEFT * energy(values):
            confounded.append(name)
            continue
        kept.append(rest)
        columns[name] = slice(width, width := width + rest.shape[1])
    representation = torch.cat(kept, dim=1) if kept else basis[:, :0]
    norms = {
        name: torch.linalg.matrix_norm(covariances(representation[:, part], None, sizes))
        for name, part in columns.items()
    }
    return Variables(inputs, order, sizes, basis, representation, columns, norms, tuple(confounded))


def as_columns(
    variable: Variable, cases: Bool[Tensor, "inputs pos"]
) -> Float64[Tensor, "cases value"]:
    """Return a variable as a model would hold it: one-hots of a category, a number as itself.

    Cases at which it is undefined have a column of their own.
    """
    codes = variable.codes[cases].long()
    codes = torch.where(codes == IGNORE, len(variable.values), codes)
    if not variable.numerical:
        return F.one_hot(codes).double()
    numbers = torch.tensor([*variable.values, 0.0], dtype=torch.float64)
    return torch.stack([numbers[codes], (codes == len(variable.values)).double()], dim=1)


def orthonormal_basis(columns: Float64[Tensor, "cases k"]) -> Float64[Tensor, "cases rank"]:
    """Return an orthonormal basis of the span of the columns, whatever their rank."""
    left, singular, _ = torch.linalg.svd(columns, full_matrices=False)
    basis: Tensor = left[:, singular > singular[0] * 1e-9]
    return basis


def deconfound(
    representation: Float64[Tensor, "cases k"], basis: Float64[Tensor, "cases rank"]
) -> Float64[Tensor, "cases k"]:
    """Return what of a representation is not linear in the confounds (its mean goes too)."""
    return representation - basis @ (basis.T @ representation)


def energy(representation: Float64[Tensor, "cases k"]) -> float:
    """Return the sum of squares."""
    return float((representation**2).sum())


def linear_cka(x: Float64[Tensor, "cases k"], y: Float64[Tensor, "cases d"]) -> float:
    """Return linear CKA (Kornblith et al. 2019), in feature space, of centred representations."""
    x, y = x - x.mean(0), y - y.mean(0)
    cross = torch.linalg.matrix_norm(x.T @ y) ** 2
    return float(cross / (torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)))


def site_similarities(
    site: Float[Tensor, "inputs pos d_model"], variables: Variables
) -> dict[str, Value]:
    """Return each variable's deconfounded CKA with a site, and its jackknife interval.

    Empty where the site holds nothing beyond token and position.
    """
    values = variables.cases(site).double()
    rest, sizes = deconfound(values, variables.basis), variables.group_sizes
    if energy(rest) <= NOTHING_LEFT * energy(values):
        return {}
    own = torch.linalg.matrix_norm(covariances(rest, None, sizes))
    cross = covariances(variables.representation, rest, sizes)
    found: dict[str, Value] = {}
    for name, part in variables.columns.items():
        shared = torch.linalg.matrix_norm(cross[:, part]) ** 2
        samples = shared / (variables.norms[name] * own)
        value = min(1.0, float(samples[-1]))
        found[name] = (value, None, None)
        if samples.isfinite().all():  # it is not where a variable varies in one group only
            low, high = jackknife_interval(value, samples[:-1])
            found[name] = (value, max(0.0, low), min(1.0, high))
    return found


def energy_share(site: Float[Tensor, "inputs pos d_model"], variables: Variables) -> float:
    """Return the share of a site's variance that is neither token nor position."""
    values = variables.cases(site).double()
    whole = energy(values - values.mean(0))
    return energy(deconfound(values, variables.basis)) / whole if whole > 0 else 0.0


def covariances(
    x: Float64[Tensor, "cases k"], y: Float64[Tensor, "cases d"] | None, sizes: tuple[int, ...]
) -> Float64[Tensor, "left_out k d"]:
    """Return n times the covariance of x with y (or itself), each group left out, and last of all.

    The groups are consecutive cases, of the given sizes.
    """
    xs = torch.split_with_sizes(x, list(sizes))
    ys = xs if y is None else torch.split_with_sizes(y, list(sizes))
    products = torch.stack([a.T @ b for a, b in zip(xs, ys, strict=True)])
    left, right = (torch.stack([part.sum(0) for part in parts]) for parts in (xs, ys))

    def without_each(sums: Tensor) -> Tensor:
        whole = sums.sum(0, keepdim=True)
        return torch.cat([whole - sums, whole])

    n = without_each(torch.tensor(sizes, dtype=torch.float64))[:, None, None]
    left, right = without_each(left), without_each(right)
    return without_each(products) - left[:, :, None] * right[:, None, :] / n


def measure(recording: Recording, setting: Setting) -> Iterator[Measurement]:
    """Yield deconfounded CKA of every variable at every site, and of the random inits there."""
    variables = _variables(setting)
    sites = residual_sites(recording.bridge)
    controls = setting.once(
        "similarity of random inits",
        lambda: [
            _all_sites(control, residual_sites(control.bridge), variables)
            for control in setting.random_recordings()
        ],
    )
    reference = setting.once(
        "similarity of the reference",
        lambda: _all_sites(
            setting.reference_recording, residual_sites(setting.reference.bridge), variables
        ),
    )
    found, n = _all_sites(recording, sites, variables), len(variables.order)
    for site in sites:
        share = energy_share(recording[site], variables)
        yield Measurement("similarity/deconfounded_share", site, share, n)
    for name in variables.columns:
        at = {site: found[site][name] for site in sites if name in found[site]}
        for site, (value, low, high) in at.items():
            subject = f"{name}@{site}"
            yield Measurement("similarity/deconfounded_cka", subject, value, n, low, high)
            yield from _control(
                "deconfounded_cka", subject, [c[site][name][0] for c in controls if c.get(site)], n
            )
        yield from _best("best_deconfounded_cka", name, found, n)
        bests = [best[0] for control in controls if (best := _highest(control, name))]
        yield from _control("best_deconfounded_cka", name, bests, n)
        yield from _best("best_deconfounded_cka_reference", name, reference, n)


def confounded(setting: Setting) -> tuple[str, ...]:
    """Return the variables that are token and position only, which CKA cannot speak of."""
    return _variables(setting).confounded


def _variables(setting: Setting) -> Variables:
    return setting.once("variables", lambda: prepare(setting.inputs, setting.config.seed))


def _all_sites(recording: Recording, sites: list[str], variables: Variables) -> Similarities:
    return {site: site_similarities(recording[site], variables) for site in sites}


def _highest(sites: Similarities, name: str) -> Value | None:
    found = [at[name] for at in sites.values() if at]
    return max(found, key=lambda value: value[0], default=None)


def _best(measure: str, name: str, sites: Similarities, n: int) -> Iterator[Measurement]:
    best = _highest(sites, name)
    if best is not None:
        yield Measurement(f"similarity/{measure}", name, best[0], n, best[1], best[2])


def _control(name: str, subject: str, values: list[float], n: int) -> Iterator[Measurement]:
    if values:
        mean = sum(values) / len(values)
        yield Measurement(
            f"similarity/{name}_random_init", subject, mean, n, min(values), max(values)
        )
