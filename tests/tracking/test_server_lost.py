"""Servers that refuse, vanish or return; `algomatch log`; artifacts up and down."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.logged import STEP, check_complete, sync
from support.programs import LARGER, LARGER_YAML, write_program
from support.runs import TIMEOUT, TINY, finish, kept_steps, run, start, wait_until
from support.wandb_server import WandbServer

from algomatch.config.composition import compose
from algomatch.runs.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * TIMEOUT)]
SHORT = (*TINY, "trainer.checkpoints=6")
QUICK = ("tracking=online", "tracking.init_timeout_seconds=3", "tracking.finish_timeout_seconds=5")


def test_a_run_is_logged_from_its_folder_once_however_often(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run("train", *SHORT, f"run_dir={folder}")[0] == 0
    with WandbServer() as server:
        for _ in range(2):
            code, out, err = run("log", os.fspath(folder), environment=server.environment())
            assert code == 0, err
            assert f"{folder}: {server.url}" in " ".join(out.split())
            [seen] = server.runs.values()
            check_complete(seen, folder)
        assert seen.id == RunFolder.open(folder).id
        assert not list((folder / "wandb").glob("offline-run-*"))


def test_a_run_that_was_synced_is_not_logged_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run("train", *SHORT, f"run_dir={folder}")[0] == 0
    with WandbServer() as server:
        sync(folder, server)
        code, _, err = run("log", os.fspath(folder), environment=server.environment())
        assert code == 0, err
        [seen] = server.runs.values()
        check_complete(seen, folder)


def test_steps_that_a_server_lost_are_logged_again_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run("train", *SHORT, f"run_dir={folder}")[0] == 0
    with WandbServer() as server:
        environment = server.environment()
        assert run("log", os.fspath(folder), environment=environment)[0] == 0
        [seen] = server.runs.values()
        before = [row[STEP] for row in seen.history]
        del seen.streams["wandb-history.jsonl"][3:5]
        assert run("log", os.fspath(folder), environment=environment)[0] == 0
        steps = [row[STEP] for row in seen.history if "tables/measurements" not in row]
        assert sorted(steps) == sorted({*before})

        stream = seen.streams["wandb-history.jsonl"]  # as after a kill before the tables are sent
        stream[:] = [line for line in stream if "tables/measurements" not in line]
        code, _, err = run("log", os.fspath(folder), environment=environment)
        assert code == 0, err
        assert [row[STEP] for row in seen.history if "tables/measurements" in row] == [max(before)]


def test_runs_that_cannot_be_logged_keep_no_others_from_it(tmp_path: Path) -> None:
    whole, empty = tmp_path / "runs/whole", tmp_path / "runs/empty"
    assert run("train", *SHORT, f"run_dir={whole}")[0] == 0
    config = compose([*SHORT, f"run_dir={empty}"])
    RunFolder.create(config, RunFolder.open(whole).inputs_digest, True)
    with WandbServer() as server:
        code, out, err = run("log", os.fspath(tmp_path / "runs"), environment=server.environment())
        assert code == 1
        assert f"! '{empty}' has no checkpoint" in " ".join(out.split())
        assert "1 of 2 runs were not logged completely" in err
        [seen] = server.runs.values()
        check_complete(seen, whole)


def test_a_server_lost_in_the_middle_is_named_at_the_end_and_what_it_missed_comes_later(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    with WandbServer() as server:
        environment = server.environment()
        process = start("train", *SHORT, *QUICK, f"run_dir={folder}", environment=environment)
        wait_until(lambda: len(kept_steps(folder)) >= 2, process)
        server.stop()
        code, out, err = finish(process)
        assert code == 0, err
        assert "W&B did not confirm that the" in out
        assert f"algomatch log {folder}" in " ".join(out.split())
        assert (folder / "finished.json").exists()
        code, _, err = run("log", os.fspath(folder), environment=environment)
        assert code == 1
        assert "W&B cannot be reached" in err
        server.restart()
        code, _, err = run("log", os.fspath(folder), environment=environment)
        assert code == 0, err
        [seen] = server.runs.values()
        steps = [row[STEP] for row in seen.history if "tables/measurements" not in row]
        rows = RunFolder.open(folder).measurements()
        assert sorted(steps) == sorted({row.step for row in rows})


def test_without_its_server_a_run_stops_if_the_config_says_so_and_goes_on_later(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    settings = (*SHORT, *QUICK, "tracking.unreachable=stop", f"run_dir={folder}")
    with WandbServer(hang=True) as server:
        code, _, err = run("train", *settings, environment=server.environment())
    assert code == 1
    assert "tracking.unreachable=stop" in err
    assert f"algomatch train --resume {folder}" in err
    assert "Traceback" not in err
    with WandbServer() as server:
        environment = server.environment()
        code, _, err = run("train", "--resume", os.fspath(folder), environment=environment)
        assert code == 0, err
        [seen] = server.runs.values()
        check_complete(seen, folder)


def test_a_wrong_key_is_said_and_the_run_goes_on_offline(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with WandbServer() as server:
        environment = {**server.environment(), "WANDB_API_KEY": "1" * 40}
        code, out, err = run("train", *SHORT, *QUICK, f"run_dir={folder}", environment=environment)
        assert code == 0, err
        assert "the run continues offline" in out
        assert "401" in out or "key" in out
        assert not server.runs
        code, _, err = run("log", os.fspath(folder), environment=server.environment())
        assert code == 0, err
        [seen] = server.runs.values()
        check_complete(seen, folder)


def test_artifacts_go_up_and_an_analysis_of_one_gives_the_same_numbers(tmp_path: Path) -> None:
    folder, rows = tmp_path / "run", tmp_path / "rows.csv"
    with WandbServer() as server:
        environment = {**server.environment(), "WANDB_DIR": os.fspath(tmp_path)}
        online = ("tracking=online", "tracking.artifacts=all", f"run_dir={folder}")
        code, _, err = run("train", *SHORT, *online, environment=environment)
        assert code == 0, err
        [seen] = server.runs.values()
        check_complete(seen, folder)
        models = [artifact for artifact in server.artifacts.values() if artifact.type == "model"]
        aliases = {alias: model for model in models for alias in model.aliases}
        steps = kept_steps(folder)
        assert aliases.keys() == {*(f"step-{step}" for step in steps), "best", "latest"}
        assert aliases["latest"] is aliases[f"step-{steps[-1]}"]
        assert len(models) == len(steps)
        for step in steps:
            kept = folder / f"checkpoints/step-{step:08d}/model.safetensors"
            assert aliases[f"step-{step}"].files["model.safetensors"] == kept.read_bytes()
        tables = [
            artifact
            for artifact in server.artifacts.values()
            if artifact.name == f"measurements-{seen.id}"
        ]
        assert tables[-1].files["measurements.csv"] == (folder / "measurements.csv").read_bytes()

        name = f"wandb:tester/algomatch/model-{seen.id}:step-{steps[2]}"
        arguments = ("analyze", name, "--output", os.fspath(rows))
        code, out, err = run(*arguments, environment=environment, cwd=tmp_path)
        assert code == 0, err
        assert "equal the recorded ones exactly" in out
        local = tmp_path / "local.csv"
        kept = folder / f"checkpoints/step-{steps[2]:08d}"
        assert run("analyze", os.fspath(kept), "--output", os.fspath(local))[0] == 0
        assert rows.read_bytes() == local.read_bytes()
        [analysis] = [
            analysis_run
            for analysis_run in server.runs.values()
            if analysis_run.job_type == "analysis"
        ]
        assert analysis.exit_code == 0
        assert aliases[f"step-{steps[2]}"].used_by == [analysis.id]
        assert analysis.summary["accuracy/all/exact"] >= 0

        for bad, message in (
            ("wandb:tester/algomatch", "is not of the form wandb:ENTITY/PROJECT/NAME:ALIAS"),
            (f"wandb:tester/algomatch/model-{seen.id}:none", "no artifact 'tester/algomatch/"),
        ):
            code, _, err = run("analyze", bad, environment=environment, cwd=tmp_path)
            assert code == 2, err
            assert message in err
    environment["WANDB_HTTP_TIMEOUT"] = "1"
    code, _, err = run("analyze", name, environment=environment, cwd=tmp_path)
    assert code == 1
    assert "W&B did not give" in err


def test_a_program_that_comes_with_an_artifact_is_run_only_if_it_is_trusted(tmp_path: Path) -> None:
    folder, mark = tmp_path / "run", tmp_path / "was run"
    write_program(tmp_path / "user", "helper_of_ranks", f"open({os.fspath(mark)!r}, 'w').close()\n")
    text = f"import helper_of_ranks\n{LARGER}"
    program = write_program(tmp_path / "user", "ranks", text, LARGER_YAML)
    settings = (f"task={program}:make_larger", "task.vocabulary=[0,1,2]", *SHORT[1:])
    with WandbServer() as server:
        environment = {**server.environment(), "WANDB_DIR": os.fspath(tmp_path)}
        online = ("tracking=online", "analysis=accuracy_only", f"run_dir={folder}")
        code, _, err = run("train", *settings, *online, environment=environment)
        assert code == 0, err
        [seen] = server.runs.values()
        mark.unlink()
        name = f"wandb:tester/algomatch/model-{seen.id}:latest"
        code, _, err = run("analyze", name, environment=environment, cwd=tmp_path)
        assert code == 2, err
        lines = len(text.splitlines())
        assert f"program/helper_of_ranks.py (1 line), program/ranks.py ({lines} lines)" in err
        assert f"then run it by `algomatch analyze {name} --trust`" in err
        assert not mark.exists()
        assert len(server.runs) == 1, "no run of an analysis was begun"
        (tmp_path / "user").rename(tmp_path / "gone")
        arguments = ("analyze", name, "--trust")
        code, out, err = run(*arguments, environment=environment, cwd=tmp_path)
        assert code == 0, err
        assert "equal the recorded ones exactly" in out
        assert mark.exists()
