"""Shuffled labels: the same inputs and labels, without a rule between them."""

from __future__ import annotations

import pytest
import torch

from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import InputSet, input_set, shuffled
from algomatch.data.outputs import IGNORE, Categorical
from algomatch.data.tasks import make_task


def inputs_of(name: str) -> InputSet:
    config = TaskConfig(name=name, max_length=4, held_out=0.2)
    return input_set(make_task(config), config)


@pytest.mark.parametrize("name", ["sort", "frac_prevs", "previous_token"])
def test_each_length_has_the_same_labels_on_other_inputs(name: str) -> None:
    inputs = inputs_of(name)
    made = shuffled(inputs, 0)
    moved = 0
    for length in inputs.task.lengths:
        rows = inputs.lengths == length
        old, new = (labelled.targets[rows].nan_to_num(-1.0) for labelled in (inputs, made))
        assert sorted(old.tolist()) == sorted(new.tolist())
        moved += int((old != new).any(-1).sum())
    assert moved > len(inputs) / 3


@pytest.mark.parametrize("name", ["sort", "frac_prevs"])
def test_nothing_but_the_output_moves_and_its_codes_move_with_the_targets(name: str) -> None:
    inputs = inputs_of(name)
    made = shuffled(inputs, 0)
    assert torch.equal(made.tokens, inputs.tokens)
    assert torch.equal(made.held_out, inputs.held_out)
    assert torch.equal(made.lengths, inputs.lengths)
    assert made.output == inputs.output
    *inner, output = inputs.variables
    assert list(made.variables) == [*inner, output]
    for variable in inner:
        assert made.variables[variable] is inputs.variables[variable]
    assert made.variables[output].values == inputs.variables[output].values
    for row in range(len(made)):
        values, targets = made.values_at(row), made.targets[row]
        for position, value in enumerate(values, start=1):
            if isinstance(made.output, Categorical):
                assert made.output.values[int(targets[position])] == value
            else:
                assert float(targets[position]) == pytest.approx(value)


def test_the_seed_fixes_the_order() -> None:
    inputs = inputs_of("sort")
    before = inputs.digest()
    assert shuffled(inputs, 1).digest() == shuffled(inputs, 1).digest()
    assert len({shuffled(inputs, 1).digest(), shuffled(inputs, 2).digest(), before}) == 3
    assert inputs.digest() == before


def test_undefined_positions_move_too() -> None:
    inputs = inputs_of("previous_token")
    made = shuffled(inputs, 0)
    assert torch.equal(made.targets == IGNORE, inputs.targets == IGNORE)  # the first position
    assert (made.targets[:, 1] == IGNORE).all()
