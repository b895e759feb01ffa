"""`algomatch match-model`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..infra.errors import UserError
from .analyses import check_given_device, check_programs, say_where
from .arguments import TASK_KEYS, composed, console, parted, say_next, setting_key
from .options import DeviceOfSettings, Programs

ENCODER = (  # what an encoder is
    "An encoder takes a list of the task's tokens and returns the ids that the model reads: a "
    "prefix that is always the same (BOS or a prompt), then one id for each token, e.g. "
    '`def encode(tokens): return [50256, *(64 + "abcd".index(token) for token in tokens)]`'
)


def match_model(
    *words: Annotated[
        str,
        Parameter(
            name="FOLDER",
            help="a GPT-2's folder (config.json, model.safetensors), with task=NAME KEY=VALUE",
        ),
    ],
    encoder: Annotated[
        str | None,
        Parameter(
            help="FILE.py:FUNCTION, which turns a list of the task's tokens into the model's ids"
        ),
    ] = None,
    reader: Annotated[
        str | None,
        Parameter(
            help="FILE.py:FUNCTION, which turns an output into the id of its logit; by default the "
            "id of the token that the output is"
        ),
    ] = None,
    programs: Programs = (),
    output: Path | None = None,
    device: DeviceOfSettings = None,
) -> None:
    """Match a GPT-2 trained elsewhere, given as a folder, with a task's programs.

    Args:
        output: folder for tables and pictures; matching-FOLDER by default
    """
    from ..infra.files import refuse_file

    check_given_device(device)
    refuse_file("--output", output)
    own, folders = parted(words)
    settings = [*own, *([f"analysis.device={device}"] if device else [])]
    if len(folders) != 1:
        raise UserError(f"match-model takes one model folder, not {len(folders)}")
    if encoder is None:
        raise UserError(
            f"'{folders[0]}' has token ids of its own: give --encoder FILE.py:FUNCTION. {ENCODER}"
        )
    for setting in settings:
        if setting_key(setting).partition(".")[0] not in ("task", "analysis"):
            raise UserError(f"'{setting}' cannot be set here: only task.* and analysis.* can")
    if not any(setting_key(setting) in TASK_KEYS for setting in settings):
        raise UserError("name the task that the model solves, as in task=induction")
    config, folder = composed(settings), Path(folders[0])
    check_programs(config.task, programs)
    encode = _function_of("--encoder", encoder)
    read = None if reader is None else _function_of("--reader", reader)
    from ..analysis.matching.match_result import MatchResult
    from ..api.match import match_folder
    from ..config.printed_commands import command
    from ..report.figures.result_pictures import drawn
    from ..report.terminal.matching_tables import print_matching
    from ..runs.result_store import save
    from ..runs.result_store import setting as result_setting

    weights, screen = _weights_of(folder), console()
    matching = match_folder(folder, config, encode, read, programs, screen)
    print_matching([matching], screen)
    where = output or Path(f"matching-{matching.run}")
    functions = [encoder, *([reader] if reader else [])]
    given = [("programs", programs), ("device", [device] if device else [])]
    of_result = [result_setting(name, values) for name, values in given if values]
    of = (*sorted(own), *functions, weights)
    result = drawn(MatchResult.of(matching, of_result, of=of))
    say_where([save(where, result)], where, screen, result.about)
    say_next(command("match-controls", config.task.name), screen)


def _function_of(option: str, place: str) -> Callable[..., Any]:
    """Return the function that an option names."""
    from ..config.composition import names_file
    from ..data.user_functions import load_function

    if not names_file(place):
        raise UserError(f"{option} {place}: give path/to/file.py:function")
    try:
        return load_function(place)
    except UserError as error:
        raise UserError(f"{option}: {error}") from error


def _weights_of(folder: Path) -> str:
    """Return what tells a model's folder from others: a digest of its config and weights.

    Raises:
        FaultError: the file system failed.
    """
    from ..infra.files import digest, faults_named
    from ..models.foreign import CONFIG, WEIGHTS

    with faults_named(f"read '{folder}'"):
        files = [folder / name for name in (CONFIG, WEIGHTS)]
        return f"model={digest([file for file in files if file.is_file()])[:8]}"
