"""Events and changes of lists as bytes, for their way between processes: JSON arrays that begin with the kind and the number.

Whose they are, the topic says. Deltas, nearly all there is, are flat arrays and take a short way. Anything else travels as its
dataclasses and is read back by its types. An event that does not fit, or was written by a version that this one cannot read, arrives
as its number alone: the log has it.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from streams.bus import Announcement
from vocabulary.events import (
    ContextCompacted,
    ConversationChanged,
    Event,
    EventKind,
    MessageChanged,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    RunChanged,
    StoredPayload,
    StreamReset,
    ToolCallChanged,
)
from vocabulary.lists import ListCaughtUp, ListChange, ListItem
from vocabulary.messages import BODY_OF, Message, MessageBody, MessageType

MAX_BYTES = 64 << 10

_DELTA = EventKind.MESSAGE_DELTA.value
_TYPES: dict[str, MessageType] = {kind.value: kind for kind in MessageType}


def encode(event: Event) -> bytes:
    """At most MAX_BYTES; the number alone when the event is larger, or holds what JSON cannot."""
    try:
        encoded = orjson.dumps(_laid_out(event))
    except TypeError:
        return _number_alone(event.sequence)
    return encoded if len(encoded) <= MAX_BYTES else _number_alone(event.sequence)


def decode(conversation_id: str, data: bytes) -> Announcement | None:
    """None: not even the number can be read."""
    try:
        kind, sequence, *rest = orjson.loads(data)
    except (ValueError, TypeError):
        return None
    if type(sequence) is not int:
        return None
    try:
        occurred_at, run_id, payload = _read_delta(*rest) if kind == _DELTA else _read_other(kind, *rest)
    except (ValueError, TypeError, KeyError, ValidationError):
        return Announcement(conversation_id, sequence, None)
    return Announcement(conversation_id, sequence, Event(conversation_id, sequence, occurred_at, run_id, payload))


def encode_list(item: ListItem) -> bytes:
    """A conversation that does not fit makes who hears of it query the list."""
    if isinstance(item, ListCaughtUp):
        return _CAUGHT_UP
    try:
        encoded = orjson.dumps(item)
    except TypeError:
        return _CAUGHT_UP
    return encoded if len(encoded) <= MAX_BYTES else _CAUGHT_UP


def decode_list(tenant: str, data: bytes) -> ListItem | None:
    """None: it cannot be read."""
    if data == _CAUGHT_UP:
        return ListCaughtUp(tenant)
    try:
        change = _list_change.validate_python(orjson.loads(data))
    except (ValueError, ValidationError):
        return None
    return change if change.tenant == tenant else None


def _number_alone(sequence: int) -> bytes:
    return orjson.dumps((None, sequence))


def _laid_out(event: Event) -> tuple[Any, ...]:
    payload = event.payload
    if isinstance(payload, MessageDelta):
        said = (payload.message_id, payload.message_type, payload.offset, payload.text, payload.tool_call_id)
        return (_DELTA, event.sequence, event.occurred_at, event.run_id, *said)
    if payload is None:
        return (None, event.sequence)
    return (_KIND_OF[type(payload)], event.sequence, event.occurred_at, event.run_id, payload)


Read = tuple[datetime, str | None, StoredPayload]


def _read_delta(
    occurred_at: str, run_id: str | None, message_id: str, message_type: str, offset: int, text: str, tool_call_id: str | None
) -> Read:
    delta = MessageDelta(message_id, _TYPES[message_type], offset, text, tool_call_id)
    return datetime.fromisoformat(occurred_at), run_id, delta


def _read_other(kind: str, occurred_at: str, run_id: str | None, payload: dict[str, Any]) -> Read:
    return datetime.fromisoformat(occurred_at), run_id, _READERS[kind](payload)


_KIND_OF: dict[type[StoredPayload], EventKind] = {
    MessageStarted: EventKind.MESSAGE_STARTED,
    MessageCompleted: EventKind.MESSAGE_COMPLETED,
    MessageChanged: EventKind.MESSAGE_CHANGED,
    ToolCallChanged: EventKind.TOOL_CALL_CHANGED,
    RunChanged: EventKind.RUN_CHANGED,
    ConversationChanged: EventKind.CONVERSATION_CHANGED,
    ContextCompacted: EventKind.CONTEXT_COMPACTED,
    StreamReset: EventKind.RESET,
}

_CAUGHT_UP = orjson.dumps(None)
_list_change = TypeAdapter(ListChange)
_message = TypeAdapter(Message)
_compacted = TypeAdapter(ContextCompacted)
_bodies: dict[str, TypeAdapter[MessageBody]] = {kind.value: TypeAdapter(body) for kind, body in BODY_OF.items()}
_READERS: dict[str, Callable[[Any], StoredPayload]] = {
    EventKind.MESSAGE_STARTED: lambda payload: MessageStarted(_read_message(payload["message"])),
    EventKind.MESSAGE_COMPLETED: lambda payload: MessageCompleted(_read_message(payload["message"])),
    EventKind.MESSAGE_CHANGED: lambda payload: MessageChanged(_read_message(payload["message"])),
    EventKind.TOOL_CALL_CHANGED: TypeAdapter(ToolCallChanged).validate_python,
    EventKind.RUN_CHANGED: TypeAdapter(RunChanged).validate_python,
    EventKind.CONVERSATION_CHANGED: TypeAdapter(ConversationChanged).validate_python,
    EventKind.CONTEXT_COMPACTED: lambda payload: _compacted.validate_python({**payload, "summary": _read_message(payload["summary"])}),
    EventKind.RESET: TypeAdapter(StreamReset).validate_python,
}


def _read_message(fields: dict[str, Any]) -> Message:
    """Which class the body is of, only the message's type tells."""
    body = _bodies[fields["type"]].validate_python(fields["body"])
    return _message.validate_python({**fields, "body": body})
