"""Models whose answer is known: what a measure must be compared with to mean anything."""

from __future__ import annotations

import copy

from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ..models.bridges import make_bridge

# Far from the seeds people give their runs, so that no control is the run's own start.
RANDOM_INIT_SEEDS = 1_000_000


def random_inits(
    shape: TransformerBridgeConfig, count: int, seed: int, device: str
) -> list[TransformerBridge]:
    """Return untrained models of a learned model's shape: the negative control of similarity."""
    bridges = []
    for i in range(count):
        one = copy.copy(shape)  # dataclasses.replace would lose attention_dir
        one.seed = (RANDOM_INIT_SEEDS * (seed + 1) + i) % 2**63
        bridges.append(make_bridge(one, device=device))
    return bridges
