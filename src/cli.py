"""The `algomatch` command and its subcommands: what they take, and whom they call."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from . import __version__
from .errors import FaultError, Interrupted, UserError, one_of, reported

if TYPE_CHECKING:
    from rich.console import Console

    from . import experiment
    from .config import Config
    from .stopping import Stop
    from .tracking.agent import Assigned

EPILOG = """examples:
  algomatch train task=reverse model=4L seed=1 trainer.max_steps=500
  algomatch train --config my.yaml model.d_model=32
  algomatch train --resume runs/RUN
  algomatch sweep sweeps/architectures.yaml --jobs 4
  algomatch analyze runs/RUN
  algomatch compare runs --output comparison
  algomatch match runs/RUN
  algomatch explain runs/RUN
  algomatch report runs/RUN --output report.html
  algomatch tasks sort
  algomatch controls task=sort
  algomatch workspace my-team/algomatch
  algomatch train task=my_program.py:make_my_program task.vocabulary=[0,1,2] task.max_length=6
"""


MATCHED_TASKS = [  # of `match --controls`
    "reverse", "hist", "double_hist", "sort", "most_freq", "sort_freq", "shuffle_dyck",
    "share_of_last",
]  # fmt: skip
MATCHED_SETTINGS = {  # of `match --controls`, unless it is said otherwise
    "analysis.other_tasks": 4,  # trained on and compiled
    "trainer.max_steps": 400,  # of what is trained on other tasks and on shuffled labels
}
CONTROLS_MODEL = "4L"  # with MLPs, and deep enough to implement most programs
TASK_KEYS = ("task", "task.name", "task.program")
MATCH_OPTIONS = [
    "--programs", "--all", "--subspaces", "--no-sides", "--controls", "--device", "--encoder",
    "--reader", "--output", "--jobs", "--again", "--help",
]  # fmt: skip
CIRCUIT_OPTIONS = [
    "--reference", "--methods", "--kinds", "--output", "--jobs", "--again", "--help",
]  # fmt: skip
EXPLAIN_OPTIONS = ["--reference", "--device", "--output", "--jobs", "--again", "--help"]
SWEEP_OPTIONS = [
    "--jobs", "--index", "--count", "--seed", "--list", "--output", "--help",
]  # fmt: skip
ENCODER = (  # what one is
    "An encoder takes a list of the task's tokens and returns the ids that the model reads: a "
    "prefix that is always the same (BOS or a prompt), then one id for each token, e.g. "
    '`def encode(tokens): return [50256, *(64 + "abcd".index(one) for one in tokens)]`'
)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"algomatch: {message} (see `{self.prog} --help`)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 for a fault, 2 for a user's mistake."""
    options, rest = _parser().parse_known_args(arguments)
    from rich.console import Console  # --help and --version do without

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
    return reported(lambda: commands[options.command](options, rest, Console()))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="algomatch",
        description="Does a trained transformer run the program a human would have written?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"algomatch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="train a model, measuring it against the compiled program at checkpoints",
        description="Train a model, measuring it against the compiled program at checkpoints.",
    )
    train.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="task=reverse model=4L model.d_model=32"
    )
    train.add_argument("--config", metavar="FILE", help="a YAML or JSON file, nested")
    train.add_argument("--resume", metavar="RUN_DIR", help="go on with an interrupted run")
    sweep = commands.add_parser(
        "sweep",
        help="train the runs of a sweep file on this machine, without a server",
        description="Train the runs of a sweep file (grid or random) on this machine, each in a "
        "process and a run folder of its own. The same command goes on where it was stopped; "
        "several machines may share the folder.",
    )
    sweep.add_argument("file", metavar="FILE", help="a sweep file, as `wandb sweep` takes it")
    sweep.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for every run")
    sweep.add_argument("--jobs", type=int, metavar="N", help="runs at once; all cores by default")
    sweep.add_argument("--index", type=int, metavar="I", help="this run alone, as of an array job")
    sweep.add_argument("--count", type=int, metavar="N", help="so many runs; run_cap by default")
    sweep.add_argument("--seed", type=int, default=0, metavar="S", help="of a random search; 0")
    sweep.add_argument("--list", action="store_true", help="list the runs and how far they are")
    sweep.add_argument("--output", metavar="DIR", help="where the runs go; runs/FILE by default")
    analyze = commands.add_parser(
        "analyze",
        help="measure a checkpoint again, from its file alone",
        description="Measure a checkpoint again, from its file alone, and compare with its record.",
    )
    analyze.add_argument(
        "checkpoint", help="a model.safetensors, its folder, a run folder, or an artifact, "
        "wandb:ENTITY/PROJECT/NAME:ALIAS",
    )  # fmt: skip
    analyze.add_argument("--device", help="where to measure; the run's own by default")
    analyze.add_argument("--all", action="store_true", help="print every measurement")
    analyze.add_argument("--output", metavar="FILE", help="write every measurement as CSV")
    compare = commands.add_parser(
        "compare",
        help="compare trained models over several seeds of each",
        description="Compare trained models: runs that differ only in their seed are one group.",
    )
    compare.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", help="a run folder, or a folder of run folders"
    )
    compare.add_argument(
        "--output",
        metavar="DIR",
        default=".",
        help="where comparison.csv and comparison.png go, replacing earlier ones; here by default",
    )
    controls = commands.add_parser(
        "controls",
        help="measure models whose answer is known: which measures can be trusted on a task",
        description="Measure models whose answer is known (the compiled program in other weights, "
        "a network trained to implement it, random and other tasks' networks, compiled "
        "alternatives) and say which measures tell them apart. The architecture is "
        f"{CONTROLS_MODEL} unless model=... says otherwise.",
    )
    controls.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="task=sort model=2L")
    controls.add_argument("--again", action="store_true", help="measure anew what is there")
    match = commands.add_parser(
        "match",
        help="match a checkpoint with its task's programs, cut by cut, by interventions",
        description="Match a checkpoint with the programs of its task: which of a program's cuts "
        "the model realises, where, and what that makes of the program.",
    )
    match.add_argument(
        "checkpoint", nargs="*", help="a model.safetensors, its folder, or a run folder; "
        "of several runs, or a folder of them, the verdicts by architecture",
    )  # fmt: skip
    match.add_argument(
        "--controls", action="store_true", help="instead, match models whose answer is known: of "
        "the tasks named, by default of eight; KEY=VALUE for all of them",
    )  # fmt: skip
    match.add_argument(
        "--programs", nargs="+", metavar="NAME", default=[], help="only these; all by default"
    )
    match.add_argument("--all", action="store_true", help="every checkpoint of the run")
    match.add_argument(
        "--subspaces", action="store_true", help="search for variables in subspaces, too: minutes"
    )
    match.add_argument(
        "--output", metavar="DIR",
        help="where tables and pictures go; RUN/matching by default, of several runs here",
    )  # fmt: skip
    match.add_argument(
        "--no-sides", action="store_true", help="leave out what each block's attention reads, "
        "which takes most of the time",
    )  # fmt: skip
    match.add_argument("--device", help="where to match; the run's own by default")
    _add_several(match)
    match.add_argument(
        "--encoder", metavar="FILE.py:FUNCTION", help="of a GPT-2's folder (config.json, "
        "model.safetensors), with task=NAME: from a list of the task's tokens to the model's ids",
    )  # fmt: skip
    match.add_argument(
        "--reader", metavar="FILE.py:FUNCTION", help="from an output to the id of its logit; by "
        "default that of the token that it is",
    )  # fmt: skip
    circuit = commands.add_parser(
        "circuit",
        help="find a checkpoint's circuits, or a compiled program's, and judge them",
        description="Find the circuits of a checkpoint's model by patching and by gradients, under "
        "every kind of ablation, and judge them on all inputs. Of a compiled program the true "
        "circuit is known from its weights, and the methods are judged by it.",
    )
    circuit.add_argument(
        "checkpoint", nargs="*", help="a model.safetensors, its folder, or run folders and folders "
        "of them; with --reference task=NAME and KEY=VALUE will do",
    )  # fmt: skip
    circuit.add_argument(
        "--reference", action="store_true", help="the compiled program of the run's task instead"
    )
    circuit.add_argument(
        "--methods", nargs="+", metavar="NAME", default=[], help="exact, acdc, eap, eap_ig: all "
        "by default",
    )  # fmt: skip
    circuit.add_argument(
        "--kinds", nargs="+", metavar="NAME", default=[], help="of ablation: zero, mean, "
        "resample_within, resample_across: all by default",
    )  # fmt: skip
    circuit.add_argument(
        "--output", metavar="DIR", help="where tables and pictures go; RUN/circuit by default"
    )
    _add_several(circuit)
    explain = commands.add_parser(
        "explain",
        help="say what each head and neuron of a checkpoint does, and test it",
        description="Say what each head attends to and when each neuron is on, put these "
        "explanations in their place, and measure what the model then still gets right.",
    )
    explain.add_argument(
        "checkpoint", nargs="*", help="a model.safetensors, its folder, or run folders and folders "
        "of them; with --reference a task instead, task=NAME KEY=VALUE",
    )  # fmt: skip
    explain.add_argument(
        "--reference", action="store_true", help="explain the compiled program of the task instead"
    )
    explain.add_argument("--device", help="where to run the model; the run's own by default")
    explain.add_argument(
        "--output", metavar="DIR", help="where tables and the picture go; RUN/explanation by "
        "default (-reference appended with --reference), without a run here",
    )  # fmt: skip
    _add_several(explain)
    report = commands.add_parser(
        "report",
        help="write one HTML page of a run, or of many side by side",
        description="Write one HTML page that needs nothing but itself: of one run all that was "
        "measured of it, of several runs, or a folder of them, what differs over their seeds. "
        "What was not measured is named, with the command that does.",
    )
    report.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", help="a run folder, or a folder of run folders"
    )
    report.add_argument(
        "-o", "--output", metavar="FILE", default="report.html",
        help="where the page goes, replacing an earlier one; report.html by default",
    )  # fmt: skip
    report.add_argument("--title", metavar="TEXT", help="the page's heading; the runs by default")
    report.add_argument(
        "--tables", metavar="DIR", help="of several runs: a folder for the tables behind the page, "
        "as CSV, and figures of them",
    )  # fmt: skip
    log = commands.add_parser(
        "log",
        help="upload what W&B does not have of runs, from their folders",
        description="Upload to W&B what its server does not have of runs that were offline, killed "
        "or cut off. It may be repeated: nothing is there twice.",
    )
    log.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", help="a run folder, or a folder of run folders"
    )
    tasks = commands.add_parser(
        "tasks",
        help="list the tasks, show one in full, or validate all",
        description="List the tasks, show one (or a program of your own) in full, or validate all.",
    )
    tasks.add_argument(
        "names", nargs="*", metavar="NAME", help="a task, or FILE.py:function; and KEY=VALUE for it"
    )
    tasks.add_argument("--check", action="store_true", help="compile and validate every program")
    tasks.add_argument(
        "--picture",
        metavar="FILE",
        help="where the dataflow graph goes: a png, svg or pdf; task-NAME.png here by default",
    )
    workspace = commands.add_parser(
        "workspace",
        help="save a W&B workspace that shows a project's runs beside their controls",
        description="Save a W&B workspace that shows what a project's runs have logged, beside "
        "their controls, and print its URL. One of the same name is replaced.",
    )
    workspace.add_argument("project", metavar="ENTITY/PROJECT", help="of runs with tracking=online")
    workspace.add_argument(
        "--name", default="algomatch", help="the workspace's; algomatch by default"
    )
    return parser


