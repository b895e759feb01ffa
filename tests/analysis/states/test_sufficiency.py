"""Donors of a state carry its values, and sufficiency is what a model patched by hooks gives."""

from __future__ import annotations

from collections import Counter
from functools import cache, partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tasks import small_inputs
from torch import Tensor

from algomatch.analysis.states.sufficiency import (
    Resampling,
    joint,
    judged,
    list_wide_part,
    own_outputs,
)
from algomatch.config.composition import compose
from algomatch.data.inputs import InputSet
from algomatch.models.shapes import learned_shape, random_inits
from algomatch.models.task_model import task_model_of


@cache
def inputs() -> InputSet:
    return small_inputs("reverse")


def codes_of(function: object, some: InputSet) -> np.ndarray:
    """Return numbers for a function's values at all places, in order."""
    values = [
        function(some.listed(row), position)  # type: ignore[operator]
        for row in range(len(some))
        for position in range(int(some.lengths[row]))
    ]
    table = list(dict.fromkeys(values))
    return np.array([table.index(value) for value in values])


TOKEN = codes_of(lambda xs, i: xs[i], inputs())
INDEX = codes_of(lambda xs, i: i, inputs())
LENGTH = codes_of(lambda xs, i: len(xs), inputs())
LAST = codes_of(lambda xs, i: xs[-1], inputs())
CODES = [TOKEN, INDEX, LENGTH, LAST]
states = st.sets(st.integers(0, 3)).map(frozenset)


@given(states)
def test_joint_values_are_numbered_and_their_bits_are_an_entropy(state: frozenset[int]) -> None:
    places = len(TOKEN)
    rows = list(zip(*(CODES[i].tolist() for i in sorted(state)), strict=True)) or [()] * places
    labels = joint([CODES[i] for i in sorted(state)], places)
    pairs = set(zip(rows, labels.tolist(), strict=True))
    assert len(pairs) == len(set(rows)) == len(set(labels.tolist()))
    shares = np.array(list(Counter(rows).values())) / places
    bits = Resampling(inputs(), CODES, 0).bits(state)
    assert bits == pytest.approx(float(-(shares * np.log2(shares)).sum()), abs=1e-9)


@given(states, st.integers(0, 3))
def test_donors_have_the_targets_values_and_are_others_where_there_are(
    state: frozenset[int], seed: int
) -> None:
    some, resampling = inputs(), Resampling(inputs(), CODES, seed)
    labels = torch.full(some.real.shape, -1)
    labels[some.real] = torch.from_numpy(resampling.labels(state))
    rows_of_label: dict[int, set[int]] = {}
    for row, position in torch.nonzero(some.real).tolist():
        rows_of_label.setdefault(int(labels[row, position]), set()).add(row)
    targets = torch.arange(0, len(some), 5)
    cases = resampling.drawn(resampling.labels(state), targets)
    donated = cases.donated
    assert donated.bases.tolist() == targets.tolist()
    for case, target in enumerate(targets.tolist()):
        length = int(some.lengths[target])
        for position in range(1, length + 1):
            row, place = int(donated.rows[case, position]), int(donated.positions[case, position])
            label = int(labels[target, position])
            assert int(labels[row, place]) == label
            assert row != target or rows_of_label[label] == {target}
        for position in range(length + 1, some.tokens.shape[1]):  # padding stays
            assert int(donated.rows[case, position]) == target
            assert int(donated.positions[case, position]) == position
        before = int(donated.rows[case, 0])
        assert int(donated.positions[case, 0]) == 0
        if state & {2}:  # the length is known to the state, so what is before the list has it
            assert int(some.lengths[before]) == length
        if state & {3}:
            assert some.listed(before)[-1] == some.listed(target)[-1]
    moved = (donated.rows != targets[:, None]) & some.real[targets]
    assert cases.moved.tolist() == moved.any(-1).tolist()


