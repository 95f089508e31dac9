"""The feed of a tenant's conversation list, for sidebars: one topic per tenant and process, shared by all its subscribers.

Whoever changes what lists show announces the row with the commit (`log.Transaction.list_changed`), so that a subscriber costs no query.
Nothing is stored, and there is no counter for a whole tenant, which would make its sends wait for each other: where a conversation's feed
finds a hole and fills it, this one only notices that something may be missing and says so; then the client queries its list again.

It may be missing when the bus says so, when a subscriber is slower than the tail is long, and when the check finds a version that was
never announced: one query for all tenants of the process, now and then, and every second while a topic is not attached.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog

from db import conversations
from db.engine import Database, DatabaseError
from streams.bus import Bus, list_topic
from streams.list_tail import ListTail
from streams.log import Clock
from streams.patience import patiently
from vocabulary.lists import ListCaughtUp, ListItem, ListVersion

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedLimits:
    """`window_s`: how far back a check looks, by far more than the clocks of replicas may differ. `patience_s`: how long an announcement
    may be on its way before it is missed.
    """

    tail_items: int = 1024
    attach_s: float = 1.0
    check_s: float = 30.0
    unattached_check_s: float = 1.0
    patience_s: float = 1.0
    window_s: float = 120.0
    linger_s: float = 30.0


class Topic:
    """One tenant's list, as far as this process follows it."""

    def __init__(self, tenant: str, limits: FeedLimits) -> None:
        self.tenant = tenant
        self.tail = ListTail(tenant, size=limits.tail_items)
        self.subscribers = 0
        self.idle_since = 0.0
        self.begun = False
        self.lock = asyncio.Lock()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Waits for the tail to grow."""
        await self._changed.wait()

    def take(self, item: ListItem) -> None:
        if self.tail.offer(item, now=_now()):
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()


class Feed:
    """Start `run()` in a task of its own before following anything."""

    def __init__(self, database: Database, bus: Bus, limits: FeedLimits, clock: Clock) -> None:
        self._database = database
        self._bus = bus
        self._limits = limits
        self._clock = clock
        self._topics: dict[str, Topic] = {}
        self._rung = asyncio.Event()
        self._checked_at = 0.0
        bus.listen_to_lists(self)

    async def follow(self, tenant: str, *, agent_id: str | None = None) -> AsyncGenerator[ListItem]:
        """First and after every doubt a `ListCaughtUp`: whoever queries the list after it and applies what follows has all there is.

        What comes faster than it is taken is merged. Never ends by itself. `agent_id`: only conversations with this agent.
        """
        async with self._topic(tenant) as topic:
            cursor = topic.tail.end
            yield ListCaughtUp(tenant)
            while True:
                items = topic.tail.after(cursor)
                if not items:
                    await topic.changed()
                    continue
                cursor = topic.tail.end
                for item in items:
                    if agent_id is None or isinstance(item, ListCaughtUp) or item.agent_id == agent_id:
                        yield item

    @asynccontextmanager
    async def _topic(self, tenant: str) -> AsyncGenerator[Topic]:
        topic = self._topics.setdefault(tenant, Topic(tenant, self._limits))
        topic.subscribers += 1
        try:
            async with topic.lock:
                if not topic.begun:
                    await self._begin(topic)
            yield topic
        finally:
            topic.subscribers -= 1
            topic.idle_since = _now()

    async def _begin(self, topic: Topic) -> None:
        """What changed before we could hear of it is learnt now: nobody is told of it who has not queried the list yet."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.attach_s):
                await self._bus.attach(list_topic(topic.tenant))
        recent = await patiently(lambda: self._recent([topic]), every_s=self._limits.unattached_check_s)
        topic.tail.learn(recent, now=_now())
        topic.begun = True
        if not self._all_attached():
            self._rung.set()

    # ---- what the bus tells

    def heard(self, item: ListItem) -> None:
        if topic := self._topics.get(item.tenant):
            topic.take(item)

    def doubt(self, tenants: Collection[str]) -> None:
        for tenant in tenants:
            self.heard(ListCaughtUp(tenant))
        self._rung.set()

    # ---- what the database tells

    async def run(self) -> None:
        """Until cancelled: compares what was heard with what is stored."""
        self._checked_at = _now()
        while True:
            await self._pause()
            self.detach_idle(_now())
            try:
                await self.check()
            except DatabaseError as error:
                log.warning("list check failed; trying again", error=str(error))
            if not self._all_attached():
                self._rung.set()

    async def _pause(self) -> None:
        """A long one, and a short one after it has been rung that announcements are not certain to arrive."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.check_s * random.uniform(0.8, 1.2)):
                await self._rung.wait()
            self._rung.clear()
            await asyncio.sleep(self._limits.unattached_check_s)

    def _all_attached(self) -> bool:
        return all(self._bus.is_attached(list_topic(topic.tenant)) for topic in self._followed())

    def _followed(self) -> list[Topic]:
        return [topic for topic in self._topics.values() if topic.begun and topic.subscribers]

    async def check(self) -> None:
        """One query, whatever the number of tenants and subscribers; none when there are none."""
        topics = self._followed()
        found = await self._recent(topics)
        now = _now()
        if now - self._checked_at > self._limits.window_s / 2:
            self.doubt([topic.tenant for topic in topics])  # for so long the database was away that the window may not reach back
        self._checked_at = now
        for topic in self._topics.values():
            topic.tail.forget(before=now - 2 * self._limits.window_s)
        await self._compare(topics, found)

    async def _compare(self, topics: Sequence[Topic], found: Sequence[ListVersion]) -> None:
        stored = {topic.tenant: [version for version in found if version.tenant == topic.tenant] for topic in topics}
        late = [topic for topic in topics if topic.tail.misses(stored[topic.tenant])]
        if any(self._bus.is_attached(list_topic(topic.tenant)) for topic in late):
            await asyncio.sleep(self._limits.patience_s)  # what was committed a moment ago may still be on its way
        for topic in late:
            if topic.tail.misses(stored[topic.tenant]):
                topic.tail.learn(stored[topic.tenant], now=_now())
                topic.take(ListCaughtUp(topic.tenant))

    async def _recent(self, topics: Sequence[Topic]) -> list[ListVersion]:
        if not topics:
            return []
        async with self._database.read() as connection:
            since = self._clock() - timedelta(seconds=self._limits.window_s)
            return await conversations.list_versions(connection, [topic.tenant for topic in topics], since=since)

    def detach_idle(self, now: float) -> None:
        for tenant, topic in list(self._topics.items()):
            if not topic.subscribers and now - topic.idle_since >= self._limits.linger_s:
                del self._topics[tenant]
                self._bus.detach(list_topic(tenant))


def _now() -> float:
    return asyncio.get_running_loop().time()
