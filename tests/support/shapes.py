"""Shapes in signatures are checked while the tests run: beartype asks jaxtyping.

Only functions and dataclasses whose annotations name a shape are checked. To check every function
doubled the time of the tests. A function within a function is not checked either: it is made anew
at every call, and its check with it.
"""

from __future__ import annotations

import ast
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType
from typing import Any

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float
CHECKED = f"jaxtyping.jaxtyped(typechecker=sys.modules['{__name__}'].typechecker)"


def check_shapes(package: str) -> None:
    """Check shapes in the modules of a package that are imported from now on."""
    sys.meta_path.insert(0, _Finder(package))


def with_checks(source: str | bytes) -> ast.Module:
    """Return a module's syntax tree, decorated with checks of the shapes that it names."""
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
            if isinstance(node, ast.Assign) and self._is_shape(node.value):  # a name for a shape
                self._names |= {name.id for name in node.targets if isinstance(name, ast.Name)}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if self._is_shape(node.args) or self._is_shape(node.returns):
            node.decorator_list.append(_check())  # nearest to the function
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
        if any(self._is_shape(field.annotation) for field in fields):
            node.decorator_list.insert(0, _check())  # after the dataclass is made
        return node

    def _is_shape(self, node: ast.AST | None) -> bool:
        """Return whether a shape is named anywhere in it."""
        parts = ast.walk(node) if node is not None else ()
        return any(isinstance(part, ast.Name) and part.id in self._names for part in parts)


def _check() -> ast.expr:
    return ast.parse(CHECKED, mode="eval").body


def _comes_first(node: ast.stmt) -> bool:
    """Return whether this is the module's docstring or an import of what is to come."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


class _Loader(SourceFileLoader):
    """Loads a module with checks, never from byte code that has none."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(with_checks(self.get_data(self.path)), self.path, "exec")
        return code


class _Finder(MetaPathFinder):
    """Finds the modules of one package as Python does, and lets them be loaded with checks."""

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
