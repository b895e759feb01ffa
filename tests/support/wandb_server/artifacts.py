"""Artifacts: versions that clients upload, find by alias, download and use."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import graphql

from support.wandb_server.operation import Arguments, connection
from support.wandb_server.records import DEFAULT_PROJECT, ENTITY, decoded, now, project_fields
from support.wandb_server.runs import file_fields

if TYPE_CHECKING:
    from support.wandb_server.server import WandbServer


@dataclass
class ServerArtifact:
    """One artifact version as its client has uploaded it; `version` is None until committed."""

    id: str
    entity: str
    project: str
    type: str
    name: str
    run_id: str | None
    digest: str
    aliases: list[str]
    metadata: dict[str, Any]
    description: str | None = None
    client_id: str | None = None
    base: str | None = None
    version: int | None = None
    state: str = "PENDING"
    tags: list[str] = field(default_factory=list)
    used_by: list[str] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    incremental: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    created_at: str = field(default_factory=now)

    @property
    def collection(self) -> tuple[str, str, str]:
        """The collection that the version belongs to."""
        return self.entity, self.project, self.name

    @property
    def contents(self) -> dict[str, dict[str, Any]]:
        """The manifest's entries by file name."""
        entries: dict[str, dict[str, Any]] = self.manifest.get("contents", {})
        return entries


def versions(server: WandbServer, collection: tuple[str, str, str]) -> list[ServerArtifact]:
    """A collection's committed versions in order."""
    artifacts = [
        artifact
        for artifact in server.artifacts.values()
        if artifact.collection == collection and artifact.state == "COMMITTED"
    ]
    return sorted(artifacts, key=lambda artifact: artifact.version or 0)


def version_named(
    server: WandbServer, collection: tuple[str, str, str], alias: str
) -> ServerArtifact | None:
    """The version that holds an alias, or is `v0`, `v1` and so on."""
    for artifact in versions(server, collection):
        if alias in (f"v{artifact.version}", *artifact.aliases):
            return artifact
    return None


def content(server: WandbServer, artifact: ServerArtifact, name: str) -> bytes:
    """A file's bytes, from the version that first uploaded them."""
    if name in artifact.files:
        return artifact.files[name]
    digest = artifact.contents[name]["digest"]
    for other in server.artifacts.values():
        for path, entry in other.contents.items():
            if entry["digest"] == digest and path in other.files:
                return other.files[path]
    raise KeyError(name)


def create_artifact(server: WandbServer, arguments: Arguments) -> Any:
    """Register a version before its upload, or find the one that has the same digest."""
    names = arguments.get("artifactCollectionNames") or [arguments.get("artifactCollectionName")]
    collection = (
        arguments.get("entityName") or ENTITY,
        arguments.get("projectName") or DEFAULT_PROJECT,
        str(names[0]),
    )
    aliases = [alias["alias"] for alias in arguments.get("aliases") or []]
    older = versions(server, collection)
    latest = older[-1] if older else None
    for artifact in older:
        if artifact.digest == arguments["digest"]:
            _move_aliases(server, artifact, aliases)
            return {"artifact": _created(artifact, latest)}
    artifact = ServerArtifact(
        id=f"artifact-{len(server.artifacts) + 1}",
        entity=collection[0],
        project=collection[1],
        type=arguments["artifactTypeName"],
        name=collection[2],
        run_id=arguments.get("runName"),
        digest=arguments["digest"],
        aliases=aliases,
        metadata=decoded(arguments.get("metadata")) or {},
        description=arguments.get("description"),
        client_id=arguments.get("clientID"),
        tags=[tag["tagName"] for tag in arguments.get("tags") or []],
    )
    server.artifacts[artifact.id] = artifact
    return {"artifact": _created(artifact, latest)}


