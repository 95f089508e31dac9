"""Messages: the interface, one type per kind, and the filter of their connection. Every field but `run` is held ready."""

from datetime import datetime
from typing import Annotated, Protocol

import strawberry
from strawberry.types.lazy_type import LazyType

from schema.compaction import CompactionStats
from schema.connections import Connection, Edge
from schema.enums import HiddenReasoningState, MessageStatus, MessageType
from schema.errors import RunError
from schema.nodes import Node
from schema.scalars import JSON
from schema.tools import ApprovalDecision, ToolCall, ToolReturn


class MessageRelations(Protocol):
    """What a message asks of the context. A noun cannot import those above it, so they are objects here."""

    async def run_by_id(self, run_id: str) -> object | None: ...


@strawberry.type(description="Text in a message.")
class TextPart:
    text: str = strawberry.field(description="The text.")


@strawberry.type(description="An image in a message.")
class ImagePart:
    url: str = strawberry.field(description="Where the image is, or the image itself as a `data:` URL.")
    media_type: str | None = strawberry.field(description="Its media type, if it was told.")


ContentPart = Annotated[TextPart | ImagePart, strawberry.union("ContentPart", description="A piece of what a user sent.")]


@strawberry.interface(description="One entry of a conversation's history, or an input that waits to become one.")
class Message(Node):
    conversation_id: strawberry.ID = strawberry.field(description="The conversation it belongs to.")
    type: MessageType = strawberry.field(description="What kind of message it is.")
    status: MessageStatus = strawberry.field(description="How far it has come.")
    ordinal: int | None = strawberry.field(description="Its place in history, which never changes; null while QUEUED. Sort by it.")
    text: str = strawberry.field(description="The text that deltas append to; empty where there is none.")
    in_context: bool = strawberry.field(description="Whether it is still part of what the model is shown.")
    group_id: strawberry.ID | None = strawberry.field(description="Groups the messages of one exchange.")
    run_id: strawberry.ID | None = strawberry.field(description="The run it belongs to, as input or as output.")
    step_id: strawberry.ID | None = strawberry.field(description="The step that wrote it.")
    sequence: int = strawberry.field(description="The position in the conversation's log at which this state is true.")
    created_at: datetime = strawberry.field(description="When it was first announced.")

    @strawberry.field(
        description="The run it belongs to, as input or as output.", graphql_type=LazyType[str, str]("Run", "schema.runs") | None
    )
    async def run(self, info: strawberry.Info[MessageRelations, None]) -> object | None:
        return None if self.run_id is None else await info.context.run_by_id(self.run_id)


@strawberry.type(description="An instruction to the model.")
class SystemMessage(Message):
    client_message_id: str | None = strawberry.field(description="The client's own name for this message, if it gave one.")


@strawberry.type(description="What a user said.")
class UserMessage(Message):
    content: list[ContentPart] = strawberry.field(description="What was sent, piece by piece.")
    client_message_id: str | None = strawberry.field(description="The client's own name for this message, if it gave one.")
    sender: str | None = strawberry.field(description="Who said it, where several people talk; the model that answers was not told.")


@strawberry.type(description="What the model answered.")
class AssistantMessage(Message):
    pass


@strawberry.type(description="What the model thought on its way to an answer.")
class ReasoningMessage(Message):
    signature: str | None = strawberry.field(description="The provider's seal on this reasoning.")


@strawberry.type(description="Reasoning that the provider does not show.")
class HiddenReasoningMessage(Message):
    state: HiddenReasoningState = strawberry.field(description="Why it is not shown.")


@strawberry.type(description="All tool calls of one step.")
class ToolCallMessage(Message):
    tool_calls: list[ToolCall] = strawberry.field(description="The calls, in the model's order.")


@strawberry.type(description="What the tools of one step returned.")
class ToolReturnMessage(Message):
    tool_returns: list[ToolReturn] = strawberry.field(description="One return per call, in the order of the calls.")


@strawberry.type(description="Tool calls that wait for somebody's approval.")
class ApprovalRequestMessage(Message):
    tool_calls: list[ToolCall] = strawberry.field(description="The waiting calls of that step, with the same ids.")


@strawberry.type(description="What was decided about waiting tool calls.")
class ApprovalResponseMessage(Message):
    decisions: list[ApprovalDecision] = strawberry.field(description="One decision per call.")


@strawberry.type(description="A summary that the model is shown instead of what was said before it, or was until a newer one.")
class SummaryMessage(Message):
    stats: CompactionStats = strawberry.field(description="What the compaction that wrote it came to.")


@strawberry.type(description="Something that happened in the conversation besides talking.")
class EventMessage(Message):
    event_type: str = strawberry.field(description="What happened.")
    data: JSON = strawberry.field(description="The particulars.")


@strawberry.type(description="A failure, kept where it happened; also what a message that this server cannot read is shown as.")
class ErrorMessage(Message):
    error: RunError = strawberry.field(description="What went wrong.")


MESSAGE_TYPES = (
    SystemMessage,
    UserMessage,
    AssistantMessage,
    ReasoningMessage,
    HiddenReasoningMessage,
    ToolCallMessage,
    ToolReturnMessage,
    ApprovalRequestMessage,
    ApprovalResponseMessage,
    SummaryMessage,
    EventMessage,
    ErrorMessage,
)

MessageEdge = Edge[Message]
MessageConnection = Connection[Message]


@strawberry.input(description="Which messages of a conversation to list; what is absent does not filter.")
class MessageFilter:
    types: list[MessageType] | None = strawberry.field(description="Only messages of these kinds; naming ERROR includes errors.")
    group_id: strawberry.ID | None = strawberry.field(description="Only messages of this exchange.")
    run_id: strawberry.ID | None = strawberry.field(description="Only messages of this run.")
    in_context: bool | None = strawberry.field(description="Only messages that the model is, or is no longer, shown.")
    include_errors: bool | None = strawberry.field(description="Whether ERROR messages are listed too.", default=False)
