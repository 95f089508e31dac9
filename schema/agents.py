"""Agents."""

from datetime import datetime
from typing import Protocol

import strawberry
from strawberry import UNSET

from schema.blocks import Block
from schema.compaction import CompactionSettings
from schema.connections import After, Before, Connection, Edge, First, Last, PageArguments
from schema.conversations import ConversationConnection
from schema.models import ModelSettings
from schema.nodes import Node
from schema.tools import Tool
from vocabulary.conversations import AgentTool


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
    compaction_settings: CompactionSettings = strawberry.field(description="How its conversations are compacted.")
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
