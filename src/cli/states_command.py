"""`algomatch states`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..infra.errors import UserError
from .analyses import Keep, Options, Verb, analyse
from .options import Analysed, Device, Jobs

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.results import Key
    from ..analysis.states.states_result import ModelStates, StatesResult
    from ..runs.loaded_run import Loaded


def states(
    *words: Analysed,
    reference: bool = False,
    components: bool = False,
    variables: Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))] = (),
    every: Annotated[bool, Parameter(name="--all")] = False,
    output: Path | None = None,
    device: Device = None,
    jobs: Jobs = None,
    again: Annotated[
        bool, Parameter(help="with --all or several runs, repeat what is already done")
    ] = False,
) -> None:
    """Say what each site of a checkpoint holds, in the fewest named variables.

    The sites are the embedding, the residual stream after each block, and the queries, keys and
    values that each block reads. The command prints the states, with controls, and which of the
    task's programs they are.

    Args:
        reference: the states of the compiled program of the task instead
        components: also what each head and each MLP writes
        variables: functions of one's own, FILE.py:NAME, each of a list and a position
        every: every checkpoint of the run; those that are done already are left
        output: folder for tables and the picture; RUN/states by default
    """
    options = Options(
        {"components": components, "variables": variables, "device": device, "all": every}
    )
    if reference and every:
        raise UserError("--all needs a run: a reference has no checkpoints")
    analyse(STATES, words, options, reference=reference, output=output, jobs=jobs, again=again)


def _compute(
    runs: Sequence[Loaded], options: Options, keep: Keep, screen: Console
) -> list[ModelStates]:
    from ..api.states import states_each

    return states_each(
        runs, components=bool(options.values["components"]), variables=options.given("variables"),
        keep=lambda model, finished: keep(model, model.step, finished), console=screen,
    )  # fmt: skip


def _result(model: ModelStates, key: Key, finished: bool) -> StatesResult:
    from ..analysis.states.states_result import StatesResult

    return StatesResult.of(model, key, finished)


def _show(results: Sequence[ModelStates], screen: Console) -> None:
    from ..report.terminal.state_tables import print_states

    for model in results:
        print_states(model, screen)


def _settings(options: Options) -> tuple[str, ...]:
    from ..api.states import state_settings

    return state_settings(bool(options.values["components"]), options.given("variables"))


def _check(options: Options) -> None:
    """Refuse a variable of one's own whose file is not there.

    Raises:
        UserError: it is not FILE.py:NAME, or there is no such file.
    """
    from ..config.composition import names_file, split_place

    for place in options.given("variables"):
        path = Path(split_place(place)[0]) if names_file(place) else None
        if path is None:
            raise UserError(f"--variables {place}: give path/to/file.py:function")
        if not path.is_file():
            raise UserError(f"--variables {place}: there is no file '{path}'")


STATES = Verb(
    "states", "states", _compute, _result, _show, following="match", settings=_settings,
    check=_check,
)  # fmt: skip
