"""One valid row of each kind, for tests of pure code to `replace` what matters to them."""

from datetime import UTC, datetime

from vocabulary.messages import (
    Message,
    MessageBody,
    MessageStatus,
    MessageType,
    PlainBody,
    TextPart,
    ToolCall,
    ToolCallBody,
    ToolCallState,
    ToolReturn,
    ToolReturnBody,
    ToolReturnStatus,
    ToolSource,
    UserBody,
)
from vocabulary.runs import Run, RunKind, RunRequest, RunStatus, Step, Usage

THEN = datetime(2026, 11, 1, tzinfo=UTC)

RUN = Run(
    id="run-1",
    tenant="default",
    conversation_id="conv-1",
    kind=RunKind.RESPONSE,
    status=RunStatus.RUNNING,
    stop_reason=None,
    error=None,
    model="test/scripted",
    request=RunRequest(max_steps=50),
    usage=Usage(),
    group_id="group-1",
    idempotency_key=None,
    body_hash=None,
    applied_through_sequence=3,
    created_sequence=2,
    sequence=3,
    worker_id="worker-1",
    attempt=1,
    created_at=THEN,
    started_at=THEN,
    completed_at=None,
    time_to_first_token_ms=None,
)
STEP = Step(
    id="step-1",
    run_id=RUN.id,
    conversation_id=RUN.conversation_id,
    index=0,
    model=RUN.model,
    usage=Usage(),
    stop_reason=None,
    started_at=THEN,
    completed_at=None,
)
CALL = ToolCall(
    id="toolcall-1", name="clock", state=ToolCallState.PENDING, source=ToolSource.BUILTIN, arguments_text="{}", provider_call_id="given-1"
)


def message(
    kind: MessageType = MessageType.ASSISTANT,
    text: str = "",
    body: MessageBody | None = None,
    *,
    step_id: str | None = STEP.id,
    in_tail: bool = True,
) -> Message:
    return Message(
        id="message-1",
        conversation_id=RUN.conversation_id,
        type=kind,
        status=MessageStatus.COMPLETED,
        ordinal=1,
        text=text,
        body=body or PlainBody(),
        in_tail=in_tail,
        in_context=in_tail,
        group_id=RUN.group_id,
        run_id=RUN.id,
        step_id=step_id,
        sequence=1,
        created_at=THEN,
    )


MESSAGE = message()
ASKED = message(MessageType.USER, "Hi", UserBody(content=(TextPart("Hi"),)), step_id=None)
SAID = message(text="Hello.")
CALLED = message(MessageType.TOOL_CALL, body=ToolCallBody(tool_calls=(CALL,)))
RETURNED = ToolReturn(tool_call_id=CALL.id, name="clock", status=ToolReturnStatus.SUCCESS, output="noon")
ANSWERED = message(MessageType.TOOL_RETURN, body=ToolReturnBody(tool_returns=(RETURNED,)))
