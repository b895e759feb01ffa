"""`algomatch match-controls`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..infra.errors import UserError
from .analyses import check_given_device
from .arguments import (
    CONTROLS_MODEL,
    MODEL_KEYS,
    TASK_KEYS,
    composed,
    console,
    parted,
    say_next,
    setting_key,
)
from .options import DeviceOfSettings

SETTINGS = {  # unless it is said otherwise
    "analysis.other_tasks": 4,  # trained on and compiled
    "trainer.max_steps": 400,  # of what is trained on other tasks and on shuffled labels
}


def match_controls(
    *tasks: Annotated[
        str,
        Parameter(
            name="TASK",
            help="tasks, by default one of each kind; and settings KEY=VALUE for all of them",
        ),
    ],
    output: Path = Path(),
    device: DeviceOfSettings = None,
) -> None:
    """Match models whose answer is known, to see what the verdicts of `match` are worth.

    Args:
        output: folder for match-controls.csv; the current folder by default
    """
    from ..data.registered_tasks import matched_tasks
    from ..infra.files import refuse_file

    check_given_device(device)
    refuse_file("--output", output)
    settings, named = parted(tasks)
    if device is not None:
        settings.append(f"analysis.device={device}")
    for setting in settings:
        if setting_key(setting) in TASK_KEYS:
            raise UserError(
                f"'{setting}': give tasks without a key, as in match-controls reverse hist"
            )
    if not any(setting_key(setting) in MODEL_KEYS for setting in settings):
        settings.insert(0, f"model={CONTROLS_MODEL}")
    given = {setting_key(setting) for setting in settings}
    settings += [f"{key}={value}" for key, value in SETTINGS.items() if key not in given]
    names = list(dict.fromkeys(named)) or matched_tasks()
    configs = [composed([f"task={name}", *settings]) for name in names]
    from ..analysis.matching.known_answers import CHECKS, KnownAnswer, with_earlier
    from ..api.match import match_controls as match_controls_of
    from ..config.printed_commands import command, task_words
    from ..infra.files import faults_named, write_file
    from ..report.terminal.known_answer_table import print_checked, print_counts

    where, rows, screen = output / CHECKS.name, list[KnownAnswer](), console()
    with faults_named(f"write into '{where.parent}'"):
        where.parent.mkdir(parents=True, exist_ok=True)
        before = where.read_bytes() if where.exists() else None
    earlier = [] if before is None else CHECKS.from_csv(before, str(where))
    for name, config in zip(names, configs, strict=True):
        checked = match_controls_of(config, screen)
        rows += checked
        print_checked(name, checked, screen)
        with faults_named(f"write '{where}'"):
            write_file(where, CHECKS.to_csv(with_earlier(rows, earlier)))
    print_counts(rows, screen)
    screen.print(f"every control: {where}", soft_wrap=True, highlight=False, markup=False)
    say_next(command("controls", *task_words(configs[-1].task)), screen)
