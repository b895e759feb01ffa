"""The learned architectures: ordinary transformers of a configured shape."""

from __future__ import annotations

from transformer_lens.config import TransformerBridgeConfig

from ..config.schema import ModelConfig
from ..data.inputs import InputSet


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
