"""Mutations on conversations: each is one command of the engine, checked before and presented after."""

from typing import Annotated

import strawberry

from resolvers import presenters
from resolvers.connections import NEWEST_FIRST, conversations_scope
from resolvers.context import RequestContext
from resolvers.inputs.conversations import conversation_change, conversation_id, new_conversation, new_fork
from runs.commands.changes import compiled, recompile, update_conversation
from runs.commands.conversations import create_conversation
from runs.commands.deletion import delete_conversation
from runs.commands.fork import fork_conversation
from schema.connections import Edge
from schema.conversations import Conversation as ConversationType
from schema.inputs.conversations import (
    CreateConversationInput,
    DeleteConversationInput,
    ForkConversationInput,
    RecompileConversationInput,
    UpdateConversationInput,
)
from schema.payloads.conversations import (
    CreateConversationPayload,
    DeleteConversationPayload,
    ForkConversationPayload,
    RecompileConversationPayload,
    UpdateConversationPayload,
)
from vocabulary.conversations import Conversation

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
        edge = _edge(row)
        return CreateConversationPayload(conversation=edge.node, conversation_edge=edge, client_mutation_id=input.client_mutation_id)

    @strawberry.mutation(description="Changes a conversation's summary, its model, or settings of its model calls.")
    async def update_conversation(
        self,
        info: Info,
        input: Annotated[UpdateConversationInput, strawberry.argument(description="What to change.")],  # noqa: A002
    ) -> UpdateConversationPayload | None:
        context = info.context
        row = await update_conversation(context.engine, context.viewer.tenant, conversation_change(input))
        context.forget()
        return UpdateConversationPayload(conversation=presenters.conversation(row), client_mutation_id=input.client_mutation_id)

    @strawberry.mutation(description="Deletes a conversation. Its runs are cancelled first; afterwards nothing of it is found any more.")
    async def delete_conversation(
        self,
        info: Info,
        input: Annotated[DeleteConversationInput, strawberry.argument(description="Which.")],  # noqa: A002
    ) -> DeleteConversationPayload | None:
        context = info.context
        await delete_conversation(context.engine, context.viewer.tenant, conversation_id(input.id))
        context.forget()
        return DeleteConversationPayload(deleted_conversation_id=input.id, client_mutation_id=input.client_mutation_id)

    @strawberry.mutation(description="Begins another conversation with what the model would be shown in this one.")
    async def fork_conversation(
        self,
        info: Info,
        input: Annotated[ForkConversationInput, strawberry.argument(description="Which, and how much of it.")],  # noqa: A002
    ) -> ForkConversationPayload | None:
        context = info.context
        row = await fork_conversation(context.engine, context.viewer.tenant, new_fork(input))
        context.forget()
        edge = _edge(row)
        return ForkConversationPayload(conversation=edge.node, conversation_edge=edge, client_mutation_id=input.client_mutation_id)

    @strawberry.mutation(description="Compiles the system prompt anew. A run that has begun goes on with the one it began with.")
    async def recompile_conversation(
        self,
        info: Info,
        input: Annotated[RecompileConversationInput, strawberry.argument(description="Which.")],  # noqa: A002
    ) -> RecompileConversationPayload | None:
        context = info.context
        command = compiled if input.dry_run else recompile
        prompt = await command(context.engine, context.viewer.tenant, conversation_id(input.id))
        context.forget()
        conversation = await context.conversation_by_id(input.id)
        return RecompileConversationPayload(conversation=conversation, system_prompt=prompt, client_mutation_id=input.client_mutation_id)


def _edge(row: Conversation) -> Edge[ConversationType]:
    cursor = conversations_scope(row.tenant, NEWEST_FIRST).cursor((row.created_at, row.id))
    return Edge(cursor=cursor, node=presenters.conversation(row))
