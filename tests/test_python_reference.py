"""The reference that `make api` writes: every public name of its modules, with its docstring."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import algomatch

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
LINK = re.compile(r"\[`algomatch\.([\w.]+)`\]\(([^)]*)\) \| (.+) \|")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "api"
    command = [sys.executable, str(ROOT / "docs" / "api.py"), str(folder)]
    subprocess.run(command, check=True, timeout=60)
    return folder


def public(module: str) -> Iterator[tuple[str, object]]:
    """Yield a module's own functions and classes, and their own methods, from the import."""
    name = f"algomatch.{module}"
    for key, value in vars(importlib.import_module(name)).items():
        known = inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value))
        if key.startswith("_") or not known or value.__module__ != name:
            continue
        yield key, value
        for method, of in vars(value).items() if inspect.isclass(value) else ():
            inner = getattr(of, "__func__", getattr(of, "fget", getattr(of, "func", of)))
            if not method.startswith("_") and inspect.isroutine(inner):
                yield f"{key}.{method}", inner


def test_every_public_name_is_there_with_its_docstring(reference: Path) -> None:
    index = LINK.findall((reference / "README.md").read_text())
    assert len(index) > 40
    pages = {path.name for path in reference.iterdir()} - {"README.md"}
    assert {page for _, page, _ in index} == pages
    for module, page, _ in index:
        text = (reference / page).read_text()
        headings = re.findall(r"^##+ (\S+)$", text, re.MULTILINE)
        names = dict(public(module))
        assert sorted(headings) == sorted(names), module
        for name, value in names.items():
            first = (inspect.getdoc(value) or "").partition("\n")[0]
            assert first, f"{module}.{name} has no docstring"
            assert first in text


def test_the_modules_of_the_public_names_come_first(reference: Path) -> None:
    index = [module for module, _, _ in LINK.findall((reference / "README.md").read_text())]
    behind = set(algomatch._MODULES.values())
    last = max(index.index(module) for module in behind)
    assert last < index.index("models.shapes")


def test_signatures_errors_and_examples_are_markdown(reference: Path) -> None:
    training = (reference / "models.training.md").read_text()
    assert "    progress: Progress | None = None,\n" in training
    assert "Raises:\n\n- UserError: the batch has fewer places than there are lengths." in training
    assert "```pycon\n>>> step_folder(42)" in (reference / "runs.checkpoints.md").read_text()
    rivals = (reference / "analysis.matching.any_bridge.md").read_text()
    assert "    *,\n    settings: TaskConfig | None = None,\n" in rivals
