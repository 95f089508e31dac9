"""What mutations on runs take."""

import strawberry


@strawberry.input(description="A run to cancel.")
class CancelRunInput:
    id: strawberry.ID = strawberry.field(description="The run.")
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")


@strawberry.input(description="A conversation in which to cancel everything.")
class CancelConversationInput:
    id: strawberry.ID = strawberry.field(description="The conversation.")
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")
