"""`algomatch compare`."""

from __future__ import annotations

from pathlib import Path

from .arguments import console, need_runs, say_next
from .options import Runs


def compare(*runs: Runs, output: Path = Path()) -> None:
    """Compare trained models over several seeds of each.

    Runs that differ only in their seed are one group.

    Args:
        output: folder for comparison.csv and comparison.png, which replace earlier ones; the
            current folder by default
    """
    from ..infra.files import refuse_file

    refuse_file("--output", output)
    need_runs("compare", runs)
    from ..api.compare import compare as compare_runs
    from ..config.printed_commands import command

    screen = console()
    compare_runs(runs, output, console=screen)
    say_next(command("report", *map(Path, runs)), screen)
