"""`algomatch train`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..infra.errors import Interrupted, UserError
from .arguments import composed, console, say_next
from .options import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from ..infra.signals import Stop
    from ..tracking.agent import Assigned


def train(*settings: Settings, config: Path | None = None, resume: Path | None = None) -> None:
    """Train a model, measuring it against the compiled program at checkpoints.

    Args:
        config: a YAML or JSON file of settings, nested by group
        resume: continue the interrupted run in this folder
    """
    if resume is not None:
        if config is not None or settings:
            raise UserError("--resume uses the run's own config: leave out --config and KEY=VALUE")
        _check_devices_of(resume)
        from ..api.train import resume as go_on

        screen = console()
        say_next(go_on(resume, screen).commands.of("match"), screen)
        return
    from ..infra.signals import SIGNALS, Stop
    from ..tracking.agent import assigned

    screen, agents = console(), assigned()
    if agents is not None:
        stop = Stop(screen.print)
        with stop.taken(SIGNALS[1:]):  # W&B's server may stop a run while it imports
            _train_for(agents, settings, config, stop, screen)
        return
    whole = composed(settings, config)
    from ..runs.places import refuse_existing

    refuse_existing(whole)
    from ..api.train import train as train_run

    say_next(train_run(whole, screen).commands.of("match"), screen)


def _check_devices_of(run: Path) -> None:
    """Refuse to go on with a run whose config names a device that is not there."""
    from ..config.composition import from_mapping, read_yaml
    from ..config.devices import check_devices
    from ..infra.files import faults_named

    file = run / "config.yaml"
    with faults_named("look for the run folder"):
        is_to_go_on = file.is_file() and not (run / "finished.json").exists()
    if is_to_go_on:
        check_devices(from_mapping(read_yaml(file), str(file)))


def _train_for(
    agents: Assigned, settings: Sequence[str], file: Path | None, stop: Stop, screen: Console
) -> None:
    """Train the run that a sweep's agent has assigned, or go on with it."""
    config = composed(settings, file)
    if config.run_dir is None:
        config = replace(config, run_dir=str(agents.folder(Path(config.runs_dir))))
    from ..api.train import train_or_resume

    try:
        train_or_resume(config, screen, wandb_id=agents.run, stop=stop)
    except Interrupted as stopped:
        # By the signal: an exit code would be a failure, and after three an agent gives up.
        screen.print(str(stopped), markup=False, highlight=False, soft_wrap=True)
        from ..infra.signals import end_by
        from ..tracking.wandb_log import end_service

        end_service()
        sys.stdout.flush()
        end_by(stopped.exit_code - 128)
