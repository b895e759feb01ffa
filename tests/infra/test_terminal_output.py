"""Output survives poor terminals, closed pipes, full disks and closed terminals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from support.runs import TIMEOUT, TINY, command, run

from algomatch.config.composition import compose
from algomatch.config.naming import run_name
from algomatch.runs.run_folder import RunFolder

PRINTED = "± … ✗ ÷ é \U0001f600 \udce9"
LASTING = "import sys; from algomatch.infra.terminal_output import make_lasting; make_lasting()"
LONG = (*TINY, "trainer.max_steps=100000", "trainer.checkpoints=20", "tracking=disabled",
        "analysis.measures=[accuracy]")  # fmt: skip
ASCII = {"PYTHONIOENCODING": "ascii"}


def said(program: str, environment: Mapping[str, str]) -> bytes:
    """A program's output, on both streams."""
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(
    ("environment", "printed"),
    [
        (ASCII, rb"~ ~ x / \xe9 \U0001f600 \udce9"),
        ({"PYTHONIOENCODING": "latin-1"}, b"\xb1 ~ x \xf7 \xe9 \\U0001f600 \\udce9"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
         rb"~ ~ x / \xe9 \U0001f600 \udce9"),
        ({"LC_ALL": "C.UTF-8"}, PRINTED.encode(errors="backslashreplace")),
    ],
)  # fmt: skip
def test_a_character_that_the_encoding_lacks_is_printed_as_a_like_one_or_as_its_code(
    environment: Mapping[str, str], printed: bytes
) -> None:
    for stream in ("stdout", "stderr"):
        assert (
            said(f"{LASTING}; print({PRINTED!a}, file=sys.{stream})", environment)
            == printed + b"\n"
        )


def test_a_table_and_an_error_line_are_printed_in_ascii(tmp_path: Path) -> None:
    code, out, err = run("tasks", environment=ASCII, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.isascii()
    assert "reverse" in out
    code, out, err = run("compare", "é…", environment=ASCII, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.isascii()
    assert r"\xe9~" in err


def test_a_pipe_that_nobody_reads_ends_no_command() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        done = subprocess.run(
            command("tasks"), stdout=out, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_that_a_full_disk_did_not_take_is_said() -> None:
    with Path("/dev/full").open("w") as out:
        done = subprocess.run(
            command("tasks"), stdout=out, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"algomatch: some output could not be written: No space left on device\n"


class Terminal:
    """A terminal that runs a command and reads its output, as a window does."""

    def __init__(self, line: list[str], cwd: Path, outlived: bool = False):
        self.process, self._end = pty.fork()
        if self.process == 0:
            os.chdir(cwd)
            if outlived:  # like nohup
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.execv(line[0], line)
        os.set_blocking(self._end, False)
        self.code: int | None = None
        self._open = True

    def is_over(self) -> bool:
        """Whether the command has ended."""
        if self.code is None:
            done, status = os.waitpid(self.process, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code is not None

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition while reading the output."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, "it took too long"
            with suppress(OSError):
                while self._open and os.read(self._end, 65536):
                    pass
            time.sleep(0.02)

    def close(self) -> None:
        """Close the terminal's window."""
        os.close(self._end)
        self._open = False

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.is_over():
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        if self._open:
            self.close()


def steps(folder: Path) -> int:
    """The number of checkpoints of a run."""
    return len([*folder.glob("checkpoints/step-*")])


@pytest.mark.slow
@pytest.mark.timeout(4 * TIMEOUT)
@pytest.mark.parametrize("name", ["train", "sweep"])
def test_a_run_whose_terminal_is_closed_saves_its_state(tmp_path: Path, name: str) -> None:
    (tmp_path / "seeds.yaml").write_text("method: grid\nparameters: {seed: {value: 0}}\n")
    folder, line = tmp_path / "run", command("train", *LONG, "run_dir=run")
    if name == "sweep":
        name = run_name(compose([*LONG, "seed=0"]))
        folder = tmp_path / "runs" / f"0000-{name}"
        line = command("sweep", "seeds.yaml", *LONG, "--output", "runs")
    with Terminal(line, tmp_path) as terminal:
        terminal.wait(lambda: steps(folder) >= 6)
        before = torch.load(folder / "resume.ckpt", weights_only=True)["global_step"]
        terminal.close()
        terminal.wait(terminal.is_over)
        assert terminal.code == 128 + signal.SIGHUP
    assert torch.load(folder / "resume.ckpt", weights_only=True)["global_step"] > before
    assert not (folder / "finished.json").exists()
    with RunFolder.open(folder).lock():  # no process works on it any more
        pass


@pytest.mark.slow
@pytest.mark.timeout(4 * TIMEOUT)
def test_a_run_that_is_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Terminal(command("train", *LONG, "run_dir=run"), tmp_path, outlived=True) as terminal:
        terminal.wait(lambda: steps(folder) >= 3)
        terminal.close()
        before = steps(folder)
        terminal.wait(lambda: steps(folder) > before)
        assert not terminal.is_over()
