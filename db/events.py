"""The log of record: one row per number of a conversation. Stored here, read back here, with the rows that an event shows.

Events and rows come from one statement, so what a page says of a message is as true as its head. An event stores only what its rows
do not: a delta's text, the status that a run change announced, a tool call that appeared in an unfinished message.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Row, bindparam, case, func, or_, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from db import codec, conversations, messages, runs, tables
from db.dialect import insert_rows
from db.tables import events, heads
from db.types import plain
from vocabulary.events import (
    ContextCompacted,
    ConversationChanged,
    DeltaMode,
    Event,
    EventKind,
    MessageChanged,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    ResetReason,
    RunChanged,
    StoredPayload,
    StreamReset,
    ToolCallChanged,
)
from vocabulary.fold import merged
from vocabulary.messages import Message, MessageStatus, MessageType, ReasoningBody, ToolCall, ToolCallBody
from vocabulary.runs import RunStatus, StopReason

_OPEN = (MessageStatus.QUEUED.value, MessageStatus.IN_PROGRESS.value)
_INPUTS = (MessageType.USER, MessageType.SYSTEM)
_NONCE = "nonce"  # a key beside those that the event's kind has


@dataclass(frozen=True, slots=True)
class LogPage:
    """`end`: every number up to it is accounted for, so the next page starts after it. `head`: of the conversation, at this read.

    `deleted`: what stands at the head is the reset that ends every stream.
    """

    events: tuple[Event, ...]
    end: int
    head: int
    deleted: bool = False

    @property
    def has_more(self) -> bool:
        return self.end < self.head


# ---- writing


async def append(connection: AsyncConnection, appended: Sequence[Event], *, nonce: str | None = None) -> None:
    """The caller holds the lock of every head whose numbers these are, in this transaction.

    `nonce`: stored with the first of them, so that it can be told later whether it was this transaction that was committed.
    """
    if appended:
        rows = [_values(event) for event in appended]
        if nonce is not None:
            rows[0]["data"] = {**(plain(rows[0]["data"]) or {}), _NONCE: nonce}
        await insert_rows(connection, events, rows)


def _values(event: Event) -> dict[str, Any]:
    values: dict[str, Any] = {
        "conversation_id": event.conversation_id,
        "sequence": event.sequence,
        "kind": _KIND_OF[type(event.payload)].value,
        "occurred_at": event.occurred_at,
        "run_id": event.run_id,
        "message_id": None,
        "tool_call_id": None,
        "offset": None,
        "text": None,
        "data": None,
    }
    match event.payload:
        case MessageDelta() as delta:
            values |= {"message_id": delta.message_id, "tool_call_id": delta.tool_call_id, "offset": delta.offset, "text": delta.text}
        case MessageStarted(message) | MessageCompleted(message) | MessageChanged(message):
            values["message_id"] = message.id
        case ToolCallChanged(message_id, _, call):
            # The arguments are in the message's row, or still in its deltas.
            values |= {"message_id": message_id, "tool_call_id": call.id, "data": replace(call, arguments_text="")}
        case RunChanged(_, status, stop_reason):
            values["data"] = {"status": status, "stop_reason": stop_reason}
        case ContextCompacted(summary, first_kept_message_id, stats):
            values |= {"message_id": summary.id, "data": {"first_kept": first_kept_message_id, "stats": stats}}
        case StreamReset(reason):
            values["data"] = {"reason": reason}
        case ConversationChanged() | None:
            pass
    return values


_KIND_OF: dict[type[StoredPayload] | type[None], EventKind] = {
    MessageStarted: EventKind.MESSAGE_STARTED,
    MessageDelta: EventKind.MESSAGE_DELTA,
    MessageCompleted: EventKind.MESSAGE_COMPLETED,
    MessageChanged: EventKind.MESSAGE_CHANGED,
    ToolCallChanged: EventKind.TOOL_CALL_CHANGED,
    RunChanged: EventKind.RUN_CHANGED,
    ConversationChanged: EventKind.CONVERSATION_CHANGED,
    ContextCompacted: EventKind.CONTEXT_COMPACTED,
    StreamReset: EventKind.RESET,
}


# ---- reading


@dataclass(frozen=True, slots=True)
class Probe:
    """Was this number of a conversation stored with this nonce?"""

    conversation_id: str
    sequence: int
    nonce: str


async def found(connection: AsyncConnection, probes: Sequence[Probe]) -> set[Probe]:
    """Those that were."""
    number = (events.c.conversation_id, events.c.sequence)
    query = select(*number, events.c.data).where(tuple_(*number).in_([(probe.conversation_id, probe.sequence) for probe in probes]))
    rows = await connection.execute(query)
    return {Probe(row.conversation_id, row.sequence, row.data[_NONCE]) for row in rows if row.data and _NONCE in row.data}


async def backlog(connection: AsyncConnection, conversation_id: str, *, after: int, run_id: str | None, at_most: int) -> int:
    """How many durable events (all but deltas) lie after a position; counted no further than `at_most`."""
    found = select(events.c.sequence).where(
        events.c.conversation_id == conversation_id,
        events.c.sequence > after,
        events.c.kind != EventKind.MESSAGE_DELTA.value,
        true() if run_id is None else events.c.run_id == run_id,
    )
    return (await connection.execute(select(func.count()).select_from(found.limit(at_most).subquery()))).scalar_one()


async def read(
    connection: AsyncConnection, conversation_id: str, *, after: int, mode: DeltaMode, limit: int, run_id: str | None = None
) -> LogPage | None:
    """Up to `limit` stored events after a position, folded by `mode`; None when there is no such conversation.

    ALL: as stored. COALESCED: what is complete is shown complete (no start, no deltas), neighbouring deltas of what is not come
    merged, and of each run only its last change is shown. NONE: COALESCED without any delta.
    """
    given = {"conversation": conversation_id, "after": after, "most": limit, "run": run_id}
    rows = (await connection.execute(_query(mode, of_run=run_id is not None), given)).all()
    if not rows:
        return None
    head: int = rows[0].head_sequence
    found = [row for row in rows if row.e_sequence is not None]
    end: int = found[-1].e_sequence if len(found) == limit else max(head, after)
    return LogPage(tuple(_fold(found, mode)), end, head, deleted=rows[0].deleted)


@cache
def _query(mode: DeltaMode, *, of_run: bool) -> Any:
    """Built once for each: building it costs more than running it."""
    conversation_id: BindParameter[str] = bindparam("conversation")
    picked = (
        select(events)
        .where(events.c.conversation_id == conversation_id, events.c.sequence > bindparam("after"), _stored_for(mode, conversation_id))
        .where(or_(events.c.run_id == bindparam("run"), events.c.kind == EventKind.RESET.value) if of_run else true())
        .order_by(events.c.sequence)
        .limit(bindparam("most"))
        .subquery("e")
    )
    shows_run = (tables.runs.c.id == picked.c.run_id) & (picked.c.kind == EventKind.RUN_CHANGED.value)
    source = (
        heads.join(tables.conversations, tables.conversations.c.id == heads.c.conversation_id)
        .outerjoin(picked, true())
        .outerjoin(tables.messages, tables.messages.c.id == picked.c.message_id)
        .outerjoin(tables.runs, shows_run)
    )
    # What an event does not show is not computed: most rows are deltas.
    shows_conversation = picked.c.kind == EventKind.CONVERSATION_CHANGED.value
    whole = picked.c.kind != EventKind.MESSAGE_DELTA.value
    # Only a call in an unfinished message is shown as far as it has come; everything else of one is told by its deltas.
    shown_for = {"trail": picked.c.kind == EventKind.TOOL_CALL_CHANGED.value}
    columns = (
        *_labelled("e", (case((whole, c)).label(c.name) if c.name == "data" else c for c in picked.c)),
        *_labelled("m", (c if c.name == "type" else case((shown_for.get(c.name, whole), c)).label(c.name) for c in messages.COLUMNS)),
        *_labelled("r", tables.runs.c),
        *_labelled("c", (case((shows_conversation, c)).label(c.name) for c in conversations.COLUMNS if c.name != "head_sequence")),
    )
    deleted = tables.conversations.c.deleted_at.is_not(None).label("deleted")
    query = select(heads.c.head_sequence, deleted, *columns).select_from(source).where(heads.c.conversation_id == conversation_id)
    return query.order_by(picked.c.sequence)


def _labelled(prefix: str, columns: Any) -> list[ColumnElement[Any]]:
    return [column.label(f"{prefix}_{column.name}") for column in columns]


def _part(row: Row[Any], prefix: str) -> Any:
    """The columns of one table in a row of several, under their own names."""
    start = len(prefix) + 1
    return SimpleNamespace(**{name[start:]: value for name, value in row._mapping.items() if name.startswith(f"{prefix}_")})  # pyright: ignore[reportPrivateUsage]


def _stored_for(mode: DeltaMode, conversation_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Leaves out in the database what the fold would drop by the thousand."""
    durable = events.c.kind != EventKind.MESSAGE_DELTA.value
    match mode:
        case DeltaMode.ALL:
            return true()
        case DeltaMode.NONE:
            return durable
        case DeltaMode.COALESCED:  # asked for by the conversation, not by each event's: once for all of them
            unfinished = select(tables.messages.c.id).where(tables.open_messages_of(conversation_id))
            return or_(durable, events.c.message_id.in_(unfinished))


