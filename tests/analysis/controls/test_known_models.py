"""Controls: whether each one solves the task is decided by its kind."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from support.programs import write_program
from support.runs import TINY, quiet

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.controls import interchange_training as interchange
from algomatch.analysis.controls import known_models as module
from algomatch.analysis.controls import variants
from algomatch.analysis.controls.known_models import (
    DECOY,
    DRAWS,
    INITS,
    NEGATIVE,
    POSITIVE,
    Control,
    ControlModel,
    NotMadeError,
    controls,
)
from algomatch.api.controls import controls as study_controls
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.config.schema import Config
from algomatch.data.outputs import Categorical, Numerical
from algomatch.models.bridges import plain_model
from algomatch.models.training import exact_accuracy

pytestmark = pytest.mark.slow

STEPS = ("trainer.max_steps=20", "trainer.batch_size=8")
ONE_STEP = replace(interchange.SETTINGS, max_steps=1, evaluate_every=1)
POSITIVES = ("rotated", "reparametrised", "permuted", "noised")

# The share is numerical, and Tracr's MLPs are inexact at 2/3. Counts are categorical.
MOSTLY = """\
from tracr.rasp import rasp


def make_mostly():
    ones = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == 1))
    every = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE))
    return rasp.SequenceMap(lambda n, m: n > 0.6 * m, ones.named("ones"), every.named("length"))


def make_mostly_by_share():
    is_one = rasp.numerical(rasp.Map(lambda t: 1.0 if t == 1 else 0.0, rasp.tokens).named("is_one"))
    every = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
    share = rasp.numerical(rasp.Aggregate(every, is_one, default=0)).named("share")
    return rasp.Map(lambda x: x > 0.6, share).named("mostly")
