"""The context of one operation: who asks, within which limits, what was loaded so far, and how its nodes relate.

The relations that the types in `schema/` ask for are answered here: arguments are checked, rows loaded and presented. Every
lookup is within the viewer's tenant; what is another's does not exist.
"""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, final

from strawberry import ID

from db import conversations as conversation_rows
from db import events
from db.messages import Filter
from resolvers import presenters
from resolvers.arguments import MAX_NAME, number, optional_text, position, well_formed
from resolvers.connections import (
    agent_conversations_scope,
    connection_of,
    history_scope,
    run_messages_scope,
    runs_scope,
    window_of,
)
from resolvers.loaders import ConversationsAsked, Loaders, MessagesAsked, Of, Patience, RunsAsked, at_once
from runs.engine import Engine
from runs.sizes import measured
from schema.agents import Agent, AgentRelations
from schema.blocks import Block
from schema.connections import PageArguments
from schema.conversations import Conversation, ConversationConnection, ConversationContext, ConversationRelations
from schema.messages import Message, MessageConnection, MessageFilter, MessageRelations
from schema.nodes import Node
from schema.runs import Run, RunConnection, RunRelations, Step
from schema.server import Viewer
from schema.stream import ConversationEventPage
from schema.tools import Tool, ToolCall
from streams.feed import Feed
from streams.reader import Reader
from vocabulary.conversations import AgentTool
from vocabulary.events import DeltaMode, Event, Item, ResetReason, StreamReset
from vocabulary.ids import Noun, noun_of
from vocabulary.messages import AWAITING, ToolCallBody
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import RunStatus

_NEWEST_FIRST = conversation_rows.order_by(conversation_rows.ConversationOrderField.CREATED_AT, descending=True)

_MAX_EVENTS = 1000
_EVENTS_READ_AT_ONCE = 500

T = TypeVar("T")


