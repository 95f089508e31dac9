"""What an old snapshot costs those who append: a dump holds one open for a minute, so that no dead version of a head can be removed.

Each delta is its own batch, committed before the next, so that a head gets as many versions as it can. Measured are the last seconds.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import URL

from bench.append import held, register
from bench.figures import Figure
from bench.ground import POSTGRESQL, Ground
from bench.speakers import WORD
from llm.registry import ModelRegistry
from runs.pen import Pen
from runs.writer import Writer
from runs.writes import Append
from tests.rig import Rig
from vocabulary.ids import Noun, new_id
from vocabulary.messages import MessageType

LASTS_S = 60.0
MEASURED_S = 10.0
MANY = 50


async def snapshot(ground: Ground) -> list[Figure]:
    figures: list[Figure] = []
    for conversations in (1, MANY):
        async with ground.engine(POSTGRESQL, ModelRegistry(demo_delay_ms=0)) as parley:
            await register(parley)
            label = f"{conversations} conversation{'s' if conversations > 1 else ''}"
            without = await _per_s(parley, conversations)
            async with _dump(parley.database.url):
                beside = await _per_s(parley, conversations)
            figures += [Figure(label, without, "/s"), Figure(f"{label}, beside a dump", beside, "/s", label)]
    return figures


@asynccontextmanager
async def _dump(url: URL) -> AsyncGenerator[None]:
    """A transaction as `pg_dump` opens it, which has taken its snapshot."""
    connection = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.fetchval("SELECT count(*) FROM heads")
            yield
    finally:
        await connection.close()


async def _per_s(parley: Rig, conversations: int) -> float:
    writer = Writer(parley.engine)
    pens = [await held(parley, writer) for _ in range(conversations)]
    writing = asyncio.create_task(writer.run(), name="writer")
    counted = await asyncio.gather(*map(_append, pens))
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
