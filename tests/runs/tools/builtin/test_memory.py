"""Memory blocks changed by their agent: what may be changed, which block it is, and that it is done once, together with its return."""

import asyncio
from dataclasses import asdict, replace
from itertools import chain, repeat

import orjson
import pytest
from sqlalchemy import insert

from db import agents
from db.engine import Connection, Database
from db.tables import blocks
from runs.commands.agents import NewAgent, NewBlock, create_agent
from runs.commands.conversations import NewConversation, create_conversation
from runs.steps.once import once
from runs.writing.pen import Lease, LeaseLost, Pen
from runs.writing.writer import Writer
from streams.log import Transaction
from tests.rig import TENANT, Rig, rig
from tests.runs.doubt import Doubtful, Fate
from tests.runs.logs import call_states, checked, only, until
from tests.runs.scripted import Cue, Models, Scripted, call, finished
from vocabulary.conversations import AgentTool, Block, Conversation
from vocabulary.events import MessageDelta
from vocabulary.ids import Noun, new_id
from vocabulary.messages import MessageType, ToolReturnBody, ToolReturnStatus
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import RunStatus

MEMORY = (AgentTool(name="memory_append"), AgentTool(name="memory_replace"))
BLOCKS = (
    NewBlock(label="human", value="Ada", limit=20),
    NewBlock(label="rules", value="Be kind.", read_only=True),
    NewBlock(label="empty", value=""),
)


def _append(label: str, content: str, index: int = 0) -> list[Cue]:
    return call("memory_append", orjson.dumps({"label": label, "content": content}).decode(), index=index)


def _replace(label: str, old: str, new: str, index: int = 0) -> list[Cue]:
    return call("memory_replace", orjson.dumps({"label": label, "old_content": old, "new_content": new}).decode(), index=index)


async def _conversation(parley: Rig, settings: ModelSettings | None = None) -> Conversation:
    new = NewAgent(name="tester", model="test/scripted", tools=MEMORY, blocks=BLOCKS, model_settings=settings or ModelSettings())
    agent = await create_agent(parley.engine, TENANT, new)
    return await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id))


async def _values(database: Database, agent_id: str) -> dict[str, str]:
    async with database.read() as connection:
        return {block.label: block.value for block in await agents.blocks_by_agent(connection, [agent_id])}


async def _returned(parley: Rig, conversation: Conversation) -> list[tuple[ToolReturnStatus, str]]:
    body = only(await parley.history(conversation.id), MessageType.TOOL_RETURN).body
    assert isinstance(body, ToolReturnBody)
    return [(item.status, item.output) for item in body.tool_returns]


async def _changed(parley: Rig, settings: ModelSettings | None = None) -> Conversation:
    conversation = await _conversation(parley, settings)
    run = await parley.ended((await parley.say(conversation.id, "Remember")).run)
    assert run.status is RunStatus.COMPLETED
    await checked(parley, conversation.id)
    return conversation


async def test_text_is_added_on_a_line_of_its_own(database: Database) -> None:
    script = [*_append("human", "of London"), *_append("empty", "first", index=1), *finished()]
    async with rig(database, models=Models(Scripted(script))) as parley:
        conversation = await _changed(parley)
        values = await _values(database, conversation.agent_id)
        assert (values["human"], values["empty"]) == ("Ada\nof London", "first")
        assert await _returned(parley, conversation) == [
            (ToolReturnStatus.SUCCESS, "The memory block 'human' now says:\nAda\nof London"),
            (ToolReturnStatus.SUCCESS, "The memory block 'empty' now says:\nfirst"),
        ]


async def test_text_is_replaced_literally(database: Database) -> None:
    async with rig(database, models=Models(Scripted([*_replace("human", "Ada", "A\\1 (b)*"), *finished()]))) as parley:
        conversation = await _changed(parley)
        assert (await _values(database, conversation.agent_id))["human"] == "A\\1 (b)*"


