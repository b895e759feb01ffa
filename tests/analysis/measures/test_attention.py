"""Overlap with the reference's heads: against numpy, brute-force matching and controls."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import Rows, plain_weights, rows_of, varied, with_heads

from algomatch.analysis.activations import Recording, Source, record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.head_attention import UNIFORM, active_heads, name_of, overlaps
from algomatch.analysis.measures import attention
from algomatch.analysis.measures.attention import compare, matching
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.models.bridges import make_bridge
from algomatch.models.shapes import random_inits

SMALL = ("task.vocabulary=[a,b]", "task.max_length=4", "model=2L", "model.d_model=16",
         "model.n_heads=2", "analysis.bootstrap=100", "analysis.random_inits=2",
         "analysis.other_tasks=0")  # fmt: skip
ACTIVE = [(0, 0), (3, 0)]  # the active heads of the small reference


@pytest.fixture(scope="module")
def recording(small: MeasurementContext) -> Recording:
    return record(make_bridge(small.shape), small.inputs, 2048)


@pytest.fixture(scope="module")
def rows(small: MeasurementContext, recording: Recording) -> Rows:
    return rows_of(attention.measure(recording, small))


def of_source(source: Source, context: MeasurementContext) -> Rows:
    return rows_of(attention.measure(source, context))


def pattern(bridge: Any, context: MeasurementContext, head: tuple[int, int]) -> Any:
    """A head's attention on all inputs, from TransformerLens' cache."""
    inputs = context.inputs
    _, cache = bridge.run_with_cache(inputs.tokens, attention_mask=inputs.key_mask)
    return cache[f"blocks.{head[0]}.attn.hook_pattern"][:, head[1]].double().numpy()


def overlap(attention: Any, other: Any, defined: Any) -> float:
    """1 minus the mean total variation distance over the queries with a defined output."""
    return float(1 - (np.abs(attention - other).sum(-1) / 2)[defined].mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 5), st.integers(0, 2**31))
def test_an_overlap_is_one_less_the_total_variation_distance(
    heads: int, others: int, positions: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    patterns, other = (
        generator.dirichlet(np.full(positions, 0.3), size=(3, n, positions))
        for n in (heads, others)
    )
    counted = generator.integers(2, size=(3, positions))
    got = overlaps(
        torch.from_numpy(patterns).float(),
        torch.from_numpy(other).float(),
        torch.from_numpy(counted).float(),
    )
    for i, j in itertools.product(range(heads), range(others)):
        distance = np.abs(patterns[:, i] - other[:, j]).sum(-1) / 2
        np.testing.assert_allclose(got[:, i, j], ((1 - distance) * counted).sum(1), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_the_matching_is_the_best_of_all_one_to_one(rows: int, columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).random((rows, columns))
    pairs = matching(torch.from_numpy(values))
    assert len(pairs) == len(set(pairs.values())) == min(rows, columns)
    if rows <= columns:
        sums = [
            values[range(rows), list(p)].sum() for p in itertools.permutations(range(columns), rows)
        ]
    else:
        sums = [
            values[list(p), range(columns)].sum()
            for p in itertools.permutations(range(rows), columns)
        ]
    assert sum(values[i, j] for i, j in pairs.items()) == pytest.approx(max(sums))


def test_a_head_is_active_if_it_writes_anything(small: MeasurementContext) -> None:
    bridge = small.reference.bridge
    _, cache = bridge.run_with_cache(small.inputs.tokens, attention_mask=small.inputs.key_mask)
    writing = [
        (layer, 0) for layer in range(4) if cache[f"blocks.{layer}.hook_attn_out"].abs().max() > 0
    ]
    assert active_heads(bridge) == writing == ACTIVE
    learned = make_bridge(small.shape)
    assert active_heads(learned) == [(layer, head) for layer in range(2) for head in range(2)]
    weights = plain_weights(learned)
    weights["layers.1.attn.o.weight"][:, :8] = 0
    assert active_heads(make_bridge(small.shape, weights)) == [(0, 0), (0, 1), (1, 1)]
    weights = plain_weights(learned)
    weights["layers.0.attn.v.weight"][8:] = 0
    weights["layers.0.attn.v.bias"][:] = 0
    assert active_heads(make_bridge(small.shape, weights)) == [(0, 0), (1, 0), (1, 1)]
    weights["layers.0.attn.v.bias"][-1] = 1  # a constant output counts as active
    assert (0, 1) in active_heads(make_bridge(small.shape, weights))


def test_every_pair_has_its_overlap(
    small: MeasurementContext, recording: Recording, rows: Rows
) -> None:
    defined = small.inputs.defined.numpy()
    ours = [(layer, head) for layer in range(2) for head in range(2)]
    pairs = {subject for name, subject in rows if name == "overlap"}
    assert pairs == {f"{name_of(a)}~{name_of(b)}" for a in ACTIVE for b in ours}
    for theirs, head in itertools.product(ACTIVE, ours):
        row = rows["overlap", f"{name_of(theirs)}~{name_of(head)}"]
        compiled = pattern(small.reference.bridge, small, theirs)
        wanted = overlap(compiled, pattern(recording.bridge, small, head), defined)
        assert row.value == pytest.approx(wanted, abs=1e-6)
        assert row.n == defined.sum()


def test_heads_are_matched_so_that_their_overlaps_are_largest_in_sum(rows: Rows) -> None:
    ours = [(layer, head) for layer in range(2) for head in range(2)]
    values = [[rows["overlap", f"{name_of(a)}~{name_of(b)}"].value for b in ours] for a in ACTIVE]
    best = max(itertools.permutations(range(4), 2), key=lambda p: values[0][p[0]] + values[1][p[1]])
    for i, theirs in enumerate(ACTIVE):
        row = rows["matched_overlap", name_of(theirs)]
        assert row.value == pytest.approx(values[i][best[i]], abs=1e-9)
        assert row.ci_low is not None
        assert row.ci_high is not None
        assert row.ci_low <= row.value <= row.ci_high


def test_the_models_interval_is_a_bootstrap_over_inputs(
    small: MeasurementContext, recording: Recording, rows: Rows
) -> None:
    comparison, generator = compare(recording, small), np.random.default_rng(0)
    (telling,) = [i for i, head in enumerate(ACTIVE) if head == (3, 0)]
    best = int(comparison.means[telling].argmax())
    sums, count = comparison.sums[:, telling, best].numpy(), comparison.count.numpy()
    chosen = generator.integers(len(sums), size=(4000, len(sums)))
    drawn = sums[chosen].sum(1) / count[chosen].sum(1)
    row = rows["matched_overlap", "model"]
    assert row.value == pytest.approx(sums.sum() / count.sum())
    ends = np.percentile(drawn, [2.5, 97.5])
    assert (row.ci_low, row.ci_high) == pytest.approx(ends, abs=0.6 * drawn.std())


def uniform_attention(context: MeasurementContext) -> Any:
    """Uniform attention over all keys that are allowed."""
    inputs, n_pos = context.inputs, context.inputs.tokens.shape[1]
    may = np.broadcast_to(inputs.key_mask.numpy()[:, None], (len(inputs), n_pos, n_pos))
    may = may & np.tri(n_pos, dtype=bool) if inputs.task.causal else may
    return may / may.sum(-1, keepdims=True)


@pytest.mark.parametrize("task", ["reverse", "frac_prevs", "previous_token", "shift_by"])
def test_a_references_attention_is_its_own(task: str, small: MeasurementContext) -> None:
    context = small if task == "reverse" else prepare(compose([f"task={task}", *SMALL]))
    bridge, rows = context.reference.bridge, of_source(context.reference_source, context)
    heads, defined = active_heads(bridge), context.inputs.defined.numpy()
    assert heads
    for head in heads:
        assert rows["matched_overlap", name_of(head)].value == pytest.approx(1, abs=1e-6)
        wanted = overlap(pattern(bridge, context, head), uniform_attention(context), defined)
        assert rows["uniform_overlap", name_of(head)].value == pytest.approx(wanted, abs=1e-6)
    assert rows["matched_overlap", "model"].value == pytest.approx(1, abs=1e-6)
    names = {subject for name, subject in rows if name == "matched_overlap"}
    assert names == {"model", *map(name_of, heads)}


def test_uniform_heads_are_left_out_of_the_models_figure(
    small: MeasurementContext, rows: Rows
) -> None:
    uniform = {head: rows["uniform_overlap", name_of(head)].value for head in ACTIVE}
    assert uniform[0, 0] > UNIFORM > uniform[3, 0]  # head 0.0 counts, head 3.0 moves tokens
    alone = [row.value for (name, subject), row in rows.items()
             if name == "overlap" and subject.startswith(name_of((3, 0)))]  # fmt: skip
    assert rows["matched_overlap", "model"].value == pytest.approx(max(alone))


def test_where_all_heads_are_uniform_the_model_has_no_figure(rows: Rows) -> None:
    context = prepare(compose(["task=length", *SMALL]))
    length = of_source(context.reference_source, context)
    uniform = [row.value for (name, _), row in length.items() if name == "uniform_overlap"]
    assert uniform
    assert min(uniform) > UNIFORM
    assert ("matched_overlap", "model") in rows
    assert not [name for name, subject in length if subject == "model"]


def test_the_references_heads_in_another_order_are_found_again(small: MeasurementContext) -> None:
    placed = {(0, 0): [2], (1, 0): [0], (2, 0): [1], (3, 0): [1]}
    bridge = with_heads(small.reference.bridge, placed, 3)
    source = record(bridge, small.inputs, 2048)
    assert active_heads(bridge) == [(0, 2), (3, 1)]
    rows = of_source(source, small)
    for head in ACTIVE:
        assert rows["matched_overlap", name_of(head)].value == pytest.approx(1, abs=1e-5)
    assert rows["matched_overlap", "model"].value == pytest.approx(1, abs=1e-5)
    pair = f"{name_of((3, 0))}~{name_of((3, 1))}"
    assert rows["overlap", pair].value == pytest.approx(1, abs=1e-5)


def test_a_head_that_finds_no_partner_counts_as_nothing(small: MeasurementContext) -> None:
    shape = varied(small.shape, n_layers=1, n_heads=1)
    rows = of_source(record(make_bridge(shape), small.inputs, 2048), small)
    values = [rows["matched_overlap", name_of(head)].value for head in ACTIVE]
    assert min(values) == 0
    assert max(values) > 0
    assert rows["matched_overlap", "model"].value > 0  # only the non-uniform head enters it


def test_the_controls_are_random_inits_and_other_tasks(
    small: MeasurementContext, rows: Rows
) -> None:
    defined = small.inputs.defined.numpy()
    theirs = pattern(small.reference.bridge, small, (3, 0))
    models = {
        "random_init": random_inits(small.shape, 2, small.config.seed, "cpu"),
        "other_task": small.once("other tasks", small.others),
    }
    for suffix, bridges in models.items():
        values = []
        for bridge in bridges:
            heads = itertools.product(range(bridge.cfg.n_layers), range(bridge.cfg.n_heads))
            scores = [overlap(theirs, pattern(bridge, small, head), defined) for head in heads]
            values.append(max(scores))
        row = rows[f"matched_overlap_{suffix}", "model"]
        assert row.value == pytest.approx(np.mean(values), abs=1e-6)
        assert (row.ci_low, row.ci_high) == pytest.approx((min(values), max(values)), abs=1e-6)
        assert row.ci_high is not None
        assert row.ci_high < 0.9
