"""A RASP program as text: names for its variables, a line for each, and its dataflow graph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from tracr.rasp import rasp

from .functions import is_numerical
from .names import Names, given_name
from .writer import Writer, run

AGGREGATED, COUNTED = "aggregated", "counted"  # what a selector is for


def variables(program: Any) -> dict[str, Any]:
    """Return a program's variables, name to s-op, inputs first and the output last.

    An unnamed s-op is named by its formula over its inputs' names. Names are unique and the same
    in every process; they contain no space, control character, '/' or '@'.
    """
    nodes = expressions(program)
    names = Names(nodes).of_sops
    return {names[id(sop)]: sop for sop in nodes if isinstance(sop, rasp.SOp)}


def describe(program: Any) -> list[str]:
    """Return the program as RASP text, one line per variable except tokens and indices.

    A selector that is named or used more than once has its own line. `x: number` marks an s-op
    with numerical encoding.
    """
    nodes = expressions(program)
    names = Names(nodes)
    of_selectors = names.of_selectors(_shown_selectors(nodes))
    writer = Writer({**names.of_sops, **of_selectors})
    written = {**names.of_sops, **of_selectors}
    lines = (
        f"{written[id(node)]}{_mark(node)} = {run(writer.definition(node))}"
        for node in nodes
        if written.get(id(node), "tokens") not in ("tokens", "indices")
    )
    return [re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", line) for line in lines]


def selectors(program: Any) -> dict[str, tuple[Any, frozenset[str]]]:
    """Return the selectors that s-ops read, name to selector and its uses, in program order.

    A use is `AGGREGATED`, or `COUNTED` (by a selector width). Of a composed selector the whole is
    listed, not its parts.
    """
    nodes = expressions(program)
    uses: dict[int, set[str]] = {}
    for node in nodes:
        if isinstance(node, (rasp.Aggregate, rasp.SelectorWidth)):
            use = AGGREGATED if isinstance(node, rasp.Aggregate) else COUNTED
            uses.setdefault(id(node.selector), set()).add(use)
    read = [node for node in nodes if id(node) in uses]
    names = Names(nodes).of_selectors(read)
    return {names[id(selector)]: (selector, frozenset(uses[id(selector)])) for selector in read}


def edges(program: Any) -> list[tuple[str, str, str]]:
    """Return the dataflow between variables: source, target and role, in program order.

    The role is `key` or `query` if the source reaches the target through a selector, else `value`.
    """
    named = variables(program)
    names = {id(sop): name for name, sop in named.items()}
    flow: dict[tuple[str, str, str], None] = {}
    for target, sop in named.items():
        for source, role in _sources(sop):
            if id(source) in names:
                flow[names[id(source)], target, role] = None
    return list(flow)


def _sources(sop: Any) -> Iterator[tuple[Any, str]]:
    waiting, visited = [(sop, "value")], set()
    while waiting:
        expression, role = waiting.pop()
        if isinstance(expression, rasp.SOp) and expression is not sop:
            yield expression, role
        elif id(expression) not in visited:
            visited.add(id(expression))
            selects = isinstance(expression, rasp.Select)
            roles = ("key", "query") if selects else ("value",) * len(expression.children)
            waiting += reversed(list(zip(expression.children, roles, strict=True)))


def expressions(program: Any) -> list[Any]:
    """Return every expression once, depth first, each after its children."""
    ordered: list[Any] = []
    visited = {id(program)}
    path = [(program, iter(program.children))]
    while path:
        expression, children = path[-1]
        for child in children:
            if id(child) not in visited:
                visited.add(id(child))
                path.append((child, iter(child.children)))
                break
        else:
            ordered.append(expression)
            path.pop()
    return ordered


def _shown_selectors(expressions: Sequence[Any]) -> list[Any]:
    uses = {id(expressions[-1]): 2}
    for expression in expressions:
        for child in expression.children:
            uses[id(child)] = uses.get(id(child), 0) + 1
    selectors = (expression for expression in expressions if isinstance(expression, rasp.Selector))
    return [selector for selector in selectors if given_name(selector) or uses[id(selector)] > 1]


def _mark(expression: Any) -> str:
    return ": number" if is_numerical(expression) else ""
