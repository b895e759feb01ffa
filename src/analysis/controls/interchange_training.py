"""A learned architecture trained to implement a program: interchange intervention training.

Each variable is assigned residual dimensions. If these are replaced by another input's, the output
must become the program's output with the variable overridden by its values on that input (Geiger
et al. 2022, arXiv:2112.00826). The trained model is a positive control: a learned model that is
known to compute with these variables.

Shapes: `cases` pairs of a base and a donor, `pos` the positions of an encoded input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import NativeModel

from ...config.schema import TrainerConfig
from ...data.inputs import InputSet
from ...data.overridden_variables import overridden_targets
from ...models.bridges import make_native
from ...models.continuation import embedded, halves
from ...models.training import Progress, exact_accuracy, mean_loss, optimise, weights_of, with_seed
from ...models.variable_sites import ResidualDims, align, inner_variables, sites_of

POOL = 8192  # cases of a variable to train on
FRESH = 1024  # cases of a variable to measure on
DRAWS = 4  # rounds of draws, after which a variable is taken to have no more cases
SOLVED = 0.99  # interchange accuracy of every variable at which training ends
WEIGHT = 3.0  # weight of the interchange loss
SETTINGS = TrainerConfig(
    max_steps=1500, batch_size=64, learning_rate=2e-3, warmup_steps=50, evaluate_every=50
)


@dataclass(frozen=True)
class InterchangeCases:
    """Pairs of inputs for one variable, and what the program gives with the donor's value of it.

    A donor is at least as long as its base. Targets are like an InputSet's; they are undefined
    where the program gives nothing, or a value that occurs on no input.
    """

    bases: Int64[Tensor, " cases"]
    donors: Int64[Tensor, " cases"]
    targets: Int64[Tensor, "cases pos"] | Float32[Tensor, "cases pos"]

    def __len__(self) -> int:
        return len(self.bases)

    def rows(self, chosen: Tensor) -> InterchangeCases:
        """Return some of the cases."""
        return InterchangeCases(self.bases[chosen], self.donors[chosen], self.targets[chosen])


@dataclass(frozen=True)
class InterchangeImplementation:
    """A model trained to implement a program, and how well it does.

    `exact` is the share of inputs whose outputs are all right. `interchange` is each variable's
    interchange accuracy on fresh cases; `alignment` is where the model holds it.
    """

    weights: dict[str, Tensor]
    alignment: dict[str, ResidualDims]
    exact: float
    interchange: dict[str, float]
    steps: int


def implement(
    inputs: InputSet,
    shape: TransformerBridgeConfig,
    seed: int,
    settings: TrainerConfig = SETTINGS,
    weight: float = WEIGHT,
    progress: Progress | None = None,
) -> InterchangeImplementation:
    """Return a new model of a shape, trained to give the program's outputs by its variables.

    `settings.batch_size` is the number of pairs of inputs. All inputs are trained on, including the
    held-out ones. Training ends early once every input is right and every interchange accuracy is
    at least 0.99.

    Raises:
        NotFiniteError: the loss is infinite or not a number.
    """
    pools = {name: cases_of(inputs, name, POOL, seed) for name in inner_variables(inputs)}
    pools = {name: pool for name, pool in pools.items() if len(pool)}
    alignment = align(inputs, shape, list(pools))
    fresh = {name: cases_of(inputs, name, FRESH, seed + 1) for name in alignment}
    model = make_native(with_seed(shape, seed))

    def loss_at(step: int) -> Tensor:
        generator = np.random.default_rng([seed, step])
        pairs = drawn(inputs, settings.batch_size, generator)
        rows = torch.from_numpy(pairs[np.arange(len(pairs)), np.arange(len(pairs)) % 2])
        if not alignment:
            given = model(inputs.tokens[rows], attention_mask=inputs.key_mask[rows])
            return mean_loss(inputs.output, given, inputs.targets[rows])
        parts = np.array_split(np.arange(settings.batch_size), len(alignment))
        cases = _joined(
            [
                pool.rows(torch.from_numpy(generator.integers(len(pool), size=len(part))))
                for pool, part in zip(map(pools.__getitem__, alignment), parts, strict=True)
            ]
        )
        places = [
            place for place, part in zip(alignment.values(), parts, strict=True) for _ in part
        ]
        given, swapped = interchanged(model, inputs, cases, places, rows)
        targets = inputs.targets[torch.cat([rows, cases.donors])]
        loss = mean_loss(inputs.output, given, targets)
        return loss + weight * mean_loss(inputs.output, swapped, cases.targets)

    def accuracies() -> dict[str, float]:
        return {
            name: interchange_accuracy(model, inputs, place, fresh[name])
            for name, place in alignment.items()
        }

    def solved() -> bool:
        return (
            exact_accuracy(model, inputs) == 1 and min(accuracies().values(), default=1) >= SOLVED
        )

    steps = optimise(model, loss_at, settings, progress, solved)
    exact = exact_accuracy(model, inputs)
    return InterchangeImplementation(weights_of(model), alignment, exact, accuracies(), steps)


def drawn(
    inputs: InputSet, count: int, generator: np.random.Generator
) -> Int64[np.ndarray, "count 2"]:
    """Return pairs of inputs, the shorter first; half of their lengths are drawn evenly."""
    lengths = inputs.lengths.numpy()
    _, index, sizes = np.unique(lengths, return_inverse=True, return_counts=True)
    share = 0.5 / len(lengths) + 0.5 / (len(sizes) * sizes[index])
    pairs = generator.choice(len(lengths), size=(count, 2), p=share / share.sum())
    swap = lengths[pairs[:, 0]] > lengths[pairs[:, 1]]
    pairs[swap] = pairs[swap, ::-1]
    return pairs


def cases_of(inputs: InputSet, name: str, count: int, seed: int) -> InterchangeCases:
    """Return up to `count` pairs in which overriding a variable changes the program's output.

    The donor's values replace the base's at every position of the base. If the output seldom or
    never changes, few or no cases are found.
    """
    generator = np.random.default_rng(seed)
    cases = InterchangeCases(*(torch.empty(0, dtype=torch.int64),) * 2, inputs.targets[:0])
    for _ in range(DRAWS):
        pairs = torch.from_numpy(drawn(inputs, count, generator))
        cases = _joined([cases, _changing(inputs, name, pairs)])
        if len(cases) >= count:
            break
    return cases.rows(torch.arange(min(count, len(cases))))


def _changing(inputs: InputSet, name: str, pairs: Int64[Tensor, "pairs 2"]) -> InterchangeCases:
    distinct, index = torch.unique(pairs, dim=0, return_inverse=True)
    bases, donors = distinct.T
    given = {name: inputs.variables[name].codes[donors]}
    base, targets = inputs.targets[bases], overridden_targets(inputs, bases, given)
    both = inputs.output.defined(targets) & inputs.output.defined(base)
    changed = (both & ~inputs.output.same(targets, base)).any(-1)
    return InterchangeCases(pairs[:, 0], pairs[:, 1], targets[index]).rows(changed[index])


def _joined(parts: Sequence[InterchangeCases]) -> InterchangeCases:
    return InterchangeCases(
        torch.cat([part.bases for part in parts]),
        torch.cat([part.donors for part in parts]),
        torch.cat([part.targets for part in parts]),
    )


@torch.inference_mode()
def interchange_accuracy(
    model: NativeModel, inputs: InputSet, place: ResidualDims, cases: InterchangeCases
) -> float:
    """Return the share of cases whose defined outputs all become the targets; 1 of no cases."""
    if not len(cases):
        return 1.0
    right = []
    model.eval()
    for rows in torch.split(torch.arange(len(cases)), FRESH):
        some = cases.rows(rows)
        _, given = interchanged(model, inputs, some, [place] * len(some))
        defined = inputs.output.defined(some.targets)
        right.append((inputs.output.right(given, some.targets) | ~defined).all(-1))
    model.train()
    return float(torch.cat(right).double().mean())


def interchanged(
    model: NativeModel,
    inputs: InputSet,
    cases: InterchangeCases,
    places: Sequence[ResidualDims],
    beside: Int64[Tensor, " others"] | None = None,
) -> tuple[Float[Tensor, "plain pos width"], Float[Tensor, "cases pos width"]]:
    """Return a model's logits on other inputs and the donors, and on the interchanged bases.

    Each case has its own place; there the donor's dimensions replace the base's at every position.
    """
    count, none = len(cases), torch.empty(0, dtype=torch.int64)
    rows = torch.cat([none if beside is None else beside, cases.donors, cases.bases])
    tokens, key_mask = inputs.tokens[rows], inputs.key_mask[rows]
    masks = _masks(places, model.cfg.d_model)
    residual = embedded(model, tokens)
    for site, half in zip(sites_of(model.cfg), halves(model, key_mask), strict=True):
        residual = half(residual)
        if site in masks:
            others, donor, mixed = torch.tensor_split(
                residual, [len(rows) - 2 * count, len(rows) - count]
            )
            residual = torch.cat([others, donor, torch.where(masks[site], donor, mixed)])
    given = model.head(model.ln_out(residual))
    return given[:-count], given[-count:]


def _masks(places: Sequence[ResidualDims], width: int) -> dict[str, Bool[Tensor, "cases 1 dim"]]:
    """Return which dimensions of which cases are replaced at each site."""
    masks: dict[str, Tensor] = {}
    for place in set(places):
        cases = torch.tensor([case_place == place for case_place in places])
        dims = torch.zeros(width, dtype=torch.bool)
        dims[list(place.dims)] = True
        mask = cases[:, None, None] & dims
        masks[place.site] = masks[place.site] | mask if place.site in masks else mask
    return masks
