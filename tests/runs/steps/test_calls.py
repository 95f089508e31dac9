"""The calls of one step: run together or one after the other, each told as it ends, their returns no longer than there is room for."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from db.engine import Database
from runs.commands.agents import NewAgent, create_agent
from runs.commands.conversations import NewConversation, create_conversation
from runs.tools.registry import Arguments, ServerTool, ToolContext
from tests.rig import TENANT, Rig, rig
from tests.runs.logs import checked, only, until
from tests.runs.scripted import Models, Scripted, call, finished
from vocabulary.conversations import AgentTool, Conversation
from vocabulary.events import Payload, ToolCallChanged
from vocabulary.messages import MessageType, ToolCallState, ToolReturn, ToolReturnBody
from vocabulary.model_settings import ModelSettings

TWICE = [*call("tool", '{"n": 1}'), *call("tool", '{"n": 2}', index=1), *finished()]


def _tool(run: Callable[[Arguments], Awaitable[str]]) -> ServerTool:
    async def in_context(arguments: Arguments, _context: ToolContext) -> str:
        return await run(arguments)

    return ServerTool(name="tool", description="", parameters={"type": "object"}, run=in_context)


async def _conversation(parley: Rig, **settings: object) -> Conversation:
    given = ModelSettings(**settings)  # type: ignore[arg-type]
    new = NewAgent(name="tester", model="test/scripted", tools=(AgentTool(name="tool"),), model_settings=given)
    return await create_conversation(parley.engine, TENANT, NewConversation(agent_id=(await create_agent(parley.engine, TENANT, new)).id))


async def _returned(parley: Rig, conversation: Conversation) -> tuple[ToolReturn, ...]:
    await parley.ended((await parley.say(conversation.id, "Go")).run)
    await checked(parley, conversation.id)
    body = only(await parley.history(conversation.id), MessageType.TOOL_RETURN).body
    assert isinstance(body, ToolReturnBody)
    return body.tool_returns


async def test_calls_run_together_and_return_in_their_order(database: Database) -> None:
    second_is_done = asyncio.Event()

    async def run(arguments: Arguments) -> str:
        await second_is_done.wait() if arguments["n"] == 1 else second_is_done.set()
        return str(arguments["n"])

    async with rig(database, models=Models(Scripted(TWICE)), tools=[_tool(run)]) as parley:
        returned = await _returned(parley, await _conversation(parley, parallel_tool_calls=None))
        assert [item.output for item in returned] == ["1", "2"]


async def test_calls_run_one_after_the_other_where_the_settings_say_so(database: Database) -> None:
    running = 0

    async def run(_arguments: Arguments) -> str:
        nonlocal running
        running += 1
        seen = running
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        return str(seen)

    async with rig(database, models=Models(Scripted(TWICE)), tools=[_tool(run)]) as parley:
        returned = await _returned(parley, await _conversation(parley, parallel_tool_calls=False))
        assert [item.output for item in returned] == ["1", "1"]


async def test_a_call_is_told_to_be_over_while_another_still_runs(database: Database) -> None:
    told = asyncio.Event()

    async def run(arguments: Arguments) -> str:
        if arguments["n"] == 1:
            await told.wait()
        return str(arguments["n"])

    def is_over(payload: Payload | None) -> bool:
        return isinstance(payload, ToolCallChanged) and payload.tool_call.state is ToolCallState.COMPLETED

    async with rig(database, models=Models(Scripted(TWICE)), tools=[_tool(run)]) as parley:
        conversation = await _conversation(parley)
        sent = await parley.say(conversation.id, "Go")
        over = (await until(parley, conversation.id, is_over))[-1].payload
        assert isinstance(over, ToolCallChanged)
        assert (over.tool_call.arguments, over.tool_call.returned) == ({"n": 2}, None)
        told.set()
        await parley.ended(sent.run)
        await checked(parley, conversation.id)


@pytest.mark.parametrize(("window", "most"), [(8_000, 4_000), (10, 1_000)])
async def test_the_returns_of_a_step_share_a_part_of_the_window(database: Database, window: int, most: int) -> None:
    async def run(_arguments: Arguments) -> str:
        return "x" * 100_000

    async with rig(database, models=Models(Scripted(TWICE)), tools=[_tool(run)]) as parley:
        returned = await _returned(parley, await _conversation(parley, context_window=window))
        assert [item.output.count("x") for item in returned] == [most, most]
        assert all(f"{100_000 - most} characters left out" in item.output for item in returned)
