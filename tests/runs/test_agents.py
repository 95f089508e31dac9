"""Creating an agent: what is stored, and refusals that leave nothing behind."""

import pytest

from db import agents
from llm.registry import ModelNotFound
from runs.agents import NewAgent, NewBlock, UnknownTool, create_agent
from tests.rig import TENANT, Rig
from tests.runs.logs import rows
from vocabulary.conversations import AgentTool
from vocabulary.model_settings import ModelSettings, ReasoningEffort


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
