"""Messages. The row of one in progress holds no text: its text *is* its deltas, read with the row in one statement."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Text,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from db import codec
from db.conversations import is_visible
from db.dialect import json_rows
from db.paging import KeyColumn, KeysetOrder, Page, Window, fetch_pages
from db.tables import conversations, events, messages
from db.trail import TRAIL_KINDS, grown
from vocabulary.conversations import Conversation
from vocabulary.events import EventKind
from vocabulary.messages import Message, MessageStatus, MessageType, ToolCallBody

BY_ORDINAL = KeysetOrder((KeyColumn(messages.c.ordinal),))
BY_START = KeysetOrder((KeyColumn(messages.c.started_sequence),))
"""Of one run, its queued input included: the order in which messages were first announced."""

_OPEN = MessageStatus.IN_PROGRESS.value

# A delta's data is none of a reader's business.
_CALL_AS_TOLD = case((events.c.kind == EventKind.TOOL_CALL_CHANGED.value, events.c.data))
_trail = (
    select(json_rows(events.c.sequence, events.c.kind, events.c.tool_call_id, events.c.text, _CALL_AS_TOLD))
    .where(
        events.c.conversation_id == messages.c.conversation_id,
        events.c.sequence > messages.c.started_sequence,
        events.c.message_id == messages.c.id,
        events.c.kind.in_(TRAIL_KINDS),
    )
    .correlate(messages)
    .scalar_subquery()
)
_all_calls = messages.alias("all_calls")
_calls = (
    select(_all_calls.c.body)
    .where(
        _all_calls.c.run_id == messages.c.run_id,
        _all_calls.c.step_id == messages.c.step_id,
        _all_calls.c.type == MessageType.TOOL_CALL.value,
    )
    .correlate(messages)
    .scalar_subquery()
)
IN_CONTEXT: ColumnElement[bool] = or_(
    messages.c.id == conversations.c.system_message_id,
    messages.c.id == conversations.c.summary_message_id,
    messages.c.in_tail & (messages.c.ordinal >= conversations.c.tail_ordinal),
)
COLUMNS: tuple[ColumnElement[Any], ...] = (
    *(column for column in messages.c if column.name not in ("prunable_since", "started_sequence")),
    func.coalesce(IN_CONTEXT, False).label("in_context"),
    case((messages.c.status == _OPEN, _trail)).label("trail"),
    case((messages.c.type == MessageType.APPROVAL_REQUEST.value, _calls)).label("calls"),
)
_joined = messages.join(conversations, conversations.c.id == messages.c.conversation_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """None: not filtered by."""

    types: Collection[MessageType] | None = None
    group_id: str | None = None
    run_id: str | None = None
    in_context: bool | None = None
    include_errors: bool = False


@dataclass(frozen=True, slots=True)
class Prunable:
    message_id: str
    conversation_id: str
    started_sequence: int
    sequence: int


async def create(connection: AsyncConnection, created: Sequence[Message]) -> None:
    """New rows, each first announced at its `sequence`. Of one in progress the text is left to its deltas."""
    if created:
        await connection.execute(insert(messages), [_values(message) for message in created])


async def close(connection: AsyncConnection, closed: Sequence[Message], *, now: datetime) -> None:
    """Messages in their final state; from now on their deltas are prunable."""
    if closed:
        await connection.execute(_CLOSE, [{**_changing(message), "prunable_since": now} for message in closed])


async def change(connection: AsyncConnection, changed: Sequence[Message]) -> None:
    """Any other change: a queued input that enters history, the state of a tool call."""
    if changed:
        await connection.execute(_CHANGE, [_changing(message) for message in changed])


async def tidy(connection: AsyncConnection, tidied: Sequence[Message]) -> None:
    """Writes bodies that differ only in what nobody is shown, so that the message's state is still that of its number."""
    if tidied:
        await connection.execute(_TIDY, [{"message_id_": message.id, "body": message.body} for message in tidied])


async def by_ids(connection: AsyncConnection, tenant: str, ids: Iterable[str]) -> list[Message]:
    visible = is_visible(tenant, messages.c.conversation_id).correlate(messages)
    query = select(*COLUMNS).select_from(_joined).where(visible, messages.c.id.in_(list(ids)))
    return [message_of(row) for row in await connection.execute(query)]


async def pages(connection: AsyncConnection, conversation_ids: Collection[str], only: Filter, window: Window) -> dict[str, Page[Message]]:
    """History by conversation, oldest first: everything that has an ordinal."""
    return await fetch_pages(connection, _history(only), messages.c.conversation_id, conversation_ids, BY_ORDINAL, window, message_of)


async def counts(connection: AsyncConnection, conversation_ids: Iterable[str], only: Filter) -> dict[str, int]:
    matching = _history(only).where(messages.c.conversation_id.in_(list(conversation_ids)))
    query = matching.with_only_columns(messages.c.conversation_id, func.count()).group_by(messages.c.conversation_id)
    return {row[0]: row[1] for row in await connection.execute(query)}


