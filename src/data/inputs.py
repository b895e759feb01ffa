"""Input sets: enumeration or stratified sampling, encoding, and the held-out split.

Shapes: `inputs` is the number of inputs, `pos` the positions of an encoded input
(BOS, then the tokens, then padding up to the longest list).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int32, Int64
from torch import Tensor
from tracr.craft import bases
from tracr.rasp import rasp
from tracr.transformer import encoder

from ..config.schema import A_TASK, TaskConfig
from ..infra.errors import UserError, first_line, need_kind
from .interpreter import Column, Interpreter, ProgramError, Value, present, trace
from .outputs import IGNORE, Categorical, Numerical, Output, ordered, stable_text
from .tasks import BOS, PAD, Task

CHUNK = 1 << 22  # (query, key) pairs that are interpreted at once
COUNTED = 1_000_000  # lists at most, to count those that a predicate accepts
DRAWN = 200  # draws for each sampled list, after which a predicate counts as too strict
SPOT_CHECKS = 16  # inputs that are also checked with Tracr's own evaluator
WIDEST_TOLERANCE = 0.05
APART = 0.4  # tolerance that tells outputs apart, as a share of their smallest distance
ROUNDING = 1e-6  # relative distance below which two numbers differ by rounding only
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class RawInputs:
    """Inputs as vocabulary indices, one array per length.

    `total` is the number of all inputs of the task, None if it was not counted.
    """

    task: Task
    by_length: Mapping[int, Int[np.ndarray, "count length"]]
    total: int | None

    def lists(self) -> Iterator[list[Value]]:
        """Yield each input as the list of its tokens, shortest first."""
        for rows in self.by_length.values():
            yield from (self.tokens(row) for row in rows)

    def tokens(self, row: Int[np.ndarray, " length"]) -> list[Value]:
        """Return the tokens of vocabulary indices."""
        return [self.task.vocabulary[index] for index in row.tolist()]

    def __len__(self) -> int:
        return sum(map(len, self.by_length.values()))


@dataclass(frozen=True)
class Variable:
    """A variable's value at every position of every input, as an index into its values.

    Where the variable is undefined, and at BOS and padding, the index is `IGNORE`.
    """

    codes: Int[Tensor, "inputs pos"]
    values: tuple[Value, ...]
    numerical: bool

    @property
    def defined(self) -> Bool[Tensor, "inputs pos"]:
        """Where the variable has a value."""
        return self.codes != IGNORE


@dataclass(frozen=True)
class InputSet:
    """Encoded inputs with their targets, the inputs' split and the program's variables.

    Targets are class ids, or numbers where the program's output is numerical.
    """

    task: Task
    output: Output
    token_ids: Mapping[Value, int]
    tokens: Int64[Tensor, "inputs pos"]
    key_mask: Bool[Tensor, "inputs pos"]
    targets: Int64[Tensor, "inputs pos"] | Float32[Tensor, "inputs pos"]
    lengths: Int64[Tensor, " inputs"]
    held_out: Bool[Tensor, " inputs"]
    variables: Mapping[str, Variable]
    total: int | None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def exhaustive(self) -> bool:
        """Whether these are all the inputs there are."""
        return self.total == len(self)

    @property
    def defined(self) -> Bool[Tensor, "inputs pos"]:
        """Where the program's output is defined; losses and metrics count these positions."""
        defined: Tensor = self.output.defined(self.targets)
        return defined

    @property
    def real(self) -> Bool[Tensor, "inputs pos"]:
        """Positions 1..n: neither BOS nor padding."""
        positions = torch.arange(self.tokens.shape[1])
        return (positions >= 1) & (positions <= self.lengths[:, None])

    @property
    def undefined_share(self) -> float:
        """The share of list positions at which the program has no output."""
        real = self.real
        return int((real & ~self.defined).sum()) / int(real.sum())

    def rows(self, split: str, length: int | None = None) -> Bool[Tensor, " inputs"]:
        """Return which inputs belong to `split` (all, train, held_out) and, if given, `length`."""
        every = torch.ones_like(self.held_out)
        rows = {"all": every, "train": ~self.held_out, "held_out": self.held_out}[split]
        return rows if length is None else rows & (self.lengths == length)

    def at(self, rows: slice | Int64[Tensor, " chosen"]) -> InputSet:
        """Return the input set of the given rows, in that order; rows may be repeated."""
        variables = {
            name: replace(variable, codes=variable.codes[rows])
            for name, variable in self.variables.items()
        }
        parts = ("tokens", "key_mask", "targets", "lengths", "held_out")
        return replace(
            self, variables=variables, **{name: getattr(self, name)[rows] for name in parts}
        )

    def listed(self, row: int) -> list[Value]:
        """Return an input as the list of its tokens."""
        names = {index: token for token, index in self.token_ids.items()}
        length = int(self.lengths[row])
        return [names[index] for index in self.tokens[row, 1 : length + 1].tolist()]

    def values_at(self, row: int) -> list[Value]:
        """Return the program's output on an input, None where it is undefined."""
        result = list(self.variables.values())[-1]
        codes = result.codes[row, 1 : int(self.lengths[row]) + 1].tolist()
        return [None if code == IGNORE else result.values[code] for code in codes]

    def digest(self) -> str:
        """Return a hash of the inputs, the program's values on them, the tolerance and the mask."""
        tolerance = self.output.tolerance if isinstance(self.output, Numerical) else None
        digest = hashlib.sha256(repr((tolerance, self.task.causal)).encode())
        for name, variable in self.variables.items():
            values = [stable_text(value) for value in variable.values]
            digest.update(repr((name, values, variable.numerical)).encode())
            digest.update(variable.codes.numpy().tobytes())
        for part in (self.tokens, self.targets):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()


