"""What `algomatch report` does: the page of one run, or of many side by side."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from ..analysis.explain.attention_view import Attention, AttentionPatterns, attention_of
from ..analysis.head_attention import active_heads
from ..config.schema import Config
from ..data.inputs import InputSet
from ..infra.errors import FaultError, UserError
from ..infra.files import faults_named, refuse_file, refuse_unwritable, write_file
from ..models.reference import build_reference
from ..report.figures.sweep_figures import summary_files
from ..report.html.grouped_runs import gather_runs
from ..report.html.page import rendered
from ..report.html.run_page import run_page
from ..report.html.sweep_page import sweep_page
from ..report.html.sweep_tables import not_measured
from ..runs.loaded_run import LoadedRun
from ..runs.run_batches import find_runs
from ..runs.run_folder import RunFolder
from .compare import Runs, paths_of


def report(
    runs: Runs,
    output: str | Path = "report.html",
    *,
    title: str | None = None,
    tables: str | Path | None = None,
    console: Console | None = None,
) -> Path:
    """Write one HTML page of a run, or of many side by side; return its path.

    Each of `runs` is a run, by its path or as `train` or `load` returns it, or a folder of runs.
    If `tables` is given, the tables of many runs and figures of them are written to this folder.

    Example:
        algomatch.report("runs/RUN", "report.html")

    Raises:
        UserError: a path holds no run, none of several runs has a checkpoint, `output` is a folder,
            or `tables` is a file or is given for a single run.
        FaultError: a run cannot be read, or the output cannot be written.
    """
    paths, page = paths_of("report", runs), Path(output)
    screen = console or Console(quiet=True)
    folder = None if tables is None else Path(tables)
    if page.is_dir():
        raise UserError(f"--output {page} is a folder: give a file, as in {page}/report.html")
    refuse_file("--tables", folder)
    left_out = list[str]()
    folders = find_runs(paths, left_out)
    if folder is not None and len(folders) == 1:
        raise UserError(
            "--tables needs several runs, and there is only one: its numbers are on its page and "
            f"in {folders[0].path}/measurements.csv"
        )
    refuse_unwritable(page)
    where = " ".join(map(str, paths))
    made: dict[str, bytes] = {}
    lacking: list[str] = []
    with screen.status("report") as status:

        def say(text: str) -> None:
            status.update(f"report: {text}")

        if len(folders) == 1:
            made_page = run_page(folders[0], title, partial(_attention, folders[0]), say)
        else:
            gathered = gather_runs(folders, where, say, left_out)
            left_out = list(gathered.left_out)
            made_page = sweep_page(gathered, title, paths)
            if folder is not None:
                say("drawing the tables")
                made, lacking = summary_files(gathered), not_measured(gathered, paths)
        say("writing")
        content = rendered(made_page).encode()
    with faults_named(f"write '{page}'"):
        write_file(page, content)
    if folder is not None:
        with faults_named(f"write into '{folder}'"):
            folder.mkdir(parents=True, exist_ok=True)
            for name, part in made.items():
                write_file(folder / name, part)
    size = len(content) / 1e6
    told = f"report of {len(folders)} run{'s' * (len(folders) != 1)}: {page} ({size:.1f} MB)"
    lines = [told, *(f"! {line}" for line in left_out)]
    if folder is not None:
        lines += [f"! {line}" for line in lacking]
        lines.append(f"tables and figures: {folder} ({', '.join(made)})")
    for line in lines:
        screen.print(line, soft_wrap=True, highlight=False, markup=False)
    return page


def _attention(folder: RunFolder, inputs: InputSet | None) -> AttentionPatterns:
    """Return the attention of a run's last checkpoint and of its reference."""
    return AttentionPatterns(_patterns(folder, inputs), _reference(folder.config, inputs))


def _patterns(folder: RunFolder, inputs: InputSet | None) -> Attention | str:
    """Return the attention of the last checkpoint, or why there is none."""
    if inputs is None:
        return "Without the task's program there are no inputs on which to show attention."
    try:
        run = LoadedRun.open(folder.path, device="cpu")
        return attention_of(run.bridge, run.inputs, run.config.analysis)
    except (UserError, FaultError) as error:
        return f"The attention of the last checkpoint cannot be computed again: {error}"


def _reference(config: Config, inputs: InputSet | None) -> Attention | str:
    """Return the attention of the reference's active heads, or why there is none."""
    if inputs is None:
        return "Without the task's program there is no reference."
    try:
        bridge = build_reference(inputs, config.task.allow_inexact).bridge
    except UserError as error:
        return f"The reference can no longer be compiled: {error}"
    heads = active_heads(bridge)
    if not heads:
        return "The reference has no active head."
    return attention_of(bridge, inputs, config.analysis, heads)
