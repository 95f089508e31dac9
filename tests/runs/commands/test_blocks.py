"""Updating a memory block, shared or isolated: limits, tenants, and what conversations see of it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from db import agents, blocks
from runs.commands.agents import NewAgent, NewBlock, create_agent, delete_agent
from runs.commands.blocks import BlockChange, BlockNotFound, BlockTooLong, update_block
from runs.commands.conversations import NewConversation, create_conversation
from tests.rig import TENANT, Rig
from tests.runs.logs import only
from vocabulary.conversations import Block
from vocabulary.messages import MessageType


async def _agent(parley: Rig) -> tuple[str, Block]:
    new = NewBlock(label="persona", value="Terse.", description="Who you are", limit=10, read_only=True)
    agent = await create_agent(parley.engine, TENANT, NewAgent(name="tester", blocks=(new,)))
    return agent.id, await _only_block(parley, agent.id)


async def _only_block(parley: Rig, agent_id: str) -> Block:
    async with parley.database.read() as connection:
        [block] = await agents.blocks_by_agent(connection, [agent_id])
    return block


async def _system(parley: Rig, conversation_id: str) -> str:
    return only(await parley.history(conversation_id), MessageType.SYSTEM).text


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"value": ""},
        {"value": "x" * 10},
        {"description": None},
        {"limit": 6},
        {"limit": 20, "value": "x" * 20},
        {"limit": 1, "value": "x"},
        {"read_only": False},
        {"value": "Chatty.", "description": "d", "limit": 7, "read_only": False},
    ],
    ids=str,
)
async def test_a_block_is_changed_where_the_request_says_so(parley: Rig, given: dict[str, Any]) -> None:
    agent_id, block = await _agent(parley)
    updated = await update_block(parley.engine, TENANT, BlockChange(block_id=block.id, **given))
    assert updated == replace(block, **given, updated_at=updated.updated_at)
    assert (updated.updated_at > block.updated_at) is bool(given)
    assert await _only_block(parley, agent_id) == updated


@pytest.mark.parametrize(
    ("given", "length", "limit"), [({"value": "x" * 11}, 11, 10), ({"limit": 5}, 6, 5), ({"value": "xx", "limit": 1}, 2, 1)]
)
async def test_a_value_longer_than_the_limit_is_refused(parley: Rig, given: dict[str, Any], length: int, limit: int) -> None:
    agent_id, block = await _agent(parley)
    with pytest.raises(BlockTooLong) as refused:
        await update_block(parley.engine, TENANT, BlockChange(block_id=block.id, **given))
    assert (refused.value.label, refused.value.length, refused.value.limit) == ("persona", length, limit)
    assert await _only_block(parley, agent_id) == block


async def test_of_a_longer_value_and_a_lower_limit_at_once_one_is_refused(parley: Rig) -> None:
    """Checked under the block's lock: each alone is allowed, both together never."""
    for _ in range(5):
        agent_id, block = await _agent(parley)
        results = await asyncio.gather(
            update_block(parley.engine, TENANT, BlockChange(block_id=block.id, value="x" * 10)),
            update_block(parley.engine, TENANT, BlockChange(block_id=block.id, limit=6)),
            return_exceptions=True,
        )
        assert [type(result) for result in results].count(BlockTooLong) == 1
        stored = await _only_block(parley, agent_id)
        assert len(stored.value) <= stored.limit


async def test_changes_of_one_block_at_once_lose_nothing(parley: Rig) -> None:
    agent_id, block = await _agent(parley)
    changes: list[dict[str, Any]] = [{"value": "a"}, {"description": "b"}, {"limit": 9}, {"read_only": False}]
    await asyncio.gather(*(update_block(parley.engine, TENANT, BlockChange(block_id=block.id, **given)) for given in changes))
    stored = await _only_block(parley, agent_id)
    assert (stored.value, stored.description, stored.limit, stored.read_only) == ("a", "b", 9, False)


async def test_unknown_foreign_and_deleted_blocks_are_not_found(parley: Rig) -> None:
    agent_id, block = await _agent(parley)
    for tenant, block_id in (("elsewhere", block.id), (TENANT, "block-unknown")):
        with pytest.raises(BlockNotFound):
            await update_block(parley.engine, tenant, BlockChange(block_id=block_id, value="mine"))
    assert await _only_block(parley, agent_id) == block
    await delete_agent(parley.engine, TENANT, agent_id)
    with pytest.raises(BlockNotFound):
        await update_block(parley.engine, TENANT, BlockChange(block_id=block.id, value="late"))


async def test_a_new_conversation_sees_the_values_of_now_and_older_ones_what_they_were_made_with(parley: Rig) -> None:
    agent_id, block = await _agent(parley)
    older = await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent_id))
    await update_block(parley.engine, TENANT, BlockChange(block_id=block.id, value="Chatty."))
    newer = await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent_id))
    assert "Terse." in await _system(parley, older.id)
    assert "Chatty." in await _system(parley, newer.id)


async def test_an_isolated_block_and_its_shared_origin_are_changed_apart(parley: Rig) -> None:
    agent_id, shared = await _agent(parley)
    new = NewConversation(agent_id=agent_id, isolated_block_labels=("persona",))
    conversation = await create_conversation(parley.engine, TENANT, new)
    async with parley.database.read() as connection:
        [isolated] = await blocks.by_conversation(connection, [conversation.id])
    changed = await update_block(parley.engine, TENANT, BlockChange(block_id=isolated.id, value="Mine."))
    await update_block(parley.engine, TENANT, BlockChange(block_id=shared.id, value="All's."))
    assert (changed.isolated, changed.value) == (True, "Mine.")
    assert (await _only_block(parley, agent_id)).value == "All's."
    async with parley.database.read() as connection:
        assert await blocks.by_conversation(connection, [conversation.id]) == [changed]