def input_set(task: Task, config: TaskConfig) -> InputSet:
    """Return a task's inputs, encoded, with the program's values and the held-out split.

    >>> config = TaskConfig("reverse", vocabulary=["a", "b"], max_length=2)
    >>> from algomatch import make_task
    >>> inputs = input_set(make_task(config), config)
    >>> len(inputs), inputs.listed(3), inputs.values_at(3)
    (6, ['a', 'b'], ['b', 'a'])

    Raises:
        UserError: there is no such set, or the program fails on it.
    """
    need_kind(task, Task, "input_set takes a task, as algomatch.make_task(config.task)")
    need_kind(config, TaskConfig, f"input_set takes {A_TASK} too")
    raw = all_inputs(task, config.max_inputs, config.split_seed)
    held_out = split(raw, config.held_out, config.held_out_lengths, config.split_seed)
    return encode(raw, program_outputs(raw), held_out)


def difference(ours: InputSet, other: InputSet) -> str | None:
    """Return the first input on which two programs' outputs differ, None if there is none.

    Numbers count as equal within 1e-6.

    Raises:
        UserError: the inputs are not the same.
    """
    if not torch.equal(ours.tokens, other.tokens):
        raise UserError("task.restrict does not accept the same inputs every time")
    if isinstance(ours.output, Numerical) and isinstance(other.output, Numerical):
        same = torch.isclose(ours.targets, other.targets, rtol=0, atol=1e-6, equal_nan=True)
    elif ours.output == other.output:
        same = ours.targets == other.targets
    else:
        same = torch.zeros_like(ours.defined)
    for row in torch.nonzero(~same.all(-1))[:, 0].tolist():
        listed, theirs = (inputs.values_at(row) for inputs in (ours, other))
        if listed != theirs:
            return f"{ours.listed(row)} gives {listed} and {theirs}"
    return None


def shuffled(inputs: InputSet, seed: int) -> InputSet:
    """Return the same inputs with outputs permuted among inputs of the same length.

    Targets and the output variable move together; the other variables stay. Such labels follow no
    rule, so a model can only memorise them.
    """
    generator = np.random.default_rng(seed)
    source = np.arange(len(inputs))
    for length in torch.unique(inputs.lengths).tolist():
        places = np.flatnonzero(inputs.lengths.numpy() == length)
        source[places] = generator.permutation(places)
    rows = torch.from_numpy(source)
    name, output = list(inputs.variables.items())[-1]
    variables = {**inputs.variables, name: replace(output, codes=output.codes[rows])}
    return replace(inputs, targets=inputs.targets[rows], variables=variables)


