"""Heads are named by their selectors: compiled heads correctly, random inits not at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.models import bridge_of, with_heads

from algomatch.analysis.activations import Recording, record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.explain.attention_patterns import ELSE_BOS, of_programs, selectors
from algomatch.analysis.explain.attention_tables import Tables, scores_of
from algomatch.analysis.explain.heads import (
    HeadComparison,
    HeadExplanations,
    active_heads,
    explain_heads,
)
from algomatch.analysis.explain.position_features import features, held_out
from algomatch.analysis.head_attention import PATTERN
from algomatch.models.shapes import random_inits


def search_of(context: MeasurementContext) -> HeadComparison:
    inputs = context.inputs
    own = of_programs([("reverse", inputs)])
    return HeadComparison(inputs, features(inputs), held_out(inputs, 0), own, context.config)


@pytest.fixture(scope="module")
def reference(small: MeasurementContext) -> tuple[Recording, HeadExplanations]:
    recording = record(small.reference.bridge, small.inputs, 512)
    inits = random_inits(small.reference.bridge.cfg, 2, 0, "cpu")
    untrained = [record(init, small.inputs, 512) for init in inits]
    return recording, explain_heads(recording, untrained, search_of(small))


@pytest.fixture(scope="module")
def other(small: MeasurementContext) -> tuple[Recording, HeadExplanations]:
    recording = record(bridge_of("2L with LN", small), small.inputs, 512)
    return recording, explain_heads(recording, [], search_of(small))


def test_the_compiled_heads_are_named(reference: tuple[Recording, HeadExplanations]) -> None:
    active = [head for head in reference[1].heads if head.active]
    assert [head.hard.selector.names[0] for head in active] == ["everything", "reverse_selector"]
    assert "mirror" in active[1].hard.selector.names
    for head in active:
        assert head.level == "selector"
        assert head.hard.scored.value == pytest.approx(1.0, abs=1e-4)
        assert head.hard.scored.low == pytest.approx(1.0, abs=1e-4)
        assert head.hard.at_bos == "itself"
        assert head.hard.mass == pytest.approx(1.0, abs=1e-4)
        assert head.hard.runner_up.value < 0.95
        assert head.hard.untrained < 0.95
    assert [head.level for head in reference[1].heads if not head.active] == ["inactive"] * 2


def test_heads_that_write_nothing_are_inactive(small: MeasurementContext) -> None:
    bridge = with_heads(small.reference.bridge, {(0, 0): [1], (3, 0): [0]}, 2)
    assert active_heads(record(bridge, small.inputs, 512), 0) == {(0, 1), (3, 0)}


def test_scores_are_numpys(
    small: MeasurementContext, other: tuple[Recording, HeadExplanations]
) -> None:
    inputs, (recording, heads) = small.inputs, other
    by_name = {selector.name: selector for selector in selectors(inputs, search_of(small).programs)}
    for head in heads.heads:
        pattern = recording[f"blocks.{head.layer}.{PATTERN}"][:, head.head].numpy()
        last = head.layer == recording.bridge.cfg.n_layers - 1
        total, count = 0.0, 0
        chosen = by_name[head.hard.scored.name].selected.numpy()
        for row in range(len(inputs)):
            length = int(inputs.lengths[row])
            for query in range(1 if last else 0, length + 1):
                wanted = chosen[row, query].astype(float)
                if query == 0:
                    wanted = head.hard.pattern[row, 0].numpy()
                wanted = wanted / wanted.sum()
                total += 1 - 0.5 * np.abs(pattern[row, query] - wanted).sum()
                count += 1
        assert head.hard.scored.value == pytest.approx(total / count, abs=1e-5)
        assert head.hard.scored.low <= head.hard.scored.value <= head.hard.scored.high
        assert head.hard.scored.value >= head.hard.runner_up.value


def test_a_random_init_meets_no_selector_but_everything(small: MeasurementContext) -> None:
    (untrained,) = random_inits(small.shape, 1, 0, "cpu")
    heads = explain_heads(record(untrained, small.inputs, 512), [], search_of(small))
    for head in heads.heads:
        assert head.hard.scored.name == "everything"
        assert head.uniform > 0.8
    mirror = next(
        selector
        for selector in selectors(small.inputs)
        if selector.names[0] == "mirror" and selector.form == ELSE_BOS
    )
    seen = record(untrained, small.inputs, 512)[f"blocks.0.{PATTERN}"][:, 0]
    assert float((seen * mirror.pattern).sum(-1)[small.inputs.real].mean()) < 0.5


def test_a_table_is_the_mean_score_of_its_cells(
    small: MeasurementContext, other: tuple[Recording, HeadExplanations]
) -> None:
    search, recording = search_of(small), other[0]
    tables = Tables(small.inputs, search.features, ~search.held_out)
    pattern = recording[f"blocks.1.{PATTERN}"]
    fitted = {kind.name: (size, given) for kind, size, given in tables.fitted(pattern)}
    scores = scores_of(pattern)
    row = int(torch.nonzero((small.inputs.lengths == 3) & search.held_out)[0])
    train = ~search.held_out
    for name, same in (
        ("positions", train & (small.inputs.lengths >= 3)),
        ("length, positions", train & (small.inputs.lengths == 3)),
    ):
        size, given = fitted[name]
        expected = np.zeros(4)
        for key in range(4):
            rows = same if name != "positions" else train & (small.inputs.lengths >= max(key, 2))
            expected[key] = float(scores[rows, 0, 2, key].double().mean())
        wanted = np.exp(expected) / np.exp(expected).sum()
        assert given[row, 0, 2, :4].numpy() == pytest.approx(wanted, abs=1e-5)
        assert size == {"positions": 25, "length, positions": 4 + 9 + 16 + 25}[name]
        assert torch.allclose(given.sum(-1)[:, 0], small.inputs.key_mask.float())


def test_a_heads_table_is_fitted_to_some_inputs_and_judged_on_the_others(
    small: MeasurementContext, other: tuple[Recording, HeadExplanations]
) -> None:
    search, (recording, heads) = search_of(small), other
    by_rows = {
        whole: Tables(small.inputs, search.features, whole | ~search.held_out)
        for whole in (torch.tensor(False), torch.tensor(True))
    }
    apart = 0
    for head in heads.heads:
        pattern = recording[f"blocks.{head.layer}.{PATTERN}"][:, [head.head]]
        fits = [
            next(given for kind, _, given in tables.fitted(pattern) if kind == head.table.kind)
            for tables in by_rows.values()
        ]
        rows = torch.nonzero(search.held_out)[:, 0].tolist()
        first = 1 if head.layer == recording.bridge.cfg.n_layers - 1 else 0
        scores = []
        for given in fits:
            common = torch.minimum(pattern, given).sum(-1)[:, 0]
            counted = [common[row, first : int(small.inputs.lengths[row]) + 1] for row in rows]
            scores.append(float(torch.cat(counted).mean()))
        assert head.table.scored.value == pytest.approx(scores[0], abs=1e-5)
        apart += abs(scores[0] - scores[1]) > 1e-4
    assert apart  # fitted to the judged inputs too, tables would score otherwise


def test_a_first_layer_is_a_table_of_positions_and_tokens(
    other: tuple[Recording, HeadExplanations],
) -> None:
    first = [head for head in other[1].heads if head.layer == 0]
    assert first
    for head in first:
        assert head.table.scored.value >= 0.95


def test_a_table_of_the_reference_needs_no_tokens(
    reference: tuple[Recording, HeadExplanations],
) -> None:
    for head in reference[1].heads:
        assert "token" not in head.table.kind.query + head.table.kind.key
        assert head.table.scored.value == pytest.approx(1.0, abs=1e-3)


def test_heads_that_share_a_selector_are_found_together(small: MeasurementContext) -> None:
    recording = record(bridge_of("2L with LN", small), small.inputs, 512)
    inputs = small.inputs
    mirror = next(selector for selector in selectors(inputs) if selector.names[0] == "mirror")
    noise = torch.zeros_like(mirror.pattern)
    noise[..., 1] = 1.0
    even = (torch.arange(len(inputs)) % 2 == 0)[:, None, None]
    halves = [
        torch.where(even, mirror.pattern, 0.5 * mirror.pattern + 0.5 * noise),
        torch.where(even, 0.5 * mirror.pattern + 0.5 * noise, mirror.pattern),
    ]
    itself = torch.zeros_like(noise)
    itself[:, 0, 0] = 1.0
    given = torch.stack([half * inputs.real[:, :, None] + itself for half in halves], dim=1)
    apart = given.clone()
    apart[:, 0] = torch.where(
        even, mirror.pattern + itself, noise * inputs.real[:, :, None] + itself
    )
    apart[:, 1] = torch.where(
        even, noise * inputs.real[:, :, None] + itself, mirror.pattern + itself
    )
    for patterns, joint in ((given, False), (apart, False)):
        activations = {**recording.activations, f"blocks.0.{PATTERN}": patterns}
        made = Recording(recording.bridge, inputs, recording.logits, activations)
        heads = explain_heads(made, [], search_of(small))
        assert any(group.layer == 0 for group in heads.joint) == joint
