"""What can be asked for. Each field checks its arguments, loads, and presents; how nodes relate is told in `context`."""

from typing import Annotated

import strawberry
from strawberry import UNSET

from db import agents as agent_rows
from db import conversations as conversation_rows
from resolvers import presenters
from resolvers.arguments import MAX_DESCRIPTION, amount, optional_text
from resolvers.connections import NEWEST_FIRST, agents_scope, connection_of, conversations_scope, window_of
from resolvers.context import RequestContext, found
from schema.agents import Agent, AgentConnection
from schema.connections import After, Before, First, Last, PageArguments
from schema.conversations import Conversation, ConversationConnection, ConversationFilter, ConversationOrder
from schema.enums import OrderDirection
from schema.models import Model
from schema.nodes import Node
from schema.runs import Run
from schema.server import ServerInfo, Viewer
from schema.tools import Tool
from vocabulary.text import storable

Info = strawberry.Info[RequestContext, None]


@strawberry.type(description="What can be asked for.")
class Query:
    @strawberry.field(description="The node with this id, null if there is none.")
    async def node(self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Its id.")]) -> Node | None:  # noqa: A002
        return await info.context.node_by_id(id)

    @strawberry.field(description="The nodes with these ids, in this order, null where there is none.")
    async def nodes(
        self,
        info: Info,
        ids: Annotated[list[strawberry.ID], strawberry.argument(description="Their ids, at most as many as a page holds.")],
    ) -> list[Node | None]:
        amount("ids", len(ids), "ids", 0, info.context.limits.max_page_size)
        return await info.context.nodes_by_ids(ids)

    @strawberry.field(description="Who is asking.")
    def viewer(self, info: Info) -> Viewer | None:
        return info.context.viewer

    @strawberry.field(description="The agent with this id.")
    async def agent(self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Its id.")]) -> Agent | None:  # noqa: A002
        return await info.context.agent_by_id(id)

    @strawberry.field(description="All agents, newest first.")
    async def agents(
        self, info: Info, first: First = UNSET, after: After = UNSET, last: Last = UNSET, before: Before = UNSET
    ) -> AgentConnection | None:
        context, tenant = info.context, info.context.viewer.tenant
        scope = agents_scope(tenant)
        window = window_of(PageArguments.given(first, after, last, before), scope, max_page_size=context.limits.max_page_size)
        async with context.engine.database.read() as connection:
            page = await agent_rows.page(connection, tenant, window)

        async def count() -> int:
            async with context.engine.database.read() as connection:
                return await agent_rows.count(connection, tenant)

        return connection_of(page, scope, presenters.agent, count)

    @strawberry.field(description="The conversation with this id.")
    async def conversation(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Its id.")],  # noqa: A002
    ) -> Conversation | None:
        return await info.context.conversation_by_id(id)

    @strawberry.field(description="Conversations, newest first unless ordered otherwise.")
    async def conversations(
        self,
        info: Info,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: Annotated[ConversationFilter | None, strawberry.argument(description="Which to list; absent: all.")] = UNSET,  # noqa: A002
        order_by: Annotated[ConversationOrder | None, strawberry.argument(description="How to sort; absent: newest first.")] = UNSET,
    ) -> ConversationConnection | None:
        context, tenant = info.context, info.context.viewer.tenant
        order = order_by or NEWEST_FIRST
        only = _conversation_filter(filter) if filter else conversation_rows.Filter()
        scope = conversations_scope(tenant, order)
        window = window_of(PageArguments.given(first, after, last, before), scope, max_page_size=context.limits.max_page_size)
        async with context.engine.database.read() as connection:
            page = await conversation_rows.page(connection, tenant, only, _keyset(order), window)

        async def count() -> int:
            async with context.engine.database.read() as connection:
                return await conversation_rows.count(connection, tenant, only)

        return connection_of(page, scope, presenters.conversation, count)

    @strawberry.field(description="The run with this id.")
    async def run(self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Its id.")]) -> Run | None:  # noqa: A002
        return found(await info.context.run_by_id(id), id)

    @strawberry.field(description="The models that have a name here; providers accept others, too.")
    def models(self, info: Info) -> list[Model] | None:
        return [presenters.model(model) for model in info.context.engine.models.models()]

    @strawberry.field(description="The tools that this server can give to agents.")
    def tools(self, info: Info) -> list[Tool] | None:
        return [presenters.tool(tool) for tool in info.context.engine.tools.definitions()]

    @strawberry.field(description="What a client may want to know about this server.")
    def server_info(self, info: Info) -> ServerInfo | None:
        limits = info.context.limits
        return ServerInfo(
            version=limits.version,
            max_page_size=limits.max_page_size,
            max_subscriptions_per_connection=limits.max_subscriptions_per_connection,
            max_replay=limits.max_replay,
            delta_retention_seconds=int(limits.delta_retention_s),
        )


def _conversation_filter(given: ConversationFilter) -> conversation_rows.Filter:
    return conversation_rows.Filter(
        agent_id=None if given.agent_id is None else storable(given.agent_id),
        summary_contains=optional_text("filter.summaryContains", given.summary_contains, at_least=0, at_most=MAX_DESCRIPTION),
    )


def _keyset(order: ConversationOrder) -> conversation_rows.KeysetOrder:
    return conversation_rows.order_by(order.field, descending=order.direction is OrderDirection.DESC)
