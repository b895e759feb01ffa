"""docs/walkthrough.md: its blocks run in order, and print the output shown below them."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

import algomatch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "walkthrough.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_every_block_prints_what_stands_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = FENCE.findall(PAGE.read_text())
    kinds = [kind for kind, _ in blocks]
    assert kinds == ["python", "text"] * (len(blocks) // 2)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "walkthrough"}
    for (_, source), (_, expected) in zip(blocks[::2], blocks[1::2], strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, str(PAGE), "exec"), names)
        assert printed.getvalue() == expected, source


def test_it_uses_the_public_names_only() -> None:
    source = "\n".join(text for kind, text in FENCE.findall(PAGE.read_text()) if kind == "python")
    nodes = list(ast.walk(ast.parse(source)))
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["import algomatch"]
    used = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "algomatch"
    }
    assert used <= set(algomatch.__all__)
    assert len(used) > 10
