"""After a restore: numbers that were handed out in the time that is lost must never be handed out again for something else.

Every head is raised by far more than can have been lost, and one RESET event stands at the end of the gap: who reads across it is told
that history was lost, wherever between its old position and the gap's end it stood. Fences rise as far, so that a worker that has lived
through the loss writes nothing more, whatever fence it was given in the time that is lost.
"""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db import events
from db.tables import heads
from vocabulary.events import Event, ResetReason, StreamReset

GAP = 1_000_000


async def raise_heads(connection: AsyncConnection, *, after: str, limit: int, now: datetime) -> str | None:
    """The next conversations in id order, in the caller's transaction. Answers the last one's id, to go on after; None: there are no more.

    To raise a head twice is harmless, so a call that was interrupted is simply made again from the start. It must not be skipped for
    conversations that end in a RESET already: that one may be of an earlier loss, with numbers handed out since.
    """
    query = select(heads.c.conversation_id).where(heads.c.conversation_id > after).order_by(heads.c.conversation_id).limit(limit)
    ids = list((await connection.execute(query.with_for_update(key_share=True))).scalars())
    if not ids:
        return None
    raised = {"head_sequence": heads.c.head_sequence + GAP, "fence": heads.c.fence + GAP, "list_version": heads.c.list_version + 1}
    statement = update(heads).where(heads.c.conversation_id.in_(ids)).values(raised)
    found = await connection.execute(statement.returning(heads.c.conversation_id, heads.c.head_sequence))
    await events.append(connection, [_reset(row.conversation_id, row.head_sequence, now) for row in found])
    return ids[-1]


def _reset(conversation_id: str, sequence: int, now: datetime) -> Event:
    return Event(conversation_id, sequence, now, None, StreamReset(ResetReason.HISTORY_LOST, sequence))
