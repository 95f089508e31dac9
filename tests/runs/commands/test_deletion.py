"""Deleting a conversation: what is cut off, what its followers are told, and that nothing comes after it."""

import asyncio

import pytest

from db import blocks, conversations
from db.engine import Database
from runs.commands.deletion import delete_conversation
from runs.heads import ConversationNotFound
from streams.bus import Bus
from tests.db.rows import NOON
from tests.rig import TENANT, Rig, collect, rig
from tests.runs.logs import rows, said, statuses, until
from tests.runs.scripted import Models, Scripted, finished, text
from vocabulary.conversations import Block, Conversation
from vocabulary.events import CaughtUp, DeltaMode, Event, Item, ResetReason, RunChanged, StreamReset, ends_conversation
from vocabulary.ids import Noun, new_id
from vocabulary.messages import MessageStatus
from vocabulary.runs import RunStatus


def _is_end(item: Item) -> bool:
    return isinstance(item.payload, StreamReset) and item.payload.reason is ResetReason.CONVERSATION_DELETED


async def _all(rig_: Rig, conversation: Conversation, *, after: int | None, mode: DeltaMode = DeltaMode.COALESCED) -> list[Item]:
    """Until the stream completes by itself."""
    return await collect(rig_.reader.follow(conversation.id, after=after, mode=mode), lambda _: False)


async def test_its_last_event_is_a_reset_and_it_is_nobodys_then(parley: Rig) -> None:
    conversation = await parley.conversation()
    await parley.ended((await parley.say(conversation.id, "Hi")).run)
    await delete_conversation(parley.engine, TENANT, conversation.id)
    log = await parley.stored(conversation.id)
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    assert log[-1].payload == StreamReset(ResetReason.CONVERSATION_DELETED, len(log))
    assert [ends_conversation(event) for event in log[:-1]] == [False] * (len(log) - 1)
    with pytest.raises(ConversationNotFound):
        await parley.say(conversation.id, "Still there?")
    with pytest.raises(ConversationNotFound):
        await delete_conversation(parley.engine, TENANT, conversation.id)
    assert await parley.stored(conversation.id) == log


async def test_another_tenants_conversation_is_not_found(parley: Rig) -> None:
    conversation = await parley.conversation()
    with pytest.raises(ConversationNotFound):
        await delete_conversation(parley.engine, "elsewhere", conversation.id)
    assert (await parley.read(conversation.id)).head_sequence == 1


async def test_the_active_run_and_the_queue_are_cancelled_first_and_their_worker_writes_no_more(database: Database, bus: Bus) -> None:
    gate = asyncio.Event()
    model = Scripted([*text("Half", " more")[:-2], gate, *text("Half", " more")[2:], *finished()])
    async with rig(database, bus=bus, models=Models(model)) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = [await parley.say(conversation.id, words) for words in ("First", "Second")]
        await until(parley, conversation.id, said("Half"))
        await delete_conversation(parley.engine, TENANT, conversation.id)
        for one in sent:
            assert (await parley.ended(one.run)).status is RunStatus.CANCELLED
        log = await parley.stored(conversation.id)
        gate.set()
        await _idle(parley)
        assert await parley.stored(conversation.id) == log
        assert [statuses(log, one.run.id)[-1] for one in sent] == [RunStatus.CANCELLED] * 2
        assert ends_conversation(log[-1])
        assert len(model.requests) == 1
        kept = {message.text: message.status for message in await parley.history(conversation.id)}
        assert kept["Half"] is MessageStatus.INTERRUPTED


async def _idle(parley: Rig) -> None:
    """Until its worker works on nothing: another conversation's whole run is behind what it still had to write."""
    other = await parley.conversation()
    await parley.ended((await parley.say(other.id, "Hi")).run)


