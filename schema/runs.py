"""Runs and their steps."""

from datetime import datetime
from typing import Protocol

import strawberry
from strawberry import UNSET
from strawberry.types.lazy_type import LazyType

from schema.connections import After, Before, Connection, Edge, First, Last, PageArguments
from schema.enums import RunKind, RunStatus, StopReason
from schema.errors import RunError
from schema.messages import MessageConnection
from schema.nodes import Node


@strawberry.type(description="Tokens that model calls took.")
class Usage:
    input_tokens: int = strawberry.field(description="Tokens that the model was shown.")
    output_tokens: int = strawberry.field(description="Tokens that the model wrote.")
    total_tokens: int = strawberry.field(description="Both together.")
    cached_input_tokens: int | None = strawberry.field(description="Input tokens that came from the provider's cache; null: not reported.")
    cache_write_tokens: int | None = strawberry.field(description="Input tokens written to the provider's cache; null: not reported.")
    reasoning_tokens: int | None = strawberry.field(description="Output tokens spent on reasoning; null: not reported.")
    requests: int = strawberry.field(description="How many calls these are.")
    estimated: bool = strawberry.field(description="Whether any of it was estimated because a call was cut short.")


@strawberry.type(description="One model call of a run and what followed from it.")
class Step:
    id: strawberry.ID = strawberry.field(description="Globally unique and opaque.")
    index: int = strawberry.field(description="Its place in the run, from 0.")
    kind: RunKind = strawberry.field(description="Whether it answered or wrote a summary; only the former counts against `maxSteps`.")
    model: str = strawberry.field(description="The handle of the model that was called.")
    usage: Usage = strawberry.field(description="Tokens it took.")
    stop_reason: StopReason | None = strawberry.field(description="Why the model stopped; null while it has not.")
    started_at: datetime = strawberry.field(description="When it started.")
    completed_at: datetime | None = strawberry.field(description="When it was done; null while it goes on, or if it was cut short.")


class RunRelations(Protocol):
    """What a run asks of the context. A noun cannot import those above it, so they are objects here."""

    async def conversation_of_run(self, conversation_id: str) -> object: ...
    async def steps_of_run(self, run_id: str) -> list[Step]: ...
    async def messages_of_run(self, run_id: str, page: PageArguments) -> MessageConnection: ...


@strawberry.type(description="One turn of work in a conversation: from messages to their answer.")
class Run(Node):
    conversation_id: strawberry.ID = strawberry.field(description="The conversation it works in.")
    kind: RunKind = strawberry.field(description="What it does.")
    status: RunStatus = strawberry.field(description="How far it has come.")
    stop_reason: StopReason | None = strawberry.field(description="Why it ended; null while it has not.")
    error: RunError | None = strawberry.field(description="What went wrong, if it failed.")
    model: str = strawberry.field(description="The handle of the model that is actually used.")
    usage: Usage = strawberry.field(description="Tokens of all its steps.")
    group_id: strawberry.ID | None = strawberry.field(description="Groups the messages of one exchange.")
    idempotency_key: str | None = strawberry.field(description="The key it was sent with, if any.")
    attempt: int = strawberry.field(description="1 plus the number of crashes it was taken over from.")
    created_at: datetime = strawberry.field(description="When it was asked for.")
    started_at: datetime | None = strawberry.field(description="When it started; null while it waits.")
    completed_at: datetime | None = strawberry.field(description="When it ended; null while it has not.")
    time_to_first_token_ms: int | None = strawberry.field(description="Milliseconds from its start to the model's first word.")

    @strawberry.field(description="The conversation it works in.", graphql_type=LazyType[str, str]("Conversation", "schema.conversations"))
    async def conversation(self, info: strawberry.Info[RunRelations, None]) -> object:
        return await info.context.conversation_of_run(self.conversation_id)

    @strawberry.field(description="Its steps, in order.")
    async def steps(self, info: strawberry.Info[RunRelations, None]) -> list[Step]:
        return await info.context.steps_of_run(self.id)

    @strawberry.field(description="Its messages: the input first, also while that is queued, then what the run wrote.")
    async def messages(
        self,
        info: strawberry.Info[RunRelations, None],
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
    ) -> MessageConnection:
        return await info.context.messages_of_run(self.id, PageArguments.given(first, after, last, before))


RunEdge = Edge[Run]
RunConnection = Connection[Run]
