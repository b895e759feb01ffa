"""The picture of a program: every variable has a place, every arrow is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.patches import FancyArrowPatch
from PIL import Image
from tracr.rasp import rasp

from algomatch.config.schema import TaskConfig
from algomatch.data.rasp.text import edges
from algomatch.data.registered_tasks import REGISTRY
from algomatch.data.tasks import Task, make_task
from algomatch.infra.errors import FaultError, UserError
from algomatch.report.figures.graphs import program_graph, save_program_graph


@pytest.mark.parametrize("name", REGISTRY)
def test_every_variable_has_a_box_of_its_own_and_every_edge_an_arrow(name: str) -> None:
    task = make_task(TaskConfig(name=name))
    (axes,) = program_graph(task).axes
    boxes = {text.get_text(): text.get_position() for text in axes.texts}
    assert len(boxes) == len(task.variables) == len(set(boxes.values()))
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == len(edges(task.program))


@pytest.mark.parametrize("name", ["reverse", "induction", "shuffle_dyck2"])
def test_what_is_read_stands_above_what_reads_it(name: str) -> None:
    task = make_task(TaskConfig(name=name))
    (axes,) = program_graph(task).axes
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert all(heights[source] > heights[target] for source, target, _ in edges(task.program))


def test_a_program_of_one_step_and_names_like_mathematics_are_drawn(tmp_path: Path) -> None:
    step = rasp.Map(lambda token: token, rasp.tokens).named("$x_{1}^$_and_a_name_that_is_long")
    task = Task("$one", step, (0, 1), 1, 2)
    save_program_graph(task, tmp_path / "one.svg")
    assert "<svg" in (tmp_path / "one.svg").read_text()
    save_program_graph(Task("tokens", rasp.tokens, (0, 1), 1, 2), tmp_path / "none.png")
    assert (tmp_path / "none.png").exists()


def test_the_picture_is_the_same_every_time_and_whole(tmp_path: Path) -> None:
    task = make_task(TaskConfig(name="sort"))
    for name in ("a.png", "b.png"):
        save_program_graph(task, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 4


def test_another_kind_of_file_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    task = make_task(TaskConfig(name="sort"))
    with pytest.raises(UserError, match=r"must end in one of \.png, \.svg, \.pdf"):
        save_program_graph(task, tmp_path / "graph.doc")
    with pytest.raises(FaultError, match="write the picture"):
        save_program_graph(task, tmp_path / "missing" / "graph.png")
