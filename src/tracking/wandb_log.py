"""Weights & Biases: the run's curves, heatmaps and tables. It may fail; the run does not.

The durable record is the run folder's. Everything here can be logged again from it.
"""

from __future__ import annotations

import csv
import math
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import wandb

from ..analysis.emergence import Summary, summaries
from ..analysis.measurements import COLUMNS, Measurement
from ..analysis.separation import COLUMNS as SEPARATION_COLUMNS
from ..analysis.suite import declared_metrics, headlines
from ..config import TrackingConfig, to_mapping
from ..errors import first_line
from .control_record import failing, verdicts
from .heatmaps import heatmaps
from .run_folder import INEXACT, RunFolder

STEP = "trainer/global_step"
METRIC_COLUMNS = ("name", "unit", "better", "low", "high", "about", "emerges")


class WandbLog:
    """Logs one run; after a failure it says so once and logs no more."""

    def __init__(self, folder: RunFolder, say: Callable[[str], None]):
        self._folder, self._settings, self._say = folder, folder.config.tracking, say
        self._run: wandb.Run | None = None
        self._defined: set[str] = set()
        self._summaries: dict[str, Summary] = {}
        self._there = 0  # how many of the run's rows the server has
        self.problem: str | None = None
        self.url: str | None = None

    @property
    def offline_folder(self) -> Path | None:
        """Where an offline run's record is, for `wandb leet` and `wandb sync`."""
        found = _offline_runs(self._folder.path / "wandb")
        return found[-1] if found else None

    def start(self, earlier: Iterable[Measurement] = ()) -> None:
        """Begin or go on with the W&B run, and log what it does not have of the earlier rows."""
        mode = self._settings.mode
        if mode == "disabled":
            return
        try:
            self._run = self._init(mode)
        except Exception as error:
            if mode == "offline":
                self._give_up(error)
                return
            reason = first_line(error)
            self._say(f"W&B cannot be reached ({reason}): the run goes on offline")
            self.problem = f"nothing was uploaded by this attempt: {reason}"
            self._attempt(lambda: self._restart_offline())
        if self._run is None:
            return
        self.url = None if self._run.offline else self._run.url
        # One row a step, always in the same order: so a count says which ones are there. The
        # summary would not: it can be ahead of the history.
        self._there = self._run.starting_step if self._run.resumed else 0
        self._attempt(lambda: self._define(STEP))
        self.log(earlier)

    def log(self, rows: Iterable[Measurement]) -> None:
        """Log rows step by step: headlines as curves, a checkpoint's heatmaps as images.

        The run's summary says of every headline what its curve amounts to so far.
        """
        rows = sorted(rows, key=lambda row: row.step)
        by_step = groupby(rows, key=lambda row: row.step)
        for step, at_step in by_step:
            if self._there > 0:
                self._there -= 1
            elif self._run is not None:
                self._attempt(partial(self._log_step, step, list(at_step)))
        if rows and self._run is not None:
            self._summaries = summaries(rows, self._summaries)
            self._attempt(self._summarise)

    def finish(self, rows: Sequence[Measurement]) -> None:
        """Log the tables and close the run, waiting for uploads no longer than configured."""
        if self._run is None:
            return
        run = self._run
        last = max((row.step for row in rows), default=0)
        self._summaries = summaries(rows)

        def log_tables() -> None:
            tables = {
                "tables/measurements": [row for row in rows if not _neuron(row)],
                "tables/neurons": [row for row in rows if _neuron(row) and row.step == last],
            }
            run.log({STEP: last} | {k: _table(COLUMNS, some) for k, some in tables.items() if some})

        self._attempt(log_tables)
        self._attempt(self._summarise)
        self.close()

    def close(self, exit_code: int = 0) -> None:
        """Close the W&B run, waiting for uploads no longer than configured."""
        if self._run is not None:
            run = self._run
            self._attempt(lambda: run.finish(exit_code=exit_code))
            self._run = None

    def _init(self, mode: str) -> wandb.Run:
        folder, settings = self._folder, self._settings
        run_id = folder.id
        if mode == "offline" and (attempts := _uploaded(folder.path / "wandb")):
            # The server has a part of the run under its id, and a sync would add all to it.
            run_id = f"{folder.id}-again{attempts}"
        earlier = _offline_runs(folder.path / "wandb")
        config = folder.config
        run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=group_of(folder),
            job_type="train",
            name=folder.name,
            id=run_id,
            resume="allow",
            notes=_notes(config.task.name, failing(folder.inputs_digest)),
            tags=[*settings.tags, *([] if folder.exact else [INEXACT])],
            dir=str(folder.path),
            mode="offline" if mode == "offline" else "online",
            config=to_mapping(config),
            settings=bounded(settings),
        )
        _set_aside(earlier)
        return run

    def _restart_offline(self) -> None:
        wandb.teardown()
        self._run = self._init("offline")

    def _log_step(self, step: int, rows: list[Measurement]) -> None:
        assert self._run is not None
        payload: dict[str, Any] = {STEP: step}
        if any(not row.measure.startswith("training/") for row in rows):
            payload["tables/checkpoint"] = _table(
                COLUMNS, [row for row in rows if not _neuron(row)]
            )
            if step == 0:
                known = verdicts(self._folder.inputs_digest)
                if known is not None:
                    payload["tables/controls"] = _table(SEPARATION_COLUMNS, known)
                payload["tables/metrics"] = _table(METRIC_COLUMNS, declared_metrics().values())
        for row in headlines(rows):
            self._define(row.key)
            payload[row.key] = row.value
        for name, image in heatmaps(rows).items():
            payload[f"heatmaps/{name}"] = wandb.Image(image)
        self._run.log(payload)

    def _summarise(self) -> None:
        # Beside W&B's own summary, the last value of each curve, which sweeps are steered by.
        if self._run is not None:
            self._run.summary.update(run_summary(self._summaries.values()))

    def _define(self, key: str) -> None:
        if key in self._defined:
            return
        assert self._run is not None
        self._defined.add(key)
        self._run.define_metric(key, step_metric=None if key == STEP else STEP)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever W&B raises: the run's own record is complete
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.problem = first_line(error)
        self._run = None
        self._say(f"W&B stopped logging ({self.problem}); the run folder's record is complete")


