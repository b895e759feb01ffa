"""Checks that a server's record of a run equals the run folder's table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from algomatch.analysis.measures.emergence import summaries
from algomatch.analysis.measures.registered_measures import default_measures
from algomatch.analysis.measures.suite import declared_metrics, headlines
from algomatch.config.composition import to_mapping
from algomatch.runs.run_folder import RunFolder
from algomatch.tracking.heatmaps import HEATMAPS, heatmaps
from support.runs import TIMEOUT, kept_steps
from support.wandb_server import ServerRun, WandbServer

STEP = "trainer/global_step"


def sync(folder: Path, server: WandbServer) -> None:
    """Upload the run's offline record by the real CLI."""
    [offline] = (folder / "wandb").glob("offline-run-*")
    synced = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", os.fspath(offline)],
        env={**os.environ, **server.environment()},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert synced.returncode == 0, synced.stderr


def check_complete(seen: ServerRun, folder: Path) -> None:
    """Check that the server has the whole history of the run folder's table, each row once."""
    own = RunFolder.open(folder)
    assert seen.config == json.loads(json.dumps(to_mapping(own.config)))
    rows = own.measurements()
    steps = sorted({row.step for row in rows})
    logged = [row for row in seen.history if "tables/measurements" not in row]
    assert [row[STEP] for row in logged] == steps
    for at in logged:
        expected = {r.key: r.value for r in headlines(r for r in rows if r.step == at[STEP])}
        values = {key: at[key] for key in expected}
        assert values == pytest.approx(expected, rel=0, abs=0)
    assert seen.exit_code == 0
    media = [name for name in seen.files if name.endswith(".png")]
    drawn = [heatmaps(row for row in rows if row.step == step) for step in kept_steps(folder)]
    assert len(media) == sum(map(len, drawn))
    if own.config.analysis.measures == default_measures():
        # All but joint sets, which need a solved task.
        assert all(len(names) >= len(HEATMAPS) - 1 for names in drawn)
    assert all(seen.files[name].startswith(b"\x89PNG") for name in media)
    tables = {name: json.loads(seen.files[name]) for name in seen.files if ".table.json" in name}
    by_name = {name.split("/")[-1].split("_")[0]: table for name, table in tables.items()}
    neurons = [r for r in rows if r.measure.startswith("sparsity/") and r.subject.endswith("]")]
    assert len(by_name["measurements"]["data"]) == len(rows) - len(neurons)
    last = [row for row in neurons if row.step == steps[-1]]
    assert ("neurons" in by_name) == bool(last)
    assert not last or len(by_name["neurons"]["data"]) == len(last)
    described = {row[0]: row[1:] for row in by_name["metrics"]["data"]}
    assert described.keys() == declared_metrics().keys()
    assert described["accuracy/exact"][:2] == ["share of inputs", "higher"]
    assert seen.summary["accuracy/all/exact"] == logged[-1]["accuracy/all/exact"]
    check_summary(seen, folder)
    defined = json.dumps(seen.client_config.get("m"))
    assert defined.count("accuracy/all/exact") == 1


def check_summary(seen: ServerRun, folder: Path) -> None:
    """Check that the server's summary has the summaries of all curves, and nothing else."""
    curves = summaries(RunFolder.open(folder).measurements()).values()
    expected: dict[str, float] = {}
    for curve in curves:
        expected[f"final/{curve.key}"] = curve.final
        if curve.best is not None:
            expected[f"best/{curve.key}"] = curve.best
        if curve.emergence_step is not None:
            expected[f"emergence_step/{curve.key}"] = curve.emergence_step
    prefixes = ("final/", "best/", "emergence_step/")
    summary = {key: value for key, value in seen.summary.items() if key.startswith(prefixes)}
    assert summary == pytest.approx(expected, rel=0, abs=0)
    for prefix in prefixes:
        assert any(key.startswith(prefix) for key in summary), prefix
