"""The `algomatch` command and its subcommands: their checks, calls, printing and files."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import terminal
from .command_line import CONTROLS_MODEL, joined, parser
from .devices import check_device, check_devices
from .environment import settle_folders, settle_warnings
from .errors import FaultError, Interrupted, UserError, one_of, reported

if TYPE_CHECKING:
    from rich.console import Console

    from . import experiment
    from .config import Config
    from .stopping import Stop
    from .tracking.agent import Assigned
    from .tracking.results import Key
    from .tracking.run_folder import RunFolder

MATCHED_TASKS = [  # default tasks of `match --controls`
    "reverse", "hist", "double_hist", "sort", "most_freq", "sort_freq", "shuffle_dyck",
    "share_of_last",
]  # fmt: skip
MATCHED_SETTINGS = {  # default settings of `match --controls`
    "analysis.other_tasks": 4,  # other tasks that models are trained and compiled on
    "trainer.max_steps": 400,  # for models trained on other tasks and on shuffled labels
}
TASK_KEYS = ("task", "task.name", "task.program")
ENCODER = (  # explanation of an encoder
    "An encoder takes a list of the task's tokens and returns the ids that the model reads: a "
    "prefix that is always the same (BOS or a prompt), then one id for each token, e.g. "
    '`def encode(tokens): return [50256, *(64 + "abcd".index(one) for one in tokens)]`'
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 for a fault, 2 for a user's mistake."""
    terminal.make_lasting()
    settle_warnings()
    settle_folders()
    whole = parser()
    given = sys.argv[1:] if arguments is None else arguments
    options, rest = whole.parse_known_args(joined(given))
    from rich.console import Console  # not needed for --help and --version

    commands = {
        "train": _train,
        "sweep": _sweep,
        "analyze": _analyze,
        "compare": _compare,
        "controls": _controls,
        "match": _match,
        "circuit": _circuit,
        "explain": _explain,
        "report": _report,
        "log": _log_runs,
        "tasks": _tasks,
        "workspace": _workspace,
    }

    def act() -> None:
        for argument in rest:
            if argument.startswith("-"):
                known = whole.options_of(options.command)
                raise UserError(f"unknown option '{argument}': {one_of(argument, known)}")
        if getattr(options, "device", None) is not None:
            check_device(options.device)
        commands[options.command](options, rest, Console())

    return reported(act) or _reported_output()


def _reported_output() -> int:
    """Report lost output, if there was any; return the exit code."""
    sys.stdout.flush()

    def act() -> None:
        if (why := terminal.fault()) is not None:
            raise FaultError(f"some output could not be written: {why}")

    return reported(act)


