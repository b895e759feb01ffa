"""`algomatch workspace`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ..infra.errors import UserError
from .arguments import console


def workspace(
    project: Annotated[
        str,
        Parameter(
            name="ENTITY/PROJECT", help="a project whose runs were trained with tracking=online"
        ),
    ],
    /,
    *,
    name: str = "algomatch",
) -> None:
    """Save a W&B workspace that shows a project's runs beside their controls.

    The command prints the URL of the workspace. A workspace of the same name is replaced.

    Args:
        name: name of the workspace; algomatch by default
    """
    parts = project.split("/")
    if len(parts) != 2 or not all(parts):
        raise UserError(f"'{project}' is not of the form ENTITY/PROJECT")
    from ..tracking.workspace import save

    url, new, n_runs = save(parts[0], parts[1], name)
    done = "saved" if new else "replaced"
    line = f"workspace '{name}' of {n_runs} runs, {done}: {url}"
    console().print(line, soft_wrap=True, highlight=False, markup=False)
