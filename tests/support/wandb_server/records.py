"""Shared by all parts of the server: its one user, its projects and its clock."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

API_KEY = "0123456789abcdef0123456789abcdef01234567"
ENTITY = "tester"
DEFAULT_PROJECT = "uncategorized"


def now() -> str:
    """This moment, as the service writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def decoded(text: str | None) -> Any:
    """The value of a JSON string that a client may leave out."""
    return json.loads(text) if text else None


def project_fields(entity: str, project: str) -> dict[str, Any]:
    """The fields of a project that hold only its name."""
    return {
        "id": f"project-{project}",
        "internalId": "1",
        "name": project,
        "entity": {"id": entity, "name": entity},
        "entityName": entity,
        "createdAt": "2026-01-01T00:00:00Z",
        "isBenchmark": False,
        "readOnly": False,
    }


def viewer_fields() -> dict[str, Any]:
    """The server's one user."""
    return {
        "id": "viewer",
        "entity": ENTITY,
        "username": ENTITY,
        "name": ENTITY,
        "email": f"{ENTITY}@example.com",
        "admin": False,
        "flags": "{}",
        "apiKeys": {"edges": []},
        "teams": {"edges": []},
    }
