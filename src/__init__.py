"""Does a trained transformer run the program a human would have written for its task?

    config = algomatch.compose(["task=reverse", "model=2L", "tracking=disabled"])
    run = algomatch.train(config)
    result = algomatch.match(run)
    print(result.programs[0].verdict)

Each name below is loaded when it is first used: `import algomatch` loads nothing else.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api.analyze import analyze
    from .api.circuit import circuit
    from .api.compare import compare
    from .api.controls import controls
    from .api.explain import explain
    from .api.load import load, load_reference
    from .api.match import match
    from .api.report import report
    from .api.states import states
    from .api.subspaces import subspaces
    from .api.train import resume, train
    from .config.composition import compose
    from .data.inputs import input_set
    from .data.tasks import make_task
    from .infra.errors import FaultError, UserError
    from .models.reference import build_reference
    from .runs.loaded_run import LoadedRun

__version__ = "0.1.0"
__all__ = [  # noqa: RUF022 (in the order of use)
    "compose", "make_task", "input_set", "build_reference",
    "train", "resume", "load", "load_reference",
    "analyze", "match", "states", "circuit", "explain", "subspaces", "controls",
    "compare", "report",
    "LoadedRun", "UserError", "FaultError",
]  # fmt: skip

_MODULES = {
    "analyze": "api.analyze",
    "circuit": "api.circuit",
    "explain": "api.explain",
    "FaultError": "infra.errors",
    "load": "api.load",
    "load_reference": "api.load",
    "LoadedRun": "runs.loaded_run",
    "match": "api.match",
    "states": "api.states",
    "subspaces": "api.subspaces",
    "build_reference": "models.reference",
    "compare": "api.compare",
    "compose": "config.composition",
    "controls": "api.controls",
    "input_set": "data.inputs",
    "make_task": "data.tasks",
    "report": "api.report",
    "resume": "api.train",
    "train": "api.train",
    "UserError": "infra.errors",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """This package: `algomatch.report` is the function, not the folder of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _MODULES and isinstance(value, ModuleType):
            return  # a folder, which is imported by its own path
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
