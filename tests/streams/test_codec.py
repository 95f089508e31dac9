"""Events as bytes and back: whole, exact to the microsecond, or as their number alone; never an exception."""

from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.bus import Announcement
from streams.codec import MAX_BYTES, decode, decode_list, encode, encode_list
from tests.db.rows import NOON, a_conversation, a_message, a_run
from vocabulary.compaction import CompactionStats
from vocabulary.events import (
    ContextCompacted,
    ConversationChanged,
    Event,
    MessageChanged,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    RunChanged,
    StoredPayload,
    ToolCallChanged,
)
from vocabulary.lists import ListCaughtUp, ListChange, ListChangeKind
from vocabulary.messages import BODY_OF, EventBody, Message, MessageType
from vocabulary.runs import RunStatus

Values = st.SearchStrategy[Any]

zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))])
floats = st.floats(allow_nan=False, allow_infinity=False)
json: Values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | floats | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PLAIN: dict[Any, Values] = {
    str: st.text(max_size=10),
    int: st.integers(0, 2**53),
    float: floats,
    bool: st.booleans(),
    datetime: st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=zones),  # noqa: DTZ001 - the zones come on top
    NoneType: st.none(),
    dict[str, Any]: st.dictionaries(st.text(max_size=5), json, max_size=3),
}


def anything(kind: Any) -> Values:
    """Any value of a type of the vocabulary."""
    if kind in PLAIN:
        return PLAIN[kind]
    if get_origin(kind) is tuple:
        return st.lists(anything(get_args(kind)[0]), max_size=3).map(tuple)
    if isinstance(kind, UnionType):
        return st.one_of([anything(one) for one in get_args(kind)])
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{field.name: anything(hints[field.name]) for field in fields(kind)})  # type: ignore[arg-type]
    assert issubclass(kind, Enum)
    return st.sampled_from(kind)


def messages_of(message_type: MessageType) -> Values:
    hints = get_type_hints(Message) | {"body": BODY_OF[message_type]}
    known = {name: anything(hint) for name, hint in hints.items() if name != "type"}
    return st.builds(Message, type=st.just(message_type), **known)


messages = st.sampled_from(MessageType).flatmap(messages_of)
of_messages = st.sampled_from([MessageStarted, MessageCompleted, MessageChanged]).flatmap(lambda kind: st.builds(kind, messages))
compacted = st.builds(ContextCompacted, messages_of(MessageType.SUMMARY), anything(str | None), anything(CompactionStats))
payloads: Values = of_messages | compacted | anything(MessageDelta | ToolCallChanged | RunChanged | ConversationChanged)
events = st.builds(Event, st.just("conv-1"), anything(int), anything(datetime), anything(str | None), payloads)


@given(event=events)
def test_an_event_arrives_as_it_was(event: Event) -> None:
    data = encode(event)
    assert len(data) <= MAX_BYTES
    assert decode("conv-1", data) == Announcement("conv-1", event.sequence, event)


def delta(text: str) -> Event:
    return Event("conv-1", 7, NOON + timedelta(microseconds=1), "run-1", MessageDelta("message-1", MessageType.ASSISTANT, 5, text))


def test_times_keep_their_microseconds() -> None:
    announced = decode("conv-1", encode(delta("")))
    assert announced is not None
    assert announced.event is not None
    assert announced.event.occurred_at == NOON + timedelta(microseconds=1)


def of_data(value: object) -> StoredPayload:
    return MessageCompleted(a_message("conv-1", type=MessageType.EVENT, body=EventBody(event_type="odd", data={"value": value})))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(None, id="unknown"),
        pytest.param(delta("x" * MAX_BYTES).payload, id="too large"),
        pytest.param(delta("\ud83d").payload, id="half a character"),
        pytest.param(of_data(2**70), id="a number that JSON libraries refuse"),
        pytest.param(of_data(object()), id="no JSON at all"),
    ],
)
def test_what_cannot_travel_arrives_as_its_number(payload: StoredPayload | None) -> None:
    data = encode(Event("conv-1", 7, NOON, "run-1", payload))
    assert len(data) < 20
    assert decode("conv-1", data) == Announcement("conv-1", 7, None)


