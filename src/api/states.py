"""`algomatch states`: what each site of a model holds, in the fewest named variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console

from ..analysis.matching.cut_tests import exact_share
from ..analysis.matching.program_ranking import programs_of
from ..analysis.states.search import StateRule, StateSpace, check_rule
from ..analysis.states.site_states import SiteFindings, fewest_bits, site_states
from ..analysis.states.state_sites import COMPONENT, RESIDUAL, SIDE
from ..analysis.states.state_verdicts import CutAtSite, program_verdict
from ..analysis.states.states_result import LibrarySize, ModelStates, StatesResult
from ..config.schema import AnalysisConfig, TaskConfig
from ..data.inputs import InputSet, input_set
from ..data.program_copies import same_programs
from ..data.rasp.cuts import Cuts, cuts
from ..data.rasp.library import library
from ..data.tasks import Task
from ..data.user_functions import load_function
from ..infra.errors import refuse_texts
from ..infra.process_cache import LastResult
from ..infra.progress import Steps
from ..models.shapes import random_inits
from ..models.task_model import task_model_of
from ..runs.loaded_run import Loaded, LoadedRun, Openable, opened
from ..runs.result_store import result_key, result_settings, setting
from .keeping import keep_of

Keep = Callable[[ModelStates, bool], object]  # with whether it is finished

_spaces = LastResult[tuple[StateSpace, dict[str, Cuts], LibrarySize]]()
_controls = LastResult[list[dict[str, float]]]()


def states(
    run: Openable,
    *,
    components: bool = False,
    variables: Sequence[str] = (),
    overrides: Sequence[str] = (),
    save: bool = False,
    console: Console | None = None,
) -> StatesResult:
    """Find the states of a model: the fewest named variables that are sufficient at each site.

    The sites are the embedding, the residual stream after each block, and the queries, keys and
    values that each block reads; with `components` also what each head and MLP writes. `variables`
    are functions of one's own, FILE.py:NAME. Overrides, `analysis.key=value`, go with a path. If
    `save`, the result is kept in the run's folder, as the command keeps it, where reports look for
    it.

    Example:
        result = algomatch.states("runs/RUN")

    Raises:
        UserError: there is no checkpoint, or a variable is not a function of list and position.
    """
    refuse_texts(variables=variables)
    loaded = opened(run, overrides, "states")
    (model,) = states_each([loaded], components=components, variables=variables, console=console)
    own = state_settings(components, variables)
    settings = (*own, *result_settings(loaded.usual, loaded.config.analysis))
    result = StatesResult.of(model, result_key(StatesResult.KIND, loaded, settings))
    return keep_of(loaded, result) if save else result


def state_settings(components: bool, variables: Sequence[str]) -> tuple[str, ...]:
    """Return what the key of a result says of its sites and of a user's own variables."""
    own = [setting("variables", variables)] if variables else []
    return (*own, *([setting("components")] if components else []))


def states_each(
    runs: Sequence[Loaded],
    *,
    components: bool = False,
    variables: Sequence[str] = (),
    keep: Keep = lambda model, finished: None,
    console: Console | None = None,
) -> list[ModelStates]:
    """Find the states of checkpoints of a run, as `states` does; `keep` is called after each site.

    Raises:
        UserError: a variable is not a function of list and position.
    """
    first, kinds = runs[0], (RESIDUAL, SIDE, *([COMPONENT] if components else []))
    config = first.config.analysis
    check_rule(_rule(config))
    total = 1 + config.state_inits + len(runs)
    with Steps(console, "states", total) as steps:
        with steps.part("the library of variables"):
            space, programs, size = _space(first, variables)
        controls = _control_bits(first, space, programs, steps)
        steps.to(1 + config.state_inits)
        models = list[ModelStates]()
        for run in runs:
            name = "the reference" if run.step is None else f"step {run.step}"
            with steps.part(name) as told:
                model = _empty(run, space, size, len(controls))
                findings = list[SiteFindings]()
                for finding in site_states(run.task_model, space, kinds, programs, told):
                    findings.append(_beside(finding, controls))
                    keep(replace(model, sites=tuple(each.states for each in findings)), False)
                models.append(_judged(model, findings, programs, config))
                keep(models[-1], True)
    return models


