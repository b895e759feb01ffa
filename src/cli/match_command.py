"""`algomatch match`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..infra.errors import FaultError, UserError
from .analyses import (
    Keep,
    Options,
    Verb,
    analyse,
    analyse_each,
    are_several,
    check_given_device,
    check_overrides,
)
from .arguments import console, parted, say_next
from .options import Analysed, Device, Jobs, Programs

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.matching.match_result import Matching, MatchResult
    from ..analysis.results import Key
    from ..runs.loaded_run import Loaded


def match(
    *words: Analysed,
    reference: bool = False,
    programs: Programs = (),
    every: Annotated[bool, Parameter(name="--all")] = False,
    no_sides: bool = False,
    output: Path | None = None,
    device: Device = None,
    jobs: Jobs = None,
    again: Annotated[
        bool, Parameter(help="with --all or several runs, repeat what is already done")
    ] = False,
) -> None:
    """Match a checkpoint with its task's programs, cut by cut, by interventions.

    The command says which of a program's cuts the model realises, and at which sites, and gives a
    verdict on each program. With several runs, it gives the verdicts by architecture.

    Args:
        reference: match the compiled program of the task instead
        every: match every checkpoint of the run; those that are already done are skipped
        no_sides: do not test what each block's attention reads, which takes most of the time
        output: folder for tables and pictures; by default RUN/matching (-reference appended with
            --reference), or matching-TASK without a run; with several runs, folder for
            verdicts.csv, the current folder by default
    """
    from ..infra.files import refuse_file
    from ..runs.places import run_folders

    overrides, places = parted(words)
    for place in places:
        _refuse_model_of_elsewhere(place)
    options = Options({"programs": programs, "device": device, "all": every, "no-sides": no_sides})
    if are_several(places) and not reference:
        check_given_device(device)
        check_overrides(overrides, MATCH.verb)
        refuse_file("--output", output)
        run_folders(map(Path, places))
        options = Options(options.values, tuple(overrides))
        _match_runs([Path(place) for place in places], options, output or Path(), jobs, again,
                    console())  # fmt: skip
        return
    if reference and every:
        raise UserError("--all needs a run: a reference has no checkpoints")
    analyse(MATCH, words, options, reference=reference, output=output, jobs=jobs, again=again)


def _refuse_model_of_elsewhere(place: str) -> None:
    """Refuse a model as transformers saves it, which is no run and no checkpoint."""
    if os.path.isfile(f"{place}/config.json"):
        from ..config.printed_commands import command

        other = command("match-model", Path(place), "task=NAME", "--encoder", "FILE.py:FUNCTION")
        raise UserError(f"'{place}' is a model from elsewhere: match it by `{other}`")


def _compute(
    runs: Sequence[Loaded], options: Options, keep: Keep, screen: Console
) -> list[Matching]:
    from ..api.match import match_each

    return match_each(
        runs, programs=options.given("programs"), sides=not options.values["no-sides"],
        keep=lambda matching: keep(matching, matching.step), console=screen,
    )  # fmt: skip


def _result(matching: Matching, key: Key, finished: bool) -> MatchResult:
    from ..analysis.matching.match_result import MatchResult

    return MatchResult.of(matching, key.settings, "no-sides" not in key.settings, key.of)


def _show(results: Sequence[Matching], screen: Console) -> None:
    from ..report.terminal.matching_tables import print_matching

    print_matching(results, screen)


MATCH = Verb("match", "match", _compute, _result, _show, following="circuit")


def _match_runs(
    paths: Sequence[Path],
    options: Options,
    output: Path,
    jobs: int | None,
    again: bool,
    screen: Console,
) -> None:
    """Match several runs, each alone, and print the verdicts by architecture."""
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
        analyse_each(MATCH, runs, options, jobs=jobs, again=again, console=screen)
    except FaultError as error:  # of some runs: the verdicts on the others are shown
        failed = error
    groups = grouped(load_runs(runs, left_out))
    print_verdicts(groups, screen, options.overrides)
    for line in left_out:
        screen.print(f"! {line}", soft_wrap=True, highlight=False, markup=False)
    with faults_named(f"write '{where}'"):
        write_file(where, verdicts_csv(groups, options.overrides))
    screen.print(f"every run: {where}", soft_wrap=True, highlight=False, markup=False)
    if failed is not None:
        raise failed
    from ..config.printed_commands import command

    say_next(command("report", *paths), screen)