def encode_vocabulary(task: Task) -> dict[Value, int]:
    """Return Tracr's token ids: vocabulary, BOS and PAD in Tracr's order."""
    space = bases.VectorSpaceWithBasis.from_values("tokens", [*task.vocabulary, BOS, PAD])
    made = encoder.CategoricalEncoder(
        basis=space.basis, enforce_bos=True, bos_token=BOS, pad_token=PAD
    )
    return dict(made.encoding_map)


def all_inputs(task: Task, max_inputs: int, seed: int) -> RawInputs:
    """Return every input of a task, or a sample stratified by length where there are too many.

    The budget `max_inputs` is divided evenly among the lengths. A length with fewer inputs than its
    share is enumerated and leaves the rest to longer ones. Samples are seeded, without repeats.

    Raises:
        UserError: the budget is smaller than the number of lengths, or no input is accepted.
    """
    if max_inputs < len(task.lengths):
        raise UserError(
            f"task.max_inputs={max_inputs} must be at least the number of lengths, "
            f"{len(task.lengths)}"
        )
    by_length, counts, left = dict[int, np.ndarray](), list[int | None](), max_inputs
    for length in task.lengths:
        share = left // (task.max_length - length + 1)
        by_length[length], count = _of_length(task, length, share, seed)
        counts.append(count)
        left -= len(by_length[length])
    if not any(map(len, by_length.values())):
        raise UserError(f"task '{task.name}': task.restrict accepts no input at all")
    known = [count for count in counts if count is not None]
    return RawInputs(task, by_length, sum(known) if len(known) == len(counts) else None)


def _of_length(
    task: Task, length: int, share: int, seed: int
) -> tuple[Int[np.ndarray, "count length"], int | None]:
    """Return at most `share` lists of one length, and their total number if it is known."""
    generator, accepts = np.random.default_rng([seed, length]), task.accepts
    count, size = task.count(length), len(task.vocabulary)
    if accepts is not None and count > COUNTED:
        draws = _distinct(task, length, share, generator, lambda row: accepts(_listed(task, row)))
        return draws, None
    if accepts is None and count > 4 * share:  # repeats are rare
        return _distinct(task, length, share, generator), count
    rows = (_permutations if task.unique else _products)(size, length)
    if accepts is not None:
        rows = rows[np.array([accepts(_listed(task, row)) for row in rows], dtype=bool)]
    return (rows if len(rows) <= share else generator.permutation(rows)[:share]), len(rows)


def _listed(task: Task, row: Int[np.ndarray, " length"]) -> list[Value]:
    return [task.vocabulary[index] for index in row.tolist()]


