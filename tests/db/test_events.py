"""The log as it is read back: every kind as it was told, folded by mode, and what a newer version wrote without stopping anything."""

from dataclasses import replace

import pytest
from sqlalchemy import insert, update

from db import conversations, events, messages, runs, tables
from db.engine import Database
from db.events import LogPage, Probe
from streams.bus import MemoryBus
from streams.log import Log
from tests.db.rows import NOON, a_call, a_message, a_run, stored_conversation
from tests.rig import utc_now
from tests.streams.telling import Teller
from vocabulary.compaction import CompactionMode, CompactionStats, CompactionTrigger
from vocabulary.conversations import Conversation
from vocabulary.events import (
    ContextCompacted,
    ConversationChanged,
    DeltaMode,
    Event,
    MessageChanged,
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    RunChanged,
    StoredPayload,
    ToolCallChanged,
)
from vocabulary.messages import Message, MessageStatus, MessageType, SummaryBody, ToolCallBody, ToolCallState, UserBody
from vocabulary.runs import Run, RunStatus, StopReason

STATS = CompactionStats(
    trigger=CompactionTrigger.CONTEXT_OVERFLOW,
    mode=CompactionMode.ALL,
    messages_before=9,
    messages_after=3,
    tokens_before=90,
    tokens_after=30,
)


@pytest.fixture
async def teller(database: Database) -> Teller:
    return Teller(Log(database, MemoryBus(), utc_now), (await stored_conversation(database)).id)


async def read(
    database: Database, teller: Teller, mode: DeltaMode = DeltaMode.ALL, *, after: int = 0, limit: int = 1000, run_id: str | None = None
) -> LogPage:
    async with database.read() as connection:
        page = await events.read(connection, teller.conversation_id, after=after, mode=mode, limit=limit, run_id=run_id)
    assert page is not None
    return page


def shape(page: LogPage) -> list[tuple[int, str]]:
    return [(event.sequence, type(event.payload).__name__) for event in page.events]


async def stored(database: Database, *rows: Message | Run) -> None:
    async with database.write() as connection:
        await messages.create(connection, [row for row in rows if isinstance(row, Message)])
        for row in rows:
            if isinstance(row, Run):
                await runs.create(connection, row)


async def shown(database: Database, teller: Teller) -> Conversation:
    async with database.read() as connection:
        return (await conversations.read(connection, [teller.conversation_id]))[teller.conversation_id]


# ---- every kind


async def test_every_kind_of_event_is_read_as_it_was_told(database: Database, teller: Teller) -> None:
    call = a_call(state=ToolCallState.RUNNING, arguments_text='{"at": "🪐"}', provider_call_id="given-1")
    message = a_message(teller.conversation_id, type=MessageType.TOOL_CALL, body=ToolCallBody(tool_calls=(call,)), run_id="run-1")
    run = a_run(teller.conversation_id, sequence=5, stop_reason=StopReason.END_TURN)
    await stored(database, message, run)
    conversation = await shown(database, teller)
    told = [
        await teller.tell(payload, run_id=run.id)
        for payload in (
            MessageDelta(message.id, message.type, 7, "🚀\n", call.id),
            MessageCompleted(message),
            MessageChanged(message),
            ToolCallChanged(message.id, message.type, call),
            RunChanged(run, RunStatus.RUNNING, StopReason.END_TURN),
            ConversationChanged(replace(conversation, head_sequence=6)),
        )
    ]
    page = await read(database, teller)
    assert list(page.events) == told
    assert (page.end, page.head, page.has_more) == (6, 6, False)


async def test_a_start_is_read_as_it_was_however_far_the_message_is_now(database: Database, teller: Teller) -> None:
    body = ToolCallBody(tool_calls=(a_call(),))
    begun = a_message(teller.conversation_id, type=MessageType.TOOL_CALL, text="done", body=body, sequence=9)
    queued = a_message(teller.conversation_id, type=MessageType.USER, text="whole", body=UserBody(content=()), sequence=9, ordinal=2)
    await stored(database, begun, queued)
    for message in (begun, queued):
        await teller.tell(MessageStarted(message))
    [first, second] = (await read(database, teller)).events
    empty = {"status": MessageStatus.IN_PROGRESS, "text": "", "body": ToolCallBody(), "sequence": 1}
    assert first.payload == MessageStarted(replace(begun, **empty))
    waiting = {"status": MessageStatus.QUEUED, "ordinal": None, "in_context": False, "sequence": 2}
    assert second.payload == MessageStarted(replace(queued, **waiting))


