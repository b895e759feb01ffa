"""Models from a user's own folder: a GPT-2 in the format of transformers, read offline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module

from ..infra.errors import UserError, first_line, one_of
from ..infra.files import faults_named

CONFIG, WEIGHTS = "config.json", "model.safetensors"
REQUIRED = {"scale_attn_weights": True, "add_cross_attention": False}  # TransformerLens's limits
IGNORED = {  # settings that do not affect the logits, but cost time, a warning or an error
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "attn_implementation": None,
    "_attn_implementation": None,
    "use_cache": False,
}
CAUSAL_MASKS = (".attn.bias", ".attn.masked_bias")  # stored beside the weights by older versions
LM_HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"


def load_gpt2(folder: Path, device: str = "cpu") -> TransformerBridge:
    """Return a bridge for measuring around a folder's GPT-2: float32, without gradients.

    Only `config.json` and `model.safetensors` are read.

    Raises:
        UserError: they are not there, are not a GPT-2's, or do not fit each other.
        FaultError: the file system failed.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"model folder '{folder}' {kind}; give a folder with {CONFIG} and {WEIGHTS}"
        )
    model = _model(_config(folder / CONFIG), folder / CONFIG, "meta")
    weights = _weights(folder / WEIGHTS, model)
    model.load_state_dict(weights, strict=True, assign=True)
    return _bridge(model, folder.name, device)


def random_gpt2(folder: Path, seed: int, device: str = "cpu") -> TransformerBridge:
    """Return an untrained GPT-2 of a folder's shape, as transformers initialises it.

    Raises:
        UserError: the folder's config is not a GPT-2's.
        FaultError: the file system failed.
    """
    config = _config(folder / CONFIG)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _bridge(_model(config, folder / CONFIG, "cpu"), folder.name, device)


def _bridge(model: Any, name: str, device: str) -> TransformerBridge:
    model.tie_weights()
    with torch.random.fork_rng(devices=[]):  # it draws weights that are then replaced
        bridge = build_bridge_from_module(
            model.eval().to(device),
            architecture="GPT2LMHeadModel",
            hf_config=model.config,
            tokenizer=None,
            dtype=torch.float32,
            device=device,
            model_name=name,
        )
    bridge.original_model.requires_grad_(False)
    return bridge


def _config(path: Path) -> dict[str, Any]:
    """Return the values of a GPT-2's config."""
    if not path.is_file():
        raise UserError(f"'{path.parent}' has no {CONFIG}: save the model with `save_pretrained`")
    with faults_named(f"read '{path}'"):
        content = path.read_bytes()
    try:
        values = json.loads(content)
    except ValueError as error:
        raise UserError(f"'{path}' is not JSON: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}' must hold an object with keys, not {type(values).__name__}")
    kind = values.get("model_type")
    if kind != "gpt2":
        raise UserError(f"'{path}': model_type is {kind!r}: {one_of(kind, ['gpt2'])}")
    for key, required in REQUIRED.items():
        if values.get(key, required) is not required:
            raise UserError(f"'{path}': {key} is {values[key]!r}; only {required} can be analysed")
    return values


def _model(values: Mapping[str, Any], path: Path, device: str) -> Any:
    """Return the initialised GPT-2 that a config describes; on `meta`, only its shapes."""
    from transformers import GPT2Config, GPT2LMHeadModel  # slow to import

    try:
        config = GPT2Config(**{**values, **IGNORED})
        with torch.device(device):
            return GPT2LMHeadModel(config)
    except Exception as error:  # transformers raises many kinds of error for a wrong value
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"'{path}' does not describe a GPT-2: {reason}") from error


def _weights(path: Path, model: Any) -> dict[str, Tensor]:
    """Return the weights of a file, under the model's names."""
    if not path.is_file():
        raise UserError(
            f"'{path.parent}' has no {WEIGHTS}: weights in other files are not read, and pickled "
            "ones (pytorch_model.bin) are refused; save the whole model with `save_pretrained`"
        )
    try:
        with faults_named(f"read '{path}'"):
            stored = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"'{path}' is not a whole safetensors file (truncated, or of another kind): {error}"
        ) from error
    weights = {
        _full_name(name): value.float()
        for name, value in stored.items()
        if not name.endswith(CAUSAL_MASKS)
    }
    if model.config.tie_word_embeddings and EMBEDDING in weights:
        weights.setdefault(LM_HEAD, weights[EMBEDDING])
    problems = _misfits(model, weights)
    if problems:
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise UserError(f"'{path}' does not fit {CONFIG}: {problems[0]}{more}")
    return weights


def _full_name(name: str) -> str:
    """Return a weight's name in a model with a head; models without a head omit the prefix."""
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def _misfits(model: Any, weights: Mapping[str, Tensor]) -> list[str]:
    """Return the reasons why weights do not fit a model."""
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    given = {name: list(value.shape) for name, value in weights.items()}
    misfits = [f"'{name}' is missing" for name in expected if name not in given]
    misfits += [f"the model has no '{name}'" for name in given if name not in expected]
    misfits += [
        f"'{name}' is {given[name]}, not {shape}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    tied = model.config.tie_word_embeddings
    if tied and not misfits and not torch.equal(weights[LM_HEAD], weights[EMBEDDING]):
        misfits.append(f"'{LM_HEAD}' is not '{EMBEDDING}', though tie_word_embeddings is true")
    return misfits
