"""Messages as they are read: in progress with the text so far, finished as their rows say, and what nobody can read any more."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from db import events, messages, tables
from db.engine import Database
from db.messages import Filter
from db.paging import Window
from streams.bus import MemoryBus
from streams.log import Log
from tests.db.rows import NOON, TENANT, a_call, a_message, stored_conversation
from tests.rig import utc_now
from tests.streams.telling import Teller
from vocabulary.events import DeltaMode, Event, MessageDelta, MessageStarted, ToolCallChanged
from vocabulary.messages import ErrorBody, Message, MessageBody, MessageStatus, MessageType, PlainBody, ToolCall, ToolCallBody, UserBody
from vocabulary.runs import RunError, RunErrorType


@pytest.fixture
async def teller(database: Database) -> Teller:
    return Teller(Log(database, MemoryBus(), utc_now), (await stored_conversation(database)).id)


async def history(database: Database, teller: Teller, only: Filter | None = None) -> list[Message]:
    async with database.read() as connection:
        pages = await messages.pages(connection, [teller.conversation_id], only or Filter(), Window(size=100))
    return [part.item for part in pages[teller.conversation_id].slices]


async def stored(database: Database, *created: Message) -> None:
    async with database.write() as connection:
        await messages.create(connection, created)


# ---- in progress


async def test_a_message_in_progress_is_read_with_the_text_so_far(database: Database, teller: Teller) -> None:
    started = await teller.start()
    assert [(message.text, message.sequence) for message in await history(database, teller)] == [("", started.sequence)]
    for piece in ("🚀", " to", " 🪐"):
        last = await teller.grow(piece)
    [message] = await history(database, teller)
    assert (message.text, message.status, message.sequence) == ("🚀 to 🪐", MessageStatus.IN_PROGRESS, last.sequence)
    async with database.read() as connection:
        assert await messages.by_ids(connection, TENANT, [message.id]) == [message]
    finished = await teller.finish()
    [message] = await history(database, teller)
    assert (message.text, message.status, message.sequence) == ("🚀 to 🪐", MessageStatus.COMPLETED, finished.sequence)


async def test_calls_in_progress_are_read_with_their_arguments_so_far(database: Database, teller: Teller) -> None:
    """Two grow side by side; a third has no arguments yet."""
    calls = [a_call(name=name, provider_call_id=f"given-{name}") for name in ("look", "listen", "wait")]
    message = a_message(teller.conversation_id, type=MessageType.TOOL_CALL, status=MessageStatus.IN_PROGRESS, body=ToolCallBody())
    await stored(database, message)
    await teller.tell(MessageStarted(message))
    for call in calls:
        await teller.tell(ToolCallChanged(message.id, message.type, call))
    for offset, piece in enumerate('{"🚀":'):
        for call in calls[:2]:
            await teller.tell(MessageDelta(message.id, message.type, offset, piece, call.id))
    [read] = await history(database, teller)
    grown = [replace(call, arguments_text='{"🚀":' if call in calls[:2] else "") for call in calls]
    assert read.body == ToolCallBody(tool_calls=tuple(grown))
    assert (read.text, read.sequence) == ("", 1 + 3 + 2 * 5)


async def test_what_comes_between_belongs_to_another_message(database: Database, teller: Teller) -> None:
    await teller.start()
    other = a_message(teller.conversation_id, status=MessageStatus.IN_PROGRESS, ordinal=100, sequence=1)
    await stored(database, other)
    for number in range(3):
        await teller.grow(str(number))
        await teller.tell(MessageDelta(other.id, other.type, number, "x"))
    assert [message.text for message in await history(database, teller)] == ["012", "xxx"]


async def test_a_queued_message_is_whole_and_not_in_history(database: Database, teller: Teller) -> None:
    queued = a_message(
        teller.conversation_id, type=MessageType.USER, status=MessageStatus.QUEUED, ordinal=None, text="later", run_id="run-1"
    )
    queued = replace(queued, body=UserBody(content=()), in_context=False)
    await stored(database, queued)
    assert await history(database, teller) == []
    async with database.read() as connection:
        assert await messages.by_ids(connection, TENANT, [queued.id]) == [queued]
        assert await messages.of_run(connection, "run-1") == [queued]
        assert await messages.by_ids(connection, "another", [queued.id]) == []


# ---- history


async def test_history_is_filtered_by_kind_group_run_and_context(database: Database, teller: Teller) -> None:
    kinds: dict[MessageType, MessageBody] = {
        MessageType.USER: UserBody(content=()),
        MessageType.ASSISTANT: PlainBody(),
        MessageType.ERROR: ErrorBody(error=RunError(RunErrorType.INTERNAL, "It broke.")),
    }
    await stored(
        database,
        *(
            a_message(teller.conversation_id, type=kind, body=body, ordinal=2 * number + other, in_tail=bool(other), **where)
            for number, (kind, body) in enumerate(kinds.items())
            for other, where in enumerate([{"run_id": "run-1"}, {"group_id": "group-1"}])
        ),
    )

    async def found(**only: Any) -> list[tuple[str, int]]:
        return [(message.type, message.ordinal or 0) for message in await history(database, teller, Filter(**only))]

    assert await found() == [("USER", 0), ("USER", 1), ("ASSISTANT", 2), ("ASSISTANT", 3)]
    assert len(await found(include_errors=True)) == 6
    assert await found(types=[MessageType.ERROR]) == [("ERROR", 4), ("ERROR", 5)]
    assert await found(types=[]) == []
    assert await found(run_id="run-1") == [("USER", 0), ("ASSISTANT", 2)]
    assert await found(group_id="group-1", types=[MessageType.USER]) == [("USER", 1)]
    assert await found(in_context=True) == [("USER", 1), ("ASSISTANT", 3)]
    assert await found(in_context=False) == [("USER", 0), ("ASSISTANT", 2)]
    async with database.read() as connection:
        assert await messages.counts(connection, [teller.conversation_id], Filter(run_id="run-1")) == {teller.conversation_id: 2}


# ---- what this version cannot read


@pytest.mark.parametrize(
    "unreadable",
    [{"type": "HOLOGRAM"}, {"body": {"tool_calls": "none"}}, {"body": []}, {"type": "TOOL_RETURN"}],
    ids=["an-unknown-kind", "a-body-of-another-shape", "no-object", "a-body-of-another-kind"],
)
async def test_a_row_that_cannot_be_read_is_shown_as_an_error_among_the_others(
    database: Database, teller: Teller, unreadable: dict[str, Any]
) -> None:
    created = [a_message(teller.conversation_id, type=MessageType.TOOL_CALL, body=ToolCallBody(), ordinal=o, sequence=o) for o in (1, 2, 3)]
    await stored(database, *created)
    async with database.write() as connection:
        await connection.execute(update(tables.messages).where(tables.messages.c.id == created[1].id).values(**unreadable))
    read = await history(database, teller)
    assert [message.type for message in read] == [MessageType.TOOL_CALL, MessageType.ERROR, MessageType.TOOL_CALL]
    assert isinstance(read[1].body, ErrorBody)
    assert read[1].body.error.type is RunErrorType.INTERNAL
    assert (read[1].id, read[1].ordinal) == (created[1].id, 2)


async def test_what_a_newer_version_added_to_a_row_is_passed_over(database: Database, teller: Teller) -> None:
    call = a_call()
    created = a_message(teller.conversation_id, type=MessageType.TOOL_CALL, body=ToolCallBody(tool_calls=(call,)))
    await stored(database, created)
    newer = {"tool_calls": [{"id": call.id, "name": "look", "state": "STREAMING", "source": "BUILTIN", "colour": "blue"}], "mood": "new"}
    async with database.write() as connection:
        await connection.execute(update(tables.messages).values(body=newer))
    assert await history(database, teller) == [replace(created, body=ToolCallBody(tool_calls=(call,)))]


# ---- pruning


async def prune(database: Database, *, limit: int = 100) -> int:
    async with database.write() as connection:
        found = await messages.take_prunable(connection, before=utc_now() + timedelta(seconds=1), limit=limit)
        await messages.prune(connection, found)
    return len(found)


async def log_of(database: Database, teller: Teller) -> list[Event]:
    async with database.read() as connection:
        page = await events.read(connection, teller.conversation_id, after=0, mode=DeltaMode.ALL, limit=1000)
    assert page is not None
    return list(page.events)


async def test_only_the_deltas_of_finished_messages_are_pruned(database: Database, teller: Teller) -> None:
    await teller.start()
    other = a_message(teller.conversation_id, status=MessageStatus.IN_PROGRESS, ordinal=100, sequence=1)
    await stored(database, other)
    for number in range(3):
        await teller.grow(str(number))
        await teller.tell(MessageDelta(other.id, other.type, number, "x"))
    finished = await teller.finish()
    await teller.say("whole")
    before = await history(database, teller)
    assert await prune(database) == 1
    kept = [event.sequence for event in await log_of(database, teller)]
    assert kept == [1, 3, 5, 7, finished.sequence, finished.sequence + 1]
    assert await history(database, teller) == before


async def test_what_was_pruned_is_not_found_again(database: Database, teller: Teller) -> None:
    for _ in range(3):
        await teller.start()
        await teller.grow("🚀")
        await teller.finish()
    assert [await prune(database, limit=2) for _ in range(3)] == [2, 1, 0]
    assert not any(isinstance(event.payload, MessageDelta) for event in await log_of(database, teller))


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_two_who_prune_at_once_do_not_wait_for_each_other(database: Database) -> None:
    conversation = await stored_conversation(database)
    closed = [a_message(conversation.id, ordinal=number, sequence=number) for number in (1, 2, 3)]
    async with database.write() as connection:
        await messages.create(connection, closed)
        await messages.close(connection, closed, now=NOON)
    async with database.write() as one, database.write() as other:
        first = await messages.take_prunable(one, before=utc_now(), limit=2)
        second = await messages.take_prunable(other, before=utc_now(), limit=2)
        await messages.prune(one, first)
        await messages.prune(other, second)
    assert sorted(p.message_id for p in first + second) == sorted(message.id for message in closed)


async def test_what_was_finished_a_moment_ago_is_kept(database: Database, teller: Teller) -> None:
    await teller.start()
    await teller.finish()
    async with database.write() as connection:
        assert await messages.take_prunable(connection, before=NOON - timedelta(days=1000), limit=10) == []


async def test_the_arguments_of_calls_are_pruned_and_their_changes_kept(database: Database, teller: Teller) -> None:
    call = a_call()
    message = a_message(teller.conversation_id, type=MessageType.TOOL_CALL, status=MessageStatus.IN_PROGRESS, body=ToolCallBody())
    await stored(database, message)
    await teller.tell(MessageStarted(message))
    await teller.tell(ToolCallChanged(message.id, message.type, call))
    await teller.tell(MessageDelta(message.id, message.type, 0, "{}", call.id))
    full: ToolCall = replace(call, arguments_text="{}")
    closed = replace(message, status=MessageStatus.COMPLETED, body=ToolCallBody(tool_calls=(full,)), sequence=3)
    async with database.write() as connection:
        await messages.close(connection, [closed], now=NOON)
    assert await prune(database) == 1
    [_, changed] = await log_of(database, teller)
    assert changed.payload == ToolCallChanged(message.id, message.type, full)
