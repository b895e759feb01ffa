"""Weights & Biases: the run's curves, heatmaps and tables. If W&B fails, the run continues.

The durable record is the run folder. Everything here can be logged again from it.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import wandb
from PIL import Image

from ..analysis.measurements import MEASUREMENTS, Measurement
from ..analysis.measures.emergence import Summary, summaries
from ..analysis.measures.separation import SEPARATIONS, Separation
from ..analysis.measures.suite import declared_metrics, headlines
from ..analysis.results import Result
from ..config.composition import to_mapping
from ..config.naming import group_name
from ..config.schema import TrackingConfig
from ..infra.errors import FaultError, first_line
from ..infra.typed_tables import FORMAT
from ..runs.checkpoints import step_of
from ..runs.control_record import failing, verdicts
from ..runs.run_folder import INEXACT, RunFolder
from .agent import Assigned, assigned
from .artifacts import EXACT, kept, log_checkpoint, log_measurements
from .heatmaps import heatmaps
from .wandb_settings import bounded, client, finish_bounded, table_of, tell_what_counts

STEP = "trainer/global_step"
TABLE = "tables/measurements"  # the rows of all steps, logged last
ASKED_SECONDS, ASKED_TIMES, ASKED_AGAIN_SECONDS = 10, 3, 2.0
METRIC_COLUMNS = ("name", "unit", "better", "low", "high", "about", "emerges")


class WandbLog:
    """Logs one run; after a failure it reports it once and stops logging.

    Everything except the start runs in a separate thread, so that training never waits for the
    server. `problem` says what W&B may lack; `algomatch log` uploads it.
    """

    def __init__(
        self,
        folder: RunFolder,
        say: Callable[[str], None],
        settings: TrackingConfig | None = None,
    ):
        self._folder, self._say = folder, say
        self._settings = settings or folder.config.tracking
        self._run: wandb.Run | None = None
        self._jobs = SimpleQueue[Callable[[], None] | None]()
        self._thread: Thread | None = None
        self._defined: set[str] = set()
        self._summaries: dict[str, Summary] = {}
        self._there: set[int] = set()  # steps whose rows the server has
        self._given: set[int] = set()  # steps whose rows were given to be logged
        self._tables_there = False  # whether the server has the gathered tables
        self._logged: set[int] = set()  # steps that were handed to the client
        self._as_artifacts: set[Path] = set()
        self._closed = False
        self.problem: str | None = None
        self.url: str | None = None

    @property
    def offline_folder(self) -> Path | None:
        """The folder of an offline run's record, for `wandb leet` and `wandb sync`."""
        runs = _offline_runs(self._folder.path / "wandb")
        return runs[-1] if runs else None

    def start(self, earlier: Iterable[Measurement] = ()) -> None:
        """Begin or resume the W&B run, and log the earlier rows that it lacks.

        Raises:
            FaultError: the server cannot be reached, and the config says to stop then.
        """
        mode = self._settings.mode
        tell_what_counts(self._settings, self._say, self._agents(self._folder.wandb_id))
        if mode == "disabled":
            return
        before = _online_runs(self._folder.path / "wandb")
        try:
            self._run = self._init(mode)
        except Exception as error:
            if mode == "offline":
                self._give_up(error)
                return
            reason = first_line(error)
            if self._settings.unreachable == "stop":
                raise FaultError(f"W&B cannot be reached ({reason})") from error
            self._say(f"W&B cannot be reached ({reason}): the run continues offline")
            self.problem = f"nothing was uploaded by this attempt: {reason}"
            self._attempt(lambda: self._restart_offline(before))
        if self._run is None:
            return
        self.url = None if self._run.offline else self._run.url
        self._thread = Thread(target=self._work, name="W&B", daemon=True)
        self._thread.start()
        self._jobs.put(self._define_all)
        if self._run.resumed:
            self._jobs.put(self._ask_what_is_there)
        self.log(earlier)

    def log(self, rows: Iterable[Measurement]) -> None:
        """Log rows step by step: headlines as curves, a checkpoint's heatmaps as images.

        The run's summary holds, for every headline, the summary of its curve so far.
        """
        ordered = sorted(rows, key=lambda row: row.step)
        if ordered:
            self._given |= {row.step for row in ordered}
            self._jobs.put(partial(self._log_rows, ordered))

    def preempted(self) -> None:
        """Tell W&B that another agent may resume the run."""
        self._jobs.put(self._mark_preempting)

    def finish(self, rows: Sequence[Measurement], exit_code: int = 0) -> None:
        """Log tables and artifacts and close the run; report what the server lacks then.

        It waits for uploads at most as long as configured.
        """
        self._jobs.put(partial(self._log_rest, rows))
        self.close(exit_code, expected={row.step for row in rows})

    def close(self, exit_code: int = 0, expected: Iterable[int] = ()) -> None:
        """Close the W&B run, waiting for uploads at most as long as configured.

        For an online run, the server is asked whether it has all expected steps.
        """
        if self._thread is None:
            return
        self._jobs.put(partial(self._close, exit_code, {*expected}))
        self._jobs.put(None)
        self._thread.join(self._settings.finish_timeout_seconds + ASKED_SECONDS)
        if self._thread.is_alive():
            waited = f"{self._settings.finish_timeout_seconds:.0f} s"
            self.problem = self._no_word(f"it did not answer in {waited}")
        self._run = self._thread = None
        self._closed = True

    def _work(self) -> None:
        """Do one job after another, until the job is None."""
        while (job := self._jobs.get()) is not None:
            if self._run is not None:
                self._attempt(job)

    def _log_rows(self, rows: Sequence[Measurement]) -> None:
        for step, at_step in groupby(rows, key=lambda row: row.step):
            if step in self._there:  # its rows are there, but axes are not kept
                for row in headlines(at_step):
                    self._define(row.key)
            else:
                self._log_step(step, list(at_step))
        self._summaries = summaries(rows, self._summaries)
        self._summarise()
        if self._settings.artifacts == "all":
            self._log_checkpoints(self._folder.measurements())

    def _log_rest(self, rows: Sequence[Measurement]) -> None:
        assert self._run is not None
        self._summaries = summaries(rows)
        if self._logged or not self._tables_there:
            self._log_tables(rows)
        self._summarise()
        self._log_checkpoints(rows)
        if self._settings.artifacts != "none":
            log_measurements(self._run, self._folder)

    def _mark_preempting(self) -> None:
        assert self._run is not None
        self._run.mark_preempting()

    def _close(self, exit_code: int, expected: set[int]) -> None:
        assert self._run is not None
        run = self._run
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:  # whatever W&B raises
            self.problem = first_line(error) if run.offline else self._no_word(first_line(error))
            return
        if expected and not run.offline:
            self.problem = missing_on_server(run, expected)

    def _no_word(self, why: str) -> str:
        steps = how_many_steps(self._given - self._there)
        return f"W&B did not confirm that the {steps} of this attempt were uploaded ({why})"

    def _init(self, mode: str) -> wandb.Run:
        folder, settings = self._folder, self._settings
        run_id = folder.wandb_id
        if mode == "offline" and (attempts := _uploaded(folder.path / "wandb")):
            # The server has a part of the run under its id, and a sync would add all of it again.
            run_id = f"{run_id}-again{attempts}"
        earlier = _offline_runs(folder.path / "wandb")
        config = folder.config
        entity, project = folder.wandb_project or (settings.entity, settings.project)
        with client(self._agents(run_id)):
            run = wandb.init(
                project=project,
                entity=entity,
                group=group_of(folder),
                job_type="train",
                name=folder.name,
                id=run_id,
                resume="allow",
                notes=_notes(folder.commands.controls, failing(folder.inputs_digest)),
                tags=[*settings.tags, *([] if folder.exact else [INEXACT])],
                dir=str(folder.path),
                mode="offline" if mode == "offline" else "online",
                config=to_mapping(config),
                settings=bounded(settings),
            )
        set_aside(earlier)
        if not run.offline:  # an agent, or the account, may have chosen another
            folder.remember_project(run.entity, run.project)
        return run

    def _agents(self, run_id: str) -> Assigned | None:
        """Return the run that a sweep's agent assigned to this process, if it is this run."""
        agents = assigned()
        return agents if agents is not None and agents.run == run_id else None

    def _restart_offline(self, before: set[Path]) -> None:
        wandb.teardown()
        for folder in _online_runs(self._folder.path / "wandb") - before:
            shutil.rmtree(folder, ignore_errors=True)  # record of an attempt that logged nothing
        self._run = self._init("offline")

    def _ask_what_is_there(self) -> None:
        assert self._run is not None
        self._there, self._tables_there = on_server(self._run)

    def _log_step(self, step: int, rows: list[Measurement]) -> None:
        assert self._run is not None
        payload: dict[str, Any] = {STEP: step}
        if any(not row.measure.startswith("training/") for row in rows):
            payload["tables/checkpoint"] = table_of(
                MEASUREMENTS.columns, [row for row in rows if not _neuron(row)]
            )
            if step == 0:
                known = verdicts(self._folder.inputs_digest)
                if known is not None:
                    payload["tables/controls"] = controls_table(known)
                payload["tables/metrics"] = table_of(METRIC_COLUMNS, declared_metrics().values())
        for row in headlines(rows):
            self._define(row.key)
            payload[row.key] = row.value
        for name, image in heatmaps(rows).items():
            payload[f"heatmaps/{name}"] = wandb.Image(image)
        self._run.log(payload)
        self._logged.add(step)

    def _log_tables(self, rows: Sequence[Measurement]) -> None:
        assert self._run is not None
        last = max((row.step for row in rows), default=0)
        tables = {
            TABLE: [row for row in rows if not _neuron(row)],
            "tables/neurons": [row for row in rows if _neuron(row) and row.step == last],
        }
        logged = {key: table_of(MEASUREMENTS.columns, some) for key, some in tables.items() if some}
        self._run.log({STEP: last} | logged)

    def _log_checkpoints(self, rows: Sequence[Measurement]) -> None:
        assert self._run is not None
        exact = {row.step: row.value for row in rows if row.key == EXACT}
        wanted = kept(self._folder, rows)
        for path, aliases in wanted.items():
            named = {"best", "latest"} & {*aliases}
            if path not in self._as_artifacts or named:
                step = step_of(path)
                log_checkpoint(self._run, self._folder, path, aliases, exact.get(step))
                self._as_artifacts.add(path)

    def _summarise(self) -> None:
        # In addition to W&B's own summary, the last value of each curve, which steers sweeps.
        assert self._run is not None
        self._run.summary.update(run_summary(self._summaries.values()))

    def _define_all(self) -> None:
        assert self._run is not None
        self._define(STEP)
        for media in ("tables/*", "heatmaps/*"):  # a summary is for numbers, to sort and filter
            self._run.define_metric(media, step_metric=STEP, summary="none")

    def _define(self, key: str) -> None:
        if key in self._defined:
            return
        assert self._run is not None
        self._defined.add(key)
        self._run.define_metric(key, step_metric=None if key == STEP else STEP)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # W&B raises many kinds; the run's own record is complete
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._closed:  # the missing answer was reported already
            return
        self.problem = first_line(error)
        self._run = None
        self._say(f"W&B stopped logging ({self.problem}); the run folder's record is complete")


