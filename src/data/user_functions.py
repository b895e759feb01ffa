"""Functions from a user's own file: `path/to/my_program.py:make_my_program`.

While it is imported, and whenever its functions run, such a file sees the modules beside it and
those on the search path that its own `sys.path` lines add. These modules are its own, even if the
process has others of the same names.
"""

from __future__ import annotations

import builtins
import functools
import hashlib
import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from modulefinder import ModuleFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ..config.composition import names_file, split_place
from ..infra.errors import UserError, first_line, one_of

PACKAGE = __name__.partition(".")[0]
INSTALLED = ("site-packages", "dist-packages")
STANDARD = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))


def load_function(place: str, beside: str | None = None) -> Callable[..., Any]:
    """Return the function that `path.py:name` names; a bare `name` is in the file of `beside`.

    A relative path is looked for beside the file of `beside`, by default in the current folder.

    Raises:
        UserError: no such file or function, or the file raises when it is imported.
    """
    path, name = file_of(place, beside)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"program file '{path}' {kind}; give path/to/file.py:function")
    brought = BroughtFile(path.resolve(), path)
    earlier = _loaded.get(brought.path)
    if earlier is not None and earlier.content == brought.content:  # for another function
        brought.sources = earlier.sources | brought.sources
    _loaded[brought.path] = brought
    module = brought.module
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
            raise UserError(f"'{path}' has no function '{name}', and no other function")
        raise UserError(f"'{path}' has no function '{name}': {one_of(name, own)}")
    return brought.bound(function)


def file_of(place: str, beside: str | None = None) -> tuple[Path, str]:
    """Return the file and function that a place names; relative paths start beside another file."""
    if not names_file(place):
        assert beside is not None, "a bare name is only read beside a file"
        return split_place(beside)[0], place
    path, name = split_place(place)
    return (path if beside is None else split_place(beside)[0].parent / path), name


def loaded(path: Path) -> BroughtFile:
    """Return a file as it was last imported here, or import it now.

    Raises:
        UserError: the file raises when it is imported.
    """
    whole = path.resolve()
    if whole not in _loaded:
        _loaded[whole] = BroughtFile(whole, path)
    return _loaded[whole]