def _train(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    overrides = [*options.overrides, *rest]  # argparse leaves over the arguments after an option
    if options.resume is not None:
        if options.config is not None or overrides:
            raise UserError("--resume goes on with the run's own config: leave out the rest")
        _check_devices_of(Path(options.resume))
        from . import experiment

        experiment.resume(Path(options.resume), console)
        return
    from .stopping import SIGNALS, Stop
    from .tracking.agent import assigned

    agents, stop = assigned(), Stop(console.print)
    if agents is not None:
        with stop.taken(SIGNALS[1:]):  # W&B's server may stop a run while it imports
            _train_for(agents, overrides, options, stop, console)
        return
    config = _composed(overrides, options.config)
    from . import experiment

    experiment.train(config, console)


def _composed(overrides: Sequence[str], file: str | None = None) -> Config:
    """Return the composed config; refuse one whose device is not available."""
    from .config import compose

    config = compose(overrides, file)
    check_devices(config)
    return config


def _check_devices_of(run: Path) -> None:
    """Refuse to resume a run whose config names a device that is not available."""
    from .config import from_mapping, read_yaml
    from .files import faults_named

    file = run / "config.yaml"
    with faults_named("look for the run folder"):
        is_to_go_on = file.is_file() and not (run / "finished.json").exists()
    if is_to_go_on:
        check_devices(from_mapping(read_yaml(file), str(file)))


def _train_for(
    agents: Assigned,
    overrides: Sequence[str],
    options: argparse.Namespace,
    stop: Stop,
    console: Console,
) -> None:
    """Train or resume the run that a sweep's agent has assigned."""
    config = _composed(overrides, options.config)
    if config.run_dir is None:
        config.run_dir = str(agents.folder(Path(config.runs_dir)))
    from . import experiment

    try:
        experiment.train_or_resume(config, console, wandb_id=agents.run, stop=stop)
    except Interrupted as stopped:
        # End by the signal: an exit code counts as a failure, and an agent gives up after three.
        console.print(str(stopped), markup=False, highlight=False, soft_wrap=True)
        from .stopping import end_by
        from .tracking.wandb_log import end_service

        end_service()
        sys.stdout.flush()
        end_by(stopped.exit_code - 128)


def _sweep(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    overrides = [*options.overrides, *rest]
    for name, least in (("jobs", 1), ("count", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value} must be at least {least}")
    from . import sweep as sweeps
    from .sweep_cells import plan
    from .workers import cores

    output = Path(options.output) if options.output else None
    given = options.count, options.seed, options.index
    sweep = plan(Path(options.file), overrides, output, *given)
    if options.list:
        from .report.sweep import print_cells

        print_cells(sweep, console)
        return
    for cell in sweep.cells:
        if not cell.finished:  # finished runs are only shown
            check_devices(cell.config)
    if options.index is not None:
        from . import experiment

        try:
            experiment.train_or_resume(sweep.cells[0].config, console)
        finally:
            sweeps.link_records(sweep.cells[0])
        return
    jobs = options.jobs or cores() // max(cell.config.threads for cell in sweep.cells) or 1
    if sweep.file.ends_early:
        console.print("early_terminate is the server's: here every run goes to its own end")
    outcome = sweeps.run_cells(sweep, jobs, console)
    from .report.sweep import print_sweep

    print_sweep(outcome, console)
    if outcome.signal is not None:
        raise Interrupted("stopped; the same command goes on", outcome.signal)
    if outcome.failed:
        raise FaultError(
            f"{len(outcome.failed)} of {len(sweep.cells)} runs failed; the same command tries again"
        )


def _log_runs(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    from .tracking.replay import log_run

    failed: list[UserError | FaultError] = []
    folders = _readable_runs([*options.runs, *rest], console)
    for folder in folders:
        try:
            url = log_run(folder, console.print)
        except (UserError, FaultError) as error:  # the other runs are still logged
            if len(folders) == 1:
                raise
            failed.append(error)
            console.print(f"! {error}", markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(f"{folder.path}: {url}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise FaultError(f"{len(failed)} of {len(folders)} runs were not logged whole: {failed[0]}")


def _controls(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    overrides = [*options.overrides, *rest]
    if not any(given.partition("=")[0] in ("model", "model.name") for given in overrides):
        overrides.insert(0, f"model={CONTROLS_MODEL}")
    config = _composed(overrides)
    from . import experiment

    experiment.study_controls(config, options.again, console)


def _tasks(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    given = [*options.names, *rest]
    overrides = [argument for argument in given if re.match(r"[\w.]+=", argument)]
    names = [argument for argument in given if argument not in overrides]
    named = [given for given in overrides if given.partition("=")[0] in TASK_KEYS]
    if named and (names or options.check):
        raise UserError(f"a task is named once: leave out '{named[0]}'")
    if options.check and options.picture is not None:
        raise UserError("--check draws no picture: leave out --picture")
    if not given and not options.check:
        from .report.registry import print_registry

        print_registry(console)
        return
    if len(names) > 1 and not options.check:
        raise UserError(f"one task at a time, not {', '.join(names)} (or add --check)")
    from .report import tasks

    if options.check:
        tasks.check_tasks(names, overrides, console)
        return
    chosen = [f"task={name}" for name in names]
    picture = Path(options.picture) if options.picture is not None else None
    tasks.print_task([*chosen, *overrides], picture, console)


def _workspace(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    if rest:
        raise UserError(f"unexpected argument '{rest[0]}': workspace takes one ENTITY/PROJECT")
    parts = options.project.split("/")
    if len(parts) != 2 or not all(parts):
        raise UserError(f"'{options.project}' is not of the form ENTITY/PROJECT")
    from .tracking.workspace import save

    entity, project = parts
    url, new, n_runs = save(entity, project, options.name)
    done = "saved" if new else "replaced"
    say = f"workspace '{options.name}' of {n_runs} runs, {done}: {url}"
    console.print(say, soft_wrap=True, highlight=False, markup=False)


def _compare(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    from .report.compare import compare

    compare([Path(path) for path in (*options.runs, *rest)], Path(options.output), console)


def _report(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    from .report.page import write_report

    paths = [Path(path) for path in (*options.runs, *rest)]
    tables = None if options.tables is None else Path(options.tables)
    write_report(paths, Path(options.output), options.title, console, tables)


def _match(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    given = [*options.checkpoint, *rest]
    if options.controls or not _are_several(given):
        _refuse_several(options)
    if options.controls:
        _match_controls(given, options, console)
        return
    if options.subspaces and options.all:
        raise UserError("--subspaces searches one checkpoint: leave out --all")
    if options.encoder or options.reader or any(map(_holds_gpt2, given)):
        _match_folder(given, options, console)
        return
    if not given:
        raise UserError("match takes a checkpoint or run folders: none is given")
    if _are_several(given):
        _match_runs([Path(path) for path in given], options, console)
        return
    from . import match
    from .files import Unwritten
    from .report.matching import Matching, print_matching
    from .report.matching_figures import draw_emergence, keep_matching
    from .tracking import checkpoints
    from .tracking.run_folder import RunFolder

    path = Path(given[0])
    paths = RunFolder.open(path).checkpoint_folders() if options.all else [path]
    if not paths:
        raise UserError(f"'{path}' holds no checkpoint yet")
    checkpoint = checkpoints.load(paths[-1])
    where = Path(options.output) if options.output else checkpoints.beside(paths[-1]) / "matching"
    settings = _settings(options, checkpoint.config.analysis.device)
    kept, unwritten = list[Path](), Unwritten()

    def keep(matching: Matching) -> None:
        with unwritten.noted():
            kept.append(keep_matching(matching, where, settings, not options.no_sides))

    matchings = match.match_checkpoints(
        paths, options.programs, options.device, console, not options.no_sides, keep
    )
    print_matching(matchings, console)
    unwritten.tell()
    draw_emergence(where)
    _say_where(kept, where, console)
    if options.subspaces:
        from .report.subspaces import Searched, keep_subspaces, print_subspaces

        own = _subspace_settings(options)
        if matchings[-1].exact < matchings[-1].rule.solved:
            console.print("no subspaces are searched for: the model does not solve the task")
            nothing = Searched(checkpoint.run, checkpoint.step, "", (), {}, (), ())
            keep_subspaces(nothing, where, own)
            return
        searched = match.search_subspaces(paths[-1], matchings[-1], options.programs, console)
        print_subspaces(searched, console)
        _say_where([keep_subspaces(searched, where, own)], where, console)


def _say_where(folders: Sequence[Path], where: Path, console: Console) -> None:
    """Print where the results are, and which of them are gathered."""
    from .tracking.results import SETTINGS

    names = [path.name for path in sorted(folders[-1].iterdir()) if path.name != SETTINGS]
    more = f" (and {len(folders) - 1} more checkpoints)" if len(folders) > 1 else ""
    line = f"{', '.join(names)}: {folders[-1]}{more}; gathered: {where}"
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _settings(options: argparse.Namespace, device: str) -> tuple[str, ...]:
    """Return the non-default options that change a result's numbers.

    `device` is the config's device.
    """
    from .analysis.circuits import METHODS
    from .analysis.rerun import KINDS
    from .tracking.results import setting

    settings = []
    for name, known in (("programs", ()), ("methods", METHODS), ("kinds", KINDS)):
        values = getattr(options, name, None) or []
        if values and set(values) != set(known):
            settings.append(setting(name, values))
    if getattr(options, "no_sides", False):
        settings.append(setting("no-sides"))
    own = getattr(options, "device", None)
    if own is not None and own != device:
        settings.append(setting("device", [own]))
    return tuple(settings)


def _subspace_settings(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the settings of a search of subspaces: its one program."""
    from .tracking.results import setting

    return (setting("subspaces", options.programs[:1]),)


def _are_several(given: Sequence[str]) -> bool:
    """Return whether these are several runs, or a folder that contains runs."""
    if any(re.match(r"[\w.]+=", argument) for argument in given):
        return False
    holds = (next(Path(argument).glob("*/run.json"), None) is not None for argument in given)
    return len(given) > 1 or any(holds)


def _refuse_several(options: argparse.Namespace) -> None:
    if options.jobs is not None or options.again:
        name = "--again" if options.jobs is None else "--jobs"
        raise UserError(f"{name} is of several runs, and there is only one")


def _said(options: argparse.Namespace) -> list[str]:
    """Return the options that apply to each run, as command-line arguments."""
    said: list[str] = []
    for name in ("programs", "methods", "kinds", "device", "all", "subspaces", "no_sides"):
        value = getattr(options, name, None)
        if value:
            flag = f"--{name.replace('_', '-')}"
            said += [flag, *([] if value is True else [value] if isinstance(value, str) else value)]
    return said


def _refuse_output(options: argparse.Namespace, folder: str) -> None:
    if options.output is not None:
        raise UserError(f"--output is of one run: of several, results go to RUN/{folder}")


def _readable_runs(given: Sequence[str], console: Console) -> list[RunFolder]:
    """Return the runs at the paths; print why others cannot be opened and are left out."""
    from .report.seeds import find_runs

    left_out = list[str]()
    runs = find_runs([Path(path) for path in given], left_out)
    for line in left_out:
        console.print(f"! {line}", soft_wrap=True, highlight=False, markup=False)
    return runs


def _each_alone(
    runs: Sequence[RunFolder], folder: str, options: argparse.Namespace, console: Console
) -> None:
    """Run the command for each of several runs; results go to the folder of that name."""
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs {options.jobs} must be at least 1")
    from .several import Work, each_alone
    from .workers import cores

    said = tuple(_said(options))
    works = [Work(run, run.path / folder, said, tuple(_keys(run, folder, options))) for run in runs]
    jobs = options.jobs or cores()
    each_alone(options.command, works, jobs, options.again, main, console)


def _keys(run: RunFolder, folder: str, options: argparse.Namespace) -> Iterator[Key]:
    """Yield the keys of the results that the command makes for a run."""
    from .tracking import checkpoints
    from .tracking.results import CIRCUIT, EXPLANATION, MATCH, SUBSPACES, Key

    what = {"matching": MATCH, "circuit": CIRCUIT, "explanation": EXPLANATION}[folder]
    steps = [checkpoints.step_of(path) for path in run.checkpoint_folders()]
    settings = _settings(options, run.config.analysis.device)
    for step in steps if getattr(options, "all", False) else steps[-1:]:
        yield Key(what, run.id, step, settings)
        if getattr(options, "subspaces", False):
            yield Key(SUBSPACES, run.id, step, _subspace_settings(options))


def _match_runs(paths: Sequence[Path], options: argparse.Namespace, console: Console) -> None:
    from .files import faults_named, write_file
    from .report.matching_runs import FILE, print_verdicts, verdicts_csv
    from .report.seeds import find_runs, grouped, load_runs

    where = Path(options.output or ".") / FILE
    with faults_named(f"write into '{where.parent}'"):
        where.parent.mkdir(parents=True, exist_ok=True)
    failed: FaultError | None = None
    left_out = list[str]()
    runs = find_runs(paths, left_out)
    try:
        _each_alone(runs, "matching", options, console)
    except FaultError as error:  # some runs failed: the verdicts on the others are shown
        failed = error
    groups = grouped(load_runs(runs, left_out))
    print_verdicts(groups, console)
    for line in left_out:
        console.print(f"! {line}", soft_wrap=True, highlight=False, markup=False)
    with faults_named(f"write '{where}'"):
        write_file(where, verdicts_csv(groups).encode())
    console.print(f"every run: {where}", soft_wrap=True, highlight=False, markup=False)
    if failed is not None:
        raise failed


def _holds_gpt2(place: str) -> bool:
    """Return whether a folder is a model saved by transformers, not a run or a checkpoint."""
    return (Path(place) / "config.json").is_file()


def _match_folder(given: Sequence[str], options: argparse.Namespace, console: Console) -> None:
    if options.all or options.subspaces:
        raise UserError(
            "--all and --subspaces are for runs, not for a model's folder: leave them out"
        )
    own = [argument for argument in given if re.match(r"[\w.]+=", argument)]
    overrides = [*own, *([f"analysis.device={options.device}"] if options.device else [])]
    folders = [argument for argument in given if argument not in own]
    if len(folders) != 1:
        raise UserError(f"match with --encoder takes one model folder, not {len(folders)}")
    if options.encoder is None:
        raise UserError(
            f"'{folders[0]}' is a model from elsewhere, which reads tokens of its own: give "
            f"--encoder FILE.py:FUNCTION. {ENCODER}"
        )
    groups = [override.partition("=")[0].partition(".")[0] for override in overrides]
    for override, group in zip(overrides, groups, strict=True):
        if group not in ("task", "analysis"):
            raise UserError(f"'{override}' has no say here: task and analysis have")
    if not any(override.partition("=")[0] in TASK_KEYS for override in overrides):
        raise UserError("name the task that the model solves, as in task=induction")
    config, folder = _composed(overrides), Path(folders[0])
    from . import match
    from .report.matching import print_matching
    from .report.matching_figures import keep_matching
    from .tracking.results import setting

    weights = _weights_of(folder)
    matching = match.match_folder(
        folder, config, options.encoder, options.reader, options.programs, console
    )
    print_matching([matching], console)
    where = Path(options.output or f"matching-{matching.run}")
    functions = [options.encoder, *([options.reader] if options.reader else [])]
    said = [("programs", options.programs), ("device", options.device and [options.device])]
    settings = [setting(name, values) for name, values in said if values]
    of = (*sorted(own), *functions, weights)
    _say_where([keep_matching(matching, where, settings, of=of)], where, console)


def _weights_of(folder: Path) -> str:
    """Return an identifier of a model's folder: a digest of its config and weights.

    Raises:
        FaultError: the file system failed.
    """
    from .files import digest, faults_named
    from .models.brought import CONFIG, WEIGHTS

    with faults_named(f"read '{folder}'"):
        files = [folder / name for name in (CONFIG, WEIGHTS)]
        return f"model={digest([path for path in files if path.is_file()])[:8]}"


def _circuit(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    given = [*options.checkpoint, *rest]
    if _are_several(given) and not options.reference:
        _refuse_output(options, "circuit")
        _each_alone(_readable_runs(given, console), "circuit", options, console)
        return
    _refuse_several(options)
    path, config, where, key = _analysed(given, options, "circuit")
    from . import circuit
    from .files import Unwritten
    from .report.circuits import Circuits, keep_circuits, print_circuits

    files, unwritten = list[Path](), Unwritten()

    def keep(circuits: Circuits, finished: bool = False) -> None:
        with unwritten.noted():
            files[:] = keep_circuits(circuits, where, key, finished)

    chosen = options.methods, options.kinds
    if config is not None:
        circuits = circuit.circuits_of_reference(config, *chosen, keep, console)
    else:
        assert path is not None
        circuits = circuit.circuits_of_checkpoint(path, *chosen, keep, console)
    keep(circuits, finished=True)
    print_circuits(circuits, console)
    unwritten.tell()
    _say_where([files[0].parent], where, console)
    _log(path, "circuit", options, files, console)


def _log(
    path: Path | None,
    what: str,
    options: argparse.Namespace,
    files: Sequence[Path],
    console: Console,
) -> None:
    """Log the written files to W&B, if the checkpoint belongs to a tracked run."""
    from .tracking import checkpoints
    from .tracking.run_folder import RunFolder

    if path is None or not (checkpoints.beside(path) / "run.json").is_file():
        return
    from .tracking.wandb_log import log_analysis

    name = f"{what}-reference" if options.reference else what
    log_analysis(RunFolder.open(checkpoints.beside(path)), name, files, console.print)


def _analysed(
    given: Sequence[str], options: argparse.Namespace, folder: str
) -> tuple[Path | None, Config | None, Path, Key]:
    """Return the checkpoint, the reference's config if that is analysed, the folder and the key.

    Results go to a folder of the given name beside the checkpoint; for a task without a checkpoint,
    to one in the current folder, with the task's name. The key identifies the results.
    """
    overrides = [argument for argument in given if re.match(r"[\w.]+=", argument)]
    paths = [argument for argument in given if argument not in overrides]
    if overrides and not options.reference:
        raise UserError(f"'{overrides[0]}' has no say here: a checkpoint has its own config")
    if len(paths) > 1 or (not paths and not overrides) or (paths and overrides):
        way = "one checkpoint" + (", or task=NAME and KEY=VALUE" if options.reference else "")
        raise UserError(f"{options.command} takes {way}, not {' '.join(given) or 'none'}")
    from .tracking import checkpoints
    from .tracking.results import Key

    if overrides:
        if not any(override.partition("=")[0] in TASK_KEYS for override in overrides):
            raise UserError("name the task whose program is to be analysed, as in task=reverse")
        config = _composed(overrides)
        where = Path(options.output or f"{folder}-{config.task.name}")
        own = tuple(
            sorted(override for override in overrides if override != f"task={config.task.name}")
        )
        settings = _settings(options, config.analysis.device)
        return None, config, where, Key(folder, f"compiled {config.task.name}", None, settings, own)
    path = Path(paths[0])
    checkpoint = checkpoints.load(path)
    config = checkpoint.config
    name = f"{folder}-reference" if options.reference else folder
    where = Path(options.output) if options.output else checkpoints.beside(path) / name
    settings = _settings(options, config.analysis.device)
    if options.reference:
        from .commands import setting_words
        from .config import AnalysisConfig

        config.task = checkpoint.task
        usual = vars(AnalysisConfig())
        own = (
            f"inputs={checkpoint.inputs_digest[:8]}",
            *setting_words("analysis", vars(config.analysis), usual),
        )
        return path, config, where, Key(folder, f"compiled {config.task.name}", None, settings, own)
    return path, None, where, Key(folder, checkpoint.run, checkpoint.step, settings)


def _match_controls(given: Sequence[str], options: argparse.Namespace, console: Console) -> None:
    if options.programs or options.all or options.subspaces or options.encoder or options.reader:
        raise UserError(
            "--controls takes tasks: leave out --programs, --all, --subspaces, --encoder, --reader"
        )
    overrides = [argument for argument in given if re.match(r"[\w.]+=", argument)]
    if options.device is not None:
        overrides.append(f"analysis.device={options.device}")
    if named := [override for override in overrides if override.partition("=")[0] in TASK_KEYS]:
        raise UserError(f"'{named[0]}': name the tasks alone, as in --controls reverse hist")
    names = (
        list(dict.fromkeys(argument for argument in given if argument not in overrides))
        or MATCHED_TASKS
    )
    if not any(override.partition("=")[0] in ("model", "model.name") for override in overrides):
        overrides.insert(0, f"model={CONTROLS_MODEL}")
    for key, value in MATCHED_SETTINGS.items():
        if not any(override.startswith(f"{key}=") for override in overrides):
            overrides.append(f"{key}={value}")
    configs = [_composed([f"task={name}", *overrides]) for name in names]
    from . import match
    from .files import faults_named, write_file
    from .report.matching_controls import checked_csv, print_checked, print_counts

    where, checked = Path(options.output or ".") / "match-controls.csv", []
    with faults_named(f"write into '{where.parent}'"):
        where.parent.mkdir(parents=True, exist_ok=True)
        before = where.read_text(encoding="utf-8") if where.exists() else ""
    for name, config in zip(names, configs, strict=True):
        rows = match.match_controls(config, console)
        checked += rows
        print_checked(name, rows, console)
        with faults_named(f"write '{where}'"):
            write_file(where, checked_csv(checked, before).encode())
    print_counts(checked, console)
    console.print(f"every control: {where}", soft_wrap=True, highlight=False, markup=False)


def _explain(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    given = [*options.checkpoint, *rest]
    if _are_several(given) and not options.reference:
        _refuse_output(options, "explanation")
        _each_alone(_readable_runs(given, console), "explanation", options, console)
        return
    _refuse_several(options)
    path, config, where, key = _analysed(given, options, "explanation")
    from . import explain
    from .files import Unwritten
    from .report.explanation import Explanation, print_explanation
    from .report.explanation_figures import keep_explanation

    files, unwritten = list[Path](), Unwritten()

    def keep(explanation: Explanation) -> None:
        with unwritten.noted():
            files[:] = keep_explanation(explanation, where, key)

    if config is not None:
        config.analysis.device = options.device or config.analysis.device
        explanation = explain.explain_reference(config, keep, console)
    else:
        assert path is not None
        explanation = explain.explain_checkpoint(path, options.device, keep, console)
    print_explanation(explanation, console)
    unwritten.tell()
    _say_where([files[0].parent], where, console)
    _log(path, "explanation", options, files, console)


def _analyze(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    if rest:
        raise UserError(f"unexpected argument '{rest[0]}': analyze takes one checkpoint")
    from . import experiment
    from .tracking import artifacts

    if not artifacts.is_reference(options.checkpoint):
        if options.trust:
            raise UserError("--trust is of an artifact, wandb:ENTITY/PROJECT/NAME:ALIAS")
        analysis = experiment.analyze(Path(options.checkpoint), options.device)
        _print_analysis(analysis, options, console)
        return
    with artifacts.fetched(options.checkpoint, options.trust) as fetched:
        console.print(f"checkpoint: {fetched.folder}", markup=False, highlight=False)
        analysis = experiment.analyze(fetched.folder, options.device)
        console.print(f"W&B: {fetched.run.url}", markup=False, highlight=False, soft_wrap=True)
        try:
            _print_analysis(analysis, options, console)
        finally:  # also rows that differ from the record
            artifacts.log_rows(fetched.run, analysis.rows)


def _print_analysis(
    analysis: experiment.Analysis, options: argparse.Namespace, console: Console
) -> None:
    from .analysis.measurements import to_csv
    from .commands import command, task_words
    from .files import Unwritten, faults_named, write_file
    from .report.summary import full_table, nothing_to_compare, print_meaning, summary_table
    from .report.tables import legend_table
    from .tracking.control_record import failing

    checkpoint = analysis.checkpoint
    title = f"{checkpoint.run}, step {checkpoint.step}"
    table = full_table if options.all else summary_table
    marks = failing(checkpoint.inputs_digest)
    console.print(table(analysis.rows, title, marks))
    controls = command("controls", *task_words(checkpoint.task))
    print_meaning(marks, analysis.rows, controls, console)
    lacking = nothing_to_compare(analysis.rows, checkpoint.config.analysis.measures)
    console.print(legend_table(lacking), highlight=False)
    unwritten = Unwritten()
    if options.output is not None:
        with unwritten.noted(), faults_named(f"write '{options.output}'"):
            write_file(Path(options.output), to_csv(analysis.rows))
    if analysis.differences is None:
        console.print("the file lies alone: no recorded measurements to compare with")
    elif analysis.differences:
        unwritten.tell(
            f"{len(analysis.differences)} of {len(analysis.rows)} measurements differ from the "
            f"record, e.g. {analysis.differences[0]} (another machine or library version?)"
        )
    else:
        console.print(f"all {len(analysis.rows)} measurements equal the recorded ones exactly")
    unwritten.tell()
