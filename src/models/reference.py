"""The reference: a RASP program compiled by Tracr, as a bridge, proven against the interpreter."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ..data.fingerprint import fingerprint
from ..data.inputs import IGNORE, Encoding, InputSet
from ..data.tasks import BOS, PAD, Task
from ..errors import UserError, first_line
from ..files import write_file
from .bridges import make_bridge, weights_digest

CACHE_FORMAT = 2
LIBRARIES = ("tracr-pypi", "transformer-lens", "torch", "jax", "dm-haiku")
SHAPE_FIELDS = (
    "n_layers",
    "d_model",
    "n_ctx",
    "d_head",
    "n_heads",
    "d_mlp",
    "d_vocab",
    "d_vocab_out",
    "act_fn",
    "attention_dir",
    "normalization_type",
)


@dataclass(frozen=True)
class Compiled:
    """A compiled program before it is proven: weights under NativeModel's names, and labels."""

    shape: dict[str, Any]
    weights: dict[str, Tensor]
    encoding: Encoding
    residual_labels: tuple[str, ...]
    mlp_exactness: int

    def bridge(self) -> TransformerBridge:
        """Return the TransformerBridge with these weights."""
        return make_bridge(TransformerBridgeConfig(**self.shape), self.weights)


@dataclass(frozen=True)
class Reference:
    """A compiled program that gave the interpreter's output on every input it was run on."""

    task: Task
    bridge: TransformerBridge
    encoding: Encoding
    residual_labels: tuple[str, ...]
    mlp_exactness: int
    n_validated: int
    from_cache: bool


def build_reference(task: Task, encoded: Callable[[Encoding], InputSet]) -> Reference:
    """Return the task's reference, from the cache or compiled, run on every input first.

    Tracr's `mlp_exactness` is chosen from the maximum length and raised until the compiled
    program agrees with the interpreter. `encoded` gives the inputs in the reference's encoding.

    Raises:
        UserError: Tracr cannot compile the program, or no exactness makes it agree; the message
            shows up to five counterexamples.
    """
    wrong: list[str] = []
    for exactness in _exactness_levels(task.max_length):
        path = _cache_path(task, exactness)
        cached = _read_cache(path) if path else None
        compiled = cached or compile_program(task, exactness)
        if path and cached is None:
            _write_cache(path, compiled)
        inputs, bridge = encoded(compiled.encoding), compiled.bridge()
        wrong = counterexamples(bridge, inputs, compiled.encoding)
        if not wrong:
            return Reference(
                task=task,
                bridge=bridge,
                encoding=compiled.encoding,
                residual_labels=compiled.residual_labels,
                mlp_exactness=exactness,
                n_validated=len(inputs),
                from_cache=cached is not None,
            )
    raise UserError(
        f"task '{task.name}': the compiled reference disagrees with the RASP interpreter at every "
        f"mlp_exactness tried, e.g. {'; '.join(wrong[:5])}"
    )


def _exactness_levels(max_length: int) -> tuple[int, ...]:
    """Tracr's default resolves 1/n from 1/(n+1) only below length 10."""
    return (100, 1_000, 10_000) if max_length < 10 else (1_000, 10_000, 100_000)


@torch.inference_mode()
def counterexamples(
    bridge: TransformerBridge, inputs: InputSet, encoding: Encoding, batch_size: int = 4096
) -> list[str]:
    """Return a line for each input on which the bridge's output differs from the targets."""
    names = {index: token for token, index in encoding.inputs.items()}
    outputs = dict(enumerate(encoding.outputs))
    found = []
    for start in range(0, len(inputs), batch_size):
        rows = slice(start, start + batch_size)
        logits = bridge(inputs.tokens[rows], attention_mask=inputs.key_mask[rows])
        predicted, targets = logits.argmax(-1), inputs.targets[rows]
        wrong = ((predicted != targets) & (targets != IGNORE)).any(-1) | ~logits.isfinite().all(
            dim=(1, 2)
        )
        for row in torch.nonzero(wrong)[:, 0].tolist():
            where = targets[row] != IGNORE
            given = [names[i] for i in inputs.tokens[rows][row].tolist()]
            listed = [token for token in given if token not in (BOS, PAD)]
            got = [encoding.outputs[i] for i in predicted[row][where].tolist()]
            wanted = [
                outputs.get(i, "a value Tracr does not foresee")
                for i in targets[row][where].tolist()
            ]
            found.append(f"{listed} gives {got}, the program {wanted}")
    return found


