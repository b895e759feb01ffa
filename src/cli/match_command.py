"""`algomatch match`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..infra.errors import FaultError, UserError
from .analyses import (
    Options,
    are_several,
    check_given_device,
    each_alone,
    refuse_settings,
    refuse_several,
    say_where,
)
from .arguments import console
from .options import Again, Checkpoints, Device, Jobs, Programs

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.matching.match_result import Matching


def match(
    *checkpoints: Checkpoints,
    programs: Programs = (),
    every: Annotated[bool, Parameter(name="--all")] = False,
    no_sides: bool = False,
    output: Path | None = None,
    device: Device = None,
    jobs: Jobs = None,
    again: Again = False,
) -> None:
    """Match a checkpoint with its task's programs, cut by cut, by interventions.

    It is said which of a program's cuts the model realises, where, and what that makes of the
    program; of several runs, the verdicts by architecture.

    Args:
        every: every checkpoint of the run
        no_sides: leave out what each block's attention reads, which takes most of the time
        output: where tables and pictures go; RUN/matching by default, of several runs here
    """
    refuse_settings(checkpoints)
    several = are_several(checkpoints)
    if not several:
        refuse_several(jobs, again)
    check_given_device(device)
    for place in checkpoints:
        _refuse_model_of_elsewhere(place)
    if not checkpoints:
        raise UserError("match takes a checkpoint or run folders: none is given")
    options = Options({"programs": programs, "device": device, "all": every, "no-sides": no_sides})
    screen = console()
    if several:
        places = [Path(place) for place in checkpoints]
        _match_runs(places, options, output or Path(), jobs, again, screen)
    else:
        _match_run(Path(checkpoints[0]), options, output, screen)


def _refuse_model_of_elsewhere(place: str) -> None:
    """Refuse a model as transformers saves it, which is no run and no checkpoint."""
    if (Path(place) / "config.json").is_file():
        from ..config.printed_commands import command

        other = command("match-model", Path(place), "task=NAME", "--encoder", "FILE.py:FUNCTION")
        raise UserError(f"'{place}' is a model from elsewhere: `{other}` matches it")


def _match_run(path: Path, options: Options, output: Path | None, screen: Console) -> None:
    """Match one checkpoint, or all of its run."""
    from ..analysis.matching.match_result import MatchResult
    from ..api.match import match_each
    from ..infra.files import Unwritten
    from ..report.figures.result_pictures import draw_emergence, drawn
    from ..report.terminal.matching_tables import print_matching
    from ..runs.loaded_run import LoadedRun
    from ..runs.result_store import save

    programs, device = options.values["programs"], options.values["device"]
    assert isinstance(programs, tuple)
    assert device is None or isinstance(device, str)
    sides = not options.values["no-sides"]
    run = LoadedRun.open(path, device=device)
    runs = [run.at(step) for step in run.steps] if options.values["all"] else [run]
    where = output or run.home / "matching"
    settings = options.settings(run.checkpoint.config.analysis.device)
    kept, unwritten = list[Path](), Unwritten()

    def keep(matching: Matching) -> None:
        with unwritten.noted():
            kept.append(save(where, drawn(MatchResult.of(matching, settings, sides))))

    matchings = match_each(runs, programs=programs, sides=sides, keep=keep, console=screen)
    print_matching(matchings, screen)
    unwritten.tell()
    draw_emergence(where)
    say_where(kept, where, screen)


def _match_runs(
    paths: Sequence[Path],
    options: Options,
    output: Path,
    jobs: int | None,
    again: bool,
    screen: Console,
) -> None:
    """Match several runs, each alone, and print the verdicts by architecture."""
    from ..analysis.results import MATCH
    from ..hypotheses.seed_groups import grouped
    from ..infra.files import faults_named, write_file
    from ..report.terminal.matching_by_architecture import VERDICTS, print_verdicts, verdicts_csv
    from ..runs.run_batches import find_runs, load_runs

    where = output / VERDICTS.name
    with faults_named(f"write into '{where.parent}'"):
        where.parent.mkdir(parents=True, exist_ok=True)
    failed: FaultError | None = None
    left_out = list[str]()
    runs = find_runs(paths, left_out)
    try:
        each_alone(
            "match", MATCH, runs, "matching", options, jobs=jobs, again=again, console=screen
        )
    except FaultError as error:  # of some runs: the verdicts on the others are shown
        failed = error
    groups = grouped(load_runs(runs, left_out))
    print_verdicts(groups, screen)
    for line in left_out:
        screen.print(f"! {line}", soft_wrap=True, highlight=False, markup=False)
    with faults_named(f"write '{where}'"):
        write_file(where, verdicts_csv(groups))
    screen.print(f"every run: {where}", soft_wrap=True, highlight=False, markup=False)
    if failed is not None:
        raise failed
