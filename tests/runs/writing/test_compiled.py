"""Prompts compiled for many at once; and that a compaction never puts an older one in the place of a newer."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from db import agents
from db.engine import Connection, Database
from runs.commands.agents import AgentChange, NewAgent, NewBlock, create_agent, update_agent
from runs.commands.blocks import BlockChange, update_block
from runs.commands.changes import compiled, recompile
from runs.commands.compact import CompactRequest, compact
from runs.commands.conversations import NewConversation, create_conversation
from runs.writing.compiled import prompts
from tests.db.patience import PATIENT
from tests.resolvers.asking import counted_statements
from tests.rig import TENANT, Rig
from tests.runs.compaction.test_compaction import context, said, talking
from tests.runs.compaction.windowed import Windowed
from tests.runs.logs import checked, eventually, steps
from vocabulary.events import MessageChanged
from vocabulary.messages import MessageType
from vocabulary.runs import RunStatus

BLOCK = NewBlock(label="human", value="Called Ann.")


class Interleaved(Database):
    """`between`: done once, before the worker's writer begins its next transaction."""

    between: Callable[[], Awaitable[object]] | None = None

    @asynccontextmanager
    async def write(self, committed: Callable[[], None] | None = None) -> AsyncGenerator[Connection]:
        task = asyncio.current_task()
        if self.between is not None and task is not None and task.get_name() == "writer":
            between, self.between = self.between, None
            await between()
        async with super().write(committed) as connection:
            yield connection


@pytest.fixture
async def interleaved(database_url: str) -> AsyncGenerator[Interleaved]:
    opened = Interleaved.open(database_url, postgres=PATIENT)
    yield opened
    await opened.close()


async def test_prompts_of_many_conversations_cost_as_many_statements_as_one(parley: Rig) -> None:
    first, second = [
        await create_agent(parley.engine, TENANT, NewAgent(name=name, instructions=f"I am {name}.", blocks=(BLOCK,))) for name in ("A", "B")
    ]
    new = [
        NewConversation(agent_id=first.id),
        NewConversation(agent_id=first.id, isolated_block_labels=("human",)),
        NewConversation(agent_id=second.id),
    ]
    ids = [(await create_conversation(parley.engine, TENANT, one)).id for one in new]
    async with parley.database.read() as connection:
        [shared] = await agents.blocks_by_agent(connection, [first.id])
    await update_block(parley.engine, TENANT, BlockChange(block_id=shared.id, value="Called Bob."))
    costs: list[int] = []
    async with parley.database.read() as connection:
        assert await prompts(connection, []) == {}
        for asked in (ids[:1], ids):
            with counted_statements() as statements:
                found = await prompts(connection, asked)
            costs.append(len(statements))
    assert costs[0] == costs[1]
    told = {id_: [name for name in ("I am A", "I am B", "Ann", "Bob") if name in found[id_]] for id_ in ids}
    assert list(told.values()) == [["I am A", "Bob"], ["I am A", "Ann"], ["I am B", "Ann"]]


@pytest.mark.parametrize("recompiled", [True, False], ids=["recompiled", "only changed"])
async def test_memory_that_changes_while_a_compaction_commits_is_not_overwritten(interleaved: Interleaved, *, recompiled: bool) -> None:
    async with talking(interleaved, model := Windowed()) as (parley, conversation):
        model.before_summary = asyncio.Event()

        async def instruct(instructions: str) -> None:
            await update_agent(parley.engine, TENANT, AgentChange(agent_id=conversation.agent_id, instructions=instructions))

        async def newer() -> None:
            """After the compaction has read, and before it writes."""
            await instruct("Be kind.")
            if recompiled:
                assert await recompile(parley.engine, TENANT, conversation.id) == "Be kind."

        asked = await compact(parley.engine, TENANT, CompactRequest(conversation_id=conversation.id))
        await asyncio.wait_for(model.summarising.wait(), 20)
        await eventually(lambda: _has_step(parley, asked.run.id))
        await instruct("Be polite.")
        interleaved.between = newer
        model.before_summary.set()
        run = await parley.ended(asked.run)

        assert (run.status, interleaved.between) == (RunStatus.COMPLETED, None)
        assert (await context(parley, conversation))[0].text == "Be kind."
        assert await compiled(parley.engine, TENANT, conversation.id) == "Be kind."
        events = await checked(parley, conversation.id)
        changed = [event.payload.message for event in events if isinstance(event.payload, MessageChanged)]
        assert [(message.type, message.text) for message in changed] == [(MessageType.SYSTEM, "Be kind.")] * (1 + recompiled)
        await said(parley, conversation, "And now?")
        assert model.answers[-1].system == "Be kind."


async def _has_step(parley: Rig, run_id: str) -> bool:
    return bool(await steps(parley, run_id))
