"""Conversations, read together with their heads. Their status is not stored: it follows from their runs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, bindparam, case, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db import codec
from db.paging import KeyColumn, KeysetOrder, Page, Window, fetch_page, fetch_pages
from db.tables import agents, conversations, heads, runs
from vocabulary.conversations import Conversation, ConversationOrderField, ConversationStatus
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import LIVE_STATUSES


@dataclass(frozen=True, slots=True)
class Stored:
    """An idempotent creation that happened before."""

    conversation_id: str
    body_hash: str


@dataclass(frozen=True, slots=True)
class ContextMove:
    """Two of the three values that a conversation's context is, as they are from now on; the third, its system message, never changes."""

    conversation_id: str
    summary_message_id: str
    tail_ordinal: int


_live = exists().where(runs.c.conversation_id == conversations.c.id, runs.c.status.in_(LIVE_STATUSES)).correlate(conversations)
_status = case((_live, ConversationStatus.RUNNING.value), else_=ConversationStatus.IDLE.value).label("status")

COLUMNS: tuple[ColumnElement[Any], ...] = (*conversations.c, heads.c.head_sequence, _status)
_joined = conversations.join(heads, heads.c.conversation_id == conversations.c.id)


def order_by(field: ConversationOrderField, *, descending: bool) -> KeysetOrder:
    column = {
        ConversationOrderField.CREATED_AT: conversations.c.created_at,
        ConversationOrderField.LAST_MESSAGE_AT: conversations.c.last_message_at,
        ConversationOrderField.LAST_RUN_COMPLETED_AT: conversations.c.last_run_completed_at,
    }[field]
    return KeysetOrder((KeyColumn(column, descending, bool(column.nullable)), KeyColumn(conversations.c.id, descending)))


async def create(
    connection: AsyncConnection,
    conversation: Conversation,
    *,
    scope: str | None = None,
    key: str | None = None,
    body_hash: str | None = None,
) -> None:
    """`scope`, `key` and `body_hash` remember the request, for a retry of it. The head is made apart (`heads.create`)."""
    values = {column.name: getattr(conversation, column.name, None) for column in conversations.c}
    values |= {"idempotency_scope": scope if key else None, "idempotency_key": key, "body_hash": body_hash if key else None}
    await connection.execute(insert(conversations), [values])


async def stored(connection: AsyncConnection, scope: str, key: str) -> Stored | None:
    query = select(conversations.c.id, conversations.c.body_hash).where(
        conversations.c.idempotency_scope == scope, conversations.c.idempotency_key == key
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Stored(row.id, row.body_hash)


async def touch(connection: AsyncConnection, ids: Iterable[str], times: Mapping[str, datetime]) -> None:
    """Sets `last_message_at`, `last_run_completed_at`, `updated_at`, whichever are given."""
    await connection.execute(update(conversations).where(conversations.c.id.in_(list(ids))).values(**times))


async def move_contexts(connection: AsyncConnection, moves: Sequence[ContextMove]) -> None:
    """The caller holds their heads."""
    if moves:
        await connection.execute(
            _MOVE, [{"id_": m.conversation_id, "summary_": m.summary_message_id, "tail_": m.tail_ordinal} for m in moves]
        )


_MOVE = (
    update(conversations)
    .where(conversations.c.id == bindparam("id_"))
    .values(summary_message_id=bindparam("summary_"), tail_ordinal=bindparam("tail_"))
)


async def mark_deleted(connection: AsyncConnection, conversation_id: str, *, now: datetime) -> None:
    """Hides it from everybody. The caller holds its head."""
    await connection.execute(update(conversations).where(conversations.c.id == conversation_id).values(deleted_at=now, updated_at=now))


async def read(connection: AsyncConnection, ids: Iterable[str]) -> dict[str, Conversation]:
    """By id, whoever's they are, as this transaction sees them."""
    query = select(*COLUMNS).select_from(_joined).where(conversations.c.id.in_(list(ids)), conversations.c.deleted_at.is_(None))
    return {row.id: conversation_of(row) for row in await connection.execute(query)}


async def by_ids(connection: AsyncConnection, tenant: str, ids: Iterable[str]) -> list[Conversation]:
    query = select(*COLUMNS).select_from(_visible_rows()).where(_visible(tenant), conversations.c.id.in_(list(ids)))
    return [conversation_of(row) for row in await connection.execute(query)]


async def page(
    connection: AsyncConnection, tenant: str, order: KeysetOrder, window: Window, *, agent_id: str | None = None
) -> Page[Conversation]:
    """Of the whole tenant, or of one agent."""
    rows = _everything(tenant)
    if agent_id is not None:
        rows = rows.where(conversations.c.agent_id == agent_id)
    return await fetch_page(connection, rows, order, window, conversation_of)


async def pages(
    connection: AsyncConnection, tenant: str, agent_ids: Collection[str], order: KeysetOrder, window: Window
) -> dict[str, Page[Conversation]]:
    return await fetch_pages(connection, _everything(tenant), conversations.c.agent_id, agent_ids, order, window, conversation_of)


async def count(connection: AsyncConnection, tenant: str, *, agent_id: str | None) -> int:
    query = _counted(tenant)
    return (await connection.execute(query if agent_id is None else query.where(conversations.c.agent_id == agent_id))).scalar_one()


async def counts(connection: AsyncConnection, tenant: str, agent_ids: Collection[str]) -> dict[str, int]:
    grouped = _counted(tenant).add_columns(conversations.c.agent_id).where(conversations.c.agent_id.in_(agent_ids))
    return {row[1]: row[0] for row in await connection.execute(grouped.group_by(conversations.c.agent_id))}


def _counted(tenant: str) -> Select[Any]:
    return select(func.count()).select_from(_visible_rows()).where(_visible(tenant))


def _visible_rows() -> Any:
    return _joined.join(agents, agents.c.id == conversations.c.agent_id)


def _visible(tenant: str) -> ColumnElement[bool]:
    # A deleted agent hides its conversations at once.
    return (conversations.c.tenant == tenant) & conversations.c.deleted_at.is_(None) & agents.c.deleted_at.is_(None)


def _everything(tenant: str) -> Select[Any]:
    return select(*COLUMNS).select_from(_visible_rows()).where(_visible(tenant))


def conversation_of(row: Row[Any]) -> Conversation:
    return Conversation(
        id=row.id,
        tenant=row.tenant,
        agent_id=row.agent_id,
        summary=row.summary,
        model=row.model,
        model_settings=_settings(row.model_settings),
        status=ConversationStatus(row.status),
        head_sequence=row.head_sequence,
        system_message_id=row.system_message_id,
        summary_message_id=row.summary_message_id,
        tail_ordinal=row.tail_ordinal,
        forked_from_id=row.forked_from_id,
        last_message_at=row.last_message_at,
        last_run_completed_at=row.last_run_completed_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _settings(stored_settings: Any) -> ModelSettings | None:
    return None if stored_settings is None else codec.settings.validate_python(stored_settings)
