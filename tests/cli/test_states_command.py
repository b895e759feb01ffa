"""`algomatch states`: what it prints and writes are the states of that model, with its controls."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runs import TINY, quiet

from algomatch.analysis.states.search import StateRule, StateSpace
from algomatch.analysis.states.site_states import SiteFindings, fewest_bits, site_states
from algomatch.analysis.states.states_result import StatesResult
from algomatch.api.states import states
from algomatch.api.train import train
from algomatch.cli import main as cli
from algomatch.config.composition import compose
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.rasp.cuts import cuts
from algomatch.data.rasp.library import library
from algomatch.models.shapes import random_inits
from algomatch.models.task_model import task_model_of
from algomatch.runs.loaded_run import LoadedRun

Capture = pytest.CaptureFixture[str]
FEW = ["analysis.state_inits=2", "analysis.state_expressions=60", "analysis.state_cases=80"]
SETTINGS = [*FEW, "analysis.bootstrap=50"]
WRITTEN = {"states.csv", "losses.csv", "curve.csv", "cuts.csv", "verdicts.csv", "states.png"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(compose([*TINY, *SETTINGS, f"run_dir={folder}", "tracking=disabled", "model.n_layers=2",
                   "trainer.max_steps=300",
                   "trainer.checkpoints=2", "analysis.measures=[accuracy]"]), quiet())  # fmt: skip
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def test_figures_are_those_of_this_model_and_of_these_untrained_ones(
    run: Path, capsys: Capture
) -> None:
    """Every number is computed again from parts; a control in the subject's place would differ."""
    assert cli.main(["states", str(run)]) == 0
    out = capsys.readouterr().out
    result = StatesResult.read(run / "states" / "step-00000300")
    assert {path.name for path in (run / "states").iterdir() if path.is_file()} == WRITTEN

    loaded = LoadedRun.open(run)
    inputs, config = loaded.inputs, loaded.config.analysis
    task = inputs.task
    tasks = {task.name: task, **{name: task.with_program(name) for name in task.alternatives}}
    made = library(inputs, {name: each.program for name, each in tasks.items()}, 60, 600.0)
    rule = StateRule(config.state_sufficient, 80, 50, config.seed)
    programs = {name: cuts(_inputs_of(loaded, name)) for name in tasks}
    space = StateSpace(inputs, made, rule)
    every = ("residual", "side")
    findings = list(site_states(loaded.task_model, space, every, programs))
    inits = random_inits(loaded.shape, 2, config.seed, "cpu")
    controls = [fewest_bits(task_model_of(init, inputs), space, programs) for init in inits]

    first = [row for row in result.states if row.rank == 0]
    assert [row.site for row in first] == [finding.states.site for finding in findings]
    for row, finding in zip(first, findings, strict=True):
        state, bits = finding.states.state, [c[row.site] for c in controls if row.site in c]
        assert row.control_bits == (min(bits) if bits else None)
        assert row.most_bits == pytest.approx(space.most_bits)
        if state is None:
            assert (row.bits, row.variables, row.short) == (None, (), False)
            continue
        assert row.variables == state.variables
        assert (row.sufficiency, row.low, row.high, row.right) == (
            state.sufficiency.value, state.sufficiency.low, state.sufficiency.high,
            state.sufficiency.right,
        )  # fmt: skip
        assert row.bits == state.bits
        assert row.permuted == finding.states.permuted
        assert row.short == all(state.bits < each for each in bits)
        lost = {loss.variable: loss for loss in state.losses}
        written = [loss for loss in result.losses if (loss.site, loss.rank) == (row.site, 0)]
        assert {loss.variable: loss.loss for loss in written} == {
            name: loss.value for name, loss in lost.items()
        }
        points = [(p.bits, p.sufficiency) for p in result.curve if p.site == row.site]
        assert points == [(p.bits, p.sufficiency.value) for p in finding.states.curve]
    tests = [at for finding in findings for at in finding.cuts]
    assert [(row.program, row.cut, row.site, row.sufficiency, row.held) for row in result.cuts] == [
        (at.program, at.cut.name, at.site, at.state.sufficiency.value, at.held) for at in tests
    ]
    for verdict in result.verdicts:
        assert f"{verdict.program}: {verdict.verdict}: {verdict.why}" in " ".join(out.split())
    assert {verdict.program for verdict in result.verdicts} == set(tasks)


