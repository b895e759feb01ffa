"""Shared by all tests: an isolated environment, shape checks, and one small prepared task."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import support.surroundings  # noqa: F401 (before all that reads the environment)
import torch
from hypothesis import settings
from support.shapes import check_shapes

torch.set_num_threads(1)

# No deadline: the time of an example depends on how busy the machine is.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Every shape in a signature is checked while the tests run, but not in subprocesses.
check_shapes("algomatch")

from support.pages import small_sweep, whole_run  # noqa: E402

from algomatch.analysis.base import MeasurementContext  # noqa: E402
from algomatch.api.preparation import prepare  # noqa: E402
from algomatch.config.composition import compose  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def reference_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep compiled references out of the user's cache; all tests share them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "references"
    folder.mkdir(exist_ok=True)
    before = dict(os.environ)
    os.environ["ALGOMATCH_CACHE"] = str(folder)
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def small() -> MeasurementContext:
    """Reverse over 3 tokens, lengths 1 to 4, with the shape of a small two-layer model."""
    config = compose(
        [
            "task.vocabulary=[a,b,c]",
            "task.max_length=4",
            "model=2L",
            "model.d_model=16",
            "model.n_heads=2",
            "analysis.bootstrap=100",
            "analysis.random_inits=2",
        ]
    )
    return prepare(config)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was matched and explained, for reports."""
    return whole_run(tmp_path_factory.mktemp("report") / "whole")


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, for reports."""
    return small_sweep(tmp_path_factory.mktemp("report") / "sweep")
