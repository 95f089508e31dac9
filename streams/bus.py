"""The bus: a doorbell. It carries what was committed to the processes that listen; the log of record is the database.

Events have a topic for each conversation, changes of lists one for each tenant, and each of the two its own listener.

An announcement may be late, doubled or lost. That is a delay, never a loss: the hub sees the hole in the numbers, the bus says which
topics it is in doubt about, and the head check finds the rest. So does the feed for lists. Beside that the bus carries signals: a word
to one process, of no lasting worth.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from vocabulary.events import Event
from vocabulary.lists import ListItem

_LISTS = "list:"


def list_topic(tenant: str) -> str:
    """No conversation's id begins like it."""
    return _LISTS + tenant


def tenant_of(topic: str) -> str | None:
    """Whose list it is about; None: it is about a conversation."""
    return topic.removeprefix(_LISTS) if topic.startswith(_LISTS) else None


@dataclass(frozen=True, slots=True)
class Announcement:
    """`event` None: too large to travel, or not readable here; the log has it at this number."""

    conversation_id: str
    sequence: int
    event: Event | None


class Listener(Protocol):
    """Who is told; called in the event loop, must not wait."""

    def heard(self, announcement: Announcement) -> None:
        """Of an attached topic; in the order of publishing for each publisher and topic."""
        ...

    def doubt(self, topics: Collection[str]) -> None:
        """Announcements of these topics may have been lost, or (while they are not attached) are being lost."""
        ...


class ListListener(Protocol):
    """Who is told of lists; called in the event loop, must not wait."""

    def heard(self, item: ListItem) -> None:
        """Of an attached tenant; in the order of publishing for each publisher."""
        ...

    def doubt(self, tenants: Collection[str]) -> None:
        """As for conversations."""
        ...


@dataclass(slots=True)
class Listeners:
    """Who listens in this process, if anybody does."""

    to_events: Listener | None = None
    to_lists: ListListener | None = None

    def doubt(self, topics: Collection[str]) -> None:
        """Each is told of its own."""
        conversations = [topic for topic in topics if tenant_of(topic) is None]
        tenants = [tenant for topic in topics if (tenant := tenant_of(topic)) is not None]
        if self.to_events is not None and conversations:
            self.to_events.doubt(conversations)
        if self.to_lists is not None and tenants:
            self.to_lists.doubt(tenants)


@dataclass(frozen=True, slots=True, kw_only=True)
class BusStatus:
    """`connected`: whether announcements travel. `dropped`: given up while they did not. The rest counts from the start of the process."""

    connected: bool = True
    published: int = 0
    dropped: int = 0
    received: int = 0
    reconnects: int = 0


class Bus(Protocol):
    def listen(self, listener: Listener) -> None:
        """Before anything is attached. One listener per process."""
        ...

    def listen_to_lists(self, listener: ListListener) -> None:
        """As `listen`, for the topics of lists."""
        ...

    async def run(self) -> None:
        """Until cancelled: what keeps announcements travelling."""
        ...

    def publish(self, events: Sequence[Event], lists: Sequence[ListItem] = ()) -> None:
        """Announces what was just committed, together. Never waits and never fails: who writes must not be slowed by who listens."""
        ...

    async def attach(self, topic: str) -> None:
        """Returns once announcements of this topic are certain to arrive; waits for a bus that is away.

        The wish stays until `detach`, even if this is cancelled: a confirmation that nobody waits for any more is reported as a doubt.
        """
        ...

    def detach(self, topic: str) -> None: ...

    def is_attached(self, topic: str) -> bool:
        """Whether announcements arrive now, as far as anybody knows."""
        ...

    def heed(self, recipient: str, told: Callable[[str], None]) -> None:
        """From soon on `told` is called, in the event loop, with the subject of each signal to this recipient."""
        ...

    def unheed(self, recipient: str) -> None: ...

    def signal(self, recipient: str, subject: str) -> None:
        """A word to one process, wherever it is. Never waits and never fails, but may be lost: nothing may depend on it but promptness."""
        ...

    def status(self) -> BusStatus: ...


class MemoryBus:
    """For one process: announcing is calling."""

    def __init__(self) -> None:
        self._attached: set[str] = set()
        self._listeners = Listeners()
        self._recipients: dict[str, Callable[[str], None]] = {}
        self._published = self._received = 0

    def listen(self, listener: Listener) -> None:
        self._listeners.to_events = listener

    def listen_to_lists(self, listener: ListListener) -> None:
        self._listeners.to_lists = listener

    async def run(self) -> None:
        await asyncio.Event().wait()

    def publish(self, events: Sequence[Event], lists: Sequence[ListItem] = ()) -> None:
        self._published += len(events) + len(lists)
        self._tell_events(events)
        self._tell_lists(lists)

    def _tell_events(self, events: Sequence[Event]) -> None:
        if (listener := self._listeners.to_events) is None:
            return
        for event in events:
            if event.conversation_id in self._attached:
                self._received += 1
                listener.heard(Announcement(event.conversation_id, event.sequence, event))

    def _tell_lists(self, lists: Sequence[ListItem]) -> None:
        if (listener := self._listeners.to_lists) is None:
            return
        for item in lists:
            if list_topic(item.tenant) in self._attached:
                self._received += 1
                listener.heard(item)

    async def attach(self, topic: str) -> None:
        self._attached.add(topic)

    def detach(self, topic: str) -> None:
        self._attached.discard(topic)

    def is_attached(self, topic: str) -> bool:
        return topic in self._attached

    def heed(self, recipient: str, told: Callable[[str], None]) -> None:
        self._recipients[recipient] = told

    def unheed(self, recipient: str) -> None:
        self._recipients.pop(recipient, None)

    def signal(self, recipient: str, subject: str) -> None:
        if (told := self._recipients.get(recipient)) is not None:
            told(subject)

    def status(self) -> BusStatus:
        return BusStatus(published=self._published, received=self._received)
