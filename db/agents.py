"""Agents and their shared memory blocks."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db import codec
from db.paging import KeyColumn, KeysetOrder, Page, Window, fetch_page
from db.tables import agents, blocks, conversations
from vocabulary.conversations import Agent, Block

BY_CREATION = KeysetOrder((KeyColumn(agents.c.created_at), KeyColumn(agents.c.id)), descending=True)


async def create(connection: AsyncConnection, agent: Agent, own_blocks: Sequence[Block]) -> None:
    await connection.execute(insert(agents), [_values(agent)])
    if own_blocks:
        await connection.execute(insert(blocks), [asdict(block) for block in own_blocks])


async def by_ids(connection: AsyncConnection, tenant: str, ids: Iterable[str]) -> list[Agent]:
    """Also of deleted agents none: whoever asks for one gets nothing."""
    query = select(agents).where(_visible(tenant), agents.c.id.in_(list(ids)))
    return [agent_of(row) for row in await connection.execute(query)]


async def ever_by_ids(connection: AsyncConnection, tenant: str, ids: Iterable[str]) -> list[Agent]:
    """Deleted ones too: for events of their conversations that were told before that."""
    query = select(agents).where(agents.c.tenant == tenant, agents.c.id.in_(list(ids)))
    return [agent_of(row) for row in await connection.execute(query)]


async def lock(connection: AsyncConnection, tenant: str, agent_id: str) -> Agent | None:
    """Held until the end of the transaction: whoever else wants to add to this agent waits."""
    query = select(agents).where(_visible(tenant), agents.c.id == agent_id).with_for_update(key_share=True)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else agent_of(row)


async def save(connection: AsyncConnection, changed: Agent) -> None:
    """The caller holds its lock."""
    values = _values(changed)
    await connection.execute(update(agents).where(agents.c.id == values.pop("id")).values(**values))


async def mark_deleted(connection: AsyncConnection, agent_id: str, *, now: datetime) -> None:
    """Hides it and its conversations from everybody. The caller holds its lock, so nobody is adding one."""
    await connection.execute(update(agents).where(agents.c.id == agent_id).values(deleted_at=now, updated_at=now))


async def orphans(connection: AsyncConnection, *, limit: int) -> list[tuple[str, str | None]]:
    """Deleted agents with the conversations that they have left; None: that one has none."""
    left = (conversations.c.agent_id == agents.c.id) & conversations.c.deleted_at.is_(None)
    query = select(agents.c.id, conversations.c.id).select_from(agents.outerjoin(conversations, left))
    found = await connection.execute(query.where(agents.c.deleted_at.is_not(None), agents.c.erased_at.is_(None)).limit(limit))
    return [(row[0], row[1]) for row in found]


async def mark_erased(connection: AsyncConnection, agent_ids: Iterable[str], *, now: datetime) -> None:
    """They have no conversations left, and nobody looks for any again."""
    await connection.execute(update(agents).where(agents.c.id.in_(list(agent_ids))).values(erased_at=now))


async def get(connection: AsyncConnection, agent_id: str) -> Agent | None:
    """Whoever's it is, deleted or not: for the engine, which follows ids of its own."""
    row = (await connection.execute(select(agents).where(agents.c.id == agent_id))).one_or_none()
    return None if row is None else agent_of(row)


async def by_conversation(connection: AsyncConnection, conversation_ids: Iterable[str]) -> dict[str, Agent]:
    """Whose each conversation is, for the engine."""
    query = select(agents, conversations.c.id.label("asked_for")).join(conversations, conversations.c.agent_id == agents.c.id)
    found = await connection.execute(query.where(conversations.c.id.in_(list(conversation_ids))))
    return {row.asked_for: agent_of(row) for row in found}


async def page(connection: AsyncConnection, tenant: str, window: Window) -> Page[Agent]:
    return await fetch_page(connection, select(agents).where(_visible(tenant)), BY_CREATION, window, agent_of)


async def count(connection: AsyncConnection, tenant: str) -> int:
    return (await connection.execute(select(func.count()).select_from(agents).where(_visible(tenant)))).scalar_one()


async def blocks_by_agent(connection: AsyncConnection, agent_ids: Iterable[str]) -> list[Block]:
    """The shared ones, by label."""
    query = select(blocks).where(blocks.c.agent_id.in_(list(agent_ids)), blocks.c.conversation_id.is_(None)).order_by(blocks.c.label)
    return [block_of(row) for row in await connection.execute(query)]


async def blocks_by_ids(connection: AsyncConnection, tenant: str, ids: Iterable[str]) -> list[Block]:
    query = select(blocks).join(agents, agents.c.id == blocks.c.agent_id).where(_visible(tenant), blocks.c.id.in_(list(ids)))
    return [block_of(row) for row in await connection.execute(query)]


def _visible(tenant: str) -> ColumnElement[bool]:
    return (agents.c.tenant == tenant) & agents.c.deleted_at.is_(None)


def _values(agent: Agent) -> dict[str, Any]:
    return {column.name: getattr(agent, column.name) for column in agents.c if hasattr(agent, column.name)}


def agent_of(row: Row[Any]) -> Agent:
    return Agent(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        description=row.description,
        instructions=row.instructions,
        model=row.model,
        model_settings=codec.settings.validate_python(row.model_settings),
        compaction_settings=codec.compaction_settings.validate_python(row.compaction_settings),
        tools=codec.agent_tools.validate_python(row.tools),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def block_of(row: Row[Any]) -> Block:
    return Block(
        id=row.id,
        tenant=row.tenant,
        agent_id=row.agent_id,
        conversation_id=row.conversation_id,
        label=row.label,
        value=row.value,
        description=row.description,
        limit=row.limit,
        read_only=row.read_only,
        updated_at=row.updated_at,
    )
