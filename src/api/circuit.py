"""`algomatch circuit`: finds and judges the circuits of a checkpoint or a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console

from ..analysis.ablation_names import KINDS, METHODS, chosen
from ..analysis.circuits.circuit_result import CircuitResult, Circuits, Truth
from ..analysis.circuits.edge_scores import (
    AblatedGraph,
    AblationCases,
    Scores,
    acdc,
    attribution,
    cases_of,
    exact,
    reaching,
    visible,
)
from ..analysis.circuits.edge_variables import EdgeVariables, variables_on_edges
from ..analysis.circuits.faithfulness import (
    by_length,
    completed,
    curve,
    minimal,
    needed,
    rated,
    smallest,
)
from ..analysis.circuits.true_circuit import true_edges
from ..analysis.matching.cut_tests import exact_share
from ..analysis.matching.cut_verdicts import variable_matches
from ..analysis.matching.program_ranking import candidate, rule_of, standing
from ..config.devices import usual_device
from ..config.schema import AnalysisConfig
from ..data.donors import bases_of
from ..data.inputs import InputSet
from ..infra.errors import UserError, refuse_texts
from ..infra.process_cache import LastResult
from ..infra.progress import Steps, Told, stage
from ..models.reference import Reference
from ..models.shapes import random_inits
from ..models.task_model import TaskModel, task_model_of
from ..models.wiring import Edge, Wiring, wired
from ..runs.loaded_run import Loaded, LoadedRun, Openable, opened
from ..runs.result_store import result_key, result_settings
from .keeping import keep_of

Keep = Callable[[Circuits], object]
CHECKED = 50  # inputs on which a graph is checked

_theirs = LastResult[list[tuple[str, EdgeVariables]]]()  # what the reference's edges carry


def circuit(
    run: Openable,
    *,
    methods: Sequence[str] = (),
    kinds: Sequence[str] = (),
    overrides: Sequence[str] = (),
    save: bool = False,
    console: Console | None = None,
) -> CircuitResult:
    """Find and judge the circuits of a checkpoint's model, and compare with the reference's.

    A reference's own are compared with its true circuit. `methods` and `kinds` of ablation are all
    unless named. Overrides, `analysis.key=value`, go with a path; it runs on the CPU unless they
    say otherwise, with `analysis.device`. If `save`, the result is kept in the run's folder, as the
    command keeps it, where reports look for it.

    Example:
        result = algomatch.circuit("runs/RUN", methods=["eap"], kinds=["mean"])

    Raises:
        UserError: there is no checkpoint, or a method or a kind of ablation is unknown.
    """
    refuse_texts(methods=methods, kinds=kinds)
    loaded = opened(run, overrides, "circuit")
    circuits = circuits_of(loaded, methods=methods, kinds=kinds, console=console)
    usual = replace(loaded.usual, device=usual_device("circuit", loaded.usual.device))
    settings = result_settings(usual, loaded.config.analysis, methods=methods, kinds=kinds)
    result = CircuitResult.of(circuits, result_key(CircuitResult.KIND, loaded, settings))
    return keep_of(loaded, result) if save else result


def circuits_of(
    run: Loaded,
    *,
    methods: Sequence[str] = (),
    kinds: Sequence[str] = (),
    keep: Keep | None = None,
    console: Console | None = None,
) -> Circuits:
    """Find and judge circuits, as `circuit` does; `keep` is called after each method.

    Raises:
        UserError: a method or a kind of ablation is unknown.
    """
    name, untrained = run.run, None
    if isinstance(run, LoadedRun):
        analysis = run.config.analysis
        inits = random_inits(run.shape, 1, analysis.seed, analysis.device)
        name, untrained = run.title, task_model_of(inits[0], run.inputs)
    return find_circuits(
        name, run.task_model, run.inputs, run.config.analysis, methods, kinds, keep=keep,
        console=console, reference=run.reference, compiled=untrained is None, untrained=untrained,
    )  # fmt: skip


def find_circuits(
    name: str,
    task_model: TaskModel,
    inputs: InputSet,
    config: AnalysisConfig,
    methods: Sequence[str] = (),
    kinds: Sequence[str] = (),
    *,
    keep: Keep | None = None,
    console: Console | None = None,
    reference: Reference | None = None,
    compiled: bool = False,
    untrained: TaskModel | None = None,
) -> Circuits:
    """Find a model's circuits by every method under every kind of ablation, and judge them.

    `task_model` is `task_model_of` one of this project's bridges, or `encoded_task_model` of any
    other's. `compiled` says that it is the reference itself, whose true circuit is known.
    `untrained` is a random init of its shape: what the same edges of it carry is a control.

    Raises:
        UserError: the model is not a graph of plain parts, or a method or a kind of ablation is
            unknown.
    """
    first = _spread(len(inputs))
    wiring = wired(task_model.model, task_model.tokens[first], task_model.key_mask[first])
    rows = bases_of(inputs, config.circuit_cases, np.random.default_rng([config.seed, 7]))
    whole = cases_of(inputs, task_model, config.seed)
    some = cases_of(inputs, task_model, config.seed, rows)
    others = cases_of(inputs, task_model, config.seed + 1, _others(inputs, rows, config))
    by = chosen("method", methods, METHODS)
    wanted = [kind for kind in chosen("kind", kinds, KINDS) if kind in some.kinds]
    if not wanted:
        raise UserError(f"all lists have the same length, so there is no {', '.join(kinds)}")
    circuits = Circuits(
        name, exact_share(task_model, inputs), inputs, wiring, config.circuit_faithful,
        config.circuit_threshold,
    )  # fmt: skip
    circuits.searched_on = len(rows)
    if compiled and reference is not None:
        circuits.truth = Truth(true_edges(wiring.native, wiring))
    with Steps(console, "circuits", len(wanted) * len(by) + 3) as steps:
        for kind in wanted:
            ablated, all_of_them = (
                AblatedGraph(wiring, some, kind),
                AblatedGraph(wiring, whole, kind),
            )
            if circuits.truth is not None:
                circuits.truth.visible[kind] = visible(ablated, circuits.truth.real)
            for method in by:
                with steps.part(f"{method}, {kind}") as told:
                    _search(circuits, method, ablated, all_of_them, config, told)
                    if keep is not None:
                        keep(circuits)
        with steps.part("the circuit") as told:
            _look_into(circuits, some, others, whole, config, told)
        with steps.part("the reference's edges") as told:
            if reference is not None and not compiled:
                _beside_reference(circuits, task_model, reference, rows, config, told)
        with steps.part("a random init's edges") as told:
            if untrained is not None and circuits.main is not None:
                inner = [
                    flow.edge
                    for flow in circuits.edge_variables
                    if wiring.nodes[flow.edge.node].layer >= 0
                ]
                theirs = cases_of(inputs, untrained, config.seed, rows)
                control = AblatedGraph(Wiring(untrained.model), theirs, circuits.main.kind)
                circuits.untrained_edges = variables_on_edges(
                    control, inner, config.bootstrap, config.seed, told
                )
    return circuits


def _spread(count: int) -> torch.Tensor:
    """Return inputs of all lengths, on which a graph's logits are compared with the model's."""
    return torch.linspace(0, count - 1, min(count, CHECKED)).round().long()


def _others(inputs: InputSet, rows: torch.Tensor, config: AnalysisConfig) -> torch.Tensor:
    """Return inputs with an output that the search does not use; all inputs if they are too few."""
    left = inputs.defined.any(-1)
    left[rows] = False
    kept, generator = torch.nonzero(left)[:, 0], np.random.default_rng([config.seed, 8])
    if len(kept) < max(1, len(rows) // 2):
        return bases_of(inputs, len(inputs), generator)
    return kept[bases_of(inputs.at(kept), config.circuit_cases, generator)]


def _search(
    circuits: Circuits,
    method: str,
    ablated: AblatedGraph,
    whole: AblatedGraph,
    config: AnalysisConfig,
    step: Told,
) -> None:
    """Find circuits by one method under one kind of ablation, on some inputs; judge them on all."""
    draws, seed, key = config.bootstrap, config.seed, (ablated.kind, method)
    search, judge = stage(step, 0, 2), stage(step, 1, 2)
    if method == "acdc":
        kept = reaching(ablated.wiring, acdc(ablated, config.circuit_threshold, search))
        scores = Scores(
            method, ablated.kind, _as_scores(ablated.wiring, kept), kept.any(0).double()
        )
        circuits.curves[key] = (
            rated(whole, method, [kept], draws, seed, judge) if kept.any() else []
        )
    else:
        if method == "exact":
            scores = exact(ablated, search)
        else:
            scores = attribution(
                ablated, config.circuit_steps if method == "eap_ig" else None, search
            )
        circuits.curves[key] = curve(whole, scores, draws, seed, judge)
    circuits.scores[key] = scores
    best = smallest(circuits.curves[key], circuits.faithful)
    if best is not None:
        circuits.chosen[key] = completed(whole, best, draws, seed)


def _as_scores(wiring: Wiring, kept: torch.Tensor) -> torch.Tensor:
    return torch.tensor([float(kept[edge]) for edge in wiring.edges], dtype=torch.float64)


def _look_into(
    circuits: Circuits,
    some: AblationCases,
    others: AblationCases,
    whole: AblationCases,
    config: AnalysisConfig,
    step: Told,
) -> None:
    """Analyse the smallest circuit: needed edges, faithfulness by length, carried variables.

    It is the circuit under resampling across lengths, if there is one, since this ablation detects
    most. For a compiled model, carried variables are those of the true circuit. Need is judged on
    `others`, inputs that the search did not use.
    """
    main = circuits.main
    if main is None:
        return
    ablated = AblatedGraph(circuits.wiring, some, main.kind)
    draws, seed = config.bootstrap, config.seed
    there = needed(AblatedGraph(circuits.wiring, others, main.kind), main.edges, stage(step, 0, 2))
    circuits.needed, circuits.needed_on = there.shares(draws, seed), len(others.inputs)
    all_of_them = AblatedGraph(circuits.wiring, whole, main.kind)
    circuits.lengths = by_length(all_of_them, main.edges, draws, seed)
    circuits.minimal = {
        length: minimal(there.shares(draws, seed, length)) for length in circuits.lengths
    }
    edges = main.edges if circuits.truth is None else circuits.truth.real
    circuits.edge_variables = variables_on_edges(
        ablated, _edges(edges), draws, seed, stage(step, 1, 2)
    )


def _edges(mask: torch.Tensor) -> list[Edge]:
    return [Edge(int(r), int(u)) for r, u in torch.nonzero(mask).tolist()]


def _beside_reference(
    circuits: Circuits,
    task_model: TaskModel,
    reference: Reference,
    rows: torch.Tensor,
    config: AnalysisConfig,
    step: Told,
) -> None:
    """Add the variables that the reference's true edges carry, and where the model holds each."""
    inputs, bridge = circuits.inputs, reference.bridge

    def carried_there() -> list[tuple[str, EdgeVariables]]:
        compiled = task_model_of(bridge, inputs)
        first = _spread(len(inputs))
        wiring = wired(compiled.model, inputs.tokens[first], inputs.key_mask[first])
        cases = cases_of(inputs, compiled, config.seed, rows)
        ablated = AblatedGraph(wiring, cases, cases.kinds[-1])
        edges = _edges(true_edges(wiring.native, wiring))
        return [
            (wiring.edge_label(each.edge), each)
            for each in variables_on_edges(ablated, edges, config.bootstrap, config.seed, step)
        ]

    key = f"{inputs.digest()} {reference.compiled.digest} {config!r}"
    circuits.reference_edges = _theirs.of(key, carried_there)
    program = candidate(inputs.task.name, inputs, reference, config, sides=False)
    there = standing(task_model, program, config, sides=False)
    circuits.verdict = there.verdict.verdict
    circuits.matched = dict(
        variable_matches(there.matches, program.cuts, program.testable, rule_of(config))
    )