def _add_several(command: argparse.ArgumentParser) -> None:
    """Add what is asked of several runs."""
    command.add_argument(
        "--jobs", type=int, metavar="N", help="of several runs, so many at once; all cores by "
        "default",
    )  # fmt: skip
    command.add_argument(
        "--again", action="store_true", help="of several runs, those too that it has done"
    )


def _train(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    overrides = [*options.overrides, *rest]  # argparse leaves what comes after an option
    _refuse_options(overrides, ["--config", "--resume", "--help"])
    if options.resume is not None:
        if options.config is not None or overrides:
            raise UserError("--resume goes on with the run's own config: leave out the rest")
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
    from .config import compose

    config = compose(overrides, options.config)
    from . import experiment

    experiment.train(config, console)


def _train_for(
    agents: Assigned,
    overrides: Sequence[str],
    options: argparse.Namespace,
    stop: Stop,
    console: Console,
) -> None:
    """Train the run that a sweep's agent has assigned, or go on with it."""
    from .config import compose

    config = compose(overrides, options.config)
    if config.run_dir is None:
        config.run_dir = str(agents.folder(Path(config.runs_dir)))
    from . import experiment

    try:
        experiment.train_or_resume(config, console, wandb_id=agents.run, stop=stop)
    except Interrupted as stopped:
        # By the signal: an exit code would be a failure, and after three an agent gives up.
        console.print(str(stopped), markup=False, highlight=False, soft_wrap=True)
        from .stopping import end_by
        from .tracking.wandb_log import end_service

        end_service()
        sys.stdout.flush()
        end_by(stopped.exit_code - 128)


def _sweep(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    overrides = [*options.overrides, *rest]
    _refuse_options(overrides, SWEEP_OPTIONS)
    for name, least in (("jobs", 1), ("count", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value} must be at least {least}")
    from . import sweep as sweeps
    from .sweep_cells import plan
    from .workers import cores

    output = Path(options.output) if options.output else None
    given = options.count, options.seed, options.index
    found = plan(Path(options.file), overrides, output, *given)
    if options.list:
        from .report.sweep import print_cells

        print_cells(found, console)
        return
    if options.index is not None:
        from . import experiment

        try:
            experiment.train_or_resume(found.cells[0].config, console)
        finally:
            sweeps.link_records(found.cells[0])
        return
    jobs = options.jobs or cores() // max(cell.config.threads for cell in found.cells) or 1
    if found.file.ends_early:
        console.print("early_terminate is the server's: here every run goes to its own end")
    outcome = sweeps.run_cells(found, jobs, console)
    from .report.sweep import print_sweep

    print_sweep(outcome, console)
    if outcome.signal is not None:
        raise Interrupted("stopped; the same command goes on", outcome.signal)
    if outcome.failed:
        raise FaultError(
            f"{len(outcome.failed)} of {len(found.cells)} runs failed; the same command tries again"
        )


def _log_runs(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    _refuse_options(rest, ["--help"])
    from .report.seeds import find_runs
    from .tracking.replay import log_run

    failed: list[UserError | FaultError] = []
    folders = find_runs([Path(path) for path in (*options.runs, *rest)])
    for folder in folders:
        try:
            url = log_run(folder, console.print)
        except (UserError, FaultError) as error:  # the others are logged all the same
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
    _refuse_options(overrides, ["--again", "--help"])
    if not any(given.partition("=")[0] in ("model", "model.name") for given in overrides):
        overrides.insert(0, f"model={CONTROLS_MODEL}")
    from .config import compose

    config = compose(overrides)
    from . import experiment

    experiment.study_controls(config, options.again, console)


def _refuse_options(arguments: Sequence[str], known: Sequence[str]) -> None:
    for argument in arguments:
        if argument.startswith("-"):
            raise UserError(f"unknown option '{argument}': {one_of(argument, known)}")


def _tasks(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    given = [*options.names, *rest]
    _refuse_options(given, ["--check", "--picture", "--help"])
    overrides = [one for one in given if re.match(r"[\w.]+=", one)]
    names = [one for one in given if one not in overrides]
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
    _refuse_options(rest, ["--name", "--help"])
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
    _refuse_options(rest, ["--output", "--help"])
    from .report.compare import compare

    compare([Path(path) for path in (*options.runs, *rest)], Path(options.output), console)


def _report(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    _refuse_options(rest, ["--output", "--title", "--tables", "--help"])
    from .report.page import write_report

    paths = [Path(path) for path in (*options.runs, *rest)]
    tables = None if options.tables is None else Path(options.tables)
    write_report(paths, Path(options.output), options.title, console, tables)


def _match(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    given = [*options.checkpoint, *rest]
    _refuse_options(given, MATCH_OPTIONS)
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
    from .report.matching import print_matching
    from .report.matching_figures import save_matching
    from .several import marking
    from .tracking import checkpoints
    from .tracking.run_folder import RunFolder

    path = Path(given[0])
    paths = RunFolder.open(path).checkpoint_folders() if options.all else [path]
    found = match.match_checkpoints(
        paths, options.programs, options.device, console, not options.no_sides
    )
    where = Path(options.output) if options.output else checkpoints.beside(paths[-1]) / "matching"
    with marking(where, paths[-1], _said(options)):
        print_matching(found, console)
        save_matching(found, where, console)
        if options.subspaces and found[-1].exact < found[-1].rule.solved:
            console.print("no subspaces are searched for: the model does not solve the task")
        elif options.subspaces:
            from .report.subspaces import print_subspaces, save_subspaces

            searched = match.search_subspaces(paths[-1], found[-1], options.programs, console)
            print_subspaces(searched, console)
            save_subspaces(searched, where, console)


def _are_several(given: Sequence[str]) -> bool:
    """Return whether these are several runs, or a folder that is no run but holds some."""
    if any(re.match(r"[\w.]+=", one) for one in given):
        return False
    holds = (next(Path(one).glob("*/run.json"), None) is not None for one in given)
    return len(given) > 1 or any(holds)


def _refuse_several(options: argparse.Namespace) -> None:
    if options.jobs is not None or options.again:
        name = "--again" if options.jobs is None else "--jobs"
        raise UserError(f"{name} is of several runs, and there is only one")


def _said(options: argparse.Namespace) -> list[str]:
    """Return what of the options says what to do with a run, as they are given."""
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


def _each_alone(
    paths: Sequence[Path], folder: str, options: argparse.Namespace, console: Console
) -> None:
    """Do with each of several runs what the command does with one; results go to that folder."""
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs {options.jobs} must be at least 1")
    from .report.seeds import find_runs
    from .several import Work, each_alone
    from .workers import cores

    said = tuple(_said(options))
    works = [Work(run, run.path / folder, said) for run in find_runs(paths)]
    jobs = options.jobs or cores()
    each_alone(options.command, works, jobs, options.again, main, console)


def _match_runs(paths: Sequence[Path], options: argparse.Namespace, console: Console) -> None:
    from .files import faults_named, write_file
    from .report.matching_runs import FILE, print_verdicts, verdicts_csv
    from .report.seeds import find_runs, grouped, load_run

    where = Path(options.output or ".") / FILE
    with faults_named(f"write into '{where.parent}'"):
        where.parent.mkdir(parents=True, exist_ok=True)
    _each_alone(paths, "matching", options, console)
    groups = grouped(load_run(run) for run in find_runs(paths))
    print_verdicts(groups, console)
    with faults_named(f"write '{where}'"):
        write_file(where, verdicts_csv(groups).encode())
    console.print(f"every run: {where}", soft_wrap=True, highlight=False, markup=False)


def _holds_gpt2(place: str) -> bool:
    """Return whether a folder is a model as transformers saves it, not a run or a checkpoint."""
    return (Path(place) / "config.json").is_file()


def _match_folder(given: Sequence[str], options: argparse.Namespace, console: Console) -> None:
    if options.all or options.subspaces:
        raise UserError(
            "--all and --subspaces are for runs, not for a model's folder: leave them out"
        )
    overrides = [one for one in given if re.match(r"[\w.]+=", one)]
    if options.device is not None:
        overrides.append(f"analysis.device={options.device}")
    folders = [one for one in given if one not in overrides]
    if len(folders) != 1:
        raise UserError(f"match with --encoder takes one model folder, not {len(folders)}")
    if options.encoder is None:
        raise UserError(
            f"'{folders[0]}' is a model from elsewhere, which reads tokens of its own: give "
            f"--encoder FILE.py:FUNCTION. {ENCODER}"
        )
    groups = [one.partition("=")[0].partition(".")[0] for one in overrides]
    for one, group in zip(overrides, groups, strict=True):
        if group not in ("task", "analysis"):
            raise UserError(f"'{one}' has no say here: task and analysis have")
    if not any(one.partition("=")[0] in TASK_KEYS for one in overrides):
        raise UserError("name the task that the model solves, as in task=induction")
    from .config import compose

    config, folder = compose(overrides), Path(folders[0])
    from . import match
    from .report.matching import print_matching
    from .report.matching_figures import save_matching

    found = match.match_folder(
        folder, config, options.encoder, options.reader, options.programs, console
    )
    print_matching([found], console)
    save_matching([found], Path(options.output or f"matching-{found.run}"), console)


def _circuit(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    given = [*options.checkpoint, *rest]
    _refuse_options(given, CIRCUIT_OPTIONS)
    if _are_several(given) and not options.reference:
        _refuse_output(options, "circuit")
        _each_alone([Path(path) for path in given], "circuit", options, console)
        return
    _refuse_several(options)
    path, config, where = _analysed(given, options, "circuit")
    from . import circuit
    from .report.circuits import Circuits, print_circuits, save_circuits, write_tables
    from .several import marking

    def keep(found: Circuits) -> None:
        write_tables(found, where)

    chosen = options.methods, options.kinds
    with marking(where, path if config is None else None, _said(options)):
        if config is not None:
            found = circuit.circuits_of_reference(config, *chosen, keep, console)
        else:
            assert path is not None
            found = circuit.circuits_of_checkpoint(path, *chosen, keep, console)
        print_circuits(found, console)
        names = save_circuits(found, where, console)
    _log(path, "circuit", options, [where / name for name in names], console)


def _log(
    path: Path | None,
    what: str,
    options: argparse.Namespace,
    files: Sequence[Path],
    console: Console,
) -> None:
    """Log what was written to W&B, where the checkpoint is of a run that is tracked."""
    from .tracking import checkpoints
    from .tracking.run_folder import RunFolder

    if path is None or not (checkpoints.beside(path) / "run.json").is_file():
        return
    from .tracking.wandb_log import log_analysis

    name = f"{what}-reference" if options.reference else what
    log_analysis(RunFolder.open(checkpoints.beside(path)), name, files, console.print)


def _analysed(
    given: Sequence[str], options: argparse.Namespace, folder: str
) -> tuple[Path | None, Config | None, Path]:
    """Return the checkpoint, the config of the reference if that is to be analysed, and where to.

    Results go to a folder of that name beside the checkpoint, or here with the task's name.
    """
    overrides = [one for one in given if re.match(r"[\w.]+=", one)]
    paths = [one for one in given if one not in overrides]
    if overrides and not options.reference:
        raise UserError(f"'{overrides[0]}' has no say here: a checkpoint has its own config")
    if len(paths) > 1 or (not paths and not overrides) or (paths and overrides):
        way = "one checkpoint" + (", or task=NAME and KEY=VALUE" if options.reference else "")
        raise UserError(f"{options.command} takes {way}, not {' '.join(given) or 'none'}")
    from .config import compose
    from .tracking import checkpoints

    if overrides:
        if not any(one.partition("=")[0] in TASK_KEYS for one in overrides):
            raise UserError("name the task whose program is to be analysed, as in task=reverse")
        config = compose(overrides)
        return None, config, Path(options.output or f"{folder}-{config.task.name}")
    path = Path(paths[0])
    name = f"{folder}-reference" if options.reference else folder
    where = Path(options.output) if options.output else checkpoints.beside(path) / name
    return path, checkpoints.load(path).config if options.reference else None, where


def _match_controls(given: Sequence[str], options: argparse.Namespace, console: Console) -> None:
    if options.programs or options.all or options.subspaces or options.encoder or options.reader:
        raise UserError(
            "--controls takes tasks: leave out --programs, --all, --subspaces, --encoder, --reader"
        )
    overrides = [one for one in given if re.match(r"[\w.]+=", one)]
    if options.device is not None:
        overrides.append(f"analysis.device={options.device}")
    if named := [one for one in overrides if one.partition("=")[0] in TASK_KEYS]:
        raise UserError(f"'{named[0]}': name the tasks alone, as in --controls reverse hist")
    names = list(dict.fromkeys(one for one in given if one not in overrides)) or MATCHED_TASKS
    if not any(one.partition("=")[0] in ("model", "model.name") for one in overrides):
        overrides.insert(0, f"model={CONTROLS_MODEL}")
    for key, value in MATCHED_SETTINGS.items():
        if not any(one.startswith(f"{key}=") for one in overrides):
            overrides.append(f"{key}={value}")
    from .config import compose

    configs = [compose([f"task={name}", *overrides]) for name in names]
    from . import match
    from .files import faults_named, write_file
    from .report.matching_controls import checked_csv, print_checked, print_counts

    where, found = Path(options.output or ".") / "match-controls.csv", []
    with faults_named(f"write into '{where.parent}'"):
        where.parent.mkdir(parents=True, exist_ok=True)
        before = where.read_text() if where.exists() else ""
    for name, config in zip(names, configs, strict=True):
        rows = match.match_controls(config, console)
        found += rows
        print_checked(name, rows, console)
        with faults_named(f"write '{where}'"):
            write_file(where, checked_csv(found, before).encode())
    print_counts(found, console)
    console.print(f"every control: {where}", soft_wrap=True, highlight=False, markup=False)


def _explain(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    given = [*options.checkpoint, *rest]
    _refuse_options(given, EXPLAIN_OPTIONS)
    if _are_several(given) and not options.reference:
        _refuse_output(options, "explanation")
        _each_alone([Path(path) for path in given], "explanation", options, console)
        return
    _refuse_several(options)
    path, config, where = _analysed(given, options, "explanation")
    from . import explain
    from .report.explanation import Explanation, print_explanation
    from .report.explanation_figures import write_explanation
    from .several import marking

    files: list[str] = []

    def keep(found: Explanation) -> None:
        files[:] = write_explanation(found, where)

    with marking(where, path if config is None else None, _said(options)):
        if config is not None:
            config.analysis.device = options.device or config.analysis.device
            found = explain.explain_reference(config, keep, console)
        else:
            assert path is not None
            found = explain.explain_checkpoint(path, options.device, keep, console)
        print_explanation(found, console)
    console.print(f"{', '.join(files)}: {where}", soft_wrap=True, highlight=False, markup=False)
    _log(path, "explanation", options, [where / name for name in files], console)


def _analyze(options: argparse.Namespace, rest: list[str], console: Console) -> None:
    if rest:
        raise UserError(f"unexpected argument '{rest[0]}': analyze takes one checkpoint")
    from . import experiment
    from .tracking import artifacts

    if not artifacts.is_reference(options.checkpoint):
        found = experiment.analyze(Path(options.checkpoint), options.device)
        _print_analysis(found, options, console)
        return
    with artifacts.fetched(options.checkpoint) as fetched:
        console.print(f"checkpoint: {fetched.folder}", markup=False, highlight=False)
        found = experiment.analyze(fetched.folder, options.device)
        console.print(f"W&B: {fetched.run.url}", markup=False, highlight=False, soft_wrap=True)
        try:
            _print_analysis(found, options, console)
        finally:  # also what differs from the record
            artifacts.log_rows(fetched.run, found.rows)


def _print_analysis(
    found: experiment.Analysis, options: argparse.Namespace, console: Console
) -> None:
    from .analysis.measurements import to_csv
    from .files import faults_named, write_file
    from .report.summary import full_table, summary_table
    from .tracking.control_record import failing

    checkpoint = found.checkpoint
    title = f"{checkpoint.run}, step {checkpoint.step}"
    table = full_table if options.all else summary_table
    marks = failing(checkpoint.inputs_digest)
    console.print(table(found.rows, title, marks, checkpoint.config.task.name))
    if options.output is not None:
        with faults_named(f"write '{options.output}'"):
            write_file(Path(options.output), to_csv(found.rows))
    if found.differences is None:
        console.print("the file lies alone: no recorded measurements to compare with")
    elif found.differences:
        raise FaultError(
            f"{len(found.differences)} of {len(found.rows)} measurements differ from the record, "
            f"e.g. {found.differences[0]} (another machine or library version?)"
        )
    else:
        console.print(f"all {len(found.rows)} measurements equal the recorded ones exactly")