def log_analysis(
    folder: RunFolder, what: str, files: Sequence[Path], say: Callable[[str], None]
) -> None:
    """Log an analysis's CSV tables and PNG pictures as a W&B run of its own, in the run's group.

    The run itself stays as it is: its history is that of its training. The record is kept beside
    the files; what W&B cannot do is said, and no error.
    """
    settings, config = folder.config.tracking, folder.config
    if settings.mode == "disabled" or not files:
        return
    try:
        run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=group_of(folder),
            job_type=what,
            name=f"{folder.name} {what}",
            id=f"{folder.id}-{what}-{secrets.token_hex(3)}",
            tags=list(settings.tags),
            dir=str(files[0].parent),
            mode="offline" if settings.mode == "offline" else "online",
            config={**to_mapping(config), "of": folder.id},
            settings=bounded(settings),
        )
        try:
            run.log({f"{what}/{path.stem}": _logged(path) for path in files})
        finally:
            run.finish()
    except Exception as error:  # whatever W&B raises: the files are there
        say(f"W&B did not log it ({first_line(error)}); the files are complete")


def _logged(path: Path) -> wandb.Image | wandb.Table:
    """Return a picture or a table as W&B shows it; what reads as a number is one."""
    if path.suffix == ".png":
        return wandb.Image(str(path))
    with path.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    data = [[_cell(value) for value in row] for row in rows]
    return wandb.Table(columns=[*header], data=data, allow_mixed_types=True)


def _cell(text: str) -> float | str | None:
    try:
        number = float(text)
    except ValueError:
        return text or None
    return number if math.isfinite(number) else text


def group_of(folder: RunFolder) -> str:
    """Return the W&B group of a run: the config's, or task and architecture."""
    config = folder.config
    return config.tracking.group or f"{config.task.name}-{config.model.name}"


def bounded(settings: TrackingConfig) -> wandb.Settings:
    """Return the settings of a W&B run that waits no longer than configured, and is quiet."""
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


def run_summary(found: Iterable[Summary]) -> dict[str, float]:
    """Return what W&B's summary of a run says: the final and the best values, and emergence steps.

    There is no best value where no direction is better, no step of what has not emerged.
    """
    entries: dict[str, float] = {}
    for one in found:
        entries[f"final/{one.key}"] = one.final
        if one.best is not None:
            entries[f"best/{one.key}"] = one.best
        if one.emergence_step is not None:
            entries[f"emergence_step/{one.key}"] = one.emergence_step
    return entries


def _neuron(row: Measurement) -> bool:
    """Return whether a row is of a single neuron: there are thousands."""
    return row.measure.startswith("sparsity/") and row.subject.endswith("]")


def _notes(task: str, failing: Mapping[str, str] | None) -> str:
    """Return which of the run's measures do not tell the program from other models."""
    if failing is None:
        return f"Controls were not run for this task: `algomatch controls task={task}`."
    names = "; ".join(f"{key} ({why})" for key, why in failing.items())
    return f"Do not tell the program from other models on this task: {names or 'none'}."


def _table(columns: Sequence[str], rows: Iterable[object]) -> wandb.Table:
    def cell(value: object) -> object:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    data = [[cell(getattr(row, column)) for column in columns] for row in rows]
    return wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)


def _offline_runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("offline-run-*"))


def _uploaded(folder: Path) -> int:
    """Return how many attempts may have reached a server: online ones and synced ones."""
    return len([*folder.glob("run-*"), *folder.glob("**/offline-run-*/*.wandb.synced")])


def _set_aside(earlier: Iterable[Path]) -> None:
    """Move earlier attempts' offline records away: the new one holds their history too."""
    for folder in earlier:
        target = folder.parent / "superseded" / folder.name
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
