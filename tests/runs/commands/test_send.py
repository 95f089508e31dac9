"""Sending: what one transaction stores, how a busy conversation queues or refuses, and what a retry gets."""

import asyncio
from dataclasses import replace

import pytest

from db.engine import Database
from llm.model import UserTurn
from llm.registry import ModelNotFound
from runs.commands.idempotency import IdempotencyConflict
from runs.commands.send import ConversationBusy, NewMessage, Send, Sent, send
from runs.heads import ConversationNotFound
from tests.rig import TENANT, Rig, rig
from tests.runs.logs import checked, rows, running, said, statuses, until
from tests.runs.scripted import Models, Scripted, finished, text
from vocabulary.conversations import ConversationStatus
from vocabulary.events import ConversationChanged, MessageCompleted, MessageStarted, RunChanged
from vocabulary.messages import ImagePart, InputRole, MessageStatus, MessageType, SystemBody, TextPart, UserBody
from vocabulary.runs import BusyPolicy, RunStatus


def _holding(gate: asyncio.Event) -> Scripted:
    """A model whose first answer waits in its middle."""
    return Scripted([*text("Wait", " for"), gate, *text(" it.", index=1), *finished()])


# ---- what is stored


async def test_to_an_idle_conversation_messages_enter_history_and_the_run_is_next(parley: Rig) -> None:
    conversation = await parley.conversation()
    sent = await parley.say(conversation.id, "One", "Two", group_id="group-1")
    assert (sent.run.status, sent.run.group_id, sent.deduplicated) == (RunStatus.QUEUED, "group-1", False)
    assert [(message.text, message.status, message.ordinal, message.sequence) for message in sent.messages] == [
        ("One", MessageStatus.COMPLETED, 2, 2),
        ("Two", MessageStatus.COMPLETED, 3, 3),
    ]
    assert (sent.run.created_sequence, sent.run.sequence, sent.applied_through_sequence) == (2, 4, 5)
    await parley.ended(sent.run)
    events = await checked(parley, conversation.id)
    assert [type(event.payload) for event in events[1:5]] == [MessageCompleted, MessageCompleted, RunChanged, ConversationChanged]
    assert [event.run_id for event in events[1:5]] == [sent.run.id] * 3 + [None]


async def test_what_was_sent_is_kept_as_it_was_given(parley: Rig) -> None:
    conversation = await parley.conversation()
    image = ImagePart("https://example.org/cat.png", "image/png")
    user = NewMessage(role=InputRole.USER, content=(TextPart("Look: "), image, TextPart("a cat")), client_message_id="mine", sender="Ada")
    system = NewMessage(role=InputRole.SYSTEM, content=(TextPart("In German."),), client_message_id="mine too")
    sent = await send(parley.engine, TENANT, Send(conversation_id=conversation.id, messages=(system, user)))
    await parley.ended(sent.run)
    stored = (await parley.history(conversation.id))[1:3]
    assert [(message.type, message.text, message.in_context) for message in stored] == [
        (MessageType.SYSTEM, "In German.", True),
        (MessageType.USER, "Look: a cat", True),
    ]
    assert stored[0].body == SystemBody(client_message_id="mine too")
    assert stored[1].body == UserBody(content=(TextPart("Look: "), image, TextPart("a cat")), client_message_id="mine", sender="Ada")


async def test_the_conversation_tells_when_it_is_busy_and_when_it_is_not(database: Database) -> None:
    gate = asyncio.Event()
    async with rig(database, models=Models(_holding(gate))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("for"))
        busy = await parley.read(conversation.id)
        assert (busy.status, busy.last_message_at) == (ConversationStatus.RUNNING, sent.messages[0].created_at)
        gate.set()
        run = await parley.ended(sent.run)
        idle = await parley.read(conversation.id)
        assert idle.status is ConversationStatus.IDLE
        assert None not in (idle.last_message_at, run.completed_at)
        assert idle.last_run_completed_at == run.completed_at


# ---- a busy conversation


