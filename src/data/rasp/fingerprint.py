"""A hash of what a RASP program computes: its structure and the code of its functions."""

from __future__ import annotations

import enum
import hashlib
import sys
from collections.abc import Generator, Iterable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from tracr.rasp import rasp

from .writer import run


def fingerprint(program: Any) -> str | None:
    """Return a hash that changes whenever the program may compute something else.

    It covers every expression's kind, name and encoding, and every function's byte code,
    constants, defaults, closure and globals. It is None if a function refers to an object without
    a stable description; such a program is not cached.
    """
    describe = _Describer()
    try:
        text = describe(program)
    except _IndescribableError:
        return None
    return hashlib.sha256(f"{sys.version_info[:2]} {text}".encode()).hexdigest()


class _IndescribableError(Exception):
    pass


class _Describer:
    """Describes a graph of objects; an object that was met before is named by its number."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._alive: list[Any] = []  # keeps ids from being reused

    def __call__(self, value: Any) -> str:
        return run(self._described(value))

    def _described(self, value: Any) -> Generator[Any, Any, str]:
        """Return a value's description; yield the values that must be described first."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return f"{type(value).__name__}:{value!r}"
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, ModuleType):
            return f"module:{_shipped(value.__name__)}"
        if id(value) in self._met:
            return f"#{self._met[id(value)]}"
        self._met[id(value)] = len(self._met)
        self._alive.append(value)
        # Hashed at every level: nested quoting would double the length at each.
        parts = yield from self._parts(value)
        return f"{type(value).__name__}:{hashlib.sha256(repr(parts).encode()).hexdigest()}"

    def _apart(self, item: Any) -> str:
        """Describe an item of a set; the order of sets differs between processes."""
        alone = _Describer()
        alone._met = dict(self._met)
        return alone(item)

    def _parts(self, value: Any) -> Generator[Any, Any, list[str]]:
        """Return the descriptions of a value's parts."""
        if isinstance(value, rasp.RASPExpr):
            encoding = value.annotations["encoding"] if isinstance(value, rasp.SOp) else None
            fields = {
                k: v for k, v in vars(value).items() if k not in ("_annotations", "unique_id")
            }
            return [value.name, *(yield from self._each((encoding, fields)))]
        if isinstance(value, FunctionType):
            code = value.__code__
            try:
                cells = [cell.cell_contents for cell in value.__closure__ or ()]
            except ValueError as error:
                raise _IndescribableError("a variable that is not yet bound") from error
            names = {n: value.__globals__[n] for n in _names(code) if n in value.__globals__}
            parts = (code, value.__defaults__, value.__kwdefaults__, cells, names)
            return (yield from self._each(parts))
        if isinstance(value, CodeType):
            constants = yield from self._each(value.co_consts)
            return [value.co_code.hex(), *constants, *value.co_names, *value.co_varnames]
        if isinstance(value, BuiltinFunctionType):  # described with its module or object
            return [value.__qualname__, *(yield from self._each((value.__self__,)))]
        if isinstance(value, type):
            return [_shipped(value.__module__), value.__qualname__]
        if isinstance(value, (tuple, list)):
            return (yield from self._each(value))
        if isinstance(value, (set, frozenset)):
            return sorted(self._apart(item) for item in value)
        if isinstance(value, dict):
            each = yield from self._each(part for item in value.items() for part in item)
            return sorted(f"{key}={item}" for key, item in zip(each[::2], each[1::2], strict=True))
        raise _IndescribableError(type(value).__name__)

    def _each(self, values: Iterable[Any]) -> Generator[Any, Any, list[str]]:
        texts: list[str] = []
        for value in values:
            text = yield self._described(value)
            texts += [text]
        return texts


def _shipped(module: str) -> str:
    """Return the name of a module whose code is fixed by the versions in the cache's key."""
    if module.partition(".")[0] not in {*sys.stdlib_module_names, "tracr"}:
        raise _IndescribableError(module)
    return module


def _names(code: CodeType) -> list[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return sorted({*code.co_names, *(name for nested in inner for name in _names(nested))})
