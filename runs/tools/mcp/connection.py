"""One connection to a tool server, from the handshake to its end.

The library's task groups and cancel scopes live in the task that runs `live`, and nowhere else. A call is a task beside it, and who waits
for a call waits for nothing of the library: a call that is given up is left to tell the server so by itself, within bounds of its own.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from mcp.client import Client, IncomingMessage
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST, CallToolResult, Implementation, Tool, ToolListChangedNotification
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from runs.tools.mcp.content import text_of
from runs.tools.mcp.endpoints import McpServer, Patience, RemoteTool, away
from runs.tools.mcp.transports import transport
from runs.tools.registry import Arguments, ToolFailed

_MOST_PAGES = 100  # of a list that does not end
_ANOTHER_SESSION = (INVALID_REQUEST, "Session terminated")  # the library's words for a server that has started anew: the call was not taken
_US = Implementation(name="parley", version="0")


class Connection:
    def __init__(self, server: McpServer, patience: Patience) -> None:
        self._server = server
        self._patience = patience
        self._doubt = asyncio.Event()  # the tools may have changed, or the server may be gone: asking it shows which
        self._calls: set[asyncio.Task[CallToolResult]] = set()
        self._open = False
        self._answered_at = 0.0
        self._client = Client(
            transport(server.reached, self._doubt.set),
            message_handler=self._heard,
            client_info=_US,
            cache=None,
            input_required_max_rounds=1,
        )

    async def live(self, offer: Callable[[tuple[RemoteTool, ...]], None]) -> None:
        """Until the server is gone or does not answer; raises why, in whatever way the library does.

        `offer` is told the server's tools, at first and whenever they may have changed.
        """
        async with asyncio.timeout(self._patience.connect_s) as handshake, self._client as client:
            offer(await self._tools(client))
            handshake.reschedule(None)
            self._open = True
            listening = asyncio.create_task(self._listen(client), name=f"mcp {self._server.name}: listen")
            try:
                await self._follow(client, offer)
            finally:
                self._open = False
                listening.cancel()
                await asyncio.wait({listening})

    async def call(self, tool: str, arguments: Arguments) -> str:
        """Raises ToolFailed. Cancelled, it does not wait for the server to be told."""
        if not self._open:
            raise ToolFailed(away(self._server))
        calling = asyncio.create_task(self._client.call_tool(tool, arguments), name=f"mcp {self._server.name}: {tool}")
        self._calls.add(calling)
        calling.add_done_callback(self._over)
        try:
            await asyncio.wait({calling})
        finally:
            calling.cancel()
        return self._told(calling)

    def reason(self, living: asyncio.Task[None]) -> str:
        """Why it is over, in one line. Of errors that may tell the address no more than their class: there may be a key in it."""
        if living.cancelled() or (error := living.exception()) is None:
            return "gone"
        while isinstance(error, BaseExceptionGroup):
            error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
        told = error.message if isinstance(error, MCPError) else error.strerror if isinstance(error, OSError) else None
        return f"{type(error).__name__}: {' '.join(told.split())[:200]}" if told else type(error).__name__

    def _over(self, calling: asyncio.Task[CallToolResult]) -> None:
        self._calls.discard(calling)
        if not calling.cancelled():
            self._answered_at = _now()
        if calling.cancelled() or calling.exception() is not None:
            self._doubt.set()

    def _told(self, calling: asyncio.Task[CallToolResult]) -> str:
        if calling.cancelled():  # by nobody who waits for it
            raise ToolFailed(away(self._server))
        try:
            result = calling.result()
        except MCPError as error:
            raise ToolFailed(self._reason(error)) from None
        except ValidationError:
            raise ToolFailed(f"What the tool server {self._server.name!r} answered is no result of a tool.") from None
        except RuntimeError as error:  # a result that does not fit the tool's own schema, in the library's words
            raise ToolFailed(str(error)) from None
        if result.is_error:
            raise ToolFailed(text_of(result) or "The tool failed, and did not say why.")
        return text_of(result)

    def _reason(self, error: MCPError) -> str:
        if error.code == CONNECTION_CLOSED:
            return f"{away(self._server)[:-1]}: it left during the call. Whether the tool did its work is unknown."
        if (error.code, error.message) == _ANOTHER_SESSION:
            return away(self._server)
        return error.message or f"The tool server {self._server.name!r} refused the call."

    # ---- what the server has

    async def _follow(self, client: Client, offer: Callable[[tuple[RemoteTool, ...]], None]) -> None:
        while True:
            doubted = await self._doubted()
            if self._calls and not doubted:
                continue  # it is at work; one that does one thing at a time may be silent for as long as a call may take
            try:
                async with asyncio.timeout(self._patience.answer_s):
                    offer(await self._tools(client))
                self._answered_at = _now()
            except TimeoutError:
                if not self._calls or _now() - self._answered_at > self._server.timeout_s + self._patience.answer_s:
                    raise

    async def _doubted(self) -> bool:
        """False: nothing was said for a while."""
        doubted = False
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience.check_s * random.uniform(0.5, 1)):
                doubted = await self._doubt.wait()
        self._doubt.clear()
        return doubted

    async def _tools(self, client: Client) -> tuple[RemoteTool, ...]:
        if client.server_capabilities.tools is None:
            return ()
        found: list[Tool] = []
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            if (cursor := page.next_cursor) is None:
                break
        return tuple(RemoteTool(tool.name, tool.description or tool.title or "", tool.input_schema) for tool in found)

    async def _heard(self, message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._doubt.set()

    async def _listen(self, client: Client) -> None:
        """Newer servers tell a change only to those who listen. Who will not be listened to is asked from time to time, as all are."""
        while client.protocol_version in MODERN_PROTOCOL_VERSIONS:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    self._doubt.set()  # what changed before it listened was not told
                    async for _ in changes:
                        self._doubt.set()
            except SubscriptionLost:
                self._doubt.set()
            except MCPError:
                return
            await asyncio.sleep(self._patience.check_s * random.uniform(0.5, 1))


def _now() -> float:
    return asyncio.get_running_loop().time()
