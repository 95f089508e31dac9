"""The two scalars that GraphQL does not have."""

from datetime import UTC, datetime
from typing import NewType

import strawberry
from strawberry.types.scalar import ScalarDefinition

JSON = NewType("JSON", object)


def rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


SCALARS: dict[object, ScalarDefinition] = {
    datetime: strawberry.scalar(
        name="DateTime",
        description="An instant in UTC as RFC 3339 writes it, for example `2026-01-31T12:00:00.123456Z`.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=rfc3339,
        parse_value=datetime.fromisoformat,
    ),
    JSON: strawberry.scalar(name="JSON", description="Any JSON value."),
}
