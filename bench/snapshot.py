"""What an old snapshot costs those who append: a dump holds one open for a minute, so that no dead version of a head can be removed.

Each delta is its own batch, committed before the next, so that a head gets as many versions as it can. Two databases of one server are
written at the same time, one of which is dumped: whatever else slows the machine slows both. Measured are the last seconds.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Self

import asyncpg
from sqlalchemy import URL

from bench.append import held, register
from bench.figures import Figure
from bench.ground import POSTGRESQL, Ground
from bench.speakers import WORD
from llm.registry import ModelRegistry
from runs.writing.pen import Pen
from runs.writing.writer import Writer
from runs.writing.writes import Append
from tests.rig import Rig
from vocabulary.ids import Noun, new_id
from vocabulary.messages import MessageType

LASTS_S = 60.0
MEASURED_S = 10.0
MANY = 50


async def snapshot(ground: Ground) -> list[Figure]:
    figures: list[Figure] = []
    for conversations in (1, MANY):
        async with AsyncExitStack() as stack:
            alone, dumped = [await stack.enter_async_context(ground.engine(POSTGRESQL, ModelRegistry(demo_delay_ms=0))) for _ in range(2)]
            writers = [await _Writing.prepared(parley, conversations) for parley in (alone, dumped)]
            versions = await stack.enter_async_context(_dump(dumped.database.url))
            without, beside = await asyncio.gather(*(writer.per_s() for writer in writers))
            label = f"{conversations} conversation{'s' if conversations > 1 else ''}"
            figures += [
                Figure(label, without, "/s"),
                Figure(f"{label}, beside a dump", beside, "/s", label),
                Figure(f"{label}, versions of a head by then", await versions() / conversations, "each"),
            ]
    return figures


@asynccontextmanager
async def _dump(url: URL) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """A transaction as `pg_dump` opens it, which has taken its snapshot. Gives how many versions of heads there are."""
    connection = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))

    async def versions() -> int:
        return await connection.fetchval("SELECT n_live_tup + n_dead_tup FROM pg_stat_user_tables WHERE relname = 'heads'")

    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.fetchval("SELECT count(*) FROM heads")
            yield versions
    finally:
        await connection.close()


@dataclass(frozen=True, slots=True)
class _Writing:
    writer: Writer
    pens: list[Pen]

    @classmethod
    async def prepared(cls, parley: Rig, conversations: int) -> Self:
        await register(parley)
        writer = Writer(parley.engine)
        return cls(writer, [await held(parley, writer) for _ in range(conversations)])

    async def per_s(self) -> float:
        writing = asyncio.create_task(self.writer.run(), name="writer")
        counted = await asyncio.gather(*map(_append, self.pens))
        writing.cancel()
        await asyncio.wait({writing})
        return sum(counted) / MEASURED_S


async def _append(pen: Pen) -> int:
    """For so long; how many in the last seconds of it."""
    text, began, counted, offset = new_id(Noun.MESSAGE), time.perf_counter(), 0, 0
    while (elapsed := time.perf_counter() - began) < LASTS_S:
        pen.write(Append(text, MessageType.ASSISTANT, None, offset, WORD))
        await pen.flush()
        offset += len(WORD)
        counted += elapsed >= LASTS_S - MEASURED_S
    return counted
