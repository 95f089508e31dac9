"""The stream: what happens in a conversation, one item at a time. Every field is held ready; only what the nodes in it refer to is read."""

from datetime import datetime
from typing import Annotated

import strawberry

from schema.compaction import CompactionStats
from schema.conversations import Conversation
from schema.enums import ConversationListEventKind, MessageType, ResetReason, RunStatus, StopReason
from schema.messages import Message, MessageEdge, SummaryMessage
from schema.runs import Run
from schema.tools import ToolCall


@strawberry.type(description="A message appears: one that is about to be written, or a queued input, whole.")
class MessageStarted:
    message: Message = strawberry.field(
        description="As of its own `sequence`; it may hold text already. Ignore it if you hold a higher one of the same message."
    )
    message_edge: MessageEdge | None = strawberry.field(description="Its edge in `Conversation.messages`; null while QUEUED.")


@strawberry.type(
    description="More of a message that is being written. Ends at or before what you hold: ignore it. Starts at or before it: keep the "
    "text up to `offset` and append. Starts beyond it, or the message is unknown: ignore it too, MessageCompleted brings the whole."
)
class MessageDelta:
    message_id: strawberry.ID = strawberry.field(description="The message that grows.")
    message_type: MessageType = strawberry.field(description="What kind of message it is.")
    offset: int = strawberry.field(description="How many UTF-16 code units of the same text come before.")
    text: str = strawberry.field(description="What is appended.")
    tool_call_id: strawberry.ID | None = strawberry.field(description="Set: the arguments of this tool call grow, not the message's text.")


@strawberry.type(
    description="A message in its final state, which replaces whatever deltas have built. One written whole comes as this alone."
)
class MessageCompleted:
    message: Message = strawberry.field(description="The whole message.")
    message_edge: MessageEdge | None = strawberry.field(description="Its edge in `Conversation.messages`.")


@strawberry.type(description="Any other change of a message after it was complete.")
class MessageChanged:
    message: Message = strawberry.field(description="The message as it is now.")


@strawberry.type(description="A tool call appears, its name known, or changes its state.")
class ToolCallChanged:
    message_id: strawberry.ID = strawberry.field(description="The message that holds the call.")
    tool_call: ToolCall = strawberry.field(description="The call.")


@strawberry.type(description="A run changes its status. Each run announces exactly one terminal status.")
class RunChanged:
    run: Run = strawberry.field(description="The run as it is now, which may be newer than this event.")
    status: RunStatus = strawberry.field(description="What this event announces.")
    stop_reason: StopReason | None = strawberry.field(description="Why the run ended, if this announces that it did.")


@strawberry.type(description="The conversation itself changes: its title, its model, its status.")
class ConversationChanged:
    conversation: Conversation = strawberry.field(description="The conversation as it is now.")


@strawberry.type(
    description="A summary has taken the place of older messages. In context are from now on the system message, `summaryMessage`, and of "
    "what was in context those from `tailOrdinal` on, older summaries excepted; all else that you hold is not."
)
class ContextCompacted:
    summary_message: SummaryMessage = strawberry.field(description="The summary, as it is now.")
    first_kept_message_id: strawberry.ID | None = strawberry.field(
        description="The oldest message that is still shown beside the summary; null: none of those before the summary is."
    )
    tail_ordinal: int = strawberry.field(description="The lowest ordinal that is still shown beside the summary.")
    stats: CompactionStats = strawberry.field(description="What the compaction came to.")


@strawberry.type(description="The replay is over and what follows is live; comes once per subscription and is not stored.")
class CaughtUp:
    head_sequence: int = strawberry.field(description="The last position of the log at this moment.")


@strawberry.type(
    description="What you hold no longer matches the conversation: discard it, query again, go on after `headSequence`. Not stored."
)
class StreamReset:
    reason: ResetReason = strawberry.field(description="Why.")
    head_sequence: int = strawberry.field(description="From where to go on.")


EventPayload = Annotated[
    MessageStarted
    | MessageDelta
    | MessageCompleted
    | MessageChanged
    | ToolCallChanged
    | RunChanged
    | ConversationChanged
    | ContextCompacted
    | CaughtUp
    | StreamReset,
    strawberry.union("EventPayload", description="What happened. More kinds may come: have a default branch."),
]


@strawberry.type(description="One item of a conversation's stream.")
class ConversationEvent:
    sequence: int = strawberry.field(description="Its position; give it back as `after` to go on from here.")
    previous_sequence: int = strawberry.field(
        description="The position of the item before on this subscription. Items always join; what was merged or left out lies between."
    )
    occurred_at: datetime = strawberry.field(description="When it happened.")
    run_id: strawberry.ID | None = strawberry.field(description="The run it belongs to, if any.")
    payload: EventPayload | None = strawberry.field(description="What happened; null: cannot be shown, but the position counts.")


@strawberry.type(description="A stretch of a conversation's log.")
class ConversationEventPage:
    events: list[ConversationEvent] = strawberry.field(description="The items, merged as asked.")
    end_sequence: int = strawberry.field(description="Everything up to here is accounted for: the next `after`.")
    head_sequence: int = strawberry.field(description="The last position of the log at this moment.")
    has_more: bool = strawberry.field(description="Whether the log goes on after `endSequence`.")


@strawberry.type(description="What happens to the list of conversations, for who shows one. It is not stored, so it has no positions.")
class ConversationListEvent:
    kind: ConversationListEventKind = strawberry.field(description="What happened.")
    conversation_id: strawberry.ID | None = strawberry.field(description="The conversation it happened to; null on CAUGHT_UP.")
    conversation: Conversation | None = strawberry.field(description="As it was then; null on CAUGHT_UP and DELETED.")
