"""Buses for tests: one whose announcements arrive when a test says so, a real one run for a while, and an ear that remembers."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar
from uuid import uuid4

from streams.bus import Announcement, Bus, MemoryBus
from streams.redis_bus import RedisBus
from streams.redis_line import RedisLimits
from vocabulary.events import Event
from vocabulary.lists import ListItem

DEADLINE_S = 20

B = TypeVar("B", bound=Bus)


class HeldBus(MemoryBus):
    """Holds every announcement: they arrive late, in the wrong order, twice, or never. What is not attached then does not hear it."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, Event] = {}

    def publish(self, events: Sequence[Event], lists: Sequence[ListItem] = ()) -> None:  # noqa: ARG002 - of lists nothing arrives
        self.held |= {event.sequence: event for event in events}

    def arrive(self, sequence: int) -> None:
        """It may arrive again: nothing is forgotten."""
        super().publish([self.held[sequence]])


class Ear:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.heard_of: dict[str, list[Announcement]] = {}
        self.doubted: list[str] = []
        self._rung = asyncio.Event()

    def heard(self, announcement: Announcement) -> None:
        self.heard_of.setdefault(announcement.conversation_id, []).append(announcement)
        self._rung.set()

    def doubt(self, topics: Collection[str]) -> None:
        self.doubted.extend(topics)
        self._rung.set()

    def numbers(self, topic: str) -> list[int]:
        return [announcement.sequence for announcement in self.heard_of.get(topic, [])]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Looked at after whatever it hears."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._rung.clear()
                await self._rung.wait()

    async def hears(self, topic: str, sequence: int) -> None:
        await self.until(lambda: sequence in self.numbers(topic))


class ListEar:
    """One for lists."""

    def __init__(self) -> None:
        self.items: list[ListItem] = []
        self.doubted: list[str] = []
        self._rung = asyncio.Event()

    def heard(self, item: ListItem) -> None:
        self.items.append(item)
        self._rung.set()

    def doubt(self, tenants: Collection[str]) -> None:
        self.doubted.extend(tenants)
        self._rung.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._rung.clear()
                await self._rung.wait()


@asynccontextmanager
async def running(bus: B) -> AsyncGenerator[B]:
    machine = asyncio.create_task(bus.run(), name="bus")
    try:
        yield bus
    finally:
        machine.cancel()
        with suppress(asyncio.CancelledError):
            await machine


def redis_bus(url: str, *, cluster: bool = False, limits: RedisLimits | None = None, prefix: str | None = None) -> RedisBus:
    """On channels of its own, unless it is told whose."""
    return RedisBus(url, cluster=cluster, prefix=prefix or f"parley-test-{uuid4().hex}:", limits=limits)
