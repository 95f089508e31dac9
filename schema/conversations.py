"""Conversations, their filter and their order."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Protocol

import strawberry
from strawberry import UNSET
from strawberry.types.lazy_type import LazyType

from schema.blocks import Block
from schema.connections import After, Before, Connection, Edge, First, Last, PageArguments
from schema.enums import ConversationOrderField, ConversationStatus, DeltaMode, OrderDirection, RunStatus
from schema.messages import Message, MessageConnection, MessageFilter
from schema.models import ModelSettings
from schema.nodes import Node
from schema.runs import Run, RunConnection
from schema.tools import ToolCall
from vocabulary.model_settings import ModelSettings as OwnSettings


class ConversationRelations(Protocol):
    """What a conversation asks of the context. It hands over itself, so that its children are read after its `head_sequence` was.

    A noun cannot import those above it, so they are objects here.
    """

    async def agent_of_conversation(self, agent_id: str) -> object: ...
    async def fork_origin(self, conversation_id: str) -> "Conversation | None": ...
    async def isolated_blocks_of(self, conversation: "Conversation") -> list[Block]: ...
    async def messages_of(self, conversation: "Conversation", page: PageArguments, only: MessageFilter | None) -> MessageConnection: ...
    async def context_of(self, conversation: "Conversation") -> "ConversationContext": ...
    async def runs_of(self, conversation: "Conversation", page: PageArguments, statuses: list[RunStatus] | None) -> RunConnection: ...
    async def active_run_of(self, conversation: "Conversation") -> Run | None: ...
    async def waiting_calls_of(self, request_id: str) -> list[ToolCall]: ...
    async def events_of(self, conversation_id: str, *, after: int | None, first: int | None, deltas: DeltaMode | None) -> object: ...


@strawberry.type(description="What the model is shown of a conversation.")
class ConversationContext:
    messages: list[Message] = strawberry.field(description="The messages in the order in which the model is shown them.")
    token_limit: int = strawberry.field(description="How many tokens fit into the window of the conversation's model.")
    estimate: strawberry.Private[Callable[[], Awaitable[int]]]

    @strawberry.field(description="How many messages these are.")
    def message_count(self) -> int:
        return len(self.messages)

    @strawberry.field(
        description="About how many tokens they take: what the provider counted at its last call, and an estimate of the rest."
    )
    async def token_estimate(self) -> int:
        return await self.estimate()


@strawberry.type(description="A conversation with an agent.")
class Conversation(Node):
    summary: str | None = strawberry.field(description="A short title or synopsis.")
    model: str | None = strawberry.field(description="The handle of the model to use instead of the agent's; null: the agent's.")
    model_settings: ModelSettings | None = strawberry.field(description="Settings that lie over the agent's; null: none.")
    status: ConversationStatus = strawberry.field(description="What it is doing.")
    head_sequence: int = strawberry.field(
        description="The last position of its log when it was read. Its other fields are as new as this or newer: subscribe after it."
    )
    last_message_at: datetime | None = strawberry.field(description="When its last message was written.")
    last_run_completed_at: datetime | None = strawberry.field(description="When its last run ended.")
    created_at: datetime = strawberry.field(description="When it was created.")
    updated_at: datetime = strawberry.field(description="When it last changed.")
    agent_id: strawberry.Private[str]
    own_settings: strawberry.Private[OwnSettings | None]
    forked_from_id: strawberry.Private[str | None]
    pending_message_id: strawberry.Private[str | None]

    @strawberry.field(description="The agent that answers.", graphql_type=LazyType[str, str]("Agent", "schema.agents"))
    async def agent(self, info: strawberry.Info[ConversationRelations, None]) -> object:
        return await info.context.agent_of_conversation(self.agent_id)

    @strawberry.field(description="Its own copies of the agent's memory blocks, by label; they are shown to the model instead of those.")
    async def isolated_blocks(self, info: strawberry.Info[ConversationRelations, None]) -> list[Block]:
        return await info.context.isolated_blocks_of(self)

    @strawberry.field(description="The conversation it was forked from, if that still exists.")
    async def forked_from(self, info: strawberry.Info[ConversationRelations, None]) -> "Conversation | None":
        return None if self.forked_from_id is None else await info.context.fork_origin(self.forked_from_id)

    @strawberry.field(description="Its history, oldest first; without `first` and `last` the oldest 50. A chat asks for `last`.")
    async def messages(
        self,
        info: strawberry.Info[ConversationRelations, None],
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: Annotated[MessageFilter | None, strawberry.argument(description="Which messages to list; absent: all but errors.")] = UNSET,  # noqa: A002
    ) -> MessageConnection:
        return await info.context.messages_of(self, PageArguments.given(first, after, last, before), filter or None)

    @strawberry.field(description="What the model would be shown of it now.")
    async def context(self, info: strawberry.Info[ConversationRelations, None]) -> ConversationContext:
        return await info.context.context_of(self)

    @strawberry.field(description="Its runs, oldest first; those that are QUEUED are its queue.")
    async def runs(
        self,
        info: strawberry.Info[ConversationRelations, None],
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        statuses: Annotated[list[RunStatus] | None, strawberry.argument(description="Only runs in one of these; absent: all.")] = UNSET,
    ) -> RunConnection:
        given = None if statuses is UNSET else statuses
        return await info.context.runs_of(self, PageArguments.given(first, after, last, before), given)

    @strawberry.field(description="The run that is going on, else the next in the queue, else null.")
    async def active_run(self, info: strawberry.Info[ConversationRelations, None]) -> Run | None:
        return await info.context.active_run_of(self)

    @strawberry.field(description="The tool calls that wait for an approval, or for a client's result.")
    async def pending_tool_calls(self, info: strawberry.Info[ConversationRelations, None]) -> list[ToolCall]:
        return [] if self.pending_message_id is None else await info.context.waiting_calls_of(self.pending_message_id)

    @strawberry.field(
        description="Its log over plain HTTP, for catching up and as a fallback for subscriptions.",
        graphql_type=LazyType[str, str]("ConversationEventPage", "schema.stream"),
    )
    async def events(
        self,
        info: strawberry.Info[ConversationRelations, None],
        after: Annotated[int | None, strawberry.argument(description="Only what happened after this position.")] = 0,
        first: Annotated[
            int | None, strawberry.argument(description="At most so many items, from 1 to 1000, counted after merging.")
        ] = 100,
        deltas: Annotated[DeltaMode | None, strawberry.argument(description="How messages in progress are shown.")] = DeltaMode.COALESCED,
    ) -> object:
        return await info.context.events_of(self.id, after=after, first=first, deltas=deltas)


ConversationEdge = Edge[Conversation]
ConversationConnection = Connection[Conversation]


@strawberry.input(description="Which conversations to list; what is absent does not filter.")
class ConversationFilter:
    agent_id: strawberry.ID | None = strawberry.field(description="Only conversations with this agent.")
    summary_contains: str | None = strawberry.field(
        description="Only those whose summary contains this, whatever its case; `%`, `_` and all else stand for themselves."
    )


@strawberry.input(description="How to sort conversations; ties are broken by id, and missing times come last either way.")
class ConversationOrder:
    field: ConversationOrderField = strawberry.field(description="By what.")
    direction: OrderDirection = strawberry.field(description="Which end first.")
