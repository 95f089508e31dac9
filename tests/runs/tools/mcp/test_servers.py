"""Tools of real MCP servers: offered while they are known, called where they are, and an error return wherever that fails."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from runs.tools.mcp.endpoints import Address, McpServer, Program
from runs.tools.registry import ServerTool, ToolContext, ToolRegistry, answer
from tests.runs.logs import eventually
from tests.runs.tools.mcp.workshops import QUICK, SECRET, TOOLS, Workshop, comes, offered, workshop
from tests.runs.values import CALL
from vocabulary.messages import ToolCallState, ToolReturn, ToolReturnStatus, ToolSource

AWAY = "The tool server 'workshop' is away"


async def _called(tool: ServerTool | None, context: ToolContext, **arguments: Any) -> ToolReturn:
    assert tool is not None
    call = replace(CALL, state=ToolCallState.RUNNING, arguments_text=orjson.dumps(arguments).decode())
    return await answer(call, tool, context, most_characters=10_000)


async def _succeeds(tool: ServerTool | None, context: ToolContext, **arguments: Any) -> str:
    """At once, or when its server is back."""
    output = list[str]()

    async def has_succeeded() -> bool:
        returned = await _called(tool, context, **arguments)
        output.append(returned.output)
        return returned.status is ToolReturnStatus.SUCCESS

    await eventually(has_succeeded, seconds=20)
    return output[-1]


async def test_tools_are_offered_and_called(place: Workshop, context: ToolContext) -> None:
    async with offered(ToolRegistry([]), [place.server()]) as registry:
        tools = {tool.name: tool for tool in registry.definitions()}
        assert list(tools) == TOOLS
        saw = tools["saw"]
        assert (saw.description, saw.source, saw.requires_approval) == ("Saws wood in two.", ToolSource.MCP, False)
        assert (saw.parameters["required"], saw.parameters["properties"]["wood"]["type"]) == (["wood"], "string")
        sawed = await _called(saw, context, wood="oak")
        assert (sawed.status, sawed.output) == (ToolReturnStatus.SUCCESS, "two halves of oak")
        dropped = await _called(tools["drop"], context)
        assert (dropped.status, "It fell on the floor." in dropped.output) == (ToolReturnStatus.ERROR, True)
        assert ((await _called(tools["age"], context)).output > "2026") == (not place.old)
        assert (await _called(tools["glue_wood"], context)).output == "glued"
        assert (await _called(tools["draw"], context)).output == "Here it is.\n[image, image/png, 4 bytes, not shown]"
        assert orjson.loads((await _called(tools["measure"], context, width=2)).output) == {"width": 2}
        refused = await _called(tools["measure"], context, width="wide")
        assert (refused.status, "width" in refused.output) == (ToolReturnStatus.ERROR, True)


async def test_a_call_that_is_given_up_is_given_up_there(place: Workshop, context: ToolContext) -> None:
    async with offered(ToolRegistry([]), [place.server()]) as registry:
        drying = asyncio.create_task(_called(registry.get("dry"), context))
        await place.has_noted("drying")
        drying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drying
        await place.has_noted("stopped drying")
        assert (await _called(registry.get("saw"), context, wood="elm")).output == "two halves of elm"
        assert len([line for line in place.noted() if line.startswith("pid")]) == 1


async def test_a_server_that_is_killed_in_mid_call_is_an_error_return_and_is_found_again(place: Workshop, context: ToolContext) -> None:
    async with offered(ToolRegistry([]), [place.server()]) as registry:
        calls = [asyncio.create_task(_called(registry.get("dry"), context)) for _ in range(2)]
        await place.has_noted("drying", times=2)
        await place.kill()
        async with asyncio.timeout(20):
            returned = await asyncio.gather(*calls)
        assert {(item.status, item.output.startswith(AWAY)) for item in returned} == {(ToolReturnStatus.ERROR, True)}
        assert [tool.name for tool in registry.definitions()] == TOOLS
        await place.return_()
        assert await _succeeds(registry.get("saw"), context, wood="ash") == "two halves of ash"
        assert place.noted().count("drying") == 2


async def test_a_server_that_dies_while_nobody_asks_it_is_soon_found_again(place: Workshop, context: ToolContext) -> None:
    only_told_when_asked = place.old and place.program is not None
    async with offered(ToolRegistry([]), [place.server()], replace(QUICK, check_s=0.2 if only_told_when_asked else 60)) as registry:
        await place.kill()
        await place.return_()

        async def has_started_again() -> bool:
            return len([line for line in place.noted() if line.startswith("pid")]) == 2

        await eventually(has_started_again, seconds=20)
        assert await _succeeds(registry.get("saw"), context, wood="fir") == "two halves of fir"


async def test_a_tool_that_is_new_is_offered(place: Workshop, context: ToolContext) -> None:
    async with offered(ToolRegistry([]), [place.server()], replace(QUICK, check_s=600)) as registry:
        for name in ("weld", "rivet"):
            await _called(registry.get("learn"), context, name=name)
            assert (await _called(await comes(registry, name), context)).output == f"{name}, as learned"
        assert [tool.name for tool in registry.definitions()] == [*TOOLS, "weld", "rivet"]


async def test_tools_with_names_that_no_provider_takes_are_all_offered(tmp_path: Path, context: ToolContext) -> None:
    async with (
        workshop(tmp_path, over="stdio") as place,
        offered(ToolRegistry([]), [place.server()], replace(QUICK, check_s=600)) as registry,
    ):
        callable_names = {"鋸": "_", "鉋": "workshop__", "鑿": "workshop___2"}
        for name, callable_name in callable_names.items():
            await _called(registry.get("learn"), context, name=name)
            assert (await _called(await comes(registry, callable_name), context)).output == f"{name}, as learned"
        assert [tool.name for tool in registry.definitions()] == [*TOOLS, *callable_names.values()]


async def test_a_server_that_takes_too_long_is_given_up(tmp_path: Path, context: ToolContext) -> None:
    async with workshop(tmp_path, over="stdio") as place, offered(ToolRegistry([]), [place.server(timeout_s=1)]) as registry:
        returned = await _called(registry.get("dry"), context)
        assert (returned.status, returned.output.partition(";")[0]) == (
            ToolReturnStatus.ERROR,
            "The tool did not answer within 1 seconds",
        )
        await place.has_noted("stopped drying")


@pytest.mark.parametrize("over", ["stdio", "http"])
async def test_a_server_that_says_nothing_any_more_is_left(over: str, tmp_path: Path, context: ToolContext) -> None:
    patience = replace(QUICK, answer_s=0.3, connect_s=8)
    async with workshop(tmp_path, over=over) as place, offered(ToolRegistry([]), [place.server(timeout_s=0.5)], patience) as registry:
        pid = place.pid
        os.kill(pid, signal.SIGSTOP)
        assert (await _called(registry.get("saw"), context, wood="oak")).output.startswith("The tool did not answer within 0.5")

        async def is_away() -> bool:
            return (await _called(registry.get("saw"), context, wood="oak")).output == f"{AWAY}."

        await eventually(is_away, seconds=40)
        if over == "http":
            os.kill(pid, signal.SIGCONT)
        assert [tool.name for tool in registry.definitions()] == TOOLS


async def test_the_server_that_stands_first_keeps_a_name_whichever_came_first(tmp_path: Path, context: ToolContext) -> None:
    async with (
        workshop(tmp_path, over="http", name="first", starts=False) as first,
        workshop(tmp_path, over="stdio", name="second") as second,
    ):
        ours = replace(_own("current_time"), description="Ours.")
        async with offered(ToolRegistry([ours]), [first.server(), second.server()]) as registry:
            assert [tool.name for tool in registry.definitions()][:3] == ["current_time", "saw", "second_current_time"]
            await first.return_()
            await comes(registry, "second_saw")
            assert registry.get("current_time") is ours
            assert (await _called(registry.get("first_current_time"), context)).output == "workshop o'clock"
            await _called(registry.get("saw"), context, wood="oak")
            await _called(registry.get("second_saw"), context, wood="elm")
            assert ("sawed oak" in first.noted(), "sawed elm" in second.noted()) == (True, True)


def _own(name: str) -> ServerTool:
    async def run(_arguments: dict[str, Any], _context: ToolContext) -> str:
        return "ours"

    return ServerTool(name=name, description="", parameters={"type": "object"}, run=run)


async def test_a_server_that_was_never_there_hinders_nobody(
    tmp_path: Path, context: ToolContext, capfd: pytest.CaptureFixture[str]
) -> None:
    nowhere = [
        McpServer(name="missing", reached=Program(command=str(tmp_path / "no-such-program"), env={"KEY": SECRET})),
        McpServer(name="deaf", reached=Address(url=f"http://127.0.0.1:9/{SECRET}", headers={"X-Key": SECRET})),
        McpServer(name="brief", reached=Program(command=sys.executable, args=("-c", f"# {SECRET}"))),
    ]
    async with workshop(tmp_path, over="stdio") as place, offered(ToolRegistry([]), [*nowhere, place.server()]) as registry:
        assert [tool.name for tool in registry.definitions()] == TOOLS
        assert (await _called(registry.get("saw"), context, wood="oak")).output == "two halves of oak"
    said = capfd.readouterr()
    assert "FileNotFoundError: No such file or directory" in said.out + said.err
    assert SECRET not in said.out + said.err


BY_HAND = """
import json, sys
PAGES = {
    None: {"tools": [{"name": "bent", "inputSchema": {"type": "object", "properties": {"a": {"type": "odd"}}}}], "nextCursor": "2"},
    "2": {"tools": [{"name": "straight", "inputSchema": {"type": "object"}}]},
}
for line in sys.stdin:
    asked = json.loads(line)
    answer = None
    if asked["method"] == "initialize":
        answer = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "hand", "version": "1"}}
    elif asked["method"] == "tools/list":
        answer = PAGES[asked.get("params", {}).get("cursor")]
    said = {"error": {"code": -32601, "message": "Not by hand."}} if answer is None else {"result": answer}
    if "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **said}), flush=True)
