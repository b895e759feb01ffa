"""Shapes in signatures are checked while the tests run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from support.shapes import with_checks

import algomatch
from algomatch.data.outputs import Categorical
from algomatch.data.program_selectors import Selection

SRC = Path(algomatch.__file__).parent


def test_a_function_is_not_given_another_shape_than_it_says() -> None:
    output = Categorical(("a", "b"))
    output.right(torch.zeros(4, 3, 2), torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(TypeCheckError, match="targets"):
        output.right(torch.zeros(4, 3, 2), torch.zeros(4, 5, dtype=torch.int64))


def test_a_dataclass_does_not_hold_another_shape_than_it_says() -> None:
    Selection(("x",), frozenset(), torch.zeros(2, 3, 3, dtype=torch.bool))
    with pytest.raises(TypeCheckError, match="selected"):
        Selection(("x",), frozenset(), torch.zeros(3, 3, dtype=torch.bool))


def checks(source: str) -> list[str]:
    """Return a module's functions and classes that are checked."""
    return [
        node.name
        for node in ast.walk(with_checks(source))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and any("jaxtyped" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]


def test_what_names_a_shape_is_checked_by_whatever_name() -> None:
    source = '''"""Text."""
from __future__ import annotations
from jaxtyping import Float, Int as Whole
Pattern = Float[Tensor, "query key"]
def given(x: Float[Tensor, "a"] | None) -> None: ...
def gives() -> tuple[int, Whole[Tensor, "a"]]: ...
def by_its_name(x: list[Pattern]) -> None: ...
def no_shape(x: Tensor) -> int:
    def within(x: Pattern) -> None: ...
class Held:
    x: Pattern
    def method(self, *, x: Pattern) -> None: ...
class NotHeld:
    x: int
'''
    assert sorted(checks(source)) == ["Held", "by_its_name", "given", "gives", "method"]


def test_there_is_much_to_check() -> None:
    assert sum(len(checks(path.read_text())) for path in SRC.rglob("*.py")) > 250
