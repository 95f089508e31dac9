"""A sidebar that runs beside a test: what it was told, to be waited for."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

from streams.feed import Feed
from vocabulary.conversations import Conversation
from vocabulary.lists import ListCaughtUp, ListChange, ListChangeKind, ListItem

DEADLINE_S = 30


@dataclass(slots=True)
class Sidebar:
    """`held`: the newest it was told of each conversation since it began."""

    items: list[ListItem] = field(default_factory=list[ListItem])
    held: dict[str, Conversation] = field(default_factory=dict[str, Conversation])
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def see(self, follow: AsyncGenerator[ListItem]) -> None:
        async with aclosing(follow) as items:
            async for item in items:
                async with self._progress:
                    self._take(item)
                    self._progress.notify_all()

    def _take(self, item: ListItem) -> None:
        self.items.append(item)
        if isinstance(item, ListChange):
            self.held.pop(item.conversation_id, None)
            if item.conversation is not None:
                self.held[item.conversation_id] = item.conversation

    @property
    def doubts(self) -> int:
        """How often it was told to query the list, after the first time."""
        return sum(isinstance(item, ListCaughtUp) for item in self.items) - 1

    def changes(self, conversation_id: str) -> list[ListChangeKind]:
        return [item.kind for item in self.items if isinstance(item, ListChange) and item.conversation_id == conversation_id]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S), self._progress:
            await self._progress.wait_for(condition)

    async def caught_up(self) -> None:
        await self.until(lambda: bool(self.items))
        assert isinstance(self.items[0], ListCaughtUp)

    async def doubts_more_than(self, before: int) -> None:
        await self.until(lambda: self.doubts > before)

    async def hears_of(self, conversation_id: str, kind: ListChangeKind) -> None:
        await self.until(lambda: kind in self.changes(conversation_id))


@asynccontextmanager
async def sidebar(feed: Feed, *, tenant: str = "default", agent_id: str | None = None) -> AsyncGenerator[Sidebar]:
    """Caught up. Whatever it fails with fails the test."""
    made = Sidebar()
    task = asyncio.create_task(made.see(feed.follow(tenant, agent_id=agent_id)), name="sidebar")
    try:
        await made.caught_up()
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
