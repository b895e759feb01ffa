"""Runs of several seeds compared: groups, numbers, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image
from rich.console import Console
from scipy import stats
from support.runs import TINY, quiet

from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures.emergence import summaries
from algomatch.analysis.measures.suite import declared_metrics, headlines
from algomatch.analysis.statistics import t_interval, wilson_interval
from algomatch.api.compare import compare
from algomatch.api.train import train
from algomatch.cli.main import main
from algomatch.config.composition import compose
from algomatch.hypotheses.compared_headlines import FAMILIES
from algomatch.hypotheses.failed_controls import meaning
from algomatch.hypotheses.seed_groups import Group, grouped, notes
from algomatch.report.figures.comparison_figure import comparison_figure, mean_curve
from algomatch.report.terminal.comparison import COMPARISON, comparison_rows
from algomatch.runs.run_batches import find_runs, load_run
from algomatch.runs.run_folder import RunFolder

Capture = pytest.CaptureFixture[str]
EXACT = "accuracy/all/exact"
SEEDS = (0, 1, 2)
MODELS = ("1L", "1L_attn_only")
CONTROLS = "algomatch controls task=reverse 'task.vocabulary=[a,b]' task.max_length=3"
SHAPE = "model.d_model=16 model.n_heads=2"  # differs from both
TASK = "the task is reverse with vocabulary [a, b], max_length 3"


def trained(path: Path, *settings: str) -> Path:
    few = ("trainer.max_steps=24", "trainer.checkpoints=3", "trainer.learning_rate=0.02")
    train(compose([*TINY, *few, "tracking=disabled", f"run_dir={path}", *settings]), quiet())
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: two architectures with three seeds each, and another folder."""
    folder = tmp_path_factory.mktemp("comparison") / "runs"
    for model in MODELS:
        for seed in SEEDS:
            trained(folder / f"{model}-{seed}", f"model={model}", f"seed={seed}")
    (folder / "notes.txt").write_text("no run")
    (folder / ".half.partial").mkdir()
    return folder


@pytest.fixture(scope="module")
def whole(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """All runs compared: the printed text and the folder of the files."""
    output = tmp_path_factory.mktemp("whole")
    return printed(runs, output=output), output


@pytest.fixture
def mine(runs: Path, tmp_path: Path) -> Path:
    """A copy of one run, for changes."""
    return Path(shutil.copytree(runs / "1L-0", tmp_path / "mine"))


def title_of(axes: Axes) -> str:
    return " ".join(axes.get_title().split())


def groups_of(*paths: Path) -> list[Group]:
    return grouped(load_run(folder) for folder in find_runs(paths))


def last_rows(folder: Path) -> dict[str, Measurement]:
    rows = headlines(RunFolder.open(folder).last_rows())
    return {row.key: row for row in rows if not row.measure.startswith("training/")}


def change_config(run: Path, old: str, new: str) -> None:
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))


def printed(*paths: Path, output: Path, width: int = 200) -> str:
    text = io.StringIO()
    compare(paths, output, console=Console(file=text, width=width))
    return text.getvalue()


def table_of(output: Path) -> dict[tuple[str, str], Mapping[str, str]]:
    lines = csv.DictReader(io.StringIO((output / "comparison.csv").read_text(), newline=""))
    return {(line["group"], line["measure"]): line for line in lines}


def test_students_interval_is_that_of_scipy() -> None:
    for values in ([0.1, 0.4], [1.0, 2.0, 4.0, 8.0], [3.0] * 5, [1e9, 1e9 + 1, 1e9 + 2]):
        spread = np.std(values, ddof=1) / math.sqrt(len(values))
        expected = (
            np.mean(values) + np.array([-1, 1]) * stats.t.ppf(0.975, len(values) - 1) * spread
        )
        assert t_interval(values) == pytest.approx(tuple(expected), rel=1e-12)
    assert t_interval([0.5]) is None
    assert t_interval([]) is None