async def run_pages(connection: AsyncConnection, run_ids: Collection[str], window: Window) -> dict[str, Page[Message]]:
    """By run: its input first, also while that is queued."""
    rows = select(*COLUMNS).select_from(_joined)
    return await fetch_pages(connection, rows, messages.c.run_id, run_ids, BY_START, window, message_of)


async def run_counts(connection: AsyncConnection, run_ids: Iterable[str]) -> dict[str, int]:
    query = select(messages.c.run_id, func.count()).where(messages.c.run_id.in_(list(run_ids))).group_by(messages.c.run_id)
    return {row[0]: row[1] for row in await connection.execute(query)}


async def get(connection: AsyncConnection, message_id: str) -> Message | None:
    """Whoever's it is: for the engine, which follows ids of its own."""
    row = (await connection.execute(select(*COLUMNS).select_from(_joined).where(messages.c.id == message_id))).one_or_none()
    return None if row is None else message_of(row)


async def calls_of_step(connection: AsyncConnection, run_id: str | None, step_id: str | None) -> Message | None:
    """The message of all its calls."""
    step = (messages.c.run_id == run_id) & (messages.c.step_id == step_id)
    query = select(*COLUMNS).select_from(_joined).where(step, messages.c.type == MessageType.TOOL_CALL.value)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else message_of(row)


async def of_run(connection: AsyncConnection, run_id: str) -> list[Message]:
    return (await of_runs(connection, [run_id]))[run_id]


async def of_runs(connection: AsyncConnection, run_ids: Collection[str]) -> dict[str, list[Message]]:
    """By run, each in the order in which they were first announced."""
    query = select(*COLUMNS).select_from(_joined).where(messages.c.run_id.in_(list(run_ids))).order_by(messages.c.started_sequence)
    by_run: dict[str, list[Message]] = {run_id: [] for run_id in run_ids}
    for row in await connection.execute(query):
        by_run[row.run_id].append(message_of(row))
    return by_run


async def context(connection: AsyncConnection, conversation: Conversation) -> list[Message]:
    """What the model is shown, in its order: the system message, the summary, then the tail. Costs what is shown, not what was said."""
    first = (conversation.system_message_id, conversation.summary_message_id)
    asked = {"conversation_id_": conversation.id, "tail_ordinal_": conversation.tail_ordinal, "first_ids": [id_ for id_ in first if id_]}
    shown = [message_of(row) for row in await connection.execute(_CONTEXT, asked)]
    return sorted(shown, key=lambda message: (message.id != first[0], message.id != first[1], message.ordinal))


async def contexts(connection: AsyncConnection, conversation_ids: Iterable[str]) -> dict[str, list[Message]]:
    """As `context`, of several conversations as they are now. Those whose context is empty are missing."""
    by_conversation: dict[str, list[Message]] = {}
    for row in await connection.execute(_CONTEXTS, {"conversation_ids": list(conversation_ids)}):
        by_conversation.setdefault(row.conversation_id, []).append(message_of(row))
    return by_conversation


async def context_characters(connection: AsyncConnection, conversation_id: str, *, before_step: str) -> int:
    """How long what the model was shown in that step is: texts, and calls and returns as they are stored."""
    is_data = messages.c.type.in_([MessageType.TOOL_CALL.value, MessageType.TOOL_RETURN.value])
    length = case((is_data, func.length(cast(messages.c.body, Text))), else_=func.length(messages.c.text)).label("length")
    in_tail = messages.c.in_tail & (messages.c.ordinal >= conversations.c.tail_ordinal) & messages.c.step_id.is_distinct_from(before_step)
    at_top = messages.c.id.in_((conversations.c.system_message_id, conversations.c.summary_message_id))
    # Apart, because together they would read the whole history for the sake of two ids.
    parts = [select(length).select_from(_joined).where(conversations.c.id == conversation_id, part) for part in (in_tail, at_top)]
    lengths = union_all(*parts).subquery()
    return (await connection.execute(select(func.coalesce(func.sum(lengths.c.length), 0)))).scalar_one()


async def search(connection: AsyncConnection, conversation_id: str, text: str, *, but_of_run: str, limit: int) -> list[Message]:
    """What was said that holds this text, literally but for case, newest first."""
    query = (
        select(*COLUMNS)
        .select_from(_joined)
        .where(
            messages.c.conversation_id == conversation_id,
            messages.c.ordinal.is_not(None),
            messages.c.type.in_([kind.value for kind in _SAID]),
            messages.c.text.icontains(text, autoescape=True),
            messages.c.run_id.is_distinct_from(but_of_run),
        )
    )
    return [message_of(row) for row in await connection.execute(query.order_by(messages.c.ordinal.desc()).limit(limit))]


_SAID = (MessageType.USER, MessageType.ASSISTANT, MessageType.SUMMARY)


