"""The hub: one topic per followed conversation and process, shared by all its subscribers.

A topic keeps a bounded tail of recent events; each subscriber is a cursor into it, so a subscriber costs no queue and a slow one no
memory. The hub attaches topics to the bus, fills the holes that announcements leave, compares tails with their heads (one query for
all topics: of the quiet ones now and then, of those in doubt every second until the doubt is gone), and lets a topic linger before
it detaches.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog

from db import events, heads
from db.engine import Database, DatabaseError
from streams.bus import Announcement, Bus
from streams.patience import patiently
from streams.tail import Tail
from telemetry.metrics import Metrics
from vocabulary.events import DeltaMode, Event

log = structlog.get_logger()

T = TypeVar("T")


class NoSuchConversation(Exception):
    """Its head is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLimits:
    """`attach_s`: after so long a join goes on without the bus."""

    tail_events: int = 1024
    page_events: int = 500
    concurrent_reads: int = 4
    attach_s: float = 1.0
    head_check_s: float = 30.0
    doubt_check_s: float = 1.0
    linger_s: float = 30.0


class Topic:
    """One conversation, as far as this process follows it."""

    def __init__(self, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        self.tail = Tail(0, size=0)
        self.subscribers = 0
        self.idle_since = 0.0
        self.begun = False
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

    def __init__(self, database: Database, bus: Bus, limits: HubLimits, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._database = database
        self._bus = bus
        self._limits = limits
        self._topics: dict[str, Topic] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._reads = asyncio.Semaphore(limits.concurrent_reads)
        self._doubted: set[str] = set()
        self._compared: set[str] = set()  # of the doubted, those that are being compared with their heads
        self._in_doubt = asyncio.Event()
        bus.listen(self)
        self._bind_metrics()

    def _bind_metrics(self) -> None:
        self.metrics.topics.set_function(lambda: len(self._topics))
        self.metrics.subscribers.set_function(lambda: sum(topic.subscribers for topic in list(self._topics.values())))
        self.metrics.topics_in_doubt.set_function(lambda: self.in_doubt)

    @property
    def in_doubt(self) -> int:
        """How many topics may have missed something, as far as anybody knows."""
        return len(self._doubted | self._compared)

    async def run(self) -> None:
        """Until cancelled: two machines that compare heads, and the owner of the tasks that fill holes."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._settle_doubts(), name="doubts")
            try:
                await self._look_after_quiet()
            finally:
                self._tasks = None  # an announcement that still comes must not fail for it: its writer has committed

    async def _look_after_quiet(self) -> None:
        while True:
            await asyncio.sleep(self._limits.head_check_s * random.uniform(0.8, 1.2))
            self.detach_idle(asyncio.get_running_loop().time())
            try:
                await self.check_heads()
            except DatabaseError as error:
                log.warning("head check failed", error=str(error))

    async def _settle_doubts(self) -> None:
        """Stands still while all is well. A doubt stays until a check has succeeded on an attached topic."""
        while True:
            await self._in_doubt.wait()
            self._in_doubt.clear()
            self._compared, self._doubted = self._doubted & self._topics.keys(), set()
            try:
                await self.check_heads(self._compared)
                self._doubted |= {id_ for id_ in self._compared if not self._is_live(id_)}
            except DatabaseError as error:
                log.warning("head check failed; trying again", error=str(error))
                self._doubted |= self._compared
            self._compared = set()
            await asyncio.sleep(self._limits.doubt_check_s)
            if self._doubted:
                self._in_doubt.set()

    def _is_live(self, conversation_id: str) -> bool:
        topic = self._topics.get(conversation_id)
        return topic is None or (topic.begun and self._bus.is_attached(conversation_id))

    @asynccontextmanager
    async def topic(self, conversation_id: str) -> AsyncGenerator[Topic]:
        """Its tail begins at a head read after the bus had confirmed, so nothing lies between tail and log; or else it begins in doubt."""
        topic = self._topics.setdefault(conversation_id, Topic(conversation_id))
        topic.subscribers += 1
        try:
            async with topic.lock:
                if not topic.begun:
                    await self._begin(topic)
            yield topic
        finally:
            topic.subscribers -= 1
            topic.idle_since = asyncio.get_running_loop().time()

    async def _begin(self, topic: Topic) -> None:
        attached = await self._attach(topic)
        position = await self.head_of(topic.conversation_id)
        topic.tail = Tail(position, size=self._limits.tail_events)
        topic.begun = True
        if not attached:
            self.doubt([topic.conversation_id])

    async def _attach(self, topic: Topic) -> bool:
        """False: the bus is away; it will say when it is back."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.attach_s):
                await self._bus.attach(topic.conversation_id)
                return True
        return False

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer, asked for as often as a doubt is looked at."""
        return await patiently(ask, every_s=self._limits.doubt_check_s)

    async def head_of(self, conversation_id: str) -> int:
        found = await self.patiently(lambda: self._positions([conversation_id]))
        if conversation_id not in found:
            raise NoSuchConversation(conversation_id)
        return found[conversation_id]

    async def _positions(self, conversation_ids: Collection[str]) -> dict[str, int]:
        async with self._reads, self._database.read() as connection:
            return await heads.positions(connection, conversation_ids)

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

    def heard(self, announcement: Announcement) -> None:
        """What the bus tells: taken when it is the next, else a reason to read the log."""
        topic = self._topics.get(announcement.conversation_id)
        if topic is None or not topic.begun:
            return
        if announcement.event is None:
            topic.tail.hear_of(announcement.sequence)
        elif topic.tail.offer(announcement.event):
            self._note_delivery(announcement.event)
            topic.wake()
            return
        self._fill_soon(topic)

    def _note_delivery(self, event: Event) -> None:
        self.metrics.delivery.observe(max(0.0, time.time() - event.occurred_at.timestamp()))

    def doubt(self, topics: Collection[str]) -> None:
        """What the bus is not sure of is compared with its heads."""
        self.metrics.topics_doubted.inc(len(topics))
        self._doubted.update(topics)
        self._in_doubt.set()

    def _fill_soon(self, topic: Topic) -> None:
        if self._tasks is not None and topic.tail.incomplete and not topic.filling:
            topic.filling = True
            self._tasks.create_task(self._fill(topic), name=f"fill {topic.conversation_id}")

    async def _fill(self, topic: Topic) -> None:
        try:
            while topic.tail.incomplete:
                self.metrics.log_refills.inc()
                before = topic.tail.position
                page = await self.read(topic.conversation_id, after=before, mode=DeltaMode.ALL)
                topic.tail.fill(page.events, page.end)
                topic.wake()
                if topic.tail.position == before:
                    log.warning("the log ends before what was told of it", conversation_id=topic.conversation_id, head=before)
                    self.doubt([topic.conversation_id])  # it was lost with its database: not read again and again, but now and then
                    break
        except DatabaseError as error:
            log.warning("a hole could not be filled; trying again", conversation_id=topic.conversation_id, error=str(error))
            self.doubt([topic.conversation_id])
        except NoSuchConversation:
            log.warning("a conversation that is followed is gone", conversation_id=topic.conversation_id)
        finally:
            topic.filling = False

    async def check_heads(self, among: Collection[str] | None = None) -> None:
        """Finds announcements that were lost with nothing after them. One query, whatever the number of topics and subscribers.

        None: all that have subscribers.
        """
        chosen = [topic for id_, topic in self._topics.items() if (topic.subscribers if among is None else id_ in among)]
        followed = {topic.conversation_id: topic for topic in chosen if topic.begun}
        if not followed:
            return
        self.metrics.head_checks.inc()
        async with self._database.read() as connection:
            found = await heads.positions(connection, followed)
        for conversation_id, position in found.items():
            followed[conversation_id].tail.hear_of(position)
            self._fill_soon(followed[conversation_id])

    def detach_idle(self, now: float) -> None:
        for id_, topic in list(self._topics.items()):
            if not topic.subscribers and now - topic.idle_since >= self._limits.linger_s:
                del self._topics[id_]
                self._bus.detach(id_)
