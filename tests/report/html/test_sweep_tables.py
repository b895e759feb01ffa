"""`algomatch report RUNS --tables DIR`: its tables against the files of the runs."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from support.pages import HOSTILE, TOKENS, trained

from algomatch.cli.main import main
from algomatch.report.figures.panels import png
from algomatch.report.figures.sweep_figures import FIGURES, emergence_figure, verdicts_figure
from algomatch.report.html.grouped_runs import Member, gather_runs
from algomatch.report.html.sweep_tables import TABLES_OF, SummaryTable
from algomatch.runs.run_folder import RunFolder

Capture = pytest.CaptureFixture[str]
Row = Mapping[str, str]
ODD = '=1+1, "odd";\r\n\ra name'
EXACT = "accuracy/exact"


def parsed(path: Path) -> list[dict[str, str]]:
    lines = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True))
    assert all(len(line) == len(lines[0]) for line in lines)
    assert len(set(lines[0])) == len(lines[0])
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def tables_in(folder: Path) -> dict[str, list[dict[str, str]]]:
    return {name: parsed(folder / f"{name}.csv") for name in TABLES_OF}


def only_row(rows: Iterable[Row], **wanted: str) -> Row:
    (match,) = [row for row in rows if all(row[key] == text for key, text in wanted.items())]
    return match


def last(run: Path, measure: str, subject: str) -> dict[str, str]:
    """The measurement of a run's last step, read from its file."""
    rows = [row for row in parsed(run / "measurements.csv") if row["measure"] == measure]
    step = max(int(row["step"]) for row in rows)
    return dict(only_row(rows, step=str(step), subject=subject))


def number(text: str) -> float | None:
    return float(text) if text else None


