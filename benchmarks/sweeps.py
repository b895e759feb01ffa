"""The cost of sweeps: two agents over one, and the overhead of `algomatch sweep`.

python benchmarks/sweeps.py [CELLS]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from results import Result, show
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.wandb_server import ENTITY, WandbServer

CELLS = 20
STEPS = 200  # each run is short, but every checkpoint takes every measure


def sweep_file(folder: Path, cells: int) -> Path:
    """Write a sweep file: a grid of `cells` 1L runs."""
    path = folder / "seeds.yaml"
    command = ["${env}", sys.executable, "-m", "algomatch", "train", "tracking=online"]
    values = {
        "program": "algomatch",
        "method": "grid",
        "parameters": {
            "seed": {"values": list(range(cells))},
            "model": {"parameters": {"name": {"value": "1L"}}},
            "trainer": {"parameters": {"max_steps": {"value": STEPS}}},
        },
        "command": [*command, "--config", "${args_json_file}"],
    }
    path.write_text(yaml.safe_dump(values))
    return path


def agents(many: int, cells: int) -> float:
    """Return the seconds that `n` agents take for a grid; each cell must run once."""
    with tempfile.TemporaryDirectory() as temporary, WandbServer() as server:
        folder = Path(temporary)
        environment = {**os.environ, **server.environment(), "OMP_NUM_THREADS": "1"}

        def wandb(*arguments: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-m", "wandb", *arguments],
                env=environment,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

        made = wandb("sweep", "--project", "bench", os.fspath(sweep_file(folder, cells)))
        if made.wait(timeout=60) != 0:
            raise SystemExit("`wandb sweep` failed")
        [name] = server.sweeps
        started = time.monotonic()
        working = [wandb("agent", f"{ENTITY}/bench/{name}") for _ in range(many)]
        for agent in working:
            agent.wait(timeout=3600)
        seconds = time.monotonic() - started
        seeds = sorted(run.config["seed"] for run in server.runs.values())
        states = {run.state for run in server.runs.values()}
        if seeds != list(range(cells)) or states != {"finished"}:
            raise SystemExit(f"{many} agents: the seeds {seeds} were run, {states}")
        return seconds


def outside(cells: int) -> float:
    """Return the share of `algomatch sweep`'s time on one core outside training and measuring."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "algomatch", "sweep", os.fspath(sweep_file(folder, cells)),
             "--jobs", "1", "--output", os.fspath(folder / "runs")],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        seconds = time.monotonic() - started
        inside = 0.0
        for log in (folder / "runs" / "logs").iterdir():
            match = re.search(r"training took ([\d.]+) s, measuring ([\d.]+) s", log.read_text())
            if match is None:
                raise SystemExit(f"{log.name} does not say how long it took")
            inside += sum(map(float, match.groups()))
        if len(list((folder / "runs").glob("*/finished.json"))) != cells:
            raise SystemExit("not every cell finished")
        return 1 - inside / seconds


def sweeps(cells: int) -> tuple[Result, ...]:
    """Return both claims, each from one measurement of a whole grid."""
    one_agent, two_agents = agents(1, cells), agents(2, cells)
    shares = [outside(cells)]
    grid = f"a grid of {cells} 1L runs"
    return (
        Result(
            f"two agents on {grid}, each cell once",
            [two_agents / one_agent],
            0.65,
            "of the time of one",
        ),
        Result(f"outside training and measuring, {grid}", shares, 0.35, "of `algomatch sweep`"),
    )


if __name__ == "__main__":
    sys.exit(show(sweeps(int(sys.argv[1]) if len(sys.argv) > 1 else CELLS), Console()))