@pytest.mark.parametrize("mode", list(DeltaMode))
async def test_a_live_stream_and_a_replay_complete_with_the_reset(parley: Rig, mode: DeltaMode) -> None:
    conversation = await parley.conversation()
    live = asyncio.create_task(_all(parley, conversation, after=None, mode=mode))
    await _followed(parley, conversation)
    sent = await parley.say(conversation.id, "Hi")
    await parley.ended(sent.run)
    await delete_conversation(parley.engine, TENANT, conversation.id)
    replayed = await _all(parley, conversation, after=0, mode=mode)
    for items in (await live, replayed):
        assert [_is_end(item) for item in items] == [False] * (len(items) - 1) + [True]
        assert items[-1].sequence == items[-1].payload.head_sequence  # type: ignore[union-attr]
    assert not any(isinstance(item.payload, CaughtUp) for item in replayed)


async def _followed(parley: Rig, conversation: Conversation) -> None:
    """Somebody is attached and caught up, and so is everybody who came before."""
    await collect(parley.reader.follow(conversation.id, after=None, mode=DeltaMode.ALL), lambda item: isinstance(item.payload, CaughtUp))


@pytest.mark.parametrize("ahead", [-1, 0, 5])
async def test_who_stands_at_the_end_or_beyond_is_told_all_the_same(parley: Rig, ahead: int) -> None:
    """As one whose access was checked just before the deletion."""
    conversation = await parley.conversation()
    await delete_conversation(parley.engine, TENANT, conversation.id)
    head = len(await parley.stored(conversation.id))
    assert _is_end((await _all(parley, conversation, after=head + ahead))[-1])
    assert [_is_end(item) for item in await _all(parley, conversation, after=None)] == [True]


async def test_the_stream_of_a_run_ends_with_its_cancellation(database: Database, bus: Bus) -> None:
    async with rig(database, bus=bus, models=Models(Scripted([*text("Half")[:-1], asyncio.Event()]))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Half"))
        await delete_conversation(parley.engine, TENANT, conversation.id)
        items = await collect(parley.reader.follow(conversation.id, after=0, mode=DeltaMode.ALL, run=sent.run), lambda _: False)
        assert isinstance(items[-1].payload, RunChanged)
        assert items[-1].payload.status is RunStatus.CANCELLED


async def test_one_of_many_concurrent_deletions_deletes_and_no_send_comes_after_it(parley: Rig) -> None:
    conversation = await parley.conversation()
    deletions = [delete_conversation(parley.engine, TENANT, conversation.id) for _ in range(5)]
    sends = [parley.say(conversation.id, "Hi") for _ in range(10)]
    outcomes = await asyncio.gather(*sends[:5], *deletions, *sends[5:], return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(error, ConversationNotFound) for error in refused), refused
    assert sum(outcome is None for outcome in outcomes) == 1
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, BaseException):
            assert (await parley.ended(outcome.run)).ended
    log = await parley.stored(conversation.id)
    assert [ends_conversation(event) for event in log] == [False] * (len(log) - 1) + [True]
    assert _ends_every_run(log)


def _ends_every_run(log: list[Event]) -> bool:
    last = {event.run_id: event.payload for event in log if isinstance(event.payload, RunChanged)}
    return all(payload.run.ended for payload in last.values())


async def test_isolated_blocks_are_erased_and_shared_ones_stay(parley: Rig) -> None:
    conversation, other = await parley.conversation(), await parley.conversation()
    async with parley.database.write() as connection:
        await blocks.create(connection, [_isolated(one) for one in (conversation, other)])
    before = await rows(parley.database)
    await delete_conversation(parley.engine, TENANT, conversation.id)
    assert (await rows(parley.database))["blocks"] == before["blocks"] - 1
    async with parley.database.read() as connection:
        assert len(await blocks.by_conversation(connection, [conversation.id, other.id])) == 1
        assert await conversations.by_ids(connection, TENANT, [conversation.id, other.id]) == [other]


def _isolated(conversation: Conversation) -> Block:
    return Block(
        id=new_id(Noun.BLOCK),
        tenant=TENANT,
        agent_id=conversation.agent_id,
        conversation_id=conversation.id,
        label="notes",
        value="Mine.",
        description=None,
        limit=100,
        read_only=False,
        updated_at=NOON,
    )
