"""What reaches Weights & Biases: the real client, the real CLI, a server on the loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import TIMEOUT, TINY, finish, kept_steps, run, start, wait_until
from support.wandb_server import ServerRun, WandbServer

from algomatch.analysis.emergence import summaries
from algomatch.analysis.suite import declared_metrics, headlines
from algomatch.config import group_name, to_mapping
from algomatch.tracking.heatmaps import HEATMAPS
from algomatch.tracking.run_folder import RunFolder

STEP = "trainer/global_step"
# Allowing an inexact reference marks nothing where the reference is exact.
ONLINE = (
    *TINY, "tracking=online", "tracking.tags=[first,second]", "trainer.checkpoints=8",
    "task.allow_inexact=true",
)  # fmt: skip


def sync(folder: Path, server: WandbServer) -> None:
    """Upload the run's offline record by the real CLI."""
    [offline] = (folder / "wandb").glob("offline-run-*")
    synced = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", os.fspath(offline)],
        env={**os.environ, **server.environment()},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert synced.returncode == 0, synced.stderr


def check_complete(seen: ServerRun, folder: Path) -> None:
    """The server has the whole history, once, as the run folder's table has it."""
    own = RunFolder.open(folder)
    assert seen.config == json.loads(json.dumps(to_mapping(own.config)))
    rows = own.measurements()
    steps = sorted({row.step for row in rows})
    logged = [row for row in seen.history if "tables/measurements" not in row]
    assert [row[STEP] for row in logged] == steps
    for at in logged:
        expected = {r.key: r.value for r in headlines(r for r in rows if r.step == at[STEP])}
        values = {key: at[key] for key in expected}
        assert values == pytest.approx(expected, rel=0, abs=0)
    assert seen.exit_code == 0
    media = [name for name in seen.files if name.endswith(".png")]
    drawn = len(HEATMAPS) - 1  # no joint sets: the tiny model does not solve the task
    assert len(media) == drawn * len(kept_steps(folder))
    assert all(seen.files[name].startswith(b"\x89PNG") for name in media)
    tables = {name: json.loads(seen.files[name]) for name in seen.files if ".table.json" in name}
    by_name = {name.split("/")[-1].split("_")[0]: table for name, table in tables.items()}
    neurons = [r for r in rows if r.measure.startswith("sparsity/") and r.subject.endswith("]")]
    assert len(by_name["measurements"]["data"]) == len(rows) - len(neurons)
    last = [row for row in neurons if row.step == steps[-1]]
    assert len(by_name["neurons"]["data"]) == len(last) > 0
    described = {row[0]: row[1:] for row in by_name["metrics"]["data"]}
    assert described.keys() == declared_metrics().keys()
    assert described["accuracy/exact"][:2] == ["share of inputs", "higher"]
    assert seen.summary["accuracy/all/exact"] == logged[-1]["accuracy/all/exact"]
    check_summary(seen, folder)
    defined = json.dumps(seen.client_config.get("m"))
    assert defined.count("accuracy/all/exact") == 1


def check_summary(seen: ServerRun, folder: Path) -> None:
    """The server's summary says what the curves of all steps amount to, and nothing else."""
    found = summaries(RunFolder.open(folder).measurements()).values()
    expected: dict[str, float] = {}
    for one in found:
        expected[f"final/{one.key}"] = one.final
        if one.best is not None:
            expected[f"best/{one.key}"] = one.best
        if one.emergence_step is not None:
            expected[f"emergence_step/{one.key}"] = one.emergence_step
    prefixes = ("final/", "best/", "emergence_step/")
    summary = {key: value for key, value in seen.summary.items() if key.startswith(prefixes)}
    assert summary == pytest.approx(expected, rel=0, abs=0)
    for prefix in prefixes:
        assert any(key.startswith(prefix) for key in summary), prefix


