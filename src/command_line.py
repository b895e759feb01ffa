"""The arguments of the `algomatch` command and its subcommands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from . import __version__
from .values import unclosed

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
  algomatch train task=my_program.py:make_my_program 'task.vocabulary=[0,1,2]' task.max_length=6
"""

OPENED = re.compile(r"[a-z][\w.]*=\s*[\[{]")  # an argument that begins a list
CONTROLS_MODEL = "4L"  # with MLPs, and deep enough to implement most programs


class Parser(argparse.ArgumentParser):
    """A parser with one-line errors, which keeps lists of its options and commands."""

    def __init__(self, *given: Any, **options: Any):
        self.options: list[str] = []
        self.commands: dict[str, Parser] = {}
        super().__init__(*given, **options)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument, like argparse."""
        self.options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **options)

    def options_of(self, command: str) -> list[str]:
        """Return the options of a command."""
        return self.commands[command].options

    def error(self, message: str) -> NoReturn:
        """Exit with a one-line message."""
        self.exit(2, f"algomatch: {message} (see `{self.prog} --help`)\n")


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with lists rejoined that a shell split at blanks.

    >>> joined(["train", "task.vocabulary=[a,", "b]", "seed=1"])
    ['train', 'task.vocabulary=[a, b]', 'seed=1']
    """
    words: list[str] = []
    for word in arguments:
        apart = words and OPENED.match(words[-1]) and unclosed(words[-1])
        if apart and not re.match(r"-[-a-z]|[a-z][\w.]*=", word):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


def parser() -> Parser:
    """Return the parser of the command line."""
    whole = Parser(
        prog="algomatch",
        description="Does a trained transformer run the program a human would have written?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"algomatch {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
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
    analyze.add_argument(
        "--trust", action="store_true", help="run the program that an artifact brings with it: "
        "without this it is only said what there is to read",
    )  # fmt: skip
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
    whole.commands.update(commands.choices)
    return whole


def _add_several(command: argparse.ArgumentParser) -> None:
    """Add the options for several runs."""
    command.add_argument(
        "--jobs", type=int, metavar="N", help="of several runs, so many at once; all cores by "
        "default",
    )  # fmt: skip
    command.add_argument(
        "--again", action="store_true", help="of several runs, those too that it has done"
    )
