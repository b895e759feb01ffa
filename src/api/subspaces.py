"""What `algomatch subspaces` does: a program's variables searched for in directions of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ..analysis.controls.known_models import learned_by_heart
from ..analysis.matching import subspace_search as search
from ..analysis.matching.program_ranking import programs_of
from ..analysis.matching.subspace_result import Searched
from ..infra.errors import UserError
from ..infra.progress import Steps
from ..models.shapes import random_inits
from ..models.variable_sites import sites_of
from ..runs.loaded_run import Loaded, LoadedRun, opened
from .match import match

SEARCHED_INITS = 2  # random inits whose subspaces are searched as a control


def subspaces(
    run: Loaded | str | Path,
    *,
    program: str | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> Searched:
    """Search a checkpoint for a program's variables in subspaces, and controls beside it.

    The program is the task's own unless named. It is matched first: where the whole residual holds
    a variable, no subspace is searched for it; nor is any in a model that does not solve the task.
    Overrides, `analysis.key=value`, go with a path.

    Example:
        searched = algomatch.subspaces("runs/RUN", program="reverse")

    Raises:
        UserError: there is no checkpoint, or the task has no such program.
        NotFiniteError: the training of the control on shuffled labels diverged.
    """
    run = opened(run, overrides)
    if not isinstance(run, LoadedRun):
        raise UserError("subspaces are searched for in trained models, not in a reference")
    name, _ = next(programs_of(run.task, [] if program is None else [program]))
    (standing,) = match(run, programs=[name], sides=False, console=console).standings
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
