"""The loopback server serves the real Weights & Biases client and command line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.wandb_server import ENTITY, ServerRun, WandbServer

pytestmark = pytest.mark.timeout(120)

LOG_EVERYTHING = """
import numpy as np, wandb

run = wandb.init(
    project="server-test", id="full", name="a name", group="a group", job_type="train",
    config={"model": {"layers": 2, "sizes": [4, 8]}, "rate": 0.1},
)
run.define_metric("accuracy/*", step_metric="trainer/global_step")
for step in range(3):
    run.log({"accuracy/test": step / 2, "trainer/global_step": 10 * step})
image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
table = wandb.Table(columns=["token", "count"], data=[["a", 1], ["b", 2]])
run.log({"picture": wandb.Image(image), "table": table})
run.summary["best"] = 0.5
print("a line of output")
run.finish()
"""

RESUME = """
import sys, wandb

with wandb.init(project="server-test", id="twice", resume="allow") as run:
    print([run.resumed, run.starting_step, run.summary.get("best")])
    run.log({"loss": float(sys.argv[1])})
    run.summary["best"] = float(sys.argv[1])
"""

INITIALISE = """
import wandb

try:
    wandb.init(project="server-test", settings=wandb.Settings(init_timeout=5))
except wandb.errors.CommError:
    print("refused")
"""

LOSE_SERVER = """
import sys, wandb

settings = wandb.Settings(finish_timeout=2)
with wandb.init(project="server-test", id="lost", settings=settings) as run:
    print("started", flush=True)
    sys.stdin.readline()
    run.log({"loss": 1.0})
"""


def client_environment(server: WandbServer, directory: Path) -> dict[str, str]:
    """The whole environment of a client that keeps its files in one directory."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "WANDB_DIR": str(directory),
        **server.environment(),
    }


def run_client(server: WandbServer, directory: Path, *arguments: str) -> str:
    """Run Python in a new process against the server and return what it prints."""
    finished = subprocess.run(
        [sys.executable, *arguments],
        env=client_environment(server, directory),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def only_directory(directory: Path, pattern: str) -> str:
    """The one run directory that a client has left."""
    (found,) = (directory / "wandb").glob(pattern)
    return str(found)


def assert_everything_arrived(server: WandbServer, run: ServerRun) -> None:
    """Compare a run with what `LOG_EVERYTHING` logs."""
    assert (run.entity, run.project, run.name) == (ENTITY, "server-test", "a name")
    assert (run.group, run.job_type) == ("a group", "train")
    assert run.config == {"model": {"layers": 2, "sizes": [4, 8]}, "rate": 0.1}
    patterns = [metric.get("2") for metric in run.client_config["m"]]
    assert "accuracy/*" in patterns

    assert [row["_step"] for row in run.history] == [0, 1, 2, 3]
    assert [row["accuracy/test"] for row in run.history[:3]] == [0, 0.5, 1]
    assert [row["trainer/global_step"] for row in run.history[:3]] == [0, 10, 20]
    assert run.summary["best"] == 0.5
    assert run.summary["accuracy/test"] == 1

    media = run.history[3]
    picture = Image.open(io.BytesIO(run.files[media["picture"]["path"]]))
    expected = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(np.asarray(picture), expected)
    table = json.loads(run.files[media["table"]["path"]])
    assert table == {"columns": ["token", "count"], "data": [["a", 1], ["b", 2]]}

    (artifact,) = server.artifacts.values()
    assert (artifact.type, artifact.name, artifact.run_id) == (
        "run_table",
        "run-full-table",
        "full",
    )
    assert artifact.state == "COMMITTED"
    assert artifact.manifest["contents"].keys() == artifact.files.keys() == {"table.table.json"}
    assert json.loads(artifact.files["table.table.json"])["data"] == [["a", 1], ["b", 2]]

    assert any(line.endswith("a line of output") for line in run.output)
    assert (run.state, run.exit_code) == ("finished", 0)


def test_records_an_online_run(tmp_path: Path) -> None:
    with WandbServer() as server:
        run_client(server, tmp_path, "-c", LOG_EVERYTHING)
        assert_everything_arrived(server, server.runs["full"])
        operations = [operation for _, _, operation in server.requests]
        assert operations.index("Viewer") < operations.index("UpsertBucket")


def test_resumes_a_run(tmp_path: Path) -> None:
    with WandbServer() as server:
        first = run_client(server, tmp_path, "-c", RESUME, "0.25")
        second = run_client(server, tmp_path, "-c", RESUME, "0.75")
        run = server.runs["twice"]
    assert first.strip() == "[False, 0, None]"
    assert second.strip() == "[True, 1, 0.25]"
    assert [(row["_step"], row["loss"]) for row in run.history] == [(0, 0.25), (1, 0.75)]
    assert run.summary["best"] == 0.75


def test_receives_an_offline_run(tmp_path: Path) -> None:
    offline = "import os; os.environ['WANDB_MODE'] = 'offline'" + LOG_EVERYTHING
    with WandbServer() as server:
        run_client(server, tmp_path, "-c", offline)
        assert not server.requests
        directory = only_directory(tmp_path, "offline-run-*")
        run_client(server, tmp_path, "-m", "wandb", "sync", directory)
        assert_everything_arrived(server, server.runs["full"])


@pytest.mark.slow
def test_hangs_on_demand(tmp_path: Path) -> None:
    with WandbServer(hang=True) as server:
        assert run_client(server, tmp_path, "-c", INITIALISE).endswith("refused\n")
        assert not server.requests


def test_stops_in_the_middle_of_a_run(tmp_path: Path) -> None:
    with (
        WandbServer() as server,
        subprocess.Popen(
            [sys.executable, "-c", LOSE_SERVER],
            env=client_environment(server, tmp_path),
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as client,
    ):
        assert client.stdout is not None
        assert client.stdout.readline() == "started\n"
        server.stop()
        client.communicate("go on\n", timeout=60)
        assert client.returncode == 0
        assert server.runs["lost"].history == []
    with WandbServer() as server:
        directory = only_directory(tmp_path, "run-*")
        run_client(server, tmp_path, "-m", "wandb", "sync", "--include-online", directory)
        assert [row["loss"] for row in server.runs["lost"].history] == [1.0]