async def test_the_time_and_the_run_of_an_event_are_kept(database: Database, teller: Teller) -> None:
    told = [await teller.say("no run's"), await teller.tell(MessageDelta("message-none", MessageType.ASSISTANT, 0, "x"), run_id="run-1")]
    async with database.read() as connection:
        stored_times = (await connection.execute(tables.events.select().order_by(tables.events.c.sequence))).all()
    assert [(row.occurred_at, row.run_id) for row in stored_times] == [(event.occurred_at, event.run_id) for event in told]


# ---- what tells a transaction whose commit was not answered


async def signed(database: Database, teller: Teller, *payloads: StoredPayload) -> str:
    """Told in one transaction; its nonce."""
    async with Log(database, MemoryBus(), lambda: NOON).transaction() as transaction:
        head = await transaction.lock(teller.conversation_id)
        assert head is not None
        for payload in payloads:
            transaction.append(head, head.take_sequence(), payload, run_id="run-1")
        transaction.nonce = f"nonce-{head.head_sequence}"
        return transaction.nonce


async def test_a_nonce_is_found_at_the_first_number_of_its_transaction_and_nowhere_else(database: Database, teller: Teller) -> None:
    delta = MessageDelta("message-none", MessageType.ASSISTANT, 0, "x")
    one, other = [await signed(database, teller, delta, delta) for _ in range(2)]
    await teller.tell(delta, run_id="run-1")
    right = {Probe(teller.conversation_id, 1, one), Probe(teller.conversation_id, 3, other)}
    numbers = [(conversation_id, number) for conversation_id in (teller.conversation_id, "conv-none") for number in range(7)]
    asked = [Probe(*number, nonce) for number in numbers for nonce in (one, other, "nonce", "")]
    async with database.read() as connection:
        assert await events.found(connection, asked) == right


async def test_an_event_with_a_nonce_is_read_as_one_without(database: Database, teller: Teller) -> None:
    call = a_call(state=ToolCallState.RUNNING, arguments_text="{}")
    message = a_message(teller.conversation_id, type=MessageType.TOOL_CALL, body=ToolCallBody(tool_calls=(call,)), run_id="run-1")
    run = a_run(teller.conversation_id, id="run-1", sequence=5)
    await stored(database, message, run)
    told: list[StoredPayload] = [
        MessageDelta(message.id, message.type, 0, "{}", call.id),
        MessageCompleted(message),
        MessageChanged(message),
        ToolCallChanged(message.id, message.type, call),
        RunChanged(run, RunStatus.RUNNING, None),
        ContextCompacted(message, None, STATS),
    ]
    nonces = [await signed(database, teller, payload) for payload in told]
    page = await read(database, teller)
    assert [event.payload for event in page.events] == told
    async with database.read() as connection:
        found = await events.found(connection, [Probe(teller.conversation_id, number, nonce) for number, nonce in enumerate(nonces, 1)])
    assert len(found) == len(told)


async def test_an_unfinished_message_grows_by_what_carries_a_nonce(database: Database, teller: Teller) -> None:
    call = a_call()
    message = a_message(
        teller.conversation_id, type=MessageType.TOOL_CALL, status=MessageStatus.IN_PROGRESS, body=ToolCallBody(), sequence=1
    )
    await stored(database, message)
    await signed(database, teller, MessageStarted(message))
    await signed(database, teller, ToolCallChanged(message.id, message.type, call))
    await signed(database, teller, MessageDelta(message.id, message.type, 0, "{}", call.id))
    async with database.read() as connection:
        grown = await messages.get(connection, message.id)
    assert grown is not None
    assert (grown.body, grown.sequence) == (ToolCallBody(tool_calls=(replace(call, arguments_text="{}"),)), 3)


# ---- the fold


