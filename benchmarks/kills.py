"""Kills runs at random moments, resumes them, and prints counts of what was lost.

    python benchmarks/kills.py [KILLS]

Half are killed by SIGKILL and half by SIGTERM, half with W&B offline and half online, a quarter
while a checkpoint is being written. W&B is the loopback server of the tests.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.runs import TINY, kept_steps, rows_of, weights_of
from support.wandb_server import WandbServer

from algomatch.infra.errors import FaultError, UserError
from algomatch.runs import checkpoints
from algomatch.runs.run_folder import RunFolder

SEED = 0
KILLS = 40
AT_ONCE = 2
SETTINGS = (*TINY, "trainer.save_every_seconds=0.2", "seed=5")
STEP = "trainer/global_step"


@dataclass(frozen=True)
class Kill:
    """One kill: the signal, W&B's mode, and the moment (a share of the run, or in a checkpoint)."""

    number: signal.Signals
    mode: str
    moment: float | None


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "algomatch", *arguments]


def start(server: WandbServer, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*arguments),
        env={**os.environ, **server.environment(), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[bytes]) -> str | None:
    """Wait for a process; return its last error output if it failed."""
    _, err = process.communicate(timeout=300)
    if process.returncode == 0:
        return None
    return f"exit {process.returncode}: {err.decode(errors='replace').strip()[-300:]}"


def killed(process: subprocess.Popen[bytes], folder: Path, kill: Kill, seconds: float) -> bool:
    """Kill the process at the moment; return whether it was still running."""
    while not (folder / "run.json").exists() and process.poll() is None:
        time.sleep(0.001)
    if kill.moment is not None:
        time.sleep(kill.moment * seconds)
    else:
        while process.poll() is None and not any((folder / "checkpoints").glob(".*.partial")):
            time.sleep(0.0002)
    running = process.poll() is None and not (folder / "finished.json").exists()
    process.send_signal(kill.number)
    process.communicate(timeout=120)
    return running


def checked(folder: Path, whole: Path, counts: Counter[str]) -> None:
    """Count the differences from the run that was not killed."""
    for path in RunFolder.open(folder).checkpoint_folders():
        try:
            checkpoints.load_rows(path, checkpoints.load(path).rows_digest)
            load_file(path / "model.safetensors")
        except (UserError, FaultError):
            counts["unreadable checkpoints"] += 1
    counts["differing final weights"] += weights_of(folder) != weights_of(whole)
    mine, theirs = Counter(map(str, rows_of(folder))), Counter(map(str, rows_of(whole)))
    counts["lost rows"] += sum((theirs - mine).values())
    counts["duplicated or other rows"] += sum((mine - theirs).values())
    table = (folder / "measurements.csv").read_text().splitlines()
    counts["lines too many or too few in measurements.csv"] += abs(len(table) - 1 - len(mine))


def kill_and_resume(
    server: WandbServer, whole: Path, seconds: float, folder: Path, kill: Kill
) -> Counter[str]:
    """Kill one run, resume it, log it, and count what went wrong."""
    counts = Counter({"resumes that failed": 0, "unreadable checkpoints": 0})
    settings = (*SETTINGS, f"tracking={kill.mode}", f"run_dir={folder}")
    if not killed(start(server, "train", *settings), folder, kill, seconds):
        return Counter({"had ended before": 1})
    counts["kills"] += 1
    counts[f"by {kill.number.name}"] += 1
    counts[f"{kill.mode}"] += 1
    counts["while writing a checkpoint"] += kill.moment is None
    counts["with no checkpoint yet"] += not kept_steps(folder)
    if problem := ended(start(server, "train", "--resume", str(folder))):
        print(problem)
        counts["resumes that failed"] += 1
        return counts
    counts["resumes"] += 1
    checked(folder, whole, counts)
    run = RunFolder.open(folder)
    if kill.mode == "offline" and (problem := ended(start(server, "log", str(folder)))):
        print(problem)
        counts["uploads that failed"] += 1
    logged = [row[STEP] for row in server.runs[run.id].history if "tables/measurements" not in row]
    steps = sorted({row.step for row in run.measurements()})
    counts["W&B steps lost"] += len({*steps} - {*logged})
    counts["W&B steps twice"] += len(logged) - len({*logged})
    return counts


def main(kills: int) -> int:
    """Kill `kills` runs and print the counts; return 1 if anything was lost."""
    generator, total, console = random.Random(SEED), Counter[str](), Console()
    with tempfile.TemporaryDirectory() as temporary, WandbServer() as server:
        whole = Path(temporary) / "whole"
        started = time.monotonic()
        if problem := ended(start(server, "train", *SETTINGS, f"run_dir={whole}")):
            raise SystemExit(problem)
        seconds = time.monotonic() - started - 6  # its folder exists after about six seconds
        plans = (
            Kill(
                signal.SIGKILL if i % 2 else signal.SIGTERM,
                "online" if i // 2 % 2 else "offline",
                None if i // 4 % 4 == 3 else generator.random(),
            )
            for i in count()
        )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            done = 0
            while (missing := kills - total["kills"]) > 0:
                batch = [(Path(temporary) / f"run{done + i}", next(plans)) for i in range(missing)]
                done += len(batch)
                work = partial(kill_and_resume, server, whole, max(seconds, 1.0))
                outcomes = pool.map(work, *zip(*batch, strict=True))
                for counts in track(outcomes, "kills", total=len(batch), console=console):
                    total.update(counts)
    expected = {
        "kills",
        "resumes",
        "by SIGKILL",
        "by SIGTERM",
        "offline",
        "online",
        "while writing a checkpoint",
        "with no checkpoint yet",
        "had ended before",
    }
    for name, number in total.items():
        console.print(f"{number:>5}  {name}", highlight=False)
    bad = sum(number for name, number in total.items() if name not in expected)
    bad += total["resumes"] != total["kills"]
    console.print("nothing was lost" if not bad else f"{bad} LOSSES")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else KILLS))
