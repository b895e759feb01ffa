"""The `algomatch` command: each verb is a module, which is loaded when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from .. import __doc__ as description
from .. import __version__
from ..infra import terminal_output as terminal
from ..infra.environment import settle_folders, settle_warnings
from ..infra.errors import FaultError, UserError, one_of, reported
from .arguments import joined, overrides_first
from .parse_errors import explained, refuse_moved

VERBS = {  # and what is given to each
    "train": "[KEY=VALUE ...] [OPTIONS]",
    "sweep": "FILE [KEY=VALUE ...] [OPTIONS]",
    "analyze": "CHECKPOINT [analysis.KEY=VALUE ...] [OPTIONS]",
    "compare": "RUN ... [OPTIONS]",
    "match": "CHECKPOINT|RUN ... [analysis.KEY=VALUE ...] [OPTIONS]",
    "subspaces": "CHECKPOINT|RUN ... [analysis.KEY=VALUE ...] [OPTIONS]",
    "match-model": "FOLDER task=NAME [KEY=VALUE ...] --encoder FILE.py:FUNCTION [OPTIONS]",
    "circuit": "CHECKPOINT|RUN ... [analysis.KEY=VALUE ...] [OPTIONS]",
    "explain": "CHECKPOINT|RUN ... [analysis.KEY=VALUE ...] [OPTIONS]",
    "states": "CHECKPOINT|RUN ... [analysis.KEY=VALUE ...] [OPTIONS]",
    "report": "RUN ... [OPTIONS]",
    "log": "RUN ...",
    "tasks": "[NAME ...] [KEY=VALUE ...] [OPTIONS]",
    "controls": "[KEY=VALUE ...] [OPTIONS]",
    "match-controls": "[TASK ...] [KEY=VALUE ...] [OPTIONS]",
    "workspace": "ENTITY/PROJECT [OPTIONS]",
}
EXAMPLES = """Examples:
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


def command_line() -> App:
    """Return the command line: what each verb takes, without what it needs to do it."""
    app = App(
        name="algomatch",
        help=(description or "").partition("\n")[0],
        help_epilogue=EXAMPLES,
        help_format="plaintext",
        version=__version__,
        default_parameter=Parameter(negative=(), show_default=False),
    )
    for place, (verb, given) in enumerate(VERBS.items()):
        name = verb.replace("-", "_")
        app.command(
            f"{__package__}.{name}_command:{name}",
            name=verb,
            usage=f"Usage: algomatch {verb} {given}",
            sort_key=place,
            help_epilogue="",
            help_format="markdown",  # it fills lines
        )
    app.register_install_completion_command(help="Install completion for your shell.")
    return app


def load_verbs(app: App) -> list[App]:
    """Load every verb, so that the help of the whole says what each does."""
    return [app[verb] for verb in VERBS]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 for a fault, 2 for a user's mistake."""
    terminal.make_lasting()
    settle_warnings()
    settle_folders()
    given = sys.argv[1:] if arguments is None else arguments
    return reported(lambda: _act(joined(given))) or _reported_output()


def _act(words: Sequence[str]) -> None:
    """Do what the words say."""
    if not words:
        raise UserError(f"no command is given; {one_of('', VERBS)} (see `algomatch --help`)")
    refuse_moved(words)
    words = overrides_first(words)
    app = command_line()
    if words[0] in app.help_flags:
        load_verbs(app)
    try:
        verb, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise explained(error, app) from error
    verb(*bound.args, **bound.kwargs)


def _reported_output() -> int:
    """Say that some output was lost, if it was; return the exit code."""
    sys.stdout.flush()

    def act() -> None:
        if (why := terminal.fault()) is not None:
            raise FaultError(f"some output could not be written: {why}")

    return reported(act)
