"""Input sets: enumeration or stratified sampling, encoding, and the held-out split.

Shapes: `inputs` is the number of inputs, `pos` the positions of an encoded input
(BOS, then the tokens, then padding up to the longest list).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor
from tracr.craft import bases
from tracr.transformer import encoder

from ..errors import UserError
from .programs import Value, trace
from .tasks import BOS, PAD, Task

IGNORE = -100  # the class of a position that counts in no loss and no metric


@dataclass(frozen=True)
class Encoding:
    """Token ids of the inputs and class ids of the outputs, the same for both models."""

    inputs: Mapping[Value, int]
    outputs: tuple[Value, ...]

    @property
    def n_classes(self) -> int:
        """Number of output classes."""
        return len(self.outputs)


@dataclass(frozen=True)
class RawInputs:
    """Inputs as vocabulary indices, one array a length, with the program's value of each variable.

    `exhaustive` says whether these are all the inputs there are.
    """

    task: Task
    by_length: Mapping[int, Int[np.ndarray, "count length"]]
    exhaustive: bool

    def lists(self) -> Iterator[list[Value]]:
        """Yield each input as the list of its tokens, shortest first."""
        vocabulary = self.task.vocabulary
        for rows in self.by_length.values():
            yield from ([vocabulary[i] for i in row] for row in rows.tolist())


@dataclass(frozen=True)
class InputSet:
    """Encoded inputs with their targets, the inputs' split and the program's variables."""

    task: Task
    tokens: Int64[Tensor, "inputs pos"]
    key_mask: Bool[Tensor, "inputs pos"]
    targets: Int64[Tensor, "inputs pos"]
    lengths: Int64[Tensor, " inputs"]
    held_out: Bool[Tensor, " inputs"]
    variables: Mapping[str, Int64[Tensor, "inputs pos"]]
    exhaustive: bool

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def defined(self) -> Bool[Tensor, "inputs pos"]:
        """Where the program's output is defined: what losses and metrics count."""
        return self.targets != IGNORE

    @property
    def real(self) -> Bool[Tensor, "inputs pos"]:
        """Positions 1..n: neither BOS nor padding."""
        positions = torch.arange(self.tokens.shape[1])
        return (positions >= 1) & (positions <= self.lengths[:, None])

    def rows(self, split: str, length: int | None = None) -> Bool[Tensor, " inputs"]:
        """Return which inputs belong to `split` (all, train, held_out) and, if given, `length`."""
        every = torch.ones_like(self.held_out)
        rows = {"all": every, "train": ~self.held_out, "held_out": self.held_out}[split]
        return rows if length is None else rows & (self.lengths == length)


def encode_vocabulary(task: Task) -> dict[Value, int]:
    """Return Tracr's token ids: vocabulary, BOS and PAD in Tracr's order."""
    space = bases.VectorSpaceWithBasis.from_values("tokens", {*task.vocabulary, BOS, PAD})
    made = encoder.CategoricalEncoder(
        basis=space.basis, enforce_bos=True, bos_token=BOS, pad_token=PAD
    )
    return dict(made.encoding_map)


def all_inputs(task: Task, max_inputs: int, seed: int) -> RawInputs:
    """Return every input of a task, or a sample stratified by length where there are too many.

    The budget `max_inputs` is shared out evenly; a length with fewer inputs than its share is
    enumerated and leaves the rest to the longer ones. Samples are seeded and without repeats.

    Raises:
        UserError: the budget is smaller than the number of lengths.
    """
    size, by_length = len(task.vocabulary), {}
    if max_inputs < len(task.lengths):
        raise UserError(
            f"task.max_inputs={max_inputs} must be at least the number of lengths, "
            f"{len(task.lengths)}"
        )
    left = max_inputs
    for length in task.lengths:
        share = left // (task.max_length - length + 1)
        count = size**length
        by_length[length] = (
            _enumerate(size, length) if count <= share else _sample(size, length, share, seed)
        )
        left -= len(by_length[length])
    return RawInputs(task, by_length, sum(map(len, by_length.values())) == task.n_inputs)