"""


def nothing(step: int, steps: int) -> None:
    """Ignore the progress of training."""


def planned(config: Config) -> tuple[MeasurementContext, dict[str, Control]]:
    context = prepare(config)
    every = controls(context.inputs, context.reference, context.shape, config)
    assert len({control.name for control in every}) == len(every)
    return context, {control.name: control for control in every}


def exact(made: ControlModel, context: MeasurementContext) -> float:
    return exact_accuracy(plain_model(made.bridge), context.inputs, 512)


@pytest.mark.parametrize("model", ["1L", "2L"])
def test_positives_and_decoys_solve_the_task_and_negatives_do_not(model: str) -> None:
    context, by_name = planned(compose([*TINY, *STEPS, f"model={model}", "model.d_model=16"]))
    kinds = Counter(control.kind for control in by_name.values())
    assert kinds == {
        POSITIVE: 2 + DRAWS * len(POSITIVES),  # plus the reference and the implementation
        NEGATIVE: INITS + 1 + 2 * context.config.other_tasks,
        DECOY: 1,
    }
    told = list[tuple[int, int]]()
    for name, control in by_name.items():
        made = control.make(lambda step, steps: told.append((step, steps)))
        accuracy = exact(made, context)
        if control.kind == NEGATIVE:
            assert accuracy < 1, name
        else:
            assert accuracy == 1, name
        if control.group not in ("rotated", "permuted", "random init", "compiled other", "decoy"):
            assert made.note, name
        shape = context.shape
        if control.group in ("implemented", "random init", "shuffled labels", "trained other"):
            widths = (made.bridge.cfg.n_layers, made.bridge.cfg.d_model, made.bridge.cfg.n_heads)
            assert widths == (shape.n_layers, shape.d_model, shape.n_heads), name
    assert told
    assert all(0 <= step <= steps for step, steps in told)
    assert (20, 20) in told  # negatives are trained with the run's settings


def test_controls_that_differ_in_their_seed_alone_are_different_models() -> None:
    context, by_name = planned(compose([*TINY, *STEPS]))
    for group in (*POSITIVES, "random_init"):
        first, other = (by_name[f"{group}-{i}"].make(nothing).bridge for i in (1, 2))
        assert not torch.equal(first.W_E, other.W_E), group
        again = by_name[f"{group}-1"].make(nothing).bridge
        assert torch.equal(first.W_E, again.W_E), group
        assert torch.equal(first.W_U, again.W_U), group
    for group in POSITIVES:
        made = by_name[f"{group}-1"].make(nothing).bridge
        assert not torch.allclose(made.W_E, context.reference.bridge.W_E, atol=1e-7), group


def test_a_noise_that_nothing_survives_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    _, by_name = planned(compose([*TINY, *STEPS]))
    monkeypatch.setattr(variants, "NOISE_SCALES", (100.0, 10.0))
    with pytest.raises(NotMadeError, match=r"^it survives no noise$"):
        by_name["noised-1"].make(nothing)


def test_interchange_training_that_fails_says_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, by_name = planned(compose([*TINY, *STEPS]))
    monkeypatch.setattr(module, "implement", partial(interchange.implement, settings=ONE_STEP))
    told = list[int]()
    with pytest.raises(
        NotMadeError, match=r"^interchange training reached exact accuracy 0\.\d{4}, not 1$"
    ):
        by_name["implemented"].make(lambda step, steps: told.append(step))
    assert told.count(1) == module.TRIES


def test_a_decoy_that_tracr_compiles_inexactly_cannot_be_had(tmp_path: Path) -> None:
    place = write_program(tmp_path, "mostly", MOSTLY, "alternatives: [make_mostly_by_share]\n")
    lists = ("task.vocabulary=[0,1]", "task.max_length=3")
    _, by_name = planned(compose([*TINY, *STEPS, f"task={place}:make_mostly", *lists]))
    decoys = [control for control in by_name.values() if control.kind == DECOY]
    assert [control.name for control in decoys] == ["mostly_by_share"]
    with pytest.raises(NotMadeError, match="compile") as refused:
        decoys[0].make(nothing)
    assert "\n" not in str(refused.value)


def test_a_study_goes_on_without_the_controls_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALGOMATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(variants, "NOISE_SCALES", (100.0,))
    monkeypatch.setattr(module, "implement", partial(interchange.implement, settings=ONE_STEP))
    overrides = [*TINY, *STEPS, f"runs_dir={tmp_path}", "analysis.measures=[accuracy]"]
    console = quiet()
    record = study_controls(compose(overrides), again=False, console=console)
    kept = {
        path.parent.name: json.loads(path.read_bytes())["note"]
        for path in record.path.glob("each/*/about.json")
    }
    assert kept["noised-1"] == kept["noised-2"] == "it survives no noise"
    assert "interchange training reached" in kept["implemented"]
    measured = {
        name for name in kept if (figures := record.stored(name)) is not None and figures.rows
    }
    assert set(kept) - measured == {"noised-1", "noised-2", "implemented"}
    assert "trained_on_hist" in measured
    table = (record.path / "measurements.csv").read_text()
    assert all(f"\n{name},0,accuracy/exact,all," in table for name in measured)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "missing: noised-1: it survives no noise" in printed
    assert "missing: implemented: interchange training reached" in printed


def test_a_head_is_read_by_value_with_zeros_for_what_it_does_not_give() -> None:
    head = torch.arange(6.0).reshape(3, 2)
    theirs, ours = Categorical(("b", 2, "a")), Categorical(("a", "b", "c"))
    read = module._read_as(head, theirs, ours)
    assert read.tolist() == [[4, 5], [0, 1], [0, 0]]
    assert module._read_as(head, theirs, theirs).tolist() == head.tolist()


def test_a_number_is_read_as_a_number_alone() -> None:
    head, number, other = torch.ones(1, 2), Numerical(0.1), Numerical(0.3)
    labels = Categorical(("a", "b"))
    assert module._read_as(head, number, other).tolist() == [[1, 1]]
    assert module._read_as(head, number, labels).tolist() == [[0, 0], [0, 0]]
    assert module._read_as(torch.ones(2, 2), labels, number).tolist() == [[0, 0]]
