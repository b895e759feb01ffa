"""The sites at which states are looked for, and the model continued from donated activations there.

*Residual* sites are the embedding and the residual stream after each block. *Sides* are what a
block's attention reads: its queries, keys or values, while the rest of the model reads the target's
own residual stream. *Components* are what a head or an MLP writes: only that is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ...models.task_model import TaskModel, block_after
from ..matching.cut_tests import SIDE_SITES, TOGETHER, given_at
from .sufficiency import Given

RESIDUAL, SIDE, COMPONENT = "residual", "side", "component"


@dataclass(frozen=True)
class StateSite:
    """A place in a model by its TransformerLens name, and the model continued from there."""

    name: str
    kind: str
    given: Given


def site_names(task_model: TaskModel, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """Return the name and the kind of each site, in order of computation."""
    names = list[tuple[str, str]]()
    for site in task_model.sites:
        layer = block_after(site, task_model.model)
        if RESIDUAL in kinds:
            names.append((site, RESIDUAL))
        if SIDE in kinds and layer is not None:
            names += [(f"blocks.{layer}.{hook}", SIDE) for hook in SIDE_SITES if hook != TOGETHER]
        if COMPONENT in kinds and layer is not None:
            names += [(name, COMPONENT) for name in task_model.component_names(layer)]
    return names


def state_sites(task_model: TaskModel, kinds: Sequence[str]) -> Iterator[StateSite]:
    """Yield the sites of `site_names`, each recorded when it is reached."""
    for site, residual in task_model.recorded(task_model.sites):
        if RESIDUAL in kinds:
            yield StateSite(site, RESIDUAL, given_at(task_model, site, residual))
        layer = block_after(site, task_model.model)
        if layer is None:
            continue
        if SIDE in kinds:
            read = task_model.attention_inputs(layer)
            for hook, sides in SIDE_SITES.items():
                if hook != TOGETHER:
                    some = {side: read[side] for side in sides}
                    given = partial(task_model.donated_sides_logits, site, residual, some)
                    yield StateSite(f"blocks.{layer}.{hook}", SIDE, given)
        if COMPONENT in kinds:
            for name, after, stream, written in task_model.components(layer):
                given = partial(task_model.donated_component_logits, after, stream, written)
                yield StateSite(name, COMPONENT, given)
