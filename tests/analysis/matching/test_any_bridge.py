"""A GPT-2 loaded from a folder gets the same standings as the model it copies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import copied_induction, encode, induction, saved_gpt2
from tracr.rasp import rasp

from algomatch.analysis.matching.any_bridge import match_bridge
from algomatch.analysis.matching.head_selectors import untrained_of
from algomatch.analysis.matching.program_ranking import Standing, selectors_of, standing
from algomatch.api.circuit import find_circuits
from algomatch.config.schema import AnalysisConfig
from algomatch.data.tasks import make_task, task_of
from algomatch.infra.errors import UserError
from algomatch.models.bridges import make_bridge
from algomatch.models.foreign import load_gpt2, random_gpt2
from algomatch.models.foreign_encoding import encoded_task_model
from algomatch.models.task_model import task_model_of

pytestmark = pytest.mark.slow

ONE = ["induction_by_pointer"]


def assert_same(standings: Sequence[Standing], expected: Sequence[Standing]) -> None:
    """Check that all scores of all tests are equal, case by case."""
    assert [ours.candidate.name for ours in standings] == [
        theirs.candidate.name for theirs in expected
    ]
    for ours, theirs in zip(standings, expected, strict=True):
        assert (ours.exact, ours.score) == (theirs.exact, theirs.score)
        assert ours.verdict.verdict == theirs.verdict.verdict
        pairs = zip([*ours.matches, *ours.sides], [*theirs.matches, *theirs.sides], strict=True)
        for match, same in pairs:
            assert (match.site, match.cut.name) == (same.site, same.cut.name)
            for score, other in zip(match.scores, same.scores, strict=True):
                assert torch.equal(score.right, other.right), (match.site, match.cut.name)
                assert score.chance == other.chance


def test_a_copy_in_a_folder_stands_as_the_model_that_it_is_a_copy_of(tmp_path: Path) -> None:
    config, inputs, shape, weights = induction()
    copied_induction(tmp_path)
    task = make_task(config.task)
    standings, heads = match_bridge(
        load_gpt2(tmp_path), task, encode, settings=config.task, config=config.analysis,
        programs=ONE,
    )  # fmt: skip
    assert heads is None, "there are no random inits to compare its heads with"
    own = task_model_of(make_bridge(shape, weights), inputs)
    known = [judged.candidate for judged in standings]
    assert [candidate.name for candidate in known] == ONE
    assert_same(standings, [standing(own, candidate, config.analysis) for candidate in known])
    assert standings[0].exact == 1
    assert standings[0].score is not None
    assert 0.2 < standings[0].score[0] < 0.9, (
        "neither chance nor all: there is something to compare"
    )
    values = {score.value for match in standings[0].sides for score in match.scores}
    assert len(values) > 5


def test_a_copys_heads_meet_the_selectors_as_the_models_do(tmp_path: Path) -> None:
    config, inputs, shape, weights = induction()
    copied_induction(tmp_path)
    model, task = make_bridge(shape, weights), make_task(config.task)
    untrained = [random_gpt2(tmp_path, seed) for seed in range(2)]
    standings, heads = match_bridge(
        load_gpt2(tmp_path), task, encode, settings=config.task, config=config.analysis,
        untrained=untrained,
    )  # fmt: skip
    assert heads is not None
    known = [judged.candidate for judged in standings]
    selectors = selectors_of(known, untrained_of(shape, inputs, config.analysis), config.analysis)
    own = selectors.reaches(model)
    assert own.keys() == heads.reaches.keys() == {"induction", "induction_by_pointer"}
    for name, met in heads.reaches.items():
        for ours, theirs in zip(met, own[name], strict=True):
            assert ours.value == pytest.approx(theirs.value, abs=1e-5)
            assert (ours.head, ours.uniform) == (theirs.head, theirs.uniform)
            assert 0 < ours.random_init != theirs.random_init
    (decision,) = heads.decisions
    assert {side.program for side in decision.sides} == set(own)


def test_a_copys_circuits_are_those_of_the_model_that_it_is_a_copy_of(tmp_path: Path) -> None:
    config, inputs, shape, weights = induction()
    copied_induction(tmp_path)
    theirs = encoded_task_model(load_gpt2(tmp_path), inputs, encode)
    ours = task_model_of(make_bridge(shape, weights), inputs)
    copied, own = (
        find_circuits(
            "", task_model, inputs, config.analysis, ["exact", "eap"], ["resample_across"]
        )
        for task_model in (theirs, ours)
    )
    for key, scores in own.scores.items():
        torch.testing.assert_close(copied.scores[key].values, scores.values, atol=1e-4, rtol=1e-2)
    assert (own.scores["resample_across", "exact"].values > 0.01).sum() > 5


def test_a_program_of_ones_own_needs_no_file(tmp_path: Path) -> None:
    copied_induction(tmp_path)
    again = rasp.Map(lambda token: token, rasp.tokens).named("again")
    task = task_of(again, ["a", "b", "c"], 3, causal=True, name="again")
    assert (task.lengths, task.causal, task.alternatives) == (range(1, 4), True, {})
    (standing,), _ = match_bridge(
        load_gpt2(tmp_path), task, encode, config=AnalysisConfig(match_cases=50, bootstrap=20)
    )
    assert standing.candidate.name == "again"
    assert standing.exact < 0.99


def test_the_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[3] / "docs" / "matching.md"
    _, example = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    saved_gpt2(tmp_path / "my-gpt2")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(page), "exec"), {})
    assert re.match(r"program 0\.\d+ does not solve the task None\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((rasp.tokens, ["a"], 3), r"task.vocabulary=\[a\] must have at least 2 tokens"),
        ((rasp.tokens, ["a", "b"], 3, 4), "task.min_length=4 must not exceed task.max_length=3"),
        ((rasp.tokens, ["a", "b"], 3, 0), "task.min_length=0 must be at least 1"),
        ((lambda: rasp.tokens, ["a", "b"], 3), r"a program must be an s-op \(rasp.SOp\), not a"),
    ],
)
def test_what_makes_no_task_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_of(*given)


def test_a_program_that_the_task_does_not_have_is_refused(tmp_path: Path) -> None:
    config, *_ = induction()
    copied_induction(tmp_path)
    with pytest.raises(UserError, match="unknown program 'induktion' of induction: did you mean"):
        match_bridge(
            load_gpt2(tmp_path), make_task(config.task), encode, settings=config.task,
            programs=["induktion"],
        )  # fmt: skip
