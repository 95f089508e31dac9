"""A model that answers when it is told to, in any number of conversations. A call is known by the last thing that was said."""

import asyncio
from collections.abc import AsyncGenerator

from llm.model import Delta, Failed, Finished, Model, ModelEvent, ModelRequest, TextEnded, TextStarted, UserTurn
from tests.runs.scripted import USAGE
from vocabulary.messages import TextPart
from vocabulary.runs import StopReason

HANDLE = "test/puppet"


class Puppet(Model):
    """`said[text]`: what to answer to it. `requests`: by what was said last, what the model was asked then."""

    def __init__(self) -> None:
        self.requests: dict[str, ModelRequest] = {}
        self._lines: dict[str, asyncio.Queue[ModelEvent | None]] = {}
        self._asked = asyncio.Condition()

    @property
    def handle(self) -> str:
        return HANDLE

    async def is_asked(self, text: str) -> ModelRequest:
        async with self._asked:
            await self._asked.wait_for(lambda: text in self.requests)
        return self.requests[text]

    def tell(self, text: str, *events: ModelEvent) -> None:
        for event in events:
            self._line(text).put_nowait(event)
        if any(isinstance(event, Finished | Failed) for event in events):
            self._line(text).put_nowait(None)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        text = last_said(request)
        async with self._asked:
            self.requests[text] = request
            self._asked.notify_all()
        line = self._line(text)
        while (event := await line.get()) is not None:
            yield event

    def _line(self, text: str) -> asyncio.Queue[ModelEvent | None]:
        return self._lines.setdefault(text, asyncio.Queue())


def last_said(request: ModelRequest) -> str:
    turn = next(turn for turn in reversed(request.history) if isinstance(turn, UserTurn))
    return "".join(part.text for part in turn.content if isinstance(part, TextPart))


def begins(text: str) -> list[ModelEvent]:
    return [TextStarted(0), Delta(0, text)]


def goes_on(text: str) -> list[ModelEvent]:
    return [Delta(0, text)]


def ends() -> list[ModelEvent]:
    return [TextEnded(0), Finished(USAGE, StopReason.END_TURN)]
