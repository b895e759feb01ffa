"""Checks shapes in signatures while the tests run, by beartype and jaxtyping.

Only functions and dataclasses whose annotations name a shape are checked: checking every function
doubled the time of the tests. Inner functions are not checked, because each call would make a new
check.
"""

from __future__ import annotations

import ast
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType
from typing import Any

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int counts as a float
CHECKED = f"jaxtyping.jaxtyped(typechecker=sys.modules['{__name__}'].typechecker)"


def check_shapes(package: str) -> None:
    """Check shapes in the modules of a package that are imported from now on."""
    sys.meta_path.insert(0, _Finder(package))


def with_checks(source: str | bytes) -> ast.Module:
    """Return a module's syntax tree with checks of its shapes."""
    tree = ast.parse(source)
    _Decorated(tree).visit(tree)
    after = sum(map(_comes_first, tree.body))
    tree.body[after:after] = ast.parse("import jaxtyping, sys").body
    return ast.fix_missing_locations(tree)


class _Decorated(ast.NodeTransformer):
    """Decorates functions and dataclasses whose annotations name a shape."""

    def __init__(self, tree: ast.Module):
        self._names = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping"
            for alias in node.names
        }
        for node in tree.body:
            if isinstance(node, ast.Assign) and self._is_shape(node.value):  # a named shape
                self._names |= {name.id for name in node.targets if isinstance(name, ast.Name)}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if self._is_shape(node.args) or self._is_shape(node.returns):
            node.decorator_list.append(_check())  # nearest to the function
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
        if any(self._is_shape(field.annotation) for field in fields):
            node.decorator_list.insert(0, _check())  # applied after the dataclass decorator
        return node

    def _is_shape(self, node: ast.AST | None) -> bool:
        """Return whether a shape is named anywhere in it."""
        parts = ast.walk(node) if node is not None else ()
        return any(isinstance(part, ast.Name) and part.id in self._names for part in parts)


def _check() -> ast.expr:
    return ast.parse(CHECKED, mode="eval").body


def _comes_first(node: ast.stmt) -> bool:
    """Return whether a statement is the module's docstring or a `__future__` import."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


class _Loader(SourceFileLoader):
    """Loads a module with checks, never from unchecked byte code."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(with_checks(self.get_data(self.path)), self.path, "exec")
        return code


class _Finder(MetaPathFinder):
    """Finds the modules of one package as Python does, and loads them with checks."""

    def __init__(self, package: str):
        self._package = package

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self._package:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if isinstance(spec.loader, SourceFileLoader):
                    spec.loader = _Loader(spec.loader.name, spec.loader.path)
                return spec
        return None
