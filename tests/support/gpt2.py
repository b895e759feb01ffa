"""GPT-2s for tests: tiny, with weights that are not at their start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 16, "n_positions": 8, "vocab_size": 11}


def make_gpt2(**changes: Any) -> Any:
    """Transformers' own model."""
    config = GPT2Config(**{**SIZES, "bos_token_id": 0, "eos_token_id": 0, **changes})
    return trained_looking(GPT2LMHeadModel(config))


def saved_gpt2(folder: Path, **changes: Any) -> Any:
    """Transformers' own model, saved in a folder."""
    model = make_gpt2(**changes)
    model.save_pretrained(folder)
    return model


def trained_looking(model: Any, seed: int = 5) -> Any:
    """A model with every weight moved from its start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.eval().requires_grad_(False).parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


def padded_tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and key mask of inputs of several lengths."""
    tokens = torch.randint(0, 11, (6, 7), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([7, 7, 7, 5, 3, 1])
    return tokens, torch.arange(7) < lengths[:, None]
