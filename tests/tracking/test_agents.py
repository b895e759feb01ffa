"""Sweeps by W&B's command line: agents, cells, and runs that are preempted and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.logged import check_complete
from support.runs import TIMEOUT, kept_steps, run, wait_until
from support.wandb_server import WandbServer

from algomatch.runs.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * TIMEOUT)]

SWEPT = """
program: algomatch
method: grid
parameters:
  seed: {values: [0, 1]}
  task: {parameters: {vocabulary: {value: [a, b]}, max_length: {value: 3}}}
  model: {parameters: {name: {values: [1L, 1L_attn_only]}, d_model: {value: 16}}}
  trainer: {parameters: {max_steps: {value: 60}, checkpoints: {value: 6}, batch_size: {value: 12}}}
  analysis: {parameters: {bootstrap: {value: 20}, random_inits: {value: 2}}}
command: ["${env}", %s, -m, algomatch, train, tracking=online, --config, "${args_json_file}"]
"""
ONE = (
    SWEPT.replace("values: [0, 1]", "value: 1")
    .replace("values: [1L, 1L_attn_only]", "value: 1L")
    .replace("max_steps: {value: 60}, checkpoints: {value: 6}", "max_steps: {value: 2000}")
)
SLURM = Path(__file__).resolve().parent.parent.parent / "sweeps" / "slurm"


def wandb_line(server: WandbServer, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start W&B's command line against the server."""
    return subprocess.Popen(
        [sys.executable, "-m", "wandb", *arguments],
        env={**os.environ, **server.environment()},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def create(server: WandbServer, folder: Path, text: str) -> str:
    """Make a sweep by `wandb sweep`; return the argument for `wandb agent`."""
    (folder / "sweep.yaml").write_text(text % json.dumps(sys.executable))
    process = wandb_line(server, folder, "sweep", "--project", "swept", "sweep.yaml")
    out, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, out
    [sweep] = server.sweeps
    return f"tester/swept/{sweep}"


def test_two_agents_run_each_cell_of_a_sweep_once(tmp_path: Path) -> None:
    with WandbServer() as server:
        name = create(server, tmp_path, SWEPT)
        agents = [wandb_line(server, tmp_path, "agent", name) for _ in range(2)]
        outs = [agent.communicate(timeout=3 * TIMEOUT)[0] for agent in agents]
        assert [agent.returncode for agent in agents] == [0, 0], outs
        [sweep] = server.sweeps.values()
        cells = [(r.config["model"]["name"], r.config["seed"]) for r in server.runs.values()]
        assert sorted(cells) == [("1L", 0), ("1L", 1), ("1L_attn_only", 0), ("1L_attn_only", 1)]
        assert server.runs.keys() == sweep.runs.keys()
        for run_id, seen in server.runs.items():
            folder = tmp_path / "runs" / sweep.id / run_id
            assert RunFolder.open(folder).wandb_id == run_id
            check_complete(seen, folder)
            config = seen.config
            assert not any("." in key for key in config)
            architecture = config["model"]["name"]
            trained = f"reverse-vocabulary.a.b-max_length3-{architecture}-d_model16"
            assert seen.name == f"{trained}-seed{config['seed']}"
            assert str(seen.group).startswith(f"{trained}-")
            assert seen.job_type == "train"
            numbers = [v for key, v in seen.summary.items() if not key.startswith("_")]
            assert all(isinstance(value, int | float) for value in numbers)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "sweep.yaml", "wandb"]


def run_folder(folder: Path, name: str) -> Path:
    """The folder of a sweep's first run."""
    sweep = name.rpartition("/")[2]
    return folder / "runs" / sweep / f"{sweep}-run1"


def check_stopped(folder: Path) -> None:
    """Check that a run was stopped before its end and can be resumed."""
    assert not (folder / "finished.json").exists()
    assert (folder / "resume.ckpt").exists()


