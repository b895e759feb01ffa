"""The reference: Tracr's own residuals, proven against the interpreter, cached and not trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor
from tracr.compiler import compiling
from tracr.rasp import rasp
from transformer_lens.model_bridge import TransformerBridge

from algomatch.config import TaskConfig
from algomatch.data.inputs import (
    IGNORE,
    Encoding,
    InputSet,
    all_inputs,
    encode,
    program_outputs,
    split,
)
from algomatch.data.programs import Value, make_reverse
from algomatch.data.tasks import BOS, PAD, REGISTRY, Task, make_task
from algomatch.errors import UserError
from algomatch.models import reference
from algomatch.models.reference import (
    Compiled,
    Reference,
    build_reference,
    compile_program,
    counterexamples,
)

EQ, LEQ, TRUE = rasp.Comparison.EQ, rasp.Comparison.LEQ, rasp.Comparison.TRUE


def encoder(task: Task, max_inputs: int = 20_000) -> Callable[[Encoding], InputSet]:
    raw = all_inputs(task, max_inputs, 0)
    traces, held_out = program_outputs(raw), split(raw, 0.0, [], 0)
    return lambda encoding: encode(raw, traces, encoding, held_out)


def build(task: Task, max_inputs: int = 20_000) -> Reference:
    return build_reference(task, encoder(task, max_inputs))


def make_length() -> Any:
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, TRUE)).named("length")


def make_odd() -> Any:
    """Return each odd token: causal, since a position counts only those up to itself."""
    rank = rasp.SelectorWidth(rasp.Select(rasp.indices, rasp.indices, LEQ)).named("rank")
    return rasp.SequenceMap(lambda n, t: t if n % 2 else "even", rank, rasp.tokens).named("odd")


def make_previous() -> Any:
    before = rasp.Select(rasp.indices, rasp.indices - 1, EQ)
    return rasp.Aggregate(before, rasp.tokens).named("previous")


def make_mean() -> Any:
    """Return the mean of the tokens so far; Tracr foresees no value between tokens."""
    before = rasp.Select(rasp.indices, rasp.indices, LEQ)
    return rasp.Aggregate(before, rasp.tokens).named("mean")


def make_fraction() -> Any:
    """Return the share of `a`; of all fractions, Tracr foresees only those of 1."""
    is_a = rasp.numerical(rasp.Map(lambda x: int(x == "a"), rasp.tokens))
    everywhere = rasp.Select(rasp.tokens, rasp.tokens, TRUE)
    share = rasp.numerical(rasp.Aggregate(everywhere, is_a, default=0).named("share"))
    return rasp.Map(lambda x: round(x, 3), share).named("fraction")


def small_task() -> Task:
    return Task("reverse", make_reverse(), ("p", "q"), 1, 3)


@dataclass(frozen=True)
class Case:
    """A registry task with its reference, its inputs, and Tracr's own haiku model.

    `outputs` holds what that model gives on all inputs of a length, without any padding.
    """

    reference: Reference
    inputs: InputSet
    haiku: Any
    outputs: dict[int, Any]


@pytest.fixture(scope="module", params=list(REGISTRY))
def case(request: pytest.FixtureRequest) -> Case:
    task = make_task(TaskConfig(name=request.param))
    encoded = encoder(task, 2_000)
    reference = build_reference(task, encoded)
    haiku = compiling.compile_rasp_to_model(
        task.program,
        vocab=set(task.vocabulary),
        max_seq_len=task.max_length,
        causal=task.causal,
        compiler_bos=BOS,
        compiler_pad=PAD,
        mlp_exactness=reference.mlp_exactness,
    )
    inputs = encoded(reference.encoding)
    forward, outputs = jax.jit(haiku.forward), {}  # compiled at once: ten times as fast
    for length in task.lengths:
        tokens = inputs.tokens[inputs.lengths == length, : length + 1]
        outputs[length] = forward(haiku.params, jnp.array(tokens.numpy()))
    return Case(reference, inputs, haiku, outputs)


def run_bridge(bridge: TransformerBridge, inputs: InputSet) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.inference_mode():
        logits, cache = bridge.run_with_cache(inputs.tokens, attention_mask=inputs.key_mask)
    return logits, dict(cache)


def test_a_registry_tasks_reference_is_proven_on_every_input(case: Case) -> None:
    reference, inputs = case.reference, case.inputs
    assert reference.n_validated == len(inputs)
    assert counterexamples(reference.bridge, inputs, reference.encoding) == []
    assert reference.residual_labels == tuple(case.haiku.residual_labels)
    assert len(reference.residual_labels) == reference.bridge.cfg.d_model
    assert dict(reference.encoding.inputs) == case.haiku.input_encoder.encoding_map
    classes = {value: i for i, value in enumerate(reference.encoding.outputs)}
    assert classes == case.haiku.output_encoder.encoding_map
    assert inputs.defined.any(1).all(), "an input without any defined position proves nothing"
    assert int(inputs.targets.max()) < reference.encoding.n_classes


def test_the_bridge_has_haikus_residuals_after_every_sublayer(case: Case) -> None:
    _, cache = run_bridge(case.reference.bridge, case.inputs)
    layers = range(case.reference.bridge.cfg.n_layers)
    names = [f"blocks.{n}.hook_resid_{place}" for n in layers for place in ("mid", "post")]
    for length, output in case.outputs.items():
        rows, end = case.inputs.lengths == length, length + 1
        residuals = output.transformer_output.residuals
        assert len(residuals) == len(names)
        for name, wanted in zip(names, residuals, strict=True):
            np.testing.assert_allclose(
                cache[name][rows, :end].numpy(), np.asarray(wanted), rtol=0, atol=1e-6, err_msg=name
            )


def test_the_bridge_decodes_to_what_haiku_decodes(case: Case) -> None:
    logits, _ = run_bridge(case.reference.bridge, case.inputs)
    decode = case.haiku.output_encoder.decode
    for length, output in case.outputs.items():
        rows, end = case.inputs.lengths == length, length + 1
        defined = case.inputs.defined[rows, :end]
        got = logits.argmax(-1)[rows, :end][defined].tolist()
        wanted = torch.from_numpy(np.array(output.unembedded_output))[defined].tolist()
        assert [case.reference.encoding.outputs[i] for i in got] == decode(wanted)


@pytest.fixture(scope="module")
def small_compiled() -> Compiled:
    return compile_program(small_task(), 100)


def corrupted(compiled: Compiled, name: str, change: Callable[[Tensor], Tensor]) -> Compiled:
    return replace(compiled, weights={**compiled.weights, name: change(compiled.weights[name])})


def test_a_wrong_weight_gives_counterexamples_that_show_input_and_outputs(
    small_compiled: Compiled,
) -> None:
    inputs = encoder(small_task())(small_compiled.encoding)
    assert counterexamples(small_compiled.bridge(), inputs, small_compiled.encoding) == []
    swapped = corrupted(small_compiled, "head.weight", lambda weight: weight.flip(0))
    found = counterexamples(swapped.bridge(), inputs, small_compiled.encoding)
    assert len(found) == len(inputs) == 14
    assert found[0] == "['p'] gives ['q'], the program ['p']"
    assert "['p', 'q', 'q'] gives ['p', 'p', 'q'], the program ['q', 'q', 'p']" in found
    assert found == counterexamples(swapped.bridge(), inputs, small_compiled.encoding, 3)


@pytest.mark.parametrize("name", ["tok_embed.weight", "layers.3.attn.k.weight", "pos.weight"])
def test_a_weight_matrix_that_is_missing_is_noticed(name: str, small_compiled: Compiled) -> None:
    inputs = encoder(small_task())(small_compiled.encoding)
    dropped = corrupted(small_compiled, name, torch.zeros_like)
    found = counterexamples(dropped.bridge(), inputs, small_compiled.encoding)
    assert 0 < len(found) <= len(inputs)


def test_logits_that_are_not_finite_are_counterexamples(small_compiled: Compiled) -> None:
    inputs = encoder(small_task())(small_compiled.encoding)
    broken = corrupted(small_compiled, "pos.weight", lambda weight: weight * float("nan"))
    assert len(counterexamples(broken.bridge(), inputs, small_compiled.encoding)) == len(inputs)


def test_undefined_positions_are_nobodys_counterexample() -> None:
    task = Task("previous", make_previous(), ("a", "b"), 1, 3)
    reference = build(task)
    inputs = encoder(task)(reference.encoding)
    assert (inputs.targets[:, 1] == IGNORE).all()
    assert reference.n_validated == len(inputs) == 14


def test_tracrs_default_exactness_is_too_coarse_for_12_tokens_and_is_not_used() -> None:
    task = Task("reverse", make_reverse(), ("a", "b"), 1, 12)
    encoded = encoder(task, 300)
    coarse = compile_program(task, 100)
    wrong = counterexamples(coarse.bridge(), encoded(coarse.encoding), coarse.encoding)
    assert wrong
    reference = build_reference(task, encoded)
    assert reference.mlp_exactness == 1000
    assert reference.n_validated == 300
    assert counterexamples(reference.bridge, encoded(reference.encoding), reference.encoding) == []


def test_exactness_is_raised_until_the_program_is_exact() -> None:
    task = Task("length", make_length(), ("a", "b"), 33, 34)  # 1/33 - 1/34 is below 1/1000
    encoded = encoder(task, 20)
    coarse = compile_program(task, 1000)
    assert counterexamples(coarse.bridge(), encoded(coarse.encoding), coarse.encoding)
    assert build_reference(task, encoded).mlp_exactness == 10_000


WRONG: dict[str, tuple[Task, str]] = {
    "it looks ahead in a causal task": (
        Task("length", make_length(), ("a", "b"), 1, 3, causal=True),
        r"\['a', 'a'\] gives \[1, 2\], the program \[2, 2\]; .*",
    ),
    "it averages categories": (
        Task("mean", make_mean(), (0, 1), 1, 3),
        r"\[0, 1\] gives \[0, [01]\], the program \[0, .+\]; .*",
    ),
    "it has values that Tracr does not foresee": (
        Task("fraction", make_fraction(), ("a", "b"), 3, 3),
        r"\['a', 'a', 'b'\] gives \[.*\], the program \[.*\]; .*",
    ),
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_program_that_tracr_compiles_wrongly_is_refused_with_counterexamples(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALGOMATCH_CACHE", str(tmp_path))
    task, example = WRONG[reason]
    message = (
        f"^task '{task.name}': the compiled reference disagrees with the RASP interpreter at "
        f"every mlp_exactness tried, e.g. {example}$"
    )
    for _ in ("compiled", "from the cache, which keeps what the compiler made, right or wrong"):
        with pytest.raises(UserError, match=message) as caught:
            build(task)
        assert str(caught.value).count(" gives ") <= 5


def test_the_exactness_does_not_depend_on_what_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(TaskConfig(vocabulary=["a", "b"], max_length=3))
    monkeypatch.setenv("ALGOMATCH_CACHE", str(tmp_path))
    higher = compile_program(task, 10_000)
    path = reference._cache_path(task, 10_000)
    assert path is not None
    reference._write_cache(path, higher)
    assert build(task).mlp_exactness == 100
    assert build(task).mlp_exactness == 100


UNCOMPILABLE: dict[str, tuple[Any, str]] = {
    "without tokens": (rasp.Map(lambda x: x, rasp.indices), "include rasp.tokens"),
    "a primitive": (rasp.length, "Unsupported S-Op: length"),
    "the input itself": (rasp.tokens, ""),
    "a default": (
        rasp.Aggregate(rasp.Select(rasp.tokens, rasp.tokens, EQ), rasp.indices, default=1),
        "Unsupported RASP expressions:",
    ),
    "a numerical output": (
        rasp.numerical(rasp.Map(lambda x: x, rasp.tokens)),
        "Only categorical Tracr outputs are supported",
    ),
    "a composite selector": (
        rasp.SelectorWidth(
            rasp.SelectorAnd(
                rasp.Select(rasp.tokens, rasp.tokens, EQ),
                rasp.Select(rasp.indices, rasp.indices, LEQ),
            )
        ),
        "",
    ),
}


@pytest.mark.parametrize("what", UNCOMPILABLE)
def test_a_program_that_tracr_cannot_compile_is_one_line(what: str) -> None:
    program, reason = UNCOMPILABLE[what]
    task = Task("odd one", program, (1, 2), 1, 2)
    message = f"^task 'odd one': Tracr cannot compile the program: .*{reason}"
    with pytest.raises(UserError, match=message) as caught:
        build(task)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_causal_task_has_a_causal_reference() -> None:
    task = Task("odd", make_odd(), ("a", "b"), 1, 4, causal=True)
    reference = build(task)
    assert reference.bridge.cfg.attention_dir == "causal"
    inputs = encoder(task)(reference.encoding)
    before, _ = run_bridge(reference.bridge, inputs)
    whole = inputs.lengths == 4
    changed = inputs.tokens.clone()
    changed[whole, 3] = changed[whole, 3].roll(1)
    after, _ = run_bridge(reference.bridge, replace(inputs, tokens=changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])
    assert build(replace(task, causal=False)).bridge.cfg.attention_dir == "bidirectional"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALGOMATCH_CACHE", str(tmp_path))
    return tmp_path


def cached_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def same_weights(one: Reference, other: Reference) -> bool:
    ours, theirs = one.bridge.state_dict(), other.bridge.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_second_reference_comes_from_the_cache_and_is_the_same(own_cache: Path) -> None:
    first, second = build(small_task()), build(small_task())
    assert (first.from_cache, second.from_cache) == (False, True)
    assert same_weights(first, second)
    assert second.encoding == first.encoding
    assert second.residual_labels == first.residual_labels
    assert second.mlp_exactness == first.mlp_exactness
    assert second.n_validated == first.n_validated == 14
    assert len(cached_files(own_cache)) == 1
    assert {p.suffix for p in own_cache.rglob("*") if p.is_file()} == {".safetensors"}


@pytest.mark.parametrize("vocabulary", [(2, 1), (0.5, -1.0), (True, False), ("a", 1)])
def test_tokens_come_out_of_the_cache_with_their_types(
    vocabulary: tuple[Value, ...], own_cache: Path
) -> None:
    task = Task("same", rasp.Map(lambda x: x, rasp.tokens), vocabulary, 1, 2)
    first, second = build(task), build(task)
    assert second.from_cache
    assert list(map(repr, second.encoding.inputs)) == list(map(repr, first.encoding.inputs))
    assert list(map(repr, second.encoding.outputs)) == list(map(repr, first.encoding.outputs))


def make_same() -> Any:
    return rasp.Map(lambda x: x, rasp.tokens)


def test_another_task_is_not_taken_from_the_cache(own_cache: Path) -> None:
    task = Task("same", make_same(), ("a", "b"), 1, 2)
    build(task)
    others = [
        replace(task, vocabulary=("a", "c")),
        replace(task, max_length=3),
        replace(task, causal=True),
        replace(task, program=make_same().named("other")),
    ]
    assert not any(build(other).from_cache for other in others)
    again = replace(task, program=make_same(), min_length=2, name="renamed")
    assert build(again).from_cache


def test_a_cached_reference_does_not_import_jax(own_cache: Path) -> None:
    first = build(small_task())
    script = """
