"""A model on donated residual streams, checked with module hooks instead of continuation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.gpt2 import saved_gpt2
from support.models import SHAPES, rotated, trained_looking, varied
from torch import Tensor

from algomatch.analysis.base import MeasurementContext
from algomatch.data.donors import Donated, anywhere
from algomatch.models import task_model as task_model_module
from algomatch.models.bridges import make_bridge, make_native
from algomatch.models.foreign import load_gpt2
from algomatch.models.foreign_encoding import encoded_task_model
from algomatch.models.task_model import TaskModel, block_after, task_model_of

PREFIXED = "bidirectional, behind a prefix"
KINDS = [*SHAPES, PREFIXED, "rotated reference", "GPT-2"]
IDS = {"a": 7, "b": 3, "c": 10}


@dataclass(frozen=True)
class Case:
    """A task model, and the same model called directly: its logits with modules' outputs replaced.

    `module` is the module that computes one side of a block; `side` puts values into its output.
    """

    task_model: TaskModel
    run: Callable[[Tensor, Tensor], Tensor]
    blocks: Any
    side: Callable[[int, str, Tensor, Tensor], Tensor]
    module: Callable[[int, str], Any]


def read_as(tokens: list[Any]) -> list[int]:
    return [9, 1, 0, *(IDS[token] for token in tokens)]


def made(kind: str, small: MeasurementContext, folder: Path) -> Case:
    """A task model of some kind."""
    if kind == "GPT-2":
        model = saved_gpt2(folder)
        task_model = encoded_task_model(load_gpt2(folder), small.inputs, read_as)
        return Case(
            task_model,
            lambda tokens, mask: model(tokens, attention_mask=mask).logits,
            model.transformer.h,
            _third,
            lambda layer, side: model.transformer.h[layer].attn.c_attn,
        )
    if kind == "rotated reference":
        bridge = rotated(small.reference.bridge, 3)
    else:
        sizes = {"n_ctx": 7, "d_vocab": 11, "d_vocab_out": 11} if kind == PREFIXED else SHAPES[kind]
        shape = varied(small.shape, **sizes)
        bridge = make_bridge(shape, trained_looking(shape))
    task_model = task_model_of(bridge, small.inputs)
    if kind == PREFIXED:
        task_model = encoded_task_model(bridge, small.inputs, read_as)
    native = make_native(bridge.cfg).eval().requires_grad_(False)
    native.load_state_dict(task_model.model.state_dict())
    return Case(
        task_model,
        lambda tokens, mask: native(tokens, attention_mask=mask),
        native.layers,
        lambda layer, side, output, value: value,
        lambda layer, side: getattr(native.layers[layer].attn, side),
    )


def _third(layer: int, side: str, output: Tensor, value: Tensor) -> Tensor:
    """The output of a GPT-2's joint q, k, v projection, with one side's third replaced."""
    parts = list(output.chunk(3, dim=-1))
    parts["qkv".index(side)] = value.flatten(2)
    return torch.cat(parts, dim=-1)


def by_hand(
    case: Case, bases: Tensor, put: Mapping[Any, Callable[[Any], Any]], before: Any = None
) -> Tensor:
    """The logits on the bases' own tokens, with the outputs of modules replaced."""
    with ExitStack() as hooks:
        for module, change in put.items():
            handle = module.register_forward_hook(partial(_changed, change))
            hooks.callback(handle.remove)
        if before is not None:
            handle = case.blocks[0].register_forward_pre_hook(lambda module, args: (before,))
            hooks.callback(handle.remove)
        task_model = case.task_model
        logits = case.run(task_model.tokens[bases], task_model.key_mask[bases])[
            :, task_model.lead :
        ]
    return logits if task_model.classes is None else logits[..., task_model.classes]


def _changed(change: Callable[[Any], Any], module: Any, args: Any, output: Any) -> Any:
    return change(output)


def donated(values: Tensor, cases: Donated, lead: int) -> Tensor:
    """The donated value at each position of each case; before BOS, that of the donor of BOS."""
    replaced = torch.empty(len(cases), *values.shape[1:])
    for case in range(len(cases)):
        for at in range(values.shape[1]):
            own = max(at - lead, 0)
            row, position = int(cases.rows[case, own]), int(cases.positions[case, own])
            replaced[case, at] = values[row, position + lead if at >= lead else at]
    return replaced


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, small: MeasurementContext, tmp_path: Path) -> Case:
    return made(request.param, small, tmp_path)


@pytest.fixture
def cases(small: MeasurementContext) -> Donated:
    some = torch.arange(1, len(small.inputs), 9)
    return anywhere(small.inputs, some, np.random.default_rng(4))


def close(given: Tensor, expected: Tensor, mask: Tensor) -> None:
    torch.testing.assert_close(given[mask], expected[mask], atol=1e-4, rtol=1e-4)


