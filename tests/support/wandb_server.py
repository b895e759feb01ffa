"""A loopback server that answers the real Weights & Biases client over HTTP and GraphQL.

It keeps everything that a client sends in memory, where a test can read it back. Fields that a
query selects and no resolver provides come back as null, and operations that no resolver knows
come back as GraphQL errors, as from a server without those features.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import graphql

API_KEY = "0123456789abcdef0123456789abcdef01234567"
ENTITY = "tester"
DEFAULT_PROJECT = "uncategorized"

Arguments = dict[str, Any]
Resolver = Callable[["WandbServer", Arguments], Any]


@dataclass
class ServerRun:
    """One run as its client has reported it."""

    id: str
    entity: str
    project: str
    name: str
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    tags: list[str] = field(default_factory=list)
    config_record: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def state(self) -> str:
        """The state that a service would show for the run."""
        if self.exit_code is None:
            return "running"
        return "finished" if self.exit_code == 0 else "failed"

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
        return [json.loads(line) for line in self.stream("wandb-history.jsonl")]

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


@dataclass
class ServerArtifact:
    """One artifact version as its client has uploaded it."""

    id: str
    type: str
    name: str
    run_id: str | None
    digest: str
    aliases: list[str]
    metadata: dict[str, Any]
    state: str = "PENDING"
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class Operation:
    """One GraphQL operation, with what is needed to read its arguments and shape its answer."""

    def __init__(self, payload: dict[str, Any]) -> None:
        definitions = graphql.parse(payload["query"]).definitions
        self._fragments = {
            node.name.value: node
            for node in definitions
            if isinstance(node, graphql.FragmentDefinitionNode)
        }
        self._root = next(
            node for node in definitions if isinstance(node, graphql.OperationDefinitionNode)
        )
        self._variables = self._defaults() | (payload.get("variables") or {})

    @property
    def name(self) -> str | None:
        """The name that the client gave the operation."""
        return self._root.name.value if self._root.name else None

    def answer(self, resolve: Callable[[str, Arguments], Any]) -> dict[str, Any]:
        """Resolve the operation's fields and keep of each what the client selected."""
        return {
            _answer_key(node): self._shaped(node, resolve(node.name.value, self._arguments(node)))
            for node in self._selected(self._root.selection_set)
        }

    def _defaults(self) -> Arguments:
        return {
            node.variable.name.value: graphql.value_from_ast_untyped(node.default_value)
            for node in self._root.variable_definitions or ()
            if node.default_value
        }

    def _arguments(self, node: graphql.FieldNode | graphql.DirectiveNode) -> Arguments:
        arguments: Arguments = {
            argument.name.value: graphql.value_from_ast_untyped(argument.value, self._variables)
            for argument in node.arguments or ()
        }
        inputs: Arguments = arguments.get("input", arguments)
        return inputs

    def _selected(self, selection_set: graphql.SelectionSetNode) -> Iterator[graphql.FieldNode]:
        for node in selection_set.selections:
            if not self._is_included(node):
                continue
            if isinstance(node, graphql.FieldNode):
                yield node
            elif isinstance(node, graphql.InlineFragmentNode):
                yield from self._selected(node.selection_set)
            elif isinstance(node, graphql.FragmentSpreadNode):
                yield from self._selected(self._fragments[node.name.value].selection_set)

    def _is_included(self, node: graphql.SelectionNode) -> bool:
        for directive in node.directives or ():
            condition = self._arguments(directive)["if"]
            if condition != (directive.name.value == "include"):
                return False
        return True

    def _shaped(self, node: graphql.FieldNode, value: Any) -> Any:
        if callable(value):
            value = value(self._arguments(node))
        if isinstance(value, list):
            return [self._shaped(node, item) for item in value]
        if value is None or node.selection_set is None:
            return value
        return {
            _answer_key(child): self._shaped(child, value.get(child.name.value))
            for child in self._selected(node.selection_set)
        }


def _answer_key(node: graphql.FieldNode) -> str:
    return node.alias.value if node.alias else node.name.value