def compile_program(task: Task, mlp_exactness: int) -> Compiled:
    """Compile a task's program with Tracr and convert it; outputs must be categorical.

    Raises:
        UserError: Tracr cannot compile the program.
    """
    from tracr.compiler import compiling  # brings jax, which a cached reference does not need
    from transformer_lens.utilities import tracr as converter

    try:
        model = compiling.compile_rasp_to_model(
            task.program,
            vocab=set(task.vocabulary),
            max_seq_len=task.max_length,
            causal=task.causal,
            compiler_bos=BOS,
            compiler_pad=PAD,
            mlp_exactness=mlp_exactness,
        )
        shape = converter.make_tracr_transformer_bridge_config(model)
        weights = converter.make_tracr_transformer_bridge_state_dict(model, task.program.label)
    except Exception as error:
        reason = first_line(error)
        raise UserError(
            f"task '{task.name}': Tracr cannot compile the program: {reason}"
        ) from error
    classes = sorted(model.output_encoder.encoding_map.items(), key=lambda item: item[1])
    return Compiled(
        shape={name: getattr(shape, name) for name in SHAPE_FIELDS},
        weights={name: tensor.contiguous() for name, tensor in weights.items()},
        encoding=Encoding(
            inputs=dict(model.input_encoder.encoding_map),
            outputs=tuple(value for value, _ in classes),
        ),
        residual_labels=tuple(model.residual_labels),
        mlp_exactness=mlp_exactness,
    )


def _cache_path(task: Task, mlp_exactness: int) -> Path | None:
    program = fingerprint(task.program)
    if program is None:
        return None
    versions = [version(library) for library in LIBRARIES]
    vocabulary = [repr(token) for token in task.vocabulary]
    key = [CACHE_FORMAT, program, vocabulary, task.max_length, task.causal, mlp_exactness]
    digest = hashlib.sha256(json.dumps([*key, versions]).encode()).hexdigest()[:32]
    folder = os.environ.get("ALGOMATCH_CACHE") or platformdirs.user_cache_dir("algomatch")
    return Path(folder) / "references" / f"{digest}.safetensors"


def _write_cache(path: Path, compiled: Compiled) -> None:
    header = {
        "shape": compiled.shape,
        "inputs": list(compiled.encoding.inputs.items()),
        "outputs": compiled.encoding.outputs,
        "residual_labels": compiled.residual_labels,
        "mlp_exactness": compiled.mlp_exactness,
    }
    try:
        text = json.dumps(header)
        metadata = {"algomatch": text, "digest": _digest(text, compiled.weights)}
        content = safetensors.torch.save(compiled.weights, metadata)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except (OSError, TypeError):  # a run does without the cache: the reference is compiled anew
        return


def _digest(header: str, weights: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{header}{weights_digest(weights)}".encode()).hexdigest()


def _read_cache(path: Path) -> Compiled | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["digest"] != _digest(metadata["algomatch"], weights):
            return None  # damaged: neither its outputs nor its mistakes are the compiler's
        header = json.loads(metadata["algomatch"])
        return Compiled(
            shape=header["shape"],
            weights=weights,
            encoding=Encoding(
                inputs=dict(header["inputs"]),
                outputs=tuple(header["outputs"]),
            ),
            residual_labels=tuple(header["residual_labels"]),
            mlp_exactness=header["mlp_exactness"],
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
