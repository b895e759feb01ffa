"""Undefined outputs and causal masks: which positions and inputs count in each measure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from algomatch.analysis.activations import Recording, record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures import ablation, accuracy, similarity
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.models.bridges import make_bridge, make_native
from algomatch.models.shapes import random_inits
from algomatch.models.training import exact_accuracy

SMALL = (
    "task.vocabulary=[a,b]", "task.max_length=4", "task.held_out=0.3", "model=2L",
    "model.d_model=16", "model.n_heads=2", "analysis.bootstrap=100", "analysis.random_inits=2",
    "analysis.other_tasks=0",
)  # fmt: skip
TASKS = ("shift_by", "previous_token", "induction")
Rows = dict[tuple[str, str], Measurement]


@pytest.fixture(scope="module", params=TASKS)
def context(request: pytest.FixtureRequest) -> MeasurementContext:
    """Tasks whose output is undefined at the first positions. Two are causal."""
    return prepare(compose([f"task={request.param}", *SMALL]))


@pytest.fixture(scope="module")
def recording(context: MeasurementContext) -> Recording:
    """A recording that is right at about half of the positions."""
    inputs, generator = context.inputs, torch.Generator().manual_seed(0)
    recording = record(make_bridge(context.shape), inputs, 2048)
    targets = inputs.targets.clamp(min=0)
    wrong = torch.rand(targets.shape, generator=generator) < 0.5
    given = torch.where(wrong, 1 - targets, targets)
    return replace(recording, logits=torch.nn.functional.one_hot(given).float())


def rows_of(measured: Any) -> Rows:
    """Rows by the measure's short name and subject."""
    return {(row.measure.partition("/")[2], row.subject): row for row in measured}


def answers(tokens: list[Any], task: str) -> list[Any]:
    """The task's outputs in plain Python, None where undefined."""
    if task == "shift_by":
        return [None, None, *tokens][: len(tokens)]
    if task == "previous_token":
        return [None, *tokens][: len(tokens)]
    outputs = []
    for i, token in enumerate(tokens):
        earlier = [j for j in range(i) if tokens[j] == token]
        outputs.append(tokens[earlier[-1] + 1] if earlier else None)
    return outputs


def test_targets_are_what_the_task_says_and_elsewhere_there_are_none(
    context: MeasurementContext,
) -> None:
    inputs = context.inputs
    for row in range(len(inputs)):
        tokens = inputs.listed(row)
        got = [
            inputs.output.decode(torch.eye(2)[[code]])[0] if code >= 0 else None
            for code in inputs.targets[row, 1 : len(tokens) + 1].tolist()
        ]
        assert got == answers(tokens, inputs.task.name), tokens
        assert not inputs.defined[row, len(tokens) + 1 :].any()
        assert not inputs.defined[row, 0]


def test_inputs_without_any_output_count_in_no_accuracy(
    context: MeasurementContext, recording: Recording
) -> None:
    inputs, rows = context.inputs, rows_of(accuracy.measure(recording, context))
    outputs = [answers(inputs.listed(i), inputs.task.name) for i in range(len(inputs))]
    given = recording.logits.argmax(-1).tolist()
    right = [
        [
            inputs.output.decode(torch.eye(2)[[given[i][1 + place]]])[0] == wanted
            for place, wanted in enumerate(expected)
            if wanted is not None
        ]
        for i, expected in enumerate(outputs)
    ]
    silent = 0
    for split in accuracy.SPLITS:
        for length in (None, *inputs.task.lengths):
            chosen = inputs.rows(split, length).tolist()
            kept = [hits for hits, there in zip(right, chosen, strict=True) if there and hits]
            subject = split if length is None else f"{split}.length_{length}"
            assert (("exact", subject) in rows) == bool(kept)
            silent += any(chosen) and not kept
            if kept:
                exact, token = rows["exact", subject], rows["token", subject]
                every = [good for hits in kept for good in hits]
                assert (exact.n, token.n) == (len(kept), len(every))
                assert exact.value == pytest.approx(np.mean([all(hits) for hits in kept]))
                assert token.value == pytest.approx(np.mean(every))
                assert rows["loss", subject].n == len(every)
    assert silent  # some lengths, such as 1, have inputs but no row
    assert 0 < rows["exact", "all"].value < rows["token", "all"].value < 1


def test_the_undefined_share_is_of_the_lists_positions(
    context: MeasurementContext, recording: Recording
) -> None:
    inputs = context.inputs
    every = [v for i in range(len(inputs)) for v in answers(inputs.listed(i), inputs.task.name)]
    row = rows_of(accuracy.measure(recording, context))["undefined_share", "all"]
    assert row.n == len(every) == 2 + 2 * 4 + 3 * 8 + 4 * 16
    assert row.value == every.count(None) / len(every)
    assert row.value > 0.2


