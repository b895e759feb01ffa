"""What `algomatch subspaces` does: a program's variables searched for in directions of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from ..analysis.controls.known_models import learned_by_heart
from ..analysis.matching import subspace_search as search
from ..analysis.matching.program_ranking import programs_of
from ..analysis.matching.subspace_result import Searched, SubspaceResult
from ..config.devices import usual_device
from ..infra.errors import UserError
from ..infra.progress import Steps
from ..models.shapes import random_inits
from ..models.variable_sites import sites_of
from ..runs.loaded_run import Loaded, LoadedRun, Openable, opened
from ..runs.result_store import result_settings, setting
from .keeping import keep_of
from .match import match_each

SEARCHED_INITS = 2  # random inits whose subspaces are searched as a control


def subspaces(
    run: Openable,
    *,
    program: str | None = None,
    overrides: Sequence[str] = (),
    save: bool = False,
    console: Console | None = None,
) -> SubspaceResult:
    """Search a checkpoint for a program's variables in subspaces, and controls beside it.

    The program is the task's own unless named. It is matched first: where the whole residual holds
    a variable, no subspace is searched for it; nor is any in a model that does not solve the task.
    Overrides, `analysis.key=value`, go with a path; it runs on the CPU unless they say otherwise,
    with `analysis.device`. If `save`, the result is kept in the run's folder, as the command keeps
    it, where reports look for it.

    Example:
        result = algomatch.subspaces("runs/RUN", program="reverse")

    Raises:
        UserError: there is no checkpoint, or the task has no such program.
        NotFiniteError: the training of the control on shuffled labels diverged.
    """
    loaded = opened(run, overrides, "subspaces")
    searched = searched_of(loaded, program=program, console=console)
    own = program_setting(program)
    usual = replace(loaded.usual, device=usual_device("subspaces", loaded.usual.device))
    settings = (own, *result_settings(usual, loaded.config.analysis))
    result = SubspaceResult.of(searched, settings)
    return keep_of(loaded, result) if save else result


def program_setting(program: str | None) -> str:
    """Return what the key of a search says of its program."""
    return setting("subspaces", () if program is None else (program,))


def searched_of(
    run: Loaded, *, program: str | None = None, console: Console | None = None
) -> Searched:
    """Search a checkpoint, as `subspaces` does.

    Raises:
        UserError: it is a reference, or the task has no such program.
        NotFiniteError: the training of the control on shuffled labels diverged.
    """
    if not isinstance(run, LoadedRun):
        raise UserError("subspaces are searched for in trained models, not in a reference")
    name, _ = next(programs_of(run.task, [] if program is None else [program]))
    (matching,) = match_each([run], programs=[name], sides=False, console=console)
    (standing,) = matching.standings
    inputs, config, analysis = standing.candidate.inputs, run.config, run.config.analysis
    if standing.exact < analysis.solved:
        return Searched(run.run, run.step, "", (), {}, (), (), task=run.task.name)
    all_sites = sites_of(run.shape)[:-1]  # what comes after the last is of each position's output
    sites = search.where_to_search(standing, all_sites)
    settings = search.SubspaceSearch(
        cases=analysis.match_cases, threshold=analysis.match_realised, seed=analysis.seed
    )
    asked = search.questions(inputs, list(sites), settings)
    searched = Searched(run.run, run.step, name, all_sites, sites, asked, (), task=run.task.name)
    if not any(question.answerable and sites[question.names[0]] for question in asked):
        return searched
    with Steps(console, "subspaces", 10) as steps:
        with steps.part("training on shuffled labels") as told:
            by_heart = learned_by_heart(inputs, run.shape, config, told)
        with steps.part("searches", 9) as told:
            inits = random_inits(run.shape, SEARCHED_INITS, analysis.seed, analysis.device)
            bests = search.subspaces(
                run.bridge, inputs, asked, sites, inits, [by_heart.bridge], settings, told
            )
            return replace(searched, subspaces=tuple(bests), note=by_heart.note)
