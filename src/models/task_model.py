"""Subjects: a model with a task's inputs, to be continued from donated residual streams.

Positions are those of a task's encoded inputs: BOS, the list, padding. This project's models use
the same positions. Another model's tokens may begin with a longer prefix, and its logits are over
its own vocabulary.

Shapes: `inputs` inputs, `pos` positions of an encoded input, `own` the model's own positions (those
before BOS, then `pos`), `cases` one replacement each.
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
from .wiring import HEAD, writing_sites, written_at

AT_ONCE = 1024  # inputs or cases per batch
HELD_BYTES = 512 * 2**20  # largest size of residual streams recorded in one pass


@dataclass(frozen=True)
class TaskModel:
    """A model and its own tokens of a task's inputs.

    `lead` is the number of positions before that of BOS. `classes` are the ids of the logits that
    are read, in the order of the task's outputs; None means all logits.
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

        Sites before a block's MLP are left out: the MLP acts on each position's residual alone, so
        tests of whole residuals have the same outcome before and after it.
        """
        first, *rest = residual_stream(self.model)
        return [first, *(site for site in rest if site.endswith("hook_resid_post"))]

    @torch.inference_mode()
    def recorded(
        self, sites: Sequence[str]
    ) -> Iterator[tuple[str, Float[Tensor, "inputs own d_model"]]]:
        """Yield the residual streams at some sites, from one pass, or one pass each if large."""
        each = 4 * self.tokens.numel() * int(self.model.cfg.d_model)
        count = max(1, HELD_BYTES // each)
        for at in range(0, len(sites), count):
            some = list(sites[at : at + count])
            yield from self._in_parts(partial(residuals, self.model, sites=some)).items()

    @torch.inference_mode()
    def attention_inputs(self, layer: int) -> dict[str, Float[Tensor, "inputs own ..."]]:
        """Return the queries, keys and values of a block's attention, by side."""
        return self._in_parts(
            lambda tokens, mask: attention_inputs(self.model, tokens, mask, layer)
        )

    @torch.inference_mode()
    def logits(self) -> Float[Tensor, "inputs pos classes"]:
        """Return the model's logits on the inputs."""
        run = self.model
        return self._in_parts(
            lambda tokens, mask: {"logits": self.read(run(tokens, attention_mask=mask))}
        )["logits"]

    @torch.inference_mode()
    def donated_logits(
        self, site: str, residual: Float[Tensor, "inputs own d_model"], cases: Donated
    ) -> Float[Tensor, "cases pos classes"]:
        """Return the logits of cases whose whole residual stream at a site comes from donors."""
        rows, positions = self.own_places(cases.rows, cases.positions)
        return self._run(
            site, cases.bases, lambda some: (residual[rows[some], positions[some]], None)
        )

    @torch.inference_mode()
    def donated_sides_logits(
        self,
        site: str,
        residual: Float[Tensor, "inputs own d_model"],
        sides: Mapping[str, Float[Tensor, "inputs own ..."]],
        cases: Donated,
    ) -> Float[Tensor, "cases pos classes"]:
        """Return the logits of cases where only what attention reads comes from donors.

        The block after the site takes the donors' queries, keys or values, as `sides` says; the
        residual stream is the cases' own.
        """
        rows, positions = self.own_places(cases.rows, cases.positions)
        return self._run(
            site, cases.bases,
            lambda some: (
                residual[cases.bases[some]],
                {side: value[rows[some], positions[some]] for side, value in sides.items()},
            ),
        )  # fmt: skip

    @torch.inference_mode()
    def donated_component_logits(
        self,
        after: str,
        residual: Float[Tensor, "inputs own d_model"],
        written: Float[Tensor, "inputs own d_model"],
        cases: Donated,
    ) -> Float[Tensor, "cases pos classes"]:
        """Return the logits of cases where only what one head or MLP writes comes from donors.

        `written` is what it writes, `residual` the residual stream at the site `after` it.
        """
        rows, positions = self.own_places(cases.rows, cases.positions)

        def stream(some: Tensor) -> Tensor:
            bases = cases.bases[some]
            donated = written[rows[some], positions[some]]
            return residual[bases] - written[bases] + donated

        return self._run(after, cases.bases, lambda some: (stream(some), None))

    def component_names(self, layer: int) -> list[str]:
        """Return the names of the heads and the MLP of a block, as `components` yields them."""
        return [site.name for site in writing_sites(self.model, layer)]

    @torch.inference_mode()
    def components(
        self, layer: int
    ) -> Iterator[
        tuple[str, str, Float[Tensor, "inputs own d_model"], Float[Tensor, "inputs own d_model"]]
    ]:
        """Yield a block's heads and MLP: name, the site after it, the residual there, its output.

        The site is the first of the residual stream after the component.
        """
        names = residual_stream(self.model)
        middle, end = (f"blocks.{layer}.hook_resid_{kind}" for kind in ("mid", "post"))
        chosen = writing_sites(self.model, layer)
        outputs = self._in_parts(partial(written_at, self.model, sites=chosen))
        streams = dict(self.recorded([site for site in (middle, end) if site in names]))
        for site in chosen:
            after = middle if site.hook == HEAD and middle in names else end
            yield site.name, after, streams[after], outputs[site.name]

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
        """The device of the model's parameters, which its config may not say."""
        first: Tensor = next(self.model.parameters())
        return first.device

    def own_places(
        self, rows: Int64[Tensor, "cases *pos"], positions: Int64[Tensor, "cases pos"]
    ) -> tuple[Int64[Tensor, "cases own"], Int64[Tensor, "cases own"]]:
        """Return the donors in the model's own positions; those before BOS follow BOS's donor.

        `rows` may be a single donor for all of a case's positions.
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
    """Return the block that reads a site between blocks; None after the last block."""
    layer = layer_of(site) + site.endswith("hook_resid_post")
    return layer if layer < model.cfg.n_layers else None
