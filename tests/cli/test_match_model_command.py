"""`algomatch match-model FOLDER`: a GPT-2 of a user's own, without network; and every mistake."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.gpt2 import INDUCTION, OTHER_IDS, copied_induction

from algomatch.cli import main as cli

ENCODERS = f"""
IDS = {OTHER_IDS}

def encode(tokens):
    return [5, *(IDS[token] for token in tokens)]

def no_prefix(tokens):
    return [IDS[token] for token in tokens]

def elsewhere(value):
    return list(IDS).index(value)
"""
OFFLINE = """
import socket, sys

def refuse(*arguments, **keywords):
    raise AssertionError("the network is used")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
from algomatch.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
ONE = ("--programs", "induction_by_pointer")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `my-gpt2` and the encoder's file."""
    folder = tmp_path_factory.mktemp("place")
    copied_induction(folder / "my-gpt2")
    (folder / "own.py").write_text(ENCODERS)
    return folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.mark.slow
def test_a_gpt2_of_a_folder_is_matched_without_network(place: Path) -> None:
    before = sorted(path.name for path in (place / "my-gpt2").iterdir())
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "match-model", "my-gpt2", *INDUCTION,
         "--encoder", "own.py:encode", *ONE],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "my-gpt2: exact accuracy 1.0000" in done.stdout
    assert "program induction_by_pointer" in done.stdout
    assert "verdict: different" in done.stdout
    assert "matching-my-gpt2" in done.stdout
    assert "step" not in done.stdout
    assert sorted(path.name for path in (place / "my-gpt2").iterdir()) == before
    written = place / "matching-my-gpt2"
    names = {"match.csv", "match.png", "programs.csv", "selectors.csv", "emergence.csv"}
    assert {path.name for path in written.iterdir() if path.is_file()} == names
    rows = list(csv.DictReader((written / "match.csv").read_text().splitlines()))
    assert {(row["run"], row["step"]) for row in rows} == {("my-gpt2", "")}
    assert {row["site"] for row in rows} >= {
        "blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post",
    }  # fmt: skip


@pytest.mark.slow
def test_a_reader_says_where_outputs_are(place: Path, capsys: Capture) -> None:
    given = [
        "match-model",
        "my-gpt2",
        *INDUCTION,
        "--encoder",
        "own.py:encode",
        *ONE,
        "--output",
        "out",
    ]
    assert cli.main([*given, "--reader", "own.py:elsewhere"]) == 0
    assert "does not solve" in capsys.readouterr().out
    assert (place / "out" / "match.csv").is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["my-gpt2", "task=induction"],
            "'my-gpt2' has token ids of its own: give --encoder "
            "FILE.py:FUNCTION. An encoder takes a list of the task's tokens and returns the ids",
        ),
        (["my-gpt2"], "`def encode(tokens): return [50256, *(64 + \"abcd\".index(token) for"),
        (["my-gpt2", "--encoder", "own.py:encode"], "name the task that the model solves, as in"),
        (["my-gpt2", "my-gpt2", "--encoder", "own.py:encode"], "takes one model folder, not 2"),
        (["task=induction", "--encoder", "own.py:encode"], "takes one model folder, not 0"),
        (["my-gpt2", "*", "--all"], "unknown option '--all'"),
        (["my-gpt2", "task=induction", "model=2L", "--encoder", "own.py:encode"],
         "'model=2L' cannot be set here: only task.* and analysis.* can"),
        (["my-gpt2", "task=induktion", "--encoder", "own.py:encode"], "unknown task 'induktion'"),
        (["my-gpt2", "*", "--encoder", "encode"], "--encoder encode: give path/to/file.py:func"),
        (["my-gpt2", "*", "--encoder", "own.py:encod"],
         "--encoder: 'own.py' has no function 'encod': did you mean 'encode'?"),
        (["my-gpt2", "*", "--encoder", "none.py:encode"], "--encoder: program file 'none.py' does"),
        (["my-gpt2", "*", "--encoder", "own.py:encode", "--reader", "own.py"],
         "--reader: 'own.py': name the function too, as in own.py:encode"),
        (["my-gpt2", "*", "--encoder", "own.py:no_prefix"], "there must be a prefix of at least"),
        (["my-gpt2", "*", "--encoder", "own.py:encode", "task.max_length=5"],
         "reads at most 5 tokens, but a prefix of 1 and task.max_length=5 make 6: lower"),
        (["my-gpt2", "*", "--encoder", "own.py:encode", "--programs", "x"], "unknown program 'x'"),
        (["nowhere", "*", "--encoder", "own.py:encode"], "model folder 'nowhere' does not exist"),
        ([".", "*", "--encoder", "own.py:encode"], "'.' has no config.json: save the model with"),
        (["my-gpt2", "*", "--encoder", "own.py:encode", "analysis.device=tpu"],
         "analysis.device=tpu cannot be used here"),
        (["my-gpt2", "*", "--encoder", "own.py:encode", "--device", "tpu"],
         "analysis.device=tpu cannot be used here"),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_line(given: list[str], message: str, capsys: Capture) -> None:
    arguments = [argument for part in given for argument in (INDUCTION if part == "*" else [part])]
    assert cli.main(["match-model", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
