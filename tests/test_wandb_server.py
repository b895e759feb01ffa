"""The loopback server serves the real Weights & Biases client and command line."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.wandb_server import ENTITY, ServerRun, ServerSweep, WandbServer

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

AGENT = """
import sys, wandb
from wandb import wandb_agent

wandb_agent.Agent.POLL_INTERVAL = 0.3
wandb.agent(sys.argv[1])
"""

SWEPT = """
import wandb

with wandb.init(config={"model": {"name": "none", "depth": 7}, "own": 1}) as run:
    run.log({"loss": run.config["rate"]})
"""

WAIT = """
import pathlib, time, wandb

with wandb.init() as run:
    time.sleep(100)
"""

PREEMPTED = """
import sys, wandb

run = wandb.init(resume="allow")
run.log({"loss": 1 + run.starting_step})
if not run.resumed:
    run.mark_preempting()
    sys.exit(3)
"""

GRID = {
    "program": "train.py",
    "method": "grid",
    "metric": {"name": "loss", "goal": "minimize"},
    "parameters": {
        "model": {"parameters": {"name": {"values": ["a", "b"]}, "layers": {"value": 2}}},
        "rate": {"values": [0.1, 0.2]},
    },
}

READ_SWEEP = """
import json, wandb

api = wandb.Api()
sweep = api.sweep("tester/server-test/sweep1")
print(json.dumps([
    sweep.state, len(sweep.runs),
    [run.id for run in api.runs("tester/server-test", per_page=3)],
    sweep.best_run().summary["loss"], sweep.best_run("-loss").summary["loss"],
]))
"""

READ_RUN = """
import json, sys, wandb

run = wandb.Api().run("tester/server-test/full")
print(json.dumps([
    run.config, run.state, run.name, run.group, run.job_type, run.tags,
    run.summary["best"], run.summary["accuracy/test"],
    [row["accuracy/test"] for row in run.scan_history(keys=["accuracy/test"])],
    [row["_step"] for row in run.scan_history(keys=["table"])],
    [row["_step"] for row in run.scan_history(page_size=2)],
    [row["_step"] for row in run.scan_history(min_step=1, max_step=3)],
    [row["trainer/global_step"] for row in run.history(keys=["trainer/global_step"], pandas=False)],
    len(run.history(pandas=False)),
]))
(picture,) = [file for file in run.files() if file.name.endswith(".png")]
picture.download(root=sys.argv[1])
run.tags.append("read")
run.config["later"] = 1
run.update()
print([len(wandb.Api().runs("tester/server-test", filters={"group": group}))
       for group in ("a group", "another")])
"""

LOG_MODEL = """
import sys, wandb

text, *aliases = sys.argv[1:]
with wandb.init(project="server-test", id=f"log-{text}") as run:
    artifact = wandb.Artifact("model", "checkpoint", metadata={"text": text})
    with artifact.new_file("in a/folder.txt") as file:
        file.write(text)
    with artifact.new_file("same.txt") as file:
        file.write("same")
    run.log_artifact(artifact, aliases=["latest", *aliases])
"""

ADD_TO_MODEL = """
import sys, wandb

with wandb.init(project="server-test") as run:
    artifact = wandb.Artifact("model", "checkpoint", incremental=True)
    with artifact.new_file(f"{sys.argv[1]}.txt") as file:
        file.write(sys.argv[1])
    run.log_artifact(artifact)
wandb.Api().artifact("tester/server-test/model:latest").download(root=sys.argv[2])
"""

USE_MODEL = """
import json, sys, wandb

with wandb.init(project="server-test", id="user") as run:
    artifact = run.use_artifact("tester/server-test/model:best")
    artifact.download(root=sys.argv[1])
