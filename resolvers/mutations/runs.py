"""Mutations on runs: each is one command of the engine, checked before and presented after."""

from typing import Annotated

import strawberry

from db import messages as message_rows
from resolvers import presenters
from resolvers.arguments import well_formed
from resolvers.context import NotFound, RequestContext, found
from resolvers.inputs.runs import compact_request, wait_s
from runs.commands.cancel import Cancelled, cancel_conversation, cancel_run
from runs.commands.compact import compact
from schema.inputs.runs import CancelConversationInput, CancelRunInput, CompactConversationInput
from schema.messages import SummaryMessage
from schema.payloads.runs import CancelConversationPayload, CancelResult, CancelRunPayload, CompactConversationPayload
from schema.runs import Run
from vocabulary.ids import Noun
from vocabulary.runs import RunStatus

Info = strawberry.Info[RequestContext, None]


@strawberry.type
class RunMutations:
    @strawberry.mutation(
        description="Cancels every run of a conversation, active or waiting, and denies the tool calls that wait; when this answers, those "
        "runs write no more. What was said stays."
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

    @strawberry.mutation(
        description="Cancels one run, active or waiting; when this answers, it writes no more. What it said stays. Of a run that has ended "
        "with REQUIRES_APPROVAL it denies the tool calls that still wait, and the runs in line behind them go on."
    )
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

    @strawberry.mutation(
        description="Puts a summary in the place of older messages in what the model is shown; history stays as it is. Refused with "
        "CONVERSATION_BUSY while a run is active or queued, and with NOTHING_TO_COMPACT when there would not be fewer messages."
    )
    async def compact_conversation(
        self,
        info: Info,
        input: Annotated[CompactConversationInput, strawberry.argument(description="The conversation, and how to compact it.")],  # noqa: A002
    ) -> CompactConversationPayload | None:
        context = info.context
        seconds = wait_s(input)
        asked = await compact(context.engine, context.viewer.tenant, compact_request(input))
        if seconds and not asked.run.ended:
            await context.reader.wait_for_end(asked.run, seconds=seconds)
        context.forget()
        conversation = await context.conversation_by_id(input.id)
        run = found(await context.run_by_id(asked.run.id), asked.run.id)
        summary = await _summary(context, run)
        return CompactConversationPayload(
            conversation=conversation,
            run=run,
            summary=summary.text if summary else None,
            summary_message=summary,
            messages_before=summary.stats.messages_before if summary else None,
            messages_after=summary.stats.messages_after if summary else None,
            deduplicated=asked.deduplicated,
            client_mutation_id=input.client_mutation_id,
        )


async def _summary(context: RequestContext, run: Run) -> SummaryMessage | None:
    if run.status is not RunStatus.COMPLETED:
        return None
    async with context.engine.database.read() as connection:
        written = await message_rows.of_run(connection, run.id)
    shown = [presenters.message(message) for message in written]
    return next((message for message in shown if isinstance(message, SummaryMessage)), None)


def _result(cancelled: Cancelled) -> CancelResult:
    return CancelResult(run=presenters.run(cancelled.run), outcome=cancelled.outcome)
