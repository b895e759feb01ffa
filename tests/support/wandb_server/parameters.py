"""The cells of a sweep's grid, and seeded draws of a random sweep's parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import graphql
import numpy as np

Parameters = dict[str, Any]
Leaves = dict[tuple[str, ...], dict[str, Any]]


def grid(parameters: Parameters) -> Iterator[dict[str, Any]]:
    """All cells in the order of the product: the last parameter varies fastest."""
    leaves = _leaves(parameters)
    for values in itertools.product(*(_listed(*leaf) for leaf in leaves.items())):
        yield _nested(dict(zip(leaves, values, strict=True)))


def draw(parameters: Parameters, seed: tuple[int, ...]) -> dict[str, Any]:
    """One draw of all parameters, each by its own distribution."""
    rng = np.random.default_rng(seed)
    return _nested({path: _drawn(path, spec, rng) for path, spec in _leaves(parameters).items()})


def _leaves(parameters: Parameters, above: tuple[str, ...] = ()) -> Leaves:
    leaves: Leaves = {}
    for name, spec in parameters.items():
        if "parameters" in spec:
            leaves |= _leaves(spec["parameters"], (*above, name))
        else:
            leaves[(*above, name)] = spec
    return leaves


def _nested(values: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    cell: dict[str, Any] = {}
    for path, value in values.items():
        inside = cell
        for name in path[:-1]:
            inside = inside.setdefault(name, {})
        inside[path[-1]] = value
    return cell


def _distribution(spec: dict[str, Any]) -> str:
    if "distribution" in spec:
        return str(spec["distribution"])
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    whole = isinstance(spec.get("min"), int) and isinstance(spec.get("max"), int)
    return "int_uniform" if whole else "uniform"


def _listed(path: tuple[str, ...], spec: dict[str, Any]) -> list[Any]:
    match _distribution(spec):
        case "constant":
            return [spec["value"]]
        case "categorical":
            return list(spec["values"])
        case "int_uniform":
            return list(range(spec["min"], spec["max"] + 1))
        case other:
            raise graphql.GraphQLError(f"No grid over {'.'.join(path)}: {other}.")


def _drawn(path: tuple[str, ...], spec: dict[str, Any], rng: np.random.Generator) -> Any:
    match _distribution(spec):
        case "constant":
            return spec["value"]
        case "categorical":
            chosen = rng.choice(len(spec["values"]), p=spec.get("probabilities"))
            return spec["values"][chosen]
        case "int_uniform":
            return int(rng.integers(spec["min"], spec["max"], endpoint=True))
        case "uniform":
            return float(rng.uniform(spec["min"], spec["max"]))
        case "log_uniform_values":
            low, high = math.log(spec["min"]), math.log(spec["max"])
            return float(np.clip(math.exp(rng.uniform(low, high)), spec["min"], spec["max"]))
        case other:
            raise graphql.GraphQLError(f"No draws of {'.'.join(path)}: {other}.")
