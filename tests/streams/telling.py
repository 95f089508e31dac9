"""A conversation's log written by hand, one event in each transaction, so that a test decides between which steps it is committed."""

from dataclasses import replace

from db import messages
from db.engine import Database
from streams.bus import Bus
from streams.log import Log, Transaction
from tests.db.rows import a_message, stored_conversation
from tests.rig import utc_now
from vocabulary.events import Event, MessageCompleted, MessageDelta, MessageStarted
from vocabulary.messages import Message, MessageStatus
from vocabulary.text import utf16_length


class Teller:
    """Knows one open message at a time. Each method commits one event, announces it, and returns it."""

    def __init__(self, log: Log, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        self._log = log
        self._message: Message | None = None

    @classmethod
    async def of_new_conversation(cls, database: Database, bus: Bus) -> "Teller":
        conversation = await stored_conversation(database)
        return cls(Log(database, bus, utc_now), conversation.id)

    def through(self, bus: Bus) -> "Teller":
        """The same conversation, announced elsewhere from now on."""
        return Teller(Log(self._log.database, bus, utc_now), self.conversation_id)

    async def start(self) -> Event:
        async with self._log.transaction() as transaction:
            self._message = await self._new(transaction, MessageStatus.IN_PROGRESS, "")
            return self._told(transaction, MessageStarted(self._message))

    async def grow(self, text: str) -> Event:
        message = self._open_message()
        async with self._log.transaction() as transaction:
            sequence = await self._next(transaction)
            delta = MessageDelta(message.id, message.type, utf16_length(message.text), text)
            self._message = replace(message, text=message.text + text, sequence=sequence)
            return self._told(transaction, delta)

    async def finish(self) -> Event:
        async with self._log.transaction() as transaction:
            sequence = await self._next(transaction)
            closed = replace(self._open_message(), status=MessageStatus.COMPLETED, sequence=sequence)
            await messages.close(transaction.connection, [closed], now=transaction.now)
            self._message = None
            return self._told(transaction, MessageCompleted(closed))

    async def say(self, text: str) -> Event:
        """A message that comes whole."""
        async with self._log.transaction() as transaction:
            return self._told(transaction, MessageCompleted(await self._new(transaction, MessageStatus.COMPLETED, text)))

    def _open_message(self) -> Message:
        assert self._message is not None, "start one first"
        return self._message

    async def _next(self, transaction: Transaction) -> int:
        head = await transaction.lock(self.conversation_id)
        assert head is not None
        return head.take_sequence()

    async def _new(self, transaction: Transaction, status: MessageStatus, text: str) -> Message:
        sequence = await self._next(transaction)
        head = await transaction.lock(self.conversation_id)
        assert head is not None
        message = a_message(self.conversation_id, status=status, ordinal=head.take_ordinal(), sequence=sequence, text=text)
        await messages.create(transaction.connection, [message])
        return message

    def _told(self, transaction: Transaction, payload: MessageStarted | MessageDelta | MessageCompleted) -> Event:
        event = Event(self.conversation_id, self._sequence_of(payload), transaction.now, None, payload)
        transaction.extend([event])
        return event

    def _sequence_of(self, payload: MessageStarted | MessageDelta | MessageCompleted) -> int:
        return self._open_message().sequence if isinstance(payload, MessageDelta) else payload.message.sequence
