"""The figure and the table of a run."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console, RenderableType
from support.runs import TINY, quiet

from algomatch.analysis.measurements import Measurement
from algomatch.api.train import train
from algomatch.config.composition import compose
from algomatch.report.figures.run_figure import run_figure
from algomatch.report.html.blocks import Text
from algomatch.report.html.measure_sections import neurons_compared
from algomatch.report.terminal.summary import full_table, print_summary, summary_table
from algomatch.runs.run_folder import RunFolder


@pytest.fixture(scope="module", params=["1L", "1L_attn_only", "accuracy_only"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Runs with an MLP, without one, and with accuracy only."""
    path = tmp_path_factory.mktemp("runs") / "run"
    chosen = "analysis" if request.param == "accuracy_only" else "model"
    settings = [*TINY, "trainer.checkpoints=4", "tracking=disabled", f"run_dir={path}"]
    return train(compose([*settings, f"{chosen}={request.param}"]), quiet())


def texts(folder: RunFolder) -> list[str]:
    figure = run_figure(folder, folder.measurements())
    return [
        text
        for axes in figure.axes
        for text in [axes.get_title(), *(t.get_text() for t in axes.texts)]
    ]


def lines(folder: RunFolder) -> dict[str, list[str]]:
    figure = run_figure(folder, folder.measurements())
    return {a.get_title(): [str(line.get_label()) for line in a.lines] for a in figure.axes}


