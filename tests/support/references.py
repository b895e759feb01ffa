"""Shared by the tests of references: input sets, small programs, outputs of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
import torch
from torch import Tensor
from tracr.compiler import compiling
from tracr.rasp import causal_eval, rasp
from transformer_lens.model_bridge import TransformerBridge

from algomatch.api.train import make_trainer, quiet_lightning
from algomatch.config.schema import TrainerConfig
from algomatch.data.datamodule import TaskDataModule
from algomatch.data.inputs import InputSet, all_inputs, encode, program_outputs, split
from algomatch.data.programs import make_reverse
from algomatch.data.tasks import BOS, PAD, Task
from algomatch.models import reference
from algomatch.models.compiling import Compiled
from algomatch.models.training import AlgorithmicTask
from support.compiles import fast_compiles as fast_compiles

EQ, LEQ, TRUE = rasp.Comparison.EQ, rasp.Comparison.LEQ, rasp.Comparison.TRUE


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALGOMATCH_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile once, at Tracr's default exactness, if higher ones would be as wrong."""
    monkeypatch.setattr(reference, "_exactness_levels", lambda longest: (100,))


def make_inputs(
    task: Task, max_inputs: int = 20_000, held_out: float = 0.0, lengths: Sequence[int] = ()
) -> InputSet:
    raw = all_inputs(task, max_inputs, 0)
    return encode(raw, program_outputs(raw), split(raw, held_out, lengths, 0))


def small_task() -> Task:
    return Task("reverse", make_reverse(), ("p", "q"), 1, 3)


def make_length() -> Any:
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, TRUE)).named("length")


def make_share(token: Any, name: str = "share") -> Any:
    """Return the share of `token` in the list, as a numerical s-op."""
    flag = rasp.numerical(rasp.Map(lambda x: 1.0 if x == token else 0.0, rasp.tokens))
    everywhere = rasp.Select(rasp.tokens, rasp.tokens, TRUE)
    return rasp.numerical(rasp.Aggregate(everywhere, flag, default=0)).named(name)


def corrupted(compiled: Compiled, name: str, change: Callable[[Tensor], Tensor]) -> Compiled:
    weights = {**compiled.weights, name: change(compiled.weights[name]).contiguous()}
    return replace(compiled, weights=weights)


def given_by(bridge: TransformerBridge, inputs: InputSet) -> Tensor:
    with torch.inference_mode():
        given = bridge(inputs.tokens, attention_mask=inputs.key_mask)
    assert isinstance(given, Tensor)
    return given


def decoded(bridge: TransformerBridge, inputs: InputSet) -> list[list[Any]]:
    """Return a bridge's outputs at each list's positions, without BOS and padding."""
    given = given_by(bridge, inputs)
    return [
        inputs.output.decode(row[1 : length + 1])
        for row, length in zip(given, inputs.lengths.tolist(), strict=True)
    ]


def interpreted(task: Task, tokens: Sequence[Any]) -> list[Any]:
    """Return the program's output on one list, by Tracr's evaluator."""
    evaluator = causal_eval.CausalEvaluator if task.causal else rasp.DefaultRASPEvaluator
    return list(evaluator().evaluate(task.program, list(tokens)))


def compile_with_tracr(task: Task, mlp_exactness: int) -> Any:
    """Return Tracr's haiku model of the program as it is written."""
    model = compiling.compile_rasp_to_model(
        task.program,
        vocab=set(task.vocabulary),
        max_seq_len=task.max_length,
        causal=task.causal,
        compiler_bos=BOS,
        compiler_pad=PAD,
        mlp_exactness=mlp_exactness,
    )
    return replace(model, forward=jax.jit(model.forward))  # jitted: ten times as fast


def fit(model: Any, inputs: InputSet, config: TrainerConfig, folder: Path) -> AlgorithmicTask:
    module = AlgorithmicTask(model, inputs.output, config)
    datamodule = TaskDataModule(inputs, config.batch_size, 0, config.max_steps)
    with quiet_lightning():
        trainer = make_trainer(config, [], folder)
        trainer.fit(module, datamodule=datamodule)
    assert trainer.global_step == config.max_steps
    return module
