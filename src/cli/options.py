"""The options and arguments that several commands take."""

from __future__ import annotations

from glob import escape, glob
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext


def paths(context: CompletionContext) -> list[str]:
    """Return the paths that a shell may complete a word to."""
    return sorted(glob(f"{escape(context.incomplete)}*"))


Settings = Annotated[
    str, Parameter(name="KEY=VALUE", help="task=reverse model=4L model.d_model=32")
]
Runs = Annotated[
    str, Parameter(name="RUN_DIR", completer=paths, help="a run folder, or a folder of run folders")
]
Checkpoints = Annotated[
    str,
    Parameter(
        name="CHECKPOINT",
        completer=paths,
        help="a model.safetensors, its folder, a run folder; or several runs, or a folder of them; "
        "with analysis.KEY=VALUE to analyse otherwise",
    ),
]
Analysed = Annotated[
    str,
    Parameter(
        name="CHECKPOINT",
        completer=paths,
        help="a model.safetensors, its folder, a run folder; or several runs, or a folder of them; "
        "or with --reference a task, task=NAME KEY=VALUE; with analysis.KEY=VALUE to analyse "
        "otherwise",
    ),
]
Device = Annotated[
    str | None, Parameter(help="where to run the model; the run's own device by default")
]
DeviceOrCpu = Annotated[
    str | None,
    Parameter(help="where to run the models; cpu by default, whatever the run's own device is"),
]
DeviceOfSettings = Annotated[
    str | None, Parameter(help="where to run the models, as analysis.device; cpu by default")
]
Programs = Annotated[
    tuple[str, ...],
    Parameter(consume_multiple=(1, None), help="match only these; all by default"),
]
Jobs = Annotated[
    int | None, Parameter(help="with several runs, how many at once; all cores by default")
]
Again = Annotated[bool, Parameter(help="with several runs, repeat those that are already done")]
