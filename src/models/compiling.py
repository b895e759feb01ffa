"""A RASP program compiled by Tracr: weights under NativeModel's names, and what they mean."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from tracr.rasp import rasp
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ..data.inputs import InputSet, encode_vocabulary
from ..data.interpreter import Value
from ..data.outputs import Categorical
from ..data.tasks import BOS, PAD, Task
from ..errors import UserError
from .bridges import make_bridge, weights_digest

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
HEAD = "head.weight"
LARGEST_MAP = 2_500  # pairs of values of a sequence map; Tracr's time grows with their cube


@dataclass(frozen=True)
class Compiled:
    """A compiled program before it is proven: weights under NativeModel's names, and labels.

    `outputs` are the values that Tracr foresees, one a row of the head; None for a number.
    Residual dimensions are labelled `variable:value`, a number's `variable`.
    """

    shape: dict[str, Any]
    weights: dict[str, Tensor]
    outputs: tuple[Value, ...] | None
    residual_labels: tuple[str, ...]
    mlp_exactness: int
    sharpened: bool = False

    def sharp(self) -> Compiled:
        """Return the same program with attention that is hard, however wide the heads are.

        Tracr's scores are 100 for what is selected, divided by the root of the heads' width: wide
        heads attend to what is not selected too.
        """
        root = self.shape["d_head"] ** 0.5
        weights = {
            name: weight * root if ".attn.q." in name else weight
            for name, weight in self.weights.items()
        }
        return dataclasses.replace(self, weights=weights, sharpened=True)

    @cached_property
    def digest(self) -> str:
        """A hash of the weights and what they mean."""
        text = repr((self.shape, self.outputs, self.residual_labels, weights_digest(self.weights)))
        return hashlib.sha256(text.encode()).hexdigest()

    def bridge(self, inputs: InputSet) -> TransformerBridge:
        """Return the TransformerBridge with these weights, giving the input set's classes."""
        weights, shape = dict(self.weights), dict(self.shape)
        if isinstance(inputs.output, Categorical):
            rows = dict(zip(self.outputs or (), self.weights[HEAD], strict=True))
            nothing = torch.zeros(shape["d_model"])
            head = [rows.get(value, nothing) for value in inputs.output.values]
            weights[HEAD], shape["d_vocab_out"] = torch.stack(head), len(head)
        return make_bridge(TransformerBridgeConfig(**shape), weights)


def compile_program(task: Task, mlp_exactness: int) -> Compiled:
    """Compile a task's program with Tracr and convert it.

    Raises:
        UserError: Tracr cannot compile the program.
    """
    from tracr.compiler import compiling  # brings jax, which a cached reference does not need
    from transformer_lens.utilities import tracr as converter

    program = task.program
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # on values that never occur
    try:
        if not program.children:
            raise ValueError(f"it is {program.name} itself, and computes nothing")
        _refuse_large(task)
        with _wide_heads():
            model = compiling.compile_rasp_to_model(
                program,
                vocab=set(task.vocabulary),
                max_seq_len=task.max_length,
                causal=task.causal,
                compiler_bos=BOS,
                compiler_pad=PAD,
                mlp_exactness=mlp_exactness,
            )
        labels = _named_labels(task, model.residual_labels)
        outputs: tuple[Value, ...] | None = None
        if rasp.is_numerical(program):  # to the converter, a category with a single value
            one = SimpleNamespace(encoding_map={"": 0})
            as_category = [f"{x}:" if x == program.label else x for x in model.residual_labels]
            model = dataclasses.replace(model, output_encoder=one, residual_labels=as_category)
        else:
            classes = sorted(model.output_encoder.encoding_map.items(), key=lambda item: item[1])
            outputs = tuple(value for value, _ in classes)
        shape = converter.make_tracr_transformer_bridge_config(model)
        weights = converter.make_tracr_transformer_bridge_state_dict(model, program.label)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"task '{task.name}': Tracr cannot compile the program: {reason[:400]}"
        ) from error
    finally:
        logging.disable(before)
    # Tracr orders mixed vocabularies as its sets happen to be: ours is the same every time.
    ids = encode_vocabulary(task)
    order = [model.input_encoder.encoding_map[token] for token in sorted(ids, key=ids.__getitem__)]
    weights["tok_embed.weight"] = weights["tok_embed.weight"][order]
    _refuse_mixed_up(task, weights["tok_embed.weight"], labels, ids)
    return Compiled(
        shape={name: getattr(shape, name) for name in SHAPE_FIELDS},
        weights={name: tensor.contiguous() for name, tensor in weights.items()},
        outputs=outputs,
        residual_labels=labels,
        mlp_exactness=mlp_exactness,
    )


def _refuse_mixed_up(
    task: Task, embedding: Tensor, labels: tuple[str, ...], ids: Mapping[Value, int]
) -> None:
    """Refuse an embedding whose dimensions are not those that the labels say.

    Raises:
        UserError: Tracr found no one order of numbers and texts.
    """
    places = [labels.index(f"{rasp.tokens.label}:{token}") for token in ids]
    if (embedding[list(ids.values()), places] != 1).any():
        raise UserError(
            f"task '{task.name}': Tracr mixes up the tokens {list(task.vocabulary)}: texts and "
            "numbers have no one order; make them all texts or all numbers"
        )


@contextmanager
def _wide_heads() -> Iterator[None]:
    """Let Tracr make heads as wide as their values: it looks at keys and queries only."""
    from tracr.compiler import assemble
    from tracr.craft import transformers

    original = assemble._get_model_config_and_module_names

    def widened(craft_model: Any) -> Any:
        config, names = original(craft_model)
        for block in craft_model.blocks:
            if not isinstance(block, transformers.MLP):
                widths = [head.w_ov.matrix.shape[1] for head in block.as_multi().heads()]
                config.key_size = max(config.key_size, *widths)
        return config, names

    assemble._get_model_config_and_module_names = widened
    try:
        yield
    finally:
        assemble._get_model_config_and_module_names = original


def _refuse_large(task: Task) -> None:
    """Refuse what Tracr would compile for many minutes, into gigabytes.

    Raises:
        UserError: a sequence map has too many pairs of values.
    """
    from tracr.compiler import basis_inference, nodes, rasp_to_graph

    found = rasp_to_graph.extract_rasp_graph(task.program)
    graph = found.graph
    basis_inference.infer_bases(graph, found.sink, set(task.vocabulary), task.max_length)
    for name, sop in task.variables.items():
        if isinstance(sop, rasp.SequenceMap) and not rasp.is_numerical(sop):
            first, second = (len(graph.nodes[x.label][nodes.VALUE_SET]) for x in (sop.fst, sop.snd))
            if first * second > LARGEST_MAP:
                raise UserError(
                    f"task '{task.name}': '{name}' maps {first} x {second} pairs of values; above "
                    f"{LARGEST_MAP:,} Tracr takes minutes and gigabytes: lower task.max_length="
                    f"{task.max_length} or shorten the {len(task.vocabulary)}-token task.vocabulary"
                )


def _named_labels(task: Task, labels: list[str]) -> tuple[str, ...]:
    """Return Tracr's residual labels with the variables' names, which carry no counters."""
    names = {sop.label: name for name, sop in task.variables.items()}
    by_length = sorted(names, key=len, reverse=True)

    def named(label: str) -> str:
        for own in by_length:
            rest = label.removeprefix(own)
            if label.startswith(own) and (not rest or rest[0] in ":_"):
                return names[own] + rest
        return label

    return tuple(named(label) for label in labels)
