"""Training batches: they depend on (inputs, seed, step) only, and lengths have equal shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algomatch.config.schema import TaskConfig
from algomatch.data.datamodule import Batch, StratifiedBatches, TaskDataModule
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.programs import make_frac_prevs, make_reverse
from algomatch.data.tasks import Task
from algomatch.infra.errors import UserError


def make_inputs(
    shortest: int = 1, longest: int = 4, held_out: float = 0.2, lengths: Sequence[int] = ()
) -> InputSet:
    task = Task("reverse", make_reverse(), ("a", "b", "c"), shortest, longest)
    return input_set(task, TaskConfig(held_out=held_out, held_out_lengths=list(lengths)))


INPUTS = make_inputs()
ROW_OF = {tuple(tokens): row for row, tokens in enumerate(INPUTS.tokens.tolist())}
batch_sizes = st.integers(4, 70)


def rows_of(batch: Batch) -> list[int]:
    return [ROW_OF[tuple(tokens)] for tokens in batch.tokens.tolist()]


def batches(batch_size: int, seed: int = 0, inputs: InputSet = INPUTS) -> StratifiedBatches:
    return StratifiedBatches(inputs, batch_size, seed, range(10**6))


def same(batch: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


@given(batch_size=batch_sizes, seed=st.integers(0, 9), steps=st.lists(st.integers(0, 300)))
@settings(max_examples=25, deadline=None)
def test_a_batch_depends_on_seed_and_step_alone(
    batch_size: int, seed: int, steps: list[int]
) -> None:
    used = batches(batch_size, seed)
    for step in steps:
        assert same(used.batch(step), batches(batch_size, seed).batch(step))


@pytest.mark.parametrize("start", [0, 1, 37])
def test_going_on_from_a_step_gives_the_batches_from_that_step(start: int) -> None:
    whole = list(StratifiedBatches(INPUTS, 21, 3, range(60)))
    assert len(whole) == 60
    later = list(StratifiedBatches(INPUTS, 21, 3, range(start, 60)))
    assert len(later) == 60 - start
    assert all(map(same, later, whole[start:]))
    assert all(same(batch, batches(21, 3).batch(step)) for step, batch in enumerate(whole))


def test_another_seed_gives_other_batches() -> None:
    assert not same(batches(40, 0).batch(0), batches(40, 1).batch(0))


def test_a_batch_holds_the_encoded_rows_unchanged() -> None:
    batch = batches(40).batch(5)
    rows = rows_of(batch)
    assert torch.equal(batch.key_mask, INPUTS.key_mask[rows])
    assert torch.equal(batch.targets, INPUTS.targets[rows])


@given(batch_size=batch_sizes, n_steps=st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_every_length_gets_the_same_number_and_the_extras_rotate(
    batch_size: int, n_steps: int
) -> None:
    drawn, total = batches(batch_size), Counter[int]()
    for step in range(n_steps):
        counts = Counter(INPUTS.lengths[rows_of(drawn.batch(step))].tolist())
        assert counts.total() == batch_size
        assert set(counts.values()) <= {batch_size // 4, batch_size // 4 + 1}
        total += counts
        assert max(total.values()) - min(total[n] for n in INPUTS.task.lengths) <= 1
    if n_steps % 4 == 0:
        assert set(total.values()) == {batch_size * n_steps // 4}


@given(batch_size=batch_sizes, seed=st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_an_epoch_of_a_length_is_every_trained_input_once(batch_size: int, seed: int) -> None:
    drawn = batches(batch_size, seed)
    stream: list[int] = []
    for step in range(500 // batch_size + 1):
        stream += rows_of(drawn.batch(step))
    for length in INPUTS.task.lengths:
        trained = torch.nonzero(INPUTS.rows("train", length))[:, 0].tolist()
        seen = [row for row in stream if INPUTS.lengths[row] == length]
        epochs = [seen[i : i + len(trained)] for i in range(0, len(seen), len(trained))]
        assert len(epochs) > 1
        for epoch in epochs[:-1]:
            assert sorted(epoch) == trained
        assert len(set(epochs[-1])) == len(epochs[-1])
        if length > 1:
            assert epochs[0] != epochs[1], "every epoch is shuffled anew"


def test_no_held_out_input_is_ever_drawn() -> None:
    inputs = make_inputs(lengths=[2])
    seen = Counter[int]()
    for batch in StratifiedBatches(inputs, 30, 0, range(40)):
        seen.update(rows_of(batch))
    assert set(seen) == set(torch.nonzero(inputs.rows("train"))[:, 0].tolist())
    assert 2 not in {int(inputs.lengths[row]) for row in seen}
    assert len(seen) < len(inputs)


def test_a_fixed_length_needs_no_other_and_takes_any_batch_size() -> None:
    inputs = make_inputs(3, 3)
    drawn = StratifiedBatches(inputs, 1, 0, range(22))
    tokens = torch.cat([batch.tokens for batch in drawn])
    trained = inputs.tokens[inputs.rows("train")]
    assert len(trained) == 22
    assert sorted(tokens.tolist()) == sorted(trained.tolist())
    assert tokens.shape == (22, 4)


def test_a_batch_may_be_larger_than_an_epoch() -> None:
    inputs = make_inputs(1, 2, held_out=0.0)
    batch = StratifiedBatches(inputs, 20, 0, range(1)).batch(0)
    times = Counter(tuple(tokens) for tokens in batch.tokens.tolist())
    first, two = (
        sorted(times[tuple(tokens)] for tokens in inputs.tokens[inputs.lengths == n].tolist())
        for n in (1, 2)
    )
    assert first == [3, 3, 4]
    assert two == [1] * 8 + [2]


def test_a_batch_with_fewer_places_than_lengths_is_refused() -> None:
    message = r"^trainer\.batch_size=3 must be at least 4, one input of each trained length$"
    with pytest.raises(UserError, match=message):
        TaskDataModule(INPUTS, 3, 0, 10)
    TaskDataModule(make_inputs(lengths=[4]), 3, 0, 10)


def test_nothing_to_train_on_is_refused() -> None:
    inputs = make_inputs(lengths=[1, 2, 3, 4])
    with pytest.raises(UserError, match=r"^task\.held_out leaves no input to train on: lower it$"):
        TaskDataModule(inputs, 8, 0, 10)


def test_the_loader_gives_the_batches_as_they_are() -> None:
    datamodule = TaskDataModule(INPUTS, 8, 2, 5)
    loaded = list(datamodule.train_dataloader())
    assert all(isinstance(batch, Batch) for batch in loaded)
    assert len(loaded) == 5
    assert all(map(same, loaded, datamodule.batches(range(5))))


@pytest.mark.parametrize("step", [0, 3])
def test_the_loader_goes_on_from_the_trainers_step(step: int) -> None:
    datamodule = TaskDataModule(INPUTS, 8, 2, 5)
    datamodule.trainer = SimpleNamespace(global_step=step)  # type: ignore[assignment]
    loaded = list(datamodule.train_dataloader())
    assert len(loaded) == 5 - step
    assert all(map(same, loaded, datamodule.batches(range(step, 5))))


def test_a_batch_is_moved_whole() -> None:
    datamodule, batch = TaskDataModule(INPUTS, 8, 2, 5), batches(8).batch(0)
    moved = datamodule.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert isinstance(moved, Batch)
    assert [part.device.type for part in moved] == ["meta"] * 3
    assert [part.shape for part in moved] == [part.shape for part in batch]


def test_numbers_are_batched_as_numbers() -> None:
    task = Task("share", make_frac_prevs(("a", "b")), ("a", "b"), 1, 3)
    inputs = input_set(task, TaskConfig(held_out=0.0))
    batch = StratifiedBatches(inputs, 6, 0, range(1)).batch(0)
    share_of_a = (batch.tokens[:, 1] == inputs.token_ids["a"]).float()
    assert torch.equal(batch.targets[:, 1], share_of_a)
    assert torch.equal(~batch.targets.isnan(), batch.key_mask & (torch.arange(4) > 0))


def test_a_length_of_which_there_is_no_input_needs_no_place() -> None:
    task = Task("odd", make_reverse(), ("a", "b"), 1, 3, accepts=lambda xs: len(xs) != 2)
    inputs = input_set(task, TaskConfig(held_out=0.0))
    batch = StratifiedBatches(inputs, 4, 0, range(1)).batch(0)
    assert sorted(inputs.lengths[inputs.rows("train")].tolist()) == [1] * 2 + [3] * 8
    assert sorted(batch.key_mask.sum(-1).tolist()) == [2, 2, 4, 4]
