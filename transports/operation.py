"""What a client asks for, read from JSON: the same shape in a POST body, a GET query string and a `subscribe` frame.

Whatever is wrong with it is a `Malformed`; nothing here looks into the GraphQL document.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

import orjson
from strawberry.http import GraphQLRequestData


class Malformed(Exception):
    """The request is not one that could be run; its text says why, short enough for a close frame."""


def decode(text: str | bytes) -> object:
    """JSON to values that can always be written out again: half a surrogate pair becomes U+FFFD."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _decode_surrogates(text)


def _decode_surrogates(text: str | bytes) -> object:
    # JavaScript escapes half a pair as readily as any other character; orjson refuses it, the standard library does not.
    try:
        whole = json.dumps(json.loads(text), ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return orjson.loads(whole)
    except (ValueError, RecursionError):
        raise Malformed("Not valid JSON") from None


def read_operation(message: object) -> GraphQLRequestData:
    if isinstance(message, list):
        raise Malformed("Batches are not supported")
    fields = json_object(message, "The request")
    query = fields.get("query")
    if not isinstance(query, str):
        raise Malformed("`query` must be a string")
    name = fields.get("operationName")
    if not isinstance(name, str | None):
        raise Malformed("`operationName` must be a string or null")
    return GraphQLRequestData(query, _optional_object(fields, "variables"), name, _optional_object(fields, "extensions"))


def read_query_string(parameters: Mapping[str, str | None]) -> GraphQLRequestData:
    """A GET request: `variables` and `extensions` are JSON inside the query string; an empty one is an absent one."""
    encoded = {name: decode(text) for name in ("variables", "extensions") if (text := parameters.get(name))}
    return read_operation({"query": parameters.get("query"), "operationName": parameters.get("operationName"), **encoded})


def json_object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{name} must be an object")
    return cast("dict[str, Any]", value)


def _optional_object(fields: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = fields.get(name)
    return None if value is None else json_object(value, f"`{name}`")
