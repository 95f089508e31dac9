"""Creating a conversation: its compiled system message, what a retry gets, and refusals that leave nothing behind."""

import asyncio

import pytest

from db import agents, blocks
from llm.registry import ModelNotFound
from runs.commands.agents import NewAgent, NewBlock, create_agent
from runs.commands.conversations import AgentNotFound, NewConversation, UnknownBlock, create_conversation
from runs.commands.idempotency import IdempotencyConflict
from tests.rig import TENANT, Rig, rig
from tests.runs.logs import rows
from vocabulary.conversations import Agent, ConversationStatus
from vocabulary.events import MessageCompleted
from vocabulary.messages import MessageStatus, MessageType
from vocabulary.model_settings import ModelSettings


async def _agent(parley: Rig) -> Agent:
    blocks = (NewBlock(label="persona", value="Terse."), NewBlock(label="human", value="Ada", description="Who asks"))
    return await create_agent(parley.engine, TENANT, NewAgent(name="tester", instructions="Be kind.", blocks=blocks))


async def test_its_history_begins_with_the_compiled_system_message(parley: Rig) -> None:
    agent = await _agent(parley)
    settings = ModelSettings(temperature=0.5)
    new = NewConversation(agent_id=agent.id, summary="A talk", model="demo/echo", model_settings=settings)
    conversation = await create_conversation(parley.engine, TENANT, new)
    assert conversation == await parley.read(conversation.id)
    assert (conversation.summary, conversation.model, conversation.model_settings) == ("A talk", "demo/echo", settings)
    assert (conversation.status, conversation.head_sequence, conversation.last_message_at) == (ConversationStatus.IDLE, 1, None)
    [system] = await parley.history(conversation.id)
    assert (system.id, system.type, system.status, system.ordinal) == (
        conversation.system_message_id, MessageType.SYSTEM, MessageStatus.COMPLETED, 1,
    )  # fmt: skip
    assert (system.in_context, system.in_tail) == (True, False)
    assert system.text == (
        'Be kind.\n\n<memory label="human" description="Who asks">\nAda\n</memory>\n\n<memory label="persona">\nTerse.\n</memory>'
    )
    [event] = await parley.stored(conversation.id)
    assert (event.sequence, event.run_id, event.payload) == (1, None, MessageCompleted(system))


async def test_a_retry_gets_the_first_conversation_also_after_a_restart(parley: Rig) -> None:
    agent = await _agent(parley)
    new = NewConversation(agent_id=agent.id, idempotency_key="k", body_hash="h")
    first = await create_conversation(parley.engine, TENANT, new)
    await parley.ended((await parley.say(first.id, "Hi")).run)
    async with rig(parley.database) as restarted:
        before = await rows(parley.database)
        again = await create_conversation(restarted.engine, TENANT, new)
        assert again == await restarted.read(first.id)
        assert await rows(parley.database) == before


async def test_the_same_key_with_another_body_is_refused(parley: Rig) -> None:
    agent = await _agent(parley)
    await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id, idempotency_key="k", body_hash="h"))
    before = await rows(parley.database)
    with pytest.raises(IdempotencyConflict):
        await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id, idempotency_key="k", body_hash="other"))
    assert await rows(parley.database) == before


async def test_twenty_simultaneous_retries_make_one_conversation(parley: Rig) -> None:
    agent = await _agent(parley)
    new = NewConversation(agent_id=agent.id, idempotency_key="k", body_hash="h")
    made = await asyncio.gather(*(create_conversation(parley.engine, TENANT, new) for _ in range(20)))
    assert len({conversation.id for conversation in made}) == 1
    counted = await rows(parley.database)
    assert (counted["conversations"], counted["heads"], counted["messages"], counted["events"]) == (1, 1, 1, 1)


async def test_a_key_belongs_to_its_agent(parley: Rig) -> None:
    made = [
        await create_conversation(
            parley.engine, TENANT, NewConversation(agent_id=(await _agent(parley)).id, idempotency_key="k", body_hash="h")
        )
        for _ in range(2)
    ]
    assert made[0].id != made[1].id


async def test_without_a_key_every_call_makes_one(parley: Rig) -> None:
    agent = await _agent(parley)
    made = [await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id, body_hash="h")) for _ in range(2)]
    assert made[0].id != made[1].id


@pytest.mark.parametrize(("tenant", "agent_id"), [(TENANT, "agent-unknown"), (TENANT, ""), ("somebody else", None)])
async def test_an_unknown_or_foreign_agent_is_not_found_and_nothing_is_stored(parley: Rig, tenant: str, agent_id: str | None) -> None:
    agent = await _agent(parley)
    before = await rows(parley.database)
    with pytest.raises(AgentNotFound):
        await create_conversation(parley.engine, tenant, NewConversation(agent_id=agent.id if agent_id is None else agent_id))
    assert await rows(parley.database) == before


async def test_an_unknown_model_is_refused_and_nothing_is_stored(parley: Rig) -> None:
    agent = await _agent(parley)
    before = await rows(parley.database)
    with pytest.raises(ModelNotFound):
        await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id, model="nobody/nothing"))
    assert await rows(parley.database) == before


async def test_isolated_blocks_are_copies_that_stand_in_front_of_the_agents(parley: Rig) -> None:
    agent = await _agent(parley)
    new = NewConversation(agent_id=agent.id, isolated_block_labels=("persona", "human"))
    conversation = await create_conversation(parley.engine, TENANT, new)
    async with parley.database.read() as connection:
        shared = await agents.blocks_by_agent(connection, [agent.id])
        copies = await blocks.by_conversation(connection, [conversation.id])
    assert [(copy.label, copy.value, copy.description, copy.limit, copy.read_only) for copy in copies] == [
        (block.label, block.value, block.description, block.limit, block.read_only) for block in shared
    ]
    assert {copy.conversation_id for copy in copies} == {conversation.id}
    assert not {copy.id for copy in copies} & {block.id for block in shared}
    [system] = await parley.history(conversation.id)
    plain = await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id))
    assert system.text == (await parley.history(plain.id))[0].text


async def test_only_the_blocks_that_are_named_are_copied(parley: Rig) -> None:
    agent = await _agent(parley)
    conversation = await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id, isolated_block_labels=("human",)))
    async with parley.database.read() as connection:
        assert [block.label for block in await blocks.by_conversation(connection, [conversation.id])] == ["human"]


async def test_an_unknown_label_is_refused_by_its_name_and_nothing_is_stored(parley: Rig) -> None:
    agent = await _agent(parley)
    before = await rows(parley.database)
    with pytest.raises(UnknownBlock) as refused:
        await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id, isolated_block_labels=("human", "hammer")))
    assert refused.value.label == "hammer"
    assert await rows(parley.database) == before


async def test_a_retry_copies_no_block_again(parley: Rig) -> None:
    agent = await _agent(parley)
    new = NewConversation(agent_id=agent.id, isolated_block_labels=("human",), idempotency_key="k", body_hash="h")
    made = await asyncio.gather(*(create_conversation(parley.engine, TENANT, new) for _ in range(5)))
    assert len({conversation.id for conversation in made}) == 1
    async with parley.database.read() as connection:
        assert len(await blocks.by_conversation(connection, [made[0].id])) == 1
