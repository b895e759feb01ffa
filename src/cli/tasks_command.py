"""`algomatch tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..infra.errors import UserError
from .arguments import TASK_KEYS, composed, console, parted, say_next, setting_key


def tasks(
    *names: Annotated[
        str, Parameter(name="NAME", help="a task or FILE.py:function, and settings KEY=VALUE")
    ],
    check: bool = False,
    picture: Path | None = None,
) -> None:
    """List the tasks, show one in full, or validate all.

    The task to show may be a program of your own.

    Args:
        check: compile and validate every program
        picture: file for the dataflow graph (png, svg or pdf); task-NAME.png by default
    """
    settings, tasks_named = parted(names)
    in_settings = [setting for setting in settings if setting_key(setting) in TASK_KEYS]
    if in_settings and (tasks_named or check):
        raise UserError(f"name the task only once: leave out '{in_settings[0]}'")
    if check and picture is not None:
        raise UserError("--check draws no picture: leave out --picture")
    if not names and not check:
        from ..report.terminal.task_list import print_registry

        print_registry(console())
        return
    if len(tasks_named) > 1 and not check:
        raise UserError(f"one task at a time, not {', '.join(tasks_named)} (or add --check)")
    for chosen in [[f"task={name}"] for name in tasks_named] or [[]]:
        composed([*chosen, *settings])
    from ..config.printed_commands import command
    from ..report.terminal import task_view

    screen = console()
    if check:
        task_view.check_tasks(tasks_named, settings, screen)
        say_next(command("tasks", *tasks_named[:1], *settings), screen)
        return
    chosen = [*(f"task={name}" for name in tasks_named), *settings]
    task_view.print_task(chosen, picture, screen)
    say_next(command("train", *chosen), screen)
