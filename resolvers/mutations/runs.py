"""Mutations on runs: each is one command of the engine, checked before and presented after."""

from typing import Annotated

import strawberry

from resolvers import presenters
from resolvers.arguments import well_formed
from resolvers.context import NotFound, RequestContext
from runs.cancel import Cancelled, cancel_conversation, cancel_run
from schema.inputs.runs import CancelConversationInput, CancelRunInput
from schema.payloads.runs import CancelConversationPayload, CancelResult, CancelRunPayload
from vocabulary.ids import Noun

Info = strawberry.Info[RequestContext, None]


@strawberry.type
class RunMutations:
    @strawberry.mutation(
        description="Cancels every run of a conversation, active or waiting; when this answers, they write no more. What was said stays."
    )
    async def cancel_conversation(
        self,
        info: Info,
        input: Annotated[CancelConversationInput, strawberry.argument(description="The conversation.")],  # noqa: A002
    ) -> CancelConversationPayload | None:
        context = info.context
        if not well_formed(input.id, Noun.CONVERSATION):
            raise NotFound(input.id)
        cancelled = await cancel_conversation(context.engine, context.viewer.tenant, input.id)
        context.forget()
        return CancelConversationPayload(
            conversation=await context.conversation_by_id(input.id),
            results=[_result(one) for one in cancelled],
            client_mutation_id=input.client_mutation_id,
        )

    @strawberry.mutation(description="Cancels one run, active or waiting; when this answers, it writes no more. What it said stays.")
    async def cancel_run(
        self,
        info: Info,
        input: Annotated[CancelRunInput, strawberry.argument(description="The run.")],  # noqa: A002
    ) -> CancelRunPayload | None:
        context = info.context
        if not well_formed(input.id, Noun.RUN):
            raise NotFound(input.id)
        cancelled = await cancel_run(context.engine, context.viewer.tenant, input.id)
        context.forget()
        return CancelRunPayload(result=_result(cancelled), client_mutation_id=input.client_mutation_id)


def _result(cancelled: Cancelled) -> CancelResult:
    return CancelResult(run=presenters.run(cancelled.run), outcome=cancelled.outcome)
