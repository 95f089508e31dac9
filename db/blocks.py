"""Memory blocks, written: shared ones through their agent, isolated ones in their conversation. Reading agents' is in `agents`.

Locked in id order, always after heads and runs.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from db.agents import block_of
from db.tables import blocks
from vocabulary.conversations import Block


async def create(connection: AsyncConnection, created: Sequence[Block]) -> None:
    if created:
        await connection.execute(insert(blocks), [{column.name: getattr(block, column.name) for column in blocks.c} for block in created])


async def remove_isolated(connection: AsyncConnection, conversation_id: str) -> None:
    await connection.execute(delete(blocks).where(blocks.c.conversation_id == conversation_id))


async def by_conversation(connection: AsyncConnection, conversation_ids: Iterable[str]) -> list[Block]:
    """The isolated ones, by label."""
    query = select(blocks).where(blocks.c.conversation_id.in_(list(conversation_ids))).order_by(blocks.c.label)
    return [block_of(row) for row in await connection.execute(query)]
