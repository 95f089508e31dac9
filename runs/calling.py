"""A model call, repeated while its provider has no time for it and nothing of an answer has been heard: of a step, or for a summary.

Each repetition is told as an EVENT message. Once there was a word there is none: nobody could tell the two answers apart.
"""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from llm.backoff import Backoff
from llm.model import Failed, Model, ModelEvent, ModelRequest
from runs.engine import Engine
from runs.writing.pen import Pen
from runs.writing.writes import Whole
from vocabulary.ids import Noun, new_id
from vocabulary.messages import EventBody, Message, MessageStatus, MessageType
from vocabulary.runs import RunErrorType, Step, Usage

MODEL_RETRY = "model_retry"


class Listener(Protocol):
    """Who hears an answer out, up to Finished or Failed."""

    @property
    def begun(self) -> bool:
        """Whether anything of it has come."""
        ...

    def take(self, event: ModelEvent) -> None: ...


async def ask(engine: Engine, pen: Pen, model: Model, request: ModelRequest, *, step: Step, listener: Listener) -> Usage:
    """Feeds an answer until it has its end. Answers what the calls have used that were made again.

    Cancelling hangs up on the provider, and ends a wait for the next call, at once.
    """
    loop = asyncio.get_running_loop()
    backoff, spent = Backoff(engine.retries, now=loop.time()), Usage()
    while (failed := await _once(model, request, listener, pen)) is not None:
        attempt, delay_s = backoff.attempt, None if listener.begun else backoff.delay_s(failed, now=loop.time())
        if delay_s is None:
            listener.take(failed)
            break
        spent += _spent(failed)
        pen.write(Whole(_retry(engine, pen, step, failed, attempt=attempt, delay_s=delay_s)))
        await engine.pause(delay_s)
    return spent


async def _once(model: Model, request: ModelRequest, listener: Listener, pen: Pen) -> Failed | None:
    async with aclosing(model.stream(request)) as stream:
        async for event in stream:
            if isinstance(event, Failed):
                return event
            listener.take(event)
            await pen.room()
    return None


def _spent(failed: Failed) -> Usage:
    """Who was refused for its number has used nothing but a request."""
    refused = failed.error.type in (RunErrorType.LLM_RATE_LIMIT, RunErrorType.LLM_OVERLOADED)
    return replace(failed.usage, estimated=failed.usage.estimated and not refused)


def _retry(engine: Engine, pen: Pen, step: Step, failed: Failed, *, attempt: int, delay_s: float) -> Message:
    data = {"attempt": attempt, "reason": failed.error.type.value, "message": failed.error.message, "delaySeconds": round(delay_s, 3)}
    return Message(
        id=new_id(Noun.MESSAGE),
        conversation_id=step.conversation_id,
        type=MessageType.EVENT,
        status=MessageStatus.COMPLETED,
        ordinal=None,
        text="",
        body=EventBody(event_type=MODEL_RETRY, data=data),
        in_tail=False,
        in_context=False,
        group_id=pen.lease.run.group_id,
        run_id=step.run_id,
        step_id=step.id,
        sequence=0,
        created_at=engine.clock(),
    )
