"""How long after its commit a delta is in the hands of a client: 20 conversations at 50 a second each, written here, served elsewhere.

The writer and the client are in this process, so that one clock measures both; between them are Redis, a server's process and its sockets.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from bench.append import held, register
from bench.client import Socket, visiting
from bench.figures import Figure, percentiles
from bench.ground import Ground
from bench.server import serving
from bench.speakers import WORD
from db.engine import Database
from runs.writing.pen import Pen
from runs.writing.writer import Writer
from runs.writing.writes import Append
from streams.redis_bus import RedisBus
from tests.rig import rig
from tests.streams.buses import running
from vocabulary.events import Event
from vocabulary.ids import Noun, new_id
from vocabulary.lists import ListItem
from vocabulary.messages import MessageType

CONVERSATIONS = 20
PER_S = 50
WARM_UP = 50
MEASURED = 500
LONGEST_S = 120.0

Times = dict[tuple[str, int], float]
"""By conversation and sequence."""


class NotingBus(RedisBus):
    """Remembers when each event was handed over, which is as soon as its commit is known."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.committed: Times = {}

    def publish(self, events: Sequence[Event], lists: Sequence[ListItem] = ()) -> None:
        now = time.perf_counter()
        self.committed.update(((event.conversation_id, event.sequence), now) for event in events)
        super().publish(events, lists)


async def delivery(ground: Ground) -> list[Figure]:
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(ground.servers())
        database = Database.open(servers.database_url)
        stack.push_async_callback(database.close)
        bus = await stack.enter_async_context(running(NotingBus(servers.redis_url)))
        parley = await stack.enter_async_context(rig(database, bus=bus, works=False))
        server = await stack.enter_async_context(serving(servers.database_url, REDIS_URL=servers.redis_url))
        client = await stack.enter_async_context(visiting(server.url))
        await register(parley)
        writer = Writer(parley.engine)
        pens = [await held(parley, writer) for _ in range(CONVERSATIONS)]
        sockets = [await stack.enter_async_context(client.socket()) for _ in pens]
        seen: Times = {}
        async with asyncio.timeout(LONGEST_S), asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(writer.run(), name="writer")
            async with asyncio.TaskGroup() as people:
                for pen, socket in zip(pens, sockets, strict=True):
                    await socket.follow(pen.conversation_id, deltas="ALL")
                    await socket.until("CaughtUp")
                    people.create_task(_watch(socket, pen.conversation_id, seen), name="client")
                started, busy, ours = time.perf_counter(), server.cpu_s(), time.process_time()
                await asyncio.gather(*(_speak(pen, number) for number, pen in enumerate(pens)))
                elapsed = time.perf_counter() - started
                busy, ours = server.cpu_s() - busy, time.process_time() - ours
            writing.cancel()
    late = [at - bus.committed[key] for key, at in seen.items()]
    return [
        Figure("events written", CONVERSATIONS * (WARM_UP + MEASURED) / elapsed, "/s"),
        *percentiles("commit to client", late),
        Figure("server's processor in use", busy / elapsed * 100, "%"),
        Figure("the writer's and the clients' processor in use", ours / elapsed * 100, "%"),
    ]


async def _speak(pen: Pen, number: int) -> None:
    """Two texts take turns, so that each delta is an event of its own; no two conversations speak at the same moment."""
    texts = new_id(Noun.MESSAGE), new_id(Noun.MESSAGE)
    loop = asyncio.get_running_loop()
    began = loop.time() + number / PER_S / CONVERSATIONS
    for count in range(WARM_UP + MEASURED):
        await asyncio.sleep(began + count / PER_S - loop.time())
        pen.write(Append(texts[count % 2], MessageType.ASSISTANT, None, count // 2 * len(WORD), WORD))
    await pen.flush()


async def _watch(socket: Socket, conversation_id: str, seen: Times) -> None:
    for count in range(WARM_UP + MEASURED):
        _, item = await socket.item()
        if count >= WARM_UP:
            seen[conversation_id, item["sequence"]] = time.perf_counter()
