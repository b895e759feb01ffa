"""What `algomatch match` does: checkpoints, runs, models from elsewhere and controls, matched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from transformer_lens.model_bridge import TransformerBridge

from ..analysis.controls.known_models import controls, learned_by_heart
from ..analysis.matching.any_bridge import match_bridge
from ..analysis.matching.head_selectors import Selectors, untrained_of
from ..analysis.matching.known_answers import MATCHED_INITS, Checked, check, of_matching
from ..analysis.matching.match_result import Matching
from ..analysis.matching.program_ranking import (
    Candidate,
    candidates,
    compared,
    programs_of,
    rule_of,
    selectors_of,
)
from ..analysis.matching.subspace_result import Searched
from ..analysis.matching.subspaces import Search, questions, subspaces, where_to_search
from ..config.devices import check_accelerator, check_device
from ..config.schema import Config, TaskConfig, names_file
from ..data.inputs import InputSet, input_set
from ..data.program_copies import same_programs
from ..data.tasks import make_task
from ..data.user_functions import load_function
from ..infra.errors import UserError
from ..infra.process_cache import Kept
from ..infra.progress import Steps, Told
from ..models.bridges import make_bridge
from ..models.foreign import load_gpt2, random_gpt2
from ..models.shapes import init_seed, learned_shape, random_inits
from ..models.task_model import task_model_of
from ..models.training import mean_loss
from ..models.variable_sites import sites_of
from ..runs import checkpoints
from .preparation import bridge_of, prepare

SEARCHED_INITS = 2  # random inits in which subspaces are searched for beside a model


@dataclass(frozen=True)
class _Prepared:
    """A task's programs with their tests, and what selectors are compared by, by architecture."""

    inputs: InputSet
    chosen: Sequence[Candidate]
    selectors: dict[str, Selectors]


_prepared = Kept[_Prepared]()

Keep = Callable[[Matching], object]


def match_checkpoints(
    paths: Sequence[Path],
    programs: Sequence[str],
    device: str | None,
    console: Console,
    sides: bool = True,
    keep: Keep = lambda matching: None,
) -> list[Matching]:
    """Match checkpoints of one run with the programs of its task: all, or those named.

    `device` is the config's unless given. `sides` says whether to look too at what each block's
    attention reads, which takes most of the time. `keep` is told of each checkpoint as it is there.

    Raises:
        UserError: a path is no checkpoint, or a name none of the task's programs.
    """
    loaded = [(path, _loaded(path, device)) for path in paths]
    config = loaded[0][1].config
    check_device(config.analysis.device)
    matchings: list[Matching] = []
    settings = loaded[0][1].task
    count = len(list(programs_of(make_task(settings), programs)))
    with Steps(console, "matching", count + len(loaded) * count) as steps:
        known = _prepare(settings, config, programs, sides, steps)
        steps.to(count)  # also where they were kept
        shape = learned_shape(config.model, known.inputs, config.seed)
        model = repr(config.model)  # whose random inits are the selectors' control
        if model not in known.selectors:
            untrained = untrained_of(shape, known.inputs, config.analysis)
            known.selectors[model] = selectors_of(known.chosen, untrained, config.analysis)
        for path, checkpoint in loaded:
            bridge = bridge_of(checkpoint, path, known.inputs, shape)
            compare = known.selectors[model]
            with steps.part(f"step {checkpoint.step}", count) as told:
                matchings.append(
                    _matched(checkpoint, bridge, known.inputs, known.chosen, compare, sides, told)
                )
                keep(matchings[-1])
    return matchings


def _prepare(
    settings: TaskConfig, config: Config, programs: Sequence[str], sides: bool, steps: Steps
) -> _Prepared:
    """Return what runs of one task share."""

    def make() -> _Prepared:
        task = make_task(settings)
        names = [name for name, _ in programs_of(task, programs)]
        prepared = candidates(task, settings, config.analysis, programs, sides)
        chosen = [next(prepared) for _ in steps.each(names, lambda name: f"program {name}")]
        return _Prepared(input_set(task, settings), chosen, {})

    told = (same_programs(settings), config.analysis, list(programs), sides)
    return _prepared.of(repr(told), make)


