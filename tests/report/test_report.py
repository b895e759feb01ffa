"""The figure and the table: what a person sees of a run."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from support.runs import TINY, quiet

from algomatch.config import compose
from algomatch.experiment import train
from algomatch.report.figures import run_figure
from algomatch.report.summary import full_table, print_summary, summary_table
from algomatch.tracking.run_folder import RunFolder


@pytest.fixture(scope="module", params=["1L", "1L_attn_only", "accuracy_only"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Runs with an MLP, without one, and with nothing but accuracy measured."""
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


def test_every_panel_shows_something_or_says_why_not(folder: RunFolder) -> None:
    found, drawn = texts(folder), lines(folder)
    measured = len({row.measure.partition("/")[0] for row in folder.measurements()})
    missing = sum(text.startswith(("not measured", "this model has no MLP")) for text in found)
    assert sum(bool(labels) for labels in drawn.values()) + missing == 4
    assert missing == {2: 3, 5: 1 if folder.config.model.attn_only else 0}[measured]


def test_the_similarity_panel_has_its_control_lines(folder: RunFolder) -> None:
    title = "Deconfounded CKA with each program variable, at its best site"
    labels = lines(folder)[title]
    if folder.config.analysis.name != "accuracy_only":
        assert "random init (range)" in labels
        assert len(labels) > 3


def test_the_curves_are_the_rows(folder: RunFolder) -> None:
    figure = run_figure(folder, folder.measurements())
    [curve] = [line for line in figure.axes[0].lines if line.get_label() == "all inputs"]
    rows = [r for r in folder.measurements() if (r.measure, r.subject) == ("accuracy/exact", "all")]
    assert np.asarray(curve.get_xdata()).tolist() == [row.step for row in rows]
    assert np.asarray(curve.get_ydata()).tolist() == [row.value for row in rows]


def test_the_summary_fits_a_terminal_of_80_columns(folder: RunFolder) -> None:
    out = io.StringIO()
    print_summary(folder, None, Console(file=out, width=80))
    table = out.getvalue().partition("figure  ")[0]
    assert "…" not in table
    assert max(map(len, table.splitlines())) <= 80
    assert "exact accuracy, held out" in table
    assert str(folder.path / "measurements.csv") in out.getvalue()


def test_the_tables_hold_the_rows_and_take_names_as_text(folder: RunFolder) -> None:
    last = [row for row in folder.measurements() if row.step == 60]
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.print(full_table(last, "[bold]a run's name[/bold]"))
    assert "[bold]a run's name[/bold]" in out.getvalue()
    for row in last:
        assert row.key in out.getvalue()
    assert summary_table(last, "x").row_count <= len(last)
