"""Sending: one command of the engine, checked before; afterwards the run is waited for if the client asked for that."""

from typing import Annotated

import strawberry

from resolvers import presenters
from resolvers.context import RequestContext, found
from resolvers.inputs.sending import send_request, wait_s
from resolvers.mutations.waiting import messages_when_ended
from runs.commands.send import send
from schema.inputs.sending import SendMessageInput
from schema.payloads.sending import SendMessagePayload

Info = strawberry.Info[RequestContext, None]


@strawberry.type
class SendingMutations:
    @strawberry.mutation(description="Sends messages to a conversation. They are stored before this answers; the answer comes as a run.")
    async def send_message(
        self,
        info: Info,
        input: Annotated[SendMessageInput, strawberry.argument(description="The messages.")],  # noqa: A002
    ) -> SendMessagePayload | None:
        context = info.context
        seconds = wait_s(input)
        sent = await send(context.engine, context.viewer.tenant, send_request(input))
        messages = await messages_when_ended(context, sent.run, seconds=seconds) if seconds else sent.messages
        context.forget()
        conversation = await context.conversation_by_id(input.conversation_id)
        return SendMessagePayload(
            run=found(await context.run_by_id(sent.run.id), sent.run.id),
            conversation=conversation,
            messages=[presenters.message(message) for message in messages],
            message_edges=[edge for message in messages if (edge := presenters.message_edge(message, context.viewer.tenant))],
            applied_through_sequence=sent.applied_through_sequence,
            deduplicated=sent.deduplicated,
            client_mutation_id=input.client_mutation_id,
        )