def test_students_interval_covers_the_mean_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).normal(2.0, 3.0, size=(4000, 3))
    ends = [t_interval(sample) for sample in samples.tolist()]
    covered = np.mean([end is not None and end[0] <= 2.0 <= end[1] for end in ends])
    assert covered == pytest.approx(0.95, abs=0.012)


def test_runs_that_differ_only_in_seed_are_one_group(runs: Path) -> None:
    groups = groups_of(runs)
    assert [group.label for group in groups] == [f"reverse {model} {SHAPE}" for model in MODELS]
    for group, model in zip(groups, MODELS, strict=True):
        assert [run.config.seed for run in group.runs] == list(SEEDS)
        assert {run.config.model.name for run in group.runs} == {model}
    assert notes(groups) == [TASK, meaning(None, CONTROLS)]


def test_where_it_ran_and_was_tracked_parts_no_group_but_a_setting_does(
    runs: Path, mine: Path
) -> None:
    change_config(mine, "\nseed: 0\n", "\nseed: 7\n")
    change_config(mine, "\nruns_dir: runs", "\nruns_dir: elsewhere")
    change_config(mine, "accelerator: auto", "accelerator: cpu")
    change_config(mine, "project: algomatch", "project: another")
    for old, new in (
        ("save_every_seconds: 30.0", "save_every_seconds: 7.0"), ("log_every: 10", "log_every: 5"),
        ("evaluate_every: 50", "evaluate_every: 20"),  # with no target to reach
    ):  # fmt: skip
        change_config(mine, old, new)
    assert [len(group.runs) for group in groups_of(runs, mine)] == [4, 3]
    change_config(mine, "learning_rate: 0.02", "learning_rate: 0.03")
    groups = groups_of(runs, mine)
    assert [(group.name, len(group.runs)) for group in groups] == [
        (f"1L {SHAPE} trainer.learning_rate=0.02", 3),
        (f"1L {SHAPE} trainer.learning_rate=0.03", 1),
        (f"1L_attn_only {SHAPE}", 3),
    ]
    assert "the groups differ in more than the model: trainer.learning_rate" in notes(groups)


def test_a_setting_has_one_name_on_all_tasks(runs: Path, mine: Path, tmp_path: Path) -> None:
    change_config(mine, "learning_rate: 0.02", "learning_rate: 0.03")
    other = Path(shutil.copytree(runs / "1L-0", tmp_path / "other"))
    change_config(other, "name: reverse\n", "name: another\n")
    assert [group.label for group in groups_of(runs, mine, other)] == [
        f"another 1L {SHAPE} trainer.learning_rate=0.02",
        f"reverse 1L {SHAPE} trainer.learning_rate=0.02",
        f"reverse 1L {SHAPE} trainer.learning_rate=0.03",
        f"reverse 1L_attn_only {SHAPE}",
    ]


def test_a_program_that_changed_in_between_is_another_group(runs: Path, mine: Path) -> None:
    about = json.loads((mine / "run.json").read_text())
    (mine / "run.json").write_text(json.dumps({**about, "inputs_digest": "another"}))
    names = [group.name for group in groups_of(runs, mine)]
    assert len(names) == 3
    assert f"1L {SHAPE} inputs=another" in names


