"""Runs for tests: a tiny config, the real command in its own process, and a run's files."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from safetensors.torch import load_file

from algomatch.analysis.measurements import Measurement
from algomatch.runs.run_folder import RunFolder

TINY = (
    "task.vocabulary=[a,b]",
    "task.max_length=3",
    "model=1L",
    "model.d_model=16",
    "model.n_heads=2",
    "trainer.max_steps=60",
    "trainer.checkpoints=20",
    "trainer.batch_size=12",
    "analysis.bootstrap=20",
    "analysis.random_inits=2",
)
TIMEOUT = 120


def quiet() -> Console:
    """A console that prints nowhere."""
    return Console(file=io.StringIO(), width=100)


def command(*arguments: str) -> list[str]:
    """The `algomatch` command line for this interpreter."""
    return [sys.executable, "-W", "default", "-m", "algomatch", *arguments]


def start(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    file_size_limit: int | None = None,
) -> subprocess.Popen[str]:
    """Start the command in its own process, optionally with a limit on file sizes."""
    line = command(*arguments)
    if file_size_limit is not None:
        line = ["prlimit", f"--fsize={file_size_limit}", *line]
    return subprocess.Popen(
        line,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = TIMEOUT) -> tuple[int, str, str]:
    """Wait for a process; return its exit code and output. The process is always ended."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def run(
    *arguments: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, str, str]:
    """Run the command to its end; return its exit code and output."""
    return finish(start(*arguments, environment=environment, cwd=cwd))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a condition while a process runs; fail if the process ends or it takes too long."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.0005)


def kept_steps(folder: Path) -> list[int]:
    """The steps of a run's checkpoints."""
    return [int(path.name.partition("-")[2]) for path in sorted(folder.glob("checkpoints/step-*"))]


def rows_of(folder: Path) -> list[Measurement]:
    """A run's measurements, without its id."""
    return [row.at("", row.step) for row in RunFolder.open(folder).measurements()]


def weights_of(folder: Path) -> dict[int, dict[str, list[float]]]:
    """The weights of all of a run's checkpoints, exactly."""
    return {
        int(path.parent.name.partition("-")[2]): {
            name: tensor.flatten().tolist() for name, tensor in load_file(path).items()
        }
        for path in sorted(folder.glob("checkpoints/*/model.safetensors"))
    }
