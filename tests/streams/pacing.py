"""A model that says its next piece when it is let, so that each delta is an event of its own and a run can be held at any of them."""

import asyncio
from collections.abc import AsyncGenerator

from llm.demo import DemoModel
from llm.model import Delta, ModelEvent, ModelRequest


class PacedModel:
    """Says what `demo/echo` says. `let()` is needed before each piece."""

    handle = "demo/echo"

    def __init__(self) -> None:
        self._demo = DemoModel(0)
        self._permits = asyncio.Semaphore(0)

    def let(self) -> None:
        self._permits.release()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        async for event in self._demo.stream(request):
            if isinstance(event, Delta):
                await self._permits.acquire()
            yield event
