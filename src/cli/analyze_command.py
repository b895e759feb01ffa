"""`algomatch analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..infra.errors import UserError
from .analyses import check_given_device, check_overrides
from .arguments import console, parted, say_next
from .options import Device, paths

if TYPE_CHECKING:
    from rich.console import Console

    from ..api.analyze import Analysis


def analyze(
    *words: Annotated[
        str,
        Parameter(
            name="CHECKPOINT",
            completer=paths,
            help="a model.safetensors, its folder, a run folder, or an artifact, "
            "wandb:ENTITY/PROJECT/NAME:ALIAS; and analysis.KEY=VALUE to change how it is measured",
        ),
    ],
    reference: bool = False,
    device: Device = None,
    every: Annotated[bool, Parameter(name="--all")] = False,
    trust: bool = False,
    output: Path | None = None,
) -> None:
    """Measure a checkpoint again, from its file alone, and compare with its record.

    Args:
        reference: measure the compiled program of the run's task instead
        every: print every measurement
        trust: run the program that comes with an artifact; without this option, the command only
            lists the files of the program, to be read first
        output: write every measurement into this file, as CSV
    """
    overrides, places = parted(words)
    check_given_device(device)
    if not places and reference:
        raise UserError(
            "analyze --reference takes a checkpoint, and measures its task's program: none is given"
        )
    if len(places) != 1:
        raise UserError(f"analyze takes one checkpoint, not {' '.join(places) or 'none'}")
    check_overrides(overrides, "analyze")
    from ..runs.places import find_checkpoint, is_artifact

    (place,) = places
    if not is_artifact(place):
        if trust:
            raise UserError("--trust is only for an artifact, wandb:ENTITY/PROJECT/NAME:ALIAS")
        find_checkpoint(Path(place))
    from ..api.analyze import analyze as measure_again
    from ..config.printed_commands import command
    from ..runs.loaded_run import LoadedReference, LoadedRun
    from ..tracking import artifacts

    screen = console()

    def analysed(path: str | Path) -> Analysis:
        run = LoadedRun.open(path, overrides, device=device)
        return measure_again(LoadedReference.of(run) if reference else run, console=screen)

    if not is_artifact(place):
        analysis = analysed(place)
        _print_analysis(analysis, every, output, screen)
        say_next(command("match", Path(place)), screen)
        return
    with artifacts.fetched(place, trust) as fetched:
        screen.print(f"checkpoint: {fetched.folder}", markup=False, highlight=False)
        analysis = analysed(fetched.folder)
        screen.print(f"W&B: {fetched.run.url}", markup=False, highlight=False, soft_wrap=True)
        try:
            _print_analysis(analysis, every, output, screen)
        finally:  # also what differs from the record
            artifacts.log_rows(fetched.run, analysis.rows)
    say_next(command("match", fetched.folder), screen)


def _print_analysis(analysis: Analysis, every: bool, output: Path | None, screen: Console) -> None:
    from ..analysis.measurements import to_csv
    from ..analysis.measures.registered_measures import measured
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
    lacking = nothing_to_compare(rows, measured(run.config.analysis))
    screen.print(legend_table(lacking), highlight=False)
    unwritten = Unwritten()
    if output is not None:
        with unwritten.noted(), faults_named(f"write '{output}'"):
            write_file(output, to_csv(rows))
    if analysis.differences is None:
        screen.print(_why_not_compared(analysis))
    elif analysis.differences:
        unwritten.tell(
            f"{len(analysis.differences)} of {len(rows)} measurements differ from the record, "
            f"e.g. {analysis.differences[0]} (another machine or library version?)"
        )
    else:
        screen.print(f"all {len(rows)} measurements equal the recorded ones exactly")
    unwritten.tell()


def _why_not_compared(analysis: Analysis) -> str:
    """Return why nothing is compared with a record."""
    run = analysis.run
    if run.step is None:
        return "no measurements of a reference are recorded, so there is nothing to compare with"
    if run.changed:
        return (
            f"the record was made without {', '.join(run.changed)}, so nothing is compared with it"
        )
    return (
        "the checkpoint is not in a run folder, so there are no recorded measurements to "
        "compare with"
    )
