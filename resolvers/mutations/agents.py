"""Mutations on agents and memory blocks: each is one command of the engine, checked before and presented after."""

from typing import Annotated

import strawberry

from resolvers import presenters
from resolvers.connections import agents_scope
from resolvers.context import RequestContext
from resolvers.inputs.agents import new_agent
from runs.agents import create_agent
from schema.connections import Edge
from schema.inputs.agents import CreateAgentInput
from schema.payloads.agents import CreateAgentPayload

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