def test_what_a_model_says_where_there_is_no_output_changes_nothing(
    context: MeasurementContext, recording: Recording
) -> None:
    noise = 100 * torch.randn(recording.logits.shape, generator=torch.Generator().manual_seed(1))
    logits = torch.where(context.inputs.defined[..., None], recording.logits, noise)
    assert not torch.equal(logits.argmax(-1), recording.logits.argmax(-1))
    wanted = rows_of(accuracy.measure(recording, context))
    other = replace(recording, logits=logits)
    assert rows_of(accuracy.measure(other, context)) == wanted


def test_the_training_loops_accuracy_leaves_them_out_too(context: MeasurementContext) -> None:
    inputs = context.inputs
    assert exact_accuracy(context.reference.bridge.original_model, inputs, 7) == 1.0
    measured = rows_of(accuracy.measure(record(make_bridge(context.shape), inputs, 2048), context))[
        "exact", "all"
    ]
    value = exact_accuracy(make_native(context.shape).eval(), inputs, 7)
    assert value == pytest.approx(measured.value, abs=1e-12)
    assert measured.n < len(inputs)


def test_ablation_counts_the_inputs_with_an_output(context: MeasurementContext) -> None:
    answered = int(context.inputs.defined.any(1).sum())
    reference = context.reference_source.at(slice(0, len(context.inputs)))
    rows = rows_of(ablation.measure(reference, context))
    assert {
        row.n for (name, s), row in rows.items() if "_delta_" in name and "length" not in s
    } == {answered}
    for length in context.inputs.task.lengths:
        of_length = int(context.inputs.defined[context.inputs.rows("all", length)].any(1).sum())
        counts = {row.n for (_, s), row in rows.items() if s.endswith(f".length_{length}")}
        assert counts == ({of_length} if of_length else set())
    last = f"blocks.{reference.bridge.cfg.n_layers - 1}.hook_attn_out"
    row = rows["zero_delta_exact", last]
    logits = reference.bridge.run_with_hooks(
        context.inputs.tokens,
        attention_mask=context.inputs.key_mask,
        fwd_hooks=[(last, lambda value, hook: torch.zeros_like(value))],
    )
    bad = (logits.argmax(-1) != context.inputs.targets) & context.inputs.defined
    assert row.value == pytest.approx(-float(bad.any(1).sum()) / answered)
    assert row.value < -0.3


def test_similarity_has_a_case_for_each_position_with_an_output(
    context: MeasurementContext, recording: Recording
) -> None:
    rows = list(similarity.measure(recording, context))
    assert {row.n for row in rows} == {int(context.inputs.defined.sum())}
    name = context.inputs.task.name
    of_reference = rows_of(rows)["best_deconfounded_cka_reference", name]
    assert of_reference.value > 0.5


def test_a_variable_undefined_where_the_output_is_defined_says_so_in_a_column() -> None:
    context = prepare(compose(["task=contains", *SMALL]))
    inputs = context.inputs
    gaps = {
        name: (inputs.defined & ~variable.defined)[inputs.defined]
        for name, variable in inputs.variables.items()
    }
    ends = inputs.variables["pattern_ends"]
    assert gaps["pattern_ends"].any()
    columns = similarity.as_columns(ends, inputs.defined)
    assert torch.equal(columns[:, len(ends.values)].bool(), gaps["pattern_ends"])
    assert (columns.sum(1) == 1).all()


def test_the_models_of_a_causal_task_are_causal(context: MeasurementContext) -> None:
    inputs = context.inputs
    wanted = "bidirectional" if inputs.task.name == "shift_by" else "causal"
    controls = random_inits(context.shape, 1, 0, "cpu")
    for bridge in (context.reference.bridge, make_bridge(context.shape), *controls):
        assert bridge.cfg.attention_dir == wanted
        tokens = inputs.tokens[inputs.rows("all", 4)][[0, -1]].clone()
        tokens[1, :4] = tokens[0, :4]
        assert tokens[0, 4] != tokens[1, 4]
        mask = torch.ones_like(tokens, dtype=torch.bool)
        _, cache = bridge.run_with_cache(tokens, attention_mask=mask)
        for layer in range(bridge.cfg.n_layers):
            patterns = cache[f"blocks.{layer}.attn.hook_pattern"]
            ahead = torch.ones(patterns.shape[-2:], dtype=torch.bool).triu(1)
            assert bool(patterns[..., ahead].any()) == (wanted == "bidirectional")