def on_server(run: wandb.Run) -> tuple[set[int], bool]:
    """Return the steps of `trainer/global_step` that the server has, and whether it has the tables.

    Raises:
        Exception: any error of W&B, if the server does not answer.
    """
    with client():
        asked = wandb.Api(timeout=ASKED_SECONDS).run(run.path)
        with suppress(OSError):
            os.removedirs(asked.dir)  # W&B makes a folder for downloads
        steps = {int(row[STEP]) for row in asked.scan_history(keys=[STEP])}
        return steps, next(iter(asked.scan_history(keys=[TABLE])), None) is not None


def missing_on_server(run: wandb.Run, expected: Iterable[int]) -> str | None:
    """Return what a server lacks of a finished, uploaded run; None if it has everything.

    The server is asked repeatedly, since rows may become visible a moment after their upload.
    """
    expected = set(expected)
    missing, tables = expected, False
    for attempt in range(ASKED_TIMES):
        if attempt:
            time.sleep(ASKED_AGAIN_SECONDS)
        try:
            there, tables = on_server(run)
        except Exception as error:  # whatever W&B raises
            return f"the upload could not be checked ({first_line(error)})"
        missing = expected - there
        if not missing and tables:
            return None
    lacks = [f"{how_many_steps(missing)} of {len(expected)}"] * bool(missing)
    return f"the server does not show {', '.join([*lacks, *[TABLE] * (not tables)])}"


