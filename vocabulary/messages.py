"""Messages: enums, the frozen row, and what each kind of message holds beyond its text.

A message has one kind. What is common to all kinds stands in `Message`; the rest is its `body`, one class per kind that has any.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from vocabulary.compaction import CompactionStats
from vocabulary.runs import RunError
from vocabulary.text import parsed


class MessageType(StrEnum):
    SYSTEM = "SYSTEM"
    USER = "USER"
    ASSISTANT = "ASSISTANT"
    REASONING = "REASONING"
    HIDDEN_REASONING = "HIDDEN_REASONING"
    TOOL_CALL = "TOOL_CALL"
    TOOL_RETURN = "TOOL_RETURN"
    APPROVAL_REQUEST = "APPROVAL_REQUEST"
    APPROVAL_RESPONSE = "APPROVAL_RESPONSE"
    SUMMARY = "SUMMARY"
    EVENT = "EVENT"
    ERROR = "ERROR"


class MessageStatus(StrEnum):
    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    INTERRUPTED = "INTERRUPTED"
    FAILED = "FAILED"


class InputRole(StrEnum):
    """Whose words a client may send."""

    USER = "USER"
    SYSTEM = "SYSTEM"


class HiddenReasoningState(StrEnum):
    REDACTED = "REDACTED"
    OMITTED = "OMITTED"


class ToolSource(StrEnum):
    BUILTIN = "BUILTIN"
    MCP = "MCP"
    CLIENT = "CLIENT"


class ToolCallState(StrEnum):
    STREAMING = "STREAMING"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    AWAITING_CLIENT = "AWAITING_CLIENT"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DENIED = "DENIED"
    INTERRUPTED = "INTERRUPTED"


AWAITING = frozenset({ToolCallState.AWAITING_APPROVAL, ToolCallState.AWAITING_CLIENT})
"""Somebody outside has to say something before the call can go on."""


class ToolReturnStatus(StrEnum):
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    url: str
    media_type: str | None = None


ContentPart = TextPart | ImagePart


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturn:
    tool_call_id: str
    name: str
    status: ToolReturnStatus
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """`id` is ours; `provider_call_id` is the model provider's own and never leaves the server.

    `returned`: kept here from the end of the call until the returns of its step are told together, so that neither is lost alone.
    """

    id: str
    name: str
    state: ToolCallState
    source: ToolSource
    arguments_text: str = ""
    provider_call_id: str | None = None
    returned: ToolReturn | None = None

    @property
    def arguments(self) -> Any:
        """The arguments as JSON; None while they stream, or when they are not valid JSON, or nested too deeply to be told to anybody."""
        if self.state is ToolCallState.STREAMING:
            return None
        try:
            return parsed(self.arguments_text)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDecision:
    tool_call_id: str
    approved: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainBody:
    """ASSISTANT. `signature`: of the text, from a provider that signs that, too; it goes back to it, unread."""

    signature: str | None = None
    provider_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemBody:
    client_message_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserBody:
    content: tuple[ContentPart, ...]
    client_message_id: str | None = None
    sender: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningBody:
    """`signature` and `provider_details` go back to the provider that made them, unread."""

    signature: str | None = None
    provider_name: str | None = None
    provider_details: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenReasoningBody:
    state: HiddenReasoningState
    signature: str | None = None
    provider_name: str | None = None
    provider_details: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallBody:
    """TOOL_CALL: all calls of a step. APPROVAL_REQUEST: those of them that wait, with the same ids."""

    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturnBody:
    tool_returns: tuple[ToolReturn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalResponseBody:
    decisions: tuple[ApprovalDecision, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryBody:
    """`tail_ordinal`: of the first message that was kept beside it; what it sums up ends before that. None: nobody wrote it down."""

    tail_ordinal: int | None = None
    stats: CompactionStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBody:
    event_type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    error: RunError


MessageBody = (
    PlainBody
    | SystemBody
    | UserBody
    | ReasoningBody
    | HiddenReasoningBody
    | ToolCallBody
    | ToolReturnBody
    | ApprovalResponseBody
    | SummaryBody
    | EventBody
    | ErrorBody
)

BODY_OF: dict[MessageType, type[MessageBody]] = {
    MessageType.SYSTEM: SystemBody,
    MessageType.USER: UserBody,
    MessageType.ASSISTANT: PlainBody,
    MessageType.REASONING: ReasoningBody,
    MessageType.HIDDEN_REASONING: HiddenReasoningBody,
    MessageType.TOOL_CALL: ToolCallBody,
    MessageType.TOOL_RETURN: ToolReturnBody,
    MessageType.APPROVAL_REQUEST: ToolCallBody,
    MessageType.APPROVAL_RESPONSE: ApprovalResponseBody,
    MessageType.SUMMARY: SummaryBody,
    MessageType.EVENT: EventBody,
    MessageType.ERROR: ErrorBody,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A row of `messages`, its text complete: for one in progress, what its deltas have built up to `sequence`.

    `in_tail` is the stored bit, `in_context` what follows from it and the conversation's three values.
    """

    id: str
    conversation_id: str
    type: MessageType
    status: MessageStatus
    ordinal: int | None
    text: str
    body: MessageBody
    in_tail: bool
    in_context: bool
    group_id: str | None
    run_id: str | None
    step_id: str | None
    sequence: int
    created_at: datetime
