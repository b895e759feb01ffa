"""A hash of what a RASP program computes: its structure and the code of its functions."""

from __future__ import annotations

import enum
import hashlib
import sys
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from tracr.rasp import rasp


def fingerprint(program: Any) -> str | None:
    """Return a hash that changes whenever the program may compute something else.

    It covers every expression's kind, name and encoding, and every function's byte code,
    constants, defaults, closure and globals. None where a function holds something that has
    no stable description; such a program is not cached.
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
    """Describes a graph of objects; what was met before is named by its number."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._alive: list[Any] = []  # keeps ids from being used again

    def __call__(self, value: Any) -> str:
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
        # Hashed at every level: quoting what is quoted would double it at each.
        parts = hashlib.sha256(repr(self._parts(value)).encode()).hexdigest()
        return f"{type(value).__name__}:{parts}"

    def _apart(self, item: Any) -> str:
        """Describe an item of a set, whose order is another in every process."""
        alone = _Describer()
        alone._met = dict(self._met)
        return alone(item)

    def _parts(self, value: Any) -> list[str]:
        if isinstance(value, rasp.RASPExpr):
            encoding = value.annotations["encoding"] if isinstance(value, rasp.SOp) else None
            fields = {
                k: v for k, v in vars(value).items() if k not in ("_annotations", "unique_id")
            }
            return [value.name, self(encoding), self(fields)]
        if isinstance(value, FunctionType):
            code = value.__code__
            try:
                cells = [cell.cell_contents for cell in value.__closure__ or ()]
            except ValueError as error:
                raise _IndescribableError("a variable that is not yet bound") from error
            names = {n: value.__globals__[n] for n in _names(code) if n in value.__globals__}
            parts = (code, value.__defaults__, value.__kwdefaults__, cells, names)
            return [self(part) for part in parts]
        if isinstance(value, CodeType):
            constants = [self(constant) for constant in value.co_consts]
            return [value.co_code.hex(), *constants, *value.co_names, *value.co_varnames]
        if isinstance(value, BuiltinFunctionType):  # what it is bound to: a module or an object
            return [value.__qualname__, self(value.__self__)]
        if isinstance(value, type):
            return [_shipped(value.__module__), value.__qualname__]
        if isinstance(value, (tuple, list)):
            return [self(item) for item in value]
        if isinstance(value, (set, frozenset)):
            return sorted(self._apart(item) for item in value)
        if isinstance(value, dict):
            return sorted(f"{self(key)}={self(item)}" for key, item in value.items())
        raise _IndescribableError(type(value).__name__)


def _shipped(module: str) -> str:
    """Return the name of a module whose code is fixed by the versions in the cache's key."""
    if module.partition(".")[0] not in {*sys.stdlib_module_names, "tracr"}:
        raise _IndescribableError(module)
    return module


def _names(code: CodeType) -> list[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return sorted({*code.co_names, *(name for one in inner for name in _names(one))})