def how_many_steps(steps: Collection[int]) -> str:
    """Return the number of steps in words, with the first and the last.

    >>> how_many_steps({3, 10}), how_many_steps({3}), how_many_steps(())
    ('2 steps (3 to 10)', '1 step (3)', '0 steps')
    """
    if len(steps) < 2:
        return f"1 step ({min(steps)})" if steps else "0 steps"
    return f"{len(steps)} steps ({min(steps)} to {max(steps)})"


def end_service() -> None:
    """End W&B's service process, if it was started."""
    wandb.teardown()


def log_analysis(
    folder: RunFolder,
    what: str,
    result: Result,
    record: Path,
    say: Callable[[str], None],
) -> None:
    """Log the tables and pictures of an analysis as a W&B run of its own, in the run's group.

    The training run itself is not changed. An offline record is kept in the folder `record`. If
    W&B fails, this is reported, without an error.
    """
    settings, config = folder.config.tracking, folder.config
    if settings.mode == "disabled":
        return
    entity, project = folder.wandb_project or (settings.entity, settings.project)
    try:
        with client():
            run = wandb.init(
                project=project,
                entity=entity,
                group=group_of(folder),
                job_type="analysis",
                name=f"{folder.name} {what}",
                id=f"{folder.id}-{what}-{secrets.token_hex(3)}",
                tags=list(settings.tags),
                dir=str(record),
                mode="offline" if settings.mode == "offline" else "online",
                config={**to_mapping(config), "of": folder.id, **_about(result)},
                settings=bounded(settings),
            )
        try:
            run.log({f"{what}/{name}": shown for name, shown in _logged(result).items()})
        finally:
            finish_bounded(run, settings)
    except Exception as error:  # W&B raises many kinds; the files are complete
        say(f"W&B did not log it ({first_line(error)}); the files are complete")


