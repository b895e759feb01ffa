"""What all W&B runs of this project have in common: how long they wait, and how tables look."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from threading import Thread

import wandb

from ..config import TrackingConfig
from ..errors import FaultError, first_line

GRACE_SECONDS = 5  # beyond W&B's own bound, which it does not always keep


def bounded(settings: TrackingConfig) -> wandb.Settings:
    """Return the settings of a W&B run that waits no longer than configured, and is quiet."""
    return wandb.Settings(
        init_timeout=settings.init_timeout_seconds,
        login_timeout=settings.init_timeout_seconds,
        finish_timeout=settings.finish_timeout_seconds,
        finish_timeout_raises=True,
        x_disable_stats=not settings.system_stats,
        x_disable_machine_info=not settings.system_stats,
        console="off",
        silent=True,
    )


def finish_bounded(run: wandb.Run, settings: TrackingConfig, exit_code: int = 0) -> None:
    """Finish a W&B run, waiting for uploads no longer than configured.

    Raises:
        FaultError: W&B failed, or did not answer in that time.
    """
    failed: list[Exception] = []

    def finish() -> None:
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:  # whatever W&B raises
            failed.append(error)

    thread = Thread(target=finish, name="W&B", daemon=True)
    thread.start()
    thread.join(settings.finish_timeout_seconds + GRACE_SECONDS)
    if thread.is_alive():
        seconds = settings.finish_timeout_seconds
        raise FaultError(f"W&B did not answer in {seconds:.0f} s: the upload may not be whole")
    if failed:
        raise FaultError(f"W&B: {first_line(failed[0])}: the upload may not be whole")


def table_of(columns: Sequence[str], rows: Iterable[object]) -> wandb.Table:
    """Return the named attributes of each row as a table; what is not finite is a text."""

    def cell(value: object) -> object:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    data = [[cell(getattr(row, column)) for column in columns] for row in rows]
    # Only where it is needed: checking each cell of an optional column takes most of the time.
    optional = [any(row[i] is None for row in data) for i in range(len(columns))]
    return wandb.Table(columns=list(columns), data=data, allow_mixed_types=True, optional=optional)
