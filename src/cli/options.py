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
    str, Parameter(name="KEY=VALUE", help="a setting: task=reverse, model=4L, model.d_model=32")
]
Runs = Annotated[
    str, Parameter(name="RUN_DIR", completer=paths, help="a run folder, or a folder of run folders")
]
Checkpoints = Annotated[
    str,
    Parameter(
        name="CHECKPOINT",
        completer=paths,
        help="a model.safetensors, its folder or a run folder; or several runs, or a folder of "
        "runs; and analysis.KEY=VALUE to change how it is analysed",
    ),
]
Analysed = Annotated[
    str,
    Parameter(
        name="CHECKPOINT",
        completer=paths,
        help="a model.safetensors, its folder or a run folder; or several runs, or a folder of "
        "runs; and analysis.KEY=VALUE to change how it is analysed; with --reference, a task may "
        "be given instead: task=NAME KEY=VALUE",
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
    Parameter(consume_multiple=(1, None), help="match only these programs; all by default"),
]
Jobs = Annotated[
    int | None,
    Parameter(help="with several runs, how many are analysed at once; as many as cores by default"),
]
Again = Annotated[bool, Parameter(help="with several runs, repeat those that are already done")]
