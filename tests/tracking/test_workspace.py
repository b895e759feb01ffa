"""The saved workspace of a project, by the real client and library and a loopback server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import TIMEOUT, TINY, run
from support.wandb_server import ENTITY, WandbServer

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures.emergence import CONTROLS, summaries
from algomatch.analysis.measures.suite import headlines, measure
from algomatch.api.preparation import prepare
from algomatch.cli.main import main
from algomatch.config.composition import compose
from algomatch.models.bridges import make_bridge
from algomatch.runs.run_folder import RunFolder
from algomatch.tracking import workspace
from algomatch.tracking.wandb_log import WandbLog, run_summary

ws: Any = vars(workspace)["ws"]  # imported there without its warnings
PROJECT = "studied"
STEP = "trainer/global_step"
NAMES = [
    "Accuracy", "Similarity", "Matching and emergence", "Ablation", "Sparsity", "By architecture",
    "Heatmaps",
]  # fmt: skip
SUMMARY = ("final/", "best/", "emergence_step/")


TESTED = (  # keys of matching for a program with testable cuts; this one has none
    Measurement("matching/best_match", "tokens+length", 0.9, 300),
    Measurement("matching/best_match_chance", "tokens+length", 0.2, 300),
    Measurement("matching/realised", "tokens+length", 1.0, 300),
    Measurement("matching/variable_match", "length", 0.9, 300),
    Measurement("matching/variable_realised", "length", 1.0, 300),
)


@pytest.fixture(scope="module")
def context() -> MeasurementContext:
    """Reverse over two tokens, without the slowest of the measures."""
    return prepare(
        compose(
            [*TINY, "model.n_layers=2", "analysis.other_tasks=1",
             "analysis.measures=[accuracy,similarity,attention,ablation,sparsity]"]
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def steps(context: MeasurementContext) -> list[list[Measurement]]:
    """The measurements of a model that is untrained at first and solves the task at the end."""
    loss = Measurement("training/loss", "batch", 1.0, 1)
    models = make_bridge(context.shape), context.reference.bridge
    return [[loss, *measure(model, context), *TESTED] for model in models]


@pytest.fixture(scope="module")
def keys(steps: list[list[Measurement]]) -> list[str]:
    """The keys that a run of these steps logs."""
    rows = [row.at("", number) for number, part in enumerate(steps) for row in part]
    curves = {row.key for row in headlines(rows)}
    return sorted(curves | run_summary(summaries(rows).values()).keys())


@pytest.fixture(scope="module")
def server(
    context: MeasurementContext,
    steps: list[list[Measurement]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WandbServer]:
    """A server with two runs of a project."""
    with WandbServer() as wandb_server, pytest.MonkeyPatch.context() as patch:
        for key, value in wandb_server.environment().items():
            patch.setenv(key, value)
        for seed in range(2):
            log(seed, context, steps, tmp_path_factory.mktemp("runs") / "run")
        yield wandb_server
        wandb.teardown()


def log(seed: int, context: MeasurementContext, steps: list[list[Measurement]], path: Path) -> None:
    """Log a run as `algomatch train` does."""
    config = compose(
        [*TINY, f"seed={seed}", f"run_dir={path}", "tracking=online", f"tracking.project={PROJECT}"]
    )
    folder = RunFolder.create(config, context.inputs.digest(), True)
    logger = WandbLog(folder, print)
    logger.start()
    for number, rows in enumerate(steps):
        logger.log(row.at(folder.id, 10 * number) for row in rows)
    logger.close()
    assert logger.problem is None


def saved(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Save a workspace by the command; return its URL."""
    capsys.readouterr()
    assert main(["workspace", f"{ENTITY}/{PROJECT}", *arguments]) == 0
    return capsys.readouterr().out.split()[-1]


def configs(section: Any) -> list[tuple[str, dict[str, Any]]]:
    """Each panel of a section as W&B keeps it: its kind and what it shows."""
    dumps = [
        panel._to_model().model_dump(by_alias=True, exclude_none=True) for panel in section.panels
    ]
    return [(dump["viewType"], dump["config"]) for dump in dumps]


def shown(config: dict[str, Any]) -> list[str]:
    """The keys that a panel shows, without its x axis."""
    places = [config.get("xAxis", ""), config.get("yAxis", "")]
    places += [column["accessor"] for column in config.get("columns", [])]
    accessed = [place.removeprefix("summary:") for place in places if place.startswith("summary:")]
    return [*config.get("metrics", []), *config.get("mediaKeys", []), *accessed]


