"""How a call becomes a return: whatever goes wrong is told, and only a cancellation passes through."""

import asyncio
from dataclasses import replace

import pytest

from runs.tools import Arguments, ServerTool, ToolRegistry, answer, current_time
from tests.runs.values import CALL, THEN
from vocabulary.messages import ToolCallState, ToolReturnStatus


def _tool(outcome: str | BaseException) -> ServerTool:
    async def run(arguments: Arguments) -> str:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome.format(**arguments)

    return ServerTool(name="clock", description="", parameters={"type": "object"}, run=run)


async def test_a_tool_gets_its_arguments_and_its_output_is_returned() -> None:
    returned = await answer(replace(CALL, arguments_text='{"zone": "UTC"}'), _tool("noon in {zone}"))
    assert (returned.status, returned.output) == (ToolReturnStatus.SUCCESS, "noon in UTC")
    assert (returned.tool_call_id, returned.name) == (CALL.id, "clock")


@pytest.mark.parametrize("arguments", ["", "{", "[1]", "null", '"x"'])
async def test_arguments_that_are_no_object_are_an_error_return(arguments: str) -> None:
    returned = await answer(replace(CALL, arguments_text=arguments), _tool("ran"))
    assert (returned.status, returned.output) == (ToolReturnStatus.ERROR, "The arguments are not a JSON object.")


async def test_an_unknown_tool_is_an_error_return() -> None:
    assert (await answer(CALL, None)).output == "There is no tool named 'clock'."


async def test_a_tool_that_fails_is_an_error_return() -> None:
    returned = await answer(CALL, _tool(KeyError("zone")))
    assert (returned.status, returned.output) == (ToolReturnStatus.ERROR, "KeyError: 'zone'")


@pytest.mark.parametrize("outcome", ["a\0b\ud83dc", ValueError("a\0b\ud83dc")])
async def test_what_a_tool_says_is_made_storable(outcome: str | Exception) -> None:
    assert (await answer(CALL, _tool(outcome))).output.endswith("a\ufffdb\ufffdc")


async def test_a_cancellation_passes_through() -> None:
    with pytest.raises(asyncio.CancelledError):
        await answer(CALL, _tool(asyncio.CancelledError()))


def test_the_registry_knows_its_tools_by_name() -> None:
    tool = _tool("ran")
    registry = ToolRegistry([tool])
    assert registry.get("clock") is tool
    assert registry.get("other") is None
    assert registry.definitions() == (tool,)


async def test_the_clock_tells_the_time_it_was_given() -> None:
    running = replace(CALL, state=ToolCallState.RUNNING)
    assert (await answer(running, current_time(lambda: THEN))).output == "2026-11-01T00:00:00+00:00"
