"""Agents and their memory blocks."""

from datetime import datetime
from typing import Protocol

import strawberry
from strawberry import UNSET

from schema.connections import After, Before, Connection, Edge, First, Last, PageArguments
from schema.conversations import ConversationConnection
from schema.models import ModelSettings
from schema.nodes import Node
from schema.tools import Tool
from vocabulary.conversations import AgentTool


@strawberry.type(description="A piece of memory that is always part of what the model is shown.")
class Block(Node):
    label: str = strawberry.field(description="What it is about; unique within its agent.")
    value: str = strawberry.field(description="What it says.")
    description: str | None = strawberry.field(description="What it is for, as the model is told.")
    limit: int = strawberry.field(description="How many characters it may hold.")
    read_only: bool = strawberry.field(description="Whether the model may not change it.")
    isolated: bool = strawberry.field(description="Whether it belongs to one conversation and is not shared through the agent.")
    updated_at: datetime = strawberry.field(description="When it last changed.")


class AgentRelations(Protocol):
    """What an agent asks of the context."""

    async def blocks_of_agent(self, agent_id: str) -> list[Block]: ...
    async def conversations_of_agent(self, agent_id: str, page: PageArguments) -> ConversationConnection: ...
    def tools_named(self, names: tuple[AgentTool, ...]) -> list[Tool]: ...


@strawberry.type(description="Who answers in conversations: instructions, a model, memory and tools.")
class Agent(Node):
    name: str = strawberry.field(description="What it is called.")
    description: str | None = strawberry.field(description="What it is for.")
    instructions: str = strawberry.field(description="The system prompt, before memory blocks are added.")
    model: str = strawberry.field(description="The handle of its model: `provider/name`.")
    model_settings: ModelSettings = strawberry.field(description="Settings of its model calls.")
    created_at: datetime = strawberry.field(description="When it was created.")
    updated_at: datetime = strawberry.field(description="When it last changed.")
    agent_tools: strawberry.Private[tuple[AgentTool, ...]]

    @strawberry.field(description="Its memory, shared by all its conversations, by label.")
    async def blocks(self, info: strawberry.Info[AgentRelations, None]) -> list[Block]:
        return await info.context.blocks_of_agent(self.id)

    @strawberry.field(description="The tools it may use, of those that this server has.")
    def tools(self, info: strawberry.Info[AgentRelations, None]) -> list[Tool]:
        return info.context.tools_named(self.agent_tools)

    @strawberry.field(description="Its conversations, newest first.")
    async def conversations(
        self,
        info: strawberry.Info[AgentRelations, None],
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
    ) -> ConversationConnection:
        return await info.context.conversations_of_agent(self.id, PageArguments.given(first, after, last, before))


AgentEdge = Edge[Agent]
AgentConnection = Connection[Agent]
