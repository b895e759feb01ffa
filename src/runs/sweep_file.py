"""A sweep file as Weights & Biases defines it, and its cells: the settings of each run.

The same file works with `wandb sweep` and with `algomatch sweep`, which needs no server.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..config.printed_commands import quoted
from ..config.schema import Config
from ..config.values import (
    Plain,
    as_yaml_1_1,
    read_text,
    resolved,
    scalar_type,
    shown,
    tokens,
    typed_scalar,
)
from ..infra.errors import FaultError, UserError, first_line, one_of

METHODS = ("grid", "random", "bayes")
# Keys of a sweep file that W&B reads; those not used here are for the server.
KEYS = (
    "method", "parameters", "name", "description", "program", "command", "metric", "metrics",
    "early_terminate", "run_cap", "project", "entity", "controller", "apiVersion", "kind", "job",
    "image_uri", "scheduler",
)  # fmt: skip
RANGE, NORMAL, BETA = ("min", "max"), ("mu", "sigma"), ("a", "b")
# Required and optional fields of each distribution:
# https://docs.wandb.ai/models/sweeps/sweep-config-keys
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": (("value",), ()),
    "categorical": (("values",), ("probabilities",)),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": (RANGE, ()),
    "uniform": (RANGE, ()),
    "q_uniform": (RANGE, ("q",)),
    "log_uniform": (RANGE, ()),  # the bounds are exponents
    "q_log_uniform": (RANGE, ("q",)),
    "inv_log_uniform": (RANGE, ()),
    "log_uniform_values": (RANGE, ()),
    "q_log_uniform_values": (RANGE, ("q",)),
    "inv_log_uniform_values": (RANGE, ()),
    "normal": ((), NORMAL),
    "q_normal": ((), (*NORMAL, "q")),
    "log_normal": ((), NORMAL),
    "q_log_normal": ((), (*NORMAL, "q")),
    "beta": ((), BETA),
    "q_beta": ((), (*BETA, "q")),
}
FIELDS = {"distribution", *(f for d in DISTRIBUTIONS.values() for some in d for f in some)}


@dataclass(frozen=True)
class Parameter:
    """One swept or fixed parameter: its place in the config, its distribution and its fields."""

    path: tuple[str, ...]
    distribution: str
    fields: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The dotted key of the config."""
        return ".".join(self.path)


