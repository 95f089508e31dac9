"""Exceptions as coded errors: one table. What is not in it is a bug, and is masked, logged and given an id.

Clients branch on `extensions.code`; messages are for people and may change.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import structlog
from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.exceptions import StrawberryInputCoercionError
from strawberry.extensions import ParserCache, ValidationCache

from llm.registry import ModelNotFound
from resolvers.arguments import BadUserInput
from resolvers.connections import InvalidCursor
from resolvers.context import NotFound
from resolvers.viewer import UnusableName
from runs.commands.agents import UnknownTool
from runs.commands.approvals import PendingApproval
from runs.commands.blocks import BlockNotFound
from runs.commands.cancel import NoActiveRuns, RunNotFound
from runs.commands.compact import NothingToCompact
from runs.commands.conversations import AgentNotFound, UnknownBlock
from runs.commands.fork import MessageNotFound, MessageUnfinished
from runs.commands.idempotency import IdempotencyConflict
from runs.commands.respond import NoPendingToolCalls, ToolCallMismatch, WrongDecision
from runs.commands.send import ConversationBusy
from runs.heads import ConversationNotFound
from streams.hub import NoSuchConversation

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Refusal:
    """`particulars` go into the error's extensions."""

    code: str
    particulars: dict[str, object] = field(default_factory=dict[str, object])


def refusal_of(error: Exception) -> Refusal | None:
    """The table. None: nobody foresaw this."""
    match error:
        case BadUserInput(argument=argument):
            return Refusal("BAD_USER_INPUT", {"argument": argument})
        case InvalidCursor(argument=argument):
            return Refusal("INVALID_CURSOR", {"argument": argument})
        case MessageUnfinished():
            return Refusal("BAD_USER_INPUT", {"argument": "input.throughMessageId"})
        case (
            NotFound()
            | AgentNotFound()
            | BlockNotFound()
            | ConversationNotFound()
            | MessageNotFound()
            | RunNotFound()
            | NoSuchConversation()
        ):
            return Refusal("NOT_FOUND")
        case ModelNotFound(handle=handle):
            return Refusal("MODEL_NOT_FOUND", {"model": handle})
        case UnknownTool(name=name):
            return Refusal("UNKNOWN_TOOL", {"tool": name})
        case UnknownBlock(label=label):
            return Refusal("UNKNOWN_BLOCK", {"block": label})
        case ConversationBusy(run_id=run_id):
            return Refusal("CONVERSATION_BUSY", {"runId": run_id})
        case NothingToCompact():
            return Refusal("NOTHING_TO_COMPACT")
        case NoActiveRuns():
            return Refusal("NO_ACTIVE_RUNS")
        case PendingApproval(tool_call_ids=ids):
            return Refusal("PENDING_APPROVAL", {"toolCallIds": list(ids)})
        case NoPendingToolCalls():
            return Refusal("NO_PENDING_TOOL_CALLS")
        case ToolCallMismatch(missing=missing, unknown=unknown):
            return Refusal("TOOL_CALL_MISMATCH", {"missingToolCallIds": list(missing), "unknownToolCallIds": list(unknown)})
        case WrongDecision(place=place, decision=decision):
            return Refusal("BAD_USER_INPUT", {"argument": f"input.responses[{place}].decision.{decision}"})
        case IdempotencyConflict(key=key):
            return Refusal("IDEMPOTENCY_CONFLICT", {"idempotencyKey": key})
        case UnusableName(key=key):
            return Refusal("BAD_USER_INPUT", {"argument": key})
        case _:
            return None


def coded(error: GraphQLError) -> GraphQLError:
    """The error as a client may see it: with its code, or masked."""
    if error.extensions and "code" in error.extensions:
        return error
    if (code := _code_of_document_error(error)) is not None:
        return _with(error, error.message, {"code": code})
    if error.original_error is not None and (refusal := refusal_of(error.original_error)) is not None:
        return _with(error, str(error.original_error), {"code": refusal.code, **refusal.particulars})
    return _masked(error)


def _code_of_document_error(error: GraphQLError) -> str | None:
    """For what graphql-core itself says about a request. Its words name the client's own document and variables, so they may be shown."""
    match error:
        case GraphQLSyntaxError():
            return "QUERY_TOO_COMPLEX" if error.message.endswith("Parsing aborted.") else "GRAPHQL_PARSE_FAILED"
        case GraphQLError(path=None, original_error=None | GraphQLError()):
            return "BAD_USER_INPUT"
        case GraphQLError(original_error=StrawberryInputCoercionError()):
            return "BAD_USER_INPUT"
        case GraphQLError(original_error=GraphQLError()) if error.message.startswith("Argument "):
            return "BAD_USER_INPUT"
        case _:
            return None


def _masked(error: GraphQLError) -> GraphQLError:
    error_id = uuid4().hex
    log.error("a resolver failed", error_id=error_id, path=error.path, exc_info=error.original_error or error)
    return _with(error, "Internal server error.", {"code": "INTERNAL_SERVER_ERROR", "errorId": error_id})


def _with(error: GraphQLError, message: str, extensions: dict[str, object]) -> GraphQLError:
    return GraphQLError(message, error.nodes, error.source, error.positions, error.path, extensions=extensions)


class CodedParsing(ParserCache):
    """Parsing, remembered per text. What cannot be parsed is left to Strawberry's own step, which tells it as an error of the document."""

    def on_parse(self) -> Iterator[None]:
        try:
            yield from super().on_parse()
        except GraphQLSyntaxError:
            yield


class CodedValidation(ValidationCache):
    """Validation, remembered per document; what it finds is coded here, since later it looks like an error of variables."""

    def on_validate(self) -> Iterator[None]:
        for _ in super().on_validate():
            for error in self.execution_context.pre_execution_errors or ():
                error.extensions = {"code": "GRAPHQL_VALIDATION_FAILED", **(error.extensions or {})}
            yield
