"""What became of a request, as it goes on the wire: results, errors with their codes, refusals. Knows neither HTTP nor WebSockets.

Errors of resolvers come with their code already; here the errors that no resolver made get theirs.
"""

from secrets import token_hex
from typing import Any, Literal

import orjson
import structlog
from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError
from strawberry.types.execution import ExecutionResult, PreExecutionError

BAD_USER_INPUT = "BAD_USER_INPUT"
INTERNAL_SERVER_ERROR = "INTERNAL_SERVER_ERROR"

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Refused(Exception):
    """Whoever asks may not: UNAUTHENTICATED if we cannot tell who it is, FORBIDDEN if we can."""

    def __init__(self, code: Literal["UNAUTHENTICATED", "FORBIDDEN"], message: str) -> None:
        super().__init__(message)
        self.code = code


def encode(message: object) -> str:
    """JSON as text, not bytes: WebSocket frames would turn binary."""
    return orjson.dumps(message).decode()


def error(code: str, message: str, **extensions: object) -> dict[str, Any]:
    return {"message": message, "extensions": {"code": code, **extensions}}


def report(bug: Exception) -> str:
    """Logs an error that nobody foresaw; returns the id that it is found by."""
    error_id = token_hex(8)
    log.error("request failed", error_id=error_id, exc_info=bug)
    return error_id


def masked(bug: Exception) -> dict[str, Any]:
    """Reports a bug and returns what is shown in place of it."""
    return error(INTERNAL_SERVER_ERROR, "Internal server error", errorId=report(bug))


def rejected(result: ExecutionResult) -> bool:
    """Whether there is no data to speak of: never run, or ended as a whole rather than at a field."""
    unplaced = result.data is None and all(error.path is None for error in result.errors or ())
    return bool(result.errors) and (unplaced or isinstance(result, PreExecutionError))


def payload(result: ExecutionResult) -> dict[str, Any]:
    """The response map. A rejected operation has no `data` key at all, as the specification asks."""
    early = isinstance(result, PreExecutionError)
    errors = {"errors": [_coded(error, early=early) for error in result.errors]} if result.errors else {}
    data: dict[str, Any] = {} if rejected(result) else {"data": result.data}
    extensions = {"extensions": result.extensions} if result.extensions else {}
    return {**errors, **data, **extensions}


def _coded(error: GraphQLError, *, early: bool) -> dict[str, Any]:
    formatted: dict[str, Any] = {**error.formatted}
    if error.path is None:
        formatted["extensions"] = {"code": _code(error, early=early), **(error.extensions or {})}
    return formatted


def _code(error: GraphQLError, *, early: bool) -> str:
    match error:
        case GraphQLSyntaxError():
            return "GRAPHQL_PARSE_FAILED"
        case GraphQLError(original_error=None) if early:
            return "GRAPHQL_VALIDATION_FAILED"
        # what graphql-core says of variables wraps what it says of one value
        case GraphQLError(original_error=None | GraphQLError() | MissingQueryError() | CannotGetOperationTypeError()):
            return BAD_USER_INPUT
        case _:
            return INTERNAL_SERVER_ERROR
