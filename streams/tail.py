"""The merge of what was read and what was announced. Pure: no clock, no I/O; `hub.py` does what it asks for.

A tail is the end of one conversation's log as this process knows it: complete from `floor` (exclusive) to `position` (inclusive),
whatever was announced in which order. An announcement below the next number is skipped, the next is taken, one above it
shows a hole, which only the log can fill.
"""

from collections import deque
from collections.abc import Sequence

from vocabulary.events import Event


class Tail:
    def __init__(self, position: int, *, size: int) -> None:
        self.position = position
        self.floor = position
        self._size = size
        self._heard = position
        self._events: deque[Event] = deque()

    @property
    def incomplete(self) -> bool:
        """Whether numbers beyond `position` are known to exist: read the log after `position` and `fill`."""
        return self._heard > self.position

    def hear_of(self, sequence: int) -> None:
        """The log is known to reach this number."""
        self._heard = max(self._heard, sequence)

    def offer(self, event: Event) -> bool:
        """One announcement. True when it was the next and is now part of the tail."""
        self.hear_of(event.sequence)
        if event.sequence != self.position + 1:
            return False
        self._take(event)
        self.position = event.sequence
        return True

    def fill(self, events: Sequence[Event], end: int) -> None:
        """What the log has after some position at or below ours, complete up to `end` (numbers may be missing: pruned)."""
        for event in events:
            if event.sequence > self.position:
                self._take(event)
                self.position = event.sequence
        self.position = max(self.position, end)
        self.hear_of(self.position)

    def after(self, cursor: int) -> list[Event] | None:
        """Everything known beyond a cursor, in order; None when the tail no longer reaches back to it."""
        if cursor < self.floor:
            return None
        found: list[Event] = []
        for event in reversed(self._events):
            if event.sequence <= cursor:
                break
            found.append(event)
        found.reverse()
        return found

    def _take(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) > self._size:
            self.floor = self._events.popleft().sequence
