"""Saved views, which are what `wandb_workspaces` calls workspaces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.wandb_server.operation import Arguments, connection
from support.wandb_server.records import ENTITY

if TYPE_CHECKING:
    from support.wandb_server.server import WandbServer


@dataclass
class ServerView:
    """One saved view; `spec` holds all that it shows."""

    id: str
    entity: str
    project: str
    name: str
    display_name: str
    type: str
    spec: dict[str, Any]

    def fields(self) -> dict[str, Any]:
        """The view as queries read it."""
        return {
            "id": self.id,
            "name": self.name,
            "displayName": self.display_name,
            "type": self.type,
            "spec": json.dumps(self.spec),
        }


def upsert_view(server: WandbServer, arguments: Arguments) -> Any:
    """Create a view, or write over the one of this id."""
    held = [view for view in server.views.values() if view.id == arguments.get("id")]
    view = ServerView(
        id=held[0].id if held else f"view-{len(server.views) + 1}",
        entity=arguments.get("entityName") or ENTITY,
        project=arguments["projectName"],
        name=arguments["name"],
        display_name=arguments.get("displayName") or arguments["name"],
        type=arguments["type"],
        spec=json.loads(arguments["spec"]),
    )
    server.views[view.name] = view
    return {"view": view.fields(), "inserted": not held}


def project_view_fields(server: WandbServer, entity: str, project: str) -> dict[str, Any]:
    """The views among a project's fields."""

    def chosen(arguments: Arguments) -> Any:
        views = [
            view.fields()
            for view in server.views.values()
            if (view.entity, view.project) == (entity, project)
            and view.type == arguments.get("viewType", view.type)
            and view.name == (arguments.get("viewName") or view.name)
        ]
        return connection(views, arguments)

    return {"allViews": chosen}


RESOLVERS = {"upsertView": upsert_view}
