"""What mutations on agents and memory blocks take. Ranges are checked in `resolvers/inputs/agents.py` and `blocks.py`."""

import strawberry
from strawberry import UNSET

from schema.inputs.settings import CompactionSettingsInput, ModelSettingsInput


@strawberry.input(description="A memory block. Where the agent has one with this label, what is absent stays as it is.")
class BlockInput:
    label: str = strawberry.field(description="What it is about: letters, digits, `_`, `-` and `.`, at most 64; unique within its agent.")
    value: str = strawberry.field(description="What it says.")
    description: str | None = strawberry.field(description="What it is for, as the model is told.", default=UNSET)
    limit: int | None = strawberry.field(description="How many characters it may hold; by default 5000.", default=UNSET)
    read_only: bool | None = strawberry.field(description="Whether the model may not change it; by default it may.", default=UNSET)


@strawberry.input(description="A tool that an agent may use. Where the agent has it already, what is absent stays as it is.")
class AgentToolInput:
    name: str = strawberry.field(description="The tool's name, one of `Query.tools`.")
    requires_approval: bool | None = strawberry.field(
        description="Whether somebody has to approve each call; null: the tool's default.", default=UNSET
    )


@strawberry.input(description="A new agent.")
class CreateAgentInput:
    name: str = strawberry.field(description="What it is called, at most 255 characters.")
    description: str | None = strawberry.field(description="What it is for.")
    instructions: str | None = strawberry.field(description="The system prompt, before memory blocks are added; absent: none.")
    model: str | None = strawberry.field(description="The handle of its model, one of `Query.models`; absent: the server's default.")
    model_settings: ModelSettingsInput | None = strawberry.field(description="Settings of its model calls.")
    compaction_settings: CompactionSettingsInput | None = strawberry.field(description="How its conversations are compacted.")
    blocks: list[BlockInput] | None = strawberry.field(description="Its memory.")
    tools: list[AgentToolInput] | None = strawberry.field(description="The tools it may use.")
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")


@strawberry.input(description="What to change of an agent: what is absent stays as it is, and null clears.")
class UpdateAgentInput:
    id: strawberry.ID = strawberry.field(description="The agent.")
    name: str | None = strawberry.field(description="What it is called, at most 255 characters; cannot be cleared.", default=UNSET)
    description: str | None = strawberry.field(description="What it is for.", default=UNSET)
    instructions: str | None = strawberry.field(
        description="The system prompt, before memory blocks are added. Conversations follow when they are recompiled.", default=UNSET
    )
    model: str | None = strawberry.field(description="The handle of its model; null: the server's default.", default=UNSET)
    model_settings: ModelSettingsInput | None = strawberry.field(
        description="Settings of its model calls, changed field by field.", default=UNSET
    )
    compaction_settings: CompactionSettingsInput | None = strawberry.field(
        description="How its conversations are compacted, changed field by field; null: the defaults.", default=UNSET
    )
    blocks: list[BlockInput] | None = strawberry.field(
        description="All of its memory: blocks are changed or added by label, and those whose label is not here are removed.",
        default=UNSET,
    )
    tools: list[AgentToolInput] | None = strawberry.field(description="All the tools it may use.", default=UNSET)
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")


@strawberry.input(description="The agent to delete.")
class DeleteAgentInput:
    id: strawberry.ID = strawberry.field(description="The agent.")
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")


@strawberry.input(description="What to change of a memory block: what is absent stays as it is, and null clears.")
class UpdateBlockInput:
    id: strawberry.ID = strawberry.field(description="The block, shared or isolated.")
    value: str | None = strawberry.field(
        description="What it says. Conversations follow when they are recompiled; cannot be cleared, but may be empty.", default=UNSET
    )
    description: str | None = strawberry.field(description="What it is for, as the model is told.", default=UNSET)
    limit: int | None = strawberry.field(description="How many characters it may hold, not fewer than it does; null: 5000.", default=UNSET)
    read_only: bool | None = strawberry.field(description="Whether the model may not change it; null: it may.", default=UNSET)
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")