def _about(result: Result) -> dict[str, Any]:
    """Return what of a result is of, as W&B's config has it."""
    about = result.about
    return {"result": {"kind": about.kind, "step": about.step, "settings": list(about.settings)}}


def _logged(result: Result) -> dict[str, wandb.Image | wandb.Table]:
    """Return a result's tables and pictures as W&B shows them, by name."""
    shown: dict[str, wandb.Image | wandb.Table] = {}
    for name, (table, rows) in result.tables().items():
        header = table.header(rows)
        lines = map(table.values, rows)
        data = [[_cell(values.get(column)) for column in header] for values in lines]
        shown[Path(name).stem] = wandb.Table(
            columns=list(header), data=data, allow_mixed_types=True
        )
    for name, picture in result.pictures.items():
        shown[Path(name).stem] = wandb.Image(Image.open(BytesIO(picture)))
    return shown


def _cell(value: object) -> object:
    """Return a value as W&B keeps it: several as a text, and what is not finite as a text."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def group_of(folder: RunFolder) -> str:
    """Return the W&B group of a run: the config's, or a name from all settings but the seed."""
    config = folder.config
    return config.tracking.group or group_name(config)


def controls_table(verdicts: Iterable[Separation]) -> wandb.Table:
    """Return the verdicts on measures that a task's controls gave, as W&B shows them."""
    return table_of([column for column in SEPARATIONS.columns if column != FORMAT], verdicts)


def run_summary(summaries: Iterable[Summary]) -> dict[str, float]:
    """Return the entries of a run's W&B summary: final values, best values, emergence steps.

    There is no best value for measures without a better direction, and no step for what has not
    emerged.
    """
    entries: dict[str, float] = {}
    for summary in summaries:
        entries[f"final/{summary.key}"] = summary.final
        if summary.best is not None:
            entries[f"best/{summary.key}"] = summary.best
        if summary.emergence_step is not None:
            entries[f"emergence_step/{summary.key}"] = summary.emergence_step
    return entries


def _neuron(row: Measurement) -> bool:
    """Return whether a row is about a single neuron; there are thousands of these."""
    return row.measure.startswith("sparsity/") and row.subject.endswith("]")


def _notes(controls: str, failing: Mapping[str, str] | None) -> str:
    """Return a note on which of the run's measures do not separate the program from others."""
    if failing is None:
        return f"Controls were not run for this task: `{controls}`."
    names = "; ".join(f"{key} ({why})" for key, why in failing.items())
    return f"Do not separate the program from other models on this task: {names or 'none'}."


def _offline_runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("offline-run-*"))


def _online_runs(folder: Path) -> set[Path]:
    return {*folder.glob("run-*")}


def _uploaded(folder: Path) -> int:
    """Return the number of attempts that may have reached a server: online or synced."""
    return len([*_online_runs(folder), *folder.glob("**/offline-run-*/*.wandb.synced")])


def set_aside(earlier: Iterable[Path]) -> None:
    """Move earlier attempts' offline records away; the new record holds their history too."""
    for folder in earlier:
        target = folder.parent / "superseded" / folder.name
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
