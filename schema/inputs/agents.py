"""What mutations on agents and memory blocks take. Ranges are checked in `resolvers/inputs/agents.py`."""

import strawberry

from schema.inputs.settings import ModelSettingsInput


@strawberry.input(description="A new memory block.")
class BlockInput:
    label: str = strawberry.field(description="What it is about: letters, digits, `_`, `-` and `.`, at most 64; unique within its agent.")
    value: str = strawberry.field(description="What it says.")
    description: str | None = strawberry.field(description="What it is for, as the model is told.")
    limit: int | None = strawberry.field(description="How many characters it may hold; absent: 5000.")
    read_only: bool | None = strawberry.field(description="Whether the model may not change it; absent: it may.")


@strawberry.input(description="A tool that an agent may use.")
class AgentToolInput:
    name: str = strawberry.field(description="The tool's name, one of `Query.tools`.")
    requires_approval: bool | None = strawberry.field(description="Whether somebody has to approve each call; absent: the tool's default.")


@strawberry.input(description="A new agent.")
class CreateAgentInput:
    name: str = strawberry.field(description="What it is called, at most 255 characters.")
    description: str | None = strawberry.field(description="What it is for.")
    instructions: str | None = strawberry.field(description="The system prompt, before memory blocks are added; absent: none.")
    model: str | None = strawberry.field(description="The handle of its model, one of `Query.models`; absent: the server's default.")
    model_settings: ModelSettingsInput | None = strawberry.field(description="Settings of its model calls.")
    blocks: list[BlockInput] | None = strawberry.field(description="Its memory.")
    tools: list[AgentToolInput] | None = strawberry.field(description="The tools it may use.")
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")
