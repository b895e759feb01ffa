"""What `algomatch controls` does: models whose answer is known, measured on a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from ..analysis.base import MeasurementContext
from ..analysis.controls.known_models import Control, NotMadeError
from ..analysis.controls.known_models import controls as controls_of
from ..analysis.measurements import Measurement
from ..analysis.measures.registered_measures import with_measures
from ..analysis.measures.separation import separations
from ..analysis.measures.suite import measure
from ..config.devices import check_accelerator
from ..config.naming import model_title, task_title
from ..config.schema import A_CONFIG, Config
from ..infra.errors import NotFiniteError, need_kind
from ..infra.files import Unwritten
from ..infra.progress import Steps
from ..report.terminal.control_table import controls_figure, print_controls
from ..runs.control_record import ControlRecord, Kept
from .preparation import prepare


def controls(config: Config, again: bool = False, console: Console | None = None) -> ControlRecord:
    """Measure the controls of a task, print which ones separate the program from others.

    What was measured before with the same config is not measured again, unless `again`. Without a
    console nothing is printed.

    Example:
        record = algomatch.controls(algomatch.compose(["task=sort", "model=4L"]))

    Raises:
        UserError: the config is impossible.
        FaultError: the file system failed.
    """
    need_kind(config, Config, f"controls takes {A_CONFIG}")
    console = console or Console(quiet=True)
    check_accelerator(config.trainer.accelerator)
    config = with_measures(config)
    context = prepare(config)
    record = ControlRecord(config, context.inputs.digest())
    record.begin()
    planned = controls_of(context.inputs, context.reference, context.shape, config)
    measured, notes = list[tuple[Control, Sequence[Measurement]]](), dict[str, str]()
    kept, unwritten = list[Kept](), Unwritten()
    with Steps(console, "controls", len(planned)) as steps:
        for control in planned:
            entry = None if again else record.stored(control.name)
            with steps.part(control.name) as told:
                if entry is None:
                    entry = _measured(control, context, told)
                    with unwritten.noted():
                        record.keep(control.name, entry)
            notes[control.name] = entry.note
            if entry.rows:
                measured.append((control, entry.rows))
                kept.append(entry)
    verdicts = separations(measured)
    title = f"Controls of {task_title(config)}, {model_title(config)}"
    print_controls(title, measured, notes, verdicts, console)
    unwritten.tell()
    record.finish(kept, verdicts, controls_figure(title, measured, verdicts))
    where = f"measurements, verdicts and figure: {record.path}"
    console.print(where, highlight=False, markup=False, soft_wrap=True)
    return record


def _measured(
    control: Control, context: MeasurementContext, progress: Callable[[int, int], None]
) -> Kept:
    """Return a control's measurements; none, and the reason, where it cannot be made."""
    try:
        made = control.make(progress)
        rows = [row.at(control.name, 0) for row in measure(made.bridge, context)]
    except (NotMadeError, NotFiniteError) as error:
        return Kept((), str(error))
    return Kept(rows, made.note)
