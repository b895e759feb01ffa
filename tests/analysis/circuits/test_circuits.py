"""Circuits against the true circuits of compiled models, numpy and scikit-learn."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from support.models import SHAPES, bridge_of
from torch import Tensor

from algomatch.analysis.ablation_names import KINDS
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.circuits.circuit_result import auroc
from algomatch.analysis.circuits.edge_scores import (
    AblatedGraph,
    Scores,
    acdc,
    all_edges,
    attribution,
    cases_of,
    divergence,
    exact,
    losses,
    reaching,
    top,
    visible,
)
from algomatch.analysis.circuits.edge_variables import partitions, variables_on_edges
from algomatch.analysis.circuits.faithfulness import (
    by_length,
    completed,
    curve,
    judged,
    minimal,
    needed,
    rated,
    sizes,
    smallest,
)
from algomatch.analysis.circuits.true_circuit import read_dimensions, true_edges, written_dimensions
from algomatch.api.circuit import circuits_of
from algomatch.config.composition import compose
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.outputs import Categorical, Numerical
from algomatch.data.tasks import make_task
from algomatch.models.bridges import make_bridge
from algomatch.models.continuation import without_hooks
from algomatch.models.reference import Reference, build_reference
from algomatch.models.shapes import learned_shape
from algomatch.models.task_model import task_model_of
from algomatch.models.training import fit
from algomatch.models.wiring import Wiring, wired
from algomatch.report.figures.circuit_figures import curves_figure, graph_figure
from algomatch.runs.loaded_run import LoadedReference

COMPILED = {
    "reverse": ("task.vocabulary=[a,b,c]", "task.max_length=5"),
    "frac_prevs": ("task.vocabulary=[a,b,c]", "task.max_length=4"),
    "sort": ("task.vocabulary=[1,2,3]", "task.max_length=4"),
    "hist": ("task.vocabulary=[a,b,c]", "task.max_length=4"),
}  # fmt: skip
PATHS = {  # the variable on each edge of the true circuit of compiled reverse
    "tokens -> 3.0 v": "tokens", "3.0 -> output": "reverse", "mlp 2 -> 3.0 q": "opp_idx-1",
    "mlp 1 -> mlp 2": "opp_idx", "mlp 0 -> mlp 1": "length", "0.0 -> mlp 0": "length",
    "positions -> mlp 1": "indices", "positions -> 3.0 k": "indices",
}  # fmt: skip


@cache
def compiled(task: str) -> tuple[InputSet, Reference, Wiring]:
    config = compose([f"task={task}", *COMPILED[task], "task.held_out=0"])
    inputs = input_set(make_task(config.task), config.task)
    reference = build_reference(inputs)
    return inputs, reference, wired(reference.bridge, inputs.tokens[:20], inputs.key_mask[:20])


def ablated(task: str, kind: str, count: int | None = None) -> AblatedGraph:
    inputs, reference, wiring = compiled(task)
    rows = None if count is None else torch.arange(0, len(inputs), max(1, len(inputs) // count))
    return AblatedGraph(
        wiring, cases_of(inputs, task_model_of(reference.bridge, inputs), 0, rows), kind
    )


@cache
def truth(task: str) -> Tensor:
    _, reference, wiring = compiled(task)
    return true_edges(without_hooks(reference.bridge), wiring)


def labels(wiring: Wiring, mask: Tensor) -> set[str]:
    return {wiring.edge_label(edge) for edge in wiring.edges if mask[edge]}


# The true circuit


def test_the_true_circuit_of_reverse_is_what_its_program_says() -> None:
    _, reference, wiring = compiled("reverse")
    real, model = truth("reverse"), without_hooks(reference.bridge)
    assert labels(wiring, real) >= set(PATHS)
    for edge in wiring.edges:
        name = wiring.edge_label(edge)
        shared = read_dimensions(model, wiring.readers[edge.reader]) & written_dimensions(
            model,
            wiring.nodes[edge.node],
        )
        of = {reference.compiled.residual_labels[i].split(":")[0] for i in torch.nonzero(shared)}
        if name in PATHS and name != "0.0 -> mlp 0":  # this edge carries the selector's width
            assert PATHS[name] in of
    constant = labels(wiring, real) - set(PATHS)
    assert all(name.startswith("tokens ->") for name in constant), "BOS and the constant one"


@pytest.mark.parametrize("task", COMPILED)
def test_an_edge_that_is_not_real_does_nothing_at_all(task: str) -> None:
    """Noise on such an edge changes nothing, so the weights were read correctly."""
    _, reference, wiring = compiled(task)
    ablation = ablated(task, "zero")
    noise = torch.randn(ablation.intact.written.shape, generator=torch.Generator().manual_seed(3))
    model: Any = without_hooks(reference.bridge)
    for i, node in enumerate(wiring.nodes):
        noise[i] *= written_dimensions(model, node)
    noisy = AblatedGraph(wiring, ablation.cases, "zero", ablation.intact.written + noise)
    scores = exact(noisy).values
    real = torch.tensor([bool(truth(task)[edge]) for edge in wiring.edges])
    assert not scores[~real].any()
    assert scores[real].any()


# Finding the circuit


@pytest.mark.parametrize("task", COMPILED)
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_ablation_sees_is_found_and_nothing_else(task: str, kind: str) -> None:
    ablation, real = ablated(task, kind), truth(task)
    seen = visible(ablation, real)
    for scores in (exact(ablation), attribution(ablation), attribution(ablation, 5)):
        unreal = [not real[edge] for edge in ablation.wiring.edges]
        assert not scores.values[unreal].any(), scores.method
        if (task, kind) != ("sort", "zero"):  # there, two real edges change no output
            assert auroc(scores, ablation.wiring, seen, real & ~seen) == 1
    kept = acdc(ablation, 1e-4)
    assert not (kept & ~real).any()
    if (task, kind) != ("sort", "zero"):
        assert torch.equal(kept & seen, seen)


@pytest.mark.parametrize(
    ("kind", "missed"),
    [
        ("zero", {"tokens -> 0.0 q", "tokens -> 0.0 k", "tokens -> 3.0 q", "tokens -> 3.0 k"}),
        ("resample_within", set(PATHS) - {"tokens -> 3.0 v", "3.0 -> output"}),
    ],
)
def test_what_an_ablation_cannot_see_of_reverse_is_named(kind: str, missed: set[str]) -> None:
    ablation = ablated("reverse", kind)
    hidden = labels(ablation.wiring, truth("reverse") & ~visible(ablation, truth("reverse")))
    assert hidden >= missed
    if kind == "zero":
        assert hidden == missed


def test_gradients_of_compiled_models_fall_back() -> None:
    ablation = ablated("reverse", "resample_across")
    assert attribution(ablation).fallen_back > 0
    hooked = attribution(ablation, 5)
    assert hooked.method == "eap_ig"
    assert 0 < hooked.fallen_back < len(ablation.wiring.edges)


@pytest.fixture(scope="module", params=["2L with LN", "attn_only", "1L gelu without LN"])
def learned(request: pytest.FixtureRequest, small: MeasurementContext) -> AblatedGraph:
    assert request.param in SHAPES
    bridge, inputs = bridge_of(request.param, small), small.inputs
    wiring = wired(bridge, inputs.tokens, inputs.key_mask)
    return AblatedGraph(
        wiring, cases_of(inputs, task_model_of(bridge, inputs), 0), "resample_across"
    )


def test_attribution_is_the_slope_of_what_an_edge_does_to_the_loss(learned: AblatedGraph) -> None:
    """Compared with a finite difference: a small step of the change on each edge."""
    scores, wiring, step = attribution(learned), learned.wiring, 1e-2
    change = learned.other - learned.intact.written
    for i in range(0, len(wiring.edges), 7):
        edge = wiring.edges[i]
        stream = wiring.stream(edge.reader, learned.intact.written)
        stack = torch.stack([-step * change[edge.node], step * change[edge.node]])
        logits = wiring.patched(edge.reader, stream, stack, learned.intact, learned.key_mask)
        below, above = losses(learned.inputs, learned.read(logits)).mean(-1).tolist()
        assert float(scores.values[i]) == pytest.approx(
            abs(above - below) / (2 * step), rel=0.1, abs=3e-4
        )


def test_a_node_is_all_edges_from_it(learned: AblatedGraph) -> None:
    """A node's score is the effect of changing its output for all its readers at once."""
    wiring, scores = learned.wiring, exact(learned)
    last = len(wiring.nodes) - 1  # its only edge goes to the output
    (alone,) = [i for i, edge in enumerate(wiring.edges) if edge.node == last]
    torch.testing.assert_close(scores.nodes[last], scores.values[alone], atol=1e-6, rtol=1e-4)
    change = learned.other - learned.intact.written
    slopes = attribution(learned)
    for u in (0, len(wiring.nodes) // 2, last):
        step = 1e-2
        losses_at = []
        for sign in (-1, 1):
            other = learned.intact.written + sign * step * change
            removed = torch.zeros(len(wiring.readers), len(wiring.nodes), dtype=torch.bool)
            removed[:, u] = True
            moved = AblatedGraph(wiring, learned.cases, learned.kind, other).without(removed)
            losses_at.append(float(losses(learned.inputs, learned.read(moved)).mean()))
        slope = abs(losses_at[1] - losses_at[0]) / (2 * step)
        assert float(slopes.nodes[u]) == pytest.approx(slope, rel=0.1, abs=5e-4)


def test_integrated_gradients_over_embeddings_add_up_to_the_change_of_the_loss(
    learned: AblatedGraph,
) -> None:
    """Completeness (Sundararajan et al. 2017), with only the embeddings changed."""
    wiring = learned.wiring
    count = len(wiring.embedded(learned.tokens))
    none = wiring.run(
        learned.tokens, learned.key_mask, embeddings=learned.other[:count].clone()
    ).logits
    change = losses(learned.inputs, learned.read(none)) - losses(learned.inputs, learned.outputs)
    steps, total = 200, torch.zeros(len(learned.inputs), dtype=torch.float64)
    own = wiring.embedded(learned.tokens)
    for i in range(steps):
        given = learned.other[:count] + (i + 0.5) / steps * (own - learned.other[:count])
        given = given.detach().requires_grad_()
        with torch.enable_grad():
            run = wiring.run(learned.tokens, learned.key_mask, embeddings=given)
            loss = losses(learned.inputs, learned.read(run.logits)).sum()
            (slope,) = torch.autograd.grad(loss, [given])
        total += (slope * (learned.other[:count] - own)).sum((0, 2, 3)).double() / steps
    torch.testing.assert_close(total, change, atol=2e-2, rtol=2e-2)


def test_acdc_keeps_more_the_less_it_may_lose(learned: AblatedGraph) -> None:
    counts = [int(acdc(learned, threshold).sum()) for threshold in (1e-4, 1e-2, 1.0)]
    assert counts[0] >= counts[1] >= counts[2]
    assert counts[0] > counts[2]


def test_divergences_are_those_of_the_definitions() -> None:
    generator = np.random.default_rng(0)
    logits, other = (generator.normal(size=(3, 4, 5)).astype(np.float32) for _ in range(2))
    defined = generator.random((3, 4)) < 0.7
    p, q = (np.exp(x.astype(float)) / np.exp(x.astype(float)).sum(-1, keepdims=True)
            for x in (logits, other))  # fmt: skip
    kl = (p * np.log(p / q)).sum(-1)
    expected = (kl * defined).sum(-1) / np.maximum(defined.sum(-1), 1)
    given, intact, where = map(torch.from_numpy, (other, logits, defined))
    divergences = divergence(Categorical((0, 1, 2, 3, 4)), given, intact, where)
    np.testing.assert_allclose(divergences, expected, atol=1e-9)
    squared = ((logits - other)[..., 0].astype(float) ** 2 * defined).sum(-1)
    divergences = divergence(Numerical(0.1), given[..., :1], intact[..., :1], where)
    np.testing.assert_allclose(divergences, squared / np.maximum(defined.sum(-1), 1), atol=1e-9)


# Faithfulness and minimality


@pytest.mark.parametrize("kind", KINDS)
def test_all_edges_are_the_model_and_none_are_nothing_of_it(
    kind: str, learned: AblatedGraph
) -> None:
    ablation = AblatedGraph(learned.wiring, learned.cases, kind)
    every = all_edges(ablation.wiring)
    (whole, none) = rated(ablation, "", [every, torch.zeros_like(every)], 50, 0)
    assert whole.faithfulness.value == pytest.approx(1, abs=1e-6)
    assert none.faithfulness.value == 0
    filled = [completed(ablation, each, 50, 0).completeness for each in (whole, none)]
    assert [share.value for share in filled if share] == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_the_inputs_give_what_all_at_once_do(
    kind: str, learned: AblatedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    ablation = AblatedGraph(learned.wiring, learned.cases, kind)
    scores = Scores(
        "", kind, torch.rand(len(ablation.wiring.edges)).double(), torch.empty(0).double()
    )
    circuit = top(ablation.wiring, scores, len(ablation.wiring.edges) // 2)
    apart = ablation.divergence(ablation.without(all_edges(ablation.wiring) & ~circuit))
    whole = judged(ablation, [circuit])
    monkeypatch.setattr("algomatch.analysis.circuits.faithfulness.HELD_NUMBERS", 40_000)
    parts = judged(ablation, [circuit])
    for judgement in (whole, parts):
        torch.testing.assert_close(judgement.divergence[0], apart, atol=1e-4, rtol=1e-4)
    assert torch.equal(whole.exact, parts.exact)


def test_the_true_circuit_of_a_compiled_model_is_faithful_and_minimal() -> None:
    ablation = ablated("reverse", "resample_across")
    seen = visible(ablation, truth("reverse"))
    (circuit,) = rated(ablation, "", [seen], 50, 0)
    assert circuit.faithfulness.low > 0.999
    rest = completed(ablation, circuit, 50, 0).completeness
    assert rest is not None
    assert rest.high < 0.001
    assert circuit.exact.value == 1
    assert all(share.low > 0 for share in needed(ablation, seen).shares(50, 0).values())
    lengths = by_length(ablation, seen, 50, 0)
    assert set(lengths) == {1, 2, 3, 4, 5}
    assert sum(each.n for each in lengths.values()) == len(ablation.inputs)
    assert all(each.faithfulness.low > 0.999 for each in lengths.values())
    assert minimal(needed(ablation, seen).shares(50, 0)) == 1
    assert minimal(needed(ablation, seen).shares(50, 0, 1)) < 1, "a list of one is its own mirror"
    best = smallest(curve(ablation, exact(ablation), 50, 0), 0.9)
    assert best is not None
    assert best.edges[seen].all()
    assert not (best.edges & ~truth("reverse")).any()


def test_an_edge_that_is_not_needed_is_not_said_to_be() -> None:
    ablation = ablated("reverse", "resample_across")
    more = visible(ablation, truth("reverse"))
    idle = next(edge for edge in ablation.wiring.edges if not truth("reverse")[edge])
    more[idle] = True
    assert needed(ablation, more).shares(50, 0)[idle].low <= 0


def test_an_ablation_that_does_nothing_judges_nothing(small: MeasurementContext) -> None:
    inputs = small.inputs.at(torch.nonzero(small.inputs.lengths == 1)[:1, 0])
    bridge = small.reference.bridge
    wiring = wired(bridge, inputs.tokens, inputs.key_mask)
    ablation = AblatedGraph(wiring, cases_of(inputs, task_model_of(bridge, inputs), 0), "mean")
    (circuit,) = rated(ablation, "", [all_edges(wiring)], 20, 0)
    assert np.isnan(circuit.faithfulness.value)
    assert smallest([circuit], 0.5) is None


def test_only_ways_to_the_output_are_left() -> None:
    wiring = ablated("reverse", "zero").wiring
    by_name = {wiring.edge_label(edge): edge for edge in wiring.edges}
    kept = torch.zeros(len(wiring.readers), len(wiring.nodes), dtype=torch.bool)
    for name in ("3.0 -> output", "mlp 1 -> 3.0 q", "0.0 -> mlp 0", "tokens -> 1.0 v"):
        kept[by_name[name]] = True
    assert labels(wiring, reaching(wiring, kept)) == {"3.0 -> output", "mlp 1 -> 3.0 q"}
    assert sizes(3) == [1, 2, 3]


# The variables that edges carry


@pytest.mark.parametrize("task", COMPILED)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_a_compiled_models_edges_carry_is_what_their_dimensions_are_called(
    task: str, seed: int
) -> None:
    _, reference, wiring = compiled(task)
    ablation, model = ablated(task, "zero"), without_hooks(reference.bridge)
    edges = [edge for edge in wiring.edges if truth(task)[edge]]
    told = 0
    for each in variables_on_edges(ablation, edges, 50, seed):
        if each.variables is None:
            continue
        shared = read_dimensions(model, wiring.readers[each.edge.reader]) & written_dimensions(
            model, wiring.nodes[each.edge.node]
        )
        names = {reference.compiled.residual_labels[i].split(":")[0] for i in torch.nonzero(shared)}
        called = {name.removesuffix("_selector_width_attn_output") for name in names}
        variables = {name for group in each.names for name in group.split(" = ")}
        assert variables & called, (wiring.edge_label(each.edge), each.names, names)
        for group in each.names:
            assert each.variables[group].share == pytest.approx(1, abs=1e-3)
        told += 1
    assert told >= 3


def test_variables_that_tell_the_same_places_apart_are_one() -> None:
    variables = partitions(compiled("reverse")[0])
    assert "opp_idx = opp_idx-1" in variables
    assert {"tokens", "indices", "length", "reverse"} <= variables.keys()


def test_an_edge_of_a_random_init_carries_no_inner_variable(small: MeasurementContext) -> None:
    inputs = small.inputs
    bridge = make_bridge(small.shape)
    wiring = wired(bridge, inputs.tokens, inputs.key_mask)
    ablation = AblatedGraph(wiring, cases_of(inputs, task_model_of(bridge, inputs), 0), "zero")
    edges = [edge for edge in wiring.edges if wiring.nodes[edge.node].layer >= 0]
    for each in variables_on_edges(ablation, edges, 50, 0):
        assert set(each.names) <= {"tokens", "indices"}, wiring.edge_label(each.edge)


def test_a_trained_models_embedding_of_tokens_carries_tokens() -> None:
    config = compose(
        ["task.vocabulary=[a,b]", "task.max_length=3", "model=1L", "model.d_model=16",
         "model.n_heads=2", "trainer.max_steps=200", "trainer.batch_size=12"]
    )  # fmt: skip
    inputs = input_set(make_task(config.task), config.task)
    shape = learned_shape(config.model, inputs, 0)
    weights, _, _ = fit(inputs, shape, config.trainer, 0)
    bridge = make_bridge(shape, weights)
    wiring = wired(bridge, inputs.tokens, inputs.key_mask)
    ablation = AblatedGraph(wiring, cases_of(inputs, task_model_of(bridge, inputs), 0), "zero")
    values = [edge for edge in wiring.edges if wiring.edge_label(edge).startswith("tokens -> 0.")]
    told = [each for each in variables_on_edges(ablation, values, 50, 0) if each.variables]
    assert told
    for each in told:
        assert each.variables is not None
        assert each.variables["tokens"].share == pytest.approx(1, abs=1e-6)
        assert "tokens" in each.names


def test_a_curve_of_nothing_is_drawn_too() -> None:
    """Resampling within a length never changes the output of `length`."""
    config = compose(["task=length", "task.vocabulary=[a,b]", "task.max_length=3",
                      "analysis.bootstrap=20"])  # fmt: skip
    reference = LoadedReference.open(config)
    circuits = circuits_of(reference, methods=["exact", "acdc"], kinds=["resample_within"])
    assert circuits.main is None
    assert graph_figure(circuits) is not None, "the true circuit is there all the same"
    curves_figure(circuits).savefig(io.BytesIO())
