"""Creating, updating and deleting an agent: what is stored, kept and changed, and refusals that leave everything as it was."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from db import agents
from llm.registry import ModelNotFound
from runs.commands.agents import (
    AgentChange,
    GivenBlock,
    GivenTool,
    NewAgent,
    NewBlock,
    UnknownTool,
    create_agent,
    delete_agent,
    update_agent,
)
from runs.commands.blocks import BlockTooLong
from runs.commands.conversations import AgentNotFound
from tests.resolvers.asking import counted_statements
from tests.rig import TENANT, Rig
from tests.runs.logs import rows
from vocabulary.compaction import CompactionMode, CompactionSettings
from vocabulary.conversations import Agent, AgentTool, Block
from vocabulary.model_settings import ModelSettings, ReasoningEffort

NEW = NewAgent(
    name="Ada",
    description="Counts",
    instructions="Be exact.",
    model_settings=ModelSettings(temperature=0.5, top_p=0.9),
    compaction_settings=CompactionSettings(prompt="Sum up.", model_settings=ModelSettings(temperature=0.1)),
    blocks=(
        NewBlock(label="persona", value="Terse.", description="Who you are", limit=10, read_only=True),
        NewBlock(label="human", value="?"),
    ),
    tools=(AgentTool(name="current_time", requires_approval=True),),
)


async def _stored(parley: Rig, agent_id: str) -> tuple[Agent, dict[str, Block]]:
    async with parley.database.read() as connection:
        [agent] = await agents.by_ids(connection, TENANT, [agent_id])
        return agent, {block.label: block for block in await agents.blocks_by_agent(connection, [agent_id])}


async def _updated(parley: Rig, agent_id: str, **given: Any) -> tuple[Agent, dict[str, Block]]:
    answered = await update_agent(parley.engine, TENANT, AgentChange(agent_id=agent_id, **given))
    stored, blocks = await _stored(parley, agent_id)
    assert stored == answered
    return stored, blocks


# ---- creating


async def test_an_agent_is_stored_with_its_blocks(parley: Rig) -> None:
    new = NewAgent(
        name="Ada",
        description="Counts",
        instructions="Be exact.",
        model="demo/echo",
        model_settings=ModelSettings(temperature=0.0, reasoning_effort=ReasoningEffort.LOW),
        blocks=(NewBlock(label="persona", value="Terse.", limit=10, read_only=True), NewBlock(label="human", value="")),
        tools=(AgentTool(name="current_time", requires_approval=True),),
    )
    agent = await create_agent(parley.engine, TENANT, new)
    async with parley.database.read() as connection:
        assert await agents.by_ids(connection, TENANT, [agent.id]) == [agent]
        blocks = await agents.blocks_by_agent(connection, [agent.id])
    assert (agent.name, agent.description, agent.instructions, agent.model_settings) == (
        "Ada", "Counts", "Be exact.", new.model_settings,
    )  # fmt: skip
    assert agent.tools == new.tools
    assert [(block.label, block.value, block.limit, block.read_only, block.isolated) for block in blocks] == [
        ("human", "", 5000, False, False),
        ("persona", "Terse.", 10, True, False),
    ]


async def test_without_a_model_it_gets_the_servers(parley: Rig) -> None:
    assert (await create_agent(parley.engine, TENANT, NewAgent(name="Ada"))).model == "demo/echo"


async def test_an_unknown_model_is_refused_and_nothing_is_stored(parley: Rig) -> None:
    before = await rows(parley.database)
    with pytest.raises(ModelNotFound):
        await create_agent(parley.engine, TENANT, NewAgent(name="Ada", model="nobody/nothing"))
    assert await rows(parley.database) == before


async def test_an_unknown_tool_is_refused_by_its_name_and_nothing_is_stored(parley: Rig) -> None:
    before = await rows(parley.database)
    with pytest.raises(UnknownTool) as refused:
        await create_agent(parley.engine, TENANT, NewAgent(name="Ada", tools=(AgentTool(name="current_time"), AgentTool(name="hammer"))))
    assert refused.value.name == "hammer"
    assert await rows(parley.database) == before


# ---- updating and deleting


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"name": "Ada", "model": None, "model_settings": {"temperature": 0.5}},
        {
            "tools": (GivenTool(name="current_time"),),
            "blocks": (GivenBlock(label="human", value="?"), GivenBlock(label="persona", value="Terse.")),
        },
    ],
    ids=str,
)
async def test_an_update_that_says_nothing_new_keeps_everything_also_its_time(parley: Rig, given: dict[str, Any]) -> None:
    agent = await create_agent(parley.engine, TENANT, NEW)
    before = await _stored(parley, agent.id)
    assert await _updated(parley, agent.id, **given) == before


@pytest.mark.parametrize(
    "given",
    [
        {"name": "Bea"},
        {"blocks": ()},
        {"blocks": (GivenBlock(label="human", value="!"), GivenBlock(label="persona", value="Terse."))},
        {"blocks": (*(GivenBlock(label=label, value=value) for label, value in (("human", "?"), ("persona", "Terse."), ("task", ""))),)},
    ],
    ids=str,
)
async def test_an_update_that_changes_something_moves_its_time(parley: Rig, given: dict[str, Any]) -> None:
    agent = await create_agent(parley.engine, TENANT, NEW)
    updated, _ = await _updated(parley, agent.id, **given)
    assert updated.updated_at > agent.updated_at


@pytest.mark.parametrize(
    ("given", "became"),
    [
        ({"name": "Bea"}, {"name": "Bea"}),
        ({"description": None}, {"description": None}),
        ({"instructions": ""}, {"instructions": ""}),
        ({"model": None}, {"model": "demo/echo"}),
        ({"model_settings": {"temperature": None}}, {"model_settings": ModelSettings(top_p=0.9)}),
        (
            {"compaction_settings": {"mode": CompactionMode.ALL}},
            {"compaction_settings": replace(NEW.compaction_settings, mode=CompactionMode.ALL)},
        ),
        (
            {"compaction_settings": {"model": "demo/echo", "prompt": None, "model_settings": {"top_p": 0.2}}},
            {"compaction_settings": CompactionSettings(model="demo/echo", model_settings=ModelSettings(temperature=0.1, top_p=0.2))},
        ),
        ({"tools": ()}, {"tools": ()}),
        ({"tools": (GivenTool(name="current_time"),)}, {"tools": NEW.tools}),
        ({"tools": (GivenTool(name="current_time", requires_approval=None),)}, {"tools": (AgentTool(name="current_time"),)}),
    ],
    ids=str,
)
async def test_an_update_changes_what_it_names_and_nothing_else(parley: Rig, given: dict[str, Any], became: dict[str, Any]) -> None:
    agent = await create_agent(parley.engine, TENANT, NEW)
    _, blocks = await _stored(parley, agent.id)
    updated, blocks_now = await _updated(parley, agent.id, **given)
    assert updated == replace(agent, **became, updated_at=updated.updated_at)
    assert blocks_now == blocks


async def test_blocks_are_replaced_by_label(parley: Rig) -> None:
    agent = await create_agent(parley.engine, TENANT, NEW)
    _, before = await _stored(parley, agent.id)
    given = (GivenBlock(label="persona", value="Chatty."), GivenBlock(label="task", value="Count.", limit=6))
    _, blocks = await _updated(parley, agent.id, blocks=given)
    assert sorted(blocks) == ["persona", "task"]
    was, now = before["persona"], blocks["persona"]
    assert now == replace(was, value="Chatty.", updated_at=now.updated_at)
    assert now.updated_at > was.updated_at
    assert (blocks["task"].value, blocks["task"].limit, blocks["task"].read_only) == ("Count.", 6, False)
    _, none = await _updated(parley, agent.id, blocks=())
    assert none == {}


async def test_a_block_given_as_it_is_stays_as_it_is(parley: Rig) -> None:
    agent = await create_agent(parley.engine, TENANT, NEW)
    _, before = await _stored(parley, agent.id)
    same = tuple(GivenBlock(label=block.label, value=block.value) for block in before.values())
    _, blocks = await _updated(parley, agent.id, blocks=same)
    assert blocks == before


async def test_a_block_keeps_its_label_and_id_through_a_change_of_all_else(parley: Rig) -> None:
    agent = await create_agent(parley.engine, TENANT, NEW)
    _, before = await _stored(parley, agent.id)
    given = GivenBlock(label="persona", value="Someone else entirely.", description=None, limit=50, read_only=False)
    _, blocks = await _updated(parley, agent.id, blocks=(given,))
    block = blocks["persona"]
    assert (block.id, block.value, block.description, block.limit, block.read_only) == (
        before["persona"].id, "Someone else entirely.", None, 50, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"model": "nobody/nothing"}, ModelNotFound),
        ({"compaction_settings": {"model": "nobody/nothing"}}, ModelNotFound),
        ({"tools": (GivenTool(name="hammer"),)}, UnknownTool),
        ({"blocks": (GivenBlock(label="human", value="!"), GivenBlock(label="persona", value="Eleven char"))}, BlockTooLong),
        ({"blocks": (GivenBlock(label="persona", value="Terse.", limit=5),)}, BlockTooLong),
    ],
    ids=str,
)
async def test_a_refused_update_changes_nothing(parley: Rig, given: dict[str, Any], refusal: type[Exception]) -> None:
    agent = await create_agent(parley.engine, TENANT, NEW)
    before = await _stored(parley, agent.id)
    with pytest.raises(refusal):
        await update_agent(parley.engine, TENANT, AgentChange(agent_id=agent.id, name="Bea", **given))
    assert await _stored(parley, agent.id) == before


async def test_a_summariser_that_does_not_exist_is_refused_at_creation(parley: Rig) -> None:
    with pytest.raises(ModelNotFound) as refused:
        await create_agent(parley.engine, TENANT, replace(NEW, compaction_settings=CompactionSettings(model="nobody/nothing")))
    assert refused.value.handle == "nobody/nothing"


async def test_nobody_updates_or_deletes_another_tenants_agent(parley: Rig) -> None:
    agent = await create_agent(parley.engine, TENANT, NEW)
    before = await _stored(parley, agent.id)
    with pytest.raises(AgentNotFound):
        await update_agent(parley.engine, "elsewhere", AgentChange(agent_id=agent.id, name="Mine"))
    with pytest.raises(AgentNotFound):
        await delete_agent(parley.engine, "elsewhere", agent.id)
    assert await _stored(parley, agent.id) == before


async def test_a_deleted_agent_is_gone_for_every_command(parley: Rig) -> None:
    agent = await create_agent(parley.engine, TENANT, NEW)
    await delete_agent(parley.engine, TENANT, agent.id)
    with pytest.raises(AgentNotFound):
        await update_agent(parley.engine, TENANT, AgentChange(agent_id=agent.id))
    with pytest.raises(AgentNotFound):
        await delete_agent(parley.engine, TENANT, agent.id)
    async with parley.database.read() as connection:
        assert await agents.by_ids(connection, TENANT, [agent.id]) == []


async def test_updates_at_once_lose_nothing_that_only_one_of_them_said(parley: Rig) -> None:
    agent = await create_agent(parley.engine, TENANT, NewAgent(name="Ada"))
    changes: list[dict[str, Any]] = [
        {"name": "Bea"},
        {"description": "d"},
        {"instructions": "i"},
        {"model_settings": {"temperature": 1.0}},
        {"model_settings": {"top_p": 0.5}},
        {"compaction_settings": {"prompt": "p"}},
        {"compaction_settings": {"clip_chars": 9}},
        {"compaction_settings": {"model_settings": {"temperature": 0.0}}},
        {"compaction_settings": {"model_settings": {"top_p": 0.0}}},
        {"tools": (GivenTool(name="current_time"),)},
        {"blocks": (GivenBlock(label="human", value="?"),)},
    ]
    async with asyncio.timeout(20):
        await asyncio.gather(*(update_agent(parley.engine, TENANT, AgentChange(agent_id=agent.id, **given)) for given in changes))
    updated, blocks = await _stored(parley, agent.id)
    assert (updated.name, updated.description, updated.instructions) == ("Bea", "d", "i")
    assert updated.model_settings == ModelSettings(temperature=1.0, top_p=0.5)
    assert updated.compaction_settings == CompactionSettings(
        prompt="p", clip_chars=9, model_settings=ModelSettings(temperature=0.0, top_p=0.0)
    )
    assert (updated.tools, list(blocks)) == ((AgentTool(name="current_time"),), ["human"])


async def test_replacements_of_all_blocks_at_once_end_as_one_of_them(parley: Rig) -> None:
    agent = await create_agent(parley.engine, TENANT, NEW)
    given = [tuple(GivenBlock(label=label, value=str(n)) for label in (f"own-{n}", "human", "persona")) for n in range(8)]
    async with asyncio.timeout(20):
        await asyncio.gather(
            *(update_agent(parley.engine, TENANT, AgentChange(agent_id=agent.id, blocks=blocks)) for blocks in given),
        )
    _, blocks = await _stored(parley, agent.id)
    [won] = {block.value for block in blocks.values()}
    assert sorted(blocks) == ["human", f"own-{won}", "persona"]


async def test_an_update_costs_the_same_whatever_the_number_of_blocks(parley: Rig) -> None:
    async def cost(n: int) -> int:
        agent = await create_agent(
            parley.engine, TENANT, NewAgent(name="Ada", blocks=tuple(NewBlock(label=f"b{i}", value="") for i in range(n)))
        )
        kept = tuple(GivenBlock(label=f"b{i}", value="!") for i in range(n // 2))
        added = tuple(GivenBlock(label=f"c{i}", value="") for i in range(n))
        with counted_statements() as seen:
            await update_agent(parley.engine, TENANT, AgentChange(agent_id=agent.id, blocks=kept + added))
        return len(seen)

    assert await cost(40) == await cost(2)
