"""What can be done: each mutation is one command of the engine, checked before and presented after."""

from collections.abc import Sequence
from typing import Annotated

import strawberry

from db import messages as message_rows
from resolvers import inputs, presenters
from resolvers.connections import NEWEST_FIRST, agents_scope, conversations_scope
from resolvers.context import RequestContext, found
from runs.agents import create_agent
from runs.conversations import create_conversation
from runs.send import Sent, send
from schema.connections import Edge
from schema.inputs import CreateAgentInput, CreateConversationInput, SendMessageInput
from schema.payloads import CreateAgentPayload, CreateConversationPayload, SendMessagePayload
from vocabulary.messages import Message

Info = strawberry.Info[RequestContext, None]


@strawberry.type(description="What can be done. Mutations of one request are done one after the other.")
class Mutation:
    @strawberry.mutation(description="Creates an agent.")
    async def create_agent(
        self,
        info: Info,
        input: Annotated[CreateAgentInput, strawberry.argument(description="The agent.")],  # noqa: A002
    ) -> CreateAgentPayload | None:
        context, tenant = info.context, info.context.viewer.tenant
        row = await create_agent(context.engine, tenant, inputs.new_agent(input))
        context.forget()
        agent = presenters.agent(row)
        cursor = agents_scope(tenant).cursor((row.created_at, row.id))
        return CreateAgentPayload(agent=agent, agent_edge=Edge(cursor=cursor, node=agent), client_mutation_id=input.client_mutation_id)

    @strawberry.mutation(description="Creates a conversation with an agent.")
    async def create_conversation(
        self,
        info: Info,
        input: Annotated[CreateConversationInput, strawberry.argument(description="The conversation.")],  # noqa: A002
    ) -> CreateConversationPayload | None:
        context, tenant = info.context, info.context.viewer.tenant
        row = await create_conversation(context.engine, tenant, inputs.new_conversation(input))
        context.forget()
        conversation = presenters.conversation(row)
        cursor = conversations_scope(tenant, NEWEST_FIRST).cursor((row.created_at, row.id))
        return CreateConversationPayload(
            conversation=conversation,
            conversation_edge=Edge(cursor=cursor, node=conversation),
            client_mutation_id=input.client_mutation_id,
        )

    @strawberry.mutation(description="Sends messages to a conversation. They are stored before this answers; the answer comes as a run.")
    async def send_message(
        self,
        info: Info,
        input: Annotated[SendMessageInput, strawberry.argument(description="The messages.")],  # noqa: A002
    ) -> SendMessagePayload | None:
        context = info.context
        seconds = inputs.wait_s(input)
        sent = await send(context.engine, context.viewer.tenant, inputs.send_request(input))
        messages = await _waited(context, sent, seconds) if seconds else sent.messages
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


async def _waited(context: RequestContext, sent: Sent, seconds: int) -> Sequence[Message]:
    """The run's messages, its input among them, once it has ended or the time is over."""
    if not sent.run.ended:
        await context.reader.wait_for_end(sent.run, seconds=seconds)
    async with context.engine.database.read() as connection:
        return await message_rows.of_run(connection, sent.run.id)
