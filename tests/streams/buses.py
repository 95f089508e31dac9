"""A bus whose announcements arrive when a test says so: late, in the wrong order, twice, or never."""

from collections.abc import Sequence

from streams.bus import Listener
from vocabulary.events import Event


class HeldBus:
    """Holds every announcement. What arrives for a topic that is not attached is not heard, as on any bus."""

    def __init__(self) -> None:
        self.attached: set[str] = set()
        self.held: dict[int, Event] = {}
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def publish(self, events: Sequence[Event]) -> None:
        self.held |= {event.sequence: event for event in events}

    async def attach(self, topic: str) -> None:
        self.attached.add(topic)

    async def detach(self, topic: str) -> None:
        self.attached.discard(topic)

    def arrive(self, sequence: int) -> None:
        """It may arrive again: nothing is forgotten."""
        event = self.held[sequence]
        if self._listener is not None and event.conversation_id in self.attached:
            self._listener(event)