@pytest.mark.parametrize("together", [True, False])
async def test_calls_of_one_step_see_each_others_changes(database: Database, *, together: bool) -> None:
    script = [*_append("human", "1"), *_append("human", "2", index=1), *_append("human", "3", index=2), *finished()]
    async with rig(database, models=Models(Scripted(script))) as parley:
        conversation = await _changed(parley, ModelSettings(parallel_tool_calls=together))
        value = (await _values(database, conversation.agent_id))["human"]
        assert sorted(value.split("\n")) == ["1", "2", "3", "Ada"]
        assert together or value == "Ada\n1\n2\n3"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (_append("human", "x" * 17), "The memory block 'human' may hold 20 characters, and would hold 21."),
        (_append("rules", "x"), "The memory block 'rules' is read-only."),
        (_append("none", "x"), "There is no memory block 'none'. There are: empty, human, rules."),
        (_replace("human", "Bob", "x"), "The old text is not in the memory block."),
        (_replace("human", "a", "A" * 20), "The memory block 'human' may hold 20 characters, and would hold 22."),
        (call("memory_append", '{"label": "human"}'), "The arguments are not what the tool takes: 'content' is a required property"),
    ],
    ids=["full", "read-only", "unknown", "not there", "full by replacing", "arguments"],
)
async def test_what_cannot_be_done_is_told_and_changes_nothing(database: Database, script: list[Cue], told: str) -> None:
    async with rig(database, models=Models(Scripted([*script, *finished()]))) as parley:
        conversation = await _changed(parley)
        assert await _returned(parley, conversation) == [(ToolReturnStatus.ERROR, told)]
        assert await _values(database, conversation.agent_id) == {"human": "Ada", "rules": "Be kind.", "empty": ""}
        assert call_states(await parley.stored(conversation.id))[-1] == "FAILED"


async def test_the_conversations_own_block_goes_before_the_shared_one(database: Database) -> None:
    async with rig(database, models=Models(Scripted([*_append("human", "x"), *finished()]))) as parley:
        conversation = await _conversation(parley)
        async with database.write() as connection:
            [shared] = [block for block in await agents.blocks_by_agent(connection, [conversation.agent_id]) if block.label == "human"]
            own = replace(shared, id=new_id(Noun.BLOCK), conversation_id=conversation.id, value="mine")
            await _store(connection, own)
        await parley.ended((await parley.say(conversation.id, "Remember")).run)
        assert (await _values(database, conversation.agent_id))["human"] == "Ada"
        async with database.read() as connection:
            [changed] = await agents.blocks_by_ids(connection, TENANT, [own.id])
        assert changed.value == "mine\nx"
        assert changed.updated_at > own.updated_at


async def _store(connection: Connection, block: Block) -> None:
    await connection.execute(insert(blocks), [asdict(block)])


# ---- once


@pytest.mark.parametrize("fate", [Fate.KEPT, Fate.LOST])
async def test_after_a_commit_that_nobody_answered_the_change_is_made_once(doubtful: Doubtful, fate: Fate) -> None:
    def doubt() -> None:
        doubtful.whose, doubtful.fates = "advance", chain([fate], repeat(Fate.ANSWERED))

    async with rig(doubtful, models=Models(Scripted([*_append("human", "x"), doubt, *finished()]))) as parley:
        conversation = await _changed(parley)
        assert next(doubtful.fates) is Fate.ANSWERED
        assert (await _values(doubtful, conversation.agent_id))["human"] == "Ada\nx"
        assert [status for status, _ in await _returned(parley, conversation)] == [ToolReturnStatus.SUCCESS]


async def test_a_run_that_has_lost_its_lease_changes_nothing(database: Database) -> None:
    """Somebody else may go on with it when its effect's turn comes."""
    gate = asyncio.Event()
    async with rig(
        database, models=Models(Scripted([*_append("human", "x")[:-1], gate, *_append("human", "x")[-1:], *finished()]))
    ) as parley:
        conversation = await _conversation(parley)
        sent = await parley.say(conversation.id, "Remember")
        await until(parley, conversation.id, lambda payload: isinstance(payload, MessageDelta))
        happened: list[str] = []

        async def effect(_transaction: Transaction) -> str:
            happened.append("x")
            return "done"

        pen = Pen(Lease(run=sent.run, fence=10_000), Writer(parley.engine))
        with pytest.raises(LeaseLost):
            await once(parley.engine, pen, "message-1", "toolcall-1", effect, most_characters=9)
        assert (happened, type(pen.failure)) == ([], LeaseLost)
        gate.set()
        await parley.ended(sent.run)
        assert (await _values(database, conversation.agent_id))["human"] == "Ada\nx"
