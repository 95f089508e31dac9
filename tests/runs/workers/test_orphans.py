"""Conversations of a deleted agent: hidden at once, deleted in the background, and whoever follows them is told."""

import asyncio
from contextlib import aclosing

import pytest
from sqlalchemy import func, select

from db import agents, blocks, conversations, messages, runs
from db.engine import Database
from db.tables import conversations as conversation_rows
from runs.commands.agents import NewAgent, NewBlock, create_agent, delete_agent
from runs.commands.conversations import AgentNotFound, NewConversation, create_conversation
from runs.heads import ConversationNotFound
from runs.workers.orphans import erase_orphans
from runs.workers.worker import WorkerLimits
from tests.rig import TENANT, Rig, collect, rig
from tests.runs.logs import eventually, until
from tests.runs.scripted import Models, Scripted, finished, gated
from vocabulary.conversations import Conversation
from vocabulary.events import CaughtUp, DeltaMode, MessageDelta, ResetReason, RunChanged, StreamReset
from vocabulary.runs import RunStatus


def _idle(database: Database) -> WorkerLimits:
    """Deletes nothing by itself while the test looks."""
    return WorkerLimits(sole=database.is_sqlite, reconcile_s=3600)


async def _talks(parley: Rig, n: int) -> tuple[str, list[Conversation]]:
    """With an isolated block each."""
    agent = await create_agent(parley.engine, TENANT, NewAgent(name="tester", blocks=(NewBlock(label="human", value="?"),)))
    new = NewConversation(agent_id=agent.id, isolated_block_labels=("human",))
    return agent.id, [await create_conversation(parley.engine, TENANT, new) for _ in range(n)]


async def _left(database: Database, agent_id: str) -> int:
    query = select(func.count()).where(conversation_rows.c.agent_id == agent_id, conversation_rows.c.deleted_at.is_(None))
    async with database.read() as connection:
        return (await connection.execute(query)).scalar_one()


async def test_they_are_hidden_at_once_before_anybody_deletes_them(database: Database) -> None:
    async with rig(database, worker_limits=_idle(database)) as parley:
        agent_id, [conversation] = await _talks(parley, 1)
        sent = await parley.say(conversation.id, "Hi")
        await delete_agent(parley.engine, TENANT, agent_id)
        assert await _left(database, agent_id) == 1
        with pytest.raises(ConversationNotFound):
            await parley.say(conversation.id, "Hi")
        with pytest.raises(AgentNotFound):
            await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent_id))
        async with database.read() as connection:
            [isolated] = await blocks.by_conversation(connection, [conversation.id])
            assert await conversations.by_ids(connection, TENANT, [conversation.id]) == []
            assert await messages.by_ids(connection, TENANT, [sent.messages[0].id]) == []
            assert await runs.by_ids(connection, TENANT, [sent.run.id]) == []
            assert await agents.blocks_by_ids(connection, TENANT, [isolated.id]) == []


async def test_all_of_them_are_deleted_with_their_blocks_and_nobody_elses(parley: Rig) -> None:
    agent_id, talks = await _talks(parley, 5)
    other_id, others = await _talks(parley, 2)
    await delete_agent(parley.engine, TENANT, agent_id)

    async def none_left() -> bool:
        async with parley.database.read() as connection:
            return await agents.orphans(connection, limit=10) == []

    await eventually(none_left)
    assert (await _left(parley.database, agent_id), await _left(parley.database, other_id)) == (0, 2)
    async with parley.database.read() as connection:
        assert await blocks.by_conversation(connection, [talk.id for talk in talks]) == []
        assert len(await blocks.by_conversation(connection, [talk.id for talk in others])) == 2
    for talk in talks:
        [*_, last] = await parley.stored(talk.id)
        assert last.payload == StreamReset(ResetReason.CONVERSATION_DELETED, last.sequence)


async def test_who_follows_one_is_told_and_the_stream_ends(parley: Rig) -> None:
    agent_id, [conversation] = await _talks(parley, 1)
    following = asyncio.Event()
    seen: list[object] = []

    async def follow() -> None:
        async with aclosing(parley.reader.follow(conversation.id, after=0, mode=DeltaMode.ALL)) as items:
            async for item in items:
                seen.append(item.payload)
                if isinstance(item.payload, CaughtUp):
                    following.set()

    async with asyncio.timeout(20):
        follower = asyncio.create_task(follow())
        await following.wait()
        await delete_agent(parley.engine, TENANT, agent_id)
        await follower
    assert isinstance(seen[-1], StreamReset)
    assert seen[-1].reason is ResetReason.CONVERSATION_DELETED


async def test_a_run_that_is_under_way_is_cancelled_first(database: Database) -> None:
    cues, _gates = gated("Once ", "upon ")
    model = Scripted([*cues, *finished()], handle="test/slow")
    async with rig(database, models=Models(model)) as parley:
        conversation = await parley.conversation(model=model.handle)
        sent = await parley.say(conversation.id, "Hi")
        queued = await parley.say(conversation.id, "And?")
        await until(parley, conversation.id, lambda payload: isinstance(payload, MessageDelta))
        followed = parley.reader.follow(conversation.id, after=sent.applied_through_sequence, mode=DeltaMode.ALL)
        await delete_agent(parley.engine, TENANT, conversation.agent_id)
        items = await collect(followed, lambda item: isinstance(item.payload, StreamReset))
        ended = [item.payload for item in items if isinstance(item.payload, RunChanged) and item.payload.run.ended]
        assert [(payload.run.id, payload.status) for payload in ended] == [
            (sent.run.id, RunStatus.CANCELLED),
            (queued.run.id, RunStatus.CANCELLED),
        ]
        assert isinstance((await parley.stored(conversation.id))[-1].payload, StreamReset)


async def test_several_who_delete_at_once_delete_each_of_them_once(database: Database) -> None:
    async with rig(database, worker_limits=_idle(database)) as parley:
        agent_id, talks = await _talks(parley, 6)
        await delete_agent(parley.engine, TENANT, agent_id)
        async with asyncio.timeout(20):
            await asyncio.gather(*(erase_orphans(parley.engine) for _ in range(4)))
        for talk in talks:
            told = [event for event in await parley.stored(talk.id) if isinstance(event.payload, StreamReset)]
            assert len(told) == 1
        assert await _left(database, agent_id) == 0


async def test_an_agent_without_conversations_is_looked_at_no_more(database: Database) -> None:
    async with rig(database, worker_limits=_idle(database)) as parley:
        agent_id, _ = await _talks(parley, 0)
        await delete_agent(parley.engine, TENANT, agent_id)
        async with database.read() as connection:
            assert await agents.orphans(connection, limit=10) == [(agent_id, None)]
        await erase_orphans(parley.engine)
        async with database.read() as connection:
            assert await agents.orphans(connection, limit=10) == []


async def test_one_that_is_created_while_its_agent_is_deleted_is_refused_or_deleted(parley: Rig) -> None:
    for _ in range(5):
        agent_id, _none = await _talks(parley, 0)
        new = NewConversation(agent_id=agent_id)
        results = await asyncio.gather(
            *(create_conversation(parley.engine, TENANT, new) for _ in range(3)),
            delete_agent(parley.engine, TENANT, agent_id),
            *(create_conversation(parley.engine, TENANT, new) for _ in range(3)),
            return_exceptions=True,
        )
        assert all(result is None or isinstance(result, Conversation | AgentNotFound) for result in results)

        async def none_left(agent_id: str = agent_id) -> bool:
            return await _left(parley.database, agent_id) == 0

        await eventually(none_left)