def labels_of(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def panel(figure: Figure, title: str) -> Axes:
    [match] = [axes for axes in figure.axes if axes.get_title().startswith(title)]
    return match


def heights(axes: Axes, style: str) -> list[float]:
    """The last values of a panel's lines with a style."""
    return [
        float(np.asarray(line.get_ydata())[-1])
        for line in axes.lines
        if line.get_linestyle() == style and len(np.asarray(line.get_ydata()))
    ]


def test_every_panel_shows_something_or_says_why_not(folder: RunFolder) -> None:
    shown, drawn = texts(folder), lines(folder)
    accuracy_only = folder.config.analysis.name == "accuracy_only"
    starts = ("not measured", "this model has no", "no cut of the program can be tested")
    missing = [text for text in shown if text.startswith(starts)]
    assert len(drawn) == 8
    assert sum(bool(labels) for labels in drawn.values()) + len(missing) == 8
    # so few inputs have no cut that can be tested
    assert len(missing) == (6 if accuracy_only else 1 + int(folder.config.model.attn_only))


SIMILARITY = {
    "Deconfounded CKA with each variable": ["best_deconfounded_cka"],
    "Deconfounded CKA, means": [
        "mean_deconfounded_cka",
        *(f"matched_{name}" for name in ("deconfounded_cka", "plain_cka", "rsa", "procrustes",
                                         "svcca")),
    ],
}  # fmt: skip


def test_every_curve_of_similarity_has_its_highest_controls_and_they_are_named_once(
    folder: RunFolder,
) -> None:
    if folder.config.analysis.name == "accuracy_only":
        return
    rows, last = folder.measurements(), folder.last_rows()
    figure = run_figure(folder, rows)
    given = [(title, [f"similarity/{m}" for m in measures]) for title, measures in
             SIMILARITY.items()]  # fmt: skip
    for title, measures in [*given, ("Attention in common", ["attention/matched_overlap"])]:
        axes = panel(figure, title)
        for ending, style in (("_random_init", ":"), ("_other_task", "-.")):
            ends = {
                round(row.ci_high, 6)
                for row in last
                if row.measure in [f"{measure}{ending}" for measure in measures]
                and row.ci_high is not None
            }
            assert ends, (title, ending)
            assert {round(y, 6) for y in heights(axes, style)} == ends, (title, ending)
        for words in ("highest random init", "highest other task"):
            assert labels_of(axes).count(words) == 1


def test_plain_measures_are_called_not_discriminating_and_relabelings_are_one_curve(
    folder: RunFolder,
) -> None:
    if folder.config.analysis.name == "accuracy_only":
        return
    figure = run_figure(folder, folder.measurements())
    means = labels_of(panel(figure, "Deconfounded CKA, means"))
    assert sum(label.endswith(", not discriminating") for label in means) == 4
    names = labels_of(panel(figure, "Deconfounded CKA with each variable"))
    assert "opp_idx = opp_idx-1" in names


def test_failing_measures_are_marked_and_the_sentence_is_at_the_bottom(folder: RunFolder) -> None:
    rows = folder.measurements()
    failing = {
        "accuracy/held_out/exact": "as high", "similarity/model/matched_rsa": "as high",
        "similarity/opp_idx-1/best_deconfounded_cka": "as high",
        "sparsity/model/h1_gini": "as high", "attention/model/matched_overlap": "as high",
    }  # fmt: skip
    marked = [
        label
        for axes in run_figure(folder, rows, failing).axes
        for label in labels_of(axes)
        if label.endswith(" ✗")
    ]
    keys = {row.key for row in rows}
    attn_only = folder.config.model.attn_only
    assert len(marked) == len([key for key in failing if key in keys]), (marked, attn_only)
    assert "held out ✗" in marked
    sentences = {
        None: "controls not run for this task (algomatch controls)",
        "": "",
        "x": "✗ does not separate the program from other models on this task (algomatch controls)",
    }
    for reason, sentence in sentences.items():
        given = None if reason is None else {"a/b/c": reason} if reason else {}
        assert run_figure(folder, rows, given).get_supxlabel() == sentence


def test_more_curves_than_colours_differ_by_their_line_style(folder: RunFolder) -> None:
    row = Measurement("similarity/best_deconfounded_cka", "", 0.0, 1)
    made = [replace(row, subject=f"v{i}", value=i / 40) for i in range(30)]
    axes = panel(run_figure(folder, made), "Deconfounded CKA with each variable")
    looks = {
        (line.get_color(), str(getattr(line, "_unscaled_dash_pattern")))  # noqa: B009
        for line in axes.lines
        if str(line.get_label()).startswith("v")
    }
    assert len(looks) == 30


def test_the_ablation_panel_has_the_redundant_share_only_where_it_was_judged(
    folder: RunFolder,
) -> None:
    rows = [row for row in folder.measurements() if row.measure != "ablation/redundant_share"]
    if not any(row.measure.startswith("ablation/") for row in rows):
        return
    title = "Change of exact accuracy"
    [said] = [
        label for label in labels_of(panel(run_figure(folder, rows), title)) if "redund" in label
    ]
    assert said.endswith("not judged, task not solved")
    share = Measurement("ablation/redundant_share", "model", 0.75, 4, step=60)
    axes = panel(run_figure(folder, [*rows, share]), title)
    assert heights(axes, "--") == [0.75]
    assert axes.get_ylim()[1] > 0.75


def test_the_curves_are_the_rows(folder: RunFolder) -> None:
    figure = run_figure(folder, folder.measurements())
    [curve] = [line for line in figure.axes[0].lines if line.get_label() == "all inputs"]
    rows = [r for r in folder.measurements() if (r.measure, r.subject) == ("accuracy/exact", "all")]
    assert np.asarray(curve.get_xdata()).tolist() == [row.step for row in rows]
    assert np.asarray(curve.get_ydata()).tolist() == [row.value for row in rows]


def printed(shown: RenderableType, width: int = 110) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(shown)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 110])
def test_the_summary_fits_a_terminal(folder: RunFolder, width: int) -> None:
    out = io.StringIO()
    print_summary(folder, None, Console(file=out, width=width))
    table = out.getvalue().partition("figure  ")[0]
    assert "…" not in table
    assert max(map(len, table.splitlines())) <= 110
    assert max(map(len, printed(summary_table(folder.last_rows(), "x"), width).splitlines())) <= (
        width
    )
    assert len(table.splitlines()) <= 60
    assert "exact accuracy, held out" in table
    assert str(folder.path / "measurements.csv") in out.getvalue()


def line(table: str, label: str) -> str:
    [match] = [row for row in table.splitlines() if row.startswith(f"{label} ")]
    return match


def test_each_similarity_has_its_highest_control_and_which_it_is(folder: RunFolder) -> None:
    rows = folder.last_rows()
    table = printed(summary_table(rows, "x"))
    measure = "similarity/mean_deconfounded_cka"
    by_measure = {row.measure: row for row in rows if row.subject == "model"}
    if measure not in by_measure:
        assert "dCKA" not in table
        return
    ends = {
        "random init": by_measure[f"{measure}_random_init"].ci_high or 0.0,
        "other task": by_measure[f"{measure}_other_task"].ci_high or 0.0,
    }
    higher = max(ends, key=lambda kind: ends[kind])
    mean = line(table, "dCKA, the variables, mean")
    assert f"{by_measure[measure].value:.3f}" in mean
    assert f"{ends[higher]:.3f} {higher}" in mean
    assert mean.rstrip().endswith(f"{by_measure[f'{measure}_reference'].value:.3f}")
    labels = [row.partition("  ")[0] for row in table.splitlines() if row.startswith("dCKA, ")]
    assert labels[0].startswith("dCKA, the variables, mean")
    assert labels[1].startswith("dCKA, the sites, matched")
    assert any(label.startswith("dCKA, opp_idx = opp_idx-1") for label in labels)
    swapped = [replace(row, ci_high=0.987) if row.measure.endswith("_other_task") else row
               for row in rows]  # fmt: skip
    assert "0.987 other task" in line(printed(summary_table(swapped, "x")), "dCKA, length")


