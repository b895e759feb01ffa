"""The server: it listens, checks keys, keeps all records and routes requests."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import graphql

from support.wandb_server import artifacts, runs, sweeps, views
from support.wandb_server.operation import Arguments, Operation
from support.wandb_server.records import (
    API_KEY,
    DEFAULT_PROJECT,
    ENTITY,
    project_fields,
    viewer_fields,
)

Resolver = Callable[["WandbServer", Arguments], Any]
Answer = tuple[HTTPStatus, Any]
AUTHORIZATION = "Basic " + base64.b64encode(f"api:{API_KEY}".encode()).decode()


class WandbServer:
    """A service on 127.0.0.1 for as long as its context lasts, or until it is stopped."""

    def __init__(
        self, *, port: int = 0, hang: bool = False, seed: int = 0, keep_bodies: bool = False
    ) -> None:
        """Listen on a port, by default a free one.

        With `hang`, accept connections and never answer; `seed` is that of random sweeps; with
        `keep_bodies`, keep what each of the `requests` sent in `bodies`.
        """
        self.runs: dict[str, runs.ServerRun] = {}
        self.artifacts: dict[str, artifacts.ServerArtifact] = {}
        self.sweeps: dict[str, sweeps.ServerSweep] = {}
        self.views: dict[str, views.ServerView] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.bodies: list[bytes] = []
        self.hang = hang
        self.seed = seed
        self.stopped = threading.Event()
        self._keep_bodies = keep_bodies
        self._failure: HTTPStatus | None = None
        self._lock = threading.Lock()
        self._listen(port)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address for clients."""
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

    def restart(self) -> None:
        """After a stop, listen at the same address again, with all that was recorded."""
        self.stopped.clear()
        self._listen(self._http.server_port)
        self._thread.start()

    def fail_with(self, status: int | None) -> None:
        """Answer every request with an HTTP status from now on; None ends that."""
        self._failure = None if status is None else HTTPStatus(status)

    def stop_run(self, run_id: str) -> None:
        """Have the agent of a sweep's run stop it, with every heartbeat until it has ended."""
        with self._lock:
            sweeps.stop_run(self, run_id)

    def handle(self, method: str, target: str, body: bytes, authorization: str | None) -> Answer:
        """Answer one request with a status, and with bytes or a JSON value."""
        path = urlsplit(target).path
        parts = [unquote(part) for part in path.split("/")[1:]]
        operation = Operation(json.loads(body)) if parts == ["graphql"] else None
        with self._lock:
            self.requests.append((method, path, operation.name if operation else None))
            if self._keep_bodies:
                self.bodies.append(body)
            if self._failure:
                return self._failure, {"error": self._failure.phrase}
            if parts[0] == "storage":
                return self._storage(method, parts[1], parts[2], "/".join(parts[3:]), body)
            if authorization != AUTHORIZATION:
                return HTTPStatus.UNAUTHORIZED, {"error": "user is not logged in"}
            if operation:
                return HTTPStatus.OK, self._answer(operation)
            if parts[0] == "files" and parts[-1] == "file_stream" and parts[-2] in self.runs:
                self.runs[parts[-2]].append(json.loads(body))
                return HTTPStatus.OK, {}
            return HTTPStatus.NOT_FOUND, {"error": "not found"}

    def storage_url(self, kind: str, owner: str, name: str) -> str:
        """The address of one file of a run or an artifact, for its upload and its download."""
        return f"{self.url}/storage/{kind}/{quote(owner)}/{quote(name)}"

    def run_artifacts(self, run_id: str, how: str, arguments: Arguments) -> Any:
        """The artifacts that a run has `logged` or `used`."""
        return artifacts.run_artifacts(self, run_id, how, arguments)

    def _listen(self, port: int) -> None:
        self._http = _Listener(("127.0.0.1", port), partial(_Handler, self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def _answer(self, operation: Operation) -> dict[str, Any]:
        try:
            return {"data": operation.answer(self._resolve)}
        except graphql.GraphQLError as error:
            return {"data": None, "errors": [error.formatted]}

    def _resolve(self, name: str, arguments: Arguments) -> Any:
        if name not in RESOLVERS:
            raise graphql.GraphQLError(f'Cannot query field "{name}".')
        return RESOLVERS[name](self, arguments)

    def _storage(self, method: str, kind: str, owner: str, name: str, body: bytes) -> Answer:
        if method == "PUT":
            self._store(kind, owner, name, body)
            return HTTPStatus.OK, {}
        try:
            return HTTPStatus.OK, self._stored(kind, owner, name)
        except KeyError:
            return HTTPStatus.NOT_FOUND, {"error": "not found"}

    def _store(self, kind: str, owner: str, name: str, content: bytes) -> None:
        if kind == "run":
            self.runs[owner].files[name] = content
        elif kind == "artifact":
            self.artifacts[owner].files[name] = content
        else:
            self.artifacts[owner].manifest = json.loads(content)

    def _stored(self, kind: str, owner: str, name: str) -> bytes:
        if kind == "run":
            return self.runs[owner].files[name]
        if kind == "artifact":
            return artifacts.content(self, self.artifacts[owner], name)
        return json.dumps(self.artifacts[owner].manifest).encode()


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

    def do_GET(self) -> None:
        """Answer the download of a file."""
        self._respond()

    def do_POST(self) -> None:
        """Answer a query, or lines appended to a run's streams."""
        self._respond()

    def do_PUT(self) -> None:
        """Answer the upload of a file."""
        self._respond()

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, value = self._owner.handle(
            self.command, self.path, body, self.headers.get("Authorization")
        )
        stored = isinstance(value, bytes)
        content = value if stored else json.dumps(value).encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", "application/octet-stream" if stored else "application/json"
        )
        self.send_header("Content-Length", str(len(content)))
        if stored:
            self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        self.end_headers()
        self.wfile.write(content)


def _project(server: WandbServer, arguments: Arguments) -> Any:
    entity = arguments.get("entityName") or ENTITY
    project = arguments.get("name") or DEFAULT_PROJECT
    return {
        **project_fields(entity, project),
        **runs.project_run_fields(server, entity, project),
        **sweeps.project_sweep_fields(server, entity, project),
        **artifacts.project_artifact_fields(server, entity, project),
        **views.project_view_fields(server, entity, project),
    }


RESOLVERS: dict[str, Resolver] = {
    "viewer": lambda server, arguments: viewer_fields(),
    "serverInfo": lambda server, arguments: {"features": []},
    "model": _project,
    "project": _project,
    **runs.RESOLVERS,
    **sweeps.RESOLVERS,
    **artifacts.RESOLVERS,
    **views.RESOLVERS,
}
