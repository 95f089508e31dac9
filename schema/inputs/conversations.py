"""What mutations on conversations take. Ranges are checked in `resolvers/inputs/conversations.py`."""

import strawberry
from strawberry import UNSET

from schema.inputs.settings import ModelSettingsInput


@strawberry.input(description="A new conversation.")
class CreateConversationInput:
    agent_id: strawberry.ID = strawberry.field(description="The agent that answers.")
    summary: str | None = strawberry.field(description="A short title or synopsis.")
    model: str | None = strawberry.field(description="The handle of a model to use instead of the agent's.")
    model_settings: ModelSettingsInput | None = strawberry.field(description="Settings that lie over the agent's.")
    isolated_block_labels: list[str] | None = strawberry.field(
        description="Labels of the agent's blocks of which the conversation gets copies of its own, not shared with others."
    )
    idempotency_key: str | None = strawberry.field(
        description="Makes a retry safe: the same key with the same input gives the same conversation."
    )
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")


@strawberry.input(description="What to change of a conversation: what is absent stays as it is, null clears.")
class UpdateConversationInput:
    id: strawberry.ID = strawberry.field(description="The conversation.")
    summary: str | None = strawberry.field(description="A short title or synopsis.", default=UNSET)
    model: str | None = strawberry.field(description="The handle of a model to use instead of the agent's.", default=UNSET)
    model_settings: ModelSettingsInput | None = strawberry.field(
        description="Settings that lie over the agent's; each field changes by itself, null clears them all.", default=UNSET
    )
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")


@strawberry.input(description="A conversation to delete.")
class DeleteConversationInput:
    id: strawberry.ID = strawberry.field(description="The conversation.")
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")


@strawberry.input(description="A conversation to fork.")
class ForkConversationInput:
    id: strawberry.ID = strawberry.field(description="The conversation.")
    through_message_id: strawberry.ID | None = strawberry.field(
        description="The last message to take over, one that is finished; absent: the whole context."
    )
    idempotency_key: str | None = strawberry.field(description="Makes a retry safe: the same key with the same input gives the same fork.")
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")


@strawberry.input(description="A conversation whose system prompt is to be compiled anew.")
class RecompileConversationInput:
    id: strawberry.ID = strawberry.field(description="The conversation.")
    dry_run: bool | None = strawberry.field(description="Whether to answer the prompt without storing it.", default=False)
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")
