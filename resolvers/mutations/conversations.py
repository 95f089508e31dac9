"""Mutations on conversations: each is one command of the engine, checked before and presented after."""

from typing import Annotated

import strawberry

from resolvers import presenters
from resolvers.connections import NEWEST_FIRST, conversations_scope
from resolvers.context import RequestContext
from resolvers.inputs.conversations import new_conversation
from runs.conversations import create_conversation
from schema.connections import Edge
from schema.inputs.conversations import CreateConversationInput
from schema.payloads.conversations import CreateConversationPayload

Info = strawberry.Info[RequestContext, None]


@strawberry.type
class ConversationMutations:
    @strawberry.mutation(description="Creates a conversation with an agent.")
    async def create_conversation(
        self,
        info: Info,
        input: Annotated[CreateConversationInput, strawberry.argument(description="The conversation.")],  # noqa: A002
    ) -> CreateConversationPayload | None:
        context, tenant = info.context, info.context.viewer.tenant
        row = await create_conversation(context.engine, tenant, new_conversation(input))
        context.forget()
        conversation = presenters.conversation(row)
        cursor = conversations_scope(tenant, NEWEST_FIRST).cursor((row.created_at, row.id))
        return CreateConversationPayload(
            conversation=conversation,
            conversation_edge=Edge(cursor=cursor, node=conversation),
            client_mutation_id=input.client_mutation_id,
        )
