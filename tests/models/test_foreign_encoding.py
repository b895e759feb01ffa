"""A task's inputs in another model's tokens: how an encoder is used, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import saved_gpt2
from support.models import varied

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.matching.program_ranking import candidate, standing
from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.tasks import make_task
from algomatch.infra.errors import UserError
from algomatch.models.bridges import make_bridge, plain_model
from algomatch.models.foreign import load_gpt2
from algomatch.models.foreign_encoding import encoded_task_model
from algomatch.models.task_model import task_model_of

IDS = {"a": 7, "b": 3, "c": 10}


def encode(tokens: list[Any]) -> list[int]:
    """Return a prefix of three ids, and the ids of the tokens."""
    return [9, 1, 0, *(IDS[token] for token in tokens)]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("gpt2")
    saved_gpt2(folder)
    return load_gpt2(folder)


def test_a_model_reads_what_the_encoder_says(gpt2: Any, small: MeasurementContext) -> None:
    inputs = small.inputs
    task_model = encoded_task_model(gpt2, inputs, encode)
    assert task_model.lead == 2
    assert task_model.classes is not None
    assert task_model.classes.tolist() == [IDS[value] for value in inputs.output.values]  # type: ignore[union-attr]
    own = task_model.logits()
    assert own.shape == (len(inputs), 5, 3)
    for row in range(0, len(inputs), 17):
        ids = encode(inputs.listed(row))
        assert task_model.tokens[row][task_model.key_mask[row]].tolist() == ids
        assert task_model.key_mask[row].tolist() == [True] * len(ids) + [False] * (7 - len(ids))
        alone = gpt2(torch.tensor([ids]))[0, 2:, task_model.classes]
        torch.testing.assert_close(own[row, : len(alone)], alone, atol=1e-5, rtol=0)


def test_ids_may_be_tensors_and_outputs_read_anywhere(gpt2: Any, small: MeasurementContext) -> None:
    places = {"c": 0, "a": 4, "b": 2}
    as_tensor: Any = lambda tokens: torch.tensor(encode(tokens))  # noqa: E731
    task_model = encoded_task_model(gpt2, small.inputs, as_tensor, lambda token: places[token])
    assert task_model.classes is not None
    assert task_model.classes.tolist() == [4, 2, 0]
    assert torch.equal(task_model.tokens, encoded_task_model(gpt2, small.inputs, encode).tokens)


def prefixed(context: MeasurementContext) -> tuple[Any, Callable[[list[Any]], list[int]]]:
    """The reference, with two empty tokens and positions before BOS.

    Nothing attends to them: the keys of an empty residual are zero.
    """
    bridge, ids = context.reference.bridge, context.inputs.token_ids
    shape = varied(bridge.cfg, n_ctx=bridge.cfg.n_ctx + 2, d_vocab=bridge.cfg.d_vocab + 2)
    shape.d_model = bridge.cfg.d_model
    weights = dict(plain_model(bridge).state_dict())
    for name in ("tok_embed.weight", "pos.weight"):
        weights[name] = torch.cat([torch.zeros(2, shape.d_model), weights[name]])
    bos = ids["BOS"] + 2
    return make_bridge(shape, weights), lambda xs: [0, 1, bos, *(ids[x] + 2 for x in xs)]


@pytest.mark.slow
def test_behind_a_prefix_a_reference_passes_all_tests_that_it_passes_without(
    small: MeasurementContext,
) -> None:
    bridge, read_as = prefixed(small)
    values = list(small.inputs.output.values)  # type: ignore[union-attr]
    task_model = encoded_task_model(bridge, small.inputs, read_as, values.index)
    own = task_model_of(small.reference.bridge, small.inputs)
    torch.testing.assert_close(
        task_model.logits()[small.inputs.defined], own.logits()[small.inputs.defined]
    )
    program = candidate("reverse", small.inputs, small.reference, small.config)
    judged, expected = (standing(which, program, small.config) for which in (task_model, own))
    assert judged.score == expected.score
    assert judged.score is not None
    assert judged.score[0] == 1
    for ours, theirs in zip(
        [*judged.matches, *judged.sides], [*expected.matches, *expected.sides], strict=True
    ):
        for score, same in zip(ours.scores, theirs.scores, strict=True):
            assert torch.equal(score.right, same.right), (ours.site, ours.cut.name, score.test)


def refused(bridge: Any, inputs: InputSet, *given: Any) -> str:
    with pytest.raises(UserError) as caught:
        encoded_task_model(bridge, inputs, *given)
    message = str(caught.value)
    assert "\n" not in message
    return message


def without_prefix(tokens: list[Any]) -> list[int]:
    return [IDS[token] for token in tokens]


def raising(tokens: list[Any]) -> list[int]:
    return [IDS[token + "!"] for token in tokens]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (without_prefix, "the encoder returned [7] for ['a']: there must be a prefix of at least"),
        (
            lambda xs: encode(xs)[:4],
            "the encoder returned [9, 1, 0, 7] for ['a'], but [9, 1, 0, 7] for ['a', 'a']: after a",
        ),
        (
            lambda xs: [0, *(IDS[x] for x in xs for _ in "12")],
            "the encoder returned [0, 7, 7] for ['a'], but [0, 7, 7, 7, 7] for ['a', 'a']: after",
        ),
        (
            lambda xs: [len(xs), *without_prefix(xs)],
            "the encoder's prefix is [1] before ['a'], but [2] before ['a', 'a']: it must always",
        ),
        (
            lambda xs: [0, *(IDS[x] + i % 2 for i, x in enumerate(xs))],
            "the encoder gives 'a' the id 7, but 8 in ['a', 'a']: a token must have the same id",
        ),
        (
            lambda xs: [0, *(min(IDS[x], 7) for x in xs)],
            "the encoder gives 'a' and 'c' the same id 7: different tokens need different ids",
        ),
        (lambda xs: [11, *without_prefix(xs)], "11 is not an id of the model's embedding, 0"),
        (lambda xs: [0, *(-IDS[x] for x in xs)], "-7 is not an id of the model's embedding"),
        (lambda xs: [0, 0, *encode(xs)], "the model reads at most 8 tokens, but a prefix of 5 and"),
        (lambda xs: [*range(8), *encode(xs)], "make 15: shorten the prefix"),
        (lambda xs: "0123", "the encoder must return a list of ids, whole numbers: for ['a'] it"),
        (lambda xs: [0.5], "for ['a'] it returned list [0.5]"),
        (lambda xs: torch.tensor([encode(xs)]), "it returned Tensor tensor([[9, 1, 0, 7]])"),
        (lambda xs: None, "for ['a'] it returned NoneType None"),
        (raising, "the encoder raises on ['a'] (line "),
    ],
)
def test_an_encoder_that_is_none_is_refused(
    given: Any, message: str, gpt2: Any, small: MeasurementContext
) -> None:
    assert message in refused(gpt2, small.inputs, given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda value: 3, "the reader gives 'a' and 'b' the same id 3: different outputs need"),
        (lambda value: 11, "the output 'a' is read at the id 11, which is not one of the"),
        (lambda value: -1, "the output 'a' is read at the id -1, which is not one of the"),
        (
            lambda value: "x",
            "the reader must return an id, a whole number: for 'a' it returned str",
        ),
        (lambda value: IDS[value * 2], "the reader raises on 'a' (line "),
    ],
)
def test_a_reader_that_is_none_is_refused(
    given: Any, message: str, gpt2: Any, small: MeasurementContext
) -> None:
    assert message in refused(gpt2, small.inputs, encode, given)


def inputs_of(**given: Any) -> InputSet:
    config = TaskConfig(**given)
    return input_set(make_task(config), config)


def test_outputs_that_are_no_tokens_need_a_reader(gpt2: Any) -> None:
    inputs = inputs_of(name="hist", vocabulary=["a", "b", "c"], max_length=3)
    message = "the output 1 is not a token of the task, so no logit is known for it: give a reader"
    assert message in refused(gpt2, inputs, encode)
    task_model = encoded_task_model(gpt2, inputs, encode, int)
    assert task_model.classes is not None
    assert task_model.classes.tolist() == [1, 2, 3]


def test_true_is_not_the_token_1(gpt2: Any) -> None:
    inputs = inputs_of(name="first_occurrence", vocabulary=[0, 1], max_length=3)
    assert "the output False is not a token" in refused(gpt2, inputs, lambda xs: [9, *xs])


def test_numbers_are_refused(gpt2: Any) -> None:
    inputs = inputs_of(name="frac_prevs", vocabulary=["a", "b", "c"], max_length=3)
    assert refused(gpt2, inputs, encode).startswith(
        "the outputs of task 'frac_prevs' are numbers: a"
    )


def test_a_model_in_training_is_refused(small: MeasurementContext, tmp_path: Path) -> None:
    saved_gpt2(tmp_path)
    bridge = load_gpt2(tmp_path)
    bridge.train()
    assert "call its eval()" in refused(bridge, small.inputs, encode)
    bridge.eval()
    encoded_task_model(bridge, small.inputs, encode)


def test_a_model_without_the_hooks_is_refused(
    gpt2: Any, small: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def but(left_out: str) -> dict[str, Any]:
        return {name: hook for name, hook in hooks.items() if name != left_out}

    hooks = dict(gpt2.hook_dict)
    for site in ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"):
        monkeypatch.setattr(type(gpt2), "hook_dict", but(site))
        assert f"does not expose its residual stream at {site}" in refused(
            gpt2, small.inputs, encode
        )


def test_a_model_without_a_token_embedding_is_refused(
    small: MeasurementContext, tmp_path: Path
) -> None:
    saved_gpt2(tmp_path)
    bridge = load_gpt2(tmp_path)
    del bridge.embed
    assert refused(bridge, small.inputs, encode).startswith("the model has no token embedding")