def test_its_logits_are_the_models(case: Case, small: MeasurementContext) -> None:
    every = torch.arange(len(small.inputs))
    close(case.task_model.logits(), by_hand(case, every, {}), small.inputs.key_mask)


def test_donated_residuals_give_what_hooks_give(
    case: Case, small: MeasurementContext, cases: Donated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_model_module, "AT_ONCE", 5)
    mask, task_model = small.inputs.key_mask[cases.bases], case.task_model
    own = by_hand(case, cases.bases, {})
    assert len(task_model.sites) == task_model.model.cfg.n_layers + 1
    for site, residual in task_model.recorded(task_model.sites):
        put = donated(residual, cases, task_model.lead)
        if site == "blocks.0.hook_resid_pre":
            expected = by_hand(case, cases.bases, {}, before=put)
        else:
            block = case.blocks[int(site.split(".")[1])]
            expected = by_hand(case, cases.bases, {block: partial(_in_place_of, put)})
        close(task_model.donated_logits(site, residual, cases), expected, mask)
        assert (expected - own)[mask].abs().max() > 0.01


def _in_place_of(put: Tensor, output: Any) -> Any:
    return (put, *output[1:]) if isinstance(output, tuple) else put


@pytest.mark.parametrize("sides", ["q", "k", "v", "qkv", "qk"])
def test_donated_sides_give_what_hooks_give(
    case: Case, small: MeasurementContext, cases: Donated, sides: str
) -> None:
    mask, task_model = small.inputs.key_mask[cases.bases], case.task_model
    own, moved = by_hand(case, cases.bases, {}), 0.0
    for site, residual in task_model.recorded(task_model.sites):
        layer = block_after(site, task_model.model)
        if layer is None:
            continue
        read = task_model.attention_inputs(layer)
        some = {side: read[side] for side in sides}
        put: dict[Any, Callable[[Any], Any]] = {}
        for side, values in some.items():
            value, module = donated(values, cases, task_model.lead), case.module(layer, side)
            change = partial(_replaced, case, layer, side, value)
            put[module] = _both(put[module], change) if module in put else change
        expected = by_hand(case, cases.bases, put)
        given = task_model.donated_sides_logits(site, residual, some, cases)
        close(given, expected, mask)
        moved = max(moved, float((expected - own)[mask].abs().max()))
    assert moved > 0.005


def _replaced(case: Case, layer: int, side: str, value: Tensor, output: Tensor) -> Tensor:
    return case.side(layer, side, output, value)


def _both(first: Callable[[Any], Any], other: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda output: other(first(output))


def test_ones_own_residuals_and_sides_change_nothing(case: Case, small: MeasurementContext) -> None:
    inputs, task_model = small.inputs, case.task_model
    every = torch.arange(len(inputs))
    places = torch.arange(inputs.tokens.shape[1]).expand(len(inputs), -1)
    itself = Donated(every, every[:, None].expand(places.shape).clone(), places.clone())
    logits = task_model.logits()
    for site, residual in task_model.recorded(task_model.sites):
        close(task_model.donated_logits(site, residual, itself), logits, inputs.key_mask)
        layer = block_after(site, task_model.model)
        if layer is not None:
            read = task_model.attention_inputs(layer)
            close(
                task_model.donated_sides_logits(site, residual, read, itself),
                logits,
                inputs.key_mask,
            )


def test_large_recordings_are_made_one_by_one(
    small: MeasurementContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task_model = made("2L with LN", small, tmp_path).task_model
    whole = dict(task_model.recorded(task_model.sites))
    monkeypatch.setattr(task_model_module, "HELD_BYTES", 1)
    monkeypatch.setattr(task_model_module, "AT_ONCE", 7)
    parts = dict(task_model.recorded(task_model.sites))
    assert list(parts) == list(whole) == task_model.sites
    for site, residual in parts.items():
        torch.testing.assert_close(residual, whole[site], atol=1e-5, rtol=0)
        assert residual.device.type == "cpu"


def test_cases_of_an_input_do_not_depend_on_the_others(
    small: MeasurementContext, tmp_path: Path, cases: Donated
) -> None:
    task_model = made("GPT-2", small, tmp_path).task_model
    site = task_model.sites[1]
    ((_, residual),) = task_model.recorded([site])
    whole = task_model.donated_logits(site, residual, cases)
    for at in range(len(cases)):
        alone = task_model.donated_logits(site, residual, cases.at(torch.tensor([at])))
        mask = small.inputs.key_mask[cases.bases[at]]
        close(alone[0], whole[at], mask)


def test_the_logits_that_are_read_are_those_of_the_classes(
    small: MeasurementContext, tmp_path: Path
) -> None:
    task_model = made("2L with LN", small, tmp_path).task_model
    some = replace(task_model, classes=torch.tensor([2, 0]))
    assert torch.equal(some.logits(), task_model.logits()[..., [2, 0]])