class WandbServer:
    """A service on 127.0.0.1 for as long as its context lasts, or until it is stopped."""

    def __init__(self, *, hang: bool = False) -> None:
        """Listen on a free port; with `hang`, accept connections and never answer."""
        self.runs: dict[str, ServerRun] = {}
        self.artifacts: dict[str, ServerArtifact] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.hang = hang
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._http = _Listener(("127.0.0.1", 0), partial(_Handler, self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address that a client is to be given."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def environment(self) -> dict[str, str]:
        """The variables that point a client here and keep it off every other host."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_ENTITY": ENTITY,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_DISABLE_GIT": "true",
            "WANDB_DISABLE_CODE": "true",
            "WANDB__DISABLE_STATS": "true",
            "WANDB__DISABLE_MACHINE_INFO": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def stop(self) -> None:
        """Refuse all further connections and drop those that hang."""
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()

    def handle(self, method: str, target: str, body: bytes) -> tuple[HTTPStatus, Any]:
        """Answer one request with a status and a JSON value."""
        path = urlsplit(target).path
        parts = [unquote(part) for part in path.split("/")[1:]]
        operation = Operation(json.loads(body)) if parts == ["graphql"] else None
        with self._lock:
            self.requests.append((method, path, operation.name if operation else None))
            if operation:
                return HTTPStatus.OK, self._answer(operation)
            if method == "PUT" and parts[0] == "storage":
                self._store(parts[1], parts[2], "/".join(parts[3:]), body)
                return HTTPStatus.OK, {}
            if method == "POST" and parts[0] == "files" and parts[-1] == "file_stream":
                return HTTPStatus.OK, self._append(self.runs[parts[-2]], json.loads(body))
            return HTTPStatus.NOT_FOUND, {"error": "not found"}

    def storage_url(self, kind: str, owner: str, name: str) -> str:
        """The address to which the client uploads one file of a run or an artifact."""
        return f"{self.url}/storage/{kind}/{quote(owner)}/{quote(name)}"

    def _answer(self, operation: Operation) -> dict[str, Any]:
        try:
            return {"data": operation.answer(self._resolve)}
        except graphql.GraphQLError as error:
            return {"data": None, "errors": [error.formatted]}

    def _resolve(self, name: str, arguments: Arguments) -> Any:
        if name not in RESOLVERS:
            raise graphql.GraphQLError(f'Cannot query field "{name}".')
        return RESOLVERS[name](self, arguments)

    def _store(self, kind: str, owner: str, name: str, content: bytes) -> None:
        if kind == "run":
            self.runs[owner].files[name] = content
        elif kind == "artifact":
            self.artifacts[owner].files[name] = content
        else:
            self.artifacts[owner].manifest = json.loads(content)

    def _append(self, run: ServerRun, body: dict[str, Any]) -> dict[str, Any]:
        for name, chunk in (body.get("files") or {}).items():
            if name == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
            else:
                run.write_stream(name, chunk["offset"], chunk["content"])
        if body.get("complete"):
            run.exit_code = body["exitcode"]
        return {}


class _Listener(ThreadingHTTPServer):
    request_queue_size = 64


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, lets the server answer it, and closes the connection."""

    def __init__(self, owner: WandbServer, *arguments: Any) -> None:
        self._owner = owner
        super().__init__(*arguments)

    def handle(self) -> None:
        if self._owner.hang:
            self._owner.stopped.wait()
        else:
            super().handle()

    def log_message(self, *arguments: Any) -> None:
        """Keep the requests off the test's output."""

    def do_POST(self) -> None:
        """Answer a query, or lines appended to a run's streams."""
        self._respond()

    def do_PUT(self) -> None:
        """Answer the upload of a file."""
        self._respond()

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, value = self._owner.handle(self.command, self.path, body)
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _viewer(server: WandbServer, arguments: Arguments) -> Any:
    return {
        "id": "viewer",
        "entity": ENTITY,
        "username": ENTITY,
        "email": f"{ENTITY}@example.com",
        "flags": "{}",
        "teams": {"edges": []},
    }


def _server_info(server: WandbServer, arguments: Arguments) -> Any:
    return {"features": []}


def _project(server: WandbServer, arguments: Arguments) -> Any:
    def find_run(wanted: Arguments) -> Any:
        run = server.runs.get(wanted["name"])
        return _run_fields(run) if run else None

    return _project_fields(
        arguments.get("entityName") or ENTITY, arguments.get("name") or DEFAULT_PROJECT
    ) | {"bucket": find_run, "run": find_run}


def _upsert_run(server: WandbServer, arguments: Arguments) -> Any:
    run_id = arguments["name"]
    inserted = run_id not in server.runs
    run = server.runs.setdefault(
        run_id,
        ServerRun(
            id=run_id,
            entity=arguments.get("entityName") or ENTITY,
            project=arguments.get("modelName") or DEFAULT_PROJECT,
            name=run_id,
        ),
    )
    run.name = arguments.get("displayName") or run.name
    run.group = arguments.get("groupName") or run.group
    run.job_type = arguments.get("jobType") or run.job_type
    run.notes = arguments.get("notes") or run.notes
    run.tags = arguments.get("tags") or run.tags
    run.config_record = _decoded(arguments.get("config")) or run.config_record
    run.summary = _decoded(arguments.get("summaryMetrics")) or run.summary
    run.exit_code = None
    return {"bucket": _run_fields(run), "inserted": inserted}


def _create_run_files(server: WandbServer, arguments: Arguments) -> Any:
    run = server.runs[arguments["runName"]]
    return {
        "runID": f"run-{run.id}",
        "uploadHeaders": [],
        "files": [
            {"name": name, "uploadUrl": server.storage_url("run", run.id, name)}
            for name in arguments["files"]
        ],
    }


def _create_artifact(server: WandbServer, arguments: Arguments) -> Any:
    artifact = ServerArtifact(
        id=f"artifact-{len(server.artifacts) + 1}",
        type=arguments["artifactTypeName"],
        name=arguments["artifactCollectionName"],
        run_id=arguments.get("runName"),
        digest=arguments["digest"],
        aliases=[alias["alias"] for alias in arguments.get("aliases") or []],
        metadata=_decoded(arguments.get("metadata")) or {},
    )
    server.artifacts[artifact.id] = artifact
    return {"artifact": _artifact_fields(artifact)}


def _create_artifact_manifest(server: WandbServer, arguments: Arguments) -> Any:
    artifact = arguments["artifactID"]
    upload_url = server.storage_url("manifest", artifact, arguments["name"])
    file = {"id": artifact, "uploadUrl": upload_url, "uploadHeaders": []}
    return {"artifactManifest": {"id": artifact, "file": file}}


def _create_artifact_files(server: WandbServer, arguments: Arguments) -> Any:
    def granted(artifact: str, name: str) -> dict[str, Any]:
        return {
            "storagePath": f"{artifact}/{name}",
            "uploadUrl": server.storage_url("artifact", artifact, name),
            "uploadHeaders": [],
            "artifact": {"id": artifact},
        }

    wanted = [(file["artifactID"], file["name"]) for file in arguments["artifactFiles"]]
    return {"files": {"edges": [{"node": granted(*file)} for file in wanted]}}


def _commit_artifact(server: WandbServer, arguments: Arguments) -> Any:
    artifact = server.artifacts[arguments["artifactID"]]
    artifact.state = "COMMITTED"
    return {"artifact": _artifact_fields(artifact)}


RESOLVERS: dict[str, Resolver] = {
    "viewer": _viewer,
    "serverInfo": _server_info,
    "model": _project,
    "project": _project,
    "upsertBucket": _upsert_run,
    "createRunFiles": _create_run_files,
    "createArtifact": _create_artifact,
    "createArtifactManifest": _create_artifact_manifest,
    "createArtifactFiles": _create_artifact_files,
    "commitArtifact": _commit_artifact,
}


def _decoded(text: str | None) -> Any:
    return json.loads(text) if text else None


def _project_fields(entity: str, project: str) -> dict[str, Any]:
    return {"id": f"project-{project}", "name": project, "entity": {"id": entity, "name": entity}}


def _run_fields(run: ServerRun) -> dict[str, Any]:
    history, events = run.stream("wandb-history.jsonl"), run.stream("wandb-events.jsonl")
    return {
        "id": f"run-{run.id}",
        "name": run.id,
        "displayName": run.name,
        "state": run.state,
        "tags": run.tags,
        "notes": run.notes,
        "config": json.dumps(run.config_record),
        "summaryMetrics": json.dumps(run.summary),
        "historyLineCount": len(history),
        "eventsLineCount": len(events),
        "logLineCount": len(run.output),
        "historyTail": json.dumps(history[-1:]),
        "eventsTail": json.dumps(events[-1:]),
        "wandbConfig": json.dumps(run.client_config),
        "project": _project_fields(run.entity, run.project),
    }


def _artifact_fields(artifact: ServerArtifact) -> dict[str, Any]:
    return {
        "id": artifact.id,
        "state": artifact.state,
        "digest": artifact.digest,
        "artifactSequence": {"latestArtifact": None},
    }
