"""Learned architectures: ordinary transformers of a configured shape, and random inits of it."""

from __future__ import annotations

import copy

from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ..config.schema import ModelConfig
from ..data.inputs import InputSet
from .bridges import make_bridge

RANDOM_INIT_SEEDS = 1_000_000


def learned_shape(model: ModelConfig, inputs: InputSet, seed: int) -> TransformerBridgeConfig:
    """Return the NativeModel configuration of an architecture for a task's inputs and outputs.

    It gives a logit for each class, or one number where the task's output is numerical. Attention
    is bidirectional unless the task is causal; the seed fixes the initialisation.
    """
    return TransformerBridgeConfig(
        n_layers=model.n_layers,
        d_model=model.d_model,
        d_head=model.head_width,
        n_heads=model.n_heads,
        d_mlp=model.mlp_width,
        act_fn=model.act_fn,
        attn_only=model.attn_only,
        normalization_type=None if model.normalization == "none" else model.normalization,
        attention_dir="causal" if inputs.task.causal else "bidirectional",
        n_ctx=inputs.task.n_ctx,
        d_vocab=len(inputs.token_ids),
        d_vocab_out=inputs.output.width,
        init_mode="gpt2",
        seed=seed,
    )


def init_seed(seed: int, index: int) -> int:
    """Return the seed of one of the random inits that an analysis draws."""
    return (RANDOM_INIT_SEEDS * (seed + 1) + index) % 2**63


def random_inits(
    shape: TransformerBridgeConfig, count: int, seed: int, device: str
) -> list[TransformerBridge]:
    """Return untrained models of a learned model's shape: the negative control of similarity."""
    bridges = []
    for i in range(count):
        cfg = copy.copy(shape)  # dataclasses.replace would lose attention_dir
        cfg.seed = init_seed(seed, i)
        bridges.append(make_bridge(cfg, device=device))
    return bridges
