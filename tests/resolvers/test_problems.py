"""Exceptions as coded errors."""

import pytest
import structlog
from graphql import GraphQLError

from llm.registry import ModelNotFound
from resolvers.arguments import BadUserInput
from resolvers.connections import InvalidCursor
from resolvers.context import NotFound
from resolvers.problems import coded
from resolvers.viewer import UnusableName
from runs.commands.agents import UnknownTool
from runs.commands.conversations import AgentNotFound
from runs.commands.idempotency import IdempotencyConflict
from runs.commands.send import ConversationBusy
from runs.heads import ConversationNotFound
from streams.hub import NoSuchConversation


def _at_a_field(error: Exception) -> GraphQLError:
    return GraphQLError(str(error), path=["sendMessage"], original_error=error)


@pytest.mark.parametrize(
    ("error", "extensions"),
    [
        (BadUserInput("input.name", "must not be empty"), {"code": "BAD_USER_INPUT", "argument": "input.name"}),
        (UnusableName("X-Actor"), {"code": "BAD_USER_INPUT", "argument": "X-Actor"}),
        (InvalidCursor("after"), {"code": "INVALID_CURSOR", "argument": "after"}),
        (NotFound("run-1"), {"code": "NOT_FOUND"}),
        (AgentNotFound("agent-1"), {"code": "NOT_FOUND"}),
        (ConversationNotFound("conv-1"), {"code": "NOT_FOUND"}),
        (NoSuchConversation("conv-1"), {"code": "NOT_FOUND"}),
        (ModelNotFound("none/such"), {"code": "MODEL_NOT_FOUND", "model": "none/such"}),
        (UnknownTool("hammer"), {"code": "UNKNOWN_TOOL", "tool": "hammer"}),
        (ConversationBusy("run-1"), {"code": "CONVERSATION_BUSY", "runId": "run-1"}),
        (IdempotencyConflict("key"), {"code": "IDEMPOTENCY_CONFLICT", "idempotencyKey": "key"}),
    ],
)
def test_a_refusal_has_its_code_and_its_particulars(error: Exception, extensions: dict[str, object]) -> None:
    answer = coded(_at_a_field(error))
    assert (answer.extensions, answer.message, answer.path) == (extensions, str(error), ["sendMessage"])


def test_a_bug_is_masked_and_logged_under_the_same_id() -> None:
    bug = ZeroDivisionError("secret")
    with structlog.testing.capture_logs() as logs:
        answer = coded(_at_a_field(bug))
    assert "secret" not in str(answer.formatted)
    assert answer.extensions is not None
    (entry,) = logs
    assert answer.extensions == {"code": "INTERNAL_SERVER_ERROR", "errorId": entry["error_id"]}
    assert (entry["exc_info"], entry["path"], entry["log_level"]) == (bug, ["sendMessage"], "error")


def test_a_result_that_does_not_fit_its_type_is_a_bug_too() -> None:
    misfit = GraphQLError("Int cannot represent non 32-bit signed integer value: 99999999999")
    with structlog.testing.capture_logs():
        answer = coded(_at_a_field(misfit))
    assert answer.extensions is not None
    assert answer.extensions["code"] == "INTERNAL_SERVER_ERROR"


def test_an_error_is_coded_once() -> None:
    once = coded(_at_a_field(NotFound("run-1")))
    assert coded(once) is once
