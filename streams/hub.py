"""The hub: one topic per followed conversation and process, shared by all its subscribers.

A topic keeps a bounded tail of recent events; each subscriber is a cursor into it, so a subscriber costs no queue and a slow one no
memory. The hub attaches topics to the bus, fills the holes that announcements leave, checks quiet topics against their heads
(one query for all of them), and lets a topic linger before it detaches.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from db import events, heads
from db.engine import Database, DatabaseError
from streams.bus import Bus
from streams.tail import Tail
from vocabulary.events import DeltaMode, Event

log = structlog.get_logger()


class NoSuchConversation(Exception):
    """Its head is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLimits:
    tail_events: int = 1024
    page_events: int = 500
    concurrent_reads: int = 4
    head_check_s: float = 30.0
    linger_s: float = 30.0


class Topic:
    """One conversation, as far as this process follows it."""

    def __init__(self, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        self.tail = Tail(0, size=0)
        self.subscribers = 0
        self.idle_since = 0.0
        self.attached = False
        self.filling = False
        self.lock = asyncio.Lock()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Waits for the tail to grow."""
        await self._changed.wait()

    def wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Hub:
    """Start `run()` in a task of its own before following anything."""

    def __init__(self, database: Database, bus: Bus, limits: HubLimits) -> None:
        self._database = database
        self._bus = bus
        self._limits = limits
        self._topics: dict[str, Topic] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._reads = asyncio.Semaphore(limits.concurrent_reads)
        bus.listen(self._heard)

    async def run(self) -> None:
        """Until cancelled: the head check, and the owner of the tasks that fill holes."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as self._tasks:
            try:
                while True:
                    await asyncio.sleep(self._limits.head_check_s * random.uniform(0.8, 1.2))
                    try:
                        await self.check_heads()
                    except DatabaseError as error:
                        log.warning("head check failed", error=str(error))
                    await self.detach_idle(loop.time())
            finally:
                self._tasks = None  # an announcement that still comes must not fail for it: its writer has committed

    @asynccontextmanager
    async def topic(self, conversation_id: str) -> AsyncGenerator[Topic]:
        """The attached topic. Its tail begins at a head read after the bus had confirmed, so nothing lies between tail and log."""
        topic = self._topics.setdefault(conversation_id, Topic(conversation_id))
        topic.subscribers += 1
        try:
            async with topic.lock:
                if not topic.attached:
                    await self._attach(topic)
            yield topic
        finally:
            topic.subscribers -= 1
            topic.idle_since = asyncio.get_running_loop().time()

    async def _attach(self, topic: Topic) -> None:
        await self._bus.attach(topic.conversation_id)
        position = await self.head_of(topic.conversation_id)
        topic.tail = Tail(position, size=self._limits.tail_events)
        topic.attached = True

    async def head_of(self, conversation_id: str) -> int:
        async with self._reads, self._database.read() as connection:
            found = await heads.positions(connection, [conversation_id])
        if conversation_id not in found:
            raise NoSuchConversation(conversation_id)
        return found[conversation_id]

    async def read(self, conversation_id: str, *, after: int, mode: DeltaMode, run_id: str | None = None) -> events.LogPage:
        """One page of the log. All joins and refills of the process share a few places, so that a herd does not stampede the database."""
        async with self._reads, self._database.read() as connection:
            page = await events.read(connection, conversation_id, after=after, mode=mode, limit=self._limits.page_events, run_id=run_id)
        if page is None:
            raise NoSuchConversation(conversation_id)
        return page

    async def backlog(self, conversation_id: str, *, after: int, run_id: str | None, at_most: int) -> int:
        async with self._reads, self._database.read() as connection:
            return await events.backlog(connection, conversation_id, after=after, run_id=run_id, at_most=at_most)

    def _heard(self, event: Event) -> None:
        topic = self._topics.get(event.conversation_id)
        if topic is None or not topic.attached:
            return
        if topic.tail.offer(event):
            topic.wake()
        elif topic.tail.incomplete:
            self._fill_soon(topic)

    def _fill_soon(self, topic: Topic) -> None:
        if self._tasks is not None and not topic.filling:
            topic.filling = True
            self._tasks.create_task(self._fill(topic), name=f"fill {topic.conversation_id}")

    async def _fill(self, topic: Topic) -> None:
        try:
            while topic.tail.incomplete:
                page = await self.read(topic.conversation_id, after=topic.tail.position, mode=DeltaMode.ALL)
                topic.tail.fill(page.events, page.end)
                topic.wake()
        except (*DatabaseError, NoSuchConversation) as error:
            log.warning(
                "a hole could not be filled; the next head check tries again", conversation_id=topic.conversation_id, error=str(error)
            )
        finally:
            topic.filling = False

    async def check_heads(self) -> None:
        """Finds announcements that were lost with nothing after them. One query, whatever the number of topics and subscribers."""
        followed = {id_: topic for id_, topic in self._topics.items() if topic.attached and topic.subscribers}
        if not followed:
            return
        async with self._database.read() as connection:
            found = await heads.positions(connection, followed)
        for conversation_id, position in found.items():
            topic = followed[conversation_id]
            topic.tail.hear_of(position)
            if topic.tail.incomplete:
                self._fill_soon(topic)

    async def detach_idle(self, now: float) -> None:
        for topic in list(self._topics.values()):
            if topic.subscribers or now - topic.idle_since < self._limits.linger_s:
                continue
            async with topic.lock:
                if topic.subscribers:  # joined while we waited for the lock
                    continue
                await self._bus.detach(topic.conversation_id)
                topic.attached = False
                if not topic.subscribers:
                    self._topics.pop(topic.conversation_id, None)
