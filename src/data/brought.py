"""Functions from a user's own file: `path/to/my_program.py:make_my_program`."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config import names_file, split_place
from ..errors import UserError, first_line, one_of


def load_function(place: str, beside: str | None = None) -> Callable[..., Any]:
    """Return the function that `path.py:name` names; a bare `name` is in the file of `beside`.

    A relative path is looked for beside the file of `beside`, by default in the current folder.

    Raises:
        UserError: no such file or function, or the file raises when it is imported.
    """
    if not names_file(place):
        assert beside is not None, "a bare name is only read beside a file"
        place = f"{split_place(beside)[0]}:{place}"
    path, name = split_place(place)
    if beside is not None:
        path = split_place(beside)[0].parent / path
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"program file '{path}' {kind}; give path/to/file.py:function")
    module = _import(path)
    own = [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    if not name:
        raise UserError(f"'{path}': name the function too, as in {path}:{(*own, 'make_it')[0]}")
    function = getattr(module, name, None)
    if not callable(function):
        if not own:
            raise UserError(f"'{path}' has no function '{name}', nor any other")
        raise UserError(f"'{path}' has no function '{name}': {one_of(name, own)}")
    return function  # type: ignore[no-any-return]


def where_raised(error: BaseException, path: str) -> str:
    """Return ` (line N)` of a file for an error that passed through it, else nothing."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines.append(error.lineno)
    return f" (line {lines[-1]})" if lines else ""


def _import(path: Path) -> Any:
    path = path.resolve()
    name = f"algomatch_brought_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    before = list(sys.path)
    sys.path.insert(0, str(path.parent))  # it may import what lies beside it
    try:
        # Not by importlib, whose byte code is stale after a change within a second.
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        line = where_raised(error, str(path))
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"program file '{path}' cannot be imported{line}: {reason}") from error
    finally:
        sys.path[:] = before
    return module
