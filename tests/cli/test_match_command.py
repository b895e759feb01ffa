"""`algomatch match`: a trained run matched with its programs, and the controls of a task."""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from support.runs import TINY, quiet

from algomatch.analysis.controls.known_models import DECOY, NEGATIVE, POSITIVE, controls
from algomatch.analysis.matching.cut_tests import exact_share
from algomatch.analysis.matching.cut_verdicts import FOLLOWS, NOT_SOLVED
from algomatch.analysis.matching.known_answers import CHECKS, check
from algomatch.analysis.matching.match_result import Matching, MatchResult
from algomatch.analysis.matching.program_ranking import (
    Candidate,
    candidate,
    indistinguishable,
    programs_of,
    ranked,
    standing,
)
from algomatch.analysis.results import SETTINGS
from algomatch.api.match import match_controls, match_each
from algomatch.api.preparation import prepare
from algomatch.api.train import train
from algomatch.cli import main as cli
from algomatch.config.composition import compose
from algomatch.data.inputs import input_set
from algomatch.data.rasp.cuts import effect
from algomatch.data.tasks import make_task
from algomatch.models.reference import build_reference
from algomatch.models.shapes import random_inits
from algomatch.models.task_model import task_model_of
from algomatch.report.terminal.known_answer_table import print_counts
from algomatch.runs.loaded_run import LoadedRun
from algomatch.runs.result_store import save

TASK = (
    "task=double_hist", "task.vocabulary=[a,b,c]", "task.max_length=4", "analysis.bootstrap=100",
    "analysis.match_cases=200", "model=2L", "model.d_model=16", "model.n_heads=2",
    "analysis.other_tasks=1",
)  # fmt: skip
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    config = compose([*TINY, f"run_dir={folder}", "tracking=disabled", "trainer.checkpoints=3",
                      "analysis.measures=[accuracy]"])  # fmt: skip
    train(config, quiet())
    return folder


@pytest.fixture(scope="module")
def programs() -> list[Candidate]:
    config = compose([*TASK])
    candidates = []
    for name, task in programs_of(make_task(config.task)):
        inputs = input_set(task, config.task)
        candidates.append(candidate(name, inputs, build_reference(inputs), config.analysis))
    return candidates


def test_a_run_is_matched_with_every_program_of_its_task(run: Path, capsys: Capture) -> None:
    assert cli.main(["match", str(run), "--all"]) == 0
    out = capsys.readouterr().out
    for expected in (
        "program reverse", "program reverse_by_counting", "verdict:", "selector",
    ):  # fmt: skip
        assert expected in out
    written = run / "matching"
    tables = {"match.csv", "programs.csv", "selectors.csv", "emergence.csv", "match.png"}
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert {path.name for path in written.iterdir()} == {*tables, "emergence.png", *kept}
    for name in kept:
        assert {path.name for path in (written / name).iterdir()} == {*tables, SETTINGS}
    rows = list(csv.DictReader((written / "match.csv").read_text().splitlines()))
    steps = sorted({int(row["step"]) for row in rows})
    assert steps == [int(path.name[5:]) for path in sorted((run / "checkpoints").iterdir())]
    sites = {"blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"}
    assert {row["site"] for row in rows} == sites
    for row in rows:
        assert 0 <= float(row["match"]) <= float(row["score"]) <= 1
        assert float(row["match_low"]) <= float(row["match"]) <= float(row["match_high"])
        assert int(row["n"]) > 0
    verdicts = list(csv.DictReader((written / "programs.csv").read_text().splitlines()))
    assert {row["program"] for row in verdicts} == {"reverse", "reverse_by_counting"}
    assert sorted({int(row["step"]) for row in verdicts}) == steps
    assert [row["verdict"] for row in verdicts if row["step"] == "0"] == [NOT_SOLVED] * 2


