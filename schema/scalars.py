"""The two scalars that GraphQL does not have."""

from datetime import UTC, datetime
from typing import Any, NewType, cast

import strawberry
from graphql import Undefined, ValueNode, value_from_ast_untyped
from strawberry.types.scalar import ScalarDefinition

JSON = NewType("JSON", object)


def rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def json_literal(node: ValueNode, variables: dict[str, Any] | None = None) -> object:
    """As in GraphQL's own input objects, a field whose variable was not given is not there; in a list it is null."""
    return _given(value_from_ast_untyped(node, variables))


def _given(value: object) -> object:
    match value:
        case dict():
            fields = cast("dict[str, object]", value)
            return {name: _given(inner) for name, inner in fields.items() if inner is not Undefined}
        case list():
            return [None if inner is Undefined else _given(inner) for inner in cast("list[object]", value)]
        case _:
            return value


def _as_it_is(value: object) -> object:
    return value


SCALARS: dict[object, ScalarDefinition] = {
    datetime: strawberry.scalar(
        name="DateTime",
        description="An instant in UTC as RFC 3339 writes it, for example `2026-01-31T12:00:00.123456Z`.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=rfc3339,
        parse_value=datetime.fromisoformat,
    ),
    JSON: strawberry.scalar(name="JSON", description="Any JSON value.", parse_value=_as_it_is, parse_literal=json_literal),
}
