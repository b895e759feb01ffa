"""`algomatch --install-completion`: what bash then completes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from algomatch.cli.main import VERBS, main

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_algomatch
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that the command installs, and a command for it to call."""
    folder = tmp_path_factory.mktemp("completion")
    path = folder / "algomatch.bash"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        assert main(["--install-completion", "--shell", "bash", "--output", str(path)]) == 0
    command = folder / "algomatch"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m algomatch "$@"\n')
    command.chmod(0o755)
    return path


def completed(script: Path, cwd: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    found = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", str(script), "algomatch", *words], cwd=cwd,
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert found.stderr == ""
    return found.stdout.split()


def test_bash_completes_verbs_and_options(script: Path, tmp_path: Path) -> None:
    assert set(completed(script, tmp_path, "")) >= {*VERBS}
    assert completed(script, tmp_path, "match") == ["match", "match-model", "match-controls"]
    assert completed(script, tmp_path, "explain", "--re") == ["--reference"]
    assert completed(script, tmp_path, "match", "--no") == ["--no-sides"]
    assert completed(script, tmp_path, "match", "--enc") == []


@pytest.mark.parametrize("verb", ["match", "circuit", "analyze", "compare", "sweep"])
def test_bash_completes_the_paths_of_runs_and_files(
    verb: str, script: Path, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert completed(script, tmp_path, verb, "ru") == ["runs"]
    assert completed(script, tmp_path, verb, "runs/f") == ["runs/first"]