def test_the_place_before_the_list_comes_from_any_input_where_nothing_is_known() -> None:
    cases = Resampling(inputs(), CODES, 0).drawn(np.zeros_like(TOKEN), torch.arange(len(inputs())))
    lengths = inputs().lengths
    assert set(lengths[cases.donated.rows[:, 0]].tolist()) == set(lengths.tolist())
    assert bool((cases.donated.rows[:, 0] != torch.arange(len(inputs()))).all())


@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=3), min_size=1, max_size=9))
def test_what_a_state_says_of_a_list_is_what_its_values_have_in_common(
    lists: list[list[int]],
) -> None:
    labels = torch.full((len(lists), 4), -1)
    for row, codes in enumerate(lists):
        labels[row, 1 : 1 + len(codes)] = torch.tensor(codes)
    groups = [{row} for row in range(len(lists))]
    for row, codes in enumerate(lists):  # by merging, one pair after another
        for other, others in enumerate(lists):
            if set(codes) & set(others):
                first = next(group for group in groups if row in group)
                second = next(group for group in groups if other in group)
                if first is not second:
                    groups.remove(second)
                    first |= second
    part = list_wide_part(labels).tolist()
    assert sorted(
        sorted(row for row in range(len(lists)) if part[row] == number) for number in set(part)
    ) == sorted(map(sorted, groups))


@pytest.mark.parametrize("state", [frozenset(), frozenset({0, 1}), frozenset({0, 1, 2})], ids=str)
def test_sufficiency_is_that_of_the_bridge_with_a_hook(state: frozenset[int]) -> None:
    some = inputs()
    config = compose(["model=2L", "model.d_model=16", "model.n_heads=2"])
    (bridge,) = random_inits(learned_shape(config.model, some, 0), 1, 3, "cpu")
    task_model = task_model_of(bridge, some)
    own = own_outputs(some, task_model.logits())
    site = "blocks.0.hook_resid_post"
    ((_, residual),) = task_model.recorded([site])
    targets = torch.arange(0, len(some), 3)
    resampling = Resampling(some, CODES, 1)
    cases = resampling.drawn(resampling.labels(state), targets)
    result = judged(some, own, partial(task_model.donated_logits, site, residual), cases)

    _, cache_ = bridge.run_with_cache(
        some.tokens, attention_mask=some.key_mask, names_filter=[site]
    )

    def replace(value: Tensor, hook: object) -> Tensor:
        donated: Tensor = cache_[site][cases.donated.rows, cases.donated.positions]
        return donated

    with torch.inference_mode():
        logits = bridge.run_with_hooks(
            some.tokens[targets], attention_mask=some.key_mask[targets],
            fwd_hooks=[(site, replace)],
        )  # fmt: skip
        plain = bridge(some.tokens, attention_mask=some.key_mask).argmax(-1)
    kept, right = 0, 0
    for case, target in enumerate(targets.tolist()):
        places = slice(1, int(some.lengths[target]) + 1)
        kept += torch.equal(logits[case, places].argmax(-1), plain[target, places])
        right += torch.equal(logits[case, places].argmax(-1), some.targets[target, places])
    assert result.value == pytest.approx(kept / len(targets))
    assert result.right == pytest.approx(right / len(targets))
    assert result.low <= result.value <= result.high
    assert result.n == len(targets)


def test_on_samples_a_target_without_another_member_is_left_out() -> None:
    some = inputs().at(torch.arange(0, len(inputs()), 2))
    assert not some.exhaustive
    places = int(some.real.sum())
    alone = Resampling(some, [np.arange(places)], 0)
    every = torch.arange(len(some))
    cases = alone.drawn(alone.labels(frozenset({0})), every)
    assert len(cases.donated) == 0
    result = judged(some, some.targets, lambda cases: torch.empty(0), cases)
    assert (result.n, result.left_out, result.low, result.high) == (0, 1.0, 0.0, 1.0)
    whole = alone.drawn(alone.labels(frozenset()), every)
    assert len(whole.donated) == len(some)