def test_one_program_of_one_checkpoint_goes_where_it_is_told(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    first = sorted((run / "checkpoints").iterdir())[0]
    given = ["match", str(first), "--programs", "reverse", "--output", str(tmp_path / "here")]
    assert cli.main(given) == 0
    out = capsys.readouterr().out
    assert NOT_SOLVED in out  # the model is untrained
    assert "reverse_by_counting" not in out
    tables = {"match.csv", "programs.csv", "selectors.csv", "emergence.csv", "match.png"}
    own = f"{first.name}-programs=reverse"
    assert {path.name for path in (tmp_path / "here").iterdir()} == {*tables, own}
    assert {path.name for path in (tmp_path / "here" / own).iterdir()} == {*tables, SETTINGS}


def test_one_checkpoint_matched_after_all_takes_nothing_away(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    assert cli.main(["match", str(copy), "--all", "--no-sides"]) == 0
    tables = ("match.csv", "programs.csv", "selectors.csv", "emergence.csv")
    before = {name: (copy / "matching" / name).read_bytes() for name in tables}
    picture = (copy / "matching" / "emergence.png").read_bytes()
    last = sorted((copy / "checkpoints").iterdir())[-1]
    given = ["match", str(last), "--programs", "reverse", "--no-sides"]
    assert cli.main(given) == 0
    told = capsys.readouterr().out
    assert f"{copy / 'matching' / f'{last.name}-programs=reverse-no-sides'}; collected: " in told
    assert before == {name: (copy / "matching" / name).read_bytes() for name in tables}
    assert (copy / "matching" / "emergence.png").read_bytes() == picture


def test_what_was_matched_before_an_interrupt_is_there(run: Path, tmp_path: Path) -> None:
    """Ctrl-C after the second checkpoint."""
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "matching", ignore_errors=True)
    steps = sorted((copy / "checkpoints").iterdir())
    matchings: list[Matching] = []

    def keep(matching: Matching) -> None:
        save(copy / "matching", MatchResult.of(matching, sides=False))
        matchings.append(matching)
        if len(matchings) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        match_each([LoadedRun.open(step) for step in steps], sides=False, keep=keep)
    rows = csv.DictReader((copy / "matching" / "programs.csv").read_text().splitlines())
    assert sorted({int(row["step"]) for row in rows}) == [int(step.name[5:]) for step in steps[:2]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["RUN", "--programs", "reverze"], "unknown program 'reverze' of reverse: did you mean"),
        (["nowhere"], "checkpoint 'nowhere' does not exist"),
        ([], "match takes a checkpoint or run folders: none is given"),
        (["--reference"], "match takes one checkpoint, or task=NAME and KEY=VALUE: none is given"),
        (["RUN", "--again"], "--again needs several runs, or --all: one checkpoint is done anew"),
        (["RUN", "--output", __file__], "is a file: give a folder"),
        (["RUN", "RUN"], "is given twice: name every run once"),
        (["RUN", "nowhere"], "'nowhere' does not exist"),
        (["RUN", "--sites"], "unknown option '--sites'"),
        (["RUN", "task=sort"], "'task=sort': the run was trained with its own task"),
        (
            ["--controls", "reverse", "analysis.seed=1"],
            "`match --controls` is a command of its own now: "
            "`algomatch match-controls reverse analysis.seed=1`",
        ),
        (["a run", "--subspaces"], "is a command of its own now: `algomatch subspaces 'a run'`"),
        (
            ["gpt2", "task=induction", "--encoder=own.py:encode"],
            "`algomatch match-model gpt2 task=induction --encoder=own.py:encode`",
        ),
    ],
)
def test_a_mistake_gives_one_line(
    given: list[str], message: str, run: Path, capsys: Capture
) -> None:
    assert (
        cli.main(["match", *(str(run) if argument == "RUN" else argument for argument in given)])
        == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["reverse", "--all"], "unknown option '--all': valid: --device"),
        (["revers"], "unknown task 'revers'"),
        (
            ["task=reverse"],
            "'task=reverse': give tasks without a key, as in match-controls reverse",
        ),
        (["reverse", "--device", "tpu"], "analysis.device=tpu"),
    ],
)
def test_a_mistake_about_controls_gives_one_line(
    given: list[str], message: str, capsys: Capture
) -> None:
    assert cli.main(["match-controls", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_several_runs_give_the_verdicts_of_each_group(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    second = tmp_path / "runs" / "two"
    config = compose([*TINY, f"run_dir={second}", "tracking=disabled", "trainer.checkpoints=3",
                      "analysis.measures=[accuracy]", "seed=1"])  # fmt: skip
    train(config, quiet())
    given = ["match", str(run), str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    assert cli.main(given) == 0
    out = capsys.readouterr().out
    assert "verdicts on reverse" in out
    assert "does not solve the task 2/2" in " ".join(out.split())
    rows = list(csv.DictReader((tmp_path / "out" / "verdicts.csv").read_text().splitlines()))
    assert {(row["seed"], row["program"]) for row in rows} == {
        (seed, program) for seed in "01" for program in ("reverse", "reverse_by_counting")
    }
    for row in rows:
        assert row["verdict"] == NOT_SOLVED
        assert row["path"].startswith("embed: indices, tokens")
    for folder in (run, second):
        assert (folder / "matching" / "match.png").read_bytes().startswith(b"\x89PNG")


def test_each_compiled_program_is_first_in_its_own_ranking_and_follows_no_rival(
    programs: list[Candidate],
) -> None:
    config = compose([*TASK]).analysis
    assert len(programs) == 2
    assert not indistinguishable(programs)
    for own in programs:
        assert own.reference is not None
        assert own.testable
        bridge = own.reference.compiled.bridge(programs[0].inputs)
        table = ranked(
            standing(task_model_of(bridge, programs[0].inputs), program, config)
            for program in programs
        )
        assert table[0].candidate is own
        assert table[0].score is not None
        assert table[0].score[0] == 1.0
        assert table[0].verdict.verdict == FOLLOWS
        assert table[1].score is not None
        assert table[1].score[2] < 0.95
        assert table[1].verdict.verdict != FOLLOWS


def test_programs_with_the_same_cuts_are_said_to_be(programs: list[Candidate]) -> None:
    twin = replace(programs[0], name="twin")
    assert indistinguishable([*programs, twin]) == [(programs[0], twin)]


def test_without_a_solved_task_nothing_else_is_said(programs: list[Candidate]) -> None:
    config = compose([*TASK])
    reference = programs[0].reference
    assert reference is not None
    (untrained,) = random_inits(reference.bridge.cfg, 1, 0, "cpu")
    judged = standing(task_model_of(untrained, programs[0].inputs), programs[0], config.analysis)
    assert judged.verdict.verdict == NOT_SOLVED
    assert f"{judged.exact:.3f} is below 0.99" in judged.verdict.why


def test_a_program_without_a_reference_is_not_judged(programs: list[Candidate]) -> None:
    config = compose([*TASK]).analysis
    program = candidate("double_hist", programs[0].inputs, None, config, "Tracr cannot")
    assert program.testable == ()
    assert programs[0].reference is not None
    task_model = task_model_of(programs[0].reference.bridge, programs[0].inputs)
    judged = standing(task_model, program, config)
    assert judged.verdict.verdict == "undecided"
    assert judged.score is None


def test_controls_are_matched_with_the_programs_whose_answers_are_known() -> None:
    own, other = "double_hist", "double_hist_by_division"
    config = compose([
        "task=double_hist", "task.vocabulary=[a,b]", "task.max_length=3", "model=1L",
        "model.d_model=16", "model.n_heads=2", "trainer.max_steps=5", "trainer.warmup_steps=1",
        "analysis.bootstrap=20", "analysis.random_inits=2", "analysis.match_cases=60",
        "analysis.other_tasks=1",
    ])  # fmt: skip
    checks = [row for row in match_controls(config, quiet()) if row.exact is not None]
    by_kind = {kind: [row for row in checks if row.kind == kind]
               for kind in (POSITIVE, NEGATIVE, DECOY)}  # fmt: skip
    assert {row.program for row in by_kind[POSITIVE]} == {own}
    assert [(row.control, row.program) for row in by_kind[DECOY]] == [(other, own), (other, other)]
    assert {row.exact for row in (*by_kind[POSITIVE], *by_kind[DECOY])} == {1.0}
    context = prepare(config)
    inits = random_inits(context.shape, 10, config.analysis.seed, "cpu")
    exact = {
        f"random_init-{at}": exact_share(task_model_of(bridge, context.inputs), context.inputs)
        for at, bridge in enumerate(inits, start=1)
    }
    for program in (own, other):
        shares = {row.control: row.exact for row in by_kind[NEGATIVE] if row.program == program}
        assert {name: shares[name] for name in exact} == exact
        assert {"shuffled_labels", "trained_on_reverse", "compiled_reverse"} < shares.keys()


@pytest.mark.slow
def test_controls_are_told_apart(programs: list[Candidate]) -> None:
    config = compose([*TASK])
    context = prepare(config)
    assert context.inputs.digest() == programs[0].inputs.digest()
    planned = controls(context.inputs, context.reference, context.shape, config)
    trained = ("implemented", "shuffled_labels", "trained_on_")
    checks = [
        row
        for control in planned
        if not control.name.startswith(trained)
        for row in check(control, programs, context, lambda step, steps: None)
    ]
    assert all(check.right for check in checks), checks
    positives = [check for check in checks if check.kind == POSITIVE]
    assert len(positives) == 9
    assert min(check.match or 0 for check in positives) >= 0.95
    negatives = [check for check in checks if check.kind == NEGATIVE]
    assert len(negatives) == 2 * (5 + 1)  # random inits and a compiled task, with both programs
    assert max(check.match or 0 for check in negatives) < 0.5
    decoys = {decoy.program: decoy for decoy in checks if decoy.kind == DECOY}
    assert decoys["double_hist_by_division"].verdict == FOLLOWS
    assert decoys["double_hist"].verdict != FOLLOWS
    assert CHECKS.from_csv(CHECKS.to_csv(checks), "match-controls.csv") == checks
    console = Console(file=io.StringIO(), width=100)
    print_counts([*checks, replace(checks[0], right=False, verdict="different")], console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "9 of 10 positives follow their program" in printed
    assert "12 of 12 negatives realise no inner cut" in printed
    assert "exception: double_hist: positive reference" in printed


@pytest.mark.parametrize(
    ("task", "cut", "other", "alike"),
    [
        ("reverse", ("indices", "tokens", "length"), ("indices", "tokens", "opp_idx"), True),
        ("reverse", ("indices", "tokens"), ("indices", "tokens", "length"), False),
        ("contains", ("n_ends",), ("contains",), True),  # it needs how many, or whether any
        ("double_hist", ("hist", "n_same_before"), ("hist", "hist_at_first"), True),
        ("double_hist", ("tokens", "hist", "indices"), ("hist", "n_same_before"), False),
    ],
)
def test_what_the_rest_of_a_program_goes_by(
    task: str, cut: tuple[str, ...], other: tuple[str, ...], alike: bool
) -> None:
    config = compose([f"task={task}", "task.max_length=4"]).task
    inputs = input_set(make_task(config), config)
    assert (effect(inputs, cut, 0) == effect(inputs, other, 0)) == alike
