"""The run that a W&B sweep's agent has assigned to this process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Variables that the agent sets for a run that it starts; the run's project is then chosen too.
VARIABLES = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


@dataclass(frozen=True)
class Assigned:
    """The ids of a run that the sweep's server created, and of its sweep."""

    sweep: str
    run: str

    def folder(self, runs_dir: Path) -> Path:
        """Return the run's folder, which is the same for every agent and every attempt."""
        return runs_dir / self.sweep / self.run


def assigned() -> Assigned | None:
    """Return the run that `wandb agent` started this process for; None without an agent.

    Before it starts a run, an agent writes the run's parameters into a file named after run and
    sweep. Ids without this file are left over from elsewhere.
    """
    sweep, run, file = (os.environ.get(name) for name in VARIABLES)
    if not (sweep and run and file):
        return None
    path = Path(file)
    of_the_run = (path.parent.name, path.stem) == (f"sweep-{sweep}", f"config-{run}")
    return Assigned(sweep, run) if of_the_run and path.is_file() else None
