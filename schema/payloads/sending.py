"""What sending gives back."""

import strawberry

from schema.conversations import Conversation
from schema.messages import Message, MessageEdge
from schema.runs import Run


@strawberry.type(description="What became of the messages that were sent.")
class SendMessagePayload:
    run: Run = strawberry.field(description="The run that answers them.")
    conversation: Conversation = strawberry.field(description="The conversation, as it is now.")
    messages: list[Message] = strawberry.field(description="The messages that were sent, and those of the run if it was waited for.")
    message_edges: list[MessageEdge] = strawberry.field(
        description="The edges of those already in `Conversation.messages`; a queued message gets its edge with the event."
    )
    applied_through_sequence: int = strawberry.field(description="The position up to which the log tells of this send.")
    deduplicated: bool = strawberry.field(description="Whether this is the answer to a retry, and nothing new was sent.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")
