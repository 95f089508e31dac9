"""What this process lately heard of one tenant's list. Pure: no clock, no I/O; `feed.py` does the rest.

A bounded tail of items, into which each subscriber is a cursor, and the newest version known of each conversation that changed lately:
an older one that arrives late is skipped, one above it that never arrived is missing.
"""

from collections import deque
from collections.abc import Collection
from itertools import islice

from vocabulary.lists import ListCaughtUp, ListChange, ListItem, ListVersion, merged


class ListTail:
    """`end`: how many items there have been. Times are any clock's that only goes forward."""

    def __init__(self, tenant: str, *, size: int) -> None:
        self.end = 0
        self._tenant = tenant
        self._items: deque[ListItem] = deque(maxlen=size)
        self._versions: dict[str, tuple[int, float]] = {}

    def offer(self, item: ListItem, *, now: float) -> bool:
        """False: something newer is known of that conversation."""
        if isinstance(item, ListChange):
            if item.version <= self._version(item.conversation_id):
                return False
            self._versions[item.conversation_id] = item.version, now
        self._items.append(item)
        self.end += 1
        return True

    def after(self, cursor: int) -> list[ListItem]:
        """What came since, merged. Who has fallen off the tail is told that, and stands at its end."""
        behind = self.end - cursor
        if behind > len(self._items):
            return [ListCaughtUp(self._tenant)]
        return merged(islice(self._items, len(self._items) - behind, None))

    def misses(self, found: Collection[ListVersion]) -> bool:
        """Whether anything that the database has was never heard of."""
        return any(stored.version > self._version(stored.conversation_id) for stored in found)

    def learn(self, found: Collection[ListVersion], *, now: float) -> None:
        """What was read counts as heard."""
        for stored in found:
            if stored.version > self._version(stored.conversation_id):
                self._versions[stored.conversation_id] = stored.version, now

    def forget(self, *, before: float) -> None:
        """Versions that were learnt so long ago that nobody compares with them any more."""
        self._versions = {id_: known for id_, known in self._versions.items() if known[1] >= before}

    def _version(self, conversation_id: str) -> int:
        """0: nothing was ever told of it."""
        return self._versions.get(conversation_id, (0, 0.0))[0]
