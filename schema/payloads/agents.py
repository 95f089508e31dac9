"""What mutations on agents and memory blocks give back."""

import strawberry

from schema.agents import Agent, AgentEdge
from schema.blocks import Block


@strawberry.type(description="The agent that was created.")
class CreateAgentPayload:
    agent: Agent = strawberry.field(description="The agent.")
    agent_edge: AgentEdge = strawberry.field(description="Its edge in `Query.agents`.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")


@strawberry.type(description="The agent that was changed.")
class UpdateAgentPayload:
    agent: Agent = strawberry.field(description="The agent, as it is now.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")


@strawberry.type(description="The agent that was deleted; its conversations are hidden, and deleted in the background.")
class DeleteAgentPayload:
    deleted_agent_id: strawberry.ID = strawberry.field(description="The id that it had.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")


@strawberry.type(description="The memory block that was changed.")
class UpdateBlockPayload:
    block: Block = strawberry.field(description="The block, as it is now.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")
