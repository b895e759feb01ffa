"""What `algomatch circuit` does: the circuits of a checkpoint or a reference, found and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from ..analysis.circuits.circuit_result import Circuits, Truth
from ..analysis.circuits.edge_scores import (
    METHODS,
    Ablated,
    Cases,
    Scores,
    acdc,
    attribution,
    cases_of,
    exact,
    reaching,
    visible,
)
from ..analysis.circuits.edge_variables import Carried, carried
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
from ..analysis.measures.rerun import KINDS
from ..config.schema import AnalysisConfig, Config
from ..data.donors import bases_of
from ..data.inputs import InputSet, input_set
from ..data.tasks import make_task
from ..infra.errors import UserError, one_of
from ..infra.process_cache import Kept
from ..infra.progress import Steps, Told, stage
from ..models.reference import Reference, build_reference
from ..models.shapes import learned_shape, random_inits
from ..models.task_model import TaskModel, task_model_of
from ..models.wiring import Edge, Wiring, wired
from ..runs import checkpoints
from .preparation import bridge_of

Keep = Callable[[Circuits], object]
CHECKED = 50  # inputs

_theirs = Kept[list[tuple[str, Carried]]]()  # what the reference's edges carry


def circuits_of_checkpoint(
    path: Path,
    methods: Sequence[str],
    kinds: Sequence[str],
    keep: Keep,
    console: Console,
) -> Circuits:
    """Find and judge the circuits of a checkpoint's model, beside the compiled reference's.

    The search runs on the CPU; `keep` is told of each method's as they are there.

    Raises:
        UserError: `path` is no checkpoint, or a method or a kind of ablation is none.
    """
    checkpoint = checkpoints.load(path)
    config = checkpoint.config
    config.analysis.device = "cpu"
    inputs = input_set(make_task(checkpoint.task), checkpoint.task)
    shape = learned_shape(config.model, inputs, config.seed)
    bridge = bridge_of(checkpoint, path, inputs, shape)
    name = f"{checkpoint.run}, step {checkpoint.step}"
    return find_circuits(
        name, task_model_of(bridge, inputs), inputs, config.analysis, methods, kinds,
        keep=keep, console=console, reference=build_reference(inputs, config.task.allow_inexact),
        untrained=task_model_of(random_inits(shape, 1, config.analysis.seed, "cpu")[0], inputs),
    )  # fmt: skip


def circuits_of_reference(
    config: Config, methods: Sequence[str], kinds: Sequence[str], keep: Keep, console: Console
) -> Circuits:
    """Find the circuits of a compiled program, and compare them with the true one.

    Raises:
        UserError: the program cannot be compiled, or a method or a kind of ablation is none.
    """
    config.analysis.device = "cpu"
    inputs = input_set(make_task(config.task), config.task)
    reference = build_reference(inputs, config.task.allow_inexact)
    return find_circuits(
        f"compiled {config.task.name}", task_model_of(reference.bridge, inputs), inputs,
        config.analysis, methods, kinds, keep=keep, console=console, reference=reference,
        compiled=True,
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
        UserError: the model is no graph of plain parts, or a method or a kind of ablation is none.
    """
    first = _spread(len(inputs))
    wiring = wired(task_model.model, task_model.tokens[first], task_model.key_mask[first])
    rows = bases_of(inputs, config.circuit_cases, np.random.default_rng([config.seed, 7]))
    whole = cases_of(inputs, task_model, config.seed)
    some = cases_of(inputs, task_model, config.seed, rows)
    others = cases_of(inputs, task_model, config.seed + 1, _others(inputs, rows, config))
    chosen = _chosen("method", methods, METHODS)
    wanted = [kind for kind in _chosen("kind", kinds, KINDS) if kind in some.kinds]
    if not wanted:
        raise UserError(f"all lists have the same length: there is no {', '.join(kinds)}")
    circuits = Circuits(
        name, exact_share(task_model, inputs), inputs, wiring, config.circuit_faithful,
        config.circuit_threshold,
    )  # fmt: skip
    circuits.searched_on = len(rows)
    if compiled and reference is not None:
        circuits.truth = Truth(true_edges(wiring.native, wiring))
    with Steps(console, "circuits", len(wanted) * len(chosen) + 3) as steps:
        for kind in wanted:
            ablated, all_of_them = Ablated(wiring, some, kind), Ablated(wiring, whole, kind)
            if circuits.truth is not None:
                circuits.truth.visible[kind] = visible(ablated, circuits.truth.real)
            for method in chosen:
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
                    for flow in circuits.carried
                    if wiring.nodes[flow.edge.node].layer >= 0
                ]
                theirs = cases_of(inputs, untrained, config.seed, rows)
                control = Ablated(Wiring(untrained.model), theirs, circuits.main.kind)
                circuits.untrained = carried(control, inner, config.bootstrap, config.seed, told)
    return circuits


