"""Controls: models for which the right answer is known.

Positives run the program by construction, or were trained to implement it. Negatives do not run it.
Decoys compute the same map by another program. Each is made on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ...config.schema import Config
from ...data.inputs import InputSet, input_set, shuffled
from ...data.outputs import Categorical, Numerical, Output
from ...infra.errors import UserError, first_line
from ...models.bridges import make_bridge
from ...models.compiling import UNEMBEDDING, Compiled
from ...models.reference import Reference, build_reference
from ...models.shapes import learned_shape, random_inits
from ...models.training import Progress, fit
from .interchange_training import InterchangeImplementation, implement
from .other_tasks import other_references
from .variants import hardest_noise, permuted, reparametrised, rotated

# Far from the seeds of users' runs, so that no control is a run's own initialisation.
POSITIVE, NEGATIVE, DECOY = "positive", "negative", "decoy"
DRAWS = 2  # seeds of each random change
INITS = 5  # random inits that are measured in full
TRIES = 3  # seeds with which interchange training is tried
CONDITION = 3.0  # condition number of the map that reparametrises the reference


class NotMadeError(Exception):
    """A control cannot be made for a task; the message says why."""


@dataclass(frozen=True)
class ControlModel:
    """A control's model, with a note about it."""

    bridge: TransformerBridge
    note: str = ""


@dataclass(frozen=True)
class Control:
    """A control; those of one `group` differ in their seed or task.

    `make` takes a callback for training progress, and raises NotMadeError.
    """

    name: str
    kind: str
    group: str
    make: Callable[[Progress], ControlModel]


def learned_by_heart(
    inputs: InputSet, shape: TransformerBridgeConfig, config: Config, progress: Progress
) -> ControlModel:
    """Return a model of a given shape, trained with a config on shuffled labels.

    Raises:
        NotFiniteError: training diverged.
    """
    given = shuffled(inputs, config.analysis.seed)
    weights, exact, steps = fit(given, shape, config.trainer, config.seed, progress)
    note = f"{exact:.1%} of its own labels right after {steps} steps"
    return ControlModel(make_bridge(shape, weights, config.analysis.device), note)


def controls(
    inputs: InputSet,
    reference: Reference,
    shape: TransformerBridgeConfig,
    config: Config,
    inits: int = INITS,
) -> list[Control]:
    """Return a task's controls for a learned model's shape: positives, negatives, decoys.

    `inits` is how many negatives are random inits.

    Raises:
        UserError: a program of the task fails on its inputs.
    """
    return [
        *_positives(inputs, reference, shape, config),
        *_negatives(inputs, shape, config, inits),
        *_decoys(inputs, config),
    ]


def _positives(
    inputs: InputSet, reference: Reference, shape: TransformerBridgeConfig, config: Config
) -> Iterator[Control]:
    compiled, seed = reference.compiled, config.analysis.seed

    def as_is(progress: Progress) -> ControlModel:
        return ControlModel(reference.bridge, f"{reference.validation.n_wrong} wrong")

    def changed(
        progress: Progress, change: Callable[[Compiled], Compiled], note: str
    ) -> ControlModel:
        return ControlModel(change(compiled).bridge(inputs), note)

    def noised(progress: Progress, at: int) -> ControlModel:
        noisy = hardest_noise(compiled, inputs, at)
        if noisy is None:
            raise NotMadeError("it survives no noise")
        return ControlModel(noisy[0].bridge(inputs), f"relative noise {noisy[1]:g}")

    yield Control("reference", POSITIVE, "reference", as_is)
    for i in range(DRAWS):
        at = seed + i
        for name, change, note in (
            ("rotated", partial(rotated, seed=at), ""),
            (
                "reparametrised",
                partial(reparametrised, seed=at, condition=CONDITION),
                f"condition number {CONDITION:g}",
            ),
            ("permuted", partial(permuted, seed=at), ""),
        ):
            make = partial(changed, change=change, note=note)
            yield Control(f"{name}-{i + 1}", POSITIVE, name, make)
        yield Control(f"noised-{i + 1}", POSITIVE, "noised", partial(noised, at=at))

    def implemented(progress: Progress) -> ControlModel:
        tried: list[InterchangeImplementation] = []
        for i in range(TRIES):
            implementation = implement(inputs, shape, seed + i, progress=progress)
            tried.append(implementation)
            if implementation.exact == 1:
                swaps = ", ".join(
                    f"{name} {share:.3f}" for name, share in implementation.interchange.items()
                )
                note = f"interchange {swaps}" if swaps else "no inner variable to interchange"
                return ControlModel(
                    make_bridge(shape, implementation.weights, config.analysis.device), note
                )
        best = max(implementation.exact for implementation in tried)
        raise NotMadeError(f"interchange training reached exact accuracy {best:.4f}, not 1")

    yield Control("implemented", POSITIVE, "implemented", implemented)


def _negatives(
    inputs: InputSet, shape: TransformerBridgeConfig, config: Config, inits: int
) -> Iterator[Control]:
    settings, device, seed = config.trainer, config.analysis.device, config.analysis.seed

    def untrained(progress: Progress, index: int) -> ControlModel:
        return ControlModel(random_inits(shape, index + 1, seed, device)[index])

    for i in range(inits):
        make = partial(untrained, index=i)
        yield Control(f"random_init-{i + 1}", NEGATIVE, "random init", make)

    by_heart = partial(learned_by_heart, inputs, shape, config)
    yield Control("shuffled_labels", NEGATIVE, "shuffled labels", by_heart)

    def trained(progress: Progress, other: Reference) -> ControlModel:
        theirs = learned_shape(config.model, other.inputs, config.seed)
        weights, exact, steps = fit(other.inputs, theirs, settings, config.seed, progress)
        note = f"{exact:.1%} right at its own task after {steps} steps"
        weights[UNEMBEDDING] = _read_as(weights[UNEMBEDDING], other.inputs.output, inputs.output)
        return ControlModel(make_bridge(shape, weights, device), note)

    def compiled(progress: Progress, other: Reference) -> ControlModel:
        return ControlModel(other.compiled.bridge(inputs))

    for other in other_references(inputs, config.task, max(1, config.analysis.other_tasks)):
        name = other.inputs.task.name
        yield Control(
            f"trained_on_{name}", NEGATIVE, "trained other", partial(trained, other=other)
        )
        yield Control(
            f"compiled_{name}", NEGATIVE, "compiled other", partial(compiled, other=other)
        )


def _read_as(
    head: Float[Tensor, "theirs d_model"], theirs: Output, ours: Output
) -> Float[Tensor, "ours d_model"]:
    """Return an output head with a row for each of our outputs, zeros for those it lacks."""
    if isinstance(theirs, Numerical) and isinstance(ours, Numerical):
        return head
    rows = dict(zip(theirs.values, head, strict=True)) if isinstance(theirs, Categorical) else {}
    values = ours.values if isinstance(ours, Categorical) else (None,)
    return torch.stack([rows.get(value, torch.zeros(head.shape[1])) for value in values])


def _decoys(inputs: InputSet, config: Config) -> Iterator[Control]:
    def alternative(progress: Progress, name: str) -> ControlModel:
        try:
            other = input_set(inputs.task.with_program(name), config.task)
            reference = build_reference(other)
        except UserError as error:
            raise NotMadeError(first_line(error)) from error
        return ControlModel(reference.compiled.bridge(inputs))

    for name in inputs.task.alternatives:
        yield Control(name, DECOY, "decoy", partial(alternative, name=name))