def _created(artifact: ServerArtifact, latest: ServerArtifact | None) -> dict[str, Any]:
    held = {"id": latest.id, "versionIndex": latest.version} if latest else None
    sequence = {"id": f"sequence-{artifact.name}", "name": artifact.name, "latestArtifact": held}
    return {
        "id": artifact.id,
        "state": artifact.state,
        "digest": artifact.digest,
        "artifactSequence": sequence,
    }


def _move_aliases(server: WandbServer, artifact: ServerArtifact, aliases: list[str]) -> None:
    for other in versions(server, artifact.collection):
        other.aliases = [alias for alias in other.aliases if alias not in aliases]
    artifact.aliases += [alias for alias in aliases if alias not in artifact.aliases]


def create_artifact_manifest(server: WandbServer, arguments: Arguments) -> Any:
    """Tell the client where to put a version's manifest."""
    artifact = server.artifacts[arguments["artifactID"]]
    artifact.base = arguments.get("baseArtifactID")
    artifact.incremental = arguments.get("type") == "INCREMENTAL"
    return _manifest_upload(server, artifact)


def update_artifact_manifest(server: WandbServer, arguments: Arguments) -> Any:
    """Tell the client where to put an updated manifest."""
    return _manifest_upload(server, server.artifacts[arguments["artifactManifestID"]])


def _manifest_upload(server: WandbServer, artifact: ServerArtifact) -> dict[str, Any]:
    upload_url = server.storage_url("manifest", artifact.id, "wandb_manifest.json")
    file = {"id": artifact.id, "uploadUrl": upload_url, "uploadHeaders": []}
    return {"artifactManifest": {"id": artifact.id, "file": file}}


def create_artifact_files(server: WandbServer, arguments: Arguments) -> Any:
    """Tell the client where to put a version's files."""

    def granted(artifact: str, name: str) -> dict[str, Any]:
        return {
            "storagePath": f"{artifact}/{name}",
            "uploadUrl": server.storage_url("artifact", artifact, name),
            "uploadHeaders": [],
            "artifact": {"id": artifact},
        }

    wanted = [(file["artifactID"], file["name"]) for file in arguments["artifactFiles"]]
    return {"files": {"edges": [{"node": granted(*file)} for file in wanted]}}


def commit_artifact(server: WandbServer, arguments: Arguments) -> Any:
    """Give an uploaded version its number and its aliases."""
    artifact = server.artifacts[arguments["artifactID"]]
    if artifact.incremental and artifact.base:
        older = server.artifacts[artifact.base].contents
        artifact.manifest["contents"] = older | artifact.contents
    numbers = [
        other.version
        for other in server.artifacts.values()
        if other.collection == artifact.collection and other.version is not None
    ]
    artifact.version = max(numbers, default=-1) + 1
    artifact.state = "COMMITTED"
    _move_aliases(server, artifact, artifact.aliases.copy())
    return {"artifact": artifact_fields(server, artifact)}


def use_artifact(server: WandbServer, arguments: Arguments) -> Any:
    """Record that a run uses a version."""
    artifact, run = server.artifacts[arguments["artifactID"]], server.runs[arguments["runName"]]
    if artifact.id not in run.used:
        run.used.append(artifact.id)
        artifact.used_by.append(run.id)
    return {"artifact": artifact_fields(server, artifact)}


def update_artifact(server: WandbServer, arguments: Arguments) -> Any:
    """Change the editable fields of a version."""
    artifact = server.artifacts[arguments["artifactID"]]
    artifact.metadata = decoded(arguments.get("metadata")) or artifact.metadata
    artifact.description = arguments.get("description", artifact.description)
    gone = [tag["tagName"] for tag in arguments.get("tagsToDelete") or []]
    new = [tag["tagName"] for tag in arguments.get("tagsToAdd") or []]
    artifact.tags = [tag for tag in artifact.tags if tag not in gone] + new
    return {"artifact": artifact_fields(server, artifact)}


def add_aliases(server: WandbServer, arguments: Arguments) -> Any:
    """Move aliases to a version."""
    artifact = server.artifacts[arguments["artifactID"]]
    _move_aliases(server, artifact, [alias["alias"] for alias in arguments["aliases"]])
    return {"success": True}


