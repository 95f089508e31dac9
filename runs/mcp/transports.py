"""How a tool server is spoken to: the library's two transports, with what the settings say, and a word when the other side is gone."""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

import httpx2
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage

from runs.mcp.endpoints import Address, Program

_Incoming = ReadStream[SessionMessage | Exception]
_Outgoing = WriteStream[SessionMessage]

_TIMEOUTS = httpx2.Timeout(30.0, connect=10.0, read=None, pool=None)
"""Nothing here limits how long an answer takes: each call has its own limit, and one that ended here would end all others with it."""
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=10)


@asynccontextmanager
async def transport(reached: Program | Address, ended: Callable[[], None]) -> AsyncGenerator[tuple[_Incoming, _Outgoing]]:
    """`ended` is called when nothing can come any more: a server may be gone while nobody asks it anything."""
    async with AsyncExitStack() as stack:
        if isinstance(reached, Program):
            started = StdioServerParameters(command=reached.command, args=list(reached.args), env=dict(reached.env))
            streams = await stack.enter_async_context(stdio_client(started, errlog=sys.stderr))
        else:
            client = httpx2.AsyncClient(headers=dict(reached.headers), timeout=_TIMEOUTS, limits=_LIMITS)
            await stack.enter_async_context(client)
            streams = await stack.enter_async_context(streamable_http_client(reached.url, http_client=client))
        incoming, outgoing = streams
        yield _Heard(incoming, ended), outgoing


class _Heard:
    """The incoming stream; the library keeps its end to itself."""

    def __init__(self, incoming: _Incoming, ended: Callable[[], None]) -> None:
        self._incoming = incoming
        self._ended = ended

    async def receive(self) -> SessionMessage | Exception:
        return await self._incoming.receive()

    async def aclose(self) -> None:
        await self._incoming.aclose()

    def __aiter__(self) -> "_Heard":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self._incoming.__anext__()
        except StopAsyncIteration:
            self._ended()
            raise

    async def __aenter__(self) -> Self:
        await self._incoming.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool | None:
        return await self._incoming.__aexit__(exc_type, exc_val, exc_tb)
