"""A RASP program compiled by Tracr: weights under NativeModel's names, and their labels."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tracr.craft import bases
from tracr.rasp import rasp
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from ..data.inputs import InputSet, encode_vocabulary
from ..data.interpreter import Value
from ..data.outputs import Categorical, stable_text
from ..data.tasks import BOS, Task
from ..infra.errors import UserError
from .assembling import assemble
from .bridges import make_bridge, weights_digest
from .lowering import Lowered, lowered

UNEMBEDDING = "head.weight"


@dataclass(frozen=True)
class Compiled:
    """A compiled program before validation: weights under NativeModel's names, and labels.

    `outputs` are the output values that Tracr foresees, one per row of the head; None for a
    numerical output. Residual dimensions are labelled `variable:value`; a number's, `variable`.
    """

    shape: dict[str, Any]
    weights: dict[str, Tensor]
    outputs: tuple[Value, ...] | None
    residual_labels: tuple[str, ...]
    mlp_exactness: int
    sharpened: bool = False

    def sharp(self) -> Compiled:
        """Return the same program with hard attention, independent of the heads' width.

        Tracr's scores are 100 for selected keys, divided by the square root of the head width. So
        wide heads also attend to keys that are not selected.
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
        outputs = stable_text(self.outputs)
        text = repr((self.shape, outputs, self.residual_labels, weights_digest(self.weights)))
        return hashlib.sha256(text.encode()).hexdigest()

    def bridge(self, inputs: InputSet) -> TransformerBridge:
        """Return the TransformerBridge with these weights, giving the input set's classes."""
        weights, shape = dict(self.weights), dict(self.shape)
        if isinstance(inputs.output, Categorical):
            rows = dict(zip(self.outputs or (), self.weights[UNEMBEDDING], strict=True))
            nothing = torch.zeros(shape["d_model"])
            head = [rows.get(value, nothing) for value in inputs.output.values]
            weights[UNEMBEDDING], shape["d_vocab_out"] = torch.stack(head), len(head)
        return make_bridge(TransformerBridgeConfig(**shape), weights)


def compile_program(task: Task, mlp_exactness: int) -> Compiled:
    """Lower a task's program and compile it with Tracr.

    Raises:
        UserError: Tracr cannot compile the program.
    """
    low = lowered(task)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Tracr warns about values that never occur
    try:
        with _sets_in_order():
            craft, output = _crafted(low, mlp_exactness)
            ids = encode_vocabulary(task)
            tokens = [bases.BasisDirection(rasp.tokens.label, token) for token in ids]
            made = assemble(craft, tokens, task.max_length, output, task.causal)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"task '{task.name}': Tracr cannot compile the program: {reason[:400]}"
        ) from error
    finally:
        logging.disable(before)
    numerical = rasp.is_numerical(low.program)
    return Compiled(
        shape=made.shape,
        weights=made.weights,
        outputs=None if numerical else tuple(direction.value for direction in output),
        residual_labels=_named_labels(low.names, made.labels),
        mlp_exactness=mlp_exactness,
    )


def _crafted(low: Lowered, mlp_exactness: int) -> tuple[Any, list[Any]]:
    """Return Tracr's heads and MLPs of a program, and the directions of its output."""
    from tracr.compiler import craft_graph_to_model, expr_to_craft_graph, nodes

    graph = _graph(low)
    bos = bases.BasisDirection(rasp.tokens.label, BOS)
    expr_to_craft_graph.add_craft_components_to_rasp_graph(
        graph, bos_dir=bos, mlp_exactness=mlp_exactness
    )
    sources = [node for label, node in graph.nodes.items() if not graph.in_degree(label)]
    with _depths_at_once():
        craft = craft_graph_to_model.craft_graph_to_model(graph, sources)
    return craft, list(graph.nodes[low.program.label][nodes.OUTPUT_BASIS])


def _graph(low: Lowered) -> Any:
    """Return Tracr's graph of a program, with the foreseen values of each s-op.

    Tracr's own traversal follows every path through the program; their number can double with each
    step.
    """
    import networkx as nx
    from tracr.compiler import nodes

    graph = nx.DiGraph()
    waiting = deque([low.program])
    graph.add_node(low.program.label, **{nodes.EXPR: low.program})
    while waiting:
        expression = waiting.popleft()
        for child in expression.children:
            if child.label not in graph:
                graph.add_node(child.label, **{nodes.EXPR: child})
                waiting.append(child)
            graph.add_edge(child.label, expression.label)
    for label, node in graph.nodes.items():
        node[nodes.ID] = label
        if isinstance(node[nodes.EXPR], rasp.SOp):
            values = low.values[label]
            number = rasp.is_numerical(node[nodes.EXPR])
            space = bases.VectorSpaceWithBasis
            made = space.from_names([label]) if number else space.from_values(label, values)
            node[nodes.VALUE_SET], node[nodes.OUTPUT_BASIS] = set(values), made.basis
    return graph


@contextmanager
def _depths_at_once() -> Iterator[None]:
    """Let Tracr compute each step's depth from its predecessors, not by following every path."""
    import networkx as nx
    from tracr.compiler import craft_graph_to_model, nodes

    def depths(graph: Any, _: Any) -> dict[str, int]:
        depth_of: dict[str, int] = {}
        for label in nx.topological_sort(graph):
            before = max((depth_of[other] for other in graph.predecessors(label)), default=-1)
            step = isinstance(graph.nodes[label][nodes.EXPR], rasp.SOp)
            depth_of[label] = max(before + step, 0)
        return depth_of

    original = craft_graph_to_model.compute_computational_depth
    craft_graph_to_model.compute_computational_depth = depths
    try:
        yield
    finally:
        craft_graph_to_model.compute_computational_depth = original


@contextmanager
def _sets_in_order() -> Iterator[None]:
    """Let Tracr order and label values that contain sets by their stable texts.

    Sets are only partially ordered, and their `str` differs between processes.
    """
    direction = bases.BasisDirection
    text, before = direction.__str__, direction.__lt__

    def stable(axis: Any) -> str:
        return f"{axis.name}:{stable_text(axis.value)}" if _has_set(axis.value) else text(axis)

    def first(axis: Any, other: Any) -> bool:
        if _has_set(axis.value) or _has_set(other.value):
            return stable(axis) < stable(other)
        return bool(before(axis, other))

    direction.__str__, direction.__lt__ = stable, first
    try:
        yield
    finally:
        direction.__str__, direction.__lt__ = text, before


def _has_set(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_has_set, value))
    return isinstance(value, frozenset)


def _named_labels(names: Mapping[str, str], labels: Sequence[str]) -> tuple[str, ...]:
    """Return Tracr's residual labels with the variables' own names, without Tracr's counters."""
    by_length = sorted(names, key=len, reverse=True)

    def named(label: str) -> str:
        for own in by_length:
            rest = label.removeprefix(own)
            if label.startswith(own) and (not rest or rest[0] in ":_"):
                return names[own] + rest
        return label

    return tuple(named(label) for label in labels)
