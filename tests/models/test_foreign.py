"""A GPT-2 from a folder: it equals the model of `transformers`, and bad folders are refused."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.gpt2 import make_gpt2, padded_tokens, saved_gpt2
from torch import Tensor

from algomatch.infra.errors import UserError
from algomatch.models.foreign import load_gpt2

WTE, FC = "transformer.wte.weight", "transformer.h.1.mlp.c_fc.weight"


def given_by(model: Any) -> tuple[Tensor, Tensor]:
    """A model's outputs on inputs of several lengths, and the key mask."""
    tokens, key_mask = padded_tokens()
    with torch.inference_mode():
        given = model(tokens, attention_mask=key_mask)
    return getattr(given, "logits", given), key_mask


def assert_same(folder: Path, model: Any) -> Any:
    """Check that the folder's bridge gives the outputs of the model of `transformers`."""
    expected, key_mask = given_by(model)
    bridge = load_gpt2(folder)
    given, _ = given_by(bridge)
    torch.testing.assert_close(given[key_mask], expected[key_mask], atol=1e-5, rtol=0)
    return bridge


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_layer": 1, "n_head": 1},
        {"n_inner": 24, "activation_function": "relu"},
        {"layer_norm_epsilon": 0.01},
        {"scale_attn_by_inverse_layer_idx": True},
        {"reorder_and_upcast_attn": True},
        {"tie_word_embeddings": False},
        {"attn_pdrop": 0.9, "resid_pdrop": 0.9, "embd_pdrop": 0.9},
    ],
    ids=str,
)
def test_it_is_the_model_that_transformers_has(tmp_path: Path, changes: dict[str, Any]) -> None:
    bridge = assert_same(tmp_path, saved_gpt2(tmp_path, **changes))
    cfg = bridge.cfg
    assert (cfg.d_model, cfg.n_ctx, cfg.d_vocab, cfg.d_vocab_out) == (16, 8, 11, 11)
    assert (cfg.n_layers, cfg.n_heads) == (changes.get("n_layer", 2), changes.get("n_head", 4))
    assert (cfg.d_mlp, cfg.attention_dir) == (changes.get("n_inner", 64), "causal")