@dataclass(frozen=True)
class SweepFile:
    """A sweep file, read and checked."""

    path: Path
    text: str
    method: str
    parameters: tuple[Parameter, ...]
    run_cap: int | None
    ends_early: bool

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    def cells(self, count: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
        """Return the nested settings of every run.

        A grid gives the product of the parameters' values, with the last parameter varying fastest.
        A random search gives draws, each of which depends only on the seed and its index. `count`
        is the number of cells, by default `run_cap`.

        Raises:
            UserError: the method needs a server, a grid has a parameter that cannot be listed, or
                a random search has no end.
        """
        if self.method == "bayes":
            raise UserError(
                f"'{self.path}' has method bayes, which needs a server that sees all runs: "
                f"`{quoted('wandb', 'sweep', self.path)}`, then `wandb agent`; without one: grid, "
                "random"
            )
        count = self.run_cap if count is None else count
        if self.method == "grid":
            lists = [_listed(parameter, self.path) for parameter in self.parameters]
            chosen: Iterator[Sequence[Any]] = itertools.product(*lists)
            cells = [self._nested(values) for values in chosen]
            return cells if count is None else cells[:count]
        if count is None:
            raise UserError(
                f"'{self.path}' is a random search without an end: give it a run_cap, or --count N"
            )
        return [self._drawn(seed, index) for index in range(count)]

    def _drawn(self, seed: int, index: int) -> dict[str, Any]:
        generator = np.random.default_rng([seed, index])
        return self._nested([_draw(parameter, generator) for parameter in self.parameters])

    def _nested(self, values: Sequence[Any]) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for parameter, value in zip(self.parameters, values, strict=True):
            inner = settings
            for key in parameter.path[:-1]:
                inner = inner.setdefault(key, {})
            inner[parameter.path[-1]] = value
        return settings


def read_sweep(path: Path) -> SweepFile:
    """Return the sweep file at `path`.

    Raises:
        UserError: it is missing, not YAML, or not a sweep file.
        FaultError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values, typed = yaml.safe_load(text), read_text(text)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"sweep file '{path}' does not exist, or is a folder") from None
    except OSError as error:
        raise FaultError(f"cannot read sweep file '{path}': {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError) as error:  # an impossible date, or not text
        raise UserError(f"sweep file '{path}' is not valid YAML: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"sweep file '{path}' must hold `method` and `parameters`")
    for key in values:
        if key not in KEYS:
            raise UserError(f"unknown key '{key}' in sweep file '{path}': {one_of(key, KEYS)}")
    method, parameters = values.get("method"), values.get("parameters")
    if method not in METHODS:
        raise UserError(f"method={method} in sweep file '{path}': {one_of(method, METHODS)}")
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"sweep file '{path}' has no parameters: nothing would be swept")
    cap = values.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise UserError(f"run_cap={cap} in sweep file '{path}' must be a whole number above 0")
    _refuse_words(typed["parameters"], (), path)
    swept = tuple(_parameters(parameters, (), path))
    return SweepFile(path, text, method, swept, cap, "early_terminate" in values)


def _refuse_words(values: Any, at: tuple[str, ...], file: Path) -> None:
    """Refuse an unquoted value that W&B would read differently from how it was typed."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        inner = (*at, str(key))
        if isinstance(value, dict | list):
            _refuse_words(value, inner, file)
            of_key = _key(inner) == "task.vocabulary" and inner[-1] != "values"
            if of_key and isinstance(value, list):  # one vocabulary, not several swept ones
                try:
                    tokens(".".join(inner), value, swept=True)
                except UserError as error:
                    raise UserError(f"{error}; in sweep file '{file}'") from None
        elif (
            isinstance(value, Plain)
            and {"value", "values"} & {*inner}
            and (advice := _misread(_key(inner), value))
        ):
            raise UserError(f"{'.'.join(inner)}={value} in sweep file '{file}': {advice}")


def _key(at: tuple[str, ...]) -> str:
    """Return the config key of a place in a sweep file.

    >>> _key(("task", "parameters", "vocabulary", "values", "0"))
    'task.vocabulary'
    """
    words = ("parameters", "value", "values")
    return ".".join(name for name in at if name not in words and not name.isdecimal())


def _misread(key: str, value: Plain) -> str | None:
    """Return W&B's reading of a value, and what to write, if it differs from the config's."""
    read = as_yaml_1_1(value)
    if isinstance(read, str) or repr(read) == repr(resolved(value)):
        return None
    kind = scalar_type(Config, key)
    typed = None if kind is None else typed_scalar(kind, value)
    if kind is not None and typed == typed_scalar(kind, read):
        return None
    advice = []
    if isinstance(read, int | float) and not isinstance(read, bool) and math.isfinite(read):
        advice.append(f"write {shown(read)}")
    if kind is None or typed is not None:
        advice.append(f"quote it, '{value}'")
    meant = shown(read) if isinstance(read, int | float) or read is None else "a date"
    return f"W&B reads {value} as {meant}: {', or '.join(advice)}"


def _parameters(values: Mapping[Any, Any], at: tuple[str, ...], file: Path) -> Iterator[Parameter]:
    for name, fields in values.items():
        path = (*at, str(name))
        where = f"parameter '{'.'.join(path)}' in sweep file '{file}'"
        if "." in str(name):
            nested = ": {parameters: {".join(str(name).split("."))
            raise UserError(
                f"{where}: nest it, as in `{nested}: ...`, so that W&B's config is nested"
            )
        if not isinstance(fields, dict):
            raise UserError(f"{where} must hold `value`, `values`, a range or `parameters`")
        if "parameters" in fields:
            if not isinstance(fields["parameters"], dict) or len(fields) > 1:
                raise UserError(f"{where}: `parameters` must hold parameters and be the only field")
            yield from _parameters(fields["parameters"], path, file)
        else:
            yield _parameter(path, fields, where)


def _parameter(path: tuple[str, ...], fields: Mapping[str, Any], where: str) -> Parameter:
    for field in fields:
        if field not in FIELDS:
            raise UserError(f"{where} has an unknown field '{field}': {one_of(field, FIELDS)}")
    name = fields.get("distribution") or _implied(fields, where)
    if name not in DISTRIBUTIONS:
        raise UserError(f"{where} has distribution={name}: {one_of(name, DISTRIBUTIONS)}")
    required, optional = DISTRIBUTIONS[name]
    own = {key: value for key, value in fields.items() if key != "distribution"}
    if not set(required) <= own.keys() <= {*required, *optional}:
        takes = ", ".join((*required, *(f"[{key}]" for key in optional)))
        raise UserError(f"{where}: {name} takes {takes}, not {', '.join(own) or 'nothing'}")
    _check_fields(name, own, where)
    return Parameter(path, name, own)


def _implied(fields: Mapping[str, Any], where: str) -> str:
    """Return the distribution that W&B uses if none is named."""
    if "value" in fields:
        return "constant"
    if "values" in fields:
        return "categorical"
    if "min" in fields and "max" in fields:
        whole = all(isinstance(fields[key], int) for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise UserError(f"{where} needs `value`, `values`, `min` and `max`, or a `distribution`")


def _check_fields(name: str, fields: Mapping[str, Any], where: str) -> None:
    if "values" in fields:
        values = fields["values"]
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}: values={values} must be a list of at least one value")
        if len({repr(value) for value in values}) < len(values):
            raise UserError(f"{where}: values={values} must be different from each other")
        shares = fields.get("probabilities")
        if shares is not None and (
            not isinstance(shares, list)
            or len(shares) != len(values)
            or not all(_number(share) and share >= 0 for share in shares)
            or not math.isclose(sum(shares), 1, abs_tol=1e-6)
        ):
            raise UserError(f"{where}: probabilities={shares} must be one for each value, sum 1")
    for key in set(fields) - {"value", "values", "probabilities"}:
        if not _number(fields[key]):
            hint = (
                " (YAML reads 1e-3 as a text; write 1.0e-3)" if _text_of_number(fields[key]) else ""
            )
            raise UserError(f"{where}: {key}={fields[key]!r} must be a finite number{hint}")
    for key in {"q", "sigma", "a", "b"} & set(fields):
        if fields[key] <= 0:
            raise UserError(f"{where}: {key}={fields[key]} must be above 0")
    if "min" in fields:
        low, high = fields["min"], fields["max"]
        if name == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
            raise UserError(f"{where}: min={low} and max={high} of int_uniform must be whole")
        if low > high:
            raise UserError(f"{where}: min={low} must not exceed max={high}")
        if name.endswith("_values") and low <= 0:
            raise UserError(f"{where}: min={low} of {name} must be above 0")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text_of_number(value: object) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _listed(parameter: Parameter, file: Path) -> list[Any]:
    """Return all values of a grid's parameter."""
    fields = parameter.fields
    if parameter.distribution == "constant":
        return [fields["value"]]
    if "values" in fields:
        return list(fields["values"])
    if parameter.distribution == "int_uniform":
        return list(range(fields["min"], fields["max"] + 1))
    raise UserError(
        f"parameter '{parameter.key}' in sweep file '{file}' is {parameter.distribution}: a grid "
        "needs `value`, `values`, or whole `min` and `max`; or set `method: random`"
    )


def _draw(parameter: Parameter, generator: np.random.Generator) -> Any:
    """Return one draw of a parameter, as plain Python."""
    fields, name = parameter.fields, parameter.distribution
    if name == "constant":
        return fields["value"]
    if "values" in fields:
        shares = fields.get("probabilities")
        return fields["values"][int(generator.choice(len(fields["values"]), p=shares))]
    if name == "int_uniform":
        return int(generator.integers(fields["min"], fields["max"], endpoint=True))
    kind = name.removeprefix("q_")
    value = _continuous(kind, fields, generator)
    if name.startswith("q_"):
        step = fields.get("q", 1)
        value = round(value / step) * step
        return int(value) if isinstance(step, int) else value
    return value


def _continuous(kind: str, fields: Mapping[str, Any], generator: np.random.Generator) -> float:
    """Return a draw from a continuous distribution, before rounding to multiples of q."""
    if kind in ("normal", "log_normal"):
        drawn = float(generator.normal(fields.get("mu", 0), fields.get("sigma", 1)))
        return math.exp(drawn) if kind == "log_normal" else drawn
    if kind == "beta":
        return float(generator.beta(fields.get("a", 1), fields.get("b", 1)))
    low, high = float(fields["min"]), float(fields["max"])
    if kind == "uniform":
        return float(generator.uniform(low, high))
    if kind == "log_uniform":
        return math.exp(generator.uniform(low, high))
    if kind == "inv_log_uniform":
        return math.exp(-generator.uniform(low, high))
    # In both cases the logarithm is uniform between the bounds' logarithms.
    assert kind in ("log_uniform_values", "inv_log_uniform_values"), kind
    return min(max(math.exp(generator.uniform(math.log(low), math.log(high))), low), high)
