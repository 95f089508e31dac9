"""Rows and events as schema types."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from resolvers import presenters
from resolvers.connections import history_scope
from schema import messages, stream
from vocabulary.compaction import CompactionMode, CompactionStats, CompactionTrigger
from vocabulary.events import (
    CaughtUp,
    ContextCompacted,
    Item,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    ResetReason,
    StreamReset,
    ToolCallChanged,
)
from vocabulary.messages import (
    BODY_OF,
    ApprovalDecision,
    ApprovalResponseBody,
    ErrorBody,
    EventBody,
    HiddenReasoningBody,
    HiddenReasoningState,
    ImagePart,
    Message,
    MessageBody,
    MessageStatus,
    MessageType,
    PlainBody,
    ReasoningBody,
    SummaryBody,
    SystemBody,
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
from vocabulary.runs import RunError, RunErrorType

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CALL = ToolCall(id="toolcall-1", name="add", state=ToolCallState.COMPLETED, source=ToolSource.BUILTIN, arguments_text='{"a": 1}')

STATS = CompactionStats(
    trigger=CompactionTrigger.MANUAL, mode=CompactionMode.ALL, messages_before=9, messages_after=2, tokens_before=90, tokens_after=20
)

BODIES: dict[MessageType, tuple[MessageBody, type[messages.Message]]] = {
    MessageType.SYSTEM: (SystemBody(client_message_id="c"), messages.SystemMessage),
    MessageType.USER: (UserBody(content=(TextPart("a"), ImagePart("https://x")), sender="Ann"), messages.UserMessage),
    MessageType.ASSISTANT: (PlainBody(), messages.AssistantMessage),
    MessageType.REASONING: (ReasoningBody(signature="s", provider_details={"secret": 1}), messages.ReasoningMessage),
    MessageType.HIDDEN_REASONING: (HiddenReasoningBody(state=HiddenReasoningState.OMITTED), messages.HiddenReasoningMessage),
    MessageType.TOOL_CALL: (ToolCallBody(tool_calls=(CALL,)), messages.ToolCallMessage),
    MessageType.TOOL_RETURN: (
        ToolReturnBody(tool_returns=(ToolReturn(tool_call_id="toolcall-1", name="add", status=ToolReturnStatus.SUCCESS, output="2"),)),
        messages.ToolReturnMessage,
    ),
    MessageType.APPROVAL_REQUEST: (ToolCallBody(tool_calls=(CALL,)), messages.ApprovalRequestMessage),
    MessageType.APPROVAL_RESPONSE: (
        ApprovalResponseBody(decisions=(ApprovalDecision(tool_call_id="toolcall-1", approved=True),)),
        messages.ApprovalResponseMessage,
    ),
    MessageType.SUMMARY: (SummaryBody(stats=STATS), messages.SummaryMessage),
    MessageType.EVENT: (EventBody(event_type="joined", data={"who": "Ann"}), messages.EventMessage),
    MessageType.ERROR: (ErrorBody(error=RunError(RunErrorType.LLM_TIMEOUT, "slow")), messages.ErrorMessage),
}


def _message(type_: MessageType = MessageType.ASSISTANT, *, ordinal: int | None = 3) -> Message:
    return Message(
        id="message-1",
        conversation_id="conv-1",
        type=type_,
        status=MessageStatus.COMPLETED,
        ordinal=ordinal,
        text="hi",
        body=BODIES[type_][0],
        in_tail=True,
        in_context=True,
        group_id="g",
        run_id="run-1",
        step_id="step-1",
        sequence=9,
        created_at=NOW,
    )


def test_the_bodies_above_are_those_there_are() -> None:
    assert {kind: type(body) for kind, (body, _) in BODIES.items()} == BODY_OF


@pytest.mark.parametrize("kind", MessageType)
def test_every_kind_of_message_has_its_type(kind: MessageType) -> None:
    row = _message(kind)
    shown = presenters.message(row)
    assert type(shown) is BODIES[kind][1]
    common = (
        "id",
        "conversation_id",
        "type",
        "status",
        "ordinal",
        "text",
        "in_context",
        "group_id",
        "run_id",
        "step_id",
        "sequence",
        "created_at",
    )
    assert [getattr(shown, name) for name in common] == [getattr(row, name) for name in common]


def test_content_keeps_its_pieces() -> None:
    shown = presenters.message(_message(MessageType.USER))
    assert isinstance(shown, messages.UserMessage)
    assert shown.content == [messages.TextPart(text="a"), messages.ImagePart(url="https://x", media_type=None)]
    assert (shown.sender, shown.client_message_id) == ("Ann", None)


def test_a_call_shows_its_arguments_once_they_are_complete() -> None:
    assert presenters.tool_call(CALL).arguments == {"a": 1}
    assert presenters.tool_call(replace(CALL, state=ToolCallState.STREAMING)).arguments is None
    assert presenters.tool_call(replace(CALL, arguments_text="{")).arguments is None


def test_an_edge_in_an_event_has_the_cursor_of_the_history() -> None:
    edge = presenters.message_edge(_message(), "tenant")
    assert edge is not None
    assert edge.cursor == history_scope("tenant", "conv-1").cursor((3,))


def test_a_queued_message_has_no_edge() -> None:
    payload = presenters.payload(MessageStarted(_message(ordinal=None)), "tenant")
    assert isinstance(payload, stream.MessageStarted)
    assert payload.message_edge is None


def test_an_item_keeps_its_place() -> None:
    shown = presenters.item(Item(9, 4, NOW, "run-1", MessageCompleted(_message())), "tenant")
    assert (shown.sequence, shown.previous_sequence, shown.occurred_at, shown.run_id) == (9, 4, NOW, "run-1")
    assert isinstance(shown.payload, stream.MessageCompleted)


def test_an_event_of_an_unknown_kind_shows_its_position_alone() -> None:
    assert presenters.item(Item(9, 4, NOW, None, None), "tenant").payload is None


def test_deltas_say_what_grows() -> None:
    delta = presenters.payload(MessageDelta("message-1", MessageType.TOOL_CALL, 2, "ab", "toolcall-1"), "tenant")
    assert isinstance(delta, stream.MessageDelta)
    assert (delta.message_id, delta.message_type, delta.offset, delta.text, delta.tool_call_id) == (
        "message-1",
        MessageType.TOOL_CALL,
        2,
        "ab",
        "toolcall-1",
    )


def test_what_is_not_stored_is_shown_too() -> None:
    assert presenters.payload(CaughtUp(7), "tenant") == stream.CaughtUp(head_sequence=7)
    reset = presenters.payload(StreamReset(ResetReason.TOO_FAR_BEHIND, 7), "tenant")
    assert reset == stream.StreamReset(reason=ResetReason.TOO_FAR_BEHIND, head_sequence=7)
    changed = presenters.payload(ToolCallChanged("message-1", MessageType.TOOL_CALL, CALL), "tenant")
    assert isinstance(changed, stream.ToolCallChanged)
    assert changed.tool_call == presenters.tool_call(CALL)


def test_a_summary_without_its_figures_cannot_be_shown_as_one() -> None:
    assert type(presenters.message(replace(_message(MessageType.SUMMARY), body=SummaryBody()))) is messages.ErrorMessage


def test_a_compaction_shows_its_summary_and_what_was_kept() -> None:
    shown = presenters.payload(ContextCompacted(_message(MessageType.SUMMARY), "message-7", STATS), "tenant")
    assert isinstance(shown, stream.ContextCompacted)
    assert (shown.summary_message.id, shown.first_kept_message_id, shown.stats.messages_after) == ("message-1", "message-7", 2)
