"""Forking: what is copied, under which ids, what its model is shown first, and what a retry, a crash or a deletion makes of it."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from db import blocks, conversations, forks, heads, messages, tables
from db.engine import Database
from llm.model import ModelRequest, ToolReturnTurn
from runs.commands.deletion import delete_conversation
from runs.commands.fork import CHUNK, MessageNotFound, MessageUnfinished, NewFork, fork_conversation
from runs.commands.idempotency import IdempotencyConflict
from runs.heads import ConversationNotFound
from streams.bus import Bus
from tests.db.rows import NOON, a_message
from tests.rig import TENANT, Rig, collect, rig
from tests.runs.logs import eventually, only, rows, said, until
from tests.runs.scripted import Cue, Models, Scripted, call, finished, reasoning, text
from vocabulary.conversations import Block, Conversation
from vocabulary.events import CaughtUp, DeltaMode, MessageCompleted
from vocabulary.ids import Noun, new_id
from vocabulary.messages import Message, MessageStatus, MessageType, SummaryBody, ToolCallBody, ToolCallState, ToolReturnBody, UserBody

TWO_STEPS: tuple[list[Cue], list[Cue]] = (
    [*reasoning("Hm."), *call("current_time", "{}", index=1), *finished()],
    [*reasoning("So."), *text("It is late.", index=1), *finished()],
)


async def _fork(parley: Rig, conversation: Conversation, through: Message | None = None, **more: str) -> Conversation:
    through_id = None if through is None else through.id
    return await fork_conversation(parley.engine, TENANT, NewFork(conversation_id=conversation.id, through_message_id=through_id, **more))


async def _talked(parley: Rig, *words: str) -> Conversation:
    conversation = await parley.conversation(model="test/scripted", tools=["current_time"])
    for each in words:
        await parley.ended((await parley.say(conversation.id, each)).run)
    return conversation


async def _asked_next(parley: Rig, model: Scripted, conversation: Conversation) -> ModelRequest:
    await parley.ended((await parley.say(conversation.id, "And now?")).run)
    return model.requests[-1]


def _shape(history: list[Message]) -> list[tuple[MessageType, str, bool]]:
    return [(message.type, message.text, message.in_context) for message in history]


async def test_the_first_request_of_a_fork_is_exactly_the_sources(database: Database, bus: Bus) -> None:
    model = Scripted(*TWO_STEPS)
    async with rig(database, bus=bus, models=Models(model)) as parley:
        source = await _talked(parley, "How late is it?", "Thanks")
        fork = await _fork(parley, source)
        assert await _asked_next(parley, model, fork) == await _asked_next(parley, model, source)


async def test_everything_has_an_id_of_its_own_and_one_event(database: Database, bus: Bus) -> None:
    async with rig(database, bus=bus, models=Models(Scripted(*TWO_STEPS))) as parley:
        source = await _talked(parley, "How late is it?")
        fork = await _fork(parley, source)
        assert fork == await parley.read(fork.id)
        old, new = await parley.history(source.id), await parley.history(fork.id)
        assert _shape(new) == _shape(old)
        assert not {message.id for message in old} & {message.id for message in new}
        assert [message.run_id for message in new] == [None] * len(new)
        assert [event.payload for event in await parley.stored(fork.id)] == [MessageCompleted(message) for message in new]
        assert [message.ordinal for message in new] == [message.sequence for message in new] == list(range(1, len(new) + 1))
        assert (fork.forked_from_id, fork.head_sequence, fork.system_message_id) == (source.id, len(new), new[0].id)
        calls, returned = only(new, MessageType.TOOL_CALL).body, only(new, MessageType.TOOL_RETURN).body
        assert isinstance(calls, ToolCallBody)
        assert isinstance(returned, ToolReturnBody)
        assert [one.tool_call_id for one in returned.tool_returns] == [calls.tool_calls[0].id]
        items = await collect(parley.reader.follow(fork.id, after=0, mode=DeltaMode.ALL), lambda item: isinstance(item.payload, CaughtUp))
        assert len(items) == len(new) + 1


async def test_a_fork_ends_with_the_message_it_goes_through(parley: Rig) -> None:
    source = await parley.conversation()
    for words in ("One", "Two"):
        await parley.ended((await parley.say(source.id, words)).run)
    history = await parley.history(source.id)
    for end in range(1, len(history) + 1):
        fork = await _fork(parley, source, history[end - 1])
        assert _shape(await parley.history(fork.id)) == _shape(history[:end])


async def test_a_call_whose_return_lies_beyond_is_answered_with_an_error(database: Database, bus: Bus) -> None:
    model = Scripted(*TWO_STEPS)
    async with rig(database, bus=bus, models=Models(model)) as parley:
        source = await _talked(parley, "How late is it?")
        fork = await _fork(parley, source, only(await parley.history(source.id), MessageType.TOOL_CALL))
        history = await parley.history(fork.id)
        calls, returned = only(history, MessageType.TOOL_CALL), history[-1]
        assert isinstance(calls.body, ToolCallBody)
        assert isinstance(returned.body, ToolReturnBody)
        assert [one.state for one in calls.body.tool_calls] == [ToolCallState.INTERRUPTED]
        assert [(one.tool_call_id, one.status) for one in returned.body.tool_returns] == [(calls.body.tool_calls[0].id, "ERROR")]
        assert returned.step_id == calls.step_id != None  # noqa: E711
        assert fork.last_message_at == returned.created_at
        asked = await _asked_next(parley, model, fork)
        [turn] = [turn for turn in asked.history if isinstance(turn, ToolReturnTurn)]
        assert turn.returns[0].call_id == "given-1"


async def test_what_is_unfinished_is_left_out_and_cannot_be_the_end(database: Database, bus: Bus) -> None:
    model = Scripted([*text("Half")[:-1], asyncio.Event()])
    async with rig(database, bus=bus, models=Models(model)) as parley:
        source = await parley.conversation(model="test/scripted")
        await parley.say(source.id, "First")
        queued = (await parley.say(source.id, "Second")).messages[0]
        await until(parley, source.id, said("Half"))
        half = (await parley.history(source.id))[-1]
        fork = await _fork(parley, source)
        assert [message.text for message in await parley.history(fork.id)] == ["Be brief.", "First"]
        before = await rows(database)
        for message in (half, queued):
            with pytest.raises(MessageUnfinished):
                await _fork(parley, source, message)
        assert await rows(database) == before


async def test_what_was_interrupted_but_stays_in_context_is_copied(database: Database, bus: Bus) -> None:
    async with rig(
        database, bus=bus, models=Models(Scripted([*reasoning("Hm")[:-1], RuntimeError()], [*text("Half")[:-1], RuntimeError()]))
    ) as parley:
        source = await _talked(parley, "First", "Second")
        fork = await _fork(parley, source)
        copied = [(message.text, message.status) for message in (await parley.history(fork.id))[1:]]
        assert copied == [("First", MessageStatus.COMPLETED), ("Second", MessageStatus.COMPLETED), ("Half", MessageStatus.INTERRUPTED)]


async def test_messages_of_another_conversation_or_of_nobody_are_not_found(parley: Rig) -> None:
    source, other = await parley.conversation(), await parley.conversation()
    foreign = (await parley.history(other.id))[0]
    for message in (foreign, replace(foreign, id=new_id(Noun.MESSAGE))):
        with pytest.raises(MessageNotFound):
            await _fork(parley, source, message)
    with pytest.raises(ConversationNotFound):
        await fork_conversation(parley.engine, "elsewhere", NewFork(conversation_id=source.id))


async def test_a_key_gives_the_same_fork_also_after_a_restart_and_to_twenty_at_once(parley: Rig) -> None:
    source = await parley.conversation()
    made = await asyncio.gather(*(_fork(parley, source, idempotency_key="k", body_hash="h") for _ in range(20)))
    assert len({fork.id for fork in made}) == 1
    async with rig(parley.database) as restarted:
        assert (await _fork(restarted, source, idempotency_key="k", body_hash="h")).id == made[0].id
        with pytest.raises(IdempotencyConflict):
            await _fork(restarted, source, idempotency_key="k", body_hash="other")
        assert (await _fork(restarted, await restarted.conversation(), idempotency_key="k", body_hash="h")).id != made[0].id
    await delete_conversation(parley.engine, TENANT, made[0].id)
    with pytest.raises(ConversationNotFound):
        await _fork(parley, source, idempotency_key="k", body_hash="h")


async def test_isolated_blocks_are_copied(parley: Rig) -> None:
    source = await parley.conversation()
    mine = Block(
        id=new_id(Noun.BLOCK), tenant=TENANT, agent_id=source.agent_id, conversation_id=source.id, label="notes", value="Mine.",
        description=None, limit=100, read_only=True, updated_at=NOON,
    )  # fmt: skip
    async with parley.database.write() as connection:
        await blocks.create(connection, [mine])
    fork = await _fork(parley, source)
    async with parley.database.read() as connection:
        [copied] = await blocks.by_conversation(connection, [fork.id])
    assert copied.id != mine.id
    assert replace(copied, id=mine.id, conversation_id=source.id, updated_at=NOON) == mine


# ---- summaries


async def _compacted(parley: Rig) -> Conversation:
    """Ordinals: 1 system, 2-4 said, 5 a summary of 2 and 3, 6-8 said, 9 a summary of up to 7."""
    source = await parley.conversation()
    texts = {2: "a", 3: "b", 4: "c", 5: "S1", 6: "d", 7: "e", 8: "f", 9: "S2"}
    tails = {5: 4, 9: 8}
    stored = [
        a_message(
            source.id,
            ordinal=ordinal,
            sequence=ordinal,
            text=words,
            type=MessageType.SUMMARY if ordinal in tails else MessageType.USER,
            body=SummaryBody(tail_ordinal=tails[ordinal]) if ordinal in tails else UserBody(content=()),
            in_tail=ordinal not in tails,
        )
        for ordinal, words in texts.items()
    ]
    pointers = {"summary_message_id": stored[-1].id, "tail_ordinal": 8}
    async with parley.database.write() as connection:
        await messages.create(connection, stored)
        await connection.execute(update(tables.conversations).where(tables.conversations.c.id == source.id).values(**pointers))
        head = await heads.lock(connection, source.id)
        assert head is not None
        await heads.save(connection, replace(head, head_sequence=9, next_ordinal=10))
    return source


BEFORE = {None: ["S2", "f"], 9: ["S2", "f"], 8: ["S2", "f"], 7: ["S2"], 6: ["S1", "c", "d"], 4: ["S1", "c"], 3: ["S1"], 2: ["a"], 1: []}


@pytest.mark.parametrize(("through", "expected"), BEFORE.items())
async def test_the_newest_summary_of_nothing_later_goes_before_the_tail(parley: Rig, through: int | None, expected: list[str]) -> None:
    source = await _compacted(parley)
    history = await parley.history(source.id)
    fork = await _fork(parley, source, None if through is None else history[through - 1])
    async with parley.database.read() as connection:
        shown = await messages.context(connection, fork)
    assert [message.text for message in shown] == ["Be brief.", *expected]
    assert [message.text for message in await parley.history(fork.id)] == ["Be brief.", *expected]
    again = await _fork(parley, fork)
    assert _shape(await parley.history(again.id)) == _shape(await parley.history(fork.id))


# ---- large ones


async def _long(parley: Rig, length: int) -> Conversation:
    source = await parley.conversation()
    async with parley.database.write() as connection:
        head = await heads.lock(connection, source.id)
        assert head is not None
        said_ = [a_message(source.id, ordinal=head.take_ordinal(), sequence=head.take_sequence(), text=f"{i}") for i in range(length)]
        await messages.create(connection, said_)
        await heads.save(connection, head)
    return source


async def test_a_long_one_is_copied_in_chunks_and_shown_when_it_is_whole(parley: Rig) -> None:
    length = 3 * CHUNK + 7
    source = await _long(parley, length)
    fork = await _fork(parley, source)
    together = Counter(event.occurred_at for event in await parley.stored(fork.id))
    assert list(together.values()) == [1, CHUNK, CHUNK, CHUNK, 7]
    assert (fork.head_sequence, len(await parley.history(fork.id))) == (length + 1, min(length + 1, 1000))
    async with parley.database.read() as connection:
        assert await conversations.count(connection, TENANT, conversations.Filter()) == 2


async def test_twenty_retries_of_a_long_one_show_one_fork(parley: Rig) -> None:
    source = await _long(parley, CHUNK + 2)
    made = await asyncio.gather(*(_fork(parley, source, idempotency_key="k", body_hash="h") for _ in range(20)))
    assert len({fork.id for fork in made}) == 1
    async with parley.database.read() as connection:
        assert await conversations.count(connection, TENANT, conversations.Filter()) == 2


async def test_a_source_that_is_deleted_meanwhile_leaves_nothing_to_see(parley: Rig) -> None:
    source = await _long(parley, 5 * CHUNK)
    forking = asyncio.create_task(_fork(parley, source))
    await eventually(lambda: _is_begun(parley))
    await delete_conversation(parley.engine, TENANT, source.id)
    with pytest.raises(ConversationNotFound):
        await forking
    async with parley.database.read() as connection:
        assert await conversations.count(connection, TENANT, conversations.Filter()) == 0


async def _is_begun(parley: Rig) -> bool:
    return (await rows(parley.database))["conversations"] == 2


async def test_what_a_crash_leaves_is_hidden_and_removed_later(parley: Rig) -> None:
    source = await _long(parley, 5 * CHUNK)
    before = await rows(parley.database)
    forking = asyncio.create_task(_fork(parley, source, idempotency_key="k", body_hash="h"))
    await eventually(lambda: _is_begun(parley))
    forking.cancel()
    await asyncio.wait({forking})
    async with parley.database.read() as connection:
        assert await conversations.count(connection, TENANT, conversations.Filter()) == 1
    async with parley.database.write() as connection:
        assert await forks.take_abandoned(connection, before=parley.engine.clock() - timedelta(hours=1), limit=10) == []
        await forks.remove(connection, await forks.take_abandoned(connection, before=parley.engine.clock(), limit=10))
    assert await rows(parley.database) == before
    assert (await _fork(parley, source, idempotency_key="k", body_hash="h")).forked_from_id == source.id
