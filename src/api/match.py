"""`algomatch match`: matches checkpoints, runs, models from elsewhere, and controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..analysis.controls.known_models import controls
from ..analysis.matching.any_bridge import match_bridge
from ..analysis.matching.head_selectors import SelectorComparison, untrained_of
from ..analysis.matching.known_answers import MATCHED_INITS, KnownAnswer, check, of_matching
from ..analysis.matching.match_result import Matching, MatchResult
from ..analysis.matching.program_ranking import (
    Candidate,
    candidates,
    compared,
    programs_of,
    rule_of,
    selectors_of,
)
from ..config.devices import check_accelerator, check_device
from ..config.schema import Config
from ..data.inputs import InputSet, input_set
from ..data.program_copies import same_programs
from ..data.tasks import make_task
from ..infra.errors import refuse_texts
from ..infra.process_cache import LastResult
from ..infra.progress import Steps, Told
from ..models.foreign import load_gpt2, random_gpt2
from ..models.shapes import init_seed
from ..models.training import mean_loss
from ..runs.loaded_run import Loaded, LoadedRun, Openable, opened
from ..runs.result_store import result_key, result_settings
from .keeping import keep_of
from .preparation import prepare


@dataclass(frozen=True)
class _Prepared:
    """A task's programs with their tests, and the selectors' comparisons, by architecture."""

    inputs: InputSet
    chosen: Sequence[Candidate]
    selectors: dict[str, SelectorComparison]


_prepared = LastResult[_Prepared]()

Keep = Callable[[Matching], object]


def match(
    run: Openable,
    *,
    programs: Sequence[str] = (),
    sides: bool = True,
    overrides: Sequence[str] = (),
    save: bool = False,
    console: Console | None = None,
) -> MatchResult:
    """Match a model with the programs of its task: all, or those named.

    With `sides`, the inputs of each block's attention are tested too, which takes most of the
    time. Overrides, `analysis.key=value`, are for a run that is given by its path. If `save`, the
    result is kept in the run's folder, as the command keeps it, where reports look for it.

    Example:
        result = algomatch.match("runs/RUN", programs=["reverse"], save=True)
        result.write("matched")

    Raises:
        UserError: there is no checkpoint, or a name is not one of the task's programs.
    """
    refuse_texts(programs=programs)
    loaded = opened(run, overrides, "match")
    (matching,) = match_each([loaded], programs=programs, sides=sides, console=console)
    settings = result_settings(loaded.usual, loaded.config.analysis, programs=programs, sides=sides)
    key = result_key(MatchResult.KIND, loaded, settings)
    result = MatchResult.of(matching, key.settings, sides, key.of)
    return keep_of(loaded, result) if save else result


def match_each(
    runs: Sequence[Loaded],
    *,
    programs: Sequence[str] = (),
    sides: bool = True,
    keep: Keep = lambda matching: None,
    console: Console | None = None,
) -> list[Matching]:
    """Match checkpoints of one run, as `match` does; `keep` is called after each.

    Raises:
        UserError: a name is not one of the task's programs.
    """
    first = runs[0]
    count, matchings = len(list(programs_of(first.task, programs))), list[Matching]()
    with Steps(console, "matching", count + len(runs) * count) as steps:
        known = _prepare(first, programs, sides, steps)
        steps.to(count)  # also if they were kept from before
        compare = _selectors(first, known)
        for run in runs:
            name = "the reference" if run.step is None else f"step {run.step}"
            with steps.part(name, count) as told:
                matchings.append(_matched(run, known, compare, sides, told))
                keep(matchings[-1])
    return matchings


def _prepare(run: Loaded, programs: Sequence[str], sides: bool, steps: Steps) -> _Prepared:
    """Return the programs and tests that all runs of one task share."""
    settings, config = run.config.task, run.config.analysis

    def make() -> _Prepared:
        names = [name for name, _ in programs_of(run.task, programs)]
        prepared = candidates(run.task, settings, config, programs, sides)
        chosen = [next(prepared) for _ in steps.each(names, lambda name: f"program {name}")]
        return _Prepared(input_set(run.task, settings), chosen, {})

    told = (same_programs(settings), config, list(programs), sides)
    return _prepared.of(repr(told), make)


def _selectors(run: Loaded, known: _Prepared) -> SelectorComparison:
    """Return what the heads of models of a run's shape are compared by, random inits' beside it."""
    shape = repr(run.config.model) if isinstance(run, LoadedRun) else "reference"
    if shape not in known.selectors:
        untrained = untrained_of(run.shape, known.inputs, run.config.analysis)
        known.selectors[shape] = selectors_of(known.chosen, untrained, run.config.analysis)
    return known.selectors[shape]


def _matched(
    run: Loaded, known: _Prepared, compare: SelectorComparison, sides: bool, told: Told
) -> Matching:
    config, task_model = run.config.analysis, run.task_model
    standings, heads = compared(run.bridge, task_model, known.chosen, compare, config, sides, told)
    loss = float(mean_loss(run.inputs.output, task_model.logits(), run.inputs.targets))
    return Matching(run.run, run.step, loss, standings, rule_of(config), heads)


def match_folder(
    folder: Path,
    config: Config,
    encode: Callable[..., Any],
    read: Callable[..., Any] | None,
    programs: Sequence[str],
    console: Console,
) -> Matching:
    """Match a GPT-2 of a user's own folder with the programs of a task: all, or those named.

    `encode` makes the model's ids of a list of tokens, `read` the id of an output's logit.

    Raises:
        UserError: the model does not exist, or the functions do not fit the task.
        FaultError: the file system failed.
    """
    check_device(config.analysis.device)
    analysis = config.analysis
    bridge = load_gpt2(folder, analysis.device)
    untrained = [
        random_gpt2(folder, init_seed(analysis.seed, i), analysis.device)
        for i in range(analysis.random_inits)
    ]
    with (
        Steps(console, "matching", 1) as steps,
        steps.part(folder.resolve().name) as told,
    ):
        standings, heads = match_bridge(
            bridge, make_task(config.task), encode, read, settings=config.task,
            config=config.analysis, programs=programs, untrained=untrained, progress=told,
        )  # fmt: skip
    return Matching(folder.resolve().name, None, None, standings, rule_of(config.analysis), heads)


def match_controls(config: Config, console: Console) -> list[KnownAnswer]:
    """Match the controls of a task with its program, and its decoys with their own too.

    Raises:
        UserError: the config is impossible.
    """
    check_accelerator(config.trainer.accelerator)
    context = prepare(config)
    known = [
        candidate
        for candidate in candidates(context.inputs.task, config.task, config.analysis, sides=False)
        if candidate.reference is not None
    ]
    every = controls(context.inputs, context.reference, context.shape, config, MATCHED_INITS)
    planned = of_matching(every, known[0], context)
    checked: list[KnownAnswer] = []
    with Steps(console, config.task.name, len(planned)) as steps:
        for control in planned:
            with steps.part(control.name) as told:
                checked += check(control, known, context, told)
    return checked