class NotFound(Exception):
    """Unknown, deleted, malformed or another tenant's: the same to whoever asks."""

    def __init__(self, identifier: str) -> None:
        super().__init__(f"There is nothing with the id {identifier!r} here.")
        self.identifier = identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What `Query.serverInfo` tells; kept by whoever is named there."""

    version: str
    max_page_size: int = 200
    max_subscriptions_per_connection: int = 100
    max_replay: int = 10_000
    delta_retention_s: float = 3600


def found(thing: T | None, identifier: str) -> T:
    if thing is None:
        raise NotFound(identifier)
    return thing


@final
@dataclass(kw_only=True)
class RequestContext(AgentRelations, ConversationRelations, RunRelations, MessageRelations):
    viewer: Viewer
    engine: Engine
    reader: Reader
    feed: Feed
    limits: Limits
    loaders: Loaders = field(init=False)
    patience: Patience = field(init=False)

    def __post_init__(self) -> None:
        self.patience = at_once
        self.forget()

    def wait_for_database(self) -> None:
        """From now on, for what is followed: an item that comes with an error instead of what it tells would not come again."""
        self.patience = self.reader.hub.patiently
        self.forget()

    def forget(self) -> None:
        """Time has passed: what was loaded may be old by now."""
        self.loaders = Loaders(self.engine.database, self.viewer.tenant, self.patience)

    # ---- by id

    async def node_by_id(self, id_: str) -> Node | None:
        match noun_of(id_):
            case Noun.AGENT:
                return await self.find_agent(id_)
            case Noun.BLOCK:
                return await self.find_block(id_)
            case Noun.CONVERSATION:
                return await self.find_conversation(id_)
            case Noun.MESSAGE:
                return await self.find_message(id_)
            case Noun.RUN:
                return await self.run_by_id(id_)
            case _:
                return None

    async def nodes_by_ids(self, ids: list[ID]) -> list[Node | None]:
        return await asyncio.gather(*map(self.node_by_id, ids))

    async def find_agent(self, id_: str) -> Agent | None:
        row = await self.loaders.agents.load(id_) if well_formed(id_, Noun.AGENT) else None
        return None if row is None else presenters.agent(row)

    async def find_block(self, id_: str) -> Block | None:
        row = await self.loaders.blocks.load(id_) if well_formed(id_, Noun.BLOCK) else None
        return None if row is None else presenters.block(row)

    async def find_conversation(self, id_: str) -> Conversation | None:
        row = await self.loaders.conversations.load(id_) if well_formed(id_, Noun.CONVERSATION) else None
        return None if row is None else presenters.conversation(row)

    async def find_message(self, id_: str) -> Message | None:
        row = await self.loaders.messages.load(id_) if well_formed(id_, Noun.MESSAGE) else None
        return None if row is None else presenters.message(row)

    async def run_by_id(self, run_id: str) -> Run | None:
        row = await self.loaders.runs.load(run_id) if well_formed(run_id, Noun.RUN) else None
        return None if row is None else presenters.run(row)

    async def agent_by_id(self, agent_id: str) -> Agent:
        return found(await self.find_agent(agent_id), agent_id)

    async def conversation_by_id(self, conversation_id: str) -> Conversation:
        return found(await self.find_conversation(conversation_id), conversation_id)

    async def agent_of_conversation(self, agent_id: str) -> Agent:
        """Whose conversation is shown. An event of it may come after the agent was deleted, and is shown whole all the same."""
        if agent := await self.find_agent(agent_id):
            return agent
        return presenters.agent(found(await self.loaders.agents_ever.load(agent_id), agent_id))

    async def conversation_of_run(self, conversation_id: str) -> Conversation:
        """As with agents: the last events of a run may be those of its conversation's deletion."""
        if conversation := await self.find_conversation(conversation_id):
            return conversation
        return presenters.conversation(found(await self.loaders.conversations_ever.load(conversation_id), conversation_id))

    async def fork_origin(self, conversation_id: str) -> Conversation | None:
        return await self.find_conversation(conversation_id)

    # ---- of agents

    async def blocks_of_agent(self, agent_id: str) -> list[Block]:
        return [presenters.block(row) for row in await self.loaders.blocks_of_agent.load(Of(agent_id, None))]

    def tools_named(self, names: tuple[AgentTool, ...]) -> list[Tool]:
        known = ((self.engine.tools.get(named.name), named.requires_approval) for named in names)
        return [presenters.tool(tool, requires_approval) for tool, requires_approval in known if tool is not None]

    async def conversations_of_agent(self, agent_id: str, page: PageArguments) -> ConversationConnection:
        scope = agent_conversations_scope(self.viewer.tenant, agent_id)
        asked = ConversationsAsked(_NEWEST_FIRST, window_of(page, scope, max_page_size=self.limits.max_page_size))
        rows = await self.loaders.conversations_of_agent.load(Of(agent_id, asked))

        async def count() -> int:
            return await self.loaders.conversation_counts.load(Of(agent_id, None))

        return connection_of(rows, scope, presenters.conversation, count)

    # ---- of conversations

    async def isolated_blocks_of(self, conversation: Conversation) -> list[Block]:
        of = Of(conversation.id, None, conversation.head_sequence)
        return [presenters.block(row) for row in await self.loaders.isolated_blocks.load(of)]

    async def messages_of(self, conversation: Conversation, page: PageArguments, only: MessageFilter | None) -> MessageConnection:
        scope = history_scope(self.viewer.tenant, conversation.id)
        asked = MessagesAsked(_filter(only), window_of(page, scope, max_page_size=self.limits.max_page_size))
        rows = await self.loaders.history.load(Of(conversation.id, asked, conversation.head_sequence))

        async def count() -> int:
            return await self.loaders.history_counts.load(Of(conversation.id, asked.only, conversation.head_sequence))

        return connection_of(rows, scope, presenters.message, count)

    async def context_of(self, conversation: Conversation) -> ConversationContext:
        of = Of(conversation.id, None, conversation.head_sequence)
        rows, agent = await asyncio.gather(self.loaders.contexts.load(of), self.loaders.agents.load(conversation.agent_id))
        settings = (conversation.own_settings or ModelSettings()).over(agent.model_settings if agent else ModelSettings())
        model = conversation.model or (agent.model if agent else self.engine.default_model)

        async def estimate() -> int:
            counted = await self.loaders.last_counted_steps.load(of)
            return (await asyncio.to_thread(measured, rows, counted)).tokens

        return ConversationContext(
            messages=[presenters.message(row) for row in rows],
            token_limit=self.engine.models.window(model, settings),
            estimate=estimate,
        )

    async def runs_of(self, conversation: Conversation, page: PageArguments, statuses: list[RunStatus] | None) -> RunConnection:
        scope = runs_scope(self.viewer.tenant, conversation.id)
        wanted = None if statuses is None else frozenset(statuses)
        asked = RunsAsked(wanted, window_of(page, scope, max_page_size=self.limits.max_page_size))
        rows = await self.loaders.runs_of_conversation.load(Of(conversation.id, asked, conversation.head_sequence))

        async def count() -> int:
            return await self.loaders.run_counts.load(Of(conversation.id, wanted, conversation.head_sequence))

        return connection_of(rows, scope, presenters.run, count)

    async def active_run_of(self, conversation: Conversation) -> Run | None:
        live = await self.loaders.live_runs.load(Of(conversation.id, None, conversation.head_sequence))
        return presenters.run(live[0]) if live else None

    async def waiting_calls_of(self, request_id: str) -> list[ToolCall]:
        row = await self.loaders.messages.load(request_id)
        calls = row.body.tool_calls if row is not None and isinstance(row.body, ToolCallBody) else ()
        return [presenters.tool_call(call) for call in calls if call.state in AWAITING]

    async def events_of(
        self, conversation_id: str, *, after: int | None, first: int | None, deltas: DeltaMode | None
    ) -> ConversationEventPage:
        start = position("after", after) or 0
        most = number("first", 100 if first is None else first, 1, _MAX_EVENTS)
        page = await self._log_page(conversation_id, start, most, deltas or DeltaMode.COALESCED)
        if start > page.head:
            page = self._reset_to(conversation_id, page.head)
        positions = [start, *(event.sequence for event in page.events)]
        items = [
            Item(event.sequence, previous, event.occurred_at, event.run_id, event.payload)
            for previous, event in zip(positions, page.events, strict=False)
        ]
        return ConversationEventPage(
            events=[presenters.item(item, self.viewer.tenant) for item in items],
            end_sequence=page.end,
            head_sequence=page.head,
            has_more=page.has_more,
        )

    def _reset_to(self, conversation_id: str, head: int) -> events.LogPage:
        """For who stands beyond the head: going on from there would miss what is yet to be written."""
        reset = StreamReset(ResetReason.POSITION_AHEAD, head)
        return events.LogPage((Event(conversation_id, head, self.engine.clock(), None, reset),), head, head)

    async def _log_page(self, conversation_id: str, after: int, most: int, mode: DeltaMode) -> events.LogPage:
        """So many items, however many stored events were merged into them."""
        gathered: list[Event] = []
        while True:
            page = await self.patience(partial(self._read_log, conversation_id, after, max(most, _EVENTS_READ_AT_ONCE), mode))
            if page is None:
                raise NotFound(conversation_id)
            gathered += page.events
            if len(gathered) > most:
                return events.LogPage(tuple(gathered[:most]), gathered[most - 1].sequence, page.head)
            if len(gathered) == most or not page.has_more:
                return events.LogPage(tuple(gathered), page.end, page.head)
            after = page.end

    async def _read_log(self, conversation_id: str, after: int, limit: int, mode: DeltaMode) -> events.LogPage | None:
        async with self.engine.database.read() as connection:
            return await events.read(connection, conversation_id, after=after, mode=mode, limit=limit)

    # ---- of runs

    async def steps_of_run(self, run_id: str) -> list[Step]:
        return [presenters.step(row) for row in await self.loaders.steps_of_run.load(Of(run_id, None))]

    async def messages_of_run(self, run_id: str, page: PageArguments) -> MessageConnection:
        scope = run_messages_scope(self.viewer.tenant, run_id)
        window = window_of(page, scope, max_page_size=self.limits.max_page_size)
        rows = await self.loaders.messages_of_run.load(Of(run_id, window))

        async def count() -> int:
            return await self.loaders.run_message_counts.load(Of(run_id, None))

        return connection_of(rows, scope, presenters.message, count)


def _filter(given: MessageFilter | None) -> Filter:
    if given is None:
        return Filter()
    return Filter(
        types=None if given.types is None else frozenset(given.types),
        group_id=optional_text("filter.groupId", given.group_id, at_most=MAX_NAME),
        run_id=optional_text("filter.runId", given.run_id, at_most=MAX_NAME),
        in_context=given.in_context,
        include_errors=bool(given.include_errors),
    )
