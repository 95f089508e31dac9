"""Server tools: what an agent can be given, and how a call to one becomes a return. A tool's failure is a return, never an exception.

The tools that come with the server are in `runs/tools/builtin/`. Tools from elsewhere are offered to the registry by whoever knows them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any, cast

import structlog

from db.engine import Database
from streams.log import Transaction
from vocabulary.messages import ToolCall, ToolReturn, ToolReturnStatus, ToolSource
from vocabulary.runs import Run
from vocabulary.text import storable

log = structlog.get_logger()

Arguments = dict[str, Any]
Effect = Callable[[Transaction], Awaitable[str]]
"""What a tool changes in our own database, and what it says about it."""

LONGEST_NAME = 64  # that all providers take


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """In what a call happens. `once` does an effect while the run still holds its lease, and stores what it says as the call's return
    in the same transaction: whatever becomes of the worker, it was done and the model is told so, or it was not done.
    """

    run: Run
    agent_id: str
    database: Database
    once: Callable[[Effect], Awaitable[str]]

    @property
    def conversation_id(self) -> str:
        return self.run.conversation_id


class ToolFailed(Exception):
    """The tool could not do what it was asked to; the message is for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTool:
    """`parameters` is the JSON schema of the arguments object. `run` answers the text that the model is shown, or raises.

    `timeout_s` None: it may take as long as it needs; for tools whose only work is in our own database, which has limits of its own.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    run: Callable[[Arguments, ToolContext], Awaitable[str]]
    requires_approval: bool = False
    source: ToolSource = ToolSource.BUILTIN
    timeout_s: float | None = 60.0


class ToolRegistry:
    """By name. What others offer later takes no name that is taken: there it is called `namespace_name`, `namespace_name_2` and so on."""

    def __init__(self, tools: Iterable[ServerTool]) -> None:
        self._own = {tool.name: tool for tool in tools}
        self._offered: dict[str, dict[str, ServerTool]] = {}

    def offer(self, namespace: str, tools: Iterable[ServerTool]) -> tuple[ServerTool, ...]:
        """In place of what was offered under this namespace before. Answers them under the names by which they can be given to agents."""
        self._offered.pop(namespace, None)
        taken = {tool.name for tool in self.definitions()}
        offered: dict[str, ServerTool] = {}
        for tool in tools:
            name = _free(tool.name, namespace, taken | offered.keys())
            offered[name] = _renamed(tool, name)
        self._offered[namespace] = offered
        return tuple(offered.values())

    def definitions(self) -> tuple[ServerTool, ...]:
        return (*self._own.values(), *(tool for offered in self._offered.values() for tool in offered.values()))

    def get(self, name: str) -> ServerTool | None:
        return self._own.get(name) or next((offered[name] for offered in self._offered.values() if name in offered), None)


def _free(name: str, namespace: str, taken: set[str]) -> str:
    candidates = chain((name, f"{namespace}_{name}"[:LONGEST_NAME]), (_numbered(f"{namespace}_{name}", number) for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _numbered(name: str, number: int) -> str:
    return f"{name[: LONGEST_NAME - len(f'_{number}')]}_{number}"


def _renamed(tool: ServerTool, name: str) -> ServerTool:
    return tool if tool.name == name else replace(tool, name=name)


# ---- a call


async def answer(call: ToolCall, tool: ServerTool, context: ToolContext, *, most_characters: int) -> ToolReturn:
    """Runs one call, whose arguments were found to fit. Whatever goes wrong is an error return; only a cancellation passes through."""
    patience = asyncio.timeout(tool.timeout_s)
    try:
        async with patience:
            output = await tool.run(cast(Arguments, call.arguments), context)
    except ToolFailed as failure:
        return error_return(call, clipped(str(failure), most_characters))
    except Exception as error:
        if patience.expired():
            return error_return(call, f"The tool did not answer within {tool.timeout_s:g} seconds; whether it did its work is unknown.")
        log.warning("a tool failed", tool=call.name, exc_info=True)
        return error_return(call, clipped(f"{type(error).__name__}: {error}", most_characters))
    return success(call, clipped(output, most_characters))


def success(call: ToolCall, output: str) -> ToolReturn:
    return ToolReturn(tool_call_id=call.id, name=call.name, status=ToolReturnStatus.SUCCESS, output=storable(output))


def error_return(call: ToolCall, output: str) -> ToolReturn:
    return ToolReturn(tool_call_id=call.id, name=call.name, status=ToolReturnStatus.ERROR, output=storable(output))


def clipped(output: str, most_characters: int) -> str:
    """With a mark where something was left out: in the middle, since both ends of an output tell most."""
    if len(output) <= most_characters:
        return output
    head, tail = most_characters * 3 // 4, most_characters // 4
    return f"{output[:head]}\n[… {len(output) - head - tail} characters left out …]\n{output[len(output) - tail :]}"
