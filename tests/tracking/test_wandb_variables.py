"""W&B's variables: supported ones take effect; others change nothing and are named."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.logged import check_complete
from support.runs import TIMEOUT, TINY, run
from support.wandb_server import WandbServer

from algomatch.config.schema import TrackingConfig
from algomatch.runs.run_folder import RunFolder
from algomatch.tracking.agent import VARIABLES, Assigned, assigned
from algomatch.tracking.wandb_settings import client, tell_what_counts

SHORT = (*TINY, "trainer.checkpoints=6", "analysis.measures=[accuracy]")
STALE: dict[str, dict[str, str]] = {
    "a sweep": {"WANDB_SWEEP_ID": "gone"},
    "an agent's run": {
        "WANDB_SWEEP_ID": "gone", "WANDB_RUN_ID": "gone-1",
        "WANDB_SWEEP_PARAM_PATH": "/proc/sweep-gone/config-gone-1.yaml",
    },
    "another run": {
        "WANDB_RUN_ID": "other", "WANDB_PROJECT": "other", "WANDB_NAME": "other",
        "WANDB_RESUME": "must", "WANDB_MODE": "offline", "WANDB_RUN_GROUP": "other",
        "WANDB_JOB_TYPE": "other", "WANDB_TAGS": "other", "WANDB_NOTES": "other",
        "WANDB_DIR": "/proc/wandb", "WANDB_RESUME_FROM": "other?_step=1",
    },
}  # fmt: skip


def setting(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_an_agents_run_is_told_from_ids_that_are_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "wandb" / "sweep-s1" / "config-r1.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("seed: {value: 1}\n")
    given = dict(zip(VARIABLES, ("s1", "r1", str(file)), strict=True))
    setting(monkeypatch, given)
    assert assigned() == Assigned("s1", "r1")
    for name in VARIABLES:
        with monkeypatch.context() as without:
            without.delenv(name)
            assert assigned() is None
    with monkeypatch.context() as other:
        other.setenv("WANDB_RUN_ID", "r2")
        assert assigned() is None
    file.unlink()
    assert assigned() is None


def test_the_client_sees_who_asks_which_server_and_not_what_a_run_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counting = {
        "WANDB_API_KEY": "k", "WANDB_BASE_URL": "http://x", "WANDB_ENTITY": "me",
        "WANDB_HTTP_TIMEOUT": "3", "WANDB__SERVICE_WAIT": "9", "WANDB_X_GRAPHQL_RETRY_MAX": "1",
        "WANDB_CACHE_DIR": "/c", "https_proxy": "http://p", "WANDBOX": "not W&B's",
    }  # fmt: skip
    setting(monkeypatch, counting)
    for variables in STALE.values():
        setting(monkeypatch, variables)
    before = dict(os.environ)
    with client():
        assert counting.items() <= os.environ.items()
        assert {name for name in os.environ if name.startswith("WANDB_")} <= counting.keys()
        os.environ["WANDB_SERVICE"] = "set by W&B"
    assert dict(os.environ) == before | {"WANDB_SERVICE": "set by W&B"}
    monkeypatch.delenv("WANDB_SERVICE")
    with client(Assigned("gone", "gone-1")):
        assert os.environ["WANDB_RUN_ID"] == "other"  # the agent's own are seen
        assert "WANDB_MODE" not in os.environ


def told(settings: TrackingConfig) -> list[str]:
    lines: list[str] = []
    tell_what_counts(settings, lines.append)
    return lines


def test_a_line_says_what_does_not_count_and_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrackingConfig(mode="offline", project="mine")
    assert told(settings) == []
    setting(monkeypatch, {"WANDB_API_KEY": "k", "WANDB_DIR": "/x", "WANDB_PROJECT": "mine"})
    assert told(settings) == []
    monkeypatch.setenv("WANDB_MODE", "online")
    assert told(settings) == [
        "WANDB_MODE is ignored: the config says what W&B gets (tracking=...), and run.json has the "
        "run's id"
    ]
    setting(monkeypatch, {"WANDB_PROJECT": "other", "WANDB_RUN_ID": "x"})
    assert told(settings) == [
        "WANDB_MODE, WANDB_PROJECT, WANDB_RUN_ID are ignored: the config says what W&B gets "
        "(tracking=..., tracking.project=...), and run.json has the run's id"
    ]


@pytest.mark.slow
@pytest.mark.timeout(4 * TIMEOUT)
@pytest.mark.parametrize("stale", STALE)
def test_a_run_has_one_id_whatever_the_environment_says(tmp_path: Path, stale: str) -> None:
    folder = tmp_path / "run"
    with WandbServer() as server:
        environment = {**server.environment(), **STALE[stale]}
        arguments = ("train", *SHORT, "tracking=online", f"run_dir={folder}")
        code, out, err = run(*arguments, environment=environment)
        assert code == 0, err
        assert "are ignored" in out or "is ignored" in out
        [seen] = server.runs.values()
        about = json.loads((folder / "run.json").read_text())
        assert seen.id == about["wandb_id"] == about["id"]
        assert about["wandb_project"] == ["tester", "algomatch"]
        name = RunFolder.open(folder).name
        assert (seen.name, seen.job_type) == (name, "train")
        assert str(seen.group).startswith(name.removesuffix("-seed0"))
        check_complete(seen, folder)
        code, out, err = run("log", os.fspath(folder), environment=environment)
        assert code == 0, err
        assert [*server.runs.values()] == [seen]
        check_complete(seen, folder)
