"""How a call becomes a return: whatever goes wrong is told, and only a cancellation passes through."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from db.engine import Database
from runs.tools.builtin.clock import current_time
from runs.tools.registry import LONGEST_NAME, Arguments, Effect, ServerTool, ToolContext, ToolFailed, ToolRegistry, answer, clipped
from tests.runs.values import CALL, RUN, THEN
from vocabulary.messages import ToolCallState, ToolReturn, ToolReturnStatus


@pytest.fixture
async def context(tmp_path: Path) -> ToolContext:
    async def never(_effect: Effect) -> str:
        raise AssertionError("these tools have no effects")

    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/unused.db")
    await database.close()
    return ToolContext(run=RUN, agent_id="agent-1", database=database, once=never)


def _tool(outcome: str | BaseException, *, name: str = "clock", timeout_s: float | None = 60) -> ServerTool:
    async def run(arguments: Arguments, _context: ToolContext) -> str:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome.format(**arguments)

    return ServerTool(name=name, description="", parameters={"type": "object"}, run=run, timeout_s=timeout_s)


async def _answered(tool: ServerTool, context: ToolContext, arguments: str = "{}") -> ToolReturn:
    call = replace(CALL, state=ToolCallState.RUNNING, arguments_text=arguments)
    return await answer(call, tool, context, most_characters=1000)


# ---- a call


async def test_a_tool_gets_its_arguments_and_its_output_is_returned(context: ToolContext) -> None:
    returned = await _answered(_tool("noon in {zone}"), context, '{"zone": "UTC"}')
    assert (returned.status, returned.output) == (ToolReturnStatus.SUCCESS, "noon in UTC")
    assert (returned.tool_call_id, returned.name) == (CALL.id, "clock")


async def test_a_tool_that_breaks_is_an_error_return(context: ToolContext) -> None:
    returned = await _answered(_tool(KeyError("zone")), context)
    assert (returned.status, returned.output) == (ToolReturnStatus.ERROR, "KeyError: 'zone'")


async def test_a_tool_that_says_why_it_failed_is_taken_at_its_word(context: ToolContext) -> None:
    returned = await _answered(_tool(ToolFailed("There is no such zone.")), context)
    assert (returned.status, returned.output) == (ToolReturnStatus.ERROR, "There is no such zone.")


async def test_a_tool_that_takes_too_long_is_given_up(context: ToolContext) -> None:
    cancelled = asyncio.Event()

    async def endless(_arguments: Arguments, _context: ToolContext) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    tool = ServerTool(name="clock", description="", parameters={}, run=endless, timeout_s=0.01)
    returned = await _answered(tool, context)
    assert returned.status is ToolReturnStatus.ERROR
    assert returned.output.startswith("The tool did not answer within 0.01 seconds")
    assert cancelled.is_set()


async def test_a_timeout_of_the_tools_own_is_not_taken_for_ours(context: ToolContext) -> None:
    assert (await _answered(_tool(TimeoutError("the other end")), context)).output == "TimeoutError: the other end"


@pytest.mark.parametrize("outcome", ["a\0b\ud83dc", ValueError("a\0b\ud83dc")])
async def test_what_a_tool_says_is_made_storable(outcome: str | Exception, context: ToolContext) -> None:
    assert (await _answered(_tool(outcome), context)).output.endswith("a\ufffdb\ufffdc")


@pytest.mark.parametrize("outcome", ["x" * 5000, ValueError("x" * 5000), ToolFailed("x" * 5000)])
async def test_what_is_too_long_is_clipped_with_a_mark(outcome: str | Exception, context: ToolContext) -> None:
    returned = await _answered(_tool(outcome), context)
    assert "characters left out" in returned.output
    assert len(returned.output) < 1100


def test_both_ends_of_what_is_clipped_are_kept() -> None:
    assert clipped("0123456789", 10) == "0123456789"
    assert clipped("0123456789abcdef", 8) == "012345\n[… 8 characters left out …]\nef"


async def test_a_cancellation_passes_through(context: ToolContext) -> None:
    with pytest.raises(asyncio.CancelledError):
        await _answered(_tool(asyncio.CancelledError()), context)


async def test_the_clock_tells_the_time_it_was_given(context: ToolContext) -> None:
    assert (await _answered(current_time(lambda: THEN), context)).output == "2026-11-01T00:00:00+00:00"


# ---- the registry


def test_the_registry_knows_its_tools_by_name() -> None:
    tool = _tool("ran")
    registry = ToolRegistry([tool])
    assert registry.get("clock") is tool
    assert registry.get("other") is None
    assert registry.definitions() == (tool,)


def test_what_others_offer_takes_no_name_that_is_taken() -> None:
    registry = ToolRegistry([clock := _tool("ours")])
    registry.offer("far", [_tool("theirs"), _tool("theirs", name="ruler")])
    registry.offer("farther", [_tool("theirs, too", name="ruler")])
    assert [tool.name for tool in registry.definitions()] == ["clock", "far_clock", "ruler", "farther_ruler"]
    assert registry.get("clock") is clock


def test_tools_of_one_offer_that_come_to_the_same_name_are_all_there() -> None:
    registry = ToolRegistry([])
    registry.offer("far", [first := _tool("a", name="ruler"), *(_tool("b", name="ruler") for _ in range(3))])
    assert [tool.name for tool in registry.definitions()] == ["ruler", "far_ruler", "far_ruler_2", "far_ruler_3"]
    assert registry.get("ruler") is first


def test_long_names_that_are_taken_are_told_apart_within_what_providers_take() -> None:
    registry = ToolRegistry([])
    registry.offer("far", [_tool("a", name="r" * LONGEST_NAME) for _ in range(3)])
    assert [tool.name[-4:] for tool in registry.definitions()] == ["rrrr", "rrrr", "rr_2"]
    assert {len(tool.name) for tool in registry.definitions()} == {LONGEST_NAME}


def test_a_new_offer_takes_the_place_of_the_one_before() -> None:
    registry = ToolRegistry([])
    registry.offer("far", [_tool("a", name="ruler"), _tool("a", name="level")])
    registry.offer("far", [_tool("b", name="ruler")])
    assert [tool.name for tool in registry.definitions()] == ["ruler"]
