"""What mutations on conversations take. Ranges are checked in `resolvers/inputs/conversations.py`."""

import strawberry

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