async def test_what_is_complete_at_this_read_has_no_start_and_no_deltas(database: Database, teller: Teller) -> None:
    await teller.start()
    await teller.grow("one")
    await teller.finish()
    await teller.start()
    await teller.grow("tw")
    await teller.grow("o")
    folded = await read(database, teller, DeltaMode.COALESCED)
    assert shape(folded) == [(3, "MessageCompleted"), (4, "MessageStarted"), (6, "MessageDelta")]
    assert shape(await read(database, teller, DeltaMode.NONE)) == [(3, "MessageCompleted"), (4, "MessageStarted")]
    assert len((await read(database, teller, DeltaMode.ALL)).events) == 6
    await teller.finish()
    for mode in (DeltaMode.COALESCED, DeltaMode.NONE):
        assert shape(await read(database, teller, mode)) == [(3, "MessageCompleted"), (7, "MessageCompleted")]


async def test_the_deltas_of_what_goes_on_are_merged_but_never_across_another_event(database: Database, teller: Teller) -> None:
    await teller.start()
    await teller.grow("one")
    await teller.grow("two")
    await teller.tell(ConversationChanged(await shown(database, teller)))
    await teller.grow("🚀")
    await teller.grow("four")
    page = await read(database, teller, DeltaMode.COALESCED, after=1)
    assert shape(page) == [(3, "MessageDelta"), (4, "ConversationChanged"), (6, "MessageDelta")]
    assert [event.payload.text for event in page.events if isinstance(event.payload, MessageDelta)] == ["onetwo", "🚀four"]


async def test_they_are_not_merged_across_an_event_that_is_left_out_either(database: Database, teller: Teller) -> None:
    run = a_run(teller.conversation_id, sequence=6)
    await stored(database, run)
    await teller.start()
    await teller.grow("one")
    await teller.tell(RunChanged(run, RunStatus.RUNNING, None), run_id=run.id)
    await teller.grow("two")
    await teller.grow("three")
    await teller.tell(RunChanged(run, RunStatus.RUNNING, None), run_id=run.id)
    page = await read(database, teller, DeltaMode.COALESCED)
    assert shape(page) == [(1, "MessageStarted"), (2, "MessageDelta"), (5, "MessageDelta"), (6, "RunChanged")]


async def test_of_a_run_only_the_last_change_is_told_with_the_status_it_had_then(database: Database, teller: Teller) -> None:
    run = a_run(teller.conversation_id, sequence=4, status=RunStatus.COMPLETED)
    await stored(database, run)
    for status in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.RUNNING, RunStatus.COMPLETED):
        await teller.tell(RunChanged(run, status, None), run_id=run.id)
    for mode, sequences in {DeltaMode.ALL: [1, 2, 3, 4], DeltaMode.COALESCED: [4], DeltaMode.NONE: [4]}.items():
        assert [event.sequence for event in (await read(database, teller, mode)).events] == sequences
    told = [event.payload.status for event in (await read(database, teller)).events if isinstance(event.payload, RunChanged)]
    assert told == [RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.RUNNING, RunStatus.COMPLETED]


# ---- pages


@pytest.mark.parametrize("mode", DeltaMode)
@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_follow_each_other_without_a_hole(database: Database, teller: Teller, mode: DeltaMode, limit: int) -> None:
    for _ in range(2):
        await teller.start()
        await teller.grow("🚀")
        await teller.grow("!")
        await teller.finish()
    whole, parts, after = await read(database, teller, mode), list[Event](), 0
    while True:
        page = await read(database, teller, mode, after=after, limit=limit)
        parts += page.events
        assert all(after < event.sequence <= page.end for event in page.events)
        after = page.end
        if not page.has_more:
            break
    assert (after, parts) == (8, list(whole.events))


async def test_a_page_beyond_the_head_is_empty_and_ends_where_it_began(database: Database, teller: Teller) -> None:
    await teller.say("only")
    assert await read(database, teller, after=1) == LogPage((), 1, 1)
    assert await read(database, teller, after=7) == LogPage((), 7, 1)


