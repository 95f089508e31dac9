"""Server tools: what an agent can be given, and how a call to one becomes a return. A tool's failure is a return, never an exception."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import structlog

from vocabulary.messages import ToolCall, ToolReturn, ToolReturnStatus, ToolSource
from vocabulary.text import storable

log = structlog.get_logger()

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTool:
    """`parameters` is the JSON schema of the arguments object. `run` answers the text that the model is shown."""

    name: str
    description: str
    parameters: dict[str, Any]
    run: Callable[[Arguments], Awaitable[str]]
    requires_approval: bool = False
    source: ToolSource = ToolSource.BUILTIN


class ToolRegistry:
    def __init__(self, tools: Iterable[ServerTool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def definitions(self) -> tuple[ServerTool, ...]:
        return tuple(self._tools.values())

    def get(self, name: str) -> ServerTool | None:
        return self._tools.get(name)


async def answer(call: ToolCall, tool: ServerTool | None) -> ToolReturn:
    """Runs one call. Whatever goes wrong is told to the model as an error return; only a cancellation passes through."""
    if tool is None:
        return error_return(call, f"There is no tool named {call.name!r}.")
    arguments = call.arguments
    if not isinstance(arguments, dict):
        return error_return(call, "The arguments are not a JSON object.")
    try:
        output = await tool.run(cast(Arguments, arguments))
    except Exception as error:
        log.warning("a tool failed", tool=call.name, exc_info=True)
        return error_return(call, f"{type(error).__name__}: {error}")
    return ToolReturn(tool_call_id=call.id, name=call.name, status=ToolReturnStatus.SUCCESS, output=storable(output))


def error_return(call: ToolCall, output: str) -> ToolReturn:
    return ToolReturn(tool_call_id=call.id, name=call.name, status=ToolReturnStatus.ERROR, output=storable(output))


def current_time(clock: Callable[[], datetime]) -> ServerTool:
    async def run(_arguments: Arguments) -> str:
        return clock().isoformat(timespec="seconds")

    return ServerTool(
        name="current_time",
        description="The current date and time, in UTC.",
        parameters={"type": "object", "properties": {}, "additionalProperties": False},
        run=run,
    )