def _loaded(path: Path, device: str | None) -> checkpoints.Checkpoint:
    """Return a checkpoint that is analysed on a device, by default its own."""
    checkpoint = checkpoints.load(path)
    checkpoint.config.analysis.device = device or checkpoint.config.analysis.device
    return checkpoint


def _matched(
    checkpoint: checkpoints.Checkpoint,
    bridge: TransformerBridge,
    inputs: InputSet,
    chosen: Sequence[Candidate],
    compare: Selectors,
    sides: bool,
    told: Told,
) -> Matching:
    config, task_model = checkpoint.config.analysis, task_model_of(bridge, inputs)
    table, heads = compared(bridge, task_model, chosen, compare, config, sides, told)
    loss = float(mean_loss(inputs.output, task_model.logits(), inputs.targets))
    return Matching(checkpoint.run, checkpoint.step, loss, table, rule_of(config), heads)


def match_folder(
    folder: Path,
    config: Config,
    encoder: str,
    reader: str | None,
    programs: Sequence[str],
    console: Console,
) -> Matching:
    """Match a GPT-2 of a user's own folder with the programs of a task: all, or those named.

    `encoder` and `reader` name a function each, `path/to/file.py:function`.

    Raises:
        UserError: there is no such model or function, or they and the task do not fit each other.
        FaultError: the file system failed.
    """
    check_device(config.analysis.device)
    encode = _function_of("--encoder", encoder)
    read = None if reader is None else _function_of("--reader", reader)
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


def _function_of(option: str, place: str) -> Callable[..., Any]:
    """Return the function that an option names."""
    if not names_file(place):
        raise UserError(f"{option} {place}: give path/to/file.py:function")
    try:
        return load_function(place)
    except UserError as error:
        raise UserError(f"{option}: {error}") from error


def search_subspaces(
    path: Path, matched: Matching, programs: Sequence[str], console: Console
) -> Searched:
    """Search a matched checkpoint for a program's variables in subspaces, and controls beside it.

    The program is the first named, or the task's own. The search runs on the CPU.

    Raises:
        UserError: `path` is no checkpoint.
        NotFiniteError: the training of the control on shuffled labels diverged.
    """
    checkpoint = _loaded(path, "cpu")
    config = checkpoint.config
    name, _ = next(programs_of(make_task(checkpoint.task), programs[:1]))
    standing = next(each for each in matched.standings if each.candidate.name == name)
    inputs = standing.candidate.inputs
    shape = learned_shape(config.model, inputs, config.seed)
    all_sites = sites_of(shape)[:-1]  # what comes after the last is of each position's output
    sites = where_to_search(standing, all_sites)
    settings = Search(
        cases=config.analysis.match_cases,
        threshold=config.analysis.match_realised,
        seed=config.analysis.seed,
    )
    asked = questions(inputs, list(sites), settings)
    searched = Searched(checkpoint.run, checkpoint.step, name, all_sites, sites, asked, ())
    if not any(question.answerable and sites[question.names[0]] for question in asked):
        return searched
    with Steps(console, "subspaces", 10) as steps:
        with steps.part("training on shuffled labels") as told:
            by_heart = learned_by_heart(inputs, shape, config, told)
        with steps.part("searches", 9) as told:
            bests = subspaces(
                make_bridge(shape, checkpoint.weights), inputs, asked, sites,
                random_inits(shape, SEARCHED_INITS, config.analysis.seed, "cpu"), [by_heart.bridge],
                settings, told,
            )  # fmt: skip
            return replace(searched, found=tuple(bests), note=by_heart.note)


def match_controls(config: Config, console: Console) -> list[Checked]:
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
    checked: list[Checked] = []
    with Steps(console, config.task.name, len(planned)) as steps:
        for control in planned:
            with steps.part(control.name) as told:
                checked += check(control, known, context, told)
    return checked
