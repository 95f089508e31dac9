"""A tool server as this process knows it: reached again whenever it was lost, with the tools that it was last known to have.

Whatever becomes of a connection is its own end and no more: it has a task of its own, and its failure is a line in the log.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import structlog

from runs.tools.mcp.endpoints import McpServer, Patience, RemoteTool, away
from runs.tools.registry import LONGEST_NAME, Arguments, ServerTool, ToolContext, ToolFailed
from runs.tools.schemas import flaw
from vocabulary.messages import ToolSource

if TYPE_CHECKING:
    from runs.tools.mcp.connection import Connection

log = structlog.stdlib.get_logger()


class RemoteServer:
    """`changed` is called when `tools` are not what they were. `tried`: its tools are known, or it could not be reached at once."""

    def __init__(
        self, server: McpServer, patience: Patience, *, changed: Callable[[], None], pause: Callable[[float], Awaitable[None]]
    ) -> None:
        self._server = server
        self._patience = patience
        self._changed = changed
        self._pause = pause
        self._described: tuple[RemoteTool, ...] = ()
        self._connection: Connection | None = None
        self.tools: tuple[ServerTool, ...] = ()
        self.tried = asyncio.Event()

    @property
    def name(self) -> str:
        return self._server.name

    async def run(self) -> None:
        """For ever."""
        connection_to = await asyncio.to_thread(_library)
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            await self._live(connection_to(self._server, self._patience))
            self.tried.set()
            lasted_s = asyncio.get_running_loop().time() - began
            failures = 1 if lasted_s > self._patience.longest_delay_s else failures + 1
            await self._pause(self._delay_s(failures))

    async def _live(self, connection: "Connection") -> None:
        """From one try to reach it to its end. The library cancels its own task when a transport breaks, so it is given one."""

        def offered(tools: tuple[RemoteTool, ...]) -> None:
            if self._connection is None:
                log.info("a tool server is here", server=self.name, tools=len(tools))
            self._connection = connection
            self._know(tools)

        living = asyncio.create_task(connection.live(offered), name=f"mcp {self.name}: connection")
        try:
            await asyncio.wait({living})
        finally:
            self._connection = None
            if living.cancel():
                await asyncio.wait({living})
        log.warning("a tool server is away", server=self.name, reason=connection.reason(living))

    def _know(self, tools: tuple[RemoteTool, ...]) -> None:
        if tools != self._described:
            self._described, self.tools = tools, tuple(self._usable(tools))
            self._changed()
        self.tried.set()

    def _usable(self, tools: Iterable[RemoteTool]) -> Iterator[ServerTool]:
        """A schema that is none would have a model's provider refuse every request in which it stands."""
        for tool in tools:
            if (why := flaw(tool.parameters)) is None:
                yield self._server_tool(tool)
            else:
                log.warning("a tool is left out", server=self.name, tool=tool.name, parameters=why)

    def _server_tool(self, tool: RemoteTool) -> ServerTool:
        async def run(arguments: Arguments, _context: ToolContext) -> str:
            if self._connection is None:
                raise ToolFailed(away(self._server))
            return await self._connection.call(tool.name, arguments)

        return ServerTool(
            name=_callable_name(tool.name),
            description=tool.description,
            parameters=tool.parameters,
            run=run,
            requires_approval=self._server.requires_approval,
            source=ToolSource.MCP,
            timeout_s=self._server.timeout_s,
        )

    def _delay_s(self, failures: int) -> float:
        """So that the processes that lost a server together do not come back together."""
        longest = min(self._patience.longest_delay_s, self._patience.first_delay_s * 2 ** min(failures - 1, 30))
        return longest * random.uniform(0.5, 1)


def _library() -> "type[Connection]":
    """It is large, so it is loaded when there is a server to reach."""
    from runs.tools.mcp.connection import Connection

    return Connection


def _callable_name(name: str) -> str:
    """Providers take fewer names than the protocol does."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:LONGEST_NAME]
