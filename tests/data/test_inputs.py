"""Input sets: complete or sampled, encoded as both models take them, and split."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tracr.rasp import rasp

from algomatch.analysis.setting import Setting
from algomatch.config import TaskConfig, compose
from algomatch.data.inputs import (
    IGNORE,
    Encoding,
    InputSet,
    RawInputs,
    all_inputs,
    encode,
    encode_vocabulary,
    program_outputs,
    split,
)
from algomatch.data.programs import Value, make_reverse
from algomatch.data.tasks import BOS, PAD, REGISTRY, Task, make_task
from algomatch.errors import UserError
from algomatch.experiment import prepare
from algomatch.models.reference import compile_program

DEFAULT = make_task(TaskConfig())


def make_previous() -> Any:
    """Return the token before, undefined at the first position."""
    before = rasp.Select(rasp.indices, rasp.indices - 1, rasp.Comparison.EQ)
    return rasp.Aggregate(before, rasp.tokens).named("previous")


def sized(size: int, shortest: int, longest: int) -> Task:
    return Task("any", make_reverse(), tuple(range(size)), shortest, longest)


def encoded(raw: RawInputs, outputs: Sequence[Value] = ()) -> InputSet:
    encoding = Encoding(encode_vocabulary(raw.task), tuple(outputs or raw.task.vocabulary))
    return encode(raw, program_outputs(raw), encoding, split(raw, 0.0, [], 0))


def outputs_of(raw: RawInputs) -> tuple[Value, ...]:
    last = list(raw.task.variables)[-1]
    return tuple(
        {v: None for traced in program_outputs(raw) for v in traced[last] if v is not None}
    )


def counts(raw: RawInputs) -> dict[int, int]:
    return {length: len(rows) for length, rows in raw.by_length.items()}


sizes = st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(0, 3))


def test_the_default_task_has_all_its_1364_inputs_each_once() -> None:
    raw = all_inputs(DEFAULT, 20_000, 0)
    listed = [tuple(xs) for xs in raw.lists()]
    assert raw.exhaustive
    assert len(listed) == 4 + 16 + 64 + 256 + 1024 == DEFAULT.n_inputs
    assert listed == [
        xs for n in range(1, 6) for xs in itertools.product(("a", "b", "c", "d"), repeat=n)
    ]


@given(sizes=sizes)
@settings(max_examples=25, deadline=None)
def test_enumeration_is_the_product_of_the_vocabulary(sizes: tuple[int, int, int]) -> None:
    size, shortest, more = sizes
    task = sized(size, shortest, shortest + more)
    raw = all_inputs(task, task.n_inputs, 0)
    wanted = [xs for n in task.lengths for xs in itertools.product(range(size), repeat=n)]
    assert [tuple(xs) for xs in raw.lists()] == wanted
    assert raw.exhaustive


@given(sizes=sizes, share=st.floats(0.0, 1.2), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_sample_shares_the_budget_out_and_repeats_nothing(
    sizes: tuple[int, int, int], share: float, seed: int
) -> None:
    size, shortest, more = sizes
    task = sized(size, shortest, shortest + more)
    budget = max(len(task.lengths), int(share * task.n_inputs))
    raw = all_inputs(task, budget, seed)
    found = counts(raw)
    assert sum(found.values()) == min(budget, task.n_inputs)
    assert raw.exhaustive == (budget >= task.n_inputs)
    cut = [count for n, count in found.items() if count < size**n]
    assert max(cut, default=0) - min(cut, default=0) <= 1, "the cut lengths share evenly"
    whole = [count for n, count in found.items() if count == size**n]
    assert max(whole, default=0) <= max(cut, default=budget), "a whole length took another's share"
    for n, rows in raw.by_length.items():
        assert rows.shape == (found[n], n)
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert ((rows >= 0) & (rows < size)).all()


def test_what_a_short_length_leaves_goes_to_the_longer_ones() -> None:
    assert counts(all_inputs(sized(2, 1, 4), 16, 0)) == {1: 2, 2: 4, 3: 5, 4: 5}
    assert counts(all_inputs(sized(2, 1, 4), 20, 0)) == {1: 2, 2: 4, 3: 7, 4: 7}
    assert counts(all_inputs(sized(2, 1, 4), 23, 0)) == {1: 2, 2: 4, 3: 8, 4: 9}


def test_a_sample_is_made_again_from_its_seed_and_differs_with_another() -> None:
    task = sized(4, 1, 6)
    lists = [list(all_inputs(task, 300, seed).lists()) for seed in (3, 3, 4)]
    assert lists[0] == lists[1]
    assert lists[0] != lists[2]


@pytest.mark.parametrize("budget", [120, 600, 3000])  # drawn, and shuffled out of all
def test_a_sample_is_spread_over_all_inputs(budget: int) -> None:
    (rows,) = all_inputs(sized(4, 6, 6), budget, 0).by_length.values()
    assert len(rows) == budget
    spread = 5 * np.sqrt((16 - 1) / 12 / 16 / budget)  # five standard errors of the mean
    assert np.abs(rows.mean(0) / 4 - 1.5 / 4).max() < spread


def test_30_tokens_at_length_20_are_sampled() -> None:
    task = sized(30, 1, 20)
    raw = all_inputs(task, 2000, 0)
    found = counts(raw)
    assert found[1] == 30
    assert sum(found.values()) == 2000
    assert {found[n] for n in range(2, 21)} <= {103, 104}
    assert not raw.exhaustive
    assert len(np.unique(raw.by_length[20], axis=0)) == len(raw.by_length[20])
    assert raw.by_length[20].max() == 29


def test_a_budget_below_one_input_a_length_is_refused() -> None:
    message = r"task\.max_inputs=4 must be at least the number of lengths, 5"
    with pytest.raises(UserError, match=message):
        all_inputs(DEFAULT, 4, 0)
    assert counts(all_inputs(DEFAULT, 5, 0)) == dict.fromkeys(range(1, 6), 1)


@pytest.mark.parametrize("name", REGISTRY)
def test_an_encoded_input_is_bos_then_its_tokens_then_padding(name: str) -> None:
    task = make_task(TaskConfig(name=name))
    raw = all_inputs(task, 400, 0)
    inputs = encoded(raw, outputs_of(raw))
    ids = encode_vocabulary(task)
    for row, xs in enumerate(raw.lists()):
        n, padding = len(xs), task.max_length - len(xs)
        names = [BOS, *xs, *[PAD] * padding]
        assert inputs.tokens[row].tolist() == [ids[name] for name in names]
        assert inputs.key_mask[row].tolist() == [True] * (n + 1) + [False] * padding
        assert inputs.real[row].tolist() == [False] + [True] * n + [False] * padding
        assert inputs.lengths[row] == n
    assert len(inputs) == row + 1
    assert inputs.tokens.shape == (len(inputs), task.n_ctx)


@pytest.mark.parametrize("name", REGISTRY)
def test_targets_and_variables_decode_to_what_the_program_gives(name: str) -> None:
    task = make_task(TaskConfig(name=name))
    raw = all_inputs(task, 400, 0)
    traces = program_outputs(raw)
    outputs = (*outputs_of(raw), "never")
    inputs = encoded(raw, outputs)
    codes: dict[str, dict[int, Value]] = {key: {} for key in task.variables}
    for row, xs in enumerate(raw.lists()):
        wanted = [None, *task.program(xs), *[None] * (task.max_length - len(xs))]
        decoded = [None if c == IGNORE else outputs[c] for c in inputs.targets[row].tolist()]
        assert decoded == wanted
        for key, values in traces[row].items():
            column = inputs.variables[key][row].tolist()
            assert column[0] == IGNORE
            assert set(column[len(xs) + 1 :]) <= {IGNORE}
            for code, value in zip(column[1:], values, strict=False):
                assert (code == IGNORE) == (value is None)
                assert codes[key].setdefault(code, value) == value
    assert all(len(set(known.values())) == len(known) for known in codes.values())
    assert torch.equal(inputs.variables[list(task.variables)[-1]], inputs.targets)
    assert torch.equal(inputs.defined, inputs.targets != IGNORE)


def test_where_the_program_is_undefined_there_is_no_target() -> None:
    task = Task("previous", make_previous(), ("a", "b"), 1, 3)
    inputs = encoded(all_inputs(task, 100, 0))
    assert (inputs.targets[:, :2] == IGNORE).all(), "BOS and the first token have none before"
    assert torch.equal(inputs.defined, inputs.real & (torch.arange(4) >= 2))
    before = inputs.tokens[:, 1:-1][inputs.defined[:, 2:]]
    names = {index: token for token, index in encode_vocabulary(task).items()}
    assert [names[i] for i in before.tolist()] == [
        task.vocabulary[c] for c in inputs.targets[inputs.defined].tolist()
    ]


def test_a_program_that_raises_names_the_input() -> None:
    program = rasp.Map(lambda x: 1 // x, rasp.tokens)
    raw = all_inputs(Task("inverse", program, (1, 0), 1, 2), 100, 0)
    message = r"task 'inverse': the program raises on the input \[0\]: ZeroDivisionError: .* zero$"
    with pytest.raises(UserError, match=message) as caught:
        program_outputs(raw)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@given(
    sizes=sizes,
    share=st.floats(0.0, 0.99),
    seed=st.integers(0, 99),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_split_holds_out_its_share_of_each_length_and_whole_lengths(
    sizes: tuple[int, int, int], share: float, seed: int, data: st.DataObject
) -> None:
    size, shortest, more = sizes
    task = sized(size, shortest, shortest + more)
    raw = all_inputs(task, 60, 0)
    whole = data.draw(st.lists(st.sampled_from(task.lengths), unique=True))
    held_out = split(raw, share, whole, seed)
    assert torch.equal(held_out, split(raw, share, whole, seed))
    assert held_out.shape == (sum(counts(raw).values()),)
    start = 0
    for length, count in counts(raw).items():
        held = int(held_out[start : start + count].sum())
        start += count
        if length in whole:
            assert held == count
        else:
            assert held == min(int(share * count + 0.5), count - 1)
            assert held == count - 1 or abs(held - share * count) <= 0.5 + 1e-9


def test_another_split_seed_holds_out_other_inputs() -> None:
    raw = all_inputs(DEFAULT, 20_000, 0)
    one, other = (split(raw, 0.1, [], seed) for seed in (0, 1))
    assert one.sum() == other.sum() == 0 + 2 + 6 + 26 + 102
    assert not torch.equal(one, other)


def test_a_held_out_length_leaves_the_split_of_the_others_alone() -> None:
    raw = all_inputs(DEFAULT, 20_000, 0)
    lengths = encoded(raw).lengths
    without, with_length = split(raw, 0.1, [], 0), split(raw, 0.1, [3], 0)
    assert torch.equal(with_length, without | (lengths == 3))


def test_rows_are_told_apart_by_split_and_length() -> None:
    task = sized(3, 1, 3)
    raw = all_inputs(task, 100, 0)
    encoding = Encoding(encode_vocabulary(task), task.vocabulary)
    inputs = encode(raw, program_outputs(raw), encoding, split(raw, 0.3, [2], 0))
    train, held_out = inputs.rows("train"), inputs.rows("held_out")
    assert not (train & held_out).any()
    assert (train | held_out).all()
    assert inputs.rows("all").all()
    by_length = Counter(inputs.lengths[held_out].tolist())
    assert by_length == {1: 1, 2: 9, 3: 8}
    for length in task.lengths:
        assert torch.equal(inputs.rows("train", length), train & (inputs.lengths == length))


def test_the_split_does_not_depend_on_the_training_seed(small: Setting) -> None:
    arguments = ["task.vocabulary=[a,b,c]", "task.max_length=4", "seed=5"]
    inputs = prepare(compose(arguments)).inputs
    assert torch.equal(inputs.tokens, small.inputs.tokens)
    assert torch.equal(inputs.held_out, small.inputs.held_out)
    assert 0 < int(inputs.held_out.sum()) < len(inputs)
    moved = prepare(compose([*arguments, "task.split_seed=1"])).inputs
    assert not torch.equal(moved.held_out, inputs.held_out)


@pytest.mark.parametrize(
    "vocabulary",
    [("b", "a", "Z", "é", "10", "9"), (10, 9, -1), (0.5, -1.5, 2.0), ("a", 3, 2.5)],
)
def test_token_ids_are_those_of_the_compiled_model(vocabulary: tuple[Value, ...]) -> None:
    same: Callable[[Value], Value] = lambda x: x  # noqa: E731
    task = Task("same", rasp.Map(same, rasp.tokens).named("same"), vocabulary, 1, 2)
    encoding = compile_program(task, 100).encoding
    assert encode_vocabulary(task) == dict(encoding.inputs)
    assert set(encoding.inputs) == {*vocabulary, BOS, PAD}
    assert set(encoding.outputs) == set(vocabulary)
    assert encoding.n_classes == len(vocabulary)
