"""Forks while they are made: what is read of the source, and a conversation that nobody is shown before it is whole.

Such a one is marked as deleted, so that whatever hides deleted conversations hides it, too, and with the time when it was begun: what
is left of a fork whose maker died is found by that.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db.messages import COLUMNS, message_of
from db.tables import blocks, conversations, events, heads, messages, open_messages_of
from vocabulary.messages import Message, MessageStatus, MessageType

_FINISHED = (MessageStatus.COMPLETED.value, MessageStatus.INTERRUPTED.value, MessageStatus.FAILED.value)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Of a conversation's tail, the ordinals from `first` to `last`, both included, but for the messages that were not finished."""

    conversation_id: str
    first: int
    last: int
    unfinished: Collection[str] = ()

    def rows(self) -> ColumnElement[bool]:
        return (
            (messages.c.conversation_id == self.conversation_id)
            & messages.c.ordinal.between(self.first, self.last)
            & messages.c.in_tail
            & messages.c.id.not_in(list(self.unfinished))
        )


async def summaries(connection: AsyncConnection, conversation_id: str) -> list[Message]:
    """All that were ever written, newest first."""
    only = (messages.c.conversation_id == conversation_id) & (messages.c.type == MessageType.SUMMARY.value)
    return await _read(connection, only & messages.c.status.in_(_FINISHED), descending=True)


async def unfinished(connection: AsyncConnection, conversation_id: str) -> list[str]:
    query = select(messages.c.id).where(open_messages_of(literal(conversation_id)))
    return list((await connection.execute(query)).scalars())


async def by_ids(connection: AsyncConnection, ids: Collection[str]) -> dict[str, Message]:
    return {message.id: message for message in await _read(connection, messages.c.id.in_(list(ids)))}


async def stretch(connection: AsyncConnection, wanted: Stretch, *, limit: int) -> list[Message]:
    return await _read(connection, wanted.rows(), limit=limit)


async def last_calls(connection: AsyncConnection, among: Stretch) -> list[Message]:
    """The last message with tool calls, and what was returned after it."""
    calls = await _read(connection, among.rows() & (messages.c.type == MessageType.TOOL_CALL.value), descending=True, limit=1)
    if not calls or calls[0].ordinal is None:
        return []
    returned = (messages.c.type == MessageType.TOOL_RETURN.value) & (messages.c.ordinal > calls[0].ordinal)
    return [*calls, *await _read(connection, among.rows() & returned)]


async def _read(
    connection: AsyncConnection, only: ColumnElement[bool], *, descending: bool = False, limit: int | None = None
) -> list[Message]:
    source = messages.join(conversations, conversations.c.id == messages.c.conversation_id)
    order = messages.c.ordinal.desc() if descending else messages.c.ordinal.asc()
    return [
        message_of(row) for row in await connection.execute(select(*COLUMNS).select_from(source).where(only).order_by(order).limit(limit))
    ]


async def hide(connection: AsyncConnection, conversation_id: str, *, now: datetime) -> None:
    marks = {"deleted_at": now, "forking_since": now}
    await connection.execute(update(conversations).where(conversations.c.id == conversation_id).values(**marks))


async def reveal(
    connection: AsyncConnection,
    conversation_id: str,
    *,
    scope: str,
    key: str | None,
    body_hash: str | None,
    last_message_at: datetime | None,
    now: datetime,
) -> None:
    """It is whole. Only now does it have its key, so that an attempt that died does not stand in the way of the next."""
    shown = {"deleted_at": None, "forking_since": None, "created_at": now, "updated_at": now, "last_message_at": last_message_at}
    remembered = {"idempotency_scope": scope, "idempotency_key": key, "body_hash": body_hash} if key else {}
    await connection.execute(update(conversations).where(conversations.c.id == conversation_id).values(**shown, **remembered))


async def take_abandoned(connection: AsyncConnection, *, before: datetime, limit: int) -> list[str]:
    """Forks that were begun so long ago that nobody can be at them any more; nobody else's until the transaction ends."""
    query = select(conversations.c.id).where(conversations.c.forking_since < before).order_by(conversations.c.forking_since)
    return list((await connection.execute(query.limit(limit).with_for_update(skip_locked=True))).scalars())


async def remove(connection: AsyncConnection, ids: Collection[str]) -> None:
    for table in (events, messages, blocks, heads):
        await connection.execute(delete(table).where(table.c.conversation_id.in_(list(ids))))
    await connection.execute(delete(conversations).where(conversations.c.id.in_(list(ids))))
