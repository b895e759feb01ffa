"""Trained runs for tests of reports, with names and tokens that look like markup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from algomatch.api.train import train
from algomatch.cli.main import main
from algomatch.config.composition import compose
from support.runs import TINY, quiet

HOSTILE = "<img src=x onerror=alert(1)>"
TOKENS = 'task.vocabulary=["</script><script>alert(1)</script>", "<b>&amp;"]'
FEW = ("trainer.checkpoints=2", "tracking=disabled", "analysis.match_checkpoint_cases=40",
       "analysis.match_cases=60", "analysis.explain_inputs=64",
       "analysis.other_tasks=0", "analysis.explain_depth=2")  # fmt: skip


def trained(path: Path, *settings: str, model: str = "") -> Path:
    """Train a tiny run; its model may get another name."""
    config = compose([*TINY, *FEW, f"run_dir={path}", *settings])
    renamed = replace(config.model, name=model or config.model.name)
    train(replace(config, model=renamed), quiet())
    return path


def whole_run(path: Path) -> Path:
    """Train a run whose model and tokens have hostile names; match and explain it."""
    trained(path, TOKENS, "trainer.max_steps=120", "trainer.learning_rate=0.01", model=HOSTILE)
    assert main(["match", str(path), "--all"]) == 0
    assert main(["explain", str(path)]) == 0
    return path


def small_sweep(folder: Path) -> Path:
    """Train one architecture on one length and on several, two seeds each, and another once."""
    cells = [("1L", seed, length) for seed in (0, 1) for length in (1, 3)]
    for model, seed, length in [*cells, ("1L_attn_only", 0, 3)]:
        trained(
            folder / f"<u>{model}-{seed}-{length}", f"model={model}", f"seed={seed}",
            f"task.min_length={length}",
            "trainer.max_steps=8", "trainer.checkpoints=2",
            "analysis.measures=[accuracy,attention,sparsity]", model=f"{model} <b>&",
        )  # fmt: skip
    return folder