def delete_aliases(server: WandbServer, arguments: Arguments) -> Any:
    """Take aliases from a version."""
    artifact = server.artifacts[arguments["artifactID"]]
    gone = [alias["alias"] for alias in arguments["aliases"]]
    artifact.aliases = [alias for alias in artifact.aliases if alias not in gone]
    return {"success": True}


def delete_artifact(server: WandbServer, arguments: Arguments) -> Any:
    """Delete a version's files; its number is not reused."""
    artifact = server.artifacts[arguments["artifactID"]]
    if artifact.aliases and not arguments.get("deleteAliases"):
        raise graphql.GraphQLError(f"The artifact has the aliases {artifact.aliases}.")
    artifact.state, artifact.aliases, artifact.files = "DELETED", [], {}
    return {"artifact": {"id": artifact.id}}


def client_id_mapping(server: WandbServer, arguments: Arguments) -> Any:
    """The version that a client has named before it was registered."""
    for artifact in server.artifacts.values():
        if artifact.client_id == arguments["clientID"]:
            return {"serverID": artifact.id}
    return None


def artifact_by_id(server: WandbServer, arguments: Arguments) -> Any:
    """A version by the id that the server gave it."""
    artifact = server.artifacts.get(arguments["id"])
    return artifact_fields(server, artifact) if artifact else None


def run_artifacts(server: WandbServer, run_id: str, how: str, arguments: Arguments) -> Any:
    """The versions that a run has `logged` or `used`."""
    kept = [
        artifact_fields(server, artifact)
        for artifact in server.artifacts.values()
        if artifact.state == "COMMITTED"
        and (artifact.run_id == run_id if how == "logged" else run_id in artifact.used_by)
    ]
    return connection(kept, arguments)


def project_artifact_fields(server: WandbServer, entity: str, project: str) -> dict[str, Any]:
    """The artifacts among a project's fields."""

    def membership(arguments: Arguments) -> Any:
        name, _, alias = arguments["name"].partition(":")
        artifact = version_named(server, (entity, project, name), alias or "latest")
        return _membership_fields(server, artifact) if artifact else None

    def artifact_named(arguments: Arguments) -> Any:
        member = membership(arguments)
        return member and member["artifact"]

    def collection(arguments: Arguments) -> Any:
        history = versions(server, (entity, project, arguments["name"]))
        return _collection_fields(server, history) if history else None

    def of_type(arguments: Arguments) -> Any:
        names = {
            artifact.name
            for artifact in server.artifacts.values()
            if artifact.collection[:2] == (entity, project) and artifact.type == arguments["name"]
        }
        return {
            "__typename": "ArtifactType",
            "id": f"type-{arguments['name']}",
            "name": arguments["name"],
            "createdAt": now(),
            "artifactCollection": lambda inner: (
                collection(inner) if inner["name"] in names else None
            ),
            "artifactCollections": lambda inner: connection(
                [collection({"name": name}) for name in sorted(names)], inner
            ),
        }

    return {
        "artifact": artifact_named,
        "artifactCollectionMembership": membership,
        "artifactCollection": collection,
        "artifactType": of_type,
    }


def _collection_fields(server: WandbServer, artifacts: list[ServerArtifact]) -> dict[str, Any]:
    first, aliases = artifacts[0], [alias for each in artifacts for alias in _alias_fields(each)]

    def member(arguments: Arguments) -> Any:
        artifact = version_named(server, first.collection, arguments["aliasName"])
        return _membership_fields(server, artifact) if artifact else None

    def all_versions(arguments: Arguments) -> Any:
        page = connection([artifact_fields(server, each) for each in artifacts[::-1]], arguments)
        for edge in page["edges"]:
            edge["version"] = f"v{edge['node']['versionIndex']}"
        return page

    return _collection_name(first) | {
        "id": f"sequence-{first.name}",
        "createdAt": first.created_at,
        "defaultArtifactType": {"name": first.type},
        "tags": {"edges": []},
        "digestAlgorithm": "MANIFEST_MD5",
        "aliases": lambda arguments: connection(aliases, arguments),
        "artifactMembership": member,
        "artifacts": all_versions,
    }


