"""Training and tests give the same results in every environment that a user may have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.runs import TIMEOUT, TINY, rows_of, weights_of
from support.surroundings import KEPT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * TIMEOUT)]
ROOT = Path(__file__).resolve().parent.parent
SHORT = (
    *TINY, "trainer.max_steps=20", "trainer.checkpoints=2", "analysis.other_tasks=1",
    "analysis.measures=[accuracy,ablation]",
)  # fmt: skip
TELLING = (  # in this process and in others, with Lightning, W&B, matplotlib and tables
    "tests/api/test_train.py::test_a_run_leaves_its_config_checkpoints_table_and_figure",
    "tests/cli/test_cli.py::test_the_console_script_refuses_as_python_does",
    "tests/tracking/test_wandb_log.py",
    "tests/report/terminal/test_task_report.py",
)


def on_a_cluster(place: Path) -> Mapping[str, str]:
    """SLURM is installed, and the variables of SLURM, MPI and torchrun say: task two of two."""
    srun = place / "srun"
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    return {
        "PATH": f"{place}:{os.environ['PATH']}",
        "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "node[1-2]",
        "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2",
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500", "PL_TRAINER_LIMIT_TRAIN_BATCHES": "3", "PL_GLOBAL_SEED": "9",
        "PL_TRAINER_FAST_DEV_RUN": "True", "CUDA_VISIBLE_DEVICES": "0,1",
    }  # fmt: skip


def in_another_terminal(place: Path) -> Mapping[str, str]:
    """The terminal is dumb, narrow and ASCII only; a warning is an error."""
    return {
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii",
        "TERM": "dumb", "COLUMNS": "20", "FORCE_COLOR": "1", "PYTHONWARNINGS": "error",
    }  # fmt: skip


def without_a_home(place: Path) -> Mapping[str, str]:
    """The home folder is not writable, and matplotlib cannot open a window."""
    return {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/cache", "MPLBACKEND": "Qt5Agg"}


def with_wandbs_variables(place: Path) -> Mapping[str, str]:
    """Variables of another W&B run, of an ended agent, and of a proxy that does not exist."""
    return {
        "WANDB_MODE": "online", "WANDB_PROJECT": "other", "WANDB_DIR": "/proc/wandb",
        "WANDB_SWEEP_ID": "gone", "WANDB_RUN_ID": "gone", "WANDB_RESUME": "must",
        "WANDB_SWEEP_PARAM_PATH": "/proc/sweep-gone/config-gone.yaml", "WANDB_LAUNCH": "true",
        "WANDB_SERVICE": "3-1-unix-/proc/gone", "WANDB_API_KEY": "wrong",
        "WANDB_BASE_URL": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9",
    }  # fmt: skip


HOSTILE = (on_a_cluster, in_another_terminal, without_a_home, with_wandbs_variables)
Environment = Callable[[Path], Mapping[str, str]]


def outer(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process needs, and those of a hostile environment."""
    return {name: value for name, value in os.environ.items() if name in KEPT} | {**variables}


def trained(folder: Path, variables: Mapping[str, str]) -> str:
    """Train the same small run; return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "algomatch", "train", *SHORT, f"run_dir={folder}"],
        env={"ALGOMATCH_CACHE": os.environ["ALGOMATCH_CACHE"], **outer(variables)},
        capture_output=True, text=True, timeout=2 * TIMEOUT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in an empty environment."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    trained(folder, {"LANG": "C.UTF-8", "HOME": os.environ["HOME"]})
    return folder


@pytest.mark.parametrize("environment", HOSTILE)
def test_a_training_is_the_same_in_every_environment(
    plain: Path, tmp_path: Path, environment: Environment
) -> None:
    folder = tmp_path / "run"
    out = trained(folder, environment(tmp_path))
    assert weights_of(folder) == weights_of(plain)
    assert rows_of(folder) == rows_of(plain)
    assert "Warning" not in out
    assert "W&B stopped" not in out
    [record] = (folder / "wandb").glob("offline-run-*")
    run_id = re.search(r'"wandb_id": "([^"]+)"', (folder / "run.json").read_text())
    assert run_id is not None
    assert record.name.endswith(run_id[1])
    told = [line for line in out.splitlines() if "are ignored" in line]
    assert bool(told) == (environment is with_wandbs_variables)
    if environment is in_another_terminal:
        assert out.isascii()


@pytest.mark.parametrize("environment", HOSTILE)
def test_tests_pass_in_every_environment(tmp_path: Path, environment: Environment) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TELLING],
        env=outer(environment(tmp_path)),
        cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=2 * TIMEOUT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
