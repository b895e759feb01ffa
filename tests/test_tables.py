"""What docs, README and sweep files say of settings, tasks and architectures is what there is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """`docs/tables.py`, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_and_number_is_as_the_records_have_it(tables: ModuleType) -> None:
    stale = [path for path, text in tables.written() if (ROOT / path).read_text("utf-8") != text]
    assert not stale, "write them anew: make tables"


def test_a_table_that_says_something_else_is_written_anew(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [path for path, _ in tables.written()]
    wrong = {
        "docs/configuration.md": ("at least 20", "at least 21"),
        "docs/tasks.md": ("the list backwards", "the list"),
        "docs/measures.md": ("share of heads and MLPs | 0 | 1 |", "share | 0 | 1 |"),
        "sweeps/tasks.yaml": ("palindrome,", ""),
        "sweeps/architectures.yaml": ("1L,", ""),
        "docs/sweeps.md": ("`architectures.yaml` | ", "`architectures.yaml` | 1"),
        "README.md": ("tasks;", "tasks;"),
    }
    for path in paths:
        copy, text = tmp_path / path, (ROOT / path).read_text("utf-8")
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(text.replace(*wrong[path]) if path in wrong else text, "utf-8")
    readme = tmp_path / "README.md"
    readme.write_text(re.sub(r"# \d+ tasks;", "# 1 tasks;", readme.read_text("utf-8")), "utf-8")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    stale = {path for path, text in tables.written() if (tmp_path / path).read_text() != text}
    assert stale >= set(wrong)
    tables.main()
    for path in paths:
        assert (tmp_path / path).read_text("utf-8") == (ROOT / path).read_text("utf-8"), path
