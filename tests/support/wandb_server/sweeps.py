"""Sweeps: what `wandb sweep` creates and `wandb agent` works through.

An agent sends a heartbeat every five seconds with the runs that it runs, and gets commands back:
`run`, `resume` (the same with an old run's id), `stop` (SIGTERM, and SIGKILL when it has gone on
for 30 s) and `exit` (which kills what still runs, so it is sent to idle agents only).

A client reports `run.mark_preempting()` as `"preempting": true` in its file stream. A run that did
so and did not end with exit code 0 is given out again, as `resume`, before any new one. The agent
starts it as it starts a new one, with the old `WANDB_RUN_ID`: the client goes on with its history
only if it passes `resume="allow"` or `"must"` to `wandb.init`.

A process that ends by an unhandled signal tells no exit code, so that its run is `running` until
its agent's next heartbeat; then it is `killed`, `preempted` or `crashed`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import graphql
import yaml

from support.wandb_server.operation import Arguments, connection
from support.wandb_server.parameters import draw, grid
from support.wandb_server.records import DEFAULT_PROJECT, ENTITY, now, project_fields
from support.wandb_server.runs import run_fields

if TYPE_CHECKING:
    from support.wandb_server.server import WandbServer

METHODS = ("grid", "random")
UNFINISHED = ("PENDING", "RUNNING", "PAUSED")


@dataclass
class SweepRun:
    """One run that a sweep has given out; `running` is what its agent said last."""

    id: str
    config: dict[str, Any]
    agents: list[str]
    running: bool = True
    stopped: bool = False

    def command(self, kind: str, program: str | None) -> dict[str, Any]:
        """The command that starts the run."""
        args = {name: {"value": value} for name, value in self.config.items()}
        return {"type": kind, "run_id": self.id, "program": program, "args": args}


@dataclass
class SweepAgent:
    """One agent, with the commands that it was given."""

    id: str
    host: str
    commands: list[dict[str, Any]] = field(default_factory=list)
    created_at: str = field(default_factory=now)
    heartbeat_at: str = field(default_factory=now)


@dataclass
class ServerSweep:
    """One sweep: its configuration as sent, the runs given out in order, and its agents."""

    id: str
    entity: str
    project: str
    text: str
    number: int
    state: str = "PENDING"
    runs: dict[str, SweepRun] = field(default_factory=dict)
    agents: dict[str, SweepAgent] = field(default_factory=dict)
    created_at: str = field(default_factory=now)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as values."""
        values: dict[str, Any] = yaml.safe_load(self.text)
        return values

    @property
    def expected(self) -> int | None:
        """How many runs the sweep will have, None without an end."""
        config = self.config
        cap = config.get("run_cap")
        if config["method"] == "random":
            return cap
        cells = sum(1 for _ in grid(config["parameters"]))
        return cells if cap is None else min(cells, cap)

    def next_config(self, seed: int) -> dict[str, Any] | None:
        """The next cell that no run was given, or the next draw; None if nothing is left."""
        config = self.config
        if len(self.runs) >= config.get("run_cap", float("inf")):
            return None
        if config["method"] == "random":
            return draw(config["parameters"], (seed, self.number, len(self.runs)))
        given = [run.config for run in self.runs.values()]
        return next((cell for cell in grid(config["parameters"]) if cell not in given), None)


def upsert_sweep(server: WandbServer, arguments: Arguments) -> Any:
    """Create a sweep, or change the state or the configuration of one."""
    text, state = arguments.get("config"), arguments.get("state")
    if text is not None:
        _check(yaml.safe_load(text))
    if arguments.get("id"):
        sweep = server.sweeps[arguments["id"].removeprefix("Sweep:")]
        sweep.text = text or sweep.text
        sweep.state = state or ("RUNNING" if sweep.state == "FINISHED" else sweep.state)
    elif text is None:
        raise graphql.GraphQLError("A sweep needs a configuration.")
    else:
        number = len(server.sweeps) + 1
        sweep = ServerSweep(
            id=f"sweep{number}",
            entity=arguments.get("entityName") or ENTITY,
            project=arguments.get("projectName") or DEFAULT_PROJECT,
            text=text,
            number=number,
            state=state or "PENDING",
        )
        server.sweeps[sweep.id] = sweep
    return {"sweep": sweep_fields(server, sweep), "configValidationWarnings": []}


def _check(config: dict[str, Any]) -> None:
    if config.get("method") not in METHODS:
        raise graphql.GraphQLError(f"This server's sweeps have a method of {METHODS}.")
    if not config.get("parameters"):
        raise graphql.GraphQLError("A sweep needs parameters.")
    if config["method"] == "grid":
        next(grid(config["parameters"]))
    else:
        draw(config["parameters"], (0,))


def create_agent(server: WandbServer, arguments: Arguments) -> Any:
    """Register an agent with a sweep."""
    if arguments["sweep"] not in server.sweeps:
        raise graphql.GraphQLError(f"There is no sweep {arguments['sweep']}.")
    agents = server.sweeps[arguments["sweep"]].agents
    agent = SweepAgent(f"{arguments['sweep']}-agent{len(agents) + 1}", arguments["host"])
    agents[agent.id] = agent
    return {"agent": {"id": agent.id, "name": agent.id}}


