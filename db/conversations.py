"""Conversations, read together with their heads. Their status is not stored: it follows from their runs."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Exists, Row, Select, bindparam, case, exists, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from db import codec
from db.dialect import contains
from db.paging import KeyColumn, KeysetOrder, Page, Window, fetch_page, fetch_pages
from db.tables import agents, conversations, heads, live_runs_of, messages, runs
from vocabulary.conversations import Conversation, ConversationOrderField, ConversationStatus
from vocabulary.lists import ListVersion
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import RunKind, RunStatus
from vocabulary.text import folded


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """None: not filtered by. `summary_contains` is taken literally, but for case."""

    agent_id: str | None = None
    summary_contains: str | None = None


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


MAY_RUN: ColumnElement[bool] = or_(
    conversations.c.pending_message_id.is_(None), runs.c.status == RunStatus.RUNNING.value, runs.c.kind == RunKind.COMPACTION.value
)
"""Of a live run: whether it goes on or can be started. While calls wait, the queue does."""

_live = exists().where(live_runs_of(conversations.c.id), MAY_RUN).correlate(conversations)
_status = case(
    (_live, ConversationStatus.RUNNING.value),
    (conversations.c.pending_message_id.is_not(None), ConversationStatus.AWAITING_INPUT.value),
    else_=ConversationStatus.IDLE.value,
).label("status")

COLUMNS: tuple[ColumnElement[Any], ...] = (
    *(column for column in conversations.c if column.name != "summary_folded"),
    heads.c.head_sequence,
    _status,
)
_joined = conversations.join(heads, heads.c.conversation_id == conversations.c.id)


def order_by(field: ConversationOrderField, *, descending: bool) -> KeysetOrder:
    column = {
        ConversationOrderField.CREATED_AT: conversations.c.created_at,
        ConversationOrderField.LAST_MESSAGE_AT: conversations.c.last_message_at,
        ConversationOrderField.LAST_RUN_COMPLETED_AT: conversations.c.last_run_completed_at,
    }[field]
    return KeysetOrder((KeyColumn(column, bool(column.nullable)), KeyColumn(conversations.c.id)), descending)


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
    values |= {"summary_folded": _folded(conversation.summary)}
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


async def save(connection: AsyncConnection, changed: Conversation) -> None:
    """What a client can change of it. The caller holds its head."""
    values = {"summary": changed.summary, "summary_folded": _folded(changed.summary)}
    values |= {"model": changed.model, "model_settings": changed.model_settings}
    await connection.execute(update(conversations).where(conversations.c.id == changed.id).values(**values))


def _folded(summary: str | None) -> str | None:
    return None if summary is None else folded(summary)


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


async def wait_for(connection: AsyncConnection, pending: Mapping[str, str | None]) -> None:
    """By conversation the request that it waits for from now on; None: it waits no longer."""
    if pending:
        await connection.execute(_WAIT_FOR, [{"id_": id_, "request": request} for id_, request in pending.items()])


_WAIT_FOR = update(conversations).where(conversations.c.id == bindparam("id_")).values(pending_message_id=bindparam("request"))


async def waiting_since(connection: AsyncConnection, *, before: datetime, limit: int) -> list[str]:
    """Conversations whose calls have waited since before then, the longest first."""
    query = (
        select(conversations.c.id)
        .join(messages, messages.c.id == conversations.c.pending_message_id)
        .where(conversations.c.pending_message_id.is_not(None), conversations.c.deleted_at.is_(None), messages.c.created_at < before)
        .order_by(messages.c.created_at)
        .limit(limit)
    )
    return list((await connection.execute(query)).scalars())


async def read(connection: AsyncConnection, ids: Iterable[str]) -> dict[str, Conversation]:
    """By id, whoever's they are, as this transaction sees them."""
    query = select(*COLUMNS).select_from(_joined).where(conversations.c.id.in_(list(ids)), conversations.c.deleted_at.is_(None))
    return {row.id: conversation_of(row) for row in await connection.execute(query)}


