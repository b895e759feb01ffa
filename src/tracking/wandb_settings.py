"""Settings that all W&B runs of this project share.

They are the environment variables that the client sees, time limits, and the form of tables.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

import wandb

from ..config.schema import TrackingConfig
from ..infra.environment import hidden
from ..infra.errors import FaultError, first_line
from .agent import VARIABLES, Assigned

GRACE_SECONDS = 5  # on top of W&B's own time limit, which it does not always keep

# These variables of W&B are respected: account, server, network, caches and telemetry. The config
# decides what a run is and where its record goes.
_COUNT = {
    "API_KEY", "BASE_URL", "APP_URL", "ENTITY", "USERNAME", "USER_EMAIL", "IDENTITY_TOKEN_FILE",
    "CREDENTIALS_FILE", "HTTP_TIMEOUT", "FILE_PUSHER_TIMEOUT", "HTTP_PROXY", "HTTPS_PROXY",
    "INSECURE_DISABLE_SSL", "CONFIG_DIR", "CACHE_DIR", "DATA_DIR", "ARTIFACT_DIR",
    "ERROR_REPORTING", "DISABLE_GIT", "DISABLE_CODE", "HOST",
}  # fmt: skip
_COUNT_OF_ITS_OWN = (  # after WANDB__ or WANDB_X_
    "PROXIES", "EXTRA_HTTP_HEADERS", "SERVICE_WAIT", "GRAPHQL_", "FILE_STREAM_", "FILE_TRANSFER_",
    "DISABLE_",
)  # fmt: skip
# Other variables that W&B and its agents set themselves, so no user meant anything by them.
_NOT_TOLD = ("WANDB_SERVICE", "WANDB_DIR", "WANDB_SILENT", "WANDB_QUIET", "WANDB_AGENT_")


@contextmanager
def client(agents: Assigned | None = None) -> Iterator[None]:
    """Hide from W&B's client all of its variables except the respected ones and an agent's own.

    The others would override the client's settings, above all the run's id. Every start of a run
    and every request to the server happens within this context.
    """
    with hidden(lambda name: name.startswith("WANDB_") and not _counts(name, agents)):
        yield


def tell_what_counts(
    settings: TrackingConfig, say: Callable[[str], None], agents: Assigned | None = None
) -> None:
    """Print which of W&B's variables are set but ignored, and what to use instead."""
    configured = {
        "WANDB_MODE": ("tracking", settings.mode),
        "WANDB_DISABLED": ("tracking", None),
        "WANDB_PROJECT": ("tracking.project", settings.project),
        "WANDB_RUN_GROUP": ("tracking.group", settings.group),
        "WANDB_TAGS": ("tracking.tags", ",".join(settings.tags)),
    }
    names = sorted(
        name
        for name, value in os.environ.items()
        if name.startswith("WANDB_")
        and not _counts(name, agents)
        and not name.startswith(_NOT_TOLD)
        and (name not in configured or value != configured[name][1])
    )
    if names:
        keyed = dict.fromkeys(configured[name][0] for name in names if name in configured)
        keys = ", ".join(f"{key}=..." for key in keyed)
        what = f"the config says what W&B gets{f' ({keys})' if keys else ''}"
        are = "is" if len(names) == 1 else "are"
        say(f"{', '.join(names)} {are} ignored: {what}, and run.json has the run's id")


def _counts(name: str, agents: Assigned | None) -> bool:
    bare = name.removeprefix("WANDB_")
    own = bare.removeprefix("X_") if bare.startswith("X_") else bare.removeprefix("_")
    return (
        bare in _COUNT
        or (own != bare and own.startswith(_COUNT_OF_ITS_OWN))
        or (agents is not None and name in (*VARIABLES, "WANDB_PROJECT"))
    )


def bounded(settings: TrackingConfig) -> wandb.Settings:
    """Return the settings of a quiet W&B run that waits at most as long as configured."""
    return wandb.Settings(
        init_timeout=settings.init_timeout_seconds,
        login_timeout=settings.init_timeout_seconds,
        finish_timeout=settings.finish_timeout_seconds,
        finish_timeout_raises=True,
        x_disable_stats=not settings.system_stats,
        x_disable_machine_info=not settings.system_stats,
        console="off",
        silent=True,
    )


def finish_bounded(run: wandb.Run, settings: TrackingConfig, exit_code: int = 0) -> None:
    """Finish a W&B run, waiting for uploads at most as long as configured.

    Raises:
        FaultError: W&B failed, or did not answer in that time.
    """
    failed: list[Exception] = []

    def finish() -> None:
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:  # whatever W&B raises
            failed.append(error)

    thread = Thread(target=finish, name="W&B", daemon=True)
    thread.start()
    thread.join(settings.finish_timeout_seconds + GRACE_SECONDS)
    if thread.is_alive():
        seconds = settings.finish_timeout_seconds
        raise FaultError(f"W&B did not answer in {seconds:.0f} s: the upload may be incomplete")
    if failed:
        raise FaultError(f"W&B: {first_line(failed[0])}: the upload may be incomplete")


def table_of(columns: Sequence[str], rows: Iterable[object]) -> wandb.Table:
    """Return the named attributes of each row as a table; non-finite numbers become text."""

    def cell(value: object) -> object:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    data = [[cell(getattr(row, column)) for column in columns] for row in rows]
    # Optional types only where needed: checking each cell of such a column takes most of the time.
    optional = [any(row[i] is None for row in data) for i in range(len(columns))]
    return wandb.Table(columns=list(columns), data=data, allow_mixed_types=True, optional=optional)