def _fold(rows: Sequence[Row[Any]], mode: DeltaMode) -> list[Event]:
    result: list[Event] = []
    neighbour = False  # whether the row before this one was shown: a delta never merges across anything
    for row in rows:
        if mode is not DeltaMode.ALL and _superseded(row):
            neighbour = False
            continue
        event = _event_of(row)
        together = merged(result[-1], event) if neighbour and mode is not DeltaMode.ALL else None
        if together is None:
            result.append(event)
        else:
            result[-1] = together
        neighbour = True
    return result


def _superseded(row: Row[Any]) -> bool:
    """A start whose completion lies at or below this read's head, a run change that is not its run's last up to there."""
    match row.e_kind:
        case EventKind.MESSAGE_STARTED.value:
            return row.m_status not in _OPEN
        case EventKind.RUN_CHANGED.value:
            return row.r_sequence != row.e_sequence
        case _:
            return False


def _event_of(row: Row[Any]) -> Event:
    try:
        payload = _payload_of(row)
    except ValueError:  # a newer version's word, in this row or in one that it shows: its number still counts
        payload = None
    return Event(row.e_conversation_id, row.e_sequence, row.e_occurred_at, row.e_run_id, payload)


def _payload_of(row: Row[Any]) -> StoredPayload | None:
    match row.e_kind:
        case EventKind.MESSAGE_DELTA.value:
            return MessageDelta(row.e_message_id, MessageType(row.m_type), row.e_offset, row.e_text, row.e_tool_call_id)
        case EventKind.MESSAGE_STARTED.value:
            return MessageStarted(_as_started(messages.message_of(_part(row, "m")), row.e_sequence))
        case EventKind.MESSAGE_COMPLETED.value:
            return MessageCompleted(messages.message_of(_part(row, "m")))
        case EventKind.MESSAGE_CHANGED.value:
            return MessageChanged(messages.message_of(_part(row, "m")))
        case EventKind.TOOL_CALL_CHANGED.value:
            call = codec.tool_call.validate_python(row.e_data)
            return ToolCallChanged(row.e_message_id, MessageType(row.m_type), _as_now(call, messages.message_of(_part(row, "m"))))
        case EventKind.RUN_CHANGED.value:
            stop_reason = row.e_data["stop_reason"]
            return RunChanged(
                runs.run_of(_part(row, "r")), RunStatus(row.e_data["status"]), None if stop_reason is None else StopReason(stop_reason)
            )
        case EventKind.CONVERSATION_CHANGED.value:
            part = _part(row, "c")
            part.head_sequence = row.head_sequence
            return ConversationChanged(conversations.conversation_of(part))
        case EventKind.CONTEXT_COMPACTED.value:
            stats = codec.compaction_stats.validate_python(row.e_data["stats"])
            return ContextCompacted(messages.message_of(_part(row, "m")), row.e_data["first_kept"], stats)
        case EventKind.RESET.value:
            return StreamReset(ResetReason(row.e_data["reason"]), row.e_sequence)
        case _:
            return None


def _as_started(message: Message, sequence: int) -> Message:
    """What is known of a started message at its start: a queued input is whole, anything else is empty."""
    if message.type in _INPUTS:
        return replace(message, status=MessageStatus.QUEUED, ordinal=None, in_context=False, sequence=sequence)
    body = type(message.body)() if isinstance(message.body, ToolCallBody | ReasoningBody) else message.body
    return replace(message, status=MessageStatus.IN_PROGRESS, text="", body=body, sequence=sequence)


def _as_now(call: ToolCall, message: Message) -> ToolCall:
    """The call as its message has it by now, arguments included; else as the event has it."""
    if isinstance(message.body, ToolCallBody):
        for stored in message.body.tool_calls:
            if stored.id == call.id:
                return stored
    return call
