"""Figures that commands write, computed again: of the right model, inputs, checkpoint, control."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from support.runs import quiet, weights_of
from torch.nn.functional import cross_entropy
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.controls.interchange_training import InterchangeCases
from algomatch.analysis.controls.known_models import learned_by_heart
from algomatch.analysis.matching.head_selectors import SelectorComparison
from algomatch.analysis.matching.program_ranking import programs_of
from algomatch.analysis.matching.subspace_search import (
    Subspace,
    SubspaceSearch,
    halves,
    questions,
    subspaces,
)
from algomatch.api.preparation import prepare
from algomatch.api.train import train
from algomatch.cli import main as cli
from algomatch.config.composition import compose
from algomatch.config.schema import Config
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.outputs import IGNORE
from algomatch.data.program_selectors import selections
from algomatch.models.bridges import make_bridge, plain_model
from algomatch.models.continuation import continue_from, residuals
from algomatch.models.shapes import random_inits
from algomatch.runs import checkpoints
from algomatch.runs.run_folder import RunFolder

SETTINGS = (
    "task.vocabulary=[a,b,c]", "task.max_length=3", "model=1L", "model.d_model=16",
    "model.n_heads=2", "trainer.max_steps=60", "trainer.checkpoints=3", "trainer.batch_size=32",
    "trainer.learning_rate=0.005", "trainer.warmup_steps=5", "analysis.bootstrap=20",
    "analysis.random_inits=2", "analysis.measures=[accuracy]", "analysis.match_cases=60",
    "analysis.solved=0.01", "tracking=disabled",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(compose([*SETTINGS, f"run_dir={folder}"]), quiet())
    return folder


@pytest.fixture(scope="module")
def config(run: Path) -> Config:
    return RunFolder.open(run).config


@pytest.fixture(scope="module")
def context(config: Config) -> MeasurementContext:
    return prepare(config)


@pytest.fixture(scope="module")
def models(run: Path, context: MeasurementContext) -> dict[int, TransformerBridge]:
    """The model of each checkpoint, by step."""
    return {
        step: make_bridge(
            context.shape,
            checkpoints.load(run / "checkpoints" / checkpoints.step_folder(step)).weights,
        )
        for step in weights_of(run)
    }


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def matched(run: Path) -> Path:
    """The tables of `match --all`."""
    assert cli.main(["match", str(run), "--all", "--no-sides"]) == 0
    return run / "matching"


def test_each_checkpoints_loss_is_its_models(
    matched: Path, models: dict[int, TransformerBridge], context: MeasurementContext
) -> None:
    inputs = context.inputs
    losses = {int(row["step"]): float(row["loss"]) for row in rows(matched / "emergence.csv")}
    assert set(losses) == set(models)
    assert len(set(losses.values())) > 1
    for step, bridge in models.items():
        with torch.inference_mode():
            logits = bridge(inputs.tokens, attention_mask=inputs.key_mask)
        loss = cross_entropy(logits[inputs.defined], inputs.targets[inputs.defined])
        assert losses[step] == pytest.approx(float(loss), rel=1e-5)


def test_selectors_are_met_by_the_model_and_their_control_by_random_inits(
    matched: Path,
    models: dict[int, TransformerBridge],
    context: MeasurementContext,
    config: Config,
) -> None:
    programs = {
        name: selections(input_set(task, config.task))
        for name, task in programs_of(context.inputs.task)
    }
    compare = SelectorComparison(context.inputs, programs, lambda: iter(()), config.analysis)
    analysis = config.analysis
    inits = random_inits(context.shape, analysis.random_inits, analysis.seed, "cpu")
    controls = [compare.reaches(bridge) for bridge in inits]
    table = rows(matched / "selectors.csv")
    apart = 0
    for step, bridge in models.items():
        for name, reaches in compare.reaches(bridge).items():
            some = [row for row in table if (int(row["step"]), row["program"]) == (step, name)]
            for at, (row, reach) in enumerate(zip(some, reaches, strict=True)):
                control = max(met[name][at].value for met in controls)
                assert float(row["overlap"]) == pytest.approx(reach.value, abs=1e-6)
                assert float(row["random_init"]) == pytest.approx(control, abs=1e-6)
                apart += abs(reach.value - control) > 1e-3
    assert apart  # the model is told from its control


def carried(
    bridge: TransformerBridge, inputs: InputSet, cases: InterchangeCases, subspace: Subspace
) -> float:
    """The share of cases whose output is the program's with the donor's part of a subspace."""
    model = plain_model(bridge)
    with torch.inference_mode():
        stream = residuals(model, inputs.tokens, inputs.key_mask, [subspace.site])[subspace.site]
        base, donor = stream[cases.bases], stream[cases.donors]
        projector = subspace.directions @ subspace.directions.T
        mixed = base @ (torch.eye(len(projector)) - projector) + donor @ projector
        logits = continue_from(model, subspace.site, mixed, inputs.key_mask[cases.bases])
    right = (logits.argmax(-1) == cases.targets) | (cases.targets == IGNORE)
    return float(right.all(-1).double().mean())


def test_subspaces_are_searched_in_the_last_model_and_in_its_controls(
    run: Path,
    models: dict[int, TransformerBridge],
    context: MeasurementContext,
    config: Config,
) -> None:
    assert cli.main(["subspaces", str(run)]) == 0
    table = rows(run / "matching" / "subspaces.csv")
    inputs, analysis = context.inputs, config.analysis
    settings = SubspaceSearch(
        cases=analysis.match_cases, threshold=analysis.match_realised, seed=analysis.seed
    )
    sites = {table[0]["variable"]: (table[0]["site"],), table[0]["same"]: (table[0]["site"],)}
    by_heart = learned_by_heart(inputs, context.shape, config, lambda step, steps: None)
    again = list(
        subspaces(
            models[max(models)], inputs, questions(inputs, list(sites), settings), sites,
            random_inits(context.shape, 2, analysis.seed, "cpu"), [by_heart.bridge], settings,
        )
    )  # fmt: skip
    assert len(again) == len(table)
    for row, subspace in zip(table, again, strict=True):
        assert float(row["test"]) == pytest.approx(subspace.test)
        inits = [float(value) for value in row["random_inits"].split()]
        heart = [float(value) for value in row["shuffled_labels"].split()]
        assert inits == pytest.approx(subspace.random_inits)
        assert heart == pytest.approx(subspace.shuffled_labels)
    (question,) = questions(inputs, list(sites), settings)
    figures = []
    for side, cases in zip(
        halves(inputs, settings.seed), (question.train, question.test), strict=True
    ):
        figures.append([carried(models[max(models)], side, cases, space) for space in again])
    assert figures == [[space.train for space in again], [space.test for space in again]]
    assert figures[0] != figures[1]  # searched on some cases, judged on others
    kinds = zip(*((r["test"], r["random_inits"], r["shuffled_labels"]) for r in table), strict=True)
    assert len({*kinds}) == 3  # model, random inits and shuffled labels are told apart


@pytest.mark.parametrize("verb", ["match", "explain", "analyze"])
def test_the_device_that_is_given_is_the_one_that_is_used(
    verb: str, config: Config, models: dict[int, TransformerBridge], tmp_path: Path, run: Path
) -> None:
    """A checkpoint of a machine with an accelerator is analysed on one without."""
    device = "cuda:99"
    elsewhere = compose([*SETTINGS, f"run_dir={tmp_path}", f"analysis.device={device}"])
    last = checkpoints.load(run)
    path = checkpoints.save(
        tmp_path, last.weights, elsewhere, "elsewhere", 1, [], last.inputs_digest
    )
    assert cli.main([verb, str(path)]) == 2
    more = ["--no-sides"] if verb == "match" else []
    assert cli.main([verb, str(path), "--device", "cpu", *more]) in (0, 1)
