"""Results kept where the reports look for them: drawn, written, and gathered with the others."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from ..analysis.results import MATCH, Result
from ..report.figures.result_pictures import draw_emergence, drawn
from ..runs.loaded_run import Loaded
from ..runs.result_store import save, where_of

AnyResult = TypeVar("AnyResult", bound=Result)


def keep(where: Path, result: AnyResult) -> tuple[Path, AnyResult]:
    """Draw a result and write it into a folder of results; return its own folder and the result.

    Raises:
        FaultError: the file system failed; the results that were there are untouched.
    """
    result = drawn(result)
    return save(where, result), result


def draw_gathered(where: Path, kind: str) -> None:
    """Draw what is drawn of all checkpoints together, from the gathered tables.

    Raises:
        FaultError: the file system failed.
    """
    if kind == MATCH:
        draw_emergence(where)


def keep_of(run: Loaded, result: AnyResult) -> AnyResult:
    """Keep a result where the command does, and return it with its pictures.

    That is beside the run's checkpoint, or for the reference of a config in the current folder.

    Raises:
        FaultError: the file system failed; the results that were there are untouched.
    """
    where = where_of(run, result.about.kind)
    _, result = keep(where, result)
    draw_gathered(where, result.about.kind)
    return result
