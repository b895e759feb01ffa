"""docs/architecture.md shows the rooms and modules that the source has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
TO_WRITE = "write it anew: make tables"


@pytest.fixture(scope="module")
def rooms() -> ModuleType:
    """The program that writes the list and the picture."""
    spec = importlib.util.spec_from_file_location("rooms", DOCS / "rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_modules_is_that_of_the_source(rooms: ModuleType) -> None:
    page = rooms.PAGE.read_text()
    assert rooms.with_modules(page) == page, TO_WRITE
    assert "tasks.py" in page.partition(rooms.BEGIN)[2]


def test_the_picture_shows_the_imports_of_the_source(rooms: ModuleType) -> None:
    counts = rooms.imports_between_rooms()
    assert rooms.PICTURE.read_text() == rooms.picture(rooms.rooms(), counts), TO_WRITE


def test_every_arc_of_the_picture_points_down(rooms: ModuleType) -> None:
    names, counts = rooms.rooms(), rooms.imports_between_rooms()
    assert counts["cli", "infra"] > 0
    assert [pair for pair in counts if names.index(pair[0]) > names.index(pair[1])] == []


def test_every_room_is_a_layer_of_the_contract(rooms: ModuleType) -> None:
    packages = {path.parent.name for path in rooms.SRC.glob("*/__init__.py")}
    assert set(rooms.rooms()) == packages
