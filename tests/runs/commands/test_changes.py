"""Changing a conversation and compiling its system message anew, also while it is busy."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import update

from db import blocks, tables
from db.engine import Database
from llm.registry import ModelNotFound
from runs.commands.changes import ConversationChange, compiled, recompile, update_conversation
from runs.heads import ConversationNotFound
from streams.bus import Bus
from tests.db.rows import NOON
from tests.rig import TENANT, Rig, rig
from tests.runs.logs import checked, rows, said, until
from tests.runs.scripted import Models, Scripted, finished, text
from vocabulary.conversations import Block, Conversation
from vocabulary.events import ConversationChanged, MessageChanged
from vocabulary.ids import Noun, new_id
from vocabulary.model_settings import ModelSettings


async def _change(parley: Rig, conversation: Conversation, **fields: object) -> Conversation:
    return await update_conversation(parley.engine, TENANT, ConversationChange(conversation_id=conversation.id, **fields))  # type: ignore[arg-type]


async def _instruct(parley: Rig, conversation: Conversation, instructions: str) -> None:
    async with parley.database.write() as connection:
        query = update(tables.agents).where(tables.agents.c.id == conversation.agent_id)
        await connection.execute(query.values(instructions=instructions))


async def test_what_is_given_changes_and_is_told_and_the_rest_stays(parley: Rig) -> None:
    conversation = await parley.conversation()
    named = await _change(parley, conversation, summary="A talk", model_settings={"temperature": 0.5, "top_p": 0.1})
    assert (named.summary, named.model, named.model_settings) == ("A talk", None, ModelSettings(temperature=0.5, top_p=0.1))
    switched = await _change(parley, conversation, model="demo/echo", model_settings={"temperature": None, "max_output_tokens": 9})
    assert (switched.summary, switched.model) == ("A talk", "demo/echo")
    assert switched.model_settings == ModelSettings(top_p=0.1, max_output_tokens=9)
    cleared = await _change(parley, conversation, summary=None, model=None, model_settings=None)
    assert (cleared.summary, cleared.model, cleared.model_settings) == (None, None, None)
    assert cleared == await parley.read(conversation.id)
    told = [event.payload for event in await checked(parley, conversation.id)][1:]
    assert [type(payload) for payload in told] == [ConversationChanged] * 3
    assert told[-1] == ConversationChanged(cleared)


async def test_what_changes_nothing_is_not_told(parley: Rig) -> None:
    conversation = await parley.conversation()
    assert await _change(parley, conversation) == conversation
    assert await _change(parley, conversation, summary=None, model_settings={}) == conversation
    assert len(await parley.stored(conversation.id)) == 1


async def test_an_unknown_model_or_conversation_is_refused_and_nothing_changes(parley: Rig) -> None:
    conversation = await parley.conversation()
    before = await rows(parley.database)
    with pytest.raises(ModelNotFound):
        await _change(parley, conversation, summary="s", model="no/such")
    for tenant, id_ in (("elsewhere", conversation.id), (TENANT, "conv-unknown")):
        with pytest.raises(ConversationNotFound):
            await update_conversation(parley.engine, tenant, ConversationChange(conversation_id=id_, summary="s"))
        for command in (compiled, recompile):
            with pytest.raises(ConversationNotFound):
                await command(parley.engine, tenant, id_)
    assert (await parley.read(conversation.id), await rows(parley.database)) == (conversation, before)


async def test_simultaneous_changes_of_different_fields_are_all_kept(parley: Rig) -> None:
    conversation = await parley.conversation()
    settings = [{"temperature": 0.5}, {"top_p": 0.5}, {"max_output_tokens": 5}, {"context_window": 5}]
    await asyncio.gather(
        *(_change(parley, conversation, model_settings=one) for one in settings), _change(parley, conversation, summary="s")
    )
    changed = await parley.read(conversation.id)
    assert changed.model_settings == ModelSettings(temperature=0.5, top_p=0.5, max_output_tokens=5, context_window=5)
    assert changed.summary == "s"


async def test_the_system_message_gets_the_new_prompt_in_its_place(parley: Rig) -> None:
    conversation = await parley.conversation()
    [before] = await parley.history(conversation.id)
    await _instruct(parley, conversation, "Be loud.")
    assert await compiled(parley.engine, TENANT, conversation.id) == "Be loud."
    assert (await parley.history(conversation.id), len(await parley.stored(conversation.id))) == ([before], 1)
    for _ in range(2):
        assert await recompile(parley.engine, TENANT, conversation.id) == "Be loud."
    [after] = await parley.history(conversation.id)
    assert after == replace(before, text="Be loud.", sequence=2)
    assert [event.payload for event in await parley.stored(conversation.id)][1:] == [MessageChanged(after)]


async def test_a_block_of_its_own_stands_before_the_agents(parley: Rig) -> None:
    conversation = await parley.conversation(instructions="")
    shared = Block(
        id=new_id(Noun.BLOCK), tenant=TENANT, agent_id=conversation.agent_id, conversation_id=None, label="human", value="Ada",
        description=None, limit=100, read_only=False, updated_at=NOON,
    )  # fmt: skip
    isolated = replace(shared, id=new_id(Noun.BLOCK), conversation_id=conversation.id, value="Bob")
    async with parley.database.write() as connection:
        await blocks.create(connection, [shared, isolated, replace(shared, id=new_id(Noun.BLOCK), label="persona", value="Kind")])
    prompt = await recompile(parley.engine, TENANT, conversation.id)
    assert prompt == '<memory label="human">\nBob\n</memory>\n\n<memory label="persona">\nKind\n</memory>'


async def test_a_run_goes_on_with_its_prompt_and_the_next_has_the_new_one(database: Database, bus: Bus) -> None:
    gate = asyncio.Event()
    model = Scripted([*text("Half", " done")[:-2], gate, *text("Half", " done")[2:], *finished()])
    async with rig(database, bus=bus, models=Models(model)) as parley:
        conversation = await parley.conversation(model="test/scripted")
        sent = await parley.say(conversation.id, "Hi")
        await until(parley, conversation.id, said("Half"))
        await _instruct(parley, conversation, "Be loud.")
        await recompile(parley.engine, TENANT, conversation.id)
        await _change(parley, conversation, summary="s")
        gate.set()
        assert (await parley.ended(sent.run)).attempt == 1
        await parley.ended((await parley.say(conversation.id, "And?")).run)
        assert [asked.system for asked in model.requests] == ["Be brief.", "Be loud."]
        await checked(parley, conversation.id)
