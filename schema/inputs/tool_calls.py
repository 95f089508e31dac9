"""What answering tool calls takes. Ranges are checked in `resolvers/inputs/tool_calls.py`."""

import strawberry

from schema.enums import ToolReturnStatus


@strawberry.input(description="The server may run the tool.")
class ApproveInput:
    reason: str | None = strawberry.field(description="Why, for the history.")


@strawberry.input(description="Nobody may run the tool.")
class DenyInput:
    reason: str | None = strawberry.field(description="Why, as the model is told.")


@strawberry.input(description="What a tool returned that you have run yourself.")
class ToolResultInput:
    output: str = strawberry.field(description="What the model is told, at most a million characters; a very long one is clipped.")
    status: ToolReturnStatus | None = strawberry.field(description="Whether the tool did its work.", default=ToolReturnStatus.SUCCESS)


@strawberry.input(one_of=True, description="What becomes of a waiting tool call: exactly one of these.")
class ToolCallDecisionInput:
    approve: ApproveInput | None = strawberry.field(description="For a server tool: it is run.")
    deny: DenyInput | None = strawberry.field(description="For any tool: it is not run, and the model is told so.")
    result: ToolResultInput | None = strawberry.field(description="For a client tool: what it returned.")


@strawberry.input(description="The answer to one waiting tool call.")
class ToolCallResponseInput:
    tool_call_id: strawberry.ID = strawberry.field(description="The call.")
    decision: ToolCallDecisionInput = strawberry.field(description="What becomes of it.")


@strawberry.input(description="Answers to all tool calls for which a conversation waits.")
class RespondToToolCallsInput:
    conversation_id: strawberry.ID = strawberry.field(description="The conversation that waits.")
    responses: list[ToolCallResponseInput] = strawberry.field(description="One for each of its `pendingToolCalls`.")
    idempotency_key: str | None = strawberry.field(
        description="Makes a retry safe: the same key with the same input gives the first run again, with another IDEMPOTENCY_CONFLICT."
    )
    wait_seconds: int | None = strawberry.field(
        description="0: answer at once. Otherwise answer when the run has ended, or after so many seconds, at most 600.", default=0
    )
    client_mutation_id: str | None = strawberry.field(description="Given back as it is.")