@pytest.mark.timeout(2 * TIMEOUT)
def test_an_online_run_that_was_killed_and_resumed_is_complete_on_the_server(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    with WandbServer() as server:
        environment = server.environment()
        process = start("train", *ONLINE, f"run_dir={folder}", environment=environment)
        wait_until(lambda: len(kept_steps(folder)) >= 4, process)
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
        code, out, err = run("train", "--resume", os.fspath(folder), environment=environment)
        assert code == 0, err
        [seen] = server.runs.values()
        assert seen.id == RunFolder.open(folder).id
        assert (seen.name, seen.job_type) == ("reverse-1L-seed0", "train")
        assert seen.group == group_name(RunFolder.open(folder).config)
        assert not any(
            isinstance(value, dict) for key, value in seen.summary.items() if key != "_wandb"
        )
        assert seen.tags == ["first", "second"]
        check_complete(seen, folder)
        assert server.url in out


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_an_offline_run_that_was_stopped_and_resumed_syncs_complete(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start("train", *TINY, "trainer.checkpoints=8", f"run_dir={folder}")
    wait_until(lambda: len(kept_steps(folder)) >= 4, process)
    process.kill()
    finish(process)
    code, out, err = run("train", "--resume", os.fspath(folder))
    assert code == 0, err
    [offline] = (folder / "wandb").glob("offline-run-*")
    assert f"wandb leet {offline}" in out
    assert f"wandb sync {offline}" in out
    assert list((folder / "wandb" / "superseded").glob("offline-run-*"))
    with WandbServer() as server:
        sync(folder, server)
        [seen] = server.runs.values()
        check_complete(seen, folder)


@pytest.mark.slow
@pytest.mark.timeout(3 * TIMEOUT)
def test_a_run_that_was_synced_before_it_was_resumed_is_not_doubled(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with WandbServer() as server:
        process = start("train", *TINY, "trainer.checkpoints=8", f"run_dir={folder}")
        wait_until(lambda: len(kept_steps(folder)) >= 4, process)
        process.send_signal(signal.SIGTERM)
        assert finish(process)[0] == 128 + signal.SIGTERM
        sync(folder, server)
        assert run("train", "--resume", os.fspath(folder))[0] == 0
        sync(folder, server)
        own = RunFolder.open(folder)
        assert set(server.runs) == {own.id, f"{own.id}-again1"}
        check_complete(server.runs[f"{own.id}-again1"], folder)
        stopped = server.runs[own.id]
        steps = [row[STEP] for row in stopped.history]
        assert len(steps) == len(set(steps)) > 0
        measured = [
            row["accuracy/all/exact"] for row in stopped.history if "accuracy/all/exact" in row
        ]
        assert stopped.summary["final/accuracy/all/exact"] == measured[-1]
        assert stopped.summary["best/accuracy/all/exact"] == max(measured)


@pytest.mark.slow
@pytest.mark.timeout(3 * TIMEOUT)
def test_a_run_that_began_without_its_server_is_complete_once_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with WandbServer(hang=True) as server:
        settings = ("tracking.init_timeout_seconds=2", f"run_dir={folder}")
        environment = server.environment()
        process = start("train", *ONLINE, *settings, environment=environment)
        wait_until(lambda: len(kept_steps(folder)) >= 4, process)
        process.send_signal(signal.SIGTERM)
        assert finish(process)[0] == 128 + signal.SIGTERM
    with WandbServer() as server:
        environment = server.environment()
        code, out, err = run("train", "--resume", os.fspath(folder), environment=environment)
        assert code == 0, err
        assert server.url in out
        assert "wandb sync" not in out
        [seen] = server.runs.values()
        check_complete(seen, folder)


@pytest.mark.timeout(TIMEOUT)
def test_a_server_that_never_answers_costs_seconds_and_not_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with WandbServer(hang=True) as server:
        code, out, err = run(
            "train",
            *TINY,
            "trainer.checkpoints=3",
            "tracking=online",
            "tracking.init_timeout_seconds=2",
            f"run_dir={folder}",
            environment=server.environment(),
        )
    assert code == 0, err
    assert "W&B cannot be reached" in out
    assert "the run goes on offline" in out
    assert "nothing was uploaded" in out
    assert "wandb sync" in out
    assert (folder / "finished.json").exists()
    assert list((folder / "wandb").glob("offline-run-*"))