def heartbeat(server: WandbServer, arguments: Arguments) -> Any:
    """Record an agent's runs, and answer with its commands."""
    agent_id = arguments["id"]
    sweep = server.sweeps[agent_id.partition("-")[0]]
    agent = sweep.agents[agent_id]
    agent.heartbeat_at = now()
    running = json.loads(arguments.get("runState") or "{}")
    for run in sweep.runs.values():
        if run.agents[-1] == agent_id and run.running:
            run.running = run.id in running
            if run.id in server.runs:
                server.runs[run.id].lost = not run.running
                server.runs[run.id].stopped = run.stopped
    commands = list(_commands(server, sweep, agent))
    agent.commands += commands
    return {"agent": {"id": agent_id}, "commands": json.dumps(commands)}


def _commands(
    server: WandbServer, sweep: ServerSweep, agent: SweepAgent
) -> Iterator[dict[str, Any]]:
    own = [run for run in sweep.runs.values() if run.running and run.agents[-1] == agent.id]
    for run in own:
        run.stopped = run.stopped or sweep.state == "CANCELED"
        if run.stopped:
            yield {"type": "stop", "run_id": run.id}
    if own or sweep.state == "PAUSED":
        return
    program = sweep.config.get("program")
    if sweep.state in UNFINISHED:
        for run in sweep.runs.values():
            if run.id in server.runs and server.runs[run.id].state == "preempted":
                run.running, run.agents = True, [*run.agents, agent.id]
                server.runs[run.id].start_again()
                yield run.command("resume", program)
                return
        config = sweep.next_config(server.seed)
        if config is not None:
            run = SweepRun(f"{sweep.id}-run{len(sweep.runs) + 1}", config, [agent.id])
            sweep.runs[run.id] = run
            sweep.state = "RUNNING"
            yield run.command("run", program)
            return
        if not any(run.running for run in sweep.runs.values()):
            sweep.state = "FINISHED"
    yield {"type": "exit"}


def stop_run(server: WandbServer, run_id: str) -> None:
    """Have a run's agent stop it, with every heartbeat until it has ended."""
    (run,) = (sweep.runs[run_id] for sweep in server.sweeps.values() if run_id in sweep.runs)
    run.stopped = True


def project_sweep_fields(server: WandbServer, entity: str, project: str) -> dict[str, Any]:
    """The sweeps among a project's fields."""
    own = [
        sweep
        for sweep in server.sweeps.values()
        if (sweep.entity, sweep.project) == (entity, project)
    ]

    def sweep_named(arguments: Arguments) -> Any:
        matches = [sweep for sweep in own if sweep.id == arguments["sweepName"]]
        return sweep_fields(server, matches[0]) if matches else None

    return {
        "sweep": sweep_named,
        "totalSweeps": len(own),
        "sweeps": lambda arguments: connection(
            [sweep_fields(server, sweep) for sweep in own], arguments
        ),
    }


def sweep_fields(server: WandbServer, sweep: ServerSweep) -> dict[str, Any]:
    """A sweep as queries read it; only runs that a client has started are among its runs."""
    config = sweep.config
    started = [server.runs[run] for run in sweep.runs if run in server.runs]
    return {
        "__typename": "Sweep",
        "id": f"Sweep:{sweep.id}",
        "name": sweep.id,
        "method": config["method"],
        "state": sweep.state,
        "description": config.get("description"),
        "config": sweep.text,
        "createdAt": sweep.created_at,
        "heartbeatAt": max((each.heartbeat_at for each in sweep.agents.values()), default=None),
        "updatedAt": sweep.created_at,
        "earlyStopJobRunning": False,
        "runCount": len(started),
        "runCountExpected": sweep.expected,
        "runs": lambda arguments: connection(
            [run_fields(server, run) for run in started], arguments
        ),
        "agents": lambda arguments: connection(
            [_agent_fields(server, sweep, agent) for agent in sweep.agents.values()], arguments
        ),
        "agent": lambda arguments: _agent_fields(
            server, sweep, sweep.agents[arguments["agentName"]]
        ),
        "project": project_fields(sweep.entity, sweep.project),
    }


def _agent_fields(server: WandbServer, sweep: ServerSweep, agent: SweepAgent) -> dict[str, Any]:
    own = [run for run in sweep.runs.values() if run.agents[-1] == agent.id]
    started = [run_fields(server, server.runs[run.id]) for run in own if run.id in server.runs]
    return {
        "id": agent.id,
        "name": agent.id,
        "host": agent.host,
        "state": "RUNNING" if any(run.running for run in own) else "IDLE",
        "totalRuns": len(own),
        "createdAt": agent.created_at,
        "heartbeatAt": agent.heartbeat_at,
        "runs": lambda arguments: connection(started, arguments),
    }


RESOLVERS = {
    "upsertSweep": upsert_sweep,
    "createAgent": create_agent,
    "agentHeartbeat": heartbeat,
}
