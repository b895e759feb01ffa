"""Runs as their clients report them, and the queries that read them back."""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import graphql

from support.wandb_server.operation import Arguments, connection
from support.wandb_server.records import (
    DEFAULT_PROJECT,
    ENTITY,
    decoded,
    now,
    project_fields,
    viewer_fields,
)

if TYPE_CHECKING:
    from support.wandb_server.server import WandbServer

HISTORY = "wandb-history.jsonl"
EVENTS = "wandb-events.jsonl"


@dataclass
class ServerRun:
    """One run as its client has reported it.

    `stopped` says that the server asked for its end, `lost` that its agent saw its process end.
    """

    id: str
    entity: str
    project: str
    name: str
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    sweep: str | None = None
    tags: list[str] = field(default_factory=list)
    config_record: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    preempting: bool = False
    stopped: bool = False
    lost: bool = False
    exit_code: int | None = None
    created_at: str = field(default_factory=now)
    heartbeat_at: str = field(default_factory=now)

    @property
    def state(self) -> str:
        """The state that a service would show for the run."""
        if self.exit_code == 0:
            return "finished"
        if self.exit_code is None and not self.lost:
            return "preempting" if self.preempting else "running"
        if self.stopped:
            return "killed"
        if self.preempting:
            return "preempted"
        return "crashed" if self.exit_code is None else "failed"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration's plain values, without the client's own section."""
        return {key: entry["value"] for key, entry in self.config_record.items() if key != "_wandb"}

    @property
    def client_config(self) -> dict[str, Any]:
        """The client's own section of the configuration; a run without one is not resumed."""
        section: dict[str, Any] = self.config_record.get("_wandb", {}).get("value", {})
        return section

    @property
    def history(self) -> list[dict[str, Any]]:
        """The logged rows in order."""
        return [json.loads(line) for line in self.stream(HISTORY)]

    @property
    def output(self) -> list[str]:
        """The console lines in order."""
        return self.stream("output.log")

    def stream(self, name: str) -> list[str]:
        """The lines of one of the files that the client streams."""
        return self.streams.get(name, [])

    def write_stream(self, name: str, offset: int, lines: Sequence[str]) -> None:
        """Place lines at an offset of a streamed file, over what was there."""
        stored = self.streams.setdefault(name, [])
        stored[offset : offset + len(lines)] = lines

    def append(self, body: dict[str, Any]) -> None:
        """Take in one message of the client's file stream."""
        for name, chunk in (body.get("files") or {}).items():
            if name == "wandb-summary.json":
                self.summary = json.loads(chunk["content"][-1])
            else:
                self.write_stream(name, chunk["offset"], chunk["content"])
        self.heartbeat_at = now()
        self.preempting = self.preempting or bool(body.get("preempting"))
        if body.get("complete"):
            self.exit_code = body["exitcode"]

    def start_again(self) -> None:
        """Clear the run's ending, because a client resumes it."""
        self.exit_code = None
        self.preempting = self.stopped = self.lost = False


def upsert_run(server: WandbServer, arguments: Arguments) -> Any:
    """Create a run, or change one: by its name from a run's client, by its id from elsewhere."""
    if arguments.get("id"):
        run, inserted = _by_id(server, arguments["id"]), False
    else:
        run, inserted = _started(server, arguments)
    run.name = arguments.get("displayName") or run.name
    run.group = arguments.get("groupName") or run.group
    run.job_type = arguments.get("jobType") or run.job_type
    run.notes = arguments.get("notes") or run.notes
    run.sweep = arguments.get("sweep") or run.sweep
    tags = arguments.get("tags")
    run.tags = run.tags if tags is None else tags
    run.config_record = decoded(arguments.get("config")) or run.config_record
    run.summary = decoded(arguments.get("summaryMetrics")) or run.summary
    return {"bucket": run_fields(server, run), "inserted": inserted}


