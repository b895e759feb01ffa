"""The cost of patching every edge, over one hooked forward pass for each. In `make bench`."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from results import PAIRS, Result, show, timed
from rich.console import Console
from torch import Tensor

from algomatch.analysis.circuits.edge_scores import (
    NOTHING,
    AblatedGraph,
    cases_of,
    divergence,
    exact_edges,
)
from algomatch.config.composition import compose
from algomatch.data.donors import bases_of
from algomatch.data.inputs import input_set
from algomatch.data.tasks import make_task
from algomatch.models.reference import build_reference
from algomatch.models.task_model import task_model_of
from algomatch.models.wiring import MLP_IN, OUTPUT, wired

CASES, KIND = 300, "resample_across"


def every_edge() -> Result:
    """Time exact patching of all edges of compiled reverse, over one hooked pass for each edge."""
    config = compose(["task=reverse"])
    inputs = input_set(make_task(config.task), config.task)
    bridge = build_reference(inputs).bridge
    task_model = task_model_of(bridge, inputs)
    wiring = wired(bridge, inputs.tokens[:10], inputs.key_mask[:10])
    cases = cases_of(inputs, task_model, 0, bases_of(inputs, CASES, np.random.default_rng(0)))
    ratios = []
    for _ in range(PAIRS):
        ours, theirs = AblatedGraph(wiring, cases, KIND), AblatedGraph(wiring, cases, KIND)
        quick, slow = timed(partial(exact_edges, ours)), timed(partial(_hooked, bridge, theirs))
        ratios.append(quick / slow)
    if not torch.allclose(exact_edges(ours), _hooked(bridge, theirs), atol=1e-6):
        raise SystemExit("patching and hooks do not give the same values")
    return Result(
        f"exact patching of all {len(wiring.edges)} edges of compiled reverse, {len(cases.inputs)} "
        "inputs, the same values",
        ratios, 0.1, "of a hooked forward pass an edge",
    )  # fmt: skip


@torch.inference_mode()
def _hooked(bridge: Any, ablated: AblatedGraph) -> Tensor:
    """Return the effect of each edge by TransformerLens's hooks. Each block has one head."""
    tokens, mask = ablated.tokens, ablated.key_mask
    intact = bridge(tokens, attention_mask=mask)
    change = ablated.other - ablated.intact.written
    values = []
    for edge in ablated.wiring.edges:
        reader = ablated.wiring.readers[edge.reader]
        if reader.hook == OUTPUT:
            name = "ln_final.hook_in"
        else:
            place = "mlp" if reader.hook == MLP_IN else f"attn.{reader.side}"
            name = f"blocks.{reader.layer}.{place}.hook_in"
        hook = partial(_added, change=change[edge.node])
        logits = bridge.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=[(name, hook)])
        apart = divergence(ablated.inputs.output, logits, intact, ablated.inputs.defined).mean()
        values.append(float(apart) if apart > NOTHING else 0.0)
    return torch.tensor(values, dtype=torch.float64)


def _added(value: Tensor, hook: Any, change: Tensor) -> Tensor:
    return value + change


if __name__ == "__main__":
    sys.exit(show([every_edge()], Console()))