def _inputs_of(run: LoadedRun, name: str) -> InputSet:
    task = run.task if name == run.task.name else run.task.with_program(name)
    return input_set(task, run.config.task)


def test_python_gives_what_the_command_writes(run: Path) -> None:
    assert cli.main(["states", str(run)]) == 0
    written = StatesResult.read(run / "states" / "step-00000300")
    made = states(run)
    assert made.states == written.states
    assert made.verdicts == written.verdicts
    assert made.about.key == written.about.key


def test_components_and_a_variable_of_ones_own(run: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def starts_with_own(tokens, index):\n    return tokens[0] == tokens[index]\n")
    given = ["states", str(run), "--components", "--variables", f"{file}:starts_with_own"]
    assert cli.main(given) == 0
    (folder,) = (run / "states").glob("step-*")
    assert "components" in folder.name
    rows = StatesResult.read(folder).states
    assert {row.kind for row in rows} == {"residual", "side", "component"}
    assert "blocks.1.attn.hook_z[0]" in {row.site for row in rows}
    assert "library: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ("", "mine.py:gone", "mine.py"),
        ("def bad(tokens, index):\n    return tokens[index + 1]\n", "mine.py:bad",
         "the variable 'bad' fails on the list"),
        ("def bad(tokens):\n    return 0\n", "mine.py:bad", "at position 0: TypeError"),
        ("", "nowhere.py:f", "there is no file"),
        ("", "mine", "give path/to/file.py:function"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_one_line(
    text: str, place: str, told: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "mine.py").write_text(text)
    assert cli.main(["states", str(run), "--variables", str(tmp_path / place)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1


def test_ctrl_c_keeps_the_sites_that_are_done(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: Any) -> Iterator[SiteFindings]:
        for number, finding in enumerate(site_states(*args)):
            if number == 2:
                raise KeyboardInterrupt
            yield finding

    monkeypatch.setattr("algomatch.api.states.site_states", stopped)
    assert cli.main(["states", str(run)]) == 130
    assert f"'{run / 'states'}'" in capsys.readouterr().err
    (folder,) = (run / "states").glob("step-*")
    result = StatesResult.read(folder)
    assert not result.about.finished
    assert {row.site for row in result.states} == {
        "blocks.0.hook_resid_pre", "blocks.0.hook_q_input",
    }  # fmt: skip
    monkeypatch.undo()
    assert cli.main(["states", str(run)]) == 0
    (folder,) = (run / "states").glob("step-*")
    assert StatesResult.read(folder).about.finished


def test_too_few_cases_for_the_threshold_are_refused(run: Path, capsys: Capture) -> None:
    given = ["states", str(run), "analysis.state_cases=50"]
    assert cli.main(given) == 2
    told = capsys.readouterr().err
    assert "analysis.state_cases=50 cannot surely show a sufficiency of 0.95" in told
    assert "give at least 73" in told


def test_a_reference_has_the_states_of_its_program(tmp_path: Path, capsys: Capture) -> None:
    given = ["task=sort", "task.vocabulary=[1,2,3]", "task.max_length=4", *FEW]
    where = tmp_path / "out"
    assert cli.main(["states", "--reference", *given, "--output", str(where)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "sort: follows: the inner cuts are held, and nothing else: tokens, indices, place" in out
    (folder,) = where.glob("result*")
    rows = {row.site: row.variables for row in StatesResult.read(folder).states if row.rank == 0}
    assert rows["blocks.1.hook_resid_post"] == ("tokens", "indices", "place")
    assert rows["blocks.2.hook_resid_post"] == ("sort",)
