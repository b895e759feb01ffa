"""The names that `import algomatch` offers: loaded when they are used, documented, typed."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import algomatch

SOURCE = Path(algomatch.__file__)
NAMES = [name for name in algomatch.__all__ if name not in ("UserError", "FaultError", "LoadedRun")]


def modules_after(code: str) -> set[str]:
    """The modules that a fresh Python has loaded after some code, beside its own."""
    code = f"import sys; before = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


def test_the_import_loads_nothing_else() -> None:
    assert {name for name in modules_after("import algomatch") if "algomatch" in name} == {
        "algomatch"
    }
    assert not {"numpy", "torch", "rich", "omegaconf", "yaml"} & modules_after(
        "import algomatch; dir(algomatch)"
    )


def test_a_name_loads_what_it_needs_and_no_more() -> None:
    light = modules_after("import algomatch; algomatch.compose(['task=sort'])")
    assert "algomatch.config.composition" in light
    assert not {"torch", "tracr", "jax", "wandb", "transformer_lens"} & light


def test_a_function_is_not_hidden_by_the_folder_of_its_name() -> None:
    from algomatch.report.html import page

    assert inspect.isfunction(algomatch.report)
    assert inspect.isfunction(page.rendered)
    with pytest.raises(AttributeError, match="module 'algomatch' has no attribute 'trian'"):
        _ = algomatch.trian


def test_completion_shows_the_public_names_and_nothing_else() -> None:
    assert dir(algomatch) == sorted([*algomatch.__all__, "__version__"])


def test_editors_and_mypy_see_the_same_names_from_the_same_modules() -> None:
    (block,) = [node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If)]
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == algomatch._MODULES
    assert set(typed) == set(algomatch.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_documented_with_one_example_that_can_be_typed(name: str) -> None:
    function = getattr(algomatch, name)
    assert inspect.isfunction(function)
    assert function.__name__ == name
    text = inspect.getdoc(function) or ""
    if ">>> " in text:  # it is run with the other docstrings
        assert f"{name}(" in text
        return
    match = re.search(r"^Example:\n((?:    .+\n)+)", text, re.MULTILINE)
    assert match is not None, "there is no example"
    tree = ast.parse(textwrap.dedent(match[1]))
    called = {
        call.func.attr: call
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value) == "algomatch"
    }
    assert name in called
    assert set(called) <= set(algomatch.__all__)
    for other, call in called.items():  # the arguments are those that it takes
        keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        inspect.signature(getattr(algomatch, other)).bind(*call.args, **keywords)
