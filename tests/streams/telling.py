"""A conversation's log written by hand, one event in each transaction, so that a test decides between which steps it is committed."""

from dataclasses import replace

from db import messages
from db.heads import Head
from streams.log import Log, Transaction
from tests.db.rows import a_message
from vocabulary.events import Event, MessageCompleted, MessageDelta, MessageStarted, StoredPayload
from vocabulary.messages import Message, MessageStatus
from vocabulary.text import utf16_length


class Teller:
    """Knows one open message at a time. Each method commits one event, announces it, and returns it."""

    def __init__(self, log: Log, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        self._log = log
        self._message: Message | None = None

    async def start(self) -> Event:
        async with self._log.transaction() as transaction:
            head = await self._head(transaction)
            self._message = await self._create(transaction, head, MessageStatus.IN_PROGRESS, "")
            return _told(transaction, head, MessageStarted(self._message))

    async def grow(self, text: str) -> Event:
        message = self._open_message()
        async with self._log.transaction() as transaction:
            head = await self._head(transaction)
            head.take_sequence()
            self._message = replace(message, text=message.text + text)
            return _told(transaction, head, MessageDelta(message.id, message.type, utf16_length(message.text), text))

    async def finish(self) -> Event:
        async with self._log.transaction() as transaction:
            head = await self._head(transaction)
            closed = replace(self._open_message(), status=MessageStatus.COMPLETED, sequence=head.take_sequence())
            await messages.close(transaction.connection, [closed], now=transaction.now)
            self._message = None
            return _told(transaction, head, MessageCompleted(closed))

    async def say(self, text: str) -> Event:
        """A message that comes whole."""
        async with self._log.transaction() as transaction:
            head = await self._head(transaction)
            return _told(transaction, head, MessageCompleted(await self._create(transaction, head, MessageStatus.COMPLETED, text)))

    async def tell(self, payload: StoredPayload, *, run_id: str | None = None) -> Event:
        """Any event; the rows it shows are the caller's affair."""
        async with self._log.transaction() as transaction:
            head = await self._head(transaction)
            transaction.append(head, head.take_sequence(), payload, run_id=run_id)
            return transaction.appended[-1]

    def _open_message(self) -> Message:
        assert self._message is not None, "start one first"
        return self._message

    async def _head(self, transaction: Transaction) -> Head:
        head = await transaction.lock(self.conversation_id)
        assert head is not None
        return head

    async def _create(self, transaction: Transaction, head: Head, status: MessageStatus, text: str) -> Message:
        message = a_message(self.conversation_id, status=status, ordinal=head.take_ordinal(), sequence=head.take_sequence(), text=text)
        await messages.create(transaction.connection, [message])
        return message


def _told(transaction: Transaction, head: Head, payload: StoredPayload) -> Event:
    """An event at the number that was taken last."""
    transaction.append(head, head.head_sequence, payload)
    return transaction.appended[-1]