def _started(server: WandbServer, arguments: Arguments) -> tuple[ServerRun, bool]:
    run_id = arguments["name"]
    entity = arguments.get("entityName") or ENTITY
    project = arguments.get("modelName") or DEFAULT_PROJECT
    if run_id in server.runs:
        run = server.runs[run_id]
        if (run.entity, run.project) != (entity, project):  # a service would make another run
            raise graphql.GraphQLError(f"{run_id} is in {run.project}, not in {project}.")
        if run.exit_code is not None or run.lost:
            run.start_again()
        return run, False
    run = server.runs[run_id] = ServerRun(
        id=run_id,
        entity=entity,
        project=project,
        name=run_id,
    )
    return run, True


def delete_run(server: WandbServer, arguments: Arguments) -> Any:
    """Forget a run."""
    del server.runs[_by_id(server, arguments["id"]).id]
    return {"clientMutationId": None}


def _by_id(server: WandbServer, node_id: str) -> ServerRun:
    return server.runs[node_id.removeprefix("run-")]


def create_run_files(server: WandbServer, arguments: Arguments) -> Any:
    """Tell the client where to put a run's files."""
    run = server.runs[arguments["runName"]]
    return {
        "runID": f"run-{run.id}",
        "uploadHeaders": [],
        "files": [
            {"name": name, "uploadUrl": server.storage_url("run", run.id, name)}
            for name in arguments["files"]
        ],
    }


def project_run_fields(server: WandbServer, entity: str, project: str) -> dict[str, Any]:
    """The runs among a project's fields."""

    def run_named(arguments: Arguments) -> Any:
        run = server.runs.get(arguments["name"])
        if run is None or (run.entity, run.project) != (entity, project):
            return None
        return run_fields(server, run)

    def chosen(arguments: Arguments) -> list[ServerRun]:
        filters = decoded(arguments.get("filters")) or {}
        own = [
            run for run in server.runs.values() if (run.entity, run.project) == (entity, project)
        ]
        return ordered([run for run in own if matches(run, filters)], arguments.get("order"))

    return {
        "bucket": run_named,
        "run": run_named,
        "runCount": lambda arguments: len(chosen(arguments)),
        "runs": lambda arguments: connection(
            [run_fields(server, run) for run in chosen(arguments)], arguments
        ),
    }


def run_fields(server: WandbServer, run: ServerRun) -> dict[str, Any]:
    """A run's fields, those with arguments and those that need a search as functions."""
    history, events = run.stream(HISTORY), run.stream(EVENTS)
    return {
        "__typename": "Run",
        "id": f"run-{run.id}",
        "projectId": "1",
        "name": run.id,
        "displayName": run.name,
        "sweepName": run.sweep,
        "state": run.state,
        "exitcode": run.exit_code,
        "running": run.state in ("running", "preempting"),
        "failed": run.state == "failed",
        "stopped": run.state == "killed",
        "shouldStop": run.stopped,
        "group": run.group,
        "jobType": run.job_type,
        "tags": run.tags,
        "notes": run.notes,
        "readOnly": False,
        "user": viewer_fields(),
        "createdAt": run.created_at,
        "heartbeatAt": run.heartbeat_at,
        "config": json.dumps(run.config_record),
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": "{}",
        "historyLineCount": len(history),
        "eventsLineCount": len(events),
        "logLineCount": len(run.output),
        "historyTail": json.dumps(history[-1:]),
        "eventsTail": json.dumps(events[-1:]),
        "historyKeys": lambda _: _history_keys(run),
        "history": lambda arguments: _history_page(run, arguments),
        "events": lambda arguments: events[: arguments.get("samples")],
        "sampledHistory": lambda arguments: [
            _sampled(run, json.loads(spec)) for spec in arguments["specs"]
        ],
        "parquetHistory": {"parquetUrls": [], "liveData": lambda _: run.history},
        "fileCount": len(run.files),
        "files": lambda arguments: _files(server, run, arguments),
        "inputArtifacts": lambda arguments: server.run_artifacts(run.id, "used", arguments),
        "outputArtifacts": lambda arguments: server.run_artifacts(run.id, "logged", arguments),
        "wandbConfig": json.dumps(run.client_config),
        "project": project_fields(run.entity, run.project),
    }


