"""How long after a send was acknowledged its run has started, in a worker that is another process and hears of it through a job.

It has started when that is committed and a subscriber here has been told.
"""

import asyncio
import time
from contextlib import AsyncExitStack, aclosing

from bench.figures import Figure, percentiles
from bench.ground import Ground
from db.engine import Database
from streams.redis_bus import RedisBus
from tests.rig import Rig, rig
from tests.runs.processes import worker
from tests.streams.buses import running
from vocabulary.events import CaughtUp, DeltaMode, RunChanged
from vocabulary.runs import RunStatus

TIMES = 100
AT_ONCE = 20


async def dispatch(ground: Ground) -> list[Figure]:
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(ground.servers())
        database = Database.open(servers.database_url)
        stack.push_async_callback(database.close)
        bus = await stack.enter_async_context(running(RedisBus(servers.redis_url)))
        parley = await stack.enter_async_context(rig(database, bus=bus, works=False))
        await stack.enter_async_context(worker(servers, LEASE_S="15", DEMO_DELAY_MS="0", LOG_LEVEL="WARNING"))
        for _ in range(AT_ONCE):
            await _once(parley)
        alone = [await _once(parley) for _ in range(TIMES)]
        together: list[float] = []
        for _ in range(TIMES // AT_ONCE):
            together += await asyncio.gather(*(_once(parley) for _ in range(AT_ONCE)))
    return [*percentiles("one after the other", alone), *percentiles(f"{AT_ONCE} at once", together)]


async def _once(parley: Rig) -> float:
    conversation = await parley.conversation()
    async with aclosing(parley.reader.follow(conversation.id, after=None, mode=DeltaMode.NONE)) as items:
        assert isinstance((await anext(items)).payload, CaughtUp)
        sent = await parley.say(conversation.id, "Hi")
        acknowledged = time.perf_counter()
        async for item in items:
            if isinstance(item.payload, RunChanged) and item.payload.status is RunStatus.RUNNING:
                break
        started = time.perf_counter()
    await parley.reader.wait_for_end(sent.run, seconds=20)
    return started - acknowledged
