"""Reports: the time to write one, its size, and the time to open it.

Trains one run of each of five architectures, copies each to ten seeds (50 runs: copies cost as
much as trained runs), and opens the pages in a browser. The exit code is 1 if a page takes two
seconds to open, or has 15 MB.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from algomatch.api.report import report
from algomatch.api.train import train
from algomatch.config.composition import compose

MODELS = ("1L", "1L_attn_only", "2L", "2L_attn_only", "4L")
SEEDS = 10
SECONDS, MEGABYTES = 2.0, 15.0
OPENED = 5  # repetitions; the slowest counts
QUIET = Console(file=io.StringIO())


def runs(folder: Path) -> Path:
    """Train the runs and copy them to several seeds."""
    for model in MODELS:
        first = folder / f"{model}-0"
        train(
            compose([f"model={model}", f"run_dir={first}", "seed=0", "trainer.max_steps=100",
                     "trainer.checkpoints=10", "tracking=disabled"]), QUIET,
        )  # fmt: skip
        for seed in range(1, SEEDS):
            copy = Path(shutil.copytree(first, folder / f"{model}-{seed}"))
            text = (copy / "config.yaml").read_text()
            assert "\nseed: 0\n" in f"\n{text}"
            text = f"\n{text}".replace("\nseed: 0\n", f"\nseed: {seed}\n").lstrip("\n")
            (copy / "config.yaml").write_text(text)
    return folder


def opened(browser: Browser, page: Path) -> float:
    """Return the seconds until a page is complete, by its own clock: the slowest of several."""
    slowest = 0.0
    for _ in range(OPENED):
        context = browser.new_context()
        tab = context.new_page()
        tab.goto(page.as_uri())
        clock = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        slowest = max(slowest, tab.evaluate(clock) / 1000)
        context.close()
    return slowest


def main() -> int:
    """Print the cost of each page; return the exit code."""
    chromium = shutil.which("chromium") or "chromium"
    missed = False
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        folder = runs(Path(place) / "runs")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        of = {"one run, 4L": [folder / "4L-0"], f"{len(MODELS) * SEEDS} runs": [folder]}
        for name, paths in of.items():
            page, start = Path(place) / "page.html", time.perf_counter()
            report(paths, page, console=QUIET)
            written, size = time.perf_counter() - start, page.stat().st_size / 1e6
            seconds = opened(browser, page)
            missed |= seconds >= SECONDS or size >= MEGABYTES
            print(f"{name:<12} written in {written:.1f} s, {size:.1f} MB, opens in {seconds:.2f} s")
        browser.close()
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
