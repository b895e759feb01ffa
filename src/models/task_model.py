"""A model as a task's inputs meet it: run on from residual streams that others have given.

Positions are those of a task's encoded inputs: BOS, the list, padding. A model of our own has the
same; another's tokens may begin with a longer prefix, and its logits are of its own vocabulary.

Shapes: `inputs` inputs, `pos` positions of an encoded input, `own` positions of the model's own
(those before BOS, then `pos`), `cases` what is replaced at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import NativeModel

from ..data.donors import Donated
from ..data.inputs import InputSet
from .continuation import (
    attention_inputs,
    continue_from,
    layer_of,
    residual_stream,
    residuals,
    without_hooks,
)

AT_ONCE = 1024  # inputs or cases that are run together
HELD_BYTES = 512 * 2**20  # of residual streams that are recorded in one pass


@dataclass(frozen=True)
class TaskModel:
    """A model and its own tokens of a task's inputs.

    `lead` is how many positions come before that of BOS; `classes` are the logits that are read,
    in the order of the task's outputs, all of them where it is None.
    """

    model: NativeModel | TransformerBridge
    tokens: Int64[Tensor, "inputs own"]
    key_mask: Bool[Tensor, "inputs own"]
    lead: int = 0
    classes: Int64[Tensor, " classes"] | None = None

    def at(self, rows: Int64[Tensor, " some"]) -> TaskModel:
        """Return the model and some of the inputs."""
        return replace(self, tokens=self.tokens[rows], key_mask=self.key_mask[rows])

    @property
    def sites(self) -> list[str]:
        """The embedding and the residual stream after each block, in order.

        Before a block's MLP tests of whole residuals have the same outcomes as after it, for it
        maps each position's residual by itself: the donors' go in and come out together.
        """
        first, *rest = residual_stream(self.model)
        return [first, *(site for site in rest if site.endswith("hook_resid_post"))]

    @torch.inference_mode()
    def recorded(
        self, sites: Sequence[str]
    ) -> Iterator[tuple[str, Float[Tensor, "inputs own d_model"]]]:
        """Yield the residual streams at some sites: of one pass, or one each if they are large."""
        each = 4 * self.tokens.numel() * int(self.model.cfg.d_model)
        count = max(1, HELD_BYTES // each)
        for at in range(0, len(sites), count):
            some = list(sites[at : at + count])
            yield from self._in_parts(partial(residuals, self.model, sites=some)).items()

    @torch.inference_mode()
    def attention_inputs(self, layer: int) -> dict[str, Float[Tensor, "inputs own ..."]]:
        """Return what a block's attention makes its queries, keys and values of."""
        return self._in_parts(
            lambda tokens, mask: attention_inputs(self.model, tokens, mask, layer)
        )

    @torch.inference_mode()
    def logits(self) -> Float[Tensor, "inputs pos classes"]:
        """Return what the model gives on the inputs."""
        run = self.model
        return self._in_parts(
            lambda tokens, mask: {"logits": self.read(run(tokens, attention_mask=mask))}
        )["logits"]

    @torch.inference_mode()
    def given(
        self, site: str, residual: Float[Tensor, "inputs own d_model"], cases: Donated
    ) -> Float[Tensor, "cases pos classes"]:
        """Return the logits of cases whose whole residual stream at a site is donated."""
        rows, positions = self.own_places(cases.rows, cases.positions)
        return self._run(
            site, cases.bases, lambda some: (residual[rows[some], positions[some]], None)
        )

    @torch.inference_mode()
    def given_sides(
        self,
        site: str,
        residual: Float[Tensor, "inputs own d_model"],
        sides: Mapping[str, Float[Tensor, "inputs own ..."]],
        cases: Donated,
    ) -> Float[Tensor, "cases pos classes"]:
        """Return the logits of cases with their own residual stream, but for what attention reads.

        The block after the site makes its queries, keys or values, those of `sides`, of donors.
        """
        rows, positions = self.own_places(cases.rows, cases.positions)
        return self._run(
            site, cases.bases,
            lambda some: (
                residual[cases.bases[some]],
                {side: value[rows[some], positions[some]] for side, value in sides.items()},
            ),
        )  # fmt: skip

    def _run(
        self,
        site: str,
        bases: Int64[Tensor, " cases"],
        part: Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor] | None]],
    ) -> Float[Tensor, "cases pos classes"]:
        device, outputs = self.device, list[Tensor]()
        for some in torch.split(torch.arange(len(bases)), AT_ONCE):
            stream, sides = part(some)
            mask = self.key_mask[bases[some]].to(device)
            moved = {side: value.to(device) for side, value in (sides or {}).items()}
            outputs.append(
                self.read(continue_from(self.model, site, stream.to(device), mask, moved))
            )
        return torch.cat(outputs)

    @property
    def device(self) -> torch.device:
        """Where the model is, whatever its config says."""
        first: Tensor = next(self.model.parameters())
        return first.device

    def own_places(
        self, rows: Int64[Tensor, "cases *pos"], positions: Int64[Tensor, "cases pos"]
    ) -> tuple[Int64[Tensor, "cases own"], Int64[Tensor, "cases own"]]:
        """Return donors by the model's positions: those before BOS come with BOS.

        `rows` may be one donor for all of a case's positions.
        """
        rows = rows if rows.dim() == positions.dim() else rows[:, None].expand_as(positions)
        if not self.lead:
            return rows, positions
        before = torch.arange(self.lead).expand(len(rows), -1)
        return (
            torch.cat([rows[:, :1].expand(-1, self.lead), rows], dim=1),
            torch.cat([before, positions + self.lead], dim=1),
        )

    def read(
        self, logits: Float[Tensor, "*stack cases own all_classes"]
    ) -> Float[Tensor, "*stack cases pos classes"]:
        """Return the logits of the task's positions and outputs, on the CPU."""
        logits = logits[..., self.lead :, :]
        return (logits if self.classes is None else logits[..., self.classes]).cpu()

    def _in_parts(self, run: Callable[[Tensor, Tensor], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        device, parts = self.device, list[Mapping[str, Tensor]]()
        for some in torch.split(torch.arange(len(self.tokens)), AT_ONCE):
            activations = run(self.tokens[some].to(device), self.key_mask[some].to(device))
            parts.append({name: value.cpu() for name, value in activations.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def task_model_of(bridge: NativeModel | TransformerBridge, inputs: InputSet) -> TaskModel:
    """Return a model that reads a task's own tokens and gives its own classes."""
    return TaskModel(without_hooks(bridge), inputs.tokens, inputs.key_mask)


def block_after(site: str, model: NativeModel | TransformerBridge) -> int | None:
    """Return the block that reads a site of the residual stream between blocks; None at the end."""
    layer = layer_of(site) + site.endswith("hook_resid_post")
    return layer if layer < model.cfg.n_layers else None