def _collection_name(artifact: ServerArtifact) -> dict[str, Any]:
    return {
        "__typename": "ArtifactSequence",
        "name": artifact.name,
        "project": project_fields(artifact.entity, artifact.project),
    }


def _membership_fields(server: WandbServer, artifact: ServerArtifact) -> dict[str, Any]:
    return {
        "__typename": "ArtifactCollectionMembership",
        "id": f"membership-{artifact.id}",
        "versionIndex": artifact.version,
        "createdAt": artifact.created_at,
        "aliases": _alias_fields(artifact),
        "artifactCollection": _collection_name(artifact),
        "artifact": artifact_fields(server, artifact),
        "files": _files(server, artifact),
    }


def _alias_fields(artifact: ServerArtifact) -> list[dict[str, Any]]:
    return [
        {
            "__typename": "ArtifactAlias",
            "id": f"alias-{artifact.id}-{alias}",
            "alias": alias,
            "artifactCollection": _collection_name(artifact),
        }
        for alias in [f"v{artifact.version}", *artifact.aliases]
    ]


def _files(server: WandbServer, artifact: ServerArtifact) -> Callable[[Arguments], Any]:
    def chosen(arguments: Arguments) -> Any:
        files = [
            file_fields(
                server.storage_url("artifact", artifact.id, name),
                name,
                content(server, artifact, name),
            )
            for name, entry in artifact.contents.items()
            if "ref" not in entry and name in (arguments.get("names") or artifact.contents)
        ]
        return connection(files, arguments)

    return chosen


def artifact_fields(server: WandbServer, artifact: ServerArtifact) -> dict[str, Any]:
    """A version's fields."""
    manifest_url = server.storage_url("manifest", artifact.id, "wandb_manifest.json")
    run_names = [artifact.run_id] if artifact.run_id else []
    creator, *_ = [*_run_names(server, run_names), None]
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "state": artifact.state,
        "digest": artifact.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "description": artifact.description,
        "metadata": json.dumps(artifact.metadata),
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "artifactSequence": _collection_name(artifact),
        "aliases": _alias_fields(artifact),
        "tags": [{"__typename": "Tag", "id": f"tag-{tag}", "name": tag} for tag in artifact.tags],
        "ttlDurationSeconds": -1,
        "ttlIsInherited": True,
        "size": sum(entry.get("size", 0) for entry in artifact.contents.values()),
        "fileCount": len(artifact.contents),
        "commitHash": artifact.digest,
        "createdAt": artifact.created_at,
        "updatedAt": artifact.created_at,
        "currentManifest": {"id": artifact.id, "file": {"directUrl": manifest_url}},
        "createdBy": creator,
        "usedBy": lambda arguments: connection(_run_names(server, artifact.used_by), arguments),
        "files": _files(server, artifact),
    }


def _run_names(server: WandbServer, run_ids: list[str]) -> list[dict[str, Any]]:
    runs = [server.runs[run_id] for run_id in run_ids if run_id in server.runs]
    return [
        {
            "__typename": "Run",
            "id": f"run-{run.id}",
            "name": run.id,
            "project": project_fields(run.entity, run.project),
        }
        for run in runs
    ]


RESOLVERS = {
    "createArtifact": create_artifact,
    "createArtifactManifest": create_artifact_manifest,
    "updateArtifactManifest": update_artifact_manifest,
    "createArtifactFiles": create_artifact_files,
    "commitArtifact": commit_artifact,
    "useArtifact": use_artifact,
    "updateArtifact": update_artifact,
    "addAliases": add_aliases,
    "deleteAliases": delete_aliases,
    "deleteArtifact": delete_artifact,
    "clientIDMapping": client_id_mapping,
    "artifact": artifact_by_id,
}
