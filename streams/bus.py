"""The bus: a doorbell. It carries committed events to the processes that listen; the log of record is the database.

An announcement may be late, doubled or lost. That is a delay, never a loss: the hub sees the hole in the numbers, or its head check does.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from vocabulary.events import Event

Listener = Callable[[Event], None]


class Bus(Protocol):
    def listen(self, listener: Listener) -> None:
        """Who is told of the events of attached topics; called in the event loop, in order per topic. One per process."""
        ...

    def publish(self, events: Sequence[Event]) -> None:
        """Announces what was just committed. Never waits and never fails: whoever writes must not be slowed by who listens."""
        ...

    async def attach(self, topic: str) -> None:
        """Returns once announcements of this conversation arrive."""
        ...

    async def detach(self, topic: str) -> None: ...


class MemoryBus:
    """For one process: announcing is calling."""

    def __init__(self) -> None:
        self._attached: set[str] = set()
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def publish(self, events: Sequence[Event]) -> None:
        if self._listener is None:
            return
        for event in events:
            if event.conversation_id in self._attached:
                self._listener(event)

    async def attach(self, topic: str) -> None:
        self._attached.add(topic)

    async def detach(self, topic: str) -> None:
        self._attached.discard(topic)
