"""Runs whose agent has tools of MCP servers: they end as all runs do, whatever becomes of the server."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from httpx2 import AsyncClient

from cluster.programs import ROOT
from db.engine import Database
from runs.commands.agents import NewAgent, UnknownTool, create_agent
from runs.commands.approvals import Approve
from runs.commands.cancel import cancel_run
from runs.commands.conversations import NewConversation, create_conversation
from runs.commands.respond import Answer, Respond, respond
from streams.redis_bus import RedisBus
from tests.e2e.server import serving, stopped
from tests.resolvers.asking import Client
from tests.rig import TENANT, Rig, rig
from tests.runs.logs import checked, eventually, only, until
from tests.runs.processes import Servers, worker
from tests.runs.scripted import Models, Scripted, call, finished
from tests.runs.tools.mcp.workshops import QUICK, TOOLS, Workshop, offered, workshop
from tests.streams.buses import running
from vocabulary.conversations import AgentTool, Conversation
from vocabulary.events import Payload, ToolCallChanged
from vocabulary.messages import MessageType, ToolCallBody, ToolCallState, ToolReturn, ToolReturnBody, ToolReturnStatus, ToolSource
from vocabulary.runs import RunStatus, StopReason

SAW = [*call("saw", '{"wood": "oak"}'), *finished()]
DRY = [*call("dry", "{}"), *call("saw", '{"wood": "elm"}', index=1), *finished()]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Workshop]:
    async with workshop(tmp_path, over="stdio") as started:
        yield started


async def _conversation(parley: Rig, *tools: AgentTool) -> Conversation:
    agent = await create_agent(parley.engine, TENANT, NewAgent(name="tester", model="test/scripted", tools=tools))
    return await create_conversation(parley.engine, TENANT, NewConversation(agent_id=agent.id))


async def _returned(parley: Rig, conversation: Conversation) -> tuple[ToolReturn, ...]:
    body = only(await parley.history(conversation.id), MessageType.TOOL_RETURN).body
    assert isinstance(body, ToolReturnBody)
    return body.tool_returns


def _has_sawed(payload: Payload | None) -> bool:
    return isinstance(payload, ToolCallChanged) and payload.tool_call.state is ToolCallState.COMPLETED


async def test_a_run_outlives_a_server_that_is_killed_in_mid_call(database: Database, place: Workshop) -> None:
    model = Scripted(DRY)
    async with rig(database, models=Models(model), tools=[]) as parley, offered(parley.engine.tools, [place.server()]):
        conversation = await _conversation(parley, AgentTool(name="dry"), AgentTool(name="saw"))
        sent = await parley.say(conversation.id, "Go")
        await place.has_noted("drying")
        await until(parley, conversation.id, _has_sawed)
        await place.kill()
        run = await parley.ended(sent.run)
        assert (run.status, len(model.requests)) == (RunStatus.COMPLETED, 2)
        dried, sawed = await _returned(parley, conversation)
        assert (dried.status, dried.output.partition(":")[0]) == (ToolReturnStatus.ERROR, "The tool server 'workshop' is away")
        assert (sawed.status, sawed.output) == (ToolReturnStatus.SUCCESS, "two halves of elm")
        await checked(parley, conversation.id)
        body = only(await parley.history(conversation.id), MessageType.TOOL_CALL).body
        assert isinstance(body, ToolCallBody)
        assert {item.source for item in body.tool_calls} == {ToolSource.MCP}


async def test_a_run_is_cancelled_in_mid_call_and_so_is_the_call(database: Database, place: Workshop) -> None:
    async with rig(database, models=Models(Scripted(DRY)), tools=[]) as parley, offered(parley.engine.tools, [place.server()]):
        conversation = await _conversation(parley, AgentTool(name="dry"), AgentTool(name="saw"))
        sent = await parley.say(conversation.id, "Go")
        await place.has_noted("drying")
        await cancel_run(parley.engine, TENANT, sent.run.id)
        assert (await parley.ended(sent.run)).status is RunStatus.CANCELLED
        await place.has_noted("stopped drying")
        await checked(parley, conversation.id)


async def test_a_call_that_needs_an_approval_is_made_when_it_has_it(database: Database, place: Workshop) -> None:
    async with rig(database, models=Models(Scripted(SAW)), tools=[]) as parley, offered(parley.engine.tools, [place.server()]):
        conversation = await _conversation(parley, AgentTool(name="saw", requires_approval=True))
        run = await parley.ended((await parley.say(conversation.id, "Go")).run)
        assert (run.stop_reason, place.noted().count("sawed oak")) == (StopReason.REQUIRES_APPROVAL, 0)
        body = only(await parley.history(conversation.id), MessageType.TOOL_CALL).body
        assert isinstance(body, ToolCallBody)
        answers = tuple(Answer(tool_call_id=item.id, decision=Approve()) for item in body.tool_calls)
        responded = await respond(parley.engine, TENANT, Respond(conversation_id=conversation.id, answers=answers))
        assert (await parley.ended(responded.run)).status is RunStatus.COMPLETED
        assert [item.output for item in await _returned(parley, conversation)] == ["two halves of oak"]
        assert place.noted().count("sawed oak") == 1
        await checked(parley, conversation.id)


async def test_a_server_may_ask_for_approvals_of_all_its_tools(database: Database, place: Workshop) -> None:
    servers = [place.server(requires_approval=True)]
    async with rig(database, models=Models(Scripted(SAW, SAW)), tools=[]) as parley, offered(parley.engine.tools, servers):
        asked = await _conversation(parley, AgentTool(name="saw"))
        assert (await parley.ended((await parley.say(asked.id, "Go")).run)).stop_reason is StopReason.REQUIRES_APPROVAL
        spared = await _conversation(parley, AgentTool(name="saw", requires_approval=False))
        assert (await parley.ended((await parley.say(spared.id, "Go")).run)).stop_reason is StopReason.END_TURN


async def test_agents_are_given_what_is_known_also_while_its_server_is_away(database: Database, place: Workshop) -> None:
    async with rig(database, tools=[]) as parley, offered(parley.engine.tools, [place.server()], replace(QUICK, first_delay_s=60)):
        client = Client(parley)
        with pytest.raises(UnknownTool):
            await create_agent(parley.engine, TENANT, NewAgent(name="tester", tools=(AgentTool(name="scissors"),)))
        await place.kill()

        async def is_away() -> bool:
            conversation = await parley.conversation(tools=["saw"])
            await parley.ended((await parley.say(conversation.id, '/tool saw {"wood": "oak"}')).run)
            return (await _returned(parley, conversation))[0].output == "The tool server 'workshop' is away."

        await eventually(is_away, seconds=20)
        listed = await client.ask("{ tools { name source } agents(first: 1) { nodes { tools { name source requiresApproval } } } }")
        assert listed["tools"] == [{"name": name, "source": "MCP"} for name in TOOLS]
        assert listed["agents"]["nodes"][0]["tools"] == [{"name": "saw", "source": "MCP", "requiresApproval": False}]


# ---- the programs


def _as_setting(place: Workshop) -> str:
    command = [sys.executable, "-m", "tests.runs.tools.mcp.workshop", str(place.notes)]
    return json.dumps({"workshop": {"command": command[0], "args": command[1:], "env": place.environment}})


async def test_the_server_has_the_tools_of_its_settings(tmp_path: Path, place: Workshop) -> None:
    async with serving(tmp_path, MCP_SERVERS=_as_setting(place)) as server, AsyncClient() as http:

        async def are_listed() -> bool:
            answered = await http.post(server.url, json={"query": "{ tools { name source } }"})
            names = [tool["name"] for tool in answered.json()["data"]["tools"] if tool["source"] == "MCP"]
            return names == ["workshop_current_time" if name == "current_time" else name for name in TOOLS]

        await eventually(are_listed, seconds=20)
        assert await stopped(server) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(place.pid, 0)


@pytest.mark.parametrize("postgres_to_copy", ["postgresql"], indirect=True)
async def test_a_replica_knows_the_tools_and_a_worker_calls_them(
    database: Database, database_url: str, redis_url: str, tmp_path: Path, place: Workshop
) -> None:
    servers = Servers(database_url, redis_url)
    async with (
        workshop(tmp_path, over="stdio", name="workers") as workers,
        running(RedisBus(redis_url)) as bus,
        rig(database, bus=bus, tools=[], works=False) as replica,
        offered(replica.engine.tools, [place.server()]),
        worker(servers, MCP_SERVERS=_as_setting(workers)),
    ):
        conversation = await replica.conversation(tools=["saw"])
        run = await replica.ended((await replica.say(conversation.id, '/tool saw {"wood": "oak"}')).run)
        assert run.status is RunStatus.COMPLETED
        assert [item.output for item in await _returned(replica, conversation)] == ["two halves of oak"]
        assert (workers.noted().count("sawed oak"), place.noted().count("sawed oak")) == (1, 0)


def test_who_has_no_tool_servers_does_not_load_the_library() -> None:
    script = """
import asyncio, sys
import app
from runs.tools.mcp.servers import McpServers
from runs.tools.registry import ToolRegistry
servers = McpServers([], ToolRegistry([]))
asyncio.run(servers.run())
asyncio.run(servers.tried())
print([name for name in sys.modules if name.partition(".")[0] in ("mcp", "mcp_types")])
"""
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
