"""Models that cost next to nothing, so that what is measured is ours: one that never pauses, and one that is told every word."""

import asyncio
from collections.abc import AsyncGenerator

from llm.model import Delta, Finished, ModelEvent, ModelRequest, TextEnded, TextStarted, UserTurn
from vocabulary.messages import TextPart
from vocabulary.runs import StopReason, Usage

WORD = " word"

_FINISHED = Finished(Usage(requests=1), StopReason.END_TURN)


class Torrent:
    """Answers with as many words as the last message says. Between two words others get their turn, and no more."""

    handle = "bench/torrent"

    def __init__(self) -> None:
        self.barrier = asyncio.Barrier(1)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        """The first word is said when all parties of the barrier have come."""
        yield TextStarted(0)
        await self.barrier.wait()
        for _ in range(_asked(request)):
            await asyncio.sleep(0)
            yield Delta(0, WORD)
        yield TextEnded(0)
        yield _FINISHED


class Dictated:
    """Says each word when it is given, and ends at None."""

    handle = "bench/dictated"

    def __init__(self) -> None:
        self.words: asyncio.Queue[str | None] = asyncio.Queue()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:  # noqa: ARG002 it is not asked
        yield TextStarted(0)
        while (word := await self.words.get()) is not None:
            yield Delta(0, word)
        yield TextEnded(0)
        yield _FINISHED


def _asked(request: ModelRequest) -> int:
    match request.history[-1]:
        case UserTurn(content=(TextPart(text),)):
            return int(text)
        case other:
            raise ValueError(other)
