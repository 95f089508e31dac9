"""What mutations on runs take."""

import strawberry

from schema.inputs.settings import CompactionSettingsInput


@strawberry.input(description="A run to cancel.")
class CancelRunInput:
    id: strawberry.ID = strawberry.field(description="The run.")
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")


@strawberry.input(description="A conversation in which to cancel everything.")
class CancelConversationInput:
    id: strawberry.ID = strawberry.field(description="The conversation.")
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")


@strawberry.input(description="A conversation to compact.")
class CompactConversationInput:
    id: strawberry.ID = strawberry.field(description="The conversation.")
    settings: CompactionSettingsInput | None = strawberry.field(description="Settings that lie over the agent's, field by field.")
    idempotency_key: str | None = strawberry.field(
        description="Makes a retry safe: the same key with the same input gives the first run again, with another IDEMPOTENCY_CONFLICT."
    )
    wait_seconds: int | None = strawberry.field(
        description="0: answer at once. Otherwise answer when the run has ended, or after so many seconds, at most 600; "
        "the run goes on then.",
        default=120,
    )
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")