def _products(size: int, length: int) -> Int[np.ndarray, "count length"]:
    powers = size ** np.arange(length - 1, -1, -1)
    return (np.arange(size**length)[:, None] // powers % size).astype(np.int32)


def _permutations(size: int, length: int) -> Int[np.ndarray, "count length"]:
    flat = itertools.chain.from_iterable(itertools.permutations(range(size), length))
    return np.fromiter(flat, dtype=np.int32).reshape(-1, length)


def _distinct(
    task: Task,
    length: int,
    count: int,
    generator: np.random.Generator,
    accepts: Callable[[np.ndarray], bool] | None = None,
) -> Int[np.ndarray, "count length"]:
    """Return `count` different lists, in the order in which they were drawn."""
    size = len(task.vocabulary)
    rows = np.empty((0, length), dtype=np.int32)
    for _ in range(DRAWN):
        if task.unique:
            drawn = generator.random((count, size)).argsort(axis=1)[:, :length]
        else:
            drawn = generator.integers(size, size=(count, length))
        if accepts is not None:
            drawn = drawn[np.array([accepts(row) for row in drawn], dtype=bool)]
        rows = np.concatenate([rows, drawn.astype(np.int32)])
        _, first = np.unique(rows, axis=0, return_index=True)
        rows = rows[np.sort(first)]
        if len(rows) >= count:
            break
    return rows[:count]


def program_outputs(raw: RawInputs) -> dict[str, Variable]:
    """Return the program's value of every variable at every position of every input.

    Raises:
        UserError: the program raises on an input, or is not a function of it.
    """
    task, named = raw.task, raw.task.variables
    codes = {name: np.full((len(raw), task.n_ctx), IGNORE, dtype=np.int16) for name in named}
    tables: dict[str, dict[Value, int]] = {name: {} for name in named}
    start = 0
    for length, rows in raw.by_length.items():
        step = max(1, CHUNK // length**2)
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            interpreter = Interpreter(Column(part, task.vocabulary), task.causal)
            for name, sop in named.items():
                try:
                    column = interpreter.column(sop)
                except ProgramError as error:
                    tokens = raw.tokens(part[error.row])
                    if error.instead:
                        raise UserError(
                            f"task '{task.name}': '{name}': {error} (on the input {tokens}); write "
                            f"{error.instead}"
                        ) from error
                    raise _raises(raw, tokens, str(error)) from error
                lookup = _merged(column.values, tables[name])
                if len(tables[name]) > np.iinfo(np.int16).max:
                    codes[name] = codes[name].astype(np.int32, copy=False)
                codes[name][start : start + len(part), 1 : length + 1] = lookup[column.codes]
            start += len(part)
    variables = {
        name: _occurring(codes[name], list(tables[name]), rasp.is_numerical(sop))
        for name, sop in named.items()
    }
    _spot_check(raw, variables)
    for name, variable in list(variables.items())[:-1]:  # the output has stricter checks
        if variable.numerical:
            _refuse_what_is_no_number(variable, f"task '{task.name}': '{name}'")
    return variables


def _refuse_what_is_no_number(variable: Variable, name: str) -> None:
    for value in variable.values:
        size: Any = abs(value) if isinstance(value, (int, float, np.number)) else math.inf
        if not size <= LARGEST:
            raise UserError(f"{name} is numerical, but can be {value!r}: not a finite number")


def _occurring(
    codes: Int[np.ndarray, "inputs pos"], values: list[Value], numerical: bool
) -> Variable:
    """Return a variable whose values are only those that occur on these inputs."""
    undefined = len(values)
    places = np.where(codes == IGNORE, undefined, codes)
    taken = [code for code in present(places, undefined + 1).tolist() if code != undefined]
    renumbered = np.full(undefined + 1, IGNORE, dtype=codes.dtype)
    renumbered[taken] = np.arange(len(taken))
    numbered = torch.from_numpy(renumbered[places])
    return Variable(numbered, tuple(values[code] for code in taken), numerical)


def _merged(values: Sequence[Value], table: dict[Value, int]) -> Int32[np.ndarray, " values"]:
    """Return the values' indices in a growing table; equal values share one, None has none."""
    indices = [IGNORE if v is None else table.setdefault(v, len(table)) for v in values]
    return np.array(indices, dtype=np.int32)


def _raises(raw: RawInputs, tokens: Sequence[Value], reason: str) -> UserError:
    return UserError(
        f"task '{raw.task.name}': the program raises on the input {list(tokens)}: {reason}; "
        f"change the program, task.vocabulary, or what task.restrict lets in{_other_lengths(raw)}"
    )


def _other_lengths(raw: RawInputs) -> str:
    """Return a hint if the program raises on no longer list, or on no shorter one."""
    there = [length for length, rows in raw.by_length.items() if len(rows)]
    right = [length for length in there if not _raises_at(raw, length)]
    if not right:
        return ""
    said = f"; it does not raise on lists of {right[0]} to {right[-1]} tokens: task."
    if right == there[-len(right) :]:
        return f"{said}min_length={right[0]}"
    return f"{said}max_length={right[-1]}" if right == there[: len(right)] else ""


def _raises_at(raw: RawInputs, length: int) -> bool:
    rows, task = raw.by_length[length], raw.task
    step = max(1, CHUNK // length**2)
    try:
        for at in range(0, len(rows), step):
            column = Column(rows[at : at + step], task.vocabulary)
            Interpreter(column, task.causal).column(task.program)
    except ProgramError:
        return True
    return False


def _spot_check(raw: RawInputs, variables: Mapping[str, Variable]) -> None:
    """Compare with Tracr's own evaluator on some inputs; it calls functions at every position."""
    task = raw.task
    firsts = np.cumsum([0, *map(len, raw.by_length.values())])
    lengths = list(raw.by_length)
    for row in sorted({int(i) for i in np.linspace(0, len(raw) - 1, SPOT_CHECKS)}):
        place = int(np.searchsorted(firsts, row, side="right")) - 1
        xs = raw.tokens(raw.by_length[lengths[place]][row - firsts[place]])
        try:
            values = trace(task.variables, xs, task.causal)
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise _raises(raw, xs, reason) from error
        for name, variable in variables.items():
            codes = variable.codes[row, 1 : len(xs) + 1].tolist()
            ours = [None if code == IGNORE else variable.values[code] for code in codes]
            if not all(map(_same, ours, values[name])):
                raise UserError(
                    f"task '{task.name}': '{name}' on the input {xs} was {ours}, then "
                    f"{values[name]}: the program's functions must depend on their arguments alone"
                )


def _same(value: Value, other: Value) -> bool:
    return bool(value == other or (value != value and other != other))  # nan is nan


def output_of(task: Task, variable: Variable) -> Output:
    """Return the kind of output a model of the task gives: classes, or a number with a tolerance.

    Classes are the values that occur. The default tolerance is below half the smallest distance
    between two outputs, and at most 0.05.

    Raises:
        UserError: the output cannot be learned.
    """
    values, name = variable.values, f"task '{task.name}': the program's output"
    if len(values) < 2:
        what = f"is {values[0]!r} on every input" if values else "is undefined on every input"
        raise UserError(f"{name} {what}: there is nothing to learn")
    if not variable.numerical:
        for value in values:
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name} is {value}: outputs must be finite")
        return Categorical(ordered(values))
    _refuse_what_is_no_number(variable, name)
    gap = smallest_gap(variable)
    return Numerical(task.tolerance or min(WIDEST_TOLERANCE, APART * gap))


def smallest_gap(variable: Variable) -> float:
    """Return the smallest distance between two values of a numerical variable, beyond rounding."""
    ascending = np.unique(np.array(variable.values, dtype=np.float64))
    gaps = np.diff(ascending)
    gaps = gaps[gaps > ROUNDING * max(1.0, float(np.abs(ascending).max()))]
    return float(gaps.min()) if len(gaps) else math.inf


def encode(
    raw: RawInputs, variables: Mapping[str, Variable], held_out: Bool[Tensor, " inputs"]
) -> InputSet:
    """Return the InputSet of `raw`: BOS, tokens, right padding; targets where defined.

    Raises:
        UserError: the program's output cannot be learned.
    """
    task, token_ids = raw.task, encode_vocabulary(raw.task)
    tokens = np.full((len(raw), task.n_ctx), token_ids[PAD], dtype=np.int64)
    tokens[:, 0] = token_ids[BOS]
    ids = np.array([token_ids[token] for token in task.vocabulary], dtype=np.int64)
    lengths, start = np.empty(len(raw), dtype=np.int64), 0
    for length, rows in raw.by_length.items():
        tokens[start : start + len(rows), 1 : length + 1] = ids[rows]
        lengths[start : start + len(rows)] = length
        start += len(rows)
    result = variables[list(variables)[-1]]
    output = output_of(task, result)
    return InputSet(
        task=task,
        output=output,
        token_ids=token_ids,
        tokens=torch.from_numpy(tokens),
        key_mask=torch.from_numpy(np.arange(task.n_ctx) <= lengths[:, None]),
        targets=_targets(result, output),
        lengths=torch.from_numpy(lengths),
        held_out=held_out,
        variables=variables,
        total=raw.total,
    )


def _targets(variable: Variable, output: Output) -> Tensor:
    codes = variable.codes.long()  # IGNORE, a negative index, picks the entry added at the end
    codes = torch.where(codes == IGNORE, len(variable.values), codes)
    if isinstance(output, Numerical):
        return torch.tensor([*variable.values, math.nan], dtype=torch.float32)[codes]
    classes = {value: index for index, value in enumerate(output.values)}
    return torch.tensor([*(classes[value] for value in variable.values), IGNORE])[codes]


def split(
    raw: RawInputs, share: float, lengths: Sequence[int], seed: int
) -> Bool[Tensor, " inputs"]:
    """Return the held-out inputs: `share` of each length, rounded, and all inputs of `lengths`.

    At least one input of every other length stays in training.
    """
    parts = []
    for length, rows in raw.by_length.items():
        count = len(rows)
        part = np.zeros(count, dtype=bool)
        held = max(0, min(int(share * count + 0.5), count - 1))
        part[np.random.default_rng([seed, length, 1]).permutation(count)[:held]] = True
        parts.append(part | (length in lengths))
    return torch.from_numpy(np.concatenate(parts))