def test_what_is_not_shown_is_not_explained(folder: RunFolder) -> None:
    console = Console(file=io.StringIO(), width=200)
    print_summary(folder, None, console)
    assert isinstance(console.file, io.StringIO)
    out = console.file.getvalue()
    accuracy_only, attn_only = (
        folder.config.analysis.name == "accuracy_only", folder.config.model.attn_only
    )  # fmt: skip
    assert "exact accuracy  share of inputs" in out
    for term in ("dCKA  ", "attention  ", "head L.H", "attention L", "percentage points"):
        assert (term in out) == (not accuracy_only), term
    for term in ("MLP L", "MLP neurons", "heads and MLPs"):
        assert term not in out or not (accuracy_only or attn_only), term
    assert ("MLP neurons" in out) == ("MLP L" in out) == (not accuracy_only and not attn_only)
    rows, last = folder.measurements(), folder.last_rows()
    on_page = neurons_compared(rows, last, None, not accuracy_only, "again")
    if attn_only and not accuracy_only:
        assert on_page == [Text("The model has attention only: it has no neurons.")]
        without = [row for row in last if not row.measure.startswith("sparsity/")]
        [said] = neurons_compared(without, without, None, True, "again")
        assert isinstance(said, Text), "neither it nor the reference has any: no command mends it"
        assert "The reference has no MLP neurons to compare with." in said.text


def test_the_neurons_have_the_difference_that_h1_speaks_of(folder: RunFolder) -> None:
    rows = folder.last_rows()
    by_measure = {row.measure: row for row in rows if row.subject == "model"}
    table = printed(summary_table(rows, "x"))
    if "sparsity/h1_hoyer" in by_measure:
        h1 = by_measure["sparsity/h1_hoyer"]
        assert f"{h1.value:+.3f}" in line(table, "Hoyer sparsity")
        assert f"{h1.ci_low:.3f}..{h1.ci_high:.3f}" in line(table, "Hoyer sparsity")
    else:
        assert "+0." not in table


def test_marks_and_what_they_mean_are_in_both_tables(folder: RunFolder) -> None:
    rows = folder.last_rows()
    failing = {"accuracy/all/exact": "blind models [sic] are as high"}
    summary = printed(summary_table(rows, "x", failing))
    assert line(summary, "exact accuracy, all").startswith("exact accuracy, all ✗")
    assert summary.count("✗") == 1
    whole = printed(full_table(rows, "x", failing), 250)
    assert "✗ blind models [sic] are as high" in whole
    out = io.StringIO()
    print_summary(folder, None, Console(file=out, width=110), failing)
    assert "exact accuracy, all ✗" in out.getvalue()
    assert "✗ does not separate the program from other models on this task" in out.getvalue()
    out = io.StringIO()
    print_summary(folder, None, Console(file=out, width=110))
    controls = "algomatch controls task=reverse 'task.vocabulary=[a,b]' task.max_length=3"
    assert f"`{controls}`" in out.getvalue()


def test_the_full_table_holds_the_rows_but_single_neurons_and_ablations_of_a_length(
    folder: RunFolder,
) -> None:
    last = folder.last_rows()
    seen = printed(full_table(last, "[bold]a run's name[/bold]"), 250)
    assert "[bold]a run's name[/bold]" in seen
    words = set(seen.split())
    left_out = [row for row in last if row.key not in words]
    for row in left_out:
        neuron = row.measure.startswith("sparsity/") and "mlp.hook_pre[" in row.subject
        assert neuron or (row.measure.startswith("ablation/") and ".length_" in row.subject)
    accuracy_only = folder.config.analysis.name == "accuracy_only"
    assert (len(left_out) > 50) == (not accuracy_only)
    assert (f"{len(left_out):,} rows are not shown" in seen) == bool(left_out)
