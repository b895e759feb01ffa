"""The run that a W&B sweep's agent has assigned to this process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# What the agent sets of a run that it starts; then also its project has been chosen.
VARIABLES = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


@dataclass(frozen=True)
class Assigned:
    """A run that the sweep's server has made: their ids."""

    sweep: str
    run: str

    def folder(self, runs_dir: Path) -> Path:
        """Return the run's folder, the same whichever agent has it, and however often."""
        return runs_dir / self.sweep / self.run


def assigned() -> Assigned | None:
    """Return the run that `wandb agent` started this process for; None without an agent.

    An agent writes the run's parameters into a file that names both, before it starts the run: ids
    without it are left over from elsewhere.
    """
    sweep, run, file = (os.environ.get(name) for name in VARIABLES)
    if not (sweep and run and file):
        return None
    path = Path(file)
    of_the_run = (path.parent.name, path.stem) == (f"sweep-{sweep}", f"config-{run}")
    return Assigned(sweep, run) if of_the_run and path.is_file() else None
