"""Checkpoints and measurements as W&B artifacts: which are kept, and under which aliases.

The versions of a run's artifact `model-RUN` (of type `model`) are its kept checkpoints, with the
aliases `step-N`, `best` and `latest`; `measurements-RUN` is its gathered table.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import wandb

from ..analysis.measurements import MEASUREMENTS, Measurement
from ..analysis.measures.suite import headlines
from ..config.composition import to_mapping
from ..config.naming import group_name, model_title, task_title
from ..config.printed_commands import command
from ..config.schema import TrackingConfig
from ..data.program_copies import copies_in, is_own
from ..infra.errors import FaultError, UserError, first_line
from ..runs import checkpoints
from ..runs.places import CONFIG, SCHEME, WEIGHTS
from ..runs.run_folder import RunFolder
from .wandb_settings import bounded, client, finish_bounded, table_of

EXACT, LOSS = "accuracy/all/exact", "accuracy/all/loss"


def best_step(rows: Iterable[Measurement]) -> int | None:
    """Return the step of the best checkpoint: highest exact accuracy, then lowest loss, then first.

    It is None if no accuracy was measured.
    """
    ranks: list[tuple[float, float, int]] = []
    for step, at_step in groupby(sorted(rows, key=_step), key=_step):
        values = {row.key: row.value for row in at_step}
        if EXACT in values:
            ranks.append((-values[EXACT], values.get(LOSS, 0.0), step))
    return min(ranks)[2] if ranks else None


def kept(folder: RunFolder, rows: Sequence[Measurement]) -> dict[Path, list[str]]:
    """Return the checkpoint folders that become artifacts by the run's config, with their aliases.

    They are in the order of their steps, so that the latest is logged last.
    """
    folders = folder.checkpoint_folders()
    if not folders or folder.config.tracking.artifacts == "none":
        return {}
    best = best_step(rows)
    aliases: dict[Path, list[str]] = {}
    for path in folders:
        step = checkpoints.step_of(path)
        marks = ["best"] * (step == best) + ["latest"] * (path == folders[-1])
        if marks or folder.config.tracking.artifacts == "all":
            aliases[path] = [f"step-{step}", *marks]
    return aliases


def log_checkpoint(
    run: wandb.Run, folder: RunFolder, path: Path, aliases: Sequence[str], exact: float | None
) -> None:
    """Log a checkpoint's folder as a version of the run's model artifact."""
    config = folder.config
    artifact = wandb.Artifact(
        f"model-{folder.wandb_id}",
        type="model",
        metadata={
            "run": folder.id,
            "step": checkpoints.step_of(path),
            "task": task_title(config),
            "model": model_title(config),
            "seed": config.seed,
            "exact": exact,
        },
    )
    for name in (WEIGHTS, checkpoints.ROWS):
        _add(artifact, path / name)
    for path in (folder.path / CONFIG, *copies_in(folder.path)):
        _add(artifact, path, str(path.relative_to(folder.path)))
    run.log_artifact(artifact, aliases=list(aliases))


def log_measurements(run: wandb.Run, folder: RunFolder) -> None:
    """Log the run's gathered table as an artifact; the UI shows it under `tables/`."""
    artifact = wandb.Artifact(f"measurements-{folder.wandb_id}", type="measurements")
    _add(artifact, folder.path / "measurements.csv")
    run.log_artifact(artifact, aliases=["latest"])


def _add(artifact: wandb.Artifact, path: Path, name: str | None = None) -> None:
    # The file itself is uploaded, without a copy in W&B's own folders, since it does not change.
    artifact.add_file(str(path), name, policy="immutable", skip_cache=True)


def _step(row: Measurement) -> int:
    return row.step


@dataclass(frozen=True)
class Fetched:
    """A downloaded artifact, and the W&B run in which it is analysed."""

    folder: Path
    run: wandb.Run