def changed(place: int, value: object) -> bytes:
    """A delta with something else at one place of it."""
    told = orjson.loads(encode(delta("hello")))
    told[place] = value
    return orjson.dumps(told)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'["SOMETHING_NEW",7,"2026-11-22T12:00:00+00:00",null,{}]', id="kind"),
        pytest.param(b'["RUN_CHANGED",7,"2026-11-22T12:00:00+00:00",null,{"status":"NEW"}]', id="payload"),
        pytest.param(b'["MESSAGE_COMPLETED",7,"2026-11-22T12:00:00+00:00",null,{"message":{"type":"NEW","body":{}}}]', id="message type"),
        pytest.param(b'["MESSAGE_COMPLETED",7,"2026-11-22T12:00:00+00:00",null,[]]', id="shape"),
        pytest.param(b'[["MESSAGE_DELTA"],7]', id="kind of kind"),
        pytest.param(changed(2, "noon"), id="time"),
        pytest.param(changed(5, "NEW"), id="type"),
        pytest.param(changed(8, "call")[:-1] + b',"more"]', id="length"),
    ],
)
def test_what_a_newer_version_wrote_arrives_as_its_number(data: bytes) -> None:
    assert decode("conv-1", data) == Announcement("conv-1", 7, None)


def test_what_a_newer_version_adds_is_passed_over() -> None:
    event = Event("conv-1", 7, NOON, None, MessageCompleted(a_message("conv-1")))
    told = orjson.loads(encode(event))
    told[4]["message"]["mood"] = told[4]["message"]["body"]["mood"] = "good"
    assert decode("conv-1", orjson.dumps(told)) == Announcement("conv-1", 7, event)


def test_what_an_older_version_did_not_write_is_read_from_the_log() -> None:
    told = orjson.loads(encode(Event("conv-1", 7, NOON, None, MessageCompleted(a_message("conv-1")))))
    del told[4]["message"]["in_context"]
    assert decode("conv-1", orjson.dumps(told)) == Announcement("conv-1", 7, None)


@given(data=st.binary(max_size=30) | json.map(orjson.dumps) | st.lists(json, max_size=10).map(orjson.dumps))
def test_nothing_that_arrives_is_an_exception(data: bytes) -> None:
    announced = decode("conv-1", data)
    assert announced is None or announced.event is None


@given(rest=st.lists(json, max_size=8), kind=st.sampled_from(["MESSAGE_DELTA", "RUN_CHANGED", "MESSAGE_STARTED", None]))
def test_nothing_that_begins_well_is_an_exception(kind: str | None, rest: list[Any]) -> None:
    announced = decode("conv-1", orjson.dumps([kind, 7, *rest]))
    assert announced is not None
    assert announced.sequence == 7


def test_the_status_of_a_run_is_an_enum_again() -> None:
    """Equal is not enough: a plain string is equal to its enum."""
    run = a_run("conv-1")
    announced = decode("conv-1", encode(Event("conv-1", 7, NOON, None, RunChanged(run, run.status, None))))
    assert announced is not None
    assert announced.event is not None
    assert isinstance(announced.event.payload, RunChanged)
    assert isinstance(announced.event.payload.status, RunStatus)
    assert isinstance(announced.event.payload.run.status, RunStatus)


# ---- lists


@given(change=anything(ListChange))
def test_a_change_of_a_list_arrives_as_it_was(change: ListChange) -> None:
    assert decode_list(change.tenant, encode_list(change)) == change
    assert decode_list(change.tenant, encode_list(ListCaughtUp(change.tenant))) == ListCaughtUp(change.tenant)


@pytest.mark.parametrize("summary", [pytest.param("x" * MAX_BYTES, id="too large"), pytest.param("\ud83d", id="half a character")])
def test_a_conversation_that_cannot_travel_makes_the_list_be_queried(summary: str) -> None:
    change = ListChange.of(ListChangeKind.CHANGED, a_conversation("agent-1", tenant="one", summary=summary), 1)
    assert decode_list("one", encode_list(change)) == ListCaughtUp("one")


def test_what_cannot_be_read_or_is_another_tenants_is_no_change_of_a_list() -> None:
    change = ListChange.of(ListChangeKind.CHANGED, a_conversation("agent-1", tenant="one"), 1)
    told = orjson.loads(encode_list(change))
    for wrong in (b"", b"[", b"7", b"[1]", b"{}", *(orjson.dumps(told | {name: ["new"]}) for name in told)):
        assert decode_list("one", wrong) is None
    assert decode_list("two", encode_list(change)) is None
    assert decode_list("one", orjson.dumps(told | {"added": 1})) == change