def agrees(row: Row, values: list[float], prefix: str = "") -> None:
    """Check a row's mean, interval, n and range against the seeds' values."""
    mean, n = float(np.mean(values)), len(values)
    ends: tuple[float | None, float | None] = (None, None)
    if n > 1:
        half = stats.t.ppf(0.975, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
        ends = mean - half, mean + half
    expected = (mean, *ends, min(values), max(values))
    for name, right in zip(("mean", "low", "high", "lowest", "highest"), expected, strict=True):
        shown = number(row[f"{prefix}{name}"])
        assert shown == (None if right is None else pytest.approx(right, rel=1e-5, abs=1e-9)), name


@pytest.fixture(scope="module")
def folder(run: Path, sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: one with an odd name and all measures, and a second seed of it."""
    place = tmp_path_factory.mktemp("tables") / "runs"
    for path in sweep.iterdir():
        shutil.copytree(path, place / path.name)
    shutil.copytree(run, place / ODD)
    options = ("--methods", "eap_ig", "--kinds", "resample_within")
    assert main(["circuit", str(place / ODD), *options]) == 0
    few = ("trainer.max_steps=120", "trainer.learning_rate=0.01", "seed=1")
    second = trained(place / "second", TOKENS, *few, model=HOSTILE) / "matching"
    second.mkdir()
    text = (place / ODD / "matching" / "programs.csv").read_text()
    (second / "programs.csv").write_text(
        re.sub(r",undecided,,,,", ",different,0.25,0.2,0.3,", text)
    )
    return place


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    """The folder with the tables and figures of all runs."""
    tables = folder.parent / "new" / "tables"
    page = folder.parent / "page.html"
    assert main(["report", str(folder), "-o", str(page), "--tables", str(tables)]) == 0
    return tables


@pytest.fixture(scope="module")
def tables(made: Path) -> dict[str, list[dict[str, str]]]:
    return tables_in(made)


Tables = Mapping[str, list[dict[str, str]]]


def test_every_table_and_figure_is_there_and_nothing_else(made: Path, tables: Tables) -> None:
    names = [*(f"{name}.csv" for name in TABLES_OF), *(f"{name}.png" for name in FIGURES)]
    assert sorted(path.name for path in made.iterdir()) == sorted(names)
    for name in FIGURES:
        assert (made / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    groups = {row["group"] for row in tables["verdicts"]}
    assert len(groups) == 4
    for name, rows in tables.items():
        assert rows, name
        assert {row["group"] for row in rows} <= groups, name
        assert all(row["task"] == "reverse" and row["architecture"] for row in rows), name


def test_numbers_have_six_digits_and_lines_end_in_a_newline(made: Path) -> None:
    for name in TABLES_OF:
        content = (made / f"{name}.csv").read_bytes()
        assert content.endswith(b"\n")
        assert b"\r\n" not in content.replace(ODD.encode().replace(b'"', b'""'), b"")
        assert b"nan" not in content
        assert not re.search(rb"[1-9][0-9.]{7}", re.sub(rb"-[0-9a-f]{8}\b", b"", content)), name


def test_a_hostile_name_of_a_run_comes_back_whole(tables: Tables) -> None:
    for name in ("runs", "circuits", "explained"):
        assert only_row(tables[name], run=ODD)["architecture"] == HOSTILE
    assert {row["run"] for row in tables["runs"]} >= {ODD, "second", "<u>1L-0-1"}


def test_runs_are_what_they_measured_themselves(folder: Path, tables: Tables) -> None:
    assert len(tables["runs"]) == 7
    for row in tables["runs"]:
        exact = last(folder / row["run"], EXACT, "all")
        assert row["step"] == exact["step"]
        for ours, theirs in (("exact", "value"), ("low", "ci_low"), ("high", "ci_high")):
            assert float(row[ours]) == pytest.approx(float(exact[theirs]), rel=1e-5)
        assert row["inputs"] == exact["n"]
        assert row["solved"] == ("yes" if float(exact["value"]) >= 0.99 else "no")
        assert "finished at step" in row["state"]


def test_verdicts_count_those_of_the_runs(tables: Tables) -> None:
    assert len(tables["verdicts"]) == 4 * 3
    for row in tables["verdicts"]:
        each = [run[row["hypothesis"]] for run in tables["runs"] if run["group"] == row["group"]]
        told = dict(part.rsplit(" ", 1) for part in row["by_verdict"].split("; "))
        assert {word: int(count) for word, count in told.items()} == Counter(each)
        assert int(row["seeds"]) == len(each)
        assert row["why"]
    of_unsolved = only_row(tables["verdicts"], group="reverse 1L_attn_only <b>&", hypothesis="H2")
    assert of_unsolved["why"] == "the model does not solve the task"


def test_lengths_are_means_over_the_seeds(folder: Path, tables: Tables) -> None:
    for length in ("1", "2", "3"):
        for group, runs in {
            "reverse 1L <b>& task.min_length=1": ("<u>1L-0-1", "<u>1L-1-1"),
            f"reverse {HOSTILE}": (ODD, "second"),
        }.items():
            rows = [last(folder / run, EXACT, f"all.length_{length}") for run in runs]
            mean = only_row(tables["lengths"], group=group, split="all", length=length)
            agrees(mean, [float(row["value"]) for row in rows])
            assert mean["n"] == "2"
            assert mean["inputs"] == rows[0]["n"]
    fixed = [row for row in tables["lengths"] if row["group"].endswith("task.min_length=3")]
    assert {row["length"] for row in fixed} == {"3"}


def test_headlines_and_their_controls_are_means_over_the_seeds(
    folder: Path, tables: Tables
) -> None:
    group = f"reverse {HOSTILE}"
    runs = [folder / ODD, folder / "second"]
    for measure, subject in (
        (EXACT, "all"), ("attention/matched_overlap", "model"),
        ("ablation/redundant_share", "model"), ("sparsity/h1_dip", "model"),
    ):  # fmt: skip
        part, _, name = measure.partition("/")
        mean = only_row(tables["headlines"], group=group, headline=f"{part}/{subject}/{name}")
        agrees(mean, [float(last(run, measure, subject)["value"]) for run in runs])
        assert mean["fails_controls"] == "controls not run"
    attention = only_row(
        tables["headlines"], group=group, headline="attention/model/matched_overlap"
    )
    inits = [last(run, "attention/matched_overlap_random_init", "model") for run in runs]
    assert attention["control"] == "random init, highest"
    assert float(attention["control_mean"]) == pytest.approx(
        np.mean([float(row["ci_high"] or row["value"]) for row in inits]), rel=1e-5
    )


def test_what_emerged_did_so_at_the_first_step_that_passes(folder: Path, tables: Tables) -> None:
    steps = []
    for run in (ODD, "second"):
        rows = [row for row in parsed(folder / run / "measurements.csv")
                if row["measure"] == EXACT and row["subject"] == "all"]  # fmt: skip
        steps += [min(float(row["step"]) for row in rows if float(row["value"]) >= 0.99)]
    solved = only_row(tables["emergence"], group=f"reverse {HOSTILE}", measure="accuracy/all/exact")
    assert (solved["emerged"], solved["seeds"]) == ("2", "2")
    agrees(solved, steps, "step_")
    never = only_row(tables["emergence"], group="reverse 1L_attn_only <b>&",
                measure="accuracy/all/exact")  # fmt: skip
    assert (never["emerged"], never["seeds"], never["step_mean"]) == ("0", "1", "")


def test_programs_are_those_of_the_last_checkpoint(folder: Path, tables: Tables) -> None:
    left = parsed(folder / ODD / "matching" / "programs.csv")
    step = str(max(int(row["step"]) for row in left))
    tests = parsed(folder / ODD / "matching" / "match.csv")
    assert len(tables["programs"]) == len([row for row in left if row["step"] == step]) == 2
    for row in tables["programs"]:
        verdict = only_row(left, step=step, program=row["program"])
        assert (verdict["verdict"], verdict["score"]) == ("undecided", "")
        assert row["by_verdict"] == "undecided 1; different 1"
        assert [row[name] for name in ("mean", "lowest", "highest")] == ["0.25"] * 3
        chances = [float(at["chance"]) for at in tests
                   if at["step"] == step and at["program"] == row["program"]
                   and at["verdict"] != "not testable" and at["chance"]]  # fmt: skip
        assert number(row["chance"]) == (pytest.approx(max(chances)) if chances else None)
        beside = only_row(tables["evidence"], hypothesis="H3", evidence=f"program {row['program']}")
        assert (beside["mean"], beside["control"]) == (row["mean"], row["chance"])


def test_verdicts_are_of_the_last_checkpoint_where_training_was_logged_before_it(
    folder: Path, tables: Tables
) -> None:
    """A checkpoint's rows hold the losses since the one before, each with its own step."""
    row = only_row(tables["runs"], run="second")
    kept = parsed(sorted((folder / "second").glob("checkpoints/step-*"))[-1] / "measurements.csv")
    assert {int(each["step"]) for each in kept} > {10, int(row["step"])}
    assert row["solved"] == "yes"
    assert row["H3"] == "not supported"  # no program is followed: see the fixture


def test_evidence_has_one_name_for_all_seeds_and_numbers_of_controls(
    folder: Path, tables: Tables
) -> None:
    mine = [row for row in tables["evidence"] if row["group"] == f"reverse {HOSTILE}"]
    dip = only_row(mine, evidence="dip: reference minus model")
    values = [float(last(folder / run, "sparsity/h1_dip", "model")["value"])
              for run in (ODD, "second")]  # fmt: skip
    assert [float(dip[name]) for name in ("mean", "lowest", "highest", "control")] == (
        pytest.approx([np.mean(values), min(values), max(values), 0], rel=1e-5)
    )
    assert dip["seeds"] == "2"
    faithful = only_row(mine, evidence="faithfulness of the circuit")
    assert (faithful["decides"], faithful["seeds"], faithful["control"]) == ("no", "1", "0.9")
    for row in tables["evidence"]:
        said = int(row["for"]) + int(row["against"]) + int(row["says_nothing"])
        assert said == int(row["seeds"])


def test_a_verdict_knows_the_tasks_programs_and_what_resampling_leaves_as_it_is(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder / ODD, tmp_path / "run"))

    def member() -> Member:
        gathered = gather_runs([RunFolder.open(copy)], "run", print)
        return gathered.members[gathered.groups[0].label][0]

    before = member()
    assert not before.hypotheses["H3"].lacking
    assert before.circuit is not None
    assert before.circuit.still == {"length", "opp_idx", "opp_idx-1"}  # by resample_within
    programs, circuits = copy / "matching" / "programs.csv", copy / "circuit" / "circuits.csv"
    lines = programs.read_text().splitlines(keepends=True)
    programs.write_text("".join(line for line in lines if ",reverse_by_counting," not in line))
    circuits.write_text(circuits.read_text().replace("resample_within", "resample_across"))
    after = member()
    assert [missing.what for missing in after.hypotheses["H3"].lacking] == [
        "a verdict on reverse_by_counting"
    ]
    assert after.circuit is not None
    assert after.circuit.still == frozenset()


def test_circuits_are_counted_from_their_edges(folder: Path, tables: Tables) -> None:
    place = folder / ODD / "circuit"
    (row,) = tables["circuits"]
    chosen = [circuit for circuit in parsed(place / "circuits.csv") if circuit["chosen"] == "True"]
    smallest = min(chosen, key=lambda circuit: float(circuit["edges"]))
    assert row["edges"] == smallest["edges"]
    assert float(row["faithfulness"]) == pytest.approx(float(smallest["faithfulness"]), rel=1e-5)
    assert int(row["of_edges"]) == len(parsed(place / "edges.csv"))
    assert (row["step"], row["last_step"], row["found"]) == ("120", "120", "yes")
    carried = parsed(place / "carried.csv")
    for words, column in (("model", "model"), ("reference", "reference"),
                          ("random init", "random_init")):  # fmt: skip
        inner = [at for at in carried if at["of"] == words and at["inner"] == "True"]
        expected = (str(len(inner)), str(sum(bool(at["carries"]) for at in inner)))
        assert (row[f"{column}_inner"], row[f"{column}_named"]) == (expected if inner else ("", ""))
    attention = last(folder / ODD, "attention/matched_overlap", "model")
    assert float(row["attention"]) == pytest.approx(float(attention["value"]), rel=1e-5)


def test_explained_is_counted_from_heads_and_neurons(folder: Path, tables: Tables) -> None:
    place = folder / ODD / "explanation"
    (row,) = tables["explained"]
    neurons, theirs = parsed(place / "neurons.csv"), parsed(place / "neurons-random-init.csv")
    varying = [at for at in neurons if at["state"] == "varies"]
    assert varying
    share = np.mean([at["explained"] == "True" for at in varying])
    shuffled = np.mean([float(at["shuffled"]) >= 0.95 for at in varying if at["shuffled"]])
    other = np.mean([at["explained"] == "True" for at in theirs if at["state"] == "varies"])
    for column, right in (("neurons_explained", share), ("neurons_shuffled", shuffled),
                          ("random_init_explained", other), ("threshold", 0.95)):  # fmt: skip
        assert float(row[column]) == pytest.approx(right, rel=1e-5), column
    heads = [at["level"] for at in parsed(place / "heads.csv") if at["level"] != "inactive"]
    assert int(row["active_heads"]) == len(heads)
    assert float(row["heads_by_table"]) == pytest.approx(heads.count("table") / len(heads))
    put_in = [at for at in parsed(place / "explained.csv")
              if at["inputs"] == "held_out" and at["up_to_layer"] == "0"]  # fmt: skip
    for column, words in (("exact_explained", "selectors and tables, neurons"),
                          ("exact_uniform", "uniform attention, neurons")):  # fmt: skip
        right = float(only_row(put_in, explained=words)["exact"])
        assert float(row[column]) == pytest.approx(right, rel=1e-5)


def test_what_was_not_measured_is_an_empty_table_and_named(
    sweep: Path, tmp_path: Path, capsys: Capture
) -> None:
    place = tmp_path / "tables"
    place.mkdir()
    (place / "mine.txt").write_text("kept")
    page = str(tmp_path / "page.html")
    assert main(["report", str(sweep), "-o", page, "--tables", str(place)]) == 0
    tables, said = tables_in(place), capsys.readouterr().out
    for name, command in {"programs": "match", "circuits": "circuit",
                          "explained": "explain"}.items():  # fmt: skip
        assert tables[name] == []
        assert (place / f"{name}.csv").read_text() == ",".join(TABLES_OF[name][0]) + "\n"
        assert f"! {name}.csv: not measured in 5 of 5 runs: algomatch {command} {sweep}" in said
    assert "algomatch controls task=reverse" in said
    assert (place / "mine.txt").read_text() == "kept"
    assert (place / "circuits.png").read_bytes().startswith(b"\x89PNG")


def test_damage_is_named_and_an_unstarted_run_is_listed(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    place = tmp_path / "runs"
    for name in (ODD, "second", "<u>1L-0-1"):
        shutil.copytree(folder / name, place / name)
    (place / ODD / "explanation" / "heads.csv").write_text("model,layer\nx,0\n")
    shutil.rmtree(place / "second" / "checkpoints")
    arguments = ["report", str(place), "-o", str(tmp_path / "page.html")]
    assert main([*arguments, "--tables", str(tmp_path / "tables")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "heads.csv" in line]
    assert line.startswith("! the table '")
    assert "is damaged or of another version: it has no column" in line
    tables = tables_in(tmp_path / "tables")
    row = only_row(tables["runs"], run="second")
    assert (row["state"], row["step"], row["exact"]) == ("no checkpoint yet", "", "")
    assert only_row(tables["explained"], run=ODD)["active_heads"] == ""


@pytest.mark.parametrize(
    ("runs", "given", "message"),
    [
        ("second", "TABLES", "--tables needs several runs, and there is only one"),
        ("", "FILE", "is a file: give a folder"),
    ],
)
def test_one_run_and_a_file_are_refused(
    runs: str, given: str, message: str, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "FILE").write_text("")
    arguments = ["report", str(folder / runs), "-o", str(tmp_path / "page.html")]
    assert main([*arguments, "--tables", str(tmp_path / given)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


def test_what_fails_the_controls_is_marked_in_a_figure() -> None:
    place = {"task": "sort", "architecture": "1L"}
    rows = [
        {**place, "measure": key, "step_mean": 58.0, "step_low": None, "step_high": None,
         "emerged": 2, "seeds": 3, "fails_controls": why}
        for key, why in (("accuracy/all/exact", ""), ("attention/model/matched_overlap", "gap -1"))
    ]  # fmt: skip
    tables = {"verdicts": SummaryTable((), (place,)), "emergence": SummaryTable((), tuple(rows))}
    figure = emergence_figure(tables)
    assert [text.get_text() for text in figure.axes[0].texts] == ["✗"]
    assert "does not separate" in figure.legends[0].get_texts()[-1].get_text()
    drawn = [line.get_markerfacecolor() for line in figure.axes[0].lines]
    assert drawn == ["white", "white"]  # it did not emerge in all seeds


def test_verdicts_are_drawn_as_letters_not_as_colours_alone() -> None:
    rows = [
        {"task": task, "architecture": "1L model.normalization=$x^$", "hypothesis": hypothesis,
         "verdict": verdict, "by_verdict": f"{verdict} 3; undecided 2"}
        for task, verdict in (("sort", "supported"), ("hist", "not judged"))
        for hypothesis in ("H1", "H2", "H3")
    ]  # fmt: skip
    figure = verdicts_figure({"verdicts": SummaryTable((), tuple(rows))})
    assert len(figure.axes) == 3
    for axes in figure.axes:
        assert sorted(text.get_text() for text in axes.texts) == ["J", "J3 U2", "S", "S3 U2"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["1L\nnormalization=\\$x^\\$"]
    assert png(figure).startswith(b"\x89PNG")
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "S: supported" in words