async def test_what_is_sent_meanwhile_is_queued_without_a_place_in_history(database: Database) -> None:
    gate = asyncio.Event()
    async with rig(database, models=Models(model := _holding(gate))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        first = await parley.say(conversation.id, "First")
        await until(parley, conversation.id, said("for"))
        second = await parley.say(conversation.id, "Second")
        [queued] = second.messages
        assert (queued.status, queued.ordinal, queued.in_context) == (MessageStatus.QUEUED, None, False)
        assert "Second" not in [message.text for message in await parley.history(conversation.id)]
        gate.set()
        await parley.ended(second.run)
        events = await checked(parley, conversation.id)
        places = [event.sequence for event in events if _is_about(event.payload, queued.id)]
        ended = next(event.sequence for event in events if event.run_id == first.run.id and _is_end(event.payload))
        assert places[0] == queued.sequence < ended < places[1]
        assert [message.text for message in await parley.history(conversation.id)] == [
            "Be brief.", "First", "Wait for", " it.", "Second", "Done.",
        ]  # fmt: skip
        assert model.requests[0].history == [UserTurn((TextPart("First"),))]


def _is_about(payload: object, message_id: str) -> bool:
    return isinstance(payload, MessageStarted | MessageCompleted) and payload.message.id == message_id


def _is_end(payload: object) -> bool:
    return isinstance(payload, RunChanged) and payload.status is RunStatus.COMPLETED


@pytest.mark.parametrize("busy_with", ["running", "queued"])
async def test_a_send_may_refuse_to_wait(database: Database, busy_with: str) -> None:
    gate = asyncio.Event()
    async with rig(database, models=Models(_holding(gate))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        first = await parley.say(conversation.id, "First")
        if busy_with == "running":
            await until(parley, conversation.id, said("for"))
        before = await rows(database)
        with pytest.raises(ConversationBusy) as refused:
            await parley.say(conversation.id, "Second", when_busy=BusyPolicy.REJECT)
        assert refused.value.run_id == first.run.id
        if busy_with == "running":
            assert await rows(database) == before
        gate.set()
        await parley.ended(first.run)
        after = await parley.say(conversation.id, "Third", when_busy=BusyPolicy.REJECT)
        await parley.ended(after.run)
        assert "Second" not in [message.text for message in await parley.history(conversation.id)]


async def test_twenty_sends_to_one_conversation_are_answered_one_after_the_other_in_their_order(database: Database) -> None:
    async with rig(database, models=Models(model := Scripted())) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = [await parley.say(conversation.id, f"Number {number}") for number in range(20)]
        for one in sent:
            await parley.ended(one.run)
        events = await checked(parley, conversation.id)
        changes = [(event.run_id, event.payload.status) for event in events if isinstance(event.payload, RunChanged)]
        alive = [change for change in changes if change[1] is not RunStatus.QUEUED]
        assert [run_id for run_id, _ in alive] == [one.run.id for one in sent for _ in range(3)]
        texts = [message.text for message in await parley.history(conversation.id)]
        assert texts == ["Be brief.", *(line for number in range(20) for line in (f"Number {number}", "Done."))]
        assert [len(request.history) for request in model.requests] == list(range(1, 41, 2))


async def test_simultaneous_sends_make_one_line(parley: Rig) -> None:
    conversation = await parley.conversation()
    sent = await asyncio.gather(*(parley.say(conversation.id, f"Number {number}") for number in range(20)))
    for one in sent:
        await parley.ended(one.run)
    events = await checked(parley, conversation.id)
    started = [event.run_id for event in events if running(event.payload)]
    in_order = [one.run.id for one in sorted(sent, key=lambda one: one.run.created_sequence)]
    assert list(dict.fromkeys(started)) == in_order


# ---- retries


async def test_a_retry_gets_the_first_run_whatever_has_become_of_it(database: Database) -> None:
    gate = asyncio.Event()
    async with rig(database, models=Models(_holding(gate))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        blocking = await parley.say(conversation.id, "First")
        sent = await parley.say(conversation.id, "Second", idempotency_key="k", body_hash="h")

        async def retried(parley: Rig) -> Sent:
            again = await parley.say(conversation.id, "Second", idempotency_key="k", body_hash="h")
            assert (again.run.id, again.deduplicated) == (sent.run.id, True)
            assert again.applied_through_sequence == sent.applied_through_sequence
            assert [message.id for message in again.messages] == [message.id for message in sent.messages]
            return again

        assert (await retried(parley)).run.status is RunStatus.QUEUED
        gate.set()
        await parley.ended(blocking.run)
        await parley.ended(sent.run)
        over = await retried(parley)
        assert (over.run.status, over.messages[0].status) == (RunStatus.COMPLETED, MessageStatus.COMPLETED)
    async with rig(database) as restarted:
        before = await rows(database)
        assert (await retried(restarted)).run.status is RunStatus.COMPLETED
        assert await rows(database) == before


async def test_a_retry_gets_the_first_run_while_it_runs(database: Database) -> None:
    gate = asyncio.Event()
    async with rig(database, models=Models(_holding(gate))) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "First", idempotency_key="k", body_hash="h")
        await until(parley, conversation.id, said("for"))
        again = await parley.say(conversation.id, "First", idempotency_key="k", body_hash="h", when_busy=BusyPolicy.REJECT)
        assert (again.run.id, again.run.status, again.deduplicated) == (sent.run.id, RunStatus.RUNNING, True)
        gate.set()
        await parley.ended(sent.run)


async def test_the_same_key_with_another_body_is_refused(parley: Rig) -> None:
    conversation = await parley.conversation()
    sent = await parley.say(conversation.id, "First", idempotency_key="k", body_hash="h")
    await parley.ended(sent.run)
    before = await rows(parley.database)
    with pytest.raises(IdempotencyConflict) as refused:
        await parley.say(conversation.id, "Second", idempotency_key="k", body_hash="other")
    assert refused.value.key == "k"
    assert await rows(parley.database) == before


async def test_twenty_simultaneous_retries_make_one_run(parley: Rig) -> None:
    conversation = await parley.conversation()
    sent = await asyncio.gather(*(parley.say(conversation.id, "Hi", idempotency_key="k", body_hash="h") for _ in range(20)))
    assert len({one.run.id for one in sent}) == 1
    assert sorted(one.deduplicated for one in sent) == [False] + [True] * 19
    await parley.ended(sent[0].run)
    counted = await rows(parley.database)
    assert (counted["runs"], counted["messages"]) == (1, 3)


async def test_a_key_belongs_to_its_conversation(parley: Rig) -> None:
    one, other = await parley.conversation(), await parley.conversation()
    sent = [await parley.say(where.id, "Hi", idempotency_key="k", body_hash="h") for where in (one, other)]
    assert [item.deduplicated for item in sent] == [False, False]
    for item in sent:
        await parley.ended(item.run)


async def test_without_a_key_the_same_words_are_said_twice(parley: Rig) -> None:
    conversation = await parley.conversation()
    sent = [await parley.say(conversation.id, "Hi", body_hash="h") for _ in range(2)]
    assert len({one.run.id for one in sent}) == 2
    for one in sent:
        await parley.ended(one.run)


# ---- refusals leave nothing behind


async def test_an_unknown_or_foreign_conversation_is_not_found_and_nothing_is_stored(parley: Rig) -> None:
    conversation = await parley.conversation()
    request = Send(conversation_id=conversation.id, messages=(NewMessage(role=InputRole.USER, content=(TextPart("Hi"),)),))
    before = await rows(parley.database)
    for tenant, where in ((TENANT, "conv-unknown"), (TENANT, ""), ("somebody else", conversation.id)):
        with pytest.raises(ConversationNotFound):
            await send(parley.engine, tenant, replace(request, conversation_id=where))
    assert await rows(parley.database) == before
    assert (await parley.read(conversation.id)).head_sequence == 1


async def test_an_unknown_model_is_refused_and_nothing_is_stored(parley: Rig) -> None:
    conversation = await parley.conversation()
    before = await rows(parley.database)
    with pytest.raises(ModelNotFound):
        await parley.say(conversation.id, "Hi", override_model="nobody/nothing", idempotency_key="k", body_hash="h")
    assert await rows(parley.database) == before
    assert (await parley.read(conversation.id)).head_sequence == 1
    sent = await parley.say(conversation.id, "Hi", idempotency_key="k", body_hash="h")
    assert statuses((await parley.stored(conversation.id)), sent.run.id)[0] is RunStatus.QUEUED
    await parley.ended(sent.run)


async def test_a_send_whose_caller_leaves_at_any_point_is_made_or_not_and_blocks_nobody(parley: Rig) -> None:
    conversation = await parley.conversation()
    for steps in range(60):
        leaving = asyncio.create_task(parley.say(conversation.id, "Hi"), name="leaving")
        for _ in range(steps):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        async with asyncio.timeout(20):
            await parley.say(conversation.id, "And I?")
    await parley.ended((await parley.say(conversation.id, "The last")).run)
    await checked(parley, conversation.id)
