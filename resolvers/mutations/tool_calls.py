"""Answering tool calls that wait: one command of the engine, checked before; the run that goes on is waited for if the client asks."""

from typing import Annotated

import strawberry

from resolvers import presenters
from resolvers.context import RequestContext, found
from resolvers.inputs.tool_calls import respond_request, wait_s
from resolvers.mutations.waiting import messages_when_ended
from runs.commands.respond import respond
from schema.inputs.tool_calls import RespondToToolCallsInput
from schema.payloads.tool_calls import RespondToToolCallsPayload

Info = strawberry.Info[RequestContext, None]


@strawberry.type
class ToolCallMutations:
    @strawberry.mutation(
        description="Answers all tool calls for which a conversation waits, together. A new run goes on, as the one that asked would have."
    )
    async def respond_to_tool_calls(
        self,
        info: Info,
        input: Annotated[RespondToToolCallsInput, strawberry.argument(description="The answers.")],  # noqa: A002
    ) -> RespondToToolCallsPayload | None:
        context = info.context
        seconds = wait_s(input)
        done = await respond(context.engine, context.viewer.tenant, respond_request(input))
        messages = await messages_when_ended(context, done.run, seconds=seconds) if seconds else done.messages
        context.forget()
        return RespondToToolCallsPayload(
            run=found(await context.run_by_id(done.run.id), done.run.id),
            conversation=await context.conversation_by_id(input.conversation_id),
            messages=[presenters.message(message) for message in messages],
            message_edges=[edge for message in messages if (edge := presenters.message_edge(message, context.viewer.tenant))],
            applied_through_sequence=done.applied_through_sequence,
            deduplicated=done.deduplicated,
            client_mutation_id=input.client_mutation_id,
        )
