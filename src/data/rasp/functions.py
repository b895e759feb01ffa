"""Inspection of a program's functions: what they compute, where they come from, their source."""

from __future__ import annotations

import ast
import dis
import functools
import linecache
import re
import warnings
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tracr.rasp import rasp

_MOST_STAGES = 1_000
_SYMBOLS = {
    "lt": "<",
    "le": "<=",
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "ge": ">=",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "truediv": "/",
    "and": "and",
    "or": "or",
}
# What rasp's own functions compute, by the method that makes them and their number of arguments:
# x and y are the arguments, c is the constant.
_OPERATIONS = {
    **{(f"SOp.__{name}__", 1): f"x {symbol} c" for name, symbol in _SYMBOLS.items()},
    **{(f"SOp.__r{name}__", 1): f"c {symbol} x" for name, symbol in _SYMBOLS.items()},
    **{(f"SOp.__{name}__", 2): f"x {symbol} y" for name, symbol in _SYMBOLS.items()},
    **{(f"SOp.__r{name}__", 2): f"x {symbol} y" for name, symbol in _SYMBOLS.items()},
    ("SOp.__ror__", 1): "x or c",
    ("SOp.__invert__", 1): "not x",
    ("sop_not", 1): "not x",
}


def stages_of(function: Any) -> list[Any]:
    """Return the functions of merged maps, the first applied first."""
    waiting, stages = [function], list[Any]()
    while waiting and len(stages) < _MOST_STAGES:
        stage = waiting.pop()
        if rasp_maker(stage) == "Map.__init__":
            cells = closure_of(stage)
            waiting += [cells["f"], cells["inner_f"]]
        else:
            stages.append(stage)
    return stages


def operation_of(function: Any, arity: int) -> tuple[str, Any] | None:
    """Return the text of one of rasp's operators, and its constant."""
    if isinstance(function, rasp.Comparison):
        symbol = function.value
        return None if symbol.isalpha() or arity != 2 else (f"x {symbol} y", None)
    template = _OPERATIONS.get((rasp_maker(function), arity))
    return None if template is None else (template, closure_of(function).get("other"))


def rasp_maker(function: Any) -> str:
    """Return the name of the rasp function that made this one, if any did."""
    if isinstance(function, FunctionType) and function.__globals__ is vars(rasp):
        maker, inside, _ = function.__qualname__.partition(".<locals>")
        return maker if inside else ""
    return ""


def closure_of(function: FunctionType) -> dict[str, Any]:
    """Return the values of a function's free variables, by name."""
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # not yet bound
            continue
    return values


def defaults_of(function: FunctionType) -> dict[str, Any]:
    """Return the values of a function's defaults, by name."""
    code, values = function.__code__, function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    named = dict(zip(positional[len(positional) - len(values) :], values, strict=True))
    return {**named, **(function.__kwdefaults__ or {})}


def global_data(function: FunctionType) -> dict[str, Any]:
    """Return the global data (no functions or modules) that a function reads."""
    names = dict.fromkeys(_global_names(function.__code__))
    known = {name: function.__globals__[name] for name in names if name in function.__globals__}
    return {
        name: value
        for name, value in known.items()
        if not callable(value) and not isinstance(value, ModuleType)
    }


def _global_names(code: CodeType) -> Iterator[str]:
    waiting = [code]
    while waiting:
        body = waiting.pop()
        loads = (step for step in dis.get_instructions(body) if step.opname == "LOAD_GLOBAL")
        yield from (step.argval for step in loads)
        waiting += (constant for constant in body.co_consts if isinstance(constant, CodeType))


def _lambda_node(function: FunctionType) -> tuple[ast.Lambda, list[str]] | None:
    """Return a lambda's syntax and the lines of its file, if the file still holds it."""
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    nodes, codes = _lambdas("".join(lines))
    if _essence(code) not in codes:
        return None
    places = [p for p in code.co_positions() if None not in p and p[2:] != (0, 0)]
    around = [
        node
        for node in nodes
        if node.lineno == code.co_firstlineno and all(_holds(node.body, p) for p in places)
    ]
    if not around or (not places and len(around) > 1):
        return None
    return min(around, key=_extent), lines


def _holds(node: ast.expr, place: tuple[Any, Any, Any, Any]) -> bool:
    first, last, start, end = place
    begins = (node.lineno, node.col_offset) <= (first, start)
    return begins and (last, end) <= (node.end_lineno, node.end_col_offset)


def _extent(node: ast.Lambda) -> tuple[int, int]:
    lines = (node.end_lineno or node.lineno) - node.lineno
    return lines, (node.end_col_offset or 0) - (0 if lines else node.col_offset)


@functools.lru_cache(maxsize=32)
def _lambdas(source: str) -> tuple[list[ast.Lambda], set[Any]]:
    """Return the lambdas of a file: their syntax trees, and a comparable form of their code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
            waiting = [compile(tree, "<source>", "exec", dont_inherit=True)]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return [], set()
    codes = set()
    while waiting:
        code = waiting.pop()
        codes.add(_essence(code))
        waiting += (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)], codes


def _essence(code: CodeType) -> tuple[Any, ...]:
    constants = (None if isinstance(c, CodeType) else (type(c), c) for c in code.co_consts)
    names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_firstlineno, code.co_code, *constants, *names)


def lambda_source(function: FunctionType) -> tuple[str, set[str]] | None:
    """Return a lambda's source on one line, and the arguments whose defaults it spells out."""
    try:
        parsed = _lambda_node(function)
        if parsed is None:
            return None
        node, lines = parsed
        if node.lineno == node.end_lineno:
            line = lines[node.lineno - 1].encode()
            text = line[node.col_offset : node.end_col_offset].decode()
        else:
            text = ast.unparse(node)
    except (OSError, ValueError, IndexError, RecursionError):
        return None
    positional = [*node.args.posonlyargs, *node.args.args]
    given = zip(reversed(positional), reversed(node.args.defaults), strict=False)
    by_name = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    spelt = {arg.arg for arg, default in (*given, *by_name) if isinstance(default, ast.Constant)}
    return text, spelt


def attribute_of(value: Any, name: str) -> Any:
    """Return an attribute, None if it is missing or raises."""
    try:
        return getattr(value, name, None)
    except Exception:  # a user's property may do anything
        return None


def real_name(function: Any) -> str:
    """Return the name that a user gave a function, or nothing."""
    while isinstance(function, functools.partial):
        function = function.func
    name = attribute_of(function, "__name__")
    named = isinstance(name, str) and name.isidentifier() and not rasp_maker(function)
    return name if named else ""


def without_address(text: str) -> str:
    """Return a text without Python's memory addresses."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def is_numerical(expression: Any) -> bool:
    """Return whether an expression is an s-op that is encoded as a number."""
    return isinstance(expression, rasp.SOp) and bool(rasp.is_numerical(expression))
