"""What answering tool calls is given, checked and turned into the engine's request. Null means the default, too."""

from resolvers.arguments import MAX_DESCRIPTION, MAX_TEXT, BadUserInput, amount, number, optional_text, text, unique, well_formed
from resolvers.context import NotFound
from resolvers.inputs.retries import hashed
from resolvers.inputs.sending import MAX_WAIT_S
from runs.commands.approvals import Approve, Decision, Deny, Result
from runs.commands.respond import Answer, Respond
from schema.inputs.tool_calls import RespondToToolCallsInput, ToolCallDecisionInput, ToolResultInput
from vocabulary.ids import Noun
from vocabulary.messages import ToolReturnStatus
from vocabulary.text import storable

_MAX_RESPONSES = 1000


def respond_request(given: RespondToToolCallsInput) -> Respond:
    if not well_formed(given.conversation_id, Noun.CONVERSATION):
        raise NotFound(given.conversation_id)
    amount("input.responses", len(given.responses), "answers", 1, _MAX_RESPONSES)
    ids = [storable(response.tool_call_id) for response in given.responses]
    unique((f"input.responses[{i}].toolCallId", id_) for i, id_ in enumerate(ids))
    decisions = [_decision(f"input.responses[{i}].decision", response.decision) for i, response in enumerate(given.responses)]
    request = Respond(
        conversation_id=given.conversation_id,
        answers=tuple(Answer(tool_call_id=id_, decision=decision) for id_, decision in zip(ids, decisions, strict=True)),
        idempotency_key=optional_text("input.idempotencyKey", given.idempotency_key),
    )
    return hashed(request)


def wait_s(given: RespondToToolCallsInput) -> int:
    return number("input.waitSeconds", given.wait_seconds or 0, 0, MAX_WAIT_S)


def _decision(path: str, given: ToolCallDecisionInput) -> Decision:
    if given.approve is not None:
        return Approve(_reason(f"{path}.approve", given.approve.reason))
    if given.deny is not None:
        return Deny(_reason(f"{path}.deny", given.deny.reason))
    if given.result is not None:
        return _result(f"{path}.result", given.result)
    raise BadUserInput(path, "must be one of approve, deny and result")


def _reason(path: str, given: str | None) -> str | None:
    return optional_text(f"{path}.reason", given, at_least=0, at_most=MAX_DESCRIPTION)


def _result(path: str, given: ToolResultInput) -> Result:
    return Result(text(f"{path}.output", given.output, at_least=0, at_most=MAX_TEXT), given.status or ToolReturnStatus.SUCCESS)
