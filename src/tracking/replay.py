"""`algomatch log`: uploads to W&B, from a run's folder, the measurements that W&B lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..infra.errors import FaultError
from ..runs.run_folder import RunFolder
from .wandb_log import WandbLog


def log_run(folder: RunFolder, say: Callable[[str], None]) -> str:
    """Log what the server lacks of a run, under its id; return the run's URL.

    It may be repeated: steps that the server has are not logged again. Offline records are set
    aside, since a sync of them would add the same data a second time.

    Raises:
        BusyError: another process is training the run.
        UserError: the run has no checkpoint yet.
        FaultError: its record is damaged, or the upload is incomplete.
    """
    settings = replace(folder.config.tracking, mode="online", unreachable="stop")
    with folder.lock():
        folder.repair(say)
        folder.last_rows()  # refuses a run without checkpoints
        rows = folder.measurements()
        log = WandbLog(folder, say, settings)
        log.start(rows)
        ended = folder.finished()
        log.finish(rows, exit_code=0 if ended else 1)
        if log.problem:
            raise FaultError(f"'{folder.path}' was not logged completely: {log.problem}")
        if ended and "not_uploaded" in ended:
            folder.finish(ended["step"], ended["reason"])
    return str(log.url)
