"""`algomatch analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..infra.errors import UserError
from .arguments import console
from .options import Device, paths

if TYPE_CHECKING:
    from rich.console import Console

    from ..api.analyze import Analysis


def analyze(
    checkpoint: Annotated[str, Parameter(completer=paths)],
    /,
    *,
    device: Device = None,
    every: Annotated[bool, Parameter(name="--all")] = False,
    trust: bool = False,
    output: Path | None = None,
) -> None:
    """Measure a checkpoint again, from its file alone, and compare with its record.

    Args:
        checkpoint: a model.safetensors, its folder, a run folder, or an artifact,
            wandb:ENTITY/PROJECT/NAME:ALIAS
        every: print every measurement
        trust: run the program that an artifact brings with it; without this it is only said what
            there is to read
        output: a file for every measurement, as CSV
    """
    if device is not None:
        from ..config.devices import check_device

        check_device(device)
    from ..api import analyze as analyses
    from ..runs.loaded_run import LoadedRun
    from ..tracking import artifacts

    screen = console()
    if not artifacts.is_reference(checkpoint):
        if trust:
            raise UserError("--trust is of an artifact, wandb:ENTITY/PROJECT/NAME:ALIAS")
        _print_analysis(
            analyses.analyze(LoadedRun.open(checkpoint, device=device)), every, output, screen
        )
        return
    with artifacts.fetched(checkpoint, trust) as fetched:
        screen.print(f"checkpoint: {fetched.folder}", markup=False, highlight=False)
        analysis = analyses.analyze(LoadedRun.open(fetched.folder, device=device))
        screen.print(f"W&B: {fetched.run.url}", markup=False, highlight=False, soft_wrap=True)
        try:
            _print_analysis(analysis, every, output, screen)
        finally:  # also what differs from the record
            artifacts.log_rows(fetched.run, analysis.rows)


def _print_analysis(analysis: Analysis, every: bool, output: Path | None, screen: Console) -> None:
    from ..analysis.measurements import to_csv
    from ..config.printed_commands import command, task_words
    from ..infra.files import Unwritten, faults_named, write_file
    from ..report.terminal.summary import (
        full_table,
        nothing_to_compare,
        print_meaning,
        summary_table,
    )
    from ..report.terminal.tables import legend_table
    from ..runs.control_record import failing

    run, rows = analysis.run, analysis.rows
    table = full_table if every else summary_table
    marks = failing(run.inputs.digest())
    screen.print(table(rows, run.title, marks))
    print_meaning(marks, rows, command("controls", *task_words(run.config.task)), screen)
    lacking = nothing_to_compare(rows, run.config.analysis.measures)
    screen.print(legend_table(lacking), highlight=False)
    unwritten = Unwritten()
    if output is not None:
        with unwritten.noted(), faults_named(f"write '{output}'"):
            write_file(output, to_csv(rows))
    if analysis.differences is None:
        screen.print("the file lies alone: no recorded measurements to compare with")
    elif analysis.differences:
        unwritten.tell(
            f"{len(analysis.differences)} of {len(rows)} measurements differ from the record, "
            f"e.g. {analysis.differences[0]} (another machine or library version?)"
        )
    else:
        screen.print(f"all {len(rows)} measurements equal the recorded ones exactly")
    unwritten.tell()
