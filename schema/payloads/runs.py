"""What mutations on runs give back."""

import strawberry

from schema.conversations import Conversation
from schema.enums import CancelOutcome
from schema.messages import SummaryMessage
from schema.runs import Run


@strawberry.type(description="What became of one run that was to be cancelled.")
class CancelResult:
    run: Run = strawberry.field(description="The run, as it is now.")
    outcome: CancelOutcome = strawberry.field(description="Whether anything was cancelled.")


@strawberry.type(description="What became of a run that was to be cancelled.")
class CancelRunPayload:
    result: CancelResult = strawberry.field(description="The run and its outcome.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")


@strawberry.type(description="What became of the runs of a conversation.")
class CancelConversationPayload:
    conversation: Conversation = strawberry.field(description="The conversation, as it is now.")
    results: list[CancelResult] = strawberry.field(description="Each run that was active or waited, in the order of the queue.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")


@strawberry.type(description="What became of a compaction. All but the run is null unless that is COMPLETED; otherwise see `run.error`.")
class CompactConversationPayload:
    conversation: Conversation = strawberry.field(description="The conversation, as it is now.")
    run: Run = strawberry.field(description="The run that compacts it.")
    summary: str | None = strawberry.field(description="What stands for the older messages from now on.")
    summary_message: SummaryMessage | None = strawberry.field(description="The message that holds the summary.")
    messages_before: int | None = strawberry.field(description="How many messages the context held before.")
    messages_after: int | None = strawberry.field(description="How many messages the context held afterwards.")
    deduplicated: bool = strawberry.field(description="Whether this is the answer to a retry, and nothing new was started.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")