def where_raised(error: BaseException, path: str) -> str:
    """Return ` (line N)` of a file for an error that passed through it, else nothing."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines.append(error.lineno)
    return f" (line {lines[-1]})" if lines else ""


class BroughtFile(MetaPathFinder):
    """A user's imported file, with its own search path and modules.

    `sources` are the user's own modules that it imported, with the content that was read. These lie
    beside or below the file or on its `sys.path`; installed packages are left out.

    Raises:
        UserError: the file raises when it is imported.
    """

    def __init__(self, path: Path, called: Path):
        self.path, self.folder = path, path.parent
        self.sources: dict[str, tuple[Path, bytes]] = {}
        self._path = [str(self.folder), *sys.path]
        self._theirs = {Path(given).resolve() for given in sys.path}
        self._modules: dict[str, ModuleType] = {}
        self._names = _beside(self.folder)
        self._entered = False
        self._builtins = {**vars(builtins), "__import__": self._import}
        name = f"{PACKAGE}_brought_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
        self.module = sys.modules[name] = ModuleType(name)
        self.module.__file__ = str(path)
        vars(self.module)["__builtins__"] = self._builtins
        importlib.invalidate_caches()  # so that files written a moment ago are seen
        try:
            self.content = path.read_bytes()
            with self._inside():
                # Not by importlib, whose byte code is stale after a change within a second.
                exec(compile(self.content, str(path), "exec"), vars(self.module))
        except (Exception, SystemExit) as error:
            line = where_raised(error, str(path))
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(
                f"program file '{called}' cannot be imported{line}: {reason}"
            ) from error

    def bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of the file that runs with the file's own search path and modules."""

        @functools.wraps(function)
        def run(*given: Any, **named: Any) -> Any:
            with self._inside():
                return function(*given, **named)

        run.__name__ = getattr(function, "__name__", type(function).__name__)
        return run

    def imported(self) -> dict[str, tuple[Path, bytes]]:
        """Return the user's own modules that the file imports, also those not yet imported.

        They are read off its code and its modules' code, and added to those imported so far.
        """
        own = [
            str(self.folder),
            *(folder for folder in self._path if not _is_installed(Path(folder))),
        ]
        finder = ModuleFinder(
            path=[folder for folder in own if not (Path(folder) / PACKAGE).exists()]
        )
        with suppress(Exception):  # unreadable modules have been imported already or never will be
            finder.run_script(str(self.path))
        modules = {}
        for name, module in finder.modules.items():
            file = Path(module.__file__ or "")  # type: ignore[attr-defined]
            if name != "__main__" and file.suffix == ".py":
                with suppress(OSError):
                    modules[name] = file, file.read_bytes()
        return modules | self.sources

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Give the process the file's search path and modules for a while."""
        if self._entered:
            yield
            return
        outer, before = sys.path, list(sys.path)
        theirs = {name: sys.modules.pop(name) for name in self._names if name in sys.modules}
        sys.modules.update(self._modules)
        place = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0
        sys.meta_path.insert(place, self)
        sys.path[:] = self._path
        self._entered = True
        try:
            yield
        finally:
            self._entered = False
            self._path = list(sys.path)
            sys.path = outer
            sys.path[:] = before
            sys.meta_path.remove(self)
            own = {name: sys.modules.pop(name) for name in self._names if name in sys.modules}
            self._modules.update(own)
            sys.modules.update(theirs)

    def _import(self, *given: Any, **named: Any) -> Any:
        """Import as the file's own statements do, whenever they run."""
        with self._inside():
            return builtins.__import__(*given, **named)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that is the user's own: first beside the file, then on its search path."""
        if fullname.partition(".")[0] == PACKAGE:
            return None
        beside = None if path is not None else PathFinder.find_spec(fullname, [str(self.folder)])
        spec = beside
        if beside is None or beside.origin is None:  # a folder without __init__.py comes last
            spec = PathFinder.find_spec(fullname, path)
            if spec is None or (spec.origin is not None and _is_installed(Path(spec.origin))):
                return None
            if spec.origin is None and beside is not None:
                spec = beside
                spec.submodule_search_locations = [str(self.folder / fullname)]
        assert spec is not None
        self._names.add(fullname)
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path, self)
        elif spec.origin is not None:
            self.sources[fullname] = self._compiled(fullname, Path(spec.origin)), b""
        return spec

    def _compiled(self, fullname: str, file: Path) -> Path:
        """Return the file of a module without a source, if the process itself could import it.

        Raises:
            ImportError: it lies beside the program, or where only the program looks for it.
        """
        is_package = file.name.partition(".")[0] == "__init__"
        root = [*file.parents][: fullname.count(".") + is_package + 1][-1].resolve()
        if root == self.folder or root not in self._theirs:
            raise ImportError(
                f"'{file}' is not a source file: only .py files are read as a program's modules",
                name=fullname,
            )
        return file

    def keep(self, module: ModuleType, path: str, content: bytes) -> None:
        """Keep the source of a module about to run, and give it the file's import function."""
        self.sources[module.__name__] = Path(path), content
        vars(module)["__builtins__"] = self._builtins


class _Loader(SourceFileLoader):
    """Loads a module from its source, never from byte code, which may be stale or another's."""

    def __init__(self, fullname: str, path: str, brought: BroughtFile):
        super().__init__(fullname, path)
        self._brought = brought

    def exec_module(self, module: ModuleType) -> None:
        content = self.get_data(self.path)
        self._brought.keep(module, self.path, content)
        exec(self._code(content), vars(module))

    def get_code(self, fullname: str) -> CodeType:
        return self._code(self.get_data(self.path))

    def _code(self, content: bytes) -> CodeType:
        return compile(content, self.path, "exec", dont_inherit=True)


_loaded: dict[Path, BroughtFile] = {}  # as last imported


def _beside(folder: Path) -> set[str]:
    """Return this process's modules that have the same name as one of the user's in a folder."""
    own = {path.stem for path in folder.glob("*.py")}
    own |= {path.parent.name for path in folder.glob("*/__init__.py")}
    if PACKAGE in own:
        return set()
    tops = {
        name
        for name in own - {"__main__"} - sys.stdlib_module_names
        if name in sys.modules and not _is_installed(Path(sys.modules[name].__file__ or "/"))
    }
    return {name for name in sys.modules if name.partition(".")[0] in tops}


def _is_installed(path: Path) -> bool:
    """Return whether a path belongs to Python itself or to an installed package."""
    below = any(path.is_relative_to(folder) for folder in STANDARD)
    return below or any(part in INSTALLED for part in path.parts)
