"""What mutations on conversations give back."""

import strawberry

from schema.conversations import Conversation, ConversationEdge


@strawberry.type(description="The conversation that was created.")
class CreateConversationPayload:
    conversation: Conversation = strawberry.field(description="The conversation.")
    conversation_edge: ConversationEdge = strawberry.field(description="Its edge in `Query.conversations`, in the default order.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")
