"""Memory blocks as a model's tools see them: by label, the conversation's own before the one it shares with others of its agent."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db.agents import block_of
from db.tables import blocks
from vocabulary.conversations import Block


async def lock_block(connection: AsyncConnection, *, agent_id: str, conversation_id: str, label: str) -> Block | None:
    """Held until the end of the transaction; the caller holds the conversation's head."""
    own = blocks.c.conversation_id == conversation_id
    shared = (blocks.c.agent_id == agent_id) & blocks.c.conversation_id.is_(None)
    query = select(blocks).where(blocks.c.label == label, own | shared).order_by(blocks.c.conversation_id.is_(None)).limit(1)
    row = (await connection.execute(query.with_for_update(key_share=True))).one_or_none()
    return None if row is None else block_of(row)


async def labels(connection: AsyncConnection, *, agent_id: str, conversation_id: str) -> list[str]:
    """Of all blocks that the conversation sees."""
    mine = (blocks.c.conversation_id == conversation_id) | blocks.c.conversation_id.is_(None)
    query = select(blocks.c.label).where(blocks.c.agent_id == agent_id, mine)
    return list((await connection.execute(query.distinct().order_by(blocks.c.label))).scalars())


async def write_value(connection: AsyncConnection, block_id: str, value: str, *, now: datetime) -> None:
    await connection.execute(update(blocks).where(blocks.c.id == block_id).values(value=value, updated_at=now))
