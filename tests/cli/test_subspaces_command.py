"""`algomatch subspaces`: a run's variables searched for in subspaces, beside controls."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.runs import TINY, quiet
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.controls.interchange_training import InterchangeCases, implement
from algomatch.analysis.matching.program_ranking import Standing, candidate, standing
from algomatch.analysis.matching.subspace_result import Searched, SubspaceResult, per_site
from algomatch.analysis.matching.subspace_search import Question, Subspace, where_to_search
from algomatch.api.preparation import prepare
from algomatch.api.subspaces import subspaces
from algomatch.api.train import train
from algomatch.cli import main as cli
from algomatch.config.composition import compose
from algomatch.config.schema import Config, TrainerConfig
from algomatch.models.bridges import plain_model
from algomatch.models.shapes import random_inits
from algomatch.models.task_model import task_model_of
from algomatch.models.training import weights_of
from algomatch.models.variable_sites import sites_of
from algomatch.report.terminal.subspace_tables import sentences
from algomatch.runs import checkpoints

Capture = pytest.CaptureFixture[str]
PLACES = ("blocks.0.hook_resid_mid", "blocks.0.hook_resid_post", "blocks.1.hook_resid_mid")
TAUGHT = TrainerConfig(max_steps=800, batch_size=32, learning_rate=3e-3, warmup_steps=10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(
        compose(
            [
                *TINY,
                f"run_dir={folder}",
                "tracking=disabled",
                "trainer.checkpoints=1",
                "trainer.max_steps=30",
                "analysis.measures=[accuracy]",
                "analysis.match_cases=40",
                "analysis.solved=0.01",
            ]
        ),
        quiet(),
    )
    return folder


def test_a_run_is_searched_beside_its_controls(run: Path, capsys: Capture) -> None:
    assert cli.main(["subspaces", str(run)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^subspaces, program reverse *$", out, re.MULTILINE)
    assert re.search(r"length = opp_idx: (not )?found in ", out)
    assert "the model trained on shuffled labels has " in out
    written = run / "matching"
    assert {path.name for path in written.iterdir() if path.is_file()} == {
        "subspaces.csv", "subspaces.safetensors",
    }  # fmt: skip
    (kept,) = (path for path in written.iterdir() if path.name.endswith("-subspaces"))
    assert (kept / "subspaces.csv").read_bytes() == (written / "subspaces.csv").read_bytes()
    rows = list(csv.DictReader((written / "subspaces.csv").read_text().splitlines()))
    assert tuple(rows[0]) == SubspaceResult.TABLE.columns
    assert [(row["variable"], row["same"], row["site"]) for row in rows] == [
        ("length", "opp_idx", "blocks.0.hook_resid_mid")
    ] * len(rows)
    assert [int(row["k"]) for row in rows] == [1, 2, 4][: len(rows)]
    for row in rows:
        assert float(row["low"]) <= float(row["test"]) <= float(row["high"])
        assert len(row["random_inits"].split()) == 2
        assert len(row["shuffled_labels"].split()) == 1
        assert float(row["threshold"]) == 0.95


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["RUN", "--all"], "unknown option '--all'"),
        (["RUN", "--program", "revers"], "unknown program 'revers' of reverse: did you mean"),
        (["RUN", "task=sort"], "'task=sort': the run was trained with its own task"),
        ([], "subspaces takes a checkpoint or run folders: none is given"),
        (["RUN", "--jobs", "2"], "--jobs needs several runs"),
    ],
)
def test_a_mistake_gives_one_line(
    given: list[str], message: str, run: Path, capsys: Capture
) -> None:
    arguments = [str(run) if argument == "RUN" else argument for argument in given]
    assert cli.main(["subspaces", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def stands(small: MeasurementContext, bridge: TransformerBridge) -> Standing:
    """The standing of the reference program in a model."""
    config = replace(small.config, match_cases=100)
    program = candidate("reverse", small.inputs, small.reference, config, sides=False)
    return standing(task_model_of(bridge, small.inputs), program, config)


def test_a_variable_is_searched_for_where_the_whole_residual_is_no_cut_with_it(
    small: MeasurementContext,
) -> None:
    reference = small.reference.bridge
    own = stands(small, reference)
    sites = sites_of(reference.cfg)[:-1]
    places = where_to_search(own, sites)
    assert set(places) == {"length", "opp_idx"}
    (cut,) = own.candidate.testable
    (verdict,) = [judged for judged in own.verdict.cuts if judged.cut == cut]
    realised = {int(site.split(".")[1]) for site in verdict.sites}
    assert realised
    for left in places.values():
        assert left == tuple(site for site in sites if int(site.split(".")[1]) not in realised)
    (untrained,) = random_inits(small.shape, 1, 0, "cpu")
    assert where_to_search(stands(small, untrained), PLACES) == dict.fromkeys(places, PLACES)


def test_without_a_testable_cut_every_inner_variable_is_searched_for(
    small: MeasurementContext,
) -> None:
    (untrained,) = random_inits(small.shape, 1, 0, "cpu")
    config = replace(small.config, match_cases=100)
    program = candidate("reverse", small.inputs, None, config)
    there = standing(task_model_of(untrained, small.inputs), program, config)
    assert where_to_search(there, PLACES) == dict.fromkeys(["length", "opp_idx"], PLACES)


def subspace(
    site: str, k: int, test: float, control: float = 0.1, variable: str = "v", rivalled: float = 0.0
) -> Subspace:
    return Subspace(
        variable, ("w",) if variable == "v" else (), site, torch.eye(8)[:, :k], 1.0, test,
        test - 0.02, 1.0, 100, 0.0, 0.0, (0.0, control), (0.05,), "w",
        rivalled, 0.95,
    )  # fmt: skip


def question(*names: str, rivalled: float = 0.0) -> Question:
    some = torch.zeros(100, dtype=torch.int64)
    cases = InterchangeCases(some, some, some[:, None])
    return Question(names, cases, cases, "other", rivalled)


def test_of_each_variable_it_is_said_where_it_was_found_and_where_it_was_not() -> None:
    mid, post, later = PLACES
    subspaces = (
        subspace(mid, 1, 0.3), subspace(mid, 2, 0.5), subspace(mid, 4, 0.5),
        subspace(post, 1, 0.2), subspace(post, 2, 0.96),
        subspace(later, 2, 0.96, control=0.95),
        subspace(later, 4, 0.97, control=0.96, variable="x"),
    )  # fmt: skip
    assert [(subspace.site, subspace.k) for subspace in per_site(subspaces)] == [
        (mid, 2), (post, 2), (later, 2), (later, 4),
    ]  # fmt: skip
    sites = {"v": PLACES, "w": PLACES, "x": [later], "y": [mid], "z": []}
    asked = [question("v", "w"), question("x"), question("u", rivalled=0.99)]
    said = list(sentences(Searched("run", 3, "p", PLACES, sites, asked, subspaces)))
    assert said == [
        "v = w: found in a subspace at 0.post (2 of 8 directions)",
        "x: not found in any subspace; at best 0.97 of the test cases (1.mid, 4 of 8 directions), "
        "where a control gives 0.96",
        "u: not searched for: donated values of other would give the same output in 99.0% of the "
        "cases",
        "x: not searched for at 0.mid, 0.post: there the whole residual is a cut that contains it",
        "y: not searched for at 0.post, 1.mid: there the whole residual is a cut that contains it",
        "y: not searched for: it changes the output too seldom",
        "z: not searched for at 0.mid, 0.post, 1.mid: there the whole residual is a cut that "
        "contains it",
    ]
    rivalled = [subspace(mid, 2, 0.99, rivalled=1.0)]
    assert list(sentences(Searched("run", 3, "p", [mid], {"v": [mid]}, asked[:1], rivalled))) == [
        "v = w: not found in any subspace; at best 0.99 of the test cases (0.mid, 2 of 8 "
        "directions), where w in its place would give 1.00"
    ]
    assert list(sentences(Searched("run", 3, "p", [], {"v": []}, (), ()))) == [
        "no subspaces: the model has no site between its embedding and its last site"
    ]
    assert list(sentences(Searched("run", 3, "p", PLACES, {}, (), ()))) == [
        "no subspaces: p has no inner variable to search for"
    ]


def searched(config: Config, weights: dict[str, torch.Tensor], folder: Path) -> Searched:
    """The result of a search in a checkpoint with some weights."""
    digest = prepare(config).inputs.digest()
    path = checkpoints.save(folder, weights, config, "known", 0, [], digest)
    searched = subspaces(path, program="reverse").searched
    assert searched is not None
    return searched


def reversing(n_layers: int, *settings: str) -> Config:
    """A config of attention-only layers, with a site between every two."""
    return compose(
        ["task.vocabulary=[a,b,c]", "task.max_length=4", "model=2L_attn_only", "model.d_model=32",
         f"model.n_layers={n_layers}", "analysis.bootstrap=50", "analysis.match_cases=300",
         "trainer.max_steps=50", "analysis.measures=[accuracy]", *settings]
    )  # fmt: skip


@pytest.mark.slow
def test_what_a_model_was_taught_is_found_where_it_was(tmp_path: Path) -> None:
    config = reversing(3)
    context = prepare(config)
    taught = implement(context.inputs, context.shape, 0, TAUGHT)
    assert taught.interchange["opp_idx"] > 0.97
    there = searched(config, taught.weights, tmp_path)
    subspaces = [subspace for subspace in there.subspaces if subspace.carries]
    assert {subspace.variable for subspace in subspaces} == {"length"}
    assert {subspace.same for subspace in subspaces} == {("opp_idx",)}
    assert taught.alignment["opp_idx"].site in {subspace.site for subspace in subspaces}


@pytest.mark.slow
def test_nothing_is_found_in_a_random_init(tmp_path: Path) -> None:
    config = reversing(2, "analysis.solved=0")  # it is searched although it solves nothing
    (untrained,) = random_inits(prepare(config).shape, 1, 5, "cpu")
    there = searched(config, weights_of(plain_model(untrained)), tmp_path)
    assert [subspace.k for subspace in there.subspaces] == [1, 2, 4, 8]
    assert not any(subspace.carries for subspace in there.subspaces)
    (sentence,) = sentences(there)
    assert sentence.startswith("length = opp_idx: not found in any subspace; at best 0.")