api = wandb.Api()
first = api.artifact("tester/server-test/model:first")
first.aliases.append("kept")
first.save()
print(json.dumps([
    artifact.version, artifact.type, sorted(artifact.aliases), artifact.metadata,
    sorted(file.name for file in artifact.files()),
    artifact.logged_by().id, [run.id for run in artifact.used_by()],
    [used.name for used in api.run("tester/server-test/user").used_artifacts()],
    [logged.name for logged in api.run("tester/server-test/log-one").logged_artifacts()],
]))
artifact.delete(delete_aliases=True)
print(api.artifact_exists("tester/server-test/model:v1"))
"""

KILLED = """
import os, signal, sys, time, wandb

run = wandb.init(project="server-test", id="killed", resume="allow")
print([run.resumed, run.starting_step], flush=True)
for value in sys.argv[2:]:
    run.log({"loss": float(value)})
if sys.argv[1] == "killed":
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""

SAVE_WORKSPACE = """
import json

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as workspaces

section = workspaces.Section(name="Main", panels=[panels.LinePlot(x="Step", y=["loss"])])
saved = workspaces.Workspace(
    entity="tester", project="server-test", name="a view", sections=[section]
).save()
read = workspaces.Workspace.from_url(saved.url)
print(json.dumps([read.name, [section.name for section in read.sections]]))
read.name = "renamed"
read.save()
"""


