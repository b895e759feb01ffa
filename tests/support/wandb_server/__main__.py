"""Serves until it is interrupted: a place to try runs and sweeps without an account."""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path
from typing import Any

from support.wandb_server.server import WandbServer


def main() -> None:
    """Print the variables that point a client here, serve, and write down what was recorded."""
    parser = argparse.ArgumentParser(prog="python -m support.wandb_server", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=0, help="port to listen on; default: a free one"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random sweeps")
    parser.add_argument("--state", type=Path, help="JSON file for what was recorded, at the end")
    options = parser.parse_args()
    ended = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ended)
    with WandbServer(port=options.port, seed=options.seed) as server:
        for name, value in server.environment().items():
            print(f"export {name}={value}", flush=True)
        signal.sigwait(ended)
    if options.state:
        options.state.write_text(json.dumps(recorded(server), indent=2) + "\n")


def recorded(server: WandbServer) -> dict[str, Any]:
    """A summary of what clients have sent, as JSON values."""
    return {
        "sweeps": {
            sweep.id: {
                "state": sweep.state,
                "config": sweep.config,
                "runs": {run.id: run.config for run in sweep.runs.values()},
                "agents": {agent.id: agent.commands for agent in sweep.agents.values()},
            }
            for sweep in server.sweeps.values()
        },
        "runs": {
            run.id: {
                "project": run.project,
                "name": run.name,
                "group": run.group,
                "sweep": run.sweep,
                "state": run.state,
                "config": run.config,
                "summary": run.summary,
                "history_length": len(run.history),
                "files": sorted(run.files),
            }
            for run in server.runs.values()
        },
        "artifacts": [
            {
                "name": f"{artifact.name}:v{artifact.version}",
                "project": artifact.project,
                "type": artifact.type,
                "state": artifact.state,
                "aliases": artifact.aliases,
                "metadata": artifact.metadata,
                "files": sorted(artifact.contents),
                "logged_by": artifact.run_id,
                "used_by": artifact.used_by,
            }
            for artifact in server.artifacts.values()
        ],
        "views": {view.name: view.spec for view in server.views.values()},
    }


if __name__ == "__main__":
    main()
