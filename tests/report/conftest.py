"""Runs that several tests of reports look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pages import small_sweep, whole_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was matched and explained."""
    return whole_run(tmp_path_factory.mktemp("report") / "whole")


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs."""
    return small_sweep(tmp_path_factory.mktemp("report") / "sweep")