def _spread(count: int) -> torch.Tensor:
    """Return inputs of all lengths on which a graph is checked to give the model's logits."""
    return torch.linspace(0, count - 1, min(count, CHECKED)).round().long()


def _others(inputs: InputSet, rows: torch.Tensor, config: AnalysisConfig) -> torch.Tensor:
    """Return inputs with an output that are not searched on; all if these are too few."""
    left = inputs.defined.any(-1)
    left[rows] = False
    kept, generator = torch.nonzero(left)[:, 0], np.random.default_rng([config.seed, 8])
    if len(kept) < max(1, len(rows) // 2):
        return bases_of(inputs, len(inputs), generator)
    return kept[bases_of(inputs.at(kept), config.circuit_cases, generator)]


def _chosen(what: str, given: Sequence[str], known: Sequence[str] | dict[str, str]) -> list[str]:
    for name in given:
        if name not in known:
            raise UserError(f"unknown {what} '{name}': {one_of(name, list(known))}")
    return [name for name in known if not given or name in given]


def _search(
    circuits: Circuits,
    method: str,
    ablated: Ablated,
    whole: Ablated,
    config: AnalysisConfig,
    step: Told,
) -> None:
    """Find the circuits of a method under a kind of ablation, on some inputs; judge them on all."""
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
    some: Cases,
    others: Cases,
    whole: Cases,
    config: AnalysisConfig,
    step: Told,
) -> None:
    """Look at the smallest circuit: what of it is needed, how it does by length, what it carries.

    Of resampling across lengths if there is such, which sees most; of a compiled model the true
    circuit. What is needed is judged on `others`, inputs that were not searched on.
    """
    main = circuits.main
    if main is None:
        return
    ablated = Ablated(circuits.wiring, some, main.kind)
    draws, seed = config.bootstrap, config.seed
    there = needed(Ablated(circuits.wiring, others, main.kind), main.edges, stage(step, 0, 2))
    circuits.needed, circuits.needed_on = there.shares(draws, seed), len(others.inputs)
    all_of_them = Ablated(circuits.wiring, whole, main.kind)
    circuits.lengths = by_length(all_of_them, main.edges, draws, seed)
    circuits.minimal = {
        length: minimal(there.shares(draws, seed, length)) for length in circuits.lengths
    }
    edges = main.edges if circuits.truth is None else circuits.truth.real
    circuits.carried = carried(ablated, _edges(edges), draws, seed, stage(step, 1, 2))


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
    """Say what the reference's true edges carry, and where the model holds each variable."""
    inputs, bridge = circuits.inputs, reference.bridge

    def carried_there() -> list[tuple[str, Carried]]:
        compiled = task_model_of(bridge, inputs)
        first = _spread(len(inputs))
        wiring = wired(compiled.model, inputs.tokens[first], inputs.key_mask[first])
        cases = cases_of(inputs, compiled, config.seed, rows)
        ablated = Ablated(wiring, cases, cases.kinds[-1])
        edges = _edges(true_edges(wiring.native, wiring))
        return [
            (wiring.edge_label(each.edge), each)
            for each in carried(ablated, edges, config.bootstrap, config.seed, step)
        ]

    key = f"{inputs.digest()} {reference.compiled.digest} {config!r}"
    circuits.theirs = _theirs.of(key, carried_there)
    program = candidate(inputs.task.name, inputs, reference, config, sides=False)
    there = standing(task_model, program, config, sides=False)
    circuits.verdict = there.verdict.verdict
    circuits.matched = dict(
        variable_matches(there.matches, program.cuts, program.testable, rule_of(config))
    )