"""


async def test_all_pages_are_read_and_what_has_no_usable_schema_is_left_out(context: ToolContext) -> None:
    server = McpServer(name="hand", reached=Program(command=sys.executable, args=("-c", BY_HAND)))
    async with offered(ToolRegistry([]), [server]) as registry:
        assert [tool.name for tool in registry.definitions()] == ["straight"]
        assert (await _called(registry.get("straight"), context)).output == "Not by hand."


async def test_a_silent_server_does_not_hold_a_start_for_long() -> None:
    silent = McpServer(name="silent", reached=Program(command=sys.executable, args=("-c", "import sys; sys.stdin.read()")))
    async with offered(ToolRegistry([]), [silent], replace(QUICK, start_s=0.1)) as registry:
        assert registry.definitions() == ()


async def test_a_program_gets_what_is_meant_for_it_and_ends_with_us(
    tmp_path: Path, context: ToolContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    async with workshop(tmp_path, over="stdio") as place:
        server = place.server()
        assert isinstance(server.reached, Program)
        given = replace(server, reached=replace(server.reached, env={**server.reached.env, "SAW_KEY": SECRET}))
        async with offered(ToolRegistry([]), [given]) as registry:
            names = (await _called(registry.get("environment"), context)).output.split()
            assert ("SAW_KEY" in names, "PATH" in names, "OPENAI_API_KEY" in names) == (True, True, False)
            pid = place.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_headers_are_sent(tmp_path: Path, context: ToolContext) -> None:
    async with workshop(tmp_path, over="http") as place, offered(ToolRegistry([]), [place.server()]) as registry:
        assert (await _called(registry.get("told"), context)).output == SECRET


async def test_the_reference_server_for_time(context: ToolContext) -> None:
    server = McpServer(name="time", reached=Program(command=sys.executable, args=("-m", "mcp_server_time", "--local-timezone", "UTC")))
    async with offered(ToolRegistry([]), [server]) as registry:
        assert {"get_current_time", "convert_time"} <= {tool.name for tool in registry.definitions()}
        converted = await _called(registry.get("convert_time"), context, source_timezone="UTC", time="12:00", target_timezone="Asia/Tokyo")
        assert "T21:00:00+09:00" in converted.output
        nowhere = await _called(registry.get("get_current_time"), context, timezone="Mars/Olympus")
        assert nowhere.status is ToolReturnStatus.ERROR
