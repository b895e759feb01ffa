"""What all W&B runs of this project have in common: how long they wait, and how tables look."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import wandb

from ..config import TrackingConfig


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


def table_of(columns: Sequence[str], rows: Iterable[object]) -> wandb.Table:
    """Return the named attributes of each row as a table; what is not finite is a text."""

    def cell(value: object) -> object:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    data = [[cell(getattr(row, column)) for column in columns] for row in rows]
    # Only where it is needed: checking each cell of an optional column takes most of the time.
    optional = [any(row[i] is None for row in data) for i in range(len(columns))]
    return wandb.Table(columns=list(columns), data=data, allow_mixed_types=True, optional=optional)
