"""The run that a W&B sweep's agent has assigned to this process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Assigned:
    """A run that the sweep's server has made: their ids."""

    sweep: str
    run: str

    def folder(self, runs_dir: Path) -> Path:
        """Return the run's folder, the same whichever agent has it, and however often."""
        return runs_dir / self.sweep / self.run


def assigned() -> Assigned | None:
    """Return the run that `wandb agent` started this process for; None without an agent."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return Assigned(sweep, run) if sweep and run else None