def test_groups_that_differ_behind_where_a_value_is_cut_off_have_names_of_their_own(
    runs: Path, mine: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(mine, other)
    for place, end in ((mine, "1"), (other, "2")):
        about = json.loads((place / "run.json").read_text())
        (place / "run.json").write_text(json.dumps({**about, "inputs_digest": "x" * 80 + end}))
    shown = f"1L {SHAPE} inputs={'x' * 37}..."
    names = [group.name for group in groups_of(runs, mine, other)]
    assert [name for name in names if name.startswith(shown)] == [shown, f"{shown} (2)"]


def test_every_headline_of_the_last_checkpoint_has_its_mean_and_interval(
    runs: Path, whole: tuple[str, Path]
) -> None:
    table, metrics = table_of(whole[1]), declared_metrics()
    for model in MODELS:
        finals = [last_rows(runs / f"{model}-{seed}") for seed in SEEDS]
        for key, row in finals[0].items():
            values = [final[key].value for final in finals]
            line = table[f"reverse {model} {SHAPE}", key]
            half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / math.sqrt(3)
            shown = [float(line[name]) for name in ("mean", "ci_low", "ci_high")]
            mean = np.mean(values)
            assert shown == pytest.approx([mean, mean - half, mean + half], abs=1e-12)
            assert [float(line["lowest"]), float(line["highest"])] == [min(values), max(values)]
            assert int(line["n"]) == 3
            assert line["better"] == metrics[row.measure].better
    spreads = [float(line["highest"]) - float(line["lowest"]) for line in table.values()]
    assert max(spreads) > 0, "seeds differ"


def test_emergence_is_how_many_emerged_and_the_mean_step_of_those(
    runs: Path, whole: tuple[str, Path]
) -> None:
    text, output = whole
    table, partly = table_of(output), 0
    for model in MODELS:
        by_run = [
            summaries(RunFolder.open(runs / f"{model}-{seed}").measurements()) for seed in SEEDS
        ]
        for key, emergence in by_run[0].items():
            if emergence.threshold is None:
                assert (f"reverse {model} {SHAPE}", f"emerged/{key}") not in table
                continue
            steps = [run[key].emergence_step for run in by_run]
            emerged = [step for step in steps if step is not None]
            line = table[f"reverse {model} {SHAPE}", f"emerged/{key}"]
            assert float(line["mean"]) == pytest.approx(len(emerged) / 3)
            interval = wilson_interval(len(emerged) / 3, 3)
            assert [float(line["ci_low"]), float(line["ci_high"])] == pytest.approx(interval)
            assert int(line["n"]) == 3
            at = table.get((f"reverse {model} {SHAPE}", f"emergence_step/{key}"))
            assert (at is None) == (not emerged)
            if at is not None:
                assert float(at["mean"]) == pytest.approx(np.mean(emerged))
                assert int(at["n"]) == len(emerged)
                partly += 1
    assert partly > 0, "something emerged in these runs"
    assert " of 3" in text


def test_one_seed_has_a_value_and_no_interval(runs: Path, tmp_path: Path) -> None:
    text = printed(runs / "1L-1", output=tmp_path)
    assert "(one seed)" in text
    assert "±" not in text.partition("Mean over seeds")[0]
    for (_, key), line in table_of(tmp_path).items():
        assert (line["ci_low"], line["ci_high"], line["n"]) == ("", "", "1"), key
    value = last_rows(runs / "1L-1")[EXACT].value
    assert f"{value:.3f} (one seed)" in text


def test_the_terminal_shows_measures_by_groups_with_their_controls(
    runs: Path, whole: tuple[str, Path]
) -> None:
    text, _ = whole
    [group, _] = groups_of(runs)
    estimate = group.estimates[EXACT]
    assert estimate.interval is not None
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    lines = text.splitlines()
    [at] = [i for i, line in enumerate(lines) if line.strip().startswith("exact, all")]
    assert f"{estimate.mean:.3f} ±{half:.3f} (n=3)" in lines[at]
    assert lines[at + 1].strip().startswith("blind to the tokens")
    blind = last_rows(runs / "1L-0")["accuracy/all/blind_exact"].value
    assert f"{blind:.3f}" in lines[at + 1]
    [at] = [i for i, line in enumerate(lines) if line.split()[:1] == ["reverse"] and "±" in line]
    control = last_rows(runs / "1L-0")["similarity/reverse/best_deconfounded_cka_random_init"]
    assert lines[at + 1].strip().startswith("random init, highest")
    assert f"{control.ci_high:.3f}" in lines[at + 1]
    for title in ("similarity", "ablation", "MLP neurons", "H1 (reference minus model)"):
        assert title in text


def test_a_control_that_all_seeds_share_has_no_interval(whole: tuple[str, Path]) -> None:
    lines = whole[0].splitlines()
    shared = [line for line in lines if line.strip().startswith(("random init", "blind"))]
    assert len(shared) > 1
    assert not any("±" in line for line in shared)


def test_an_unfinished_run_and_unequal_last_steps_are_said(runs: Path, mine: Path) -> None:
    shutil.rmtree(sorted((mine / "checkpoints").iterdir())[-1])
    (mine / "finished.json").unlink()
    change_config(mine, "\nseed: 0", "\nseed: 5")
    [group] = groups_of(runs / "1L-1", mine)
    last = max(run.last_step for run in group.runs)
    cut = RunFolder.open(mine).last_rows()[0].step
    assert cut < last
    assert notes([group]) == [
        f"1L {SHAPE}: seed 5 is unfinished, at step {cut}",
        f"1L {SHAPE}: the runs' last steps differ ({cut}, {last})",
        TASK,
        meaning(None, CONTROLS),
    ]
    estimate = group.estimates[EXACT]
    values = [last_rows(path)[EXACT].value for path in (runs / "1L-1", mine)]
    assert estimate.n == 2
    assert estimate.mean == pytest.approx(np.mean(values))


def test_the_same_seed_twice_is_said(runs: Path, mine: Path, tmp_path: Path) -> None:
    text = printed(runs / "1L-0", mine, output=tmp_path / "out")
    said = f"! 1L {SHAPE}: 2 runs have the same seed 0: they are not independent"
    assert said in " ".join(text.split())


def test_runs_with_an_inexact_reference_are_a_marked_group(runs: Path, mine: Path) -> None:
    about = json.loads((mine / "run.json").read_text())
    (mine / "run.json").write_text(json.dumps({**about, "exact": False}))
    groups = groups_of(runs / "1L-1", mine)
    assert [group.name for group in groups] == [f"1L {SHAPE}", f"1L {SHAPE} (inexact reference)"]
    assert any("inexact reference): the reference is inexact" in line for line in notes(groups))


def test_curves_are_means_over_seeds_where_all_have_a_value(runs: Path, mine: Path) -> None:
    shutil.rmtree(sorted((mine / "checkpoints").iterdir())[-1])
    change_config(mine, "\nseed: 0", "\nseed: 5")
    [group] = groups_of(runs / "1L-1", runs / "1L-2", mine)
    steps, means, bands = mean_curve(group, EXACT)
    folders = [RunFolder.open(path) for path in (runs / "1L-1", runs / "1L-2", mine)]
    curves = [{r.step: r.value for r in f.measurements() if r.key == EXACT} for f in folders]
    assert steps == sorted(curves[2])
    assert len(steps) < len(curves[0])
    values = np.array([[curve[step] for step in steps] for curve in curves])
    np.testing.assert_allclose(means, values.mean(0))
    assert bands is not None
    half = stats.t.ppf(0.975, 2) * values.std(0, ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(bands[1], values.mean(0) + half)
    assert mean_curve(group, "no/such/key") == ([], [], None)


def test_the_figure_shows_every_seed_and_every_family(runs: Path, whole: tuple[str, Path]) -> None:
    with Image.open(whole[1] / "comparison.png") as image:
        seen = np.asarray(image.convert("L"))
    assert min(seen.shape) > 600
    assert 0.005 < (seen < 200).mean() < 0.5
    groups = groups_of(runs)
    figure = comparison_figure(groups)
    keys = [key for group in groups for key in group.estimates]
    by_title = {title_of(axes): axes for axes in figure.axes}
    for family in FAMILIES:
        if family.chosen(keys):
            assert family.title in by_title
    accuracy = by_title["accuracy"]
    drawn = {round(float(y), 9) for line in accuracy.lines for y in np.asarray(line.get_ydata())}
    for group in groups:
        for run in group.runs:
            assert round(run.final[EXACT].value, 9) in drawn
    legend = by_title["accuracy: exact, all"].get_legend()
    assert legend is not None
    assert [str(text.get_text()) for text in legend.get_texts()] == ["blind to the tokens"]
    keys_of = [text.get_text() for part in figure.subfigs for legend in part.legends
               for text in legend.get_texts()]  # fmt: skip
    assert keys_of == [f"{letter}: {model} {SHAPE} (3 seeds)" for letter, model in
                       zip("AB", MODELS, strict=True)]  # fmt: skip
    assert [text.get_text() for text in accuracy.get_xticklabels()] == ["A", "B"]


@pytest.mark.parametrize("count", [1, 8, 20])
def test_the_figure_of_many_groups_of_long_names_can_be_read(runs: Path, count: int) -> None:
    """No text overlaps another panel, and matplotlib gives no warning."""
    first = groups_of(runs / "1L-0")[0]
    words = " ".join(f"trainer.setting_{i}=0.00{i}" for i in range(12))
    groups = [replace(first, name=f"{i:02} {words}") for i in range(count)]
    figure = comparison_figure(groups)
    figure.savefig(io.BytesIO(), format="png")
    panels = [axes for axes in figure.axes if axes.axison]
    for panel in panels:
        texts = [*panel.get_xticklabels(), panel.title, panel.xaxis.label]
        for text in (label for label in texts if label.get_text()):
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert not any(box.overlaps(other.get_window_extent()) for other in panels)
        labels = [text.get_window_extent() for text in panel.get_xticklabels()]
        assert not any(label.overlaps(other) for label, other in pairwise(labels))


def test_every_family_has_curves_where_there_are_too_many_to_draw(runs: Path) -> None:
    [group] = groups_of(runs / "1L-0")
    curve = group.runs[0].curves["similarity/reverse/best_deconfounded_cka"]
    added = {f"similarity/v{i}/best_deconfounded_cka": curve for i in range(30)}
    run = replace(group.runs[0], curves={**group.runs[0].curves, **added})
    titles = [title_of(axes) for axes in comparison_figure(grouped([run])).figure.axes]
    [similarity] = [family for family in FAMILIES if family.title.startswith("similarity")]
    left_out = len(similarity.chosen(run.curves)) - 8
    assert left_out > 20
    assert f"{similarity.title} ({left_out} more in the CSV)" in titles
    drawn = [title.partition(": ")[0] for title in titles if ": " in title]
    assert len(drawn) == 12
    assert set(drawn) == {family.title for family in FAMILIES if family.chosen(run.final)}


def test_runs_without_anything_to_show_are_compared_all_the_same(tmp_path: Path) -> None:
    settings = ("model=1L_attn_only", "analysis.measures=[sparsity]", "trainer.max_steps=1")
    run = trained(tmp_path / "run", *settings)
    text = printed(run, output=tmp_path / "out")
    assert text.startswith("reverse")
    groups = {group for group, _ in table_of(tmp_path / "out")}
    assert groups == {f"reverse 1L_attn_only {SHAPE}"}


@pytest.mark.slow
def test_tasks_are_tables_of_their_own(runs: Path, tmp_path: Path) -> None:
    fixed = ("task=reverse_fixed", "task.min_length=3", "trainer.max_steps=2")
    other = trained(tmp_path / "other", *fixed, "trainer.checkpoints=1")
    text = printed(runs / "1L-0", runs / "1L-1", other, output=tmp_path / "out", width=78)
    tables = text.partition("Mean over")[0]
    assert tables.count("over seeds ") == 2
    wide = [line for line in tables.splitlines() if len(line) > 78]
    assert not [line for line in wide if "`algomatch controls" not in line]
    groups = {group for group, _ in table_of(tmp_path / "out")}
    assert groups == {f"reverse 1L {SHAPE}", f"reverse_fixed 1L {SHAPE}"}
    assert (tmp_path / "out/comparison.png").stat().st_size > 10_000


def test_the_output_is_replaced_whole_and_made_where_it_is_not(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"
    printed(runs / "1L-1", output=output)
    first = (output / "comparison.csv").read_bytes()
    printed(runs / "1L-0", output=output)
    assert (
        (output / "comparison.csv").read_bytes()
        == COMPARISON.to_csv(comparison_rows(groups_of(runs / "1L-0")))
        != first
    )
    assert sorted(path.name for path in output.iterdir()) == ["comparison.csv", "comparison.png"]


def test_the_command_compares_and_says_where_the_numbers_are(
    runs: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = [str(runs / f"1L-{seed}") for seed in SEEDS]
    output = tmp_path / "out"
    assert main(["compare", arguments[0], "--output", str(output), *arguments[1:]]) == 0
    assert "comparison.csv" in capsys.readouterr().out
    assert table_of(output)[f"reverse 1L {SHAPE}", EXACT]["n"] == "3"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{tmp}/nope"], "'{tmp}/nope' does not exist"),
        (["{tmp}/empty"], "'{tmp}/empty' is not a run folder and does not directly contain one"),
        (["{runs}/notes.txt"], "'{runs}/notes.txt' is not a run folder and does not directly"),
        (["{runs}", "{runs}/1L-0"], "run folder '{runs}/1L-0' is given twice: name every run once"),
        (["{tmp}/../{name}/bare"], "bare' has no checkpoint, so it has no measurements"),
        (["{runs}", "--output", "{runs}/notes.txt"], "--output {runs}/notes.txt is a file: give a"),
        (["{runs}", "--outputs"], "unknown option '--outputs': did you mean '--output'?"),
    ],
)
def test_a_mistake_is_one_line(
    runs: Path, tmp_path: Path, capsys: Capture, arguments: list[str], line: str
) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(runs / "1L-0", tmp_path / "bare", ignore=shutil.ignore_patterns("step-*"))
    names = {"tmp": tmp_path, "runs": runs, "name": tmp_path.name}
    assert main(["compare", *(argument.format(**names) for argument in arguments)]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("algomatch: ")
    assert seen.err.count("\n") == 1
    assert line.format(**names) in seen.err


def test_a_run_that_cannot_be_read_is_left_out(runs: Path, tmp_path: Path) -> None:
    for name, left in (("bare", "step-*"), ("damaged", "measurements.csv")):
        shutil.copytree(
            runs / "1L-0", tmp_path / "runs" / name, ignore=shutil.ignore_patterns(left)
        )
    shutil.copytree(runs / "1L-0", tmp_path / "runs" / "unread")
    (tmp_path / "runs" / "unread" / "config.yaml").write_text("seed: [")
    shutil.copytree(runs / "1L-1", tmp_path / "runs" / "whole")
    shown = " ".join(printed(tmp_path / "runs", output=tmp_path).split())
    assert f"! left out: '{tmp_path}/runs/bare' has no checkpoint" in shown
    assert f"! left out: config file '{tmp_path}/runs/unread/config.yaml' is not valid" in shown
    assert shown.count("! left out: ") == 3
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "runs"), "--output", str(page)]) == 0
    assert page.read_text().count("Left out: ") == 2, "the run without a checkpoint is listed"
    assert table_of(tmp_path)[f"reverse 1L {SHAPE}", EXACT]["n"] == "1"


def test_help_costs_no_torch() -> None:
    code = (
        "import sys\n"
        "from algomatch.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print({'torch', 'matplotlib', 'wandb'} & set(sys.modules))\n"
    )
    for arguments in (["--help"], ["compare", "--help"]):
        seen = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
        )
        assert "compare" in seen.stdout
        assert seen.stdout.endswith("set()\n"), seen.stderr
