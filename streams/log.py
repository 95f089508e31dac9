"""Writing to the log: numbers are taken and events stored in the transaction that writes the rows they are about; announced after commit.

Whatever else must wait for the commit (waking a worker) is hung on the same transaction.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

from db import events, heads
from db.engine import Connection, Database
from db.heads import Head
from streams.bus import Bus
from telemetry.metrics import Metrics
from vocabulary.conversations import Conversation
from vocabulary.events import Event, StoredPayload
from vocabulary.lists import ListCaughtUp, ListChange, ListChangeKind, ListItem

Clock = Callable[[], datetime]


class Transaction:
    """One transaction of one command. Heads are locked in id order by whoever needs several.

    `now`: when it had its first lock, so that times rise with the numbers of a log, as far as clocks do.
    """

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self.connection = connection
        self.now = clock()
        self._clock = clock
        self.appended: list[Event] = []
        self.list_items: list[ListItem] = []
        self.after_commit: list[Callable[[], None]] = []
        self.nonce: str | None = None  # what the log will tell this transaction by, for who may not hear of its commit
        self._heads: dict[str, Head] = {}
        self._as_locked: dict[str, Head] = {}

    async def lock(self, conversation_id: str) -> Head | None:
        """The head, locked until the end of the transaction and saved then if it was changed; None: there is no such conversation."""
        if conversation_id not in self._heads:
            head = await heads.lock(self.connection, conversation_id)
            if head is None:
                return None
            if not self._heads:
                self.locked()
            self._heads[conversation_id] = head
            self._as_locked[conversation_id] = replace(head)
        return self._heads[conversation_id]

    def locked(self) -> None:
        """Its first heads are: whoever had the locks until now has told a time, too, and comes first."""
        self.now = self._clock()

    async def create_head(self, conversation_id: str) -> Head:
        head = Head(conversation_id=conversation_id)
        await heads.create(self.connection, head)
        self._heads[conversation_id] = head
        return head

    def append(self, head: Head, sequence: int, payload: StoredPayload, *, run_id: str | None = None) -> None:
        """An event at a number taken from this head. The rows it shows must be true at that number."""
        self.appended.append(Event(head.conversation_id, sequence, self.now, run_id, payload))

    def extend(self, appended: Sequence[Event]) -> None:
        """Events whose numbers were granted otherwise (`heads.grant`)."""
        self.appended.extend(appended)

    def list_changed(self, head: Head, conversation: Conversation, kind: ListChangeKind = ListChangeKind.CHANGED) -> None:
        """Everything that a list shows of a conversation changes through this, in the transaction that sets `updated_at` to `now`.

        The row is as it will be after the commit; of one that is deleted, as it was. One that nobody was ever told of has version 0.
        """
        head.list_version += 1
        self.list_items.append(ListChange.of(kind, conversation, head.list_version))

    def list_released(self, conversation: Conversation, version: int) -> None:
        """The same for a head whose list version was raised otherwise (`heads.release`)."""
        self.list_items.append(ListChange.of(ListChangeKind.CHANGED, conversation, version))

    def lists_in_doubt(self, tenant: str) -> None:
        """So much changes at once that whoever shows a list of this tenant has to query it."""
        self.list_items.append(ListCaughtUp(tenant))

    async def settle(self) -> None:
        await events.append(self.connection, self.appended, nonce=self.nonce)
        for conversation_id, head in self._heads.items():
            if head != self._as_locked.get(conversation_id):
                await heads.save(self.connection, head)


class Log:
    def __init__(self, database: Database, bus: Bus, clock: Clock, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self.database = database
        self.bus = bus
        self.clock = clock

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        """Commits on leaving, then announces. An exception leaves nothing behind and announces nothing."""
        async with self.database.write(committed=lambda: self.announce(transaction)) as connection:
            transaction = Transaction(connection, self.clock)
            yield transaction
            await transaction.settle()

    def announce(self, transaction: Transaction) -> None:
        """What follows a commit. Called on leaving `transaction()`, and by who learns later that its commit had happened."""
        self.metrics.events_appended.inc(len(transaction.appended))
        self.bus.publish(transaction.appended, transaction.list_items)
        for callback in transaction.after_commit:
            callback()
