"""Subscribers that run beside a test: each a task that folds what it is shown, and can be waited for. And a process for them to run in."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from db.engine import Database
from streams.bus import Bus, MemoryBus
from streams.hub import Hub, HubLimits
from streams.log import Log
from streams.reader import Reader
from tests.db.rows import stored_conversation
from tests.rig import utc_now
from tests.streams.client import Client
from tests.streams.telling import Teller
from vocabulary.events import DeltaMode, Item
from vocabulary.runs import Run

DEADLINE_S = 30

P = TypeVar("P")


@dataclass(slots=True)
class Watcher:
    """`held`: what its client held at each position. `over`: its stream was completed."""

    mode: DeltaMode
    client: Client
    items: list[Item] = field(default_factory=list[Item])
    held: dict[int, Client] = field(default_factory=dict[int, Client])
    over: bool = False
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def see(self, follow: AsyncGenerator[Item]) -> None:
        self.held[self.client.position] = self.client.reconnected()
        async with aclosing(follow) as items:
            async for item in items:
                await self._take(item)
        async with self._progress:
            self.over = True
            self._progress.notify_all()

    async def _take(self, item: Item) -> None:
        async with self._progress:
            self.items.append(item)
            self.client.take(item)
            self.held[self.client.position] = self.client.reconnected()
            self._progress.notify_all()

    def told(self, kind: type[P]) -> list[P]:
        """The payloads of one kind."""
        return [item.payload for item in self.items if isinstance(item.payload, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S), self._progress:
            await self._progress.wait_for(condition)

    async def reached(self, position: int) -> None:
        await self.until(lambda: self.client.position >= position)

    async def caught_up(self) -> None:
        await self.until(lambda: self.client.caught_up_at is not None)

    async def ended(self) -> None:
        await self.until(lambda: self.over)


class Audience:
    """Who follows one conversation. Make one with `audience`."""

    def __init__(self, reader: Reader, conversation_id: str) -> None:
        self._reader = reader
        self._conversation_id = conversation_id
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def watch(
        self,
        mode: DeltaMode = DeltaMode.ALL,
        *,
        client: Client | None = None,
        after: int | None = 0,
        run: Run | None = None,
    ) -> Watcher:
        """From where `client` stands, else as one who knows nothing and asks for what is after `after`."""
        if client is not None:
            after = client.position
        watcher = Watcher(mode, client or Client(after or 0))
        follow = self._reader.follow(self._conversation_id, after=after, mode=mode, run=run)
        self._tasks[id(watcher)] = asyncio.create_task(watcher.see(follow), name=f"watcher {len(self._tasks)}")
        return watcher

    async def leave(self, watcher: Watcher) -> None:
        """Raises what the watcher failed with, if it did."""
        task = self._tasks.pop(id(watcher))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        for result in await asyncio.gather(*tasks.values(), return_exceptions=True):
            if isinstance(result, Exception):
                raise result


@asynccontextmanager
async def audience(reader: Reader, conversation_id: str) -> AsyncGenerator[Audience]:
    """Whoever failed by itself fails the test."""
    made = Audience(reader, conversation_id)
    try:
        yield made
    finally:
        await made.close()


@dataclass(frozen=True, slots=True)
class Process:
    """What follows and what writes, without an engine."""

    database: Database
    hub: Hub
    reader: Reader
    log: Log

    async def teller(self) -> Teller:
        """Of a new conversation."""
        return Teller(self.log, (await stored_conversation(self.database)).id)


@asynccontextmanager
async def process(
    database: Database, bus: Bus | None = None, *, limits: HubLimits | None = None, max_replay: int = 10_000
) -> AsyncGenerator[Process]:
    bus = bus or MemoryBus()
    hub = Hub(database, bus, limits or HubLimits())
    running = asyncio.create_task(hub.run(), name="hub")
    try:
        reader = Reader(hub, database, max_replay=max_replay, clock=utc_now)
        yield Process(database, hub, reader, Log(database, bus, utc_now))
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