def client_environment(server: WandbServer, directory: Path) -> dict[str, str]:
    """The environment of a client that keeps its files in one directory."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(directory),
        "WANDB_DIR": str(directory),
        **server.environment(),
    }


def run_client(server: WandbServer, directory: Path, *arguments: str) -> str:
    """Run Python in a new process against the server and return its output."""
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
    (match,) = (directory / "wandb").glob(pattern)
    return str(match)


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


def create_sweep(server: WandbServer, directory: Path, program: str, **config: Any) -> ServerSweep:
    """Create a sweep over a program with the command line."""
    (directory / "train.py").write_text(program)
    (directory / "sweep.yaml").write_text(json.dumps({"project": "server-test", **GRID, **config}))
    run_client(server, directory, "-m", "wandb", "sweep", "sweep.yaml")
    return list(server.sweeps.values())[-1]


@contextmanager
def agent_of(
    server: WandbServer, directory: Path, sweep: ServerSweep
) -> Iterator[subprocess.Popen[str]]:
    """A real agent that asks for work more often than by default."""
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, f"{sweep.entity}/{sweep.project}/{sweep.id}"],
        env=client_environment(server, directory),
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as agent:
        try:
            yield agent
        finally:
            agent.kill()


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a client has met a condition."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_agents_run_each_cell_of_a_nested_grid_once(tmp_path: Path) -> None:
    with WandbServer() as server:
        sweep = create_sweep(server, tmp_path, SWEPT)
        assert sweep.state == "PENDING"
        with (
            agent_of(server, tmp_path, sweep) as first_agent,
            agent_of(server, tmp_path, sweep) as second_agent,
        ):
            assert (first_agent.wait(timeout=60), second_agent.wait(timeout=60)) == (0, 0)
        printed = run_client(server, tmp_path, "-c", READ_SWEEP)
    cells = [
        {"model": {"name": name, "layers": 2}, "rate": rate}
        for name, rate in itertools.product("ab", [0.1, 0.2])
    ]
    assert [run.config for run in sweep.runs.values()] == cells
    assert json.loads(printed) == ["FINISHED", 4, list(server.runs), 0.1, 0.2]
    first, second = sweep.agents.values()
    given = [*first.commands, *second.commands]
    assert [command["type"] for command in given].count("exit") == 2
    assert {agent for run in sweep.runs.values() for agent in run.agents} == {first.id, second.id}
    assert {"value": {"name": "a", "layers": 2}} in [
        command["args"]["model"] for command in given if command["type"] == "run"
    ]
    assert server.runs.keys() == sweep.runs.keys()
    for run_id, run in server.runs.items():
        cell = sweep.runs[run_id].config
        model = {**cell["model"], "depth": 7}
        assert run.config == {"model": model, "rate": cell["rate"], "own": 1}
        assert [row["loss"] for row in run.history] == [cell["rate"]]
        assert (run.sweep, run.state) == (sweep.id, "finished")


@pytest.mark.slow
def test_command_line_agent_draws_up_to_run_cap(tmp_path: Path) -> None:
    parameters = {
        "model": {"parameters": {"name": {"values": ["a", "b"]}, "size": {"min": 3, "max": 5}}},
        "rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
        "share": {"min": 0.5, "max": 1.0},
    }
    with WandbServer() as server:
        sweep = create_sweep(
            server, tmp_path, SWEPT, method="random", run_cap=2, parameters=parameters
        )
        path = f"{ENTITY}/server-test/{sweep.id}"
        run_client(server, tmp_path, "-m", "wandb", "agent", path)
    assert len(server.runs) == len(sweep.runs) == 2
    configs = [run.config for run in sweep.runs.values()]
    assert configs[0] != configs[1]
    for config in configs:
        assert config["model"]["name"] in "ab"
        assert config["model"]["size"] in (3, 4, 5)
        assert 1e-4 <= config["rate"] <= 1e-1
        assert 0.5 <= config["share"] <= 1
    with WandbServer() as other:
        again = create_sweep(
            other, tmp_path, SWEPT, method="random", run_cap=2, parameters=parameters
        )
        assert again.next_config(seed=0) == configs[0]


@pytest.mark.slow
def test_stops_one_run_of_a_sweep(tmp_path: Path) -> None:
    with WandbServer() as server:
        sweep = create_sweep(server, tmp_path, WAIT, parameters={"rate": {"values": [1, 2]}})
        with agent_of(server, tmp_path, sweep) as agent:
            wait_until(lambda: "sweep1-run1" in server.runs)
            server.stop_run("sweep1-run1")
            wait_until(lambda: "sweep1-run2" in server.runs)
            server.stop_run("sweep1-run2")
            assert agent.wait(timeout=60) == 0
    assert [run.state for run in server.runs.values()] == ["killed", "killed"]
    assert sweep.state == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "state"), [("--stop", "FINISHED"), ("--cancel", "CANCELED")])
def test_command_line_ends_a_sweep(tmp_path: Path, flag: str, state: str) -> None:
    program = WAIT if flag == "--cancel" else WAIT.replace("100", "6")
    with WandbServer() as server:
        sweep = create_sweep(server, tmp_path, program)
        with agent_of(server, tmp_path, sweep) as agent:
            wait_until(lambda: server.runs)
            path = f"{ENTITY}/server-test/{sweep.id}"
            run_client(server, tmp_path, "-m", "wandb", "sweep", flag, path)
            assert agent.wait(timeout=60) == 0
    (run,) = server.runs.values()
    assert run.state == ("killed" if flag == "--cancel" else "finished")
    assert sweep.state == state


@pytest.mark.slow
def test_pauses_resumes_and_updates_a_sweep(tmp_path: Path) -> None:
    with WandbServer() as server:
        sweep = create_sweep(server, tmp_path, SWEPT, parameters={"rate": {"values": [1]}})
        command, path = ("-m", "wandb", "sweep"), f"{ENTITY}/server-test/sweep1"
        run_client(server, tmp_path, *command, "--resume", path)
        run_client(server, tmp_path, *command, "--pause", path)
        with agent_of(server, tmp_path, sweep) as agent:
            wait_until(lambda: sum(name == "Heartbeat" for *_, name in server.requests) > 2)
            assert not sweep.runs
            longer = GRID | {"parameters": {"rate": {"values": [1, 2]}}}
            (tmp_path / "longer.yaml").write_text(json.dumps(longer))
            run_client(server, tmp_path, *command, "--update", path, "longer.yaml")
            assert sweep.state == "PAUSED"
            run_client(server, tmp_path, *command, "--resume", path)
            assert agent.wait(timeout=60) == 0
    assert [run.config for run in sweep.runs.values()] == [{"rate": 1}, {"rate": 2}]


@pytest.mark.slow
def test_gives_out_a_preempted_run_again(tmp_path: Path) -> None:
    with WandbServer() as server:
        sweep = create_sweep(server, tmp_path, PREEMPTED, parameters={"rate": {"values": [1]}})
        with agent_of(server, tmp_path, sweep) as process:
            assert process.wait(timeout=60) == 0
    ((run_id, run),) = server.runs.items()
    (agent,) = sweep.agents.values()
    kinds = [(command["type"], command.get("run_id")) for command in agent.commands]
    assert kinds == [("run", run_id), ("resume", run_id), ("exit", None)]
    assert agent.commands[1]["args"] == {"rate": {"value": 1}}
    assert [(row["_step"], row["loss"]) for row in run.history] == [(0, 1), (1, 2)]
    assert (run.state, run.preempting) == ("finished", False)


def test_public_api_reads_a_run(tmp_path: Path) -> None:
    with WandbServer() as server:
        run_client(server, tmp_path, "-c", LOG_EVERYTHING)
        printed = run_client(server, tmp_path, "-c", READ_RUN, str(tmp_path / "files"))
        run = server.runs["full"]
    first, second = printed.strip().splitlines()
    assert json.loads(first) == [
        {"model": {"layers": 2, "sizes": [4, 8]}, "rate": 0.1},
        *("finished", "a name", "a group", "train", []),
        *(0.5, 1),
        *([0, 0.5, 1], [3], [0, 1, 2, 3], [1, 2], [0, 10, 20], 4),
    ]
    assert json.loads(second) == [1, 0]
    (picture,) = (tmp_path / "files").rglob("*.png")
    name = str(picture.relative_to(tmp_path / "files"))
    assert picture.read_bytes() == run.files[name]
    assert (run.tags, run.config["later"], run.state) == (["read"], 1, "finished")


def test_artifacts_go_up_and_down(tmp_path: Path) -> None:
    with WandbServer() as server:
        run_client(server, tmp_path, "-c", LOG_MODEL, "one", "first", "best")
        run_client(server, tmp_path, "-c", LOG_MODEL, "two", "best")
        run_client(server, tmp_path, "-c", LOG_MODEL, "two")
        first, second = server.artifacts.values()
        assert (first.version, first.aliases) == (0, ["first"])
        assert (second.version, sorted(second.aliases)) == (1, ["best", "latest"])
        printed = run_client(server, tmp_path, "-c", USE_MODEL, str(tmp_path / "down"))
    *_, seen, exists = printed.strip().splitlines()
    assert json.loads(seen) == [
        *("v1", "checkpoint", ["best", "latest"], {"text": "two"}),
        *(["in a/folder.txt", "same.txt"], "log-two", ["user"]),
        *(["model:v1"], ["model:v0"]),
    ]
    assert (tmp_path / "down" / "in a" / "folder.txt").read_text() == "two"
    assert (tmp_path / "down" / "same.txt").read_text() == "same"
    assert server.runs["user"].used == [second.id]
    assert second.used_by == ["user"]
    assert exists == "False"
    assert (second.state, sorted(first.aliases)) == ("DELETED", ["first", "kept"])


@pytest.mark.slow
def test_receives_an_offline_artifact(tmp_path: Path) -> None:
    offline = "import os; os.environ['WANDB_MODE'] = 'offline'" + LOG_MODEL
    with WandbServer() as server:
        run_client(server, tmp_path, "-c", offline, "one", "best")
        assert not server.requests
        directory = only_directory(tmp_path, "offline-run-*")
        run_client(server, tmp_path, "-m", "wandb", "sync", directory)
        (artifact,) = server.artifacts.values()
    assert (artifact.state, artifact.version, artifact.run_id) == ("COMMITTED", 0, "log-one")
    assert sorted(artifact.aliases) == ["best", "latest"]
    assert artifact.files == {"in a/folder.txt": b"one", "same.txt": b"same"}


@pytest.mark.slow
def test_merges_incremental_artifacts(tmp_path: Path) -> None:
    with WandbServer() as server:
        run_client(server, tmp_path, "-c", ADD_TO_MODEL, "one", str(tmp_path))
        run_client(server, tmp_path, "-c", ADD_TO_MODEL, "two", str(tmp_path / "down"))
        older, newer = server.artifacts.values()
    files = {path.name: path.read_text() for path in (tmp_path / "down").iterdir()}
    assert files == {"one.txt": "one", "two.txt": "two"}
    assert older.files.keys() == {"one.txt"}
    assert newer.files.keys() == {"two.txt"}
    assert newer.contents.keys() == {"one.txt", "two.txt"}


@pytest.mark.slow
def test_resumes_a_killed_run(tmp_path: Path) -> None:
    with WandbServer() as server:
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, "killed", "0.25", "0.5"],
            env=client_environment(server, tmp_path),
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as client:
            wait_until(lambda: "killed" in server.runs and len(server.runs["killed"].history) == 2)
            printed, _ = client.communicate("now\n", timeout=60)
        assert printed == "[False, 0]\n"
        assert client.returncode == -signal.SIGKILL
        run = server.runs["killed"]
        assert run.state == "running"
        again = run_client(server, tmp_path, "-c", KILLED, "ended", "0.75")
    assert again.startswith("[True, 2]\n")
    assert [(row["_step"], row["loss"]) for row in run.history] == [(0, 0.25), (1, 0.5), (2, 0.75)]
    assert run.state == "finished"


def test_refuses_a_wrong_key(tmp_path: Path) -> None:
    program = "import os; os.environ['WANDB_API_KEY'] = 40 * 'f'" + INITIALISE
    with WandbServer() as server:
        printed = run_client(server, tmp_path, "-c", program)
        assert not server.runs
        assert server.requests
    assert printed.endswith("refused\n")


@pytest.mark.slow
def test_fails_until_told_otherwise(tmp_path: Path) -> None:
    with WandbServer() as server:
        server.fail_with(503)
        assert run_client(server, tmp_path, "-c", INITIALISE).endswith("refused\n")
        assert server.requests
        assert not server.runs
        server.fail_with(None)
        assert "refused" not in run_client(server, tmp_path, "-c", INITIALISE)
        assert len(server.runs) == 1


@pytest.mark.slow
def test_restarts_at_the_same_address(tmp_path: Path) -> None:
    with WandbServer(keep_bodies=True) as server:
        run_client(server, tmp_path, "-c", RESUME, "0.25")
        url = server.url
        server.stop()
        server.restart()
        assert server.url == url
        run_client(server, tmp_path, "-c", RESUME, "0.75")
        assert [row["loss"] for row in server.runs["twice"].history] == [0.25, 0.75]
        assert len(server.bodies) == len(server.requests)


@pytest.mark.slow
def test_keeps_workspaces(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    with WandbServer() as server:
        printed = run_client(server, tmp_path, "-c", SAVE_WORKSPACE)
    (view,) = server.views.values()
    assert json.loads(printed) == ["a view", ["Main"]]
    assert (view.display_name, view.project, view.type) == (
        "renamed",
        "server-test",
        "project-view",
    )
    (section,) = view.spec["section"]["panelBankConfig"]["sections"]
    assert section["panels"][0]["config"]["metrics"] == ["loss"]


@pytest.mark.slow
def test_serves_by_itself(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with subprocess.Popen(
        [sys.executable, "-m", "support.wandb_server", "--state", str(state)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = itertools.takewhile(lambda line: "NO_PROXY" not in line, process.stdout)
        exports = [line.strip().removeprefix("export ").split("=", 1) for line in lines]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **dict(exports)}
        subprocess.run(
            [sys.executable, "-c", LOG_MODEL, "one"],
            env={**environment, "WANDB_DIR": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
            check=True,
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    recorded = json.loads(state.read_text())
    assert recorded["runs"]["log-one"]["state"] == "finished"
    assert recorded["artifacts"][0]["name"] == "model:v0"
    assert recorded["artifacts"][0]["aliases"] == ["latest"]
