"""Tiny GPT-2s for tests, with weights away from their initial values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from algomatch.config.composition import compose
from algomatch.config.schema import Config
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.outputs import Categorical
from algomatch.data.tasks import make_task
from algomatch.models.shapes import learned_shape
from algomatch.models.training import fit

INDUCTION = (
    "task=induction", "task.vocabulary=[a,b,c]", "task.max_length=4", "task.held_out=0",
    "analysis.bootstrap=100", "analysis.match_cases=300",
)  # fmt: skip
ARCHITECTURE = (
    "model=2L", "model.d_model=16", "model.n_heads=2", "model.act_fn=gelu_new",
    "trainer.max_steps=300", "trainer.batch_size=120", "trainer.learning_rate=0.01",
)  # fmt: skip
SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 16, "n_positions": 8, "vocab_size": 11}


def make_gpt2(**changes: Any) -> Any:
    """The model of `transformers`."""
    config = GPT2Config(**{**SIZES, "bos_token_id": 0, "eos_token_id": 0, **changes})
    return trained_looking(GPT2LMHeadModel(config))


def saved_gpt2(folder: Path, **changes: Any) -> Any:
    """The model of `transformers`, saved in a folder."""
    model = make_gpt2(**changes)
    model.save_pretrained(folder)
    return model


def trained_looking(model: Any, seed: int = 5) -> Any:
    """A model with every weight changed from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.eval().requires_grad_(False).parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


def padded_tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and key mask of inputs of several lengths."""
    tokens = torch.randint(0, 11, (6, 7), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([7, 7, 7, 5, 3, 1])
    return tokens, torch.arange(7) < lengths[:, None]


def copied_gpt2(
    folder: Path, shape: Any, weights: Mapping[str, Tensor], ids: Sequence[int], out: Sequence[int]
) -> None:
    """Save a causal NativeModel as an equivalent GPT-2 with its own vocabulary.

    `ids` are the new ids of the tokens, `out` those of the classes. Other ids are arbitrary.
    """
    size = 2 * len(ids) + 7
    config = GPT2Config(
        n_layer=shape.n_layers, n_head=shape.n_heads, n_embd=shape.d_model, n_inner=shape.d_mlp,
        n_positions=shape.n_ctx, vocab_size=size, activation_function=shape.act_fn,
        layer_norm_epsilon=shape.eps, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = trained_looking(GPT2LMHeadModel(config))
    body, given, new = model.transformer, weights, dict[str, Tensor]()
    embedding, head = body.wte.weight.clone(), model.lm_head.weight.clone()
    embedding[list(ids)] = given["tok_embed.weight"]
    head[list(out)] = given["head.weight"]
    new["wte.weight"], new["wpe.weight"] = embedding, given["pos.weight"]
    for layer in range(shape.n_layers):
        old, own = f"layers.{layer}", f"h.{layer}"
        for kind in ("weight", "bias"):
            sides = [given[f"{old}.attn.{side}.{kind}"] for side in "qkv"]
            parts = {
                "attn.c_attn": torch.cat(sides),
                "attn.c_proj": given[f"{old}.attn.o.{kind}"],
                "mlp.c_fc": given[f"{old}.mlp.fc_in.{kind}"],
                "mlp.c_proj": given[f"{old}.mlp.fc_out.{kind}"],
            }
            for name, value in parts.items():  # a GPT-2's matrices are transposed
                new[f"{own}.{name}.{kind}"] = value.T if value.dim() == 2 else value
            for norm in ("1", "2"):
                new[f"{own}.ln_{norm}.{kind}"] = given[f"{old}.ln{norm}.{kind}"]
    for kind in ("weight", "bias"):
        new[f"ln_f.{kind}"] = given[f"ln_out.{kind}"]
    body.load_state_dict({name: value.contiguous() for name, value in new.items()}, strict=True)
    model.lm_head.weight.copy_(head)
    model.save_pretrained(folder)


@cache
def induction() -> tuple[Config, InputSet, Any, dict[str, Tensor]]:
    """A tiny causal task, a shape that a GPT-2 can have, and a trained NativeModel of it."""
    config = compose([*INDUCTION, *ARCHITECTURE])
    inputs = input_set(make_task(config.task), config.task)
    shape = learned_shape(config.model, inputs, 0)
    weights, exact, _ = fit(inputs, shape, config.trainer, 0)
    assert exact == 1
    return config, inputs, shape, weights


def copied_induction(folder: Path) -> None:
    """Save the trained model as a GPT-2 that reads the ids of `encode` below."""
    _, inputs, shape, weights = induction()
    ids = {"BOS": 5, "PAD": 8, **{token: OTHER_IDS[token] for token in OTHER_IDS}}
    tokens = [ids[str(token)] for token, _ in sorted(inputs.token_ids.items(), key=lambda i: i[1])]
    assert isinstance(inputs.output, Categorical)
    classes = [OTHER_IDS[value] for value in inputs.output.values]
    copied_gpt2(folder, shape, weights, tokens, classes)


OTHER_IDS = {"a": 11, "b": 2, "c": 7}


def encode(tokens: list[str]) -> list[int]:
    """Return the ids that the copy reads."""
    return [5, *(OTHER_IDS[token] for token in tokens)]