def _enumerate(size: int, length: int) -> Int[np.ndarray, "count length"]:
    powers = size ** np.arange(length - 1, -1, -1)
    return np.arange(size**length)[:, None] // powers % size


def _sample(size: int, length: int, count: int, seed: int) -> Int[np.ndarray, "count length"]:
    """Return `count` different lists, in the order in which they were drawn."""
    generator = np.random.default_rng([seed, length])
    if size**length <= 4 * count:  # drawing until there are no repeats would take long
        return generator.permutation(_enumerate(size, length))[:count]
    rows = np.empty((0, length), dtype=np.int64)
    while len(rows) < count:
        drawn = np.concatenate([rows, generator.integers(size, size=(count, length))])
        _, first = np.unique(drawn, axis=0, return_index=True)
        rows = drawn[np.sort(first)]
    return rows[:count]


def program_outputs(raw: RawInputs) -> list[dict[str, list[Value]]]:
    """Return, for each input, the interpreter's value of every variable at every position.

    Raises:
        UserError: the program raises on an input.
    """
    named, traces = raw.task.variables, []
    for xs in raw.lists():
        try:
            traces.append(trace(named, xs))
        except Exception as error:
            raise UserError(
                f"task '{raw.task.name}': the program raises on the input {xs}: "
                f"{type(error).__name__}: {error}"
            ) from error
    return traces


def encode(
    raw: RawInputs,
    traces: Sequence[Mapping[str, Sequence[Value]]],
    encoding: Encoding,
    held_out: Bool[Tensor, " inputs"],
) -> InputSet:
    """Return the InputSet of `raw`: BOS, tokens, right padding; targets where defined."""
    task, names = raw.task, list(raw.task.variables)
    n_inputs = sum(map(len, raw.by_length.values()))
    tokens = np.full((n_inputs, task.n_ctx), encoding.inputs[PAD], dtype=np.int64)
    tokens[:, 0] = encoding.inputs[BOS]
    ids = np.array([encoding.inputs[token] for token in task.vocabulary], dtype=np.int64)
    lengths, start = np.empty(n_inputs, dtype=np.int64), 0
    for length, rows in raw.by_length.items():
        tokens[start : start + len(rows), 1 : length + 1] = ids[rows]
        lengths[start : start + len(rows)] = length
        start += len(rows)
    classes = {value: index for index, value in enumerate(encoding.outputs)}
    columns = {name: np.full_like(tokens, IGNORE) for name in names}
    codes: dict[str, dict[Value, int]] = {name: {} for name in names}
    codes[names[-1]] = dict(classes)
    for row, values in enumerate(traces):
        for name, column in columns.items():
            known = codes[name]
            coded = [known.setdefault(v, len(known)) for v in values[name] if v is not None]
            where = [i + 1 for i, v in enumerate(values[name]) if v is not None]
            column[row, where] = coded
    key_mask = np.arange(task.n_ctx) <= lengths[:, None]
    return InputSet(
        task=task,
        tokens=torch.from_numpy(tokens),
        key_mask=torch.from_numpy(key_mask),
        targets=torch.from_numpy(columns[names[-1]]),
        lengths=torch.from_numpy(lengths),
        held_out=held_out,
        variables={name: torch.from_numpy(column) for name, column in columns.items()},
        exhaustive=raw.exhaustive,
    )


def split(
    raw: RawInputs, share: float, lengths: Sequence[int], seed: int
) -> Bool[Tensor, " inputs"]:
    """Return which inputs are held out: `share` of each length, rounded, and all of `lengths`.

    At least one input of every other length stays in training.
    """
    parts = []
    for length, rows in raw.by_length.items():
        count = len(rows)
        part = np.zeros(count, dtype=bool)
        held = min(int(share * count + 0.5), count - 1)
        part[np.random.default_rng([seed, length, 1]).permutation(count)[:held]] = True
        parts.append(part | (length in lengths))
    return torch.from_numpy(np.concatenate(parts))
