"""The figure of a run: panels over training steps."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.figure import Figure

from ...analysis.measurements import Measurement
from ...config.naming import run_title
from ...hypotheses.failed_controls import Failing, meaning
from ...hypotheses.row_values import drawable
from ...infra.files import write_file
from ...runs.run_folder import RunFolder
from ..terminal.summary import inexact_note
from .panels import panels, step_axis

WIDTH, HEIGHT = 21, 4.5  # inches, of the figure and of a row of panels
COLUMNS = 4


def save_run_figure(
    folder: RunFolder, rows: Sequence[Measurement], failing: Failing = None
) -> None:
    """Draw the measurements of a run over its steps and save the figure.

    `failing` maps the keys of measures that fail the task's controls to a short reason. It is None
    if the controls were not run.

    Raises:
        OSError: the figure cannot be written.
    """
    content = io.BytesIO()
    run_figure(folder, rows, failing).savefig(content, format="png", dpi=110)
    write_file(folder.figure_path, content.getvalue())


def run_figure(folder: RunFolder, rows: Sequence[Measurement], failing: Failing = None) -> Figure:
    """Return the figure of a run. Panels without measurements say so."""
    config = folder.config
    drawn = panels()
    n_rows = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(WIDTH, n_rows * HEIGHT), layout="constrained")
    title = f"{run_title(config, 'learning')}, against the compiled program{inexact_note(rows)}"
    figure.suptitle(drawable(title), parse_math=False)
    figure.supxlabel(meaning(failing), fontsize=8)
    grid = figure.subplots(n_rows, COLUMNS, squeeze=False)
    for axes in grid.flat[len(drawn) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, drawn, strict=False):
        panel(axes, rows, failing)
        if axes.lines:
            step_axis(axes, 8)
            axes.grid(alpha=0.25)
    return figure
