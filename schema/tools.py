"""Tools and what becomes of their calls."""

import strawberry

from schema.enums import ToolCallState, ToolReturnStatus, ToolSource
from schema.scalars import JSON


@strawberry.type(description="A tool that a model can call.")
class Tool:
    name: str = strawberry.field(description="By which the model calls it.")
    description: str = strawberry.field(description="What it does, as the model is told.")
    parameters: JSON = strawberry.field(description="The JSON schema of its arguments.")
    requires_approval: bool = strawberry.field(description="Whether somebody has to approve each call.")
    source: ToolSource = strawberry.field(description="Where it comes from.")


@strawberry.type(description="A model's call of a tool.")
class ToolCall:
    id: strawberry.ID = strawberry.field(description="Globally unique and opaque.")
    name: str = strawberry.field(description="The tool's name.")
    arguments: JSON | None = strawberry.field(
        description="The arguments; null until they are complete, or when they are not valid JSON, or nested too deeply."
    )
    arguments_text: str = strawberry.field(description="The arguments as the model wrote them so far.")
    state: ToolCallState = strawberry.field(description="How far the call has come.")
    source: ToolSource = strawberry.field(description="Where the tool comes from.")


@strawberry.type(description="What a tool returned.")
class ToolReturn:
    tool_call_id: strawberry.ID = strawberry.field(description="The call that is answered.")
    name: str = strawberry.field(description="The tool's name.")
    status: ToolReturnStatus = strawberry.field(description="Whether the tool did its work.")
    output: str = strawberry.field(description="What the model was told.")


@strawberry.type(description="What somebody decided about a waiting tool call.")
class ApprovalDecision:
    tool_call_id: strawberry.ID = strawberry.field(description="The call that was decided about.")
    approved: bool = strawberry.field(description="Whether the call might be run; also true where a client gave its result.")
    reason: str | None = strawberry.field(description="Why, if anybody said so; of a denial the model is told it.")