async def test_of_one_run_only_its_own_events_are_read_and_the_end_covers_the_others(database: Database, teller: Teller) -> None:
    message = a_message(teller.conversation_id)
    await stored(database, message)
    for run_id in ("run-1", "run-2", None, "run-1", "run-2"):
        await teller.tell(MessageCompleted(message), run_id=run_id)
    page = await read(database, teller, run_id="run-1")
    assert ([event.sequence for event in page.events], page.end) == ([1, 4], 5)
    page = await read(database, teller, run_id="run-1", limit=1)
    assert ([event.sequence for event in page.events], page.end, page.has_more) == ([1], 1, True)


async def test_of_what_does_not_exist_there_is_no_page(database: Database) -> None:
    async with database.read() as connection:
        assert await events.read(connection, "conv-none", after=0, mode=DeltaMode.ALL, limit=10) is None


async def test_the_backlog_counts_durable_events_of_the_run_and_no_further_than_asked(database: Database, teller: Teller) -> None:
    message = a_message(teller.conversation_id)
    await stored(database, message)
    for run_id in ("run-1", "run-2", "run-1", None):
        await teller.tell(MessageCompleted(message), run_id=run_id)
        await teller.tell(MessageDelta(message.id, message.type, 0, "x"), run_id=run_id)

    async def backlog(after: int, run_id: str | None = None, at_most: int = 100) -> int:
        async with database.read() as connection:
            return await events.backlog(connection, teller.conversation_id, after=after, run_id=run_id, at_most=at_most)

    assert [await backlog(after) for after in (0, 1, 2, 6, 8, 99)] == [4, 3, 3, 1, 0, 0]
    assert [await backlog(0, "run-1"), await backlog(1, "run-1"), await backlog(0, "run-none")] == [2, 1, 0]
    assert await backlog(0, at_most=2) == 2


# ---- what a newer version wrote


async def _said_by_a_newer_version(database: Database, teller: Teller) -> None:
    async with database.write() as connection:
        sequence = 1 + (await read(database, teller)).head
        values = {"conversation_id": teller.conversation_id, "sequence": sequence, "kind": "DREAM", "occurred_at": NOON, "data": {"a": 1}}
        await connection.execute(insert(tables.events).values(values))
        await connection.execute(update(tables.heads).values(head_sequence=sequence))


@pytest.mark.parametrize("mode", DeltaMode)
async def test_an_event_of_an_unknown_kind_shows_nothing_but_counts(database: Database, teller: Teller, mode: DeltaMode) -> None:
    await teller.say("before")
    await _said_by_a_newer_version(database, teller)
    await teller.say("after")
    page = await read(database, teller, mode)
    assert shape(page) == [(1, "MessageCompleted"), (2, "NoneType"), (3, "MessageCompleted")]
    async with database.read() as connection:
        assert await events.backlog(connection, teller.conversation_id, after=0, run_id=None, at_most=10) == 3


async def test_an_event_whose_words_are_unknown_shows_nothing_but_counts(database: Database, teller: Teller) -> None:
    message = a_message(teller.conversation_id)
    run = a_run(teller.conversation_id, sequence=3)
    await stored(database, message, run)
    await teller.tell(MessageDelta(message.id, message.type, 0, "x"))
    await teller.tell(ToolCallChanged(message.id, message.type, a_call()))
    await teller.tell(RunChanged(run, RunStatus.RUNNING, None), run_id=run.id)
    await teller.tell(MessageCompleted(message))
    async with database.write() as connection:
        await connection.execute(update(tables.messages).values(type="HOLOGRAM"))
        await connection.execute(update(tables.runs).values(status="DREAMING"))
    page = await read(database, teller)
    assert shape(page) == [(1, "NoneType"), (2, "NoneType"), (3, "NoneType"), (4, "MessageCompleted")]
    last = page.events[-1].payload
    assert isinstance(last, MessageCompleted)
    assert last.message.type is MessageType.ERROR


async def test_a_compaction_is_read_with_its_summary_and_its_figures(database: Database, teller: Teller) -> None:
    body = SummaryBody(tail_ordinal=7, stats=STATS)
    summary = a_message(teller.conversation_id, type=MessageType.SUMMARY, text="They met.", body=body, in_tail=False, in_context=False)
    await stored(database, summary)
    told = [await teller.tell(ContextCompacted(summary, kept, STATS), run_id="run-1") for kept in ("message-7", None)]
    for mode in DeltaMode:
        assert list((await read(database, teller, mode)).events) == told