def _space(
    run: Loaded, variables: Sequence[str]
) -> tuple[StateSpace, dict[str, Cuts], LibrarySize]:
    """Return the states of a task and its programs' cuts; runs of one task share them."""
    config, settings = run.config.analysis, run.config.task

    def make() -> tuple[StateSpace, dict[str, Cuts], LibrarySize]:
        inputs = run.inputs
        tasks = dict(programs_of(run.task))
        programs = {
            name: cuts(_inputs_of(name, task, run, settings)) for name, task in tasks.items()
        }
        own = {place.rpartition(":")[2]: load_function(place) for place in variables}
        made = library(
            inputs, {name: task.program for name, task in tasks.items()}, config.state_expressions,
            config.state_seconds, own,
        )  # fmt: skip
        size = LibrarySize(len(made.variables), made.tried, made.cost, made.complete, made.seconds)
        return StateSpace(inputs, made, _rule(config)), programs, size

    told = (same_programs(settings), run.inputs.digest(), config, tuple(variables))
    return _spaces.of(repr(told), make)


def _rule(config: AnalysisConfig) -> StateRule:
    return StateRule(config.state_sufficient, config.state_cases, config.bootstrap, config.seed)


def _inputs_of(name: str, task: Task, run: Loaded, settings: TaskConfig) -> InputSet:
    return run.inputs if task is run.task else input_set(task, settings)


def _control_bits(
    run: Loaded,
    space: StateSpace,
    programs: dict[str, Cuts],
    steps: Steps,
) -> list[dict[str, float]]:
    """Return the fewest bits that untrained models of a run's shape need at each site."""
    config = run.config.analysis
    shape = repr(run.config.model) if isinstance(run, LoadedRun) else "reference"

    def make() -> list[dict[str, float]]:
        inits = random_inits(run.shape, config.state_inits, config.seed, config.device)
        bits = []
        for number, init in enumerate(inits):
            with steps.part(f"random init {number + 1} of {len(inits)}") as told:
                model = task_model_of(init, space.inputs)
                bits.append(fewest_bits(model, space, programs, told))
        return bits

    told = (shape, same_programs(run.config.task), run.inputs.digest(), config)
    return _controls.of(repr((told, [v.name for v in space.variables])), make)


def _beside(finding: SiteFindings, controls: Sequence[dict[str, float]]) -> SiteFindings:
    bits = tuple(c[finding.states.site] for c in controls if finding.states.site in c)
    return replace(finding, states=replace(finding.states, control_bits=bits))


def _empty(run: Loaded, space: StateSpace, size: LibrarySize, controls: int) -> ModelStates:
    inputs = space.inputs
    return ModelStates(
        run=run.run, step=run.step, task=run.task.name, exact=exact_share(run.task_model, inputs),
        n=len(space.targets["all"]), exhaustive=inputs.exhaustive, most_bits=space.most_bits,
        sufficient=space.rule.sufficient, library=size, sites=(), cuts=(), verdicts=(),
        controls=tuple(f"random init {number + 1}" for number in range(controls)),
    )  # fmt: skip


def _judged(
    model: ModelStates,
    findings: Sequence[SiteFindings],
    programs: dict[str, Cuts],
    config: AnalysisConfig,
) -> ModelStates:
    """Return the model with its sites, the cuts that they hold, and the verdicts, best first."""
    sites = tuple(finding.states for finding in findings)
    tests = tuple(at for finding in findings for at in finding.cuts)
    residual = [site.site for site in sites if site.kind == RESIDUAL]
    short = {site.site: site.explains for site in sites}
    verdicts = [
        program_verdict(name, its, residual, _of(name, tests), short, model.exact, config.solved)
        for name, its in programs.items()
    ]
    verdicts.sort(key=lambda verdict: (verdict.rank, verdict.extra_bits))
    return replace(model, sites=sites, cuts=tests, verdicts=tuple(verdicts))


def _of(program: str, tests: Sequence[CutAtSite]) -> list[CutAtSite]:
    return [at for at in tests if at.program == program]