@contextmanager
def fetched(text: str, trust: bool = False) -> Iterator[Fetched]:
    """Download the checkpoint that `wandb:ENTITY/PROJECT/NAME:ALIAS` names, to analyse it.

    The analysis is a W&B run of its own, of job type `analysis`, that uses the artifact.

    Raises:
        UserError: the reference is not of that form, there is no such artifact, or it contains code
            and is not trusted.
        FaultError: W&B cannot be reached.
    """
    settings = TrackingConfig(mode="online")
    record = os.environ.get("WANDB_DIR")  # this run has no record folder
    entity, project, name = _parsed(text)
    full = f"{entity}/{project}/{name}"
    try:
        with client():
            api = wandb.Api(timeout=round(settings.init_timeout_seconds))
            artifact = api.artifact(full)
            folder = Path(artifact.download())
    except ValueError as error:  # also raised from a CommError, if the name does not exist
        raise UserError(f"no artifact '{full}': {first_line(error)}") from error
    except Exception as error:  # W&B raises many kinds of error on network faults
        if "not found" in str(error).lower() or "404" in str(error):
            raise UserError(f"no artifact '{full}': {first_line(error)}") from error
        raise FaultError(f"W&B did not give '{full}': {first_line(error)}") from error
    # Its weights lie at the top, beside its config; so it is not a run folder.
    checkpoint = checkpoints.load(folder / WEIGHTS)
    if is_own(checkpoint.config.task) and not (trust and copies_in(folder)):
        _refuse_code(text, folder)
    try:
        with client():
            run = wandb.init(
                project=project,
                entity=entity,
                group=checkpoint.config.tracking.group or group_name(checkpoint.config),
                job_type="analysis",
                name=f"{checkpoint.run} step {checkpoint.step} analysis",
                config={**to_mapping(checkpoint.config), "of": full},
                mode="online",
                dir=record,
                settings=bounded(settings),
            )
    except Exception as error:
        raise FaultError(f"W&B cannot be reached: {first_line(error)}") from error
    try:
        try:
            run.use_artifact(artifact)
        except Exception as error:
            raise FaultError(f"W&B cannot be reached: {first_line(error)}") from error
        yield Fetched(folder, run)
    except BaseException:
        with suppress(FaultError):  # the first failure is reported
            finish_bounded(run, settings, exit_code=1)
        raise
    finish_bounded(run, settings)


def _refuse_code(text: str, folder: Path) -> None:
    """Refuse to run the program that came with a checkpoint, and say where to read it."""
    if not copies_in(folder):
        raise UserError(
            f"the task of '{text}' is its maker's own program, which did not come with the "
            "artifact: analyse the run folder, which holds the program"
        )
    told = []
    for path in brought_files(folder):
        n, unit = path.stat().st_size, "byte"
        if path.suffix == ".py":
            n, unit = len(path.read_text(errors="replace").splitlines()), "line"
        told.append(f"{path.relative_to(folder)} ({n:,} {unit}{'s' * (n != 1)})")
    again = command("analyze", text, "--trust")
    raise UserError(
        f"'{text}' comes with a program, which is code that an analysis runs: {', '.join(told)}; "
        f"read it in '{folder}', then run it by `{again}`"
    )


def brought_files(folder: Path) -> list[Path]:
    """Return an artifact's files beside the checkpoint's own; a program may read any of them."""
    own = [folder / name for name in (WEIGHTS, checkpoints.ROWS, CONFIG)]
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in own)


def log_rows(run: wandb.Run, rows: Sequence[Measurement]) -> None:
    """Log an analysis's measurements: the headlines as the run's summary, all rows as a table.

    Raises:
        FaultError: W&B failed.
    """
    try:
        run.summary.update({row.key: row.value for row in headlines(rows)})
        artifact = wandb.Artifact(f"analysis-{run.id}", type="measurements")
        artifact.add(table_of(MEASUREMENTS.columns, rows), "measurements")
        run.log_artifact(artifact)
    except Exception as error:  # whatever W&B raises
        raise FaultError(f"W&B did not log the analysis: {first_line(error)}") from error


def _parsed(text: str) -> tuple[str, str, str]:
    parts = text.removeprefix(SCHEME).split("/")
    if len(parts) != 3 or not all(parts):
        raise UserError(
            f"'{text}' is not of the form wandb:ENTITY/PROJECT/NAME:ALIAS, as in "
            "wandb:me/algomatch/model-RUN:best (aliases: best, latest, step-N, v0, v1, ...)"
        )
    entity, project, name = parts
    return entity, project, name if ":" in name else f"{name}:latest"