def test_every_key_of_every_panel_is_logged(
    server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    view = ws.Workspace.from_url(saved(capsys))
    assert [section.name for section in view.sections] == NAMES
    runs = list(server.runs.values())
    curves = {
        key: [r[key] for run in runs for r in run.history if key in r] for key in keys_of(runs)
    }
    kinds = Counter[str]()
    for section in view.sections:
        assert section.panel_settings.x_axis == STEP
        for kind, config in configs(section):
            kinds[kind] += 1
            if kind == "Run History Line Plot":
                assert config["xAxis"] == STEP
                values = [value for key in config["metrics"] for value in curves[key]]
                assert all(curves[key] for key in config["metrics"])
                low, high = config.get("yAxisMin"), config.get("yAxisMax")
            elif kind == "Media Browser":
                assert all(curves[key][0]["_type"] == "image-file" for key in config["mediaKeys"])
                continue
            else:
                values = [run.summary[key] for run in runs for key in shown(config)]
                low, high = config.get("xAxisMin"), config.get("xAxisMax")
                if kind == "Bar Chart":
                    assert all(key.startswith(SUMMARY) for key in config["metrics"])
                assert (kind == "Markdown Panel") != bool(values)
            assert all(low is None or value >= low for value in values)
            assert all(high is None or value <= high for value in values)
    assert set(kinds) == {
        "Run History Line Plot", "Bar Chart", "Scatter Plot", "Parallel Coordinates Plot",
        "Media Browser", "Markdown Panel",
    }  # fmt: skip
    assert len(shown_everywhere(view)) < 200


def keys_of(runs: list[Any]) -> set[str]:
    """Every key of runs' histories."""
    return {key for run in runs for row in run.history for key in row}


def shown_everywhere(view: Any) -> set[str]:
    """Every key that a workspace shows."""
    return {
        key for section in view.sections for _, panel in configs(section) for key in shown(panel)
    }


def test_of_all_curves_only_those_that_say_little_are_in_no_panel(
    server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    view = ws.Workspace.from_url(saved(capsys))
    there = {key for key in keys_of(list(server.runs.values())) if not key.startswith(("_", "tab"))}
    missing = there - shown_everywhere(view)
    assert {name_of(key) for key in missing if not key.startswith("accuracy/train")} == {
        "global_step", "loss", "token", "undefined_share", "redundant_alone_share",
    }  # fmt: skip


def test_no_panel_shows_what_has_controls_without_them(
    server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    view = ws.Workspace.from_url(saved(capsys))
    judged = 0
    for section in view.sections:
        for _, config in configs(section):
            keys = shown(config)
            for key in keys:
                if not key.startswith("emergence_step/") and controlled(key):
                    judged += 1
                    assert any(f"{key}{ending}" in keys for ending in CONTROLS), key
                if key.endswith("/best_match"):
                    assert f"{key}_chance".replace("best/", "final/") in keys
                if key.endswith("/variable_match"):
                    assert any(other.endswith("_chance") for other in keys)
    assert judged > 10


def controlled(key: str) -> bool:
    """Whether a key belongs to a measure that needs controls."""
    subjects = ("similarity/", "attention/", "final/similarity/", "final/attention/")
    return key.startswith(subjects) and not key.endswith((*CONTROLS, "_reference"))


def test_the_runs_are_grouped_and_the_table_says_what_a_run_is_and_how_it_ended(
    server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ws.Workspace.from_url(saved(capsys)).runset_settings
    assert [column.name for column in settings.groupby] == list(workspace.GROUPED_BY)
    assert settings.filters == "Metric(\"JobType\") == 'train'"
    columns = settings.pinned_columns
    assert columns[:6] == [
        "run:displayName", "run:state", "config:task.value.name", "config:model.value.name",
        "config:model.value.normalization", "config:seed.value",
    ]  # fmt: skip
    [run, _] = server.runs.values()
    for column in columns[2:6]:
        group, _, name = column.removeprefix("config:").partition(".value")
        value = run.config[group]
        assert (value[name.removeprefix(".")] if name else value) is not None
    ended = [column.removeprefix("summary:") for column in columns[6:]]
    assert [
        key for key in ended if key in run.summary or key.startswith("emergence_step/")
    ] == ended
    for key in (
        "final/accuracy/all/exact", "final/accuracy/held_out/exact",
        "emergence_step/accuracy/all/exact", f"emergence_step/{workspace.DCKA}",
    ):  # fmt: skip
        assert key in ended
    cuts = [key for key in ended if key.endswith("best_match")]
    assert cuts
    assert all(key.replace("best/", "final/", 1) + "_chance" in ended for key in cuts)


def test_a_second_call_replaces_the_workspace_and_another_name_is_another_one(
    server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    first = saved(capsys, "--name", "twice")
    n_views = len(server.views)
    [before] = [view for view in server.views.values() if view.display_name == "twice"]
    changed = ws.Workspace.from_url(first)
    changed.sections = []
    changed.save()
    assert saved(capsys, "--name", "twice") == first
    [after] = [view for view in server.views.values() if view.display_name == "twice"]
    assert (after.id, len(server.views)) == (before.id, n_views)
    assert len(ws.Workspace.from_url(first).sections) == len(NAMES)
    assert saved(capsys, "--name", "another") != first
    assert len(server.views) == n_views + 1


def failed(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The one line that the command prints when it fails."""
    capsys.readouterr()
    assert main(["workspace", *arguments]) == code
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("path", ["studied", "a/b/c", "/studied", f"{ENTITY}/", "http://h/a/b"])
def test_a_path_of_another_form_is_refused(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not of the form ENTITY/PROJECT" in failed(capsys, 2, path)


def test_a_name_that_wandb_refuses_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "emoji" in failed(capsys, 2, "a/b", "--name", "runs \N{ROCKET}")
    assert "empty" in failed(capsys, 2, "a/b", "--name", " ")


def test_a_project_without_runs_of_algomatch_says_how_to_make_one(
    server: WandbServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "tracking=online" in failed(capsys, 2, f"{ENTITY}/nothing")
    foreign = wandb.init(
        project="others", job_type="train", dir=str(tmp_path), settings=wandb.Settings(silent=True)
    )
    with foreign:
        foreign.log({"loss": 1.0, "heatmaps/similarity": 2.0})
    assert "tracking=online" in failed(capsys, 2, f"{ENTITY}/others")


def test_a_server_that_does_not_answer_is_given_up_in_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb.Api, "_HTTP_TIMEOUT", 1)  # like WANDB_HTTP_TIMEOUT=1
    with WandbServer(hang=True) as hanging:
        for key, value in hanging.environment().items():
            monkeypatch.setenv(key, value)
        started = time.monotonic()
        assert "W&B did not save the workspace" in failed(capsys, 1, f"{ENTITY}/{PROJECT}")
        assert time.monotonic() - started < 5


def name_of(key: str) -> str:
    """A key without its subject."""
    return key.rpartition("/")[2]


@settings(max_examples=20)
@given(data=st.data())
def test_whatever_was_logged_panels_show_only_that_and_nothing_without_its_controls(
    keys: list[str], data: st.DataObject
) -> None:
    names = sorted({name_of(key) for key in keys})
    missing = data.draw(st.sets(st.sampled_from(names)))
    logged = {key: 1 for key in keys if name_of(key) not in missing}
    view = workspace.workspace("e", "p", "n", logged)
    assert shown_everywhere(view) <= logged.keys()
    for section in view.sections:
        for _, config in configs(section):
            chosen = shown(config)
            for key in filter(controlled, chosen):
                assert any(f"{key}{ending}" in chosen for ending in CONTROLS)


def test_a_panel_names_a_cut_with_commas_between_its_variables() -> None:
    (row,) = [
        row
        for section in workspace.SECTIONS
        for row in section.rows
        if row.title.startswith("Light match, cut")
    ]
    keys = [f"matching/tokens+length/{name}" for name in ("best_match", "best_match_chance")]
    ((title, shown_keys),) = workspace.shown(row, dict.fromkeys(keys, 1))
    assert (title, shown_keys) == ("Light match, cut tokens, length", keys)


def test_more_panels_than_are_shown_are_named_and_lengths_come_in_their_order() -> None:
    logged = {f"accuracy/all.length_{n}/exact": 1 for n in range(1, 41)}
    [section] = workspace.workspace("e", "p", "n", logged).sections
    text, *panels = configs(section)
    titles = [config["chartTitle"] for _, config in panels]
    assert titles == [f"Exact, length {n}" for n in range(1, 25)]
    assert text[1]["value"].endswith(
        "Left out: " + ", ".join(f"Exact, length {n}" for n in range(25, 41)) + "."
    )


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_of_a_run_that_the_command_trained_every_panel_has_its_keys(tmp_path: Path) -> None:
    with WandbServer() as server:
        environment = server.environment()
        online = (*TINY, "tracking=online", "trainer.checkpoints=3", f"run_dir={tmp_path / 'run'}")
        code, _, err = run("train", *online, environment=environment)
        assert code == 0, err
        code, out, err = run("workspace", f"{ENTITY}/algomatch", environment=environment)
        assert (code, err) == (0, "")
        assert out.startswith("workspace 'algomatch' of 1 runs, saved: http://127.0.0.1")
        [trained], [view] = server.runs.values(), server.views.values()
        panels = [
            p for s in view.spec["section"]["panelBankConfig"]["sections"] for p in s["panels"]
        ]
        keys = {key for panel in panels for key in shown(panel["config"])}
        assert len(keys) > 50
        assert keys <= keys_of([trained]) | trained.summary.keys()
        unknown = {**environment, "WANDB_API_KEY": "1" * 40}
        code, _, err = run("workspace", f"{ENTITY}/algomatch", environment=unknown)
        assert code == 1
        assert "401" in err
        assert err.count("\n") == 1
