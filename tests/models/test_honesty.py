"""What must not count as exact, as the same map, or as the same task."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tracr.rasp import rasp

from algomatch.config.composition import compose
from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import InputSet, difference, input_set
from algomatch.data.outputs import Numerical
from algomatch.data.tasks import Task, make_task
from algomatch.infra.errors import UserError
from algomatch.models import reference
from algomatch.models.compiling import compile_program
from algomatch.models.reference import build_reference, validate


def share_of(token: str) -> object:
    everything = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
    is_token = rasp.numerical(rasp.Map(lambda t: 1.0 if t == token else 0.0, rasp.tokens))
    return rasp.numerical(rasp.Aggregate(everything, is_token, default=0))


def inputs_of(
    program: object, vocabulary: str, longest: int, tolerance: float | None = None
) -> InputSet:
    task = Task("own", program, tuple(vocabulary), 1, longest, tolerance=tolerance)
    return input_set(task, TaskConfig())


@pytest.mark.parametrize("tolerance", [None, 1.0])
def test_a_wide_tolerance_does_not_make_a_wrong_reference_exact(tolerance: float | None) -> None:
    square = rasp.numerical(rasp.Map(lambda x: x * x, share_of("a"))).named("square")
    inputs = inputs_of(square, "abc", 4, tolerance)
    with pytest.raises(UserError, match="the first variable to be wrong is 'square'"):
        build_reference(inputs)
    assert not build_reference(inputs, allow_inexact=True).exact


def test_rounding_is_no_distance_between_outputs() -> None:
    halves = rasp.numerical(rasp.LinearSequenceMap(share_of("a"), share_of("b"), 1, 1))
    three = rasp.numerical(rasp.LinearSequenceMap(halves, share_of("c"), 1, -1)).named("three")
    inputs = inputs_of(three, "abcd", 6)
    assert isinstance(inputs.output, Numerical)
    assert inputs.output.tolerance == pytest.approx(0.4 * (1 / 5 - 1 / 6))
    assert build_reference(inputs).exact


def test_blurred_attention_is_sharpened_and_sharp_attention_left_as_tracr_made_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = TaskConfig(name="sort", max_length=3)
    inputs = input_set(make_task(config), config)
    assert not build_reference(inputs).compiled.sharpened
    as_made = compile_program(inputs.task, 100)
    blur = {n: w * 0.08 if ".attn.q." in n else w for n, w in as_made.weights.items()}
    blurred = dataclasses.replace(as_made, weights=blur)  # like heads that are 150 times as wide
    assert not validate(blurred, inputs).exact
    monkeypatch.setattr(reference, "compile_program", lambda task, exactness: blurred)
    monkeypatch.setattr(reference, "_cache_path", lambda task, exactness: None)
    sharpened = build_reference(inputs)
    assert sharpened.exact
    assert sharpened.compiled.sharpened


def test_more_tokens_than_places_are_compiled_all_the_same() -> None:
    config = TaskConfig(name="previous_token", vocabulary=list(range(12)), max_length=3)
    assert build_reference(input_set(make_task(config), config)).exact


def test_alternatives_are_compared_on_the_same_inputs_only() -> None:
    shorter, other = (inputs_of(share_of("a"), "ab", longest) for longest in (2, 3))
    with pytest.raises(UserError, match="does not accept the same inputs every time"):
        difference(shorter, other)


def test_a_task_of_sets_is_the_same_task_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "sets.py").write_text(
        "from tracr.rasp import rasp\n"
        "def make_sets():\n"
        "    held = rasp.Map(lambda t: frozenset([t, 'q', 'z']), rasp.tokens).named('held')\n"
        "    return rasp.SelectorWidth(rasp.Select(held, held, rasp.Comparison.EQ)).named('sets')\n"
    )
    script = (
        "import sys; from algomatch.config.composition import compose\n"
        "from algomatch.data.inputs import input_set\n"
        "from algomatch.data.tasks import make_task\n"
        "config = compose(['task=sets.py:make_sets', 'task.vocabulary=[a,b]']).task\n"
        "print(input_set(make_task(config), config).digest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(digests) == 1


def test_a_program_cannot_be_swapped_by_the_yaml_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def make_it(): ...")
    (tmp_path / "own.yaml").write_text("program: sort")
    with pytest.raises(
        UserError, match=r"'program' out of own\.yaml: the program is already own\.py:make_it"
    ):
        compose(["task=own.py:make_it"])


@pytest.mark.parametrize("stem", ["a#1", "a b", "über?x", "x,y"])
def test_a_file_of_any_name_makes_a_task_that_files_can_be_named_after(
    tmp_path: Path, stem: str
) -> None:
    (tmp_path / f"{stem}.py").write_text("def make_it(): ...")
    name = compose([f'task="{tmp_path}/{stem}.py:make_it"']).task.name
    assert name.endswith(".it")
    assert not set("#? :,/;") & set(name)
