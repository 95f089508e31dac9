"""What mutations on runs give back."""

import strawberry

from schema.conversations import Conversation
from schema.enums import CancelOutcome
from schema.runs import Run


@strawberry.type(description="What became of one run that was to be cancelled.")
class CancelResult:
    run: Run = strawberry.field(description="The run, as it is now.")
    outcome: CancelOutcome = strawberry.field(description="Whether it was cancelled.")


@strawberry.type(description="What became of a run that was to be cancelled.")
class CancelRunPayload:
    result: CancelResult = strawberry.field(description="The run and its outcome.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")


@strawberry.type(description="What became of the runs of a conversation.")
class CancelConversationPayload:
    conversation: Conversation = strawberry.field(description="The conversation, as it is now.")
    results: list[CancelResult] = strawberry.field(description="Each run that was active or waited, in the order of the queue.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")
