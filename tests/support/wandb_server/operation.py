"""Reading GraphQL operations, and shaping their answers as the client selected them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import graphql

Arguments = dict[str, Any]


class Operation:
    """One GraphQL operation, with what is needed to read its arguments and shape its answer."""

    def __init__(self, payload: dict[str, Any]) -> None:
        definitions = graphql.parse(payload["query"]).definitions
        self._fragments = {
            node.name.value: node
            for node in definitions
            if isinstance(node, graphql.FragmentDefinitionNode)
        }
        self._root = next(
            node for node in definitions if isinstance(node, graphql.OperationDefinitionNode)
        )
        self._variables = self._defaults() | self._given(payload.get("variables") or {})

    @property
    def name(self) -> str | None:
        """The name that the client gave the operation."""
        return self._root.name.value if self._root.name else None

    def answer(self, resolve: Callable[[str, Arguments], Any]) -> dict[str, Any]:
        """Resolve the operation's fields and keep the subfields that the client selected."""
        return {
            _answer_key(node): self._shaped(node, resolve(node.name.value, self._arguments(node)))
            for node in self._selected(self._root.selection_set)
        }

    def _defaults(self) -> Arguments:
        return {
            node.variable.name.value: graphql.value_from_ast_untyped(node.default_value)
            for node in self._root.variable_definitions or ()
            if node.default_value
        }

    def _given(self, variables: Arguments) -> Arguments:
        """The client's variables; a single value for a list is a list of it, as GraphQL has it."""
        given = dict(variables)
        for node in self._root.variable_definitions or ():
            kind, name = node.type, node.variable.name.value
            kind = kind.type if isinstance(kind, graphql.NonNullTypeNode) else kind
            value = given.get(name)
            if isinstance(kind, graphql.ListTypeNode) and not isinstance(value, list | None):
                given[name] = [value]
        return given

    def _arguments(self, node: graphql.FieldNode | graphql.DirectiveNode) -> Arguments:
        arguments: Arguments = {
            argument.name.value: graphql.value_from_ast_untyped(argument.value, self._variables)
            for argument in node.arguments or ()
        }
        inputs: Arguments = arguments.get("input", arguments)
        return inputs

    def _selected(self, selection_set: graphql.SelectionSetNode) -> Iterator[graphql.FieldNode]:
        for node in selection_set.selections:
            if not self._is_included(node):
                continue
            if isinstance(node, graphql.FieldNode):
                yield node
            elif isinstance(node, graphql.InlineFragmentNode):
                yield from self._selected(node.selection_set)
            elif isinstance(node, graphql.FragmentSpreadNode):
                yield from self._selected(self._fragments[node.name.value].selection_set)

    def _is_included(self, node: graphql.SelectionNode) -> bool:
        for directive in node.directives or ():
            condition = self._arguments(directive)["if"]
            if condition != (directive.name.value == "include"):
                return False
        return True

    def _shaped(self, node: graphql.FieldNode, value: Any) -> Any:
        if callable(value):
            value = value(self._arguments(node))
        if node.selection_set is None or value is None:
            return value
        if isinstance(value, list):
            return [self._shaped(node, item) for item in value]
        return {
            _answer_key(child): self._shaped(child, value.get(child.name.value))
            for child in self._selected(node.selection_set)
        }


def _answer_key(node: graphql.FieldNode) -> str:
    return node.alias.value if node.alias else node.name.value


def connection(nodes: list[dict[str, Any]], arguments: Arguments) -> dict[str, Any]:
    """One page of nodes in GraphQL's paging format; a cursor is a position."""
    start = int(arguments.get("after") or 0)
    stop = min(start + int(arguments.get("first") or len(nodes)), len(nodes))
    return {
        "totalCount": len(nodes),
        "edges": [
            {"node": node, "cursor": str(start + place)}
            for place, node in enumerate(nodes[start:stop], start=1)
        ],
        "pageInfo": {
            "__typename": "PageInfo",
            "endCursor": str(stop),
            "hasNextPage": stop < len(nodes),
        },
    }
