"""Memory blocks, written: shared ones through their agent, isolated ones in their conversation. Reading agents' is in `agents`.

Locked in id order, always after heads and runs.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db.agents import block_of
from db.tables import agents, blocks
from vocabulary.conversations import Block


async def create(connection: AsyncConnection, created: Sequence[Block]) -> None:
    if created:
        await connection.execute(insert(blocks), [{column.name: getattr(block, column.name) for column in blocks.c} for block in created])


async def lock(connection: AsyncConnection, tenant: str, block_id: str) -> Block | None:
    """Shared or isolated; held until the end of the transaction."""
    visible = (agents.c.tenant == tenant) & agents.c.deleted_at.is_(None)
    query = select(blocks).join(agents, agents.c.id == blocks.c.agent_id).where(visible, blocks.c.id == block_id)
    row = (await connection.execute(query.with_for_update(key_share=True, of=blocks))).one_or_none()
    return None if row is None else block_of(row)


async def lock_shared(connection: AsyncConnection, agent_id: str) -> list[Block]:
    """All that the agent's conversations share, held until the end of the transaction."""
    query = select(blocks).where(blocks.c.agent_id == agent_id, blocks.c.conversation_id.is_(None)).order_by(blocks.c.id)
    return [block_of(row) for row in await connection.execute(query.with_for_update(key_share=True))]


async def save(connection: AsyncConnection, changed: Sequence[Block]) -> None:
    """What can change of a block. The caller holds their locks."""
    if changed:
        values = [{"block_id": block.id, **{name: getattr(block, name) for name in _CHANGING}} for block in changed]
        await connection.execute(_UPDATE, values)


async def remove(connection: AsyncConnection, ids: Sequence[str]) -> None:
    if ids:
        await connection.execute(delete(blocks).where(blocks.c.id.in_(ids)))


async def remove_isolated(connection: AsyncConnection, conversation_id: str) -> None:
    await connection.execute(delete(blocks).where(blocks.c.conversation_id == conversation_id))


async def by_conversation(connection: AsyncConnection, conversation_ids: Iterable[str]) -> list[Block]:
    """The isolated ones, by label."""
    query = select(blocks).where(blocks.c.conversation_id.in_(list(conversation_ids))).order_by(blocks.c.label)
    return [block_of(row) for row in await connection.execute(query)]


_CHANGING = ("value", "description", "limit", "read_only", "updated_at")
_UPDATE = update(blocks).where(blocks.c.id == bindparam("block_id")).values({name: bindparam(name) for name in _CHANGING})