def test_padding_makes_no_difference(tmp_path: Path) -> None:
    saved_gpt2(tmp_path)
    bridge, (tokens, key_mask) = load_gpt2(tmp_path), padded_tokens()
    given, _ = given_by(bridge)
    for row, length in enumerate(key_mask.sum(1).tolist()):
        alone = bridge(tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(given[row, :length], alone, atol=1e-5, rtol=0)


def test_it_is_for_measuring(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved_gpt2(tmp_path)
    edit_config(tmp_path, bos_token_id=50256, eos_token_id=50256, attn_implementation="nonsense")
    capfd.readouterr()
    before = torch.random.get_rng_state()
    bridge = load_gpt2(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.random.get_rng_state(), before)
    parameters = dict(bridge.original_model.named_parameters())
    assert parameters
    assert not any(value.requires_grad for value in parameters.values())
    assert {value.dtype for value in parameters.values()} == {bridge.cfg.dtype} == {torch.float32}
    assert not bridge.training
    assert not any(module.training for module in bridge.original_model.modules())
    assert bridge.cfg.device == "cpu"
    assert bridge.cfg.model_name == tmp_path.name


def test_it_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network is used")

    saved_gpt2(tmp_path)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_gpt2(tmp_path)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    model = saved_gpt2(tmp_path)
    model.half().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    assert_same(tmp_path, model.float())


def test_weights_saved_without_a_head_and_with_causal_masks_are_read(tmp_path: Path) -> None:
    model = make_gpt2()
    model.transformer.save_pretrained(tmp_path)  # as in OpenAI's files: without `transformer.`

    def with_masks(weights: dict[str, Tensor]) -> None:
        assert "wte.weight" in weights
        weights["h.0.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
        weights["h.0.attn.masked_bias"] = torch.tensor(-1e4)

    edit_weights(tmp_path, with_masks)
    assert_same(tmp_path, model)


def test_a_head_stored_beside_the_embedding_it_is_tied_to_is_read(tmp_path: Path) -> None:
    model = saved_gpt2(tmp_path)
    edit_weights(tmp_path, lambda w: w.update({"lm_head.weight": w[WTE].clone()}))
    assert_same(tmp_path, model)


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_gpt2(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder), "DIR")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, kind in (("missing", "does not exist"), ("file", "is a file")):
        assert refused(tmp_path / name) == (
            f"model folder 'DIR' {kind}; give a folder with config.json and model.safetensors"
        )


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == "'DIR' has no config.json: save the model with `save_pretrained`"


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = saved_gpt2(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert refused(tmp_path) == (
        "'DIR' has no model.safetensors: weights in other files are not read, and pickled ones "
        "(pytorch_model.bin) are refused; save the whole model with `save_pretrained`"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "'DIR/config.json' is not JSON: Expecting property name"),
        ("\udcff", "'DIR/config.json' is not JSON: 'utf-8' codec can't decode"),
        ("[1]", "'DIR/config.json' must hold an object with keys, not list"),
        ("{}", "'DIR/config.json': model_type is None: valid: gpt2"),
        ('{"model_type": "bert"}', "'DIR/config.json': model_type is 'bert': valid: gpt2"),
        ('{"model_type": "gpt"}', "model_type is 'gpt': did you mean 'gpt2'? valid: gpt2"),
    ],
)
def test_a_config_that_is_no_gpt2s_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    assert message in refused(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_attn_weights": False}, ": scale_attn_weights is False; only True can be analysed"),
        (
            {"add_cross_attention": True},
            ": add_cross_attention is True; only False can be analysed",
        ),
        ({"n_head": "x"}, " does not describe a GPT-2: .*'n_head' expected int, got str"),
        ({"n_layer": None}, " does not describe a GPT-2: .*'n_layer' expected int, got NoneType"),
        ({"n_head": 3}, " does not describe a GPT-2: .*must be divisible"),
        ({"n_embd": -4}, " does not describe a GPT-2: "),
        ({"n_embd": 0}, " does not describe a GPT-2: "),
        ({"activation_function": "wavy"}, " does not describe a GPT-2: .*wavy"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    saved_gpt2(tmp_path)
    edit_config(tmp_path, **changes)
    assert re.match(f"'DIR/config.json'{message}", refused(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(FC), f"'{FC}' is missing"),
        (lambda w: w.pop(WTE), f"'{WTE}' is missing (and 1 more)"),
        (
            lambda w: w.update({"score.weight": w[WTE] + 0}),
            "the model has no 'transformer.score.weight'",
        ),
        (lambda w: w.update({FC: w[FC].T.contiguous()}), f"'{FC}' is [64, 16], not [16, 64]"),
        (
            lambda w: w.update({"lm_head.weight": w[WTE] + 1}),
            f"'lm_head.weight' is not '{WTE}', though tie_word_embeddings is true",
        ),
    ],
    ids=["missing", "no embedding", "too many", "of another shape", "untied"],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    saved_gpt2(tmp_path)
    edit_weights(tmp_path, change)
    assert refused(tmp_path) == f"'DIR/model.safetensors' does not fit config.json: {message}"


def test_a_config_of_another_size_is_refused(tmp_path: Path) -> None:
    saved_gpt2(tmp_path)
    edit_config(tmp_path, n_layer=3)
    assert refused(tmp_path) == (
        "'DIR/model.safetensors' does not fit config.json: "
        "'transformer.h.2.ln_1.weight' is missing (and 11 more)"
    )
    edit_config(tmp_path, n_layer=2, vocab_size=12)
    assert f"'{WTE}' is [11, 16], not [12, 16] (and 1 more)" in refused(tmp_path)


def test_an_untied_model_without_a_head_is_refused(tmp_path: Path) -> None:
    saved_gpt2(tmp_path)
    edit_config(tmp_path, tie_word_embeddings=False)
    assert refused(tmp_path).endswith("does not fit config.json: 'lm_head.weight' is missing")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    saved_gpt2(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert refused(tmp_path).startswith(
        "'DIR/model.safetensors' is not a whole safetensors file (truncated, or of another kind)"
    )
