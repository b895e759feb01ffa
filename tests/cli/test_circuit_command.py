"""`algomatch circuit`: for a trained model, its reference, and no run; and all mistakes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.runs import TINY, run
from support.wandb_server import WandbServer

from algomatch.api.circuit import circuit
from algomatch.cli import main as cli
from algomatch.runs import checkpoints

OF = ("task=reverse", "task.vocabulary=[a,b]", "task.max_length=3", "analysis.bootstrap=20")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = [*TINY, "model=2L", "model.d_model=16", "model.n_heads=2", "trainer.max_steps=200",
                 "analysis=accuracy_only", "tracking=disabled", f"run_dir={folder}"]  # fmt: skip
    assert cli.main(["train", *arguments]) == 0
    return folder


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_trained_models_circuits_are_found_drawn_and_written(
    trained: Path, capsys: Capture
) -> None:
    assert cli.main(["circuit", str(trained)]) == 0
    said = capsys.readouterr().out
    for part in ("edges among 8 nodes", "resample_across", "the circuit:",
                 "are surely needed (without one, the outputs are at least 0.01 nats further off)",
                 "surely have an effect (above 0)", "+: surely above 0; *: surely at least 0.01 (",
                 "in a random init: ", "inputs, judged on 14",
                 "node scores", "variables carried by edges"):  # fmt: skip
        assert part in said
    where = trained / "circuit"
    assert {path.name for path in where.iterdir()} == {
        "carried.csv", "circuits.csv", "edges.csv", "nodes.csv", "lengths.csv", "curves.png",
        "circuit.png", "step-00000200",
    }  # fmt: skip
    edges, circuits = table(where / "edges.csv"), table(where / "circuits.csv")
    assert len(edges) == len({row["edge"] for row in edges})
    assert {row["ablation"] for row in circuits} == {
        "zero", "mean", "resample_within", "resample_across"
    }  # fmt: skip
    assert {row["method"] for row in circuits} >= {"exact", "eap", "eap_ig"}
    inside = [row for row in edges if row["in_circuit"] == "True"]
    assert inside
    assert all(float(row["needed"]) == float(row["needed"]) for row in inside)
    assert [row["length"] for row in table(where / "lengths.csv")] == ["1", "2", "3"]
    assert len(table(where / "nodes.csv")) == 8
    carried = table(where / "carried.csv")
    assert {row["of"] for row in carried} == {"model", "reference", "random init"}
    assert len([row for row in carried if row["of"] == "model"]) == len(inside)
    inner = [row["edge"] for row in carried if row["inner"] == "True"]
    assert not any(edge.startswith(("tokens", "positions")) for edge in inner)


def test_the_reference_of_a_run_is_judged_by_its_true_circuit(
    trained: Path, capsys: Capture
) -> None:
    assert cli.main(["circuit", str(trained), "--reference", "--kinds", "resample_across"]) == 0
    said = capsys.readouterr().out
    assert "compiled reverse" in said
    assert "AUROC" in said
    assert "resample_across cannot see: tokens -> 0.0 q" in said
    carried = said[said.index("variables carried by edges") :].splitlines()
    assert carried[1].split("  ")[0].strip() == "variable"
    assert carried[1].split() == ["variable", "in", "the", "reference"]
    assert any(" -> " in line for line in carried[2:])
    rows = table(trained / "circuit-reference" / "edges.csv")
    assert {row["real"] for row in rows} == {"True", "False"}
    for row in rows:
        assert float(row["exact/resample_across"]) == 0 or row["visible/resample_across"] == "True"


@pytest.mark.parametrize(
    ("more", "settings"),
    [([], []), (["analysis.device=cpu"], []), (["analysis.seed=3"], ["analysis.seed=3"])],
)
def test_a_run_of_an_accelerator_is_analysed_on_the_cpu_by_command_and_in_python(
    trained: Path, tmp_path: Path, more: list[str], settings: list[str]
) -> None:
    last = checkpoints.load(trained)
    analysis = replace(last.config.analysis, device="cuda:99")
    elsewhere = replace(last.config, analysis=analysis)
    path = checkpoints.save(tmp_path, last.weights, elsewhere, "there", 1, [], last.inputs_digest)
    given = ["--methods", "eap", "--kinds", "zero"]
    assert cli.main(["circuit", str(path), *more, *given]) == 0
    result = circuit(path, methods=["eap"], kinds=["zero"], overrides=more)
    (written,) = path.glob("circuit/*/settings.json")
    assert json.loads(written.read_text())["settings"] == ["methods=eap", "kinds=zero", *settings]
    assert result.about.key.settings == ("methods=eap", "kinds=zero", *settings)


def test_a_program_needs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["circuit", "--reference", *OF, "--methods", "exact", "--kinds", "zero", "mean"]
    assert cli.main(given) == 0
    assert "compiled reverse: 94 edges" in capsys.readouterr().out
    assert (tmp_path / "circuit-reverse" / "circuit.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_found_before_an_interrupt_is_there(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from algomatch.api import circuit

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(circuit, "acdc", interrupted)
    assert cli.main(["circuit", str(trained), "--output", str(tmp_path / "some")]) == 130
    circuits = table(tmp_path / "some" / "circuits.csv")
    assert {(row["ablation"], row["method"]) for row in circuits} == {("zero", "exact")}
    assert (tmp_path / "some" / "step-00000200-unfinished" / "circuits.csv").is_file()
    assert "interrupted; the results so far are in '" in (error := capsys.readouterr().err)
    assert "'; the same command starts anew" in error


def test_a_smaller_search_takes_nothing_away_nor_does_one_that_is_interrupted(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    given = ["circuit", str(trained), "--output", str(tmp_path)]
    assert cli.main([*given, "--methods", "eap", "exact", "--kinds", "mean", "zero"]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert cli.main([*given, "--methods", "eap", "--kinds", "mean"]) == 0
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    small = tmp_path / "step-00000200-methods=eap-kinds=mean"
    assert {(row["ablation"], row["method"]) for row in table(small / "circuits.csv")} == {
        ("mean", "eap")
    }

    from algomatch.api import circuit

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(circuit, "variables_on_edges", interrupted)
    assert cli.main([*given, "--methods", "eap", "exact", "--kinds", "mean", "zero"]) == 130
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}


@pytest.mark.parametrize("task", ["shift_by", "previous_token", "reverse_fixed"])
def test_small_sets_undefined_outputs_causal_and_fixed_lengths_are_analysed_too(
    task: str, tmp_path: Path, capsys: Capture
) -> None:
    given = [f"task={task}", "task.vocabulary=[a,b]", "task.max_length=3", "analysis.bootstrap=20"]
    given += ["task.min_length=3"] if task == "reverse_fixed" else []
    more = ["--methods", "exact", "acdc", "--output", str(tmp_path)]
    assert cli.main(["circuit", "--reference", *given, *more]) == 0
    said = capsys.readouterr().out
    assert ("resample_across" in said) == (task == "previous_token"), "the others have one length"
    assert "surely needed" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "circuit takes a checkpoint or run folders: none is given"),
        (
            ["--reference"],
            "circuit takes one checkpoint, or task=NAME and KEY=VALUE: none is given",
        ),
        (["nowhere"], "nowhere"),
        (["--kinds", "mean", "RUN"], "none is given (--kinds took '"),
        (["--reference", "--kinds", "mean", "task=sort"], "is given (--kinds took 'task=sort')"),
        (["task=sort"], "circuit takes a checkpoint or run folders: none is given"),
        (["RUN", "RUN"], "is given twice: name every run once"),
        (["RUN", "RUN", "--reference"], "circuit takes one checkpoint, or task=NAME"),
        (["RUN", "task=sort"], "'task=sort': the run was trained with its own task"),
        (["--reference", "task=sorted"], "unknown task 'sorted': did you mean 'sort'?"),
        (["RUN", "--methods", "acdcc"], "unknown method 'acdcc': did you mean 'acdc'?"),
        (["RUN", "--kinds", "means"], "unknown kind 'means': did you mean 'mean'?"),
        (["RUN", "--methods"], "expected at least one argument"),
    ],
)
def test_a_mistake_gives_one_line(
    given: list[str], message: str, trained: Path, capsys: Capture
) -> None:
    arguments = [str(trained) if argument == "RUN" else argument for argument in given]
    assert cli.main(["circuit", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_tables_and_pictures_reach_weights_and_biases(tmp_path: Path) -> None:
    """As a W&B run of its own, in the group of the analysed run."""
    folder = tmp_path / "run"
    with WandbServer() as server:
        code, _, error = run(
            "train", *TINY, "tracking=online", "analysis=accuracy_only", "trainer.max_steps=20",
            f"run_dir={folder}", environment=server.environment(),
        )  # fmt: skip
        assert code == 0, error
        given = ("--kinds", "mean", "--methods", "exact")
        code, _, error = run("circuit", str(folder), *given, environment=server.environment())
        assert code == 0, error
        (own,) = [each for name, each in server.runs.items() if "-circuit-" in name]
    pictures = [name for name in own.files if name.endswith(".png")]
    tables = [name for name in own.files if name.endswith(".table.json")]
    assert len(pictures) == 2
    assert len(tables) == len(list((folder / "circuit").glob("*.csv")))
    assert own.exit_code == 0


def test_circuits_that_cannot_be_written_are_shown(trained: Path, capsys: Capture) -> None:
    arguments = ["circuit", str(trained), "--methods", "eap", "--kinds", "mean"]
    assert cli.main([*arguments, "--output", "/proc/none"]) == 1
    printed = capsys.readouterr()
    assert "edges among 8 nodes" in printed.out
    assert printed.err.startswith("algomatch: cannot write into '/proc/none'")
    assert printed.err.count("\n") == 1
