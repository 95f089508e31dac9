"""What mutations on conversations give back."""

import strawberry

from schema.conversations import Conversation, ConversationEdge


@strawberry.type(description="The conversation that was created.")
class CreateConversationPayload:
    conversation: Conversation = strawberry.field(description="The conversation.")
    conversation_edge: ConversationEdge = strawberry.field(description="Its edge in `Query.conversations`, in the default order.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")


@strawberry.type(description="The conversation that was changed.")
class UpdateConversationPayload:
    conversation: Conversation = strawberry.field(description="The conversation, as it is now.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")


@strawberry.type(description="The conversation that was deleted.")
class DeleteConversationPayload:
    deleted_conversation_id: strawberry.ID = strawberry.field(description="Its id, which is nobody's now.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")


@strawberry.type(description="The conversation that was forked off.")
class ForkConversationPayload:
    conversation: Conversation = strawberry.field(description="The new conversation.")
    conversation_edge: ConversationEdge = strawberry.field(description="Its edge in `Query.conversations`, in the default order.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")


@strawberry.type(description="The system prompt that was compiled.")
class RecompileConversationPayload:
    conversation: Conversation = strawberry.field(description="The conversation, as it is now.")
    system_prompt: str = strawberry.field(description="The prompt, compiled from the agent's instructions and memory as they are now.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")