async def by_ids(connection: AsyncConnection, tenant: str, ids: Iterable[str]) -> list[Conversation]:
    query = select(*COLUMNS).select_from(_visible_rows()).where(_visible(tenant), conversations.c.id.in_(list(ids)))
    return [conversation_of(row) for row in await connection.execute(query)]


async def ever_by_ids(connection: AsyncConnection, tenant: str, ids: Iterable[str]) -> list[Conversation]:
    """Deleted ones too: for events that were told before that."""
    query = select(*COLUMNS).select_from(_joined).where(conversations.c.tenant == tenant, conversations.c.id.in_(list(ids)))
    return [conversation_of(row) for row in await connection.execute(query)]


async def page(connection: AsyncConnection, tenant: str, only: Filter, order: KeysetOrder, window: Window) -> Page[Conversation]:
    return await fetch_page(connection, _everything(tenant).where(*_matching(only)), order, window, conversation_of)


async def pages(
    connection: AsyncConnection, tenant: str, agent_ids: Collection[str], order: KeysetOrder, window: Window
) -> dict[str, Page[Conversation]]:
    return await fetch_pages(connection, _everything(tenant), conversations.c.agent_id, agent_ids, order, window, conversation_of)


async def count(connection: AsyncConnection, tenant: str, only: Filter) -> int:
    return (await connection.execute(_counted(tenant).where(*_matching(only)))).scalar_one()


def _matching(only: Filter) -> Iterator[ColumnElement[bool]]:
    if only.agent_id is not None:
        yield conversations.c.agent_id == only.agent_id
    if only.summary_contains:
        yield contains(conversations.c.summary_folded, folded(only.summary_contains))


async def counts(connection: AsyncConnection, tenant: str, agent_ids: Collection[str]) -> dict[str, int]:
    grouped = _counted(tenant).add_columns(conversations.c.agent_id).where(conversations.c.agent_id.in_(agent_ids))
    return {row[1]: row[0] for row in await connection.execute(grouped.group_by(conversations.c.agent_id))}


async def list_versions(connection: AsyncConnection, tenants: Iterable[str], *, since: datetime) -> list[ListVersion]:
    """Of what has changed lately, also of what was deleted. One statement for any number of tenants.

    A deleted agent stands for the conversations that are hidden with it, as long as they are not deleted themselves: none of theirs tells.

    `since` is a value, not the database's clock: PostgreSQL uses the index only for what it knows when it plans.
    """
    query = (
        select(conversations.c.tenant, conversations.c.id, heads.c.list_version)
        .select_from(_joined)
        .where(conversations.c.tenant.in_(list(tenants)), conversations.c.updated_at >= since)
    )
    hiding = select(agents.c.tenant, agents.c.id, literal(1)).where(
        agents.c.tenant.in_(list(tenants)), agents.c.deleted_at >= since, agents.c.erased_at.is_(None)
    )
    return [ListVersion(*row) for row in await connection.execute(query.union_all(hiding))]


def _counted(tenant: str) -> Select[Any]:
    # Without the heads: each has one, and they lie far apart.
    return select(func.count()).select_from(conversations.join(agents, agents.c.id == conversations.c.agent_id)).where(_visible(tenant))


def _visible_rows() -> Any:
    return _joined.join(agents, agents.c.id == conversations.c.agent_id)


def is_visible(tenant: str, conversation_id: ColumnElement[str]) -> Exists:
    """For what belongs to a conversation: it is seen as long as that is."""
    found = exists().select_from(conversations.join(agents, agents.c.id == conversations.c.agent_id))
    return found.where(conversations.c.id == conversation_id, _visible(tenant))


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
        pending_message_id=row.pending_message_id,
    )


def _settings(stored_settings: Any) -> ModelSettings | None:
    return None if stored_settings is None else codec.settings.validate_python(stored_settings)
