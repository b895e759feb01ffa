"""`save`: a result that a notebook computes lies where the command's would, with the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runs import TINY

import algomatch
from algomatch.analysis.results import SETTINGS, Key
from algomatch.cli import main as cli
from algomatch.runs.run_results import RunResults

OF = [*TINY[:2], "analysis.bootstrap=20", "analysis.random_inits=2", "analysis.match_cases=40"]
CONFIG = [*TINY, "tracking=disabled", "analysis.measures=[accuracy]", "trainer.max_steps=2",
          "trainer.checkpoints=2", "analysis.match_cases=40"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    algomatch.train(algomatch.compose([*CONFIG, f"run_dir={folder}"]))
    return folder


def results(where: Path) -> dict[str, object]:
    """The files below a folder: what a result is of, without the time, and all others as bytes."""
    paths = {path.relative_to(where).as_posix(): path for path in where.rglob("*")}
    return {
        name: {**json.loads(path.read_text()), "written": 0}
        if path.name == SETTINGS
        else path.read_bytes()
        for name, path in paths.items()
        if path.is_file()
    }


SAVED: list[tuple[list[str], Callable[[Path], Any]]] = [
    (
        ["match", "RUN", "--programs", "reverse", "--no-sides", "analysis.seed=3"],
        lambda run: algomatch.match(
            run, programs=["reverse"], sides=False, overrides=["analysis.seed=3"], save=True
        ),
    ),
    (
        ["circuit", "RUN", "--methods", "eap", "--kinds", "mean"],
        lambda run: algomatch.circuit(run, methods=["eap"], kinds=["mean"], save=True),
    ),
    (["explain", "RUN"], lambda run: algomatch.explain(run, save=True)),
    (["subspaces", "RUN"], lambda run: algomatch.subspaces(algomatch.load(run), save=True)),
    (
        ["match", "RUN", "--reference", "--no-sides", "analysis.seed=3"],
        lambda run: algomatch.match(
            algomatch.load_reference(run, ["analysis.seed=3"]), sides=False, save=True
        ),
    ),
    (
        ["circuit", "--reference", "task=reverse", *OF, "--methods", "eap", "--kinds", "mean"],
        lambda run: algomatch.circuit(
            algomatch.load_reference(algomatch.compose(["task=reverse", *OF])),
            methods=["eap"], kinds=["mean"], save=True,
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "save"), SAVED, ids=[" ".join(words[:3]) for words, _ in SAVED])
def test_a_saved_result_lies_where_the_commands_does(
    words: list[str],
    save: Callable[[Path], Any],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    for name in ("by the command", "by the function"):
        place = tmp_path / name
        shutil.copytree(trained, place / "run")
        monkeypatch.chdir(place)
        if name == "by the command":
            assert cli.main([word.replace("RUN", "run") for word in words]) == 0
        else:
            result = save(Path("run"))
        made.append(results(place))
    assert made[0] == made[1]
    new = [path for path in made[1] if path.endswith(SETTINGS)]
    assert len(new) == 1
    assert json.loads((tmp_path / name / new[0]).read_text())["settings"] == list(
        result.about.settings
    )


def test_the_reference_of_a_config_is_named_by_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["task=reverse", *OF, "--methods", "eap", "--kinds", "mean"]
    assert cli.main(["circuit", "--reference", *words]) == 0
    (folder,) = (path for path in Path("circuit-reverse").iterdir() if path.is_dir())
    key = Key("circuit", "", None, ("methods=eap", "kinds=mean"), tuple(sorted(OF)))
    assert folder.name == key.name


def test_what_is_saved_is_what_a_report_reads_and_nothing_is_without(
    trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = results(run)
    algomatch.match(run, programs=["reverse"], sides=False)
    assert results(run) == before
    for step in algomatch.load(run).steps:
        algomatch.match(algomatch.load(run).at(step), programs=["reverse"], sides=False, save=True)
    assert [row.step for row in RunResults(run).match.programs] == algomatch.load(run).steps
    assert (run / "matching" / "emergence.png").is_file()
    assert run.name in algomatch.report(run, tmp_path / "page.html").read_text()
