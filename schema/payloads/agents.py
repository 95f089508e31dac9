"""What mutations on agents and memory blocks give back."""

import strawberry

from schema.agents import Agent, AgentEdge


@strawberry.type(description="The agent that was created.")
class CreateAgentPayload:
    agent: Agent = strawberry.field(description="The agent.")
    agent_edge: AgentEdge = strawberry.field(description="Its edge in `Query.agents`.")
    client_mutation_id: str | None = strawberry.field(description="What the input gave.")
