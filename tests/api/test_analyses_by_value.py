"""The joins of `circuit`, `explain` and the ranking of programs, by the values they give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from support.runs import TINY, quiet

from algomatch.analysis.circuits.edge_scores import AblatedGraph, cases_of
from algomatch.analysis.circuits.edge_variables import variables_on_edges
from algomatch.analysis.circuits.faithfulness import needed
from algomatch.analysis.matching.cut_verdicts import DIFFERENT, FOLLOWS, NOT_SOLVED
from algomatch.analysis.matching.head_selectors import (
    ProgramSelectors,
    SelectorComparison,
    SelectorDecision,
)
from algomatch.analysis.matching.program_ranking import selector_evidence
from algomatch.api.circuit import circuit
from algomatch.api.explain import explain
from algomatch.api.match import match
from algomatch.api.train import train
from algomatch.config.composition import compose
from algomatch.data.donors import bases_of
from algomatch.models.bridges import plain_model
from algomatch.models.shapes import random_inits
from algomatch.models.task_model import task_model_of
from algomatch.models.wiring import Wiring, wired
from algomatch.runs.loaded_run import LoadedReference, LoadedRun


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = compose(
        [*TINY, f"run_dir={folder}", "tracking=disabled", "trainer.checkpoints=1",
         "task.max_length=5", "trainer.max_steps=150", "analysis.measures=[accuracy]",
         "model.attn_only=false", "analysis.circuit_cases=20", "analysis.match_cases=40"]
    )  # fmt: skip
    train(config, quiet())
    return LoadedRun.open(folder)


@pytest.fixture(scope="module")
def circuits(run: LoadedRun) -> Any:
    return circuit(run, methods=["eap"], kinds=["resample_across"]).circuits


def init_of(run: LoadedRun) -> Any:
    return random_inits(run.shape, 1, run.config.analysis.seed, "cpu")[0]


def told(edges: Any) -> dict[str, dict[str, float]]:
    return {
        str(flow.edge): {name: share.share for name, share in flow.variables.items()}
        for flow in edges
        if flow.variables
    }


def searched(run: LoadedRun) -> torch.Tensor:
    analysis = run.config.analysis
    generator = np.random.default_rng([analysis.seed, 7])
    return bases_of(run.inputs, analysis.circuit_cases, generator)


def test_the_control_of_a_circuit_is_a_random_init(run: LoadedRun, circuits: Any) -> None:
    analysis, untrained = run.config.analysis, task_model_of(init_of(run), run.inputs)
    cases = cases_of(run.inputs, untrained, analysis.seed, searched(run))
    graph = AblatedGraph(Wiring(untrained.model), cases, "resample_across")
    edges = [flow.edge for flow in circuits.untrained_edges]
    own = variables_on_edges(graph, edges, analysis.bootstrap, analysis.seed)
    assert edges
    assert told(circuits.untrained_edges) == told(own)
    model = {
        edge: shares for edge, shares in told(circuits.edge_variables).items() if edge in told(own)
    }
    assert model != told(own), "the trained model's edges carry something else"


def test_what_is_needed_is_judged_on_other_inputs(run: LoadedRun, circuits: Any) -> None:
    rows, analysis = searched(run), run.config.analysis
    wiring = wired(run.task_model.model, run.inputs.tokens, run.inputs.key_mask)

    def on(chosen: torch.Tensor, seed: int) -> dict[Any, float]:
        cases = cases_of(run.inputs, run.task_model, seed, chosen)
        graph = AblatedGraph(wiring, cases, "resample_across")
        shares = needed(graph, circuits.main.edges).shares(analysis.bootstrap, analysis.seed)
        return {edge: share.value for edge, share in shares.items()}

    left = run.inputs.defined.any(-1)
    left[rows] = False
    free = torch.nonzero(left)[:, 0]
    generator = np.random.default_rng([analysis.seed, 8])
    others = free[bases_of(run.inputs.at(free), analysis.circuit_cases, generator)]
    assert not {*others.tolist()} & {*rows.tolist()}
    found = {edge: share.value for edge, share in circuits.needed.items()}
    assert found == on(others, analysis.seed + 1)
    assert found != on(rows, analysis.seed)
    assert found != on(rows, analysis.seed + 1)


def test_random_init_explanations_are_of_a_random_init(run: LoadedRun, tmp_path: Path) -> None:
    explanation = explain(run).explanation
    weights = dict(plain_model(init_of(run)).state_dict())
    untrained = replace(run, checkpoint=replace(run.checkpoint, weights=weights))
    own = explain(untrained).explanation
    assert explanation is not None
    assert own is not None

    def texts(neurons: Any) -> list[tuple[int, int, str, float, str]]:
        return sorted((n.layer, n.index, n.state, n.share, n.text) for n in neurons)

    assert texts(explanation.untrained) == texts(own.neurons)
    assert texts(explanation.untrained) != texts(explanation.neurons)
    rows = {
        (row.variant, row.layer): (row.exact.value, row.token) for row in explanation.rows or ()
    }
    for variant in ("selectors and tables, neurons", "selectors, neurons", "intact"):
        layer = -1 if variant == "intact" else 0
        assert rows["random init's explanations", 0] != rows[variant, layer]


class Deciding:
    """Selectors that decide for one program, whatever the heads meet."""

    def __init__(self, program: str):
        self.program = program

    def reaches(self, *given: object) -> dict[str, list[object]]:
        return {}

    def decide(self, met: object, first: str, other: str) -> SelectorDecision:
        sides = ProgramSelectors(first, (), None), ProgramSelectors(other, (), None)
        return SelectorDecision(sides, self.program, "")


def test_selectors_never_decide_against_cuts_nor_for_a_model_that_is_wrong(run: LoadedRun) -> None:
    reference = LoadedReference.of(run)
    matching = match(reference, programs=["reverse"], sides=False).matching
    assert matching is not None
    first, *_ = matching.standings
    name, other = first.candidate.name, "another of the same cuts"

    def decisions(one: str, two: str, *, testable: bool = True) -> list[tuple[str | None, str]]:
        cuts = first.candidate.cuts.all if testable else ()
        rivals = [
            replace(
                first,
                candidate=replace(first.candidate, name=program, testable=tuple(cuts)),
                verdict=replace(first.verdict, verdict=verdict),
            )
            for program, verdict in ((name, one), (other, two))
        ]
        evidence = selector_evidence(
            cast(SelectorComparison, Deciding(name)), reference.bridge, reference.task_model,
            rivals,
        )  # fmt: skip
        return [(decision.decided, decision.why) for decision in evidence.decisions]

    assert decisions(FOLLOWS, FOLLOWS) == [(name, "")]
    assert decisions(DIFFERENT, DIFFERENT) == [(None, f"the cuts of {name} say: {DIFFERENT}")]
    assert decisions(DIFFERENT, DIFFERENT, testable=False) == [(name, "")]
    follows = f"by its cuts the model follows {other}"
    assert decisions(DIFFERENT, FOLLOWS, testable=False) == [(None, follows)]
    assert decisions(NOT_SOLVED, NOT_SOLVED) == []
