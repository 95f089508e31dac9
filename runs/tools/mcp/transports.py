"""How a tool server is spoken to: the library's two transports, with what the settings say, and a word when the other side is gone."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import httpx2
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage

from runs.tools.mcp.endpoints import Address, Program

_Incoming = ReadStream[SessionMessage | Exception]
_Outgoing = WriteStream[SessionMessage]

_TIMEOUTS = httpx2.Timeout(30.0, connect=10.0, read=None, pool=None)
"""Nothing here limits how long an answer takes: each call has its own limit, and one that ended here would end all others with it."""
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=10, keepalive_expiry=4)
"""Less than the five seconds after which uvicorn and Node.js close: no call shall meet a connection that is just being closed."""


_LEAVE_S = {Program: 10.0, Address: 2.0}
"""A program is given time to end, is told to, and is killed, within seven seconds that nobody may cut short. A session may just be left."""


@asynccontextmanager
async def transport(reached: Program | Address, ended: Callable[[], None]) -> AsyncGenerator[tuple[_Incoming, _Outgoing]]:
    """`ended` is called when nothing can come any more: a server may be gone while nobody asks it anything.

    The library's part has a task of its own. Its way of stopping a program does not bear a second cancellation: it would wait for ever.
    """
    opened: asyncio.Future[tuple[_Incoming, _Outgoing]] = asyncio.get_running_loop().create_future()
    leaving = asyncio.Event()

    async def keep() -> None:
        async with _opened(reached) as streams:
            opened.set_result(streams)
            await leaving.wait()

    keeping = asyncio.create_task(keep(), name="mcp: transport")
    try:
        await asyncio.wait({keeping, opened}, return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            incoming, outgoing = opened.result()
            yield _Heard(incoming, ended), outgoing
    finally:
        leaving.set()
        await _left(keeping, _LEAVE_S[type(reached)])


@asynccontextmanager
async def _opened(reached: Program | Address) -> AsyncGenerator[tuple[_Incoming, _Outgoing]]:
    if isinstance(reached, Program):
        started = StdioServerParameters(command=reached.command, args=list(reached.args), env=dict(reached.env))
        async with stdio_client(started, errlog=sys.stderr) as streams:
            yield streams
    else:
        async with (
            httpx2.AsyncClient(headers=dict(reached.headers), timeout=_TIMEOUTS, limits=_LIMITS) as client,
            streamable_http_client(reached.url, http_client=client) as streams,
        ):
            yield streams


async def _left(keeping: asyncio.Task[None], within_s: float) -> None:
    """A cancellation meanwhile is passed on when it is over. Raises what has ended it, if it did not end by itself."""
    cancelled: asyncio.CancelledError | None = None
    until = asyncio.get_running_loop().time() + within_s
    while not keeping.done():
        if (left_s := until - asyncio.get_running_loop().time()) <= 0:
            keeping.cancel()
            break
        try:
            await asyncio.wait({keeping}, timeout=left_s)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    if keeping.done():
        keeping.result()


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
        except BaseException:
            self._ended()
            raise

    async def __aenter__(self) -> Self:
        await self._incoming.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool | None:
        return await self._incoming.__aexit__(exc_type, exc_val, exc_tb)
