"""What happens in a conversation, as a closed union: the log stores it, the bus carries it, subscribers see it.

`CaughtUp` is made on the way to one subscriber and never stored; so is `StreamReset`, but for resets that are part of the history.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from vocabulary.compaction import CompactionStats
from vocabulary.conversations import Conversation
from vocabulary.messages import Message, MessageType, ToolCall
from vocabulary.runs import TERMINAL_STATUSES, Run, RunStatus, StopReason


class ResetReason(StrEnum):
    POSITION_AHEAD = "POSITION_AHEAD"
    TOO_FAR_BEHIND = "TOO_FAR_BEHIND"
    HISTORY_LOST = "HISTORY_LOST"
    ACCESS_REVOKED = "ACCESS_REVOKED"
    CONVERSATION_DELETED = "CONVERSATION_DELETED"


class DeltaMode(StrEnum):
    ALL = "ALL"
    COALESCED = "COALESCED"
    NONE = "NONE"


class EventKind(StrEnum):
    """The name under which a payload is stored."""

    MESSAGE_STARTED = "MESSAGE_STARTED"
    MESSAGE_DELTA = "MESSAGE_DELTA"
    MESSAGE_COMPLETED = "MESSAGE_COMPLETED"
    MESSAGE_CHANGED = "MESSAGE_CHANGED"
    TOOL_CALL_CHANGED = "TOOL_CALL_CHANGED"
    RUN_CHANGED = "RUN_CHANGED"
    CONVERSATION_CHANGED = "CONVERSATION_CHANGED"
    CONTEXT_COMPACTED = "CONTEXT_COMPACTED"
    RESET = "RESET"


@dataclass(frozen=True, slots=True)
class MessageStarted:
    """A message as it was when it started: nothing in it yet, or a queued input, whole."""

    message: Message


@dataclass(frozen=True, slots=True)
class MessageDelta:
    """`offset` counts UTF-16 code units of what came before in the text, or in the arguments of `tool_call_id`."""

    message_id: str
    message_type: MessageType
    offset: int
    text: str
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class MessageCompleted:
    message: Message


@dataclass(frozen=True, slots=True)
class MessageChanged:
    message: Message


@dataclass(frozen=True, slots=True)
class ToolCallChanged:
    message_id: str
    message_type: MessageType
    tool_call: ToolCall


@dataclass(frozen=True, slots=True)
class RunChanged:
    """`status` and `stop_reason` are what this event announced; `run` is as it was read, and may be newer."""

    run: Run
    status: RunStatus
    stop_reason: StopReason | None


@dataclass(frozen=True, slots=True)
class ConversationChanged:
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class ContextCompacted:
    """`first_kept_message_id` None: nothing was kept beside the summary. From which ordinal on the tail is, is in its body."""

    summary: Message
    first_kept_message_id: str | None
    stats: CompactionStats


@dataclass(frozen=True, slots=True)
class CaughtUp:
    head_sequence: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """Stored, it stands at the number up to which nothing that was ever handed out may be joined to what follows."""

    reason: ResetReason
    head_sequence: int


StoredPayload = (
    MessageStarted
    | MessageDelta
    | MessageCompleted
    | MessageChanged
    | ToolCallChanged
    | RunChanged
    | ConversationChanged
    | ContextCompacted
    | StreamReset
)
Payload = StoredPayload | CaughtUp


@dataclass(frozen=True, slots=True)
class Event:
    """One number of a conversation's log. `payload` None: a kind that this version does not know; its number still counts."""

    conversation_id: str
    sequence: int
    occurred_at: datetime
    run_id: str | None
    payload: StoredPayload | None


def ends_run(event: Event, run_id: str) -> bool:
    """Whether this event is the one after which nothing more comes of the run."""
    return event.run_id == run_id and isinstance(event.payload, RunChanged) and event.payload.status in TERMINAL_STATUSES


def ends_conversation(event: Event) -> bool:
    """Whether this is the last event there will ever be."""
    return isinstance(event.payload, StreamReset) and event.payload.reason is ResetReason.CONVERSATION_DELETED


@dataclass(frozen=True, slots=True)
class Item:
    """What one subscription delivers: `sequence` is the position to resume after, `previous_sequence` that of the item before."""

    sequence: int
    previous_sequence: int
    occurred_at: datetime
    run_id: str | None
    payload: Payload | None
