"""What can be followed. The streams themselves are `streams.reader` and `streams.feed`; here they are asked for, and presented."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated

import strawberry
from strawberry import UNSET

from resolvers import presenters
from resolvers.arguments import position, well_formed
from resolvers.context import RequestContext, found
from schema.enums import DeltaMode, MessageType
from schema.stream import ConversationEvent, ConversationListEvent
from vocabulary import events
from vocabulary.ids import Noun
from vocabulary.lists import ListItem

Info = strawberry.Info[RequestContext, None]
Deltas = Annotated[DeltaMode | None, strawberry.argument(description="How messages in progress are delivered.")]
Types = Annotated[list[MessageType] | None, strawberry.argument(description="Of message events only those of these kinds; absent: all.")]


@strawberry.type(description="What can be followed.")
class Subscription:
    @strawberry.subscription(description="What happens in a conversation, from any position on, without a gap.")
    async def conversation_events(
        self,
        info: Info,
        conversation_id: Annotated[strawberry.ID, strawberry.argument(description="The conversation.")],
        after: Annotated[
            int | None, strawberry.argument(description="The last position you have; 0: everything; absent: live from now.")
        ] = UNSET,
        deltas: Deltas = DeltaMode.COALESCED,
        types: Types = UNSET,
    ) -> AsyncGenerator[ConversationEvent]:
        start = position("after", None if after is UNSET else after)
        info.context.wait_for_database()
        await info.context.conversation_by_id(conversation_id)
        mode = deltas or DeltaMode.COALESCED
        return _presented(info.context, info.context.reader.follow(conversation_id, after=start, mode=mode, accepts=_accepts(types)))

    @strawberry.subscription(description="What happens in one run; completes when the run has ended.")
    async def run_events(
        self,
        info: Info,
        run_id: Annotated[strawberry.ID, strawberry.argument(description="The run.")],
        after: Annotated[
            int | None, strawberry.argument(description="The last position you have; 0 or absent: from the run's start.")
        ] = UNSET,
        deltas: Deltas = DeltaMode.COALESCED,
        types: Types = UNSET,
    ) -> AsyncGenerator[ConversationEvent]:
        start = position("after", None if after is UNSET else after)
        info.context.wait_for_database()
        row = found(await info.context.loaders.runs.load(run_id) if well_formed(run_id, Noun.RUN) else None, run_id)
        mode = deltas or DeltaMode.COALESCED
        followed = info.context.reader.follow(row.conversation_id, after=start, mode=mode, run=row, accepts=_accepts(types))
        return _presented(info.context, followed)

    @strawberry.subscription(
        description="What happens to the list of conversations, for a sidebar. Query the list at each CAUGHT_UP; it begins with one."
    )
    async def conversation_list_events(
        self,
        info: Info,
        agent_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="Only conversations with this agent; absent: all that you may see.")
        ] = UNSET,
    ) -> AsyncGenerator[ConversationListEvent]:
        context, only = info.context, None if agent_id is UNSET else agent_id
        context.wait_for_database()
        if only is not None:
            await context.agent_by_id(only)
        return _presented_list(context, context.feed.follow(context.viewer.tenant, agent_id=only))


async def _presented(context: RequestContext, items: AsyncGenerator[events.Item]) -> AsyncGenerator[ConversationEvent]:
    async with aclosing(items):
        async for item in items:
            context.forget()
            yield presenters.item(item, context.viewer.tenant)


async def _presented_list(context: RequestContext, items: AsyncGenerator[ListItem]) -> AsyncGenerator[ConversationListEvent]:
    async with aclosing(items):
        async for item in items:
            context.forget()
            yield presenters.list_item(item)


def _accepts(types: list[MessageType] | None) -> Callable[[events.Event], bool]:
    """Only message events have a type to be filtered by; all others pass."""
    if types is UNSET or types is None:
        return lambda _event: True
    wanted = frozenset(types)
    return lambda event: (kind := _message_type(event.payload)) is None or kind in wanted


def _message_type(payload: events.Payload | None) -> MessageType | None:
    match payload:
        case events.MessageStarted(message) | events.MessageCompleted(message) | events.MessageChanged(message):
            return message.type
        case events.MessageDelta(message_type=kind) | events.ToolCallChanged(message_type=kind):
            return kind
        case _:
            return None
