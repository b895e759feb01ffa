"""What reaches Weights & Biases, by the real client, the real CLI and a loopback server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.logged import STEP, check_complete, sync
from support.runs import TIMEOUT, TINY, finish, kept_steps, run, start, wait_until
from support.wandb_server import WandbServer

from algomatch.config.naming import group_name
from algomatch.runs.run_folder import RunFolder

NAME = "reverse-vocabulary.a.b-max_length3-1L-d_model16-n_heads2-seed0"
# Allowing an inexact reference marks nothing where the reference is exact.
ONLINE = (
    *TINY, "tracking=online", "tracking.tags=[first,second]", "trainer.checkpoints=8",
    "task.allow_inexact=true",
)  # fmt: skip


@pytest.mark.slow
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
        assert (seen.name, seen.job_type) == (NAME, "train")
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


@pytest.mark.slow
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
    assert "the run continues offline" in out
    assert "nothing was uploaded" in out
    assert "wandb sync" in out
    assert (folder / "finished.json").exists()
    assert list((folder / "wandb").glob("offline-run-*"))
