"""`algomatch explain`: a trained run, its reference, a task's reference, and mistakes."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from support.runs import TINY, quiet
from support.runs import run as run_command

from algomatch.api.train import train
from algomatch.cli import main as cli
from algomatch.config.composition import compose

FILES = {
    "heads.csv", "neurons.csv", "neurons-random-init.csv", "explained.csv", "explanation.png",
}  # fmt: skip
SMALL = ("task=reverse", "task.vocabulary=[a,b]", "task.max_length=3", "analysis.bootstrap=20")
Capture = pytest.CaptureFixture[str]


def trained(folder: Path, *more: str) -> Path:
    config = compose([*TINY, f"run_dir={folder}", "tracking=disabled", "trainer.checkpoints=1",
                      "analysis.measures=[accuracy]", *more])  # fmt: skip
    train(config, quiet())
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "one")


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_run_is_explained(run: Path, capsys: Capture) -> None:
    assert cli.main(["explain", str(run)]) == 0
    out = capsys.readouterr().out
    solves = out.lstrip().splitlines()[0]
    assert solves.startswith(("solves reverse", "does not solve reverse: exact accuracy 0."))
    for expected in ("heads are active", "neurons:", "control: uniform attention", "by length"):
        assert expected in out
    written = run / "explanation"
    assert {path.name for path in written.iterdir()} == FILES | {"step-00000060"}
    assert (written / "explanation.png").read_bytes().startswith(b"\x89PNG")
    heads = rows(written / "heads.csv")
    assert [(row["layer"], row["head"]) for row in heads] == [("0", "0"), ("0", "1")]
    for row in heads:
        assert row["level"] in ("selector", "table", "nothing", "inactive")
        low, value, high = (float(row[f"selector_{key}"]) for key in ("low", "overlap", "high"))
        assert 0 <= low <= value <= high <= 1
        assert 0 <= float(row["selector_random_init"]) <= 1
    neurons = rows(written / "neurons.csv")
    assert len(neurons) == 64
    losses = [float(row["loss_change"] or "-inf") for row in neurons]
    assert losses == sorted(losses, reverse=True)
    assert {"adds_to_a", "adds_to_b"} <= neurons[0].keys()
    explained = rows(written / "explained.csv")
    assert {row["inputs"] for row in explained} == {"all", "held_out"}
    assert {row["length"] for row in explained} == {"", "1", "2", "3"}
    assert {row["up_to_layer"] for row in explained} == {"-1", "0"}


@pytest.mark.parametrize("columns", ["40", "80"])
def test_what_is_printed_fits_the_terminal_and_lists_what_is_explained(
    run: Path, columns: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["explain", str(run)]) == 0
    out = capsys.readouterr().out
    for line in out.splitlines():
        if " " in line.strip() and str(run) not in line:  # names and paths are not broken
            assert len(line.rstrip()) <= int(columns), line
    neurons = rows(run / "explanation" / "neurons.csv")
    varying = [row for row in neurons if row["state"] == "varies"]
    explained = [f"0.{row['neuron']}" for row in varying if row["explained"] == "True"]
    assert 0 < len(explained) < len(varying)
    if columns == "80":
        assert re.findall(r"^(0\.\d+) .*\d\.\de[-+]", out, re.MULTILINE) == explained[:20]
    assert f"{len(varying) - len(explained)} that are below the threshold" in " ".join(out.split())
    assert ("shuffled: the same fit" in " ".join(out.split())) == bool(explained)


def test_the_reference_of_a_run_is_explained_as_it_is(run: Path, capsys: Capture) -> None:
    assert cli.main(["explain", str(run), "--reference"]) == 0
    out = capsys.readouterr().out
    assert out.lstrip().startswith("solves reverse\n")
    assert "the compiled reference of reverse" in out
    written = run / "explanation-reference"
    assert {path.name for path in written.iterdir() if path.is_file()} == FILES
    (result,) = (path for path in written.iterdir() if path.is_dir())
    assert result.name.startswith("result-inputs=")
    heads = [row for row in rows(written / "heads.csv") if row["level"] != "inactive"]
    assert [row["level"] for row in heads] == ["selector"] * len(heads)
    assert "reverse_selector, else BOS" in {row["selector"] for row in heads}
    for row in rows(written / "neurons.csv"):
        assert row["state"] != "varies" or row["explained"] == "True"
    for row in rows(written / "explained.csv"):
        assert row["control"] == "True" or float(row["exact"]) == 1.0


@pytest.mark.slow
def test_a_task_is_enough_for_its_reference(tmp_path: Path) -> None:
    where = tmp_path / "here"
    code, out, err = run_command(
        "explain", "--reference", *SMALL, "--output", str(where), cwd=tmp_path
    )
    assert code == 0, err
    told = "the compiled reference of reverse with vocabulary [a, b], max_length 3: exact"
    assert told in " ".join(out.split())
    assert {path.name for path in where.iterdir() if path.is_file()} == FILES


def test_a_model_with_attention_only_has_no_neurons(tmp_path: Path, capsys: Capture) -> None:
    folder = trained(tmp_path / "attention", "model.attn_only=true", "trainer.max_steps=3")
    assert cli.main(["explain", str(folder), "--output", str(tmp_path / "there")]) == 0
    out = capsys.readouterr().out
    assert "no neurons: the model has attention only" in out
    assert "does not solve reverse" in out.lstrip().splitlines()[0]
    assert {path.name for path in (tmp_path / "there").iterdir() if path.is_file()} == {
        name for name in FILES if not name.startswith("neurons")
    }


def test_what_was_found_before_an_interrupt_is_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from algomatch.api import explain

    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(explain, "explain_neurons", interrupted)
    assert cli.main(["explain", str(run), "--output", str(tmp_path / "some")]) == 130
    part = next((tmp_path / "some").glob("step-*-unfinished"))
    assert {path.name for path in (tmp_path / "some").iterdir()} == {"heads.csv", part.name}
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "explain takes a checkpoint or run folders: none is given"),
        (["RUN", "RUN"], "is given twice: name every run once"),
        (["RUN", "RUN", "--reference"], "explain takes one checkpoint, or task=NAME"),
        (["nowhere"], "checkpoint 'nowhere' does not exist"),
        (["nowhere", "--reference"], "checkpoint 'nowhere' does not exist"),
        (["RUN", "seed=1"], "'seed=1': the run was trained with its own seed"),
        (["RUN", "--reference", "task=sort"], "the run was trained with its own task"),
        (
            ["--reference"],
            "explain takes one checkpoint, or task=NAME and KEY=VALUE: none is given",
        ),
        (["--reference", "analysis.seed=1"], "name the task whose program is to be analysed"),
        (["--reference", "task=revers"], "unknown task 'revers': did you mean 'reverse'?"),
        (["--reference", "task=reverse", "analysis.explain_depth=0"], "must be at least 1"),
        (
            ["--reference", "task=reverse", "analysis.explain_at=2"],
            "must be at least 0 and at most 1",
        ),
        (["RUN", "--deep"], "unknown option '--deep'"),
        (["RUN", "--all"], "unknown option '--all': valid: --again, --device, --help"),
        (["RUN", "--device", "gpu7"], "gpu7"),
    ],
)
def test_a_mistake_gives_one_line(
    given: list[str], message: str, run: Path, capsys: Capture
) -> None:
    assert (
        cli.main(["explain", *(str(run) if argument == "RUN" else argument for argument in given)])
        == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_explanation_that_cannot_be_written_is_shown(run: Path, capsys: Capture) -> None:
    assert cli.main(["explain", str(run), "--output", "/proc/none"]) == 1
    printed = capsys.readouterr()
    assert "by length" in printed.out
    assert printed.err.startswith("algomatch: cannot write into '/proc/none'")
    assert printed.err.count("\n") == 1
