"""Programs with overridden variables give the values of Tracr's evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.overriding import overridden, says, values_of
from support.tasks import TASK_OF, small_inputs
from torch import Tensor
from tracr.rasp import rasp

from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.outputs import IGNORE, Categorical
from algomatch.data.overridden_variables import overridden_targets
from algomatch.data.programs import make_reverse
from algomatch.data.tasks import Task

PROGRAMS = list(TASK_OF)
CASES = 8  # cases of each variable


def inputs_of(program: Any, vocabulary: tuple[Any, ...], longest: int) -> InputSet:
    return input_set(Task(program.name, program, vocabulary, 1, longest), TaskConfig())


def row_of(inputs: InputSet, tokens: list[Any]) -> int:
    return next(row for row in range(len(inputs)) if inputs.listed(row) == tokens)


def codes_of(inputs: InputSet, name: str, values: list[Any]) -> Tensor:
    """The codes of a variable's values in one case, from the first position on."""
    codes = torch.full((1, inputs.tokens.shape[1]), IGNORE)
    known = inputs.variables[name].values
    codes[0, 1 : len(values) + 1] = torch.tensor([known.index(value) for value in values])
    return codes


def decoded(inputs: InputSet, targets: Tensor) -> list[Any]:
    assert isinstance(inputs.output, Categorical)
    return [None if code == IGNORE else inputs.output.values[code] for code in targets.tolist()]


def compare(inputs: InputSet, bases: list[int], codes: dict[str, Tensor]) -> list[bool]:
    """Whether each case agrees with the evaluator."""
    rows = torch.tensor(bases)
    targets = overridden_targets(inputs, rows, codes)
    agreements = []
    for case, base in enumerate(bases):
        length = int(inputs.lengths[base])
        given = {}
        for name, those in codes.items():
            values = inputs.variables[name].values
            those_here = those[case, 1 : length + 1].tolist()
            given[name] = [None if code == IGNORE else values[code] for code in those_here]
        wanted = overridden(inputs.task, inputs.listed(base), given)
        agreements.append(says(inputs, targets[case], wanted))
    return agreements


def drawn_codes(inputs: InputSet, name: str, bases: list[int], rng: np.random.Generator) -> Tensor:
    """Draw values of a variable at the positions of the base inputs; some are undefined."""
    size = len(inputs.variables[name].values)
    codes = torch.from_numpy(rng.integers(-1, size, (len(bases), inputs.tokens.shape[1])))
    real = inputs.real[torch.tensor(bases)]
    return torch.where(real & (codes >= 0), codes, IGNORE)


@pytest.mark.parametrize("program", PROGRAMS)
def test_overriding_one_variable_gives_what_tracrs_evaluator_gives(program: str) -> None:
    inputs, rng = small_inputs(program), np.random.default_rng(0)
    for name in inputs.variables:
        bases = rng.integers(len(inputs), size=CASES).tolist()
        codes = drawn_codes(inputs, name, bases, rng)
        assert all(compare(inputs, bases, {name: codes})), name


@pytest.mark.parametrize("program", PROGRAMS)
def test_overriding_several_variables_gives_what_tracrs_evaluator_gives(program: str) -> None:
    inputs, rng = small_inputs(program), np.random.default_rng(1)
    names = list(inputs.variables)
    for _ in range(4):
        some = rng.choice(names, size=min(3, len(names)), replace=False).tolist()
        bases = rng.integers(len(inputs), size=CASES).tolist()
        codes = {name: drawn_codes(inputs, name, bases, rng) for name in some}
        assert all(compare(inputs, bases, codes)), some


@pytest.mark.parametrize("program", PROGRAMS)
def test_variables_overridden_by_their_own_values_change_nothing(program: str) -> None:
    inputs = small_inputs(program)
    bases = torch.arange(len(inputs))
    own = {name: variable.codes for name, variable in inputs.variables.items()}
    assert len(own) > 1
    for codes in ({}, own, *({name: values} for name, values in own.items())):
        targets = overridden_targets(inputs, bases, codes)
        assert targets.dtype == inputs.targets.dtype
        assert torch.equal(targets.nan_to_num(nan=-7), inputs.targets.nan_to_num(nan=-7))


def test_bases_may_repeat_and_come_in_any_order() -> None:
    inputs = small_inputs("sort")
    bases = torch.tensor([50, 3, 50, 0, 119])
    own = {"place": inputs.variables["place"].codes[bases]}
    assert torch.equal(overridden_targets(inputs, bases, own), inputs.targets[bases])


def of_reverse(length: list[int], tokens: list[str]) -> list[Any]:
    """Reverse with its length overridden, at BOS and padding too."""
    inputs = inputs_of(make_reverse(), ("p", "q"), 3)
    codes = {"length": codes_of(inputs, "length", length)}
    row = torch.tensor([row_of(inputs, tokens)])
    return decoded(inputs, overridden_targets(inputs, row, codes)[0])


def test_a_length_that_is_given_decides_what_is_mirrored() -> None:
    assert of_reverse([2, 2], ["p", "q"]) == [None, "q", "p", None]
    assert of_reverse([1, 2], ["p", "q"]) == [None, "p", "p", None]
    assert of_reverse([3, 3], ["p", "q"]) == [None, None, "q", None]


def test_a_categorical_mean_of_different_values_is_undefined() -> None:
    same = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ).named("same")
    twice = rasp.Map(lambda token: token * 2, rasp.tokens).named("twice")
    inputs = inputs_of(rasp.Aggregate(same, twice).named("shared"), (1, 2), 2)
    row = torch.tensor([row_of(inputs, [1, 1])])
    for given, wanted in (([2, 4], [None, None]), ([4, 4], [4, 4]), ([2, 2], [2, 2])):
        codes = {"twice": codes_of(inputs, "twice", given)}
        assert decoded(inputs, overridden_targets(inputs, row, codes)[0]) == [None, *wanted]


def test_a_numerical_mean_of_different_values_is_their_mean() -> None:
    inputs = small_inputs("frac_prevs")
    row = torch.tensor([row_of(inputs, ["b", "b"])])
    codes = {"is_first": codes_of(inputs, "is_first", [1.0, 0.0])}
    given = overridden_targets(inputs, row, codes)[0]
    assert given[1:3].tolist() == [1.0, 0.5]
    assert given.isnan().tolist() == [True, False, False, True, True]


def test_a_program_that_raises_on_one_case_gives_the_others() -> None:
    every = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE).named("every")
    same = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ).named("same")
    program = rasp.SequenceMap(
        lambda n, length: 6 // (length - n + 1),
        rasp.SelectorWidth(same).named("hist"),
        rasp.SelectorWidth(every).named("length"),
    ).named("quotient")
    inputs = inputs_of(program, (1, 2), 2)
    bases = torch.tensor([row_of(inputs, [1]), row_of(inputs, [2]), row_of(inputs, [1, 2])])
    parts = [codes_of(inputs, "hist", given) for given in ([2], [1], [2, 2])]
    targets = overridden_targets(inputs, bases, {"hist": torch.cat(parts)})
    assert [decoded(inputs, row) for row in targets] == [
        [None, None, None],
        [None, 6, None],
        [None, 6, 6],
    ]


def test_values_at_a_lists_positions_are_read_with_what_is_undefined() -> None:
    inputs = small_inputs("previous_token")
    row = row_of(inputs, ["a", "b", "c"])
    assert values_of(inputs, "previous_token", row) == [None, "a", "b"]
