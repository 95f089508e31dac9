"""What answering tool calls gives back."""

import strawberry

from schema.conversations import Conversation
from schema.messages import Message, MessageEdge
from schema.runs import Run


@strawberry.type(description="What became of the answers.")
class RespondToToolCallsPayload:
    run: Run = strawberry.field(description="The run that goes on, before any that waits in line.")
    conversation: Conversation = strawberry.field(description="The conversation, as it is now.")
    messages: list[Message] = strawberry.field(description="The answers as a message, and those of the run if it was waited for.")
    message_edges: list[MessageEdge] = strawberry.field(description="Their edges in `Conversation.messages`.")
    applied_through_sequence: int = strawberry.field(description="The position up to which the log tells of these answers.")
    deduplicated: bool = strawberry.field(description="Whether this is the answer to a retry, and nothing new was decided.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")