import sys
from algomatch.data.inputs import all_inputs, encode, program_outputs, split
from algomatch.data.programs import make_reverse
from algomatch.data.tasks import Task
from algomatch.models.reference import build_reference

task = Task("reverse", make_reverse(), ("p", "q"), 1, 3)
raw = all_inputs(task, 100, 0)
traces, held_out = program_outputs(raw), split(raw, 0.0, [], 0)
made = build_reference(task, lambda encoding: encode(raw, traces, encoding, held_out))
print(made.from_cache, made.n_validated, "jax" in sys.modules, "haiku" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", str(first.n_validated), "False", "False"]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated in its header": lambda content: content[:50],
    "truncated in its weights": lambda content: content[:-100],
    "other bytes": lambda content: b"\xff" * len(content),
    "no header of ours": lambda content: content.replace(b'"algomatch"', b'"something"'),
    "a header without its shape": lambda content: content.replace(b"shape", b"sharp"),
    "a header with another shape": lambda content: content.replace(
        b'n_layers\\": 4', b'n_layers\\": 3'
    ),
    "a header with fewer outputs": lambda content: content.replace(
        b'outputs\\": [\\"p\\", \\"q\\"]', b'outputs\\": [\\"p\\"     ]'
    ),
    "a header with other tokens": lambda content: content.replace(b'[\\"q\\", 3]', b'[\\"r\\", 3]'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_file_is_compiled_anew(damage: str, own_cache: Path) -> None:
    first = build(small_task())
    (path,) = cached_files(own_cache)
    whole = path.read_bytes()
    damaged = DAMAGE[damage](whole)
    assert damaged != whole, whole[:900]
    path.write_bytes(damaged)
    again = build(small_task())
    assert not again.from_cache
    assert same_weights(first, again)
    assert build(small_task()).from_cache, "the file was not mended"


@pytest.mark.parametrize("name", ["head.weight", "layers.3.attn.v.weight"])
def test_a_cached_file_with_wrong_weights_is_not_trusted(name: str, own_cache: Path) -> None:
    first = build(small_task())
    (path,) = cached_files(own_cache)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = safetensors.torch.load_file(path)
    weights[name] = weights[name].flip(0).contiguous()
    path.write_bytes(safetensors.torch.save(weights, metadata))
    again = build(small_task())
    assert not again.from_cache
    assert same_weights(first, again)


def test_a_cached_file_with_missing_weights_is_not_trusted(own_cache: Path) -> None:
    build(small_task())
    (path,) = cached_files(own_cache)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = safetensors.torch.load_file(path)
    del weights["head.weight"]
    path.write_bytes(safetensors.torch.save(weights, metadata))
    assert not build(small_task()).from_cache


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("ALGOMATCH_CACHE", str(blocked))
    assert not build(small_task()).from_cache
    assert not build(small_task()).from_cache
    assert blocked.read_text() == "no folder"


def test_a_program_without_a_fingerprint_is_not_cached(own_cache: Path) -> None:
    lock = threading.Lock()
    program = rasp.Map(lambda x: x if lock is not None else None, rasp.tokens)
    task = Task("locked", program, ("a", "b"), 1, 2)
    assert not build(task).from_cache
    assert not build(task).from_cache
    assert cached_files(own_cache) == []


def test_the_cached_header_is_readable(own_cache: Path) -> None:
    reference = build(small_task())
    (path,) = cached_files(own_cache)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["algomatch"])
    assert header["outputs"] == ["p", "q"]
    assert header["mlp_exactness"] == reference.mlp_exactness
    assert header["shape"]["n_layers"] == reference.bridge.cfg.n_layers
