"""Waiting for a run, for mutations that start one and whose client asked for that."""

from collections.abc import Sequence

from db import messages
from resolvers.context import RequestContext
from vocabulary.messages import Message
from vocabulary.runs import Run


async def messages_when_ended(context: RequestContext, run: Run, *, seconds: int) -> Sequence[Message]:
    """The run's messages, its input among them, once it has ended or the time is over."""
    if not run.ended:
        await context.reader.wait_for_end(run, seconds=seconds)
    async with context.engine.database.read() as connection:
        return await messages.of_run(connection, run.id)
