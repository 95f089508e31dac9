"""What a deleted agent leaves behind: its conversations, hidden with it, and deleted here, one per transaction.

Several workers may do so at once; each conversation is deleted once, under its head's lock. When none is left the agent is marked,
so that nobody looks at it again.
"""

import random
from collections.abc import Sequence

import structlog

from db import agents, conversations
from db.engine import DatabaseError
from runs.commands.deletion import erase
from runs.engine import Engine

log = structlog.get_logger()

_AT_ONCE = 1000


async def erase_orphans(engine: Engine) -> None:
    """Until none is left. Raises DatabaseError when the database is away, or somebody holds a head for too long."""
    erased = True
    while erased:
        async with engine.database.read() as connection:
            found = await agents.orphans(connection, limit=_AT_ONCE)
        left = [conversation_id for _, conversation_id in found if conversation_id is not None]
        await _forget(engine, [agent_id for agent_id, conversation_id in found if conversation_id is None])
        erased = [await _erase(engine, conversation_id) for conversation_id in random.sample(left, len(left))].count(True) > 0


async def _erase(engine: Engine, conversation_id: str) -> bool:
    """False: it could not be done, for a reason that will not pass; the others must not wait for this one."""
    try:
        async with engine.log.transaction() as transaction:
            head = await transaction.lock(conversation_id)
            found = await conversations.read(transaction.connection, [conversation_id])
            if head is not None and conversation_id in found:
                await erase(engine, transaction, head, found[conversation_id])
    except DatabaseError:
        raise
    except Exception:
        log.exception("a conversation of a deleted agent could not be deleted", conversation_id=conversation_id)
        return False
    return True


async def _forget(engine: Engine, agent_ids: Sequence[str]) -> None:
    if agent_ids:
        async with engine.log.transaction() as transaction:
            await agents.mark_erased(transaction.connection, agent_ids, now=transaction.now)