def test_a_preempted_run_goes_on_in_another_agent_to_the_same_end(tmp_path: Path) -> None:
    with WandbServer() as server:
        name = create(server, tmp_path, ONE)
        agent = wandb_line(server, tmp_path, "agent", "--forward-signals", name)
        folder = run_folder(tmp_path, name)
        wait_until(lambda: len(kept_steps(folder)) >= 6, agent)
        agent.send_signal(signal.SIGUSR1)
        agent.send_signal(signal.SIGTERM)
        agent.communicate(timeout=TIMEOUT)
        check_stopped(folder)
        other = wandb_line(server, tmp_path, "agent", name)
        out, _ = other.communicate(timeout=2 * TIMEOUT)
        assert other.returncode == 0, out
        [seen] = server.runs.values()
        check_complete(seen, folder)


def test_a_run_that_the_server_stops_goes_on_by_its_folder_under_the_same_id(
    tmp_path: Path,
) -> None:
    with WandbServer() as server:
        name = create(server, tmp_path, ONE)
        agent = wandb_line(server, tmp_path, "agent", name)
        folder = run_folder(tmp_path, name)
        wait_until(lambda: len(kept_steps(folder)) >= 6, agent)
        [stopped] = server.runs
        server.stop_run(stopped)
        out, _ = agent.communicate(timeout=TIMEOUT)
        assert agent.returncode == 0, out
        check_stopped(folder)
        environment = server.environment()
        code, _, err = run("train", "--resume", os.fspath(folder), environment=environment)
        assert code == 0, err
        [seen] = server.runs.values()
        assert seen.id == stopped
        check_complete(seen, folder)


def batch_job(
    script: str, folder: Path, *arguments: str, variables: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start a SLURM script as a node does, with the environment active."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", os.fspath(SLURM / script), *arguments],
        env={**os.environ, **variables, "PATH": path},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_an_array_job_of_agents_hands_its_run_on_before_its_time_is_over(tmp_path: Path) -> None:
    with WandbServer() as server:
        name = create(server, tmp_path, ONE)
        job = batch_job("agents.sbatch", tmp_path, name, variables=server.environment())
        folder = run_folder(tmp_path, name)
        wait_until(lambda: len(kept_steps(folder)) >= 6, job)
        job.send_signal(signal.SIGUSR1)
        out, _ = job.communicate(timeout=TIMEOUT)
        check_stopped(folder)
        job = batch_job("agents.sbatch", tmp_path, name, variables=server.environment())
        out, _ = job.communicate(timeout=2 * TIMEOUT)
        assert job.returncode == 0, out
        [seen] = server.runs.values()
        check_complete(seen, folder)


def test_an_array_job_without_a_server_is_stopped_and_goes_on(tmp_path: Path) -> None:
    assert "#SBATCH --signal=B:TERM@" in (SLURM / "local.sbatch").read_text()  # B: the script
    assert "#SBATCH --signal=B:USR1@" in (SLURM / "agents.sbatch").read_text()
    (tmp_path / "sweep.yaml").write_text(ONE.replace("command:", "#"))
    # One of several tasks. Lightning must not take them for processes of one training.
    task = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "algomatch"}
    job = batch_job("local.sbatch", tmp_path, "sweep.yaml", variables=task)
    folder = (
        tmp_path / "runs" / "sweep" / "0000-reverse-vocabulary.a.b-max_length3-1L-d_model16-seed1"
    )
    wait_until(lambda: len(kept_steps(folder)) >= 6, job)
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate(timeout=TIMEOUT)
    assert job.returncode == 128 + signal.SIGTERM, out
    check_stopped(folder)
    job = batch_job("local.sbatch", tmp_path, "sweep.yaml", variables=task)
    out, _ = job.communicate(timeout=2 * TIMEOUT)
    assert job.returncode == 0, out
    assert (folder / "finished.json").exists()
    task["SLURM_ARRAY_TASK_ID"] = "1"
    job = batch_job("local.sbatch", tmp_path, "sweep.yaml", variables=task)
    out, _ = job.communicate(timeout=TIMEOUT)
    assert job.returncode == 2
    assert "--index 1: the sweep has runs 0 to 0" in out