async def take_prunable(connection: AsyncConnection, *, before: datetime, limit: int) -> list[Prunable]:
    """Closed messages whose deltas are old enough to go, oldest first, and nobody else's until the transaction ends."""
    query = (
        select(messages.c.id, messages.c.conversation_id, messages.c.started_sequence, messages.c.sequence)
        .where(messages.c.prunable_since < before)
        .order_by(messages.c.prunable_since)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    return [Prunable(*row) for row in await connection.execute(query)]


async def prune(connection: AsyncConnection, taken: Sequence[Prunable]) -> None:
    if taken:
        values = [
            {"message_id_": p.message_id, "conversation_id_": p.conversation_id, "first": p.started_sequence, "last": p.sequence}
            for p in taken
        ]
        await connection.execute(_DELETE_DELTAS, values)
        await connection.execute(update(messages).where(messages.c.id.in_([p.message_id for p in taken])).values(prunable_since=None))


def _history(only: Filter) -> Select[Any]:
    query = select(*COLUMNS).select_from(_joined).where(messages.c.ordinal.is_not(None))
    if only.types is not None:
        query = query.where(messages.c.type.in_([kind.value for kind in only.types]))
    elif not only.include_errors:
        query = query.where(messages.c.type != MessageType.ERROR.value)
    if only.group_id is not None:
        query = query.where(messages.c.group_id == only.group_id)
    if only.run_id is not None:
        query = query.where(messages.c.run_id == only.run_id)
    if only.in_context is not None:
        query = query.where(func.coalesce(IN_CONTEXT, False) == only.in_context)
    return query


# Two short index scans; one condition with OR would read the whole conversation.
_CONTEXT = union_all(
    select(*COLUMNS).select_from(_joined).where(messages.c.id.in_(bindparam("first_ids", expanding=True))),
    select(*COLUMNS)
    .select_from(_joined)
    .where(
        messages.c.conversation_id == bindparam("conversation_id_"),
        messages.c.ordinal >= bindparam("tail_ordinal_"),
        messages.c.in_tail,
    ),
)


def _at(place: int, belongs: ColumnElement[bool]) -> Select[Any]:
    """What belongs to the contexts at one of their three places."""
    source = conversations.join(messages, belongs)
    asked = conversations.c.id.in_(bindparam("conversation_ids", expanding=True))
    return select(*COLUMNS, literal(place).label("place")).select_from(source).where(asked)


_shown = union_all(
    _at(0, messages.c.id == conversations.c.system_message_id),
    _at(1, messages.c.id == conversations.c.summary_message_id),
    _at(
        2,
        (messages.c.conversation_id == conversations.c.id) & (messages.c.ordinal >= conversations.c.tail_ordinal) & messages.c.in_tail,
    ),
).subquery()
_CONTEXTS = select(_shown).order_by(_shown.c.place, _shown.c.ordinal)

_CHANGING = ("status", "ordinal", "text", "body", "in_tail", "sequence")
_CHANGE = update(messages).where(messages.c.id == bindparam("message_id_")).values({name: bindparam(name) for name in _CHANGING})
_TIDY = update(messages).where(messages.c.id == bindparam("message_id_")).values(body=bindparam("body"))
_CLOSE = _CHANGE.values(prunable_since=bindparam("prunable_since"))
_DELETE_DELTAS = delete(events).where(
    events.c.conversation_id == bindparam("conversation_id_"),
    events.c.sequence.between(bindparam("first"), bindparam("last")),
    events.c.message_id == bindparam("message_id_"),
    events.c.kind == EventKind.MESSAGE_DELTA.value,
)


def _changing(message: Message) -> dict[str, Any]:
    return {"message_id_": message.id, **{name: getattr(message, name) for name in _CHANGING}}


def _values(message: Message) -> Mapping[str, Any]:
    values = {column.name: getattr(message, column.name, None) for column in messages.c}
    values["started_sequence"] = message.sequence
    return values


def message_of(row: Row[Any]) -> Message:
    """From a row with COLUMNS."""
    kind, body = codec.message_type_and_body(row.type, row.body)
    message = Message(
        id=row.id,
        conversation_id=row.conversation_id,
        type=kind,
        status=MessageStatus(row.status),
        ordinal=row.ordinal,
        text=row.text,
        body=body,
        in_tail=row.in_tail,
        in_context=bool(row.in_context),
        group_id=row.group_id,
        run_id=row.run_id,
        step_id=row.step_id,
        sequence=row.sequence,
        created_at=row.created_at,
    )
    if row.calls is not None:
        message = _as_now(message, row.calls)
    return grown(message, row.trail) if row.trail else message


def _as_now(request: Message, stored: Any) -> Message:
    """What has become of the calls that were waited for is told by the message of all calls of their step."""
    _, everything = codec.message_type_and_body(MessageType.TOOL_CALL, stored)
    if not (isinstance(request.body, ToolCallBody) and isinstance(everything, ToolCallBody)):
        return request
    waiting = {call.id for call in request.body.tool_calls}
    return replace(request, body=ToolCallBody(tool_calls=tuple(call for call in everything.tool_calls if call.id in waiting)))
