"""What the functions of a notebook take: lists, configs and runs; anything else is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runs import TINY

import algomatch

CONFIG = [*TINY, "tracking=disabled", "analysis.measures=[accuracy]", "trainer.max_steps=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """A run as `train` and as `load` return it, and by its path; all three are one."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    trained = algomatch.train(algomatch.compose([*CONFIG, f"run_dir={folder}"]))
    return [trained, algomatch.load(folder), folder, str(folder)]


def refused(function: str, *given: Any, **named: Any) -> str:
    with pytest.raises(algomatch.UserError) as error:
        getattr(algomatch, function)(*given, **named)
    return str(error.value)


def test_a_run_is_compared_and_reported_as_train_and_load_return_it(
    runs: list[Any], tmp_path: Path
) -> None:
    for run in (*runs, *([run] for run in runs), runs[1].at(runs[1].steps[0])):
        (group,) = algomatch.compare(run, tmp_path)
        assert [member.folder.path for member in group.runs] == [runs[2]]
    pages = [algomatch.report(run, tmp_path / "page.html").read_text() for run in runs[:2]]
    assert all(runs[0].id in page for page in pages)


@pytest.mark.parametrize("function", ["compare", "report"])
@pytest.mark.parametrize(
    ("given", "end"),
    [([], ": none is given"), (3, ", not 3"), (None, ", not None"), (["x", 3], ", not 3")],
)
def test_what_is_no_run_is_refused(function: str, given: object, end: str) -> None:
    takes = f"{function} takes runs, each a path, what train returns or what load does"
    assert refused(function, given) == takes + end


A_CONFIG = "a config, as algomatch.compose(['task=reverse'])"
A_TASK = "a config's task, as algomatch.compose(['task=reverse']).task"
A_PATH = "the path of its folder or of a checkpoint"
WRONG: list[tuple[str, tuple[object, ...], str]] = [
    ("make_task", ("reverse",), f"make_task takes {A_TASK}, not 'reverse'"),
    ("make_task", (algomatch.compose([]),),
     f"make_task takes {A_TASK}, not an object of type Config"),
    ("input_set", ("reverse", None),
     "input_set takes a task, as algomatch.make_task(config.task), not 'reverse'"),
    ("build_reference", ("reverse",),
     "build_reference takes inputs, as algomatch.input_set(task, config.task), not 'reverse'"),
    ("controls", ("reverse",), f"controls takes {A_CONFIG}, not 'reverse'"),
    ("train", (["task=reverse"],), f"train takes {A_CONFIG}, not ['task=reverse']"),
    ("resume", (None,), "resume takes the path of a run's folder, not None"),
    ("load", (3,), f"a run is opened by {A_PATH}, not 3"),
    ("load_reference", (None,), f"a run is opened by {A_PATH}, not None"),
    *((name, (given,), f"give a run: {A_PATH}, or an open one, not {given}")
      for name in ("match", "circuit", "explain", "subspaces", "analyze") for given in (None, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "given", "text"), WRONG)
def test_an_argument_of_another_kind_is_refused(
    function: str, given: tuple[object, ...], text: str
) -> None:
    assert refused(function, *given) == text


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda run, text: refused("match", run, programs=text), "programs"),
        (lambda run, text: refused("circuit", run, methods=text), "methods"),
        (lambda run, text: refused("circuit", run, kinds=text), "kinds"),
        (lambda run, text: refused("compose", text), "overrides"),
        (lambda run, text: refused("load", run.home, text), "overrides"),
        (lambda run, text: refused("load_reference", run.config, text), "overrides"),
        *((lambda run, text, name=name: refused(name, run.home, overrides=text), "overrides")
          for name in ("match", "circuit", "explain", "subspaces", "analyze")),
    ],
)  # fmt: skip
def test_a_text_is_not_taken_for_a_list(
    call: Callable[[Any, str], str], name: str, runs: list[Any]
) -> None:
    assert call(runs[1], "reverse") == f"{name}='reverse': give a list, as ['reverse']"


def test_overrides_of_an_open_run_name_the_function_that_takes_them(runs: list[Any]) -> None:
    for run, load in ((runs[1], "load"), (algomatch.load_reference(runs[2]), "load_reference")):
        told = refused("match", run, overrides=["analysis.seed=1"])
        assert told == f"overrides are given where it is opened: algomatch.{load}(PATH, overrides)"


def test_an_open_run_is_shown_without_its_weights(runs: list[Any]) -> None:
    shown = repr(runs[1])
    assert "step=2" in shown
    assert "tensor(" not in shown
