"""The model call of a step, repeated while its provider has no time for it and nothing of an answer has been shown.

Each repetition is told as an EVENT message. Once a word was shown there is none: nobody could tell the two answers apart.
"""

import asyncio
from contextlib import aclosing

from llm.backoff import Backoff
from llm.model import Failed, Model, ModelRequest
from runs.engine import Engine
from runs.steps.answer import Answer
from runs.writing.pen import Pen


async def ask(engine: Engine, model: Model, request: ModelRequest, said: Answer, pen: Pen) -> None:
    """Feeds the answer until it has its end. Cancelling hangs up on the provider, and ends a wait for the next call, at once."""
    loop = asyncio.get_running_loop()
    backoff = Backoff(engine.retries, now=loop.time())
    while (failed := await _once(model, request, said, pen)) is not None:
        attempt, delay_s = backoff.attempt, None if said.begun else backoff.delay_s(failed, now=loop.time())
        if delay_s is None:
            said.take(failed)
            return
        said.put_off(failed, attempt=attempt, delay_s=delay_s)
        await engine.pause(delay_s)


async def _once(model: Model, request: ModelRequest, said: Answer, pen: Pen) -> Failed | None:
    async with aclosing(model.stream(request)) as stream:
        async for event in stream:
            if isinstance(event, Failed):
                return event
            said.take(event)
            await pen.room()
    return None