def _history_keys(run: ServerRun) -> dict[str, Any]:
    rows = run.history
    counts: dict[str, int] = {}
    for row in rows:
        for key in row:
            counts[key] = counts.get(key, 0) + 1
    return {
        "sets": [],
        "keys": {
            key: {"typeCounts": [{"type": "number", "count": count}], "monotonic": False}
            for key, count in counts.items()
        },
        "lastStep": max((row["_step"] for row in rows), default=-1),
    }


def _history_page(run: ServerRun, arguments: Arguments) -> list[str]:
    first, last = arguments.get("minStep") or 0, arguments.get("maxStep")
    page = [
        json.dumps(row)
        for row in run.history
        if row["_step"] >= first and (last is None or row["_step"] < last)
    ]
    return page[: arguments.get("samples")]


def _sampled(run: ServerRun, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that have all keys of a specification, from its first to its last step."""
    keys = spec.get("keys") or []
    first, last = spec.get("minStep") or 0, spec.get("maxStep")
    return [
        {key: row[key] for key in keys}
        for row in run.history
        if all(key in row for key in keys)
        and row["_step"] >= first
        and (last is None or row["_step"] <= last)
    ]


def _files(server: WandbServer, run: ServerRun, arguments: Arguments) -> dict[str, Any]:
    names = arguments.get("names") or list(run.files)
    pattern = (arguments.get("pattern") or "%").replace("%", "*").replace("_", "?")
    files = [
        file_fields(server.storage_url("run", run.id, name), name, run.files[name])
        for name in names
        if name in run.files and fnmatchcase(name, pattern)
    ]
    return connection(files, arguments)


def file_fields(url: str, name: str, content: bytes) -> dict[str, Any]:
    """The fields of a stored file."""
    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
    return {
        "__typename": "File",
        "id": f"file-{name}",
        "name": name,
        "displayName": name,
        "url": url,
        "directUrl": url,
        "sizeBytes": len(content),
        "mimetype": mimetypes.guess_type(name)[0],
        "updatedAt": now(),
        "digest": md5,
        "md5": md5,
    }


def matches(run: ServerRun, filters: dict[str, Any]) -> bool:
    """Whether a run passes the client's filters; raises on a filter that is not served."""
    return all(_passes(run, key, wanted) for key, wanted in filters.items())


def _passes(run: ServerRun, key: str, wanted: Any) -> bool:
    if key == "$and":
        return all(matches(run, each) for each in wanted)
    if key == "$or":
        return any(matches(run, each) for each in wanted)
    value = _column(run, key)
    if not isinstance(wanted, dict):
        return bool(value == wanted)
    if wanted.keys() != {"$in"}:
        raise graphql.GraphQLError(f"No runs are filtered by {wanted} here.")
    return value in wanted["$in"]


def ordered(runs: list[ServerRun], order: str | None) -> list[ServerRun]:
    """Sort runs by a column with its sign; those without a value come last."""
    order = order or "+created_at"
    sign, column = (order[0], order[1:]) if order[0] in "+-" else ("+", order)
    if column in ("created_at", "createdAt"):
        return runs if sign == "+" else runs[::-1]
    known = [run for run in runs if _column(run, column) is not None]
    known.sort(key=lambda run: _column(run, column), reverse=sign == "-")
    return known + [run for run in runs if run not in known]


def _column(run: ServerRun, name: str) -> Any:
    """A run's value under one of the names that filters and orders know."""
    columns = {
        "name": run.id,
        "display_name": run.name,
        "displayName": run.name,
        "group": run.group,
        "jobType": run.job_type,
        "job_type": run.job_type,
        "state": run.state,
        "sweep": run.sweep,
        "tags": run.tags,
    }
    if name in columns:
        return columns[name]
    section, _, path = name.partition(".")
    values: Any = {"config": run.config, "summary_metrics": run.summary}.get(section)
    if values is None:
        raise graphql.GraphQLError(f'Runs have no column "{name}" here.')
    for key in path.removesuffix(".value").split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


RESOLVERS = {
    "upsertBucket": upsert_run,
    "deleteRun": delete_run,
    "createRunFiles": create_run_files,
}
