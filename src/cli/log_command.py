"""`algomatch log`."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..infra.errors import FaultError, UserError
from .analyses import readable_runs
from .arguments import console, need_runs, say_next
from .options import Runs


def log(*runs: Runs) -> None:
    """Upload whatever W&B still lacks of the given runs.

    This is for runs that were offline, were killed or lost their connection. The command may be
    repeated: nothing is uploaded twice.
    """
    need_runs("log", runs)
    from ..config.printed_commands import command
    from ..tracking.replay import log_run

    screen = console()
    url, failed = "", list[UserError | FaultError]()
    folders = readable_runs(runs, screen)
    for folder in folders:
        try:
            url = log_run(folder, screen.print)
        except (UserError, FaultError) as error:  # the others are logged all the same
            if len(folders) == 1:
                raise
            failed.append(error)
            screen.print(f"! {error}", markup=False, highlight=False, soft_wrap=True)
        else:
            screen.print(f"{folder.path}: {url}", markup=False, highlight=False, soft_wrap=True)
    if len(failed) < len(folders):
        say_next(command("workspace", _project(url)), screen)
    if failed:
        raise FaultError(
            f"{len(failed)} of {len(folders)} runs were not logged completely: {failed[0]}"
        )


def _project(url: str) -> str:
    """Return the ENTITY/PROJECT of a run's address.

    >>> _project("https://wandb.ai/my-team/algomatch/runs/x")
    'my-team/algomatch'
    """
    return "/".join(urlsplit(url).path.split("/")[1:3])
