"""Mutations on agents and memory blocks: each is one command of the engine, checked before and presented after."""

from typing import Annotated

import strawberry

from resolvers import presenters
from resolvers.connections import agents_scope
from resolvers.context import RequestContext
from resolvers.inputs.agents import agent_change, agent_id, new_agent
from resolvers.inputs.blocks import block_change, too_long
from runs.commands.agents import create_agent, delete_agent, update_agent
from runs.commands.blocks import BlockTooLong, update_block
from schema.connections import Edge
from schema.inputs.agents import CreateAgentInput, DeleteAgentInput, UpdateAgentInput, UpdateBlockInput
from schema.payloads.agents import CreateAgentPayload, DeleteAgentPayload, UpdateAgentPayload, UpdateBlockPayload

Info = strawberry.Info[RequestContext, None]


@strawberry.type
class AgentMutations:
    @strawberry.mutation(description="Creates an agent.")
    async def create_agent(
        self,
        info: Info,
        input: Annotated[CreateAgentInput, strawberry.argument(description="The agent.")],  # noqa: A002
    ) -> CreateAgentPayload | None:
        context, tenant = info.context, info.context.viewer.tenant
        row = await create_agent(context.engine, tenant, new_agent(input))
        context.forget()
        agent = presenters.agent(row)
        cursor = agents_scope(tenant).cursor((row.created_at, row.id))
        return CreateAgentPayload(agent=agent, agent_edge=Edge(cursor=cursor, node=agent), client_mutation_id=input.client_mutation_id)

    @strawberry.mutation(description="Changes an agent. Its conversations keep their system messages until they are recompiled.")
    async def update_agent(
        self,
        info: Info,
        input: Annotated[UpdateAgentInput, strawberry.argument(description="The changes.")],  # noqa: A002
    ) -> UpdateAgentPayload | None:
        context = info.context
        try:
            row = await update_agent(context.engine, context.viewer.tenant, agent_change(input))
        except BlockTooLong as refused:
            raise too_long(input, refused) from refused
        context.forget()
        return UpdateAgentPayload(agent=presenters.agent(row), client_mutation_id=input.client_mutation_id)

    @strawberry.mutation(description="Deletes an agent. Its conversations are hidden at once, and deleted in the background.")
    async def delete_agent(
        self,
        info: Info,
        input: Annotated[DeleteAgentInput, strawberry.argument(description="The agent.")],  # noqa: A002
    ) -> DeleteAgentPayload | None:
        context = info.context
        await delete_agent(context.engine, context.viewer.tenant, agent_id(input.id))
        context.forget()
        return DeleteAgentPayload(deleted_agent_id=input.id, client_mutation_id=input.client_mutation_id)

    @strawberry.mutation(description="Changes a memory block, shared or isolated, also one that is read-only to the model.")
    async def update_block(
        self,
        info: Info,
        input: Annotated[UpdateBlockInput, strawberry.argument(description="The changes.")],  # noqa: A002
    ) -> UpdateBlockPayload | None:
        context = info.context
        try:
            row = await update_block(context.engine, context.viewer.tenant, block_change(input))
        except BlockTooLong as refused:
            raise too_long(input, refused) from refused
        context.forget()
        return UpdateBlockPayload(block=presenters.block(row), client_mutation_id=input.client_mutation_id)
